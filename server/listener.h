/*
 * listener.h - the listening socket, and who may have how many connections.
 *
 * listener_open(), _accept(), _shut(), _sweep(), _close(): the main thread.  listener_admit() and
 * listener_forget(): any thread.
 */
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "storage/base/err.h"

struct listener_options {
    const char *host; /* an IPv4 or IPv6 address, or "localhost"; borrowed during the call */
    uint16_t port;    /* 0: any free one */
    /* A socket that listens already, instead of host and port; 0: none.  Owned by the listener,
     * from the call of listener_open() on. */
    int passed_fd;
    bool tls; /* a refused client is not told why, and the URL says https */
    size_t connection_count_max;
    size_t connection_per_ip_count_max; /* IPv6: per /64.  Loopback is exempt. */
    /* Takes ownership of fd, which is non-blocking.  listener_forget() is due when it is closed. */
    void (*take)(void *ctx, int fd, const struct sockaddr_storage *peer, socklen_t peer_bytes);
    void *ctx;
};

struct listener;

/* Bind and listen.  ERR_INVALID_REQUEST: `host` is not an address.  ERR_IO: bind or listen failed.
 */
MUST_CHECK enum err_code listener_open(const struct listener_options *options,
                                       struct listener **out, struct err *err);
int listener_fd(const struct listener *listener);          /* to be polled for reading */
const char *listener_url(const struct listener *listener); /* "http://127.0.0.1:8080" */
/* Can it be reached from this machine alone? */
bool listener_is_loopback(const struct listener *listener);

/* Accept what waits, a batch at most; past a cap a client gets 503 and is closed.  False: out of
 * descriptors or memory, try again in a while. */
bool listener_accept(struct listener *listener);
/* Let nobody in any more.  Whoever waits is accepted first, unless the socket was passed in: then
 * he stays in its queue for the process that gets it next. */
void listener_shut(struct listener *listener);

/* Close refused clients that have had time to read why.  True: some are left, come back in a
 * quarter of a second. */
bool listener_sweep(struct listener *listener);

/* May this client have one more connection?  True counts it; for listener_accept() and tests. */
bool listener_admit(struct listener *listener, const struct sockaddr_storage *peer);
/* A connection that take() was given is closed. */
void listener_forget(struct listener *listener, const struct sockaddr_storage *peer);

/* Every connection must have been forgotten.  NULL is fine. */
void listener_close(struct listener *listener);

#endif
