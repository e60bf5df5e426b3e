/*
 * http.h - libmicrohttpd on one side, api/api.h on the other.
 *
 * http_start() starts `threads` loops, each a libuv loop that drives a libmicrohttpd daemon of its
 * own.  Connections come from outside (http_take()) and stay on the loop they were dealt to.  The
 * API runs in the loop as long as it need not wait, else on the workers while the connection is
 * suspended.
 *
 * The way down: http_drain(), wait for its callback, http_stop(), workers_stop(), service_close()
 * and only then http_free(): workers and syncer threads may still be about to wake a loop.
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "api/api.h"
#include "server/workers.h"
#include "storage/base/err.h"

struct http_options {
    size_t threads;                   /* 0: the number of cores                              */
    uint64_t body_bytes_max;          /* of a buffered body                                  */
    uint32_t connection_count_max;    /* per loop; the listener keeps the real count         */
    uint32_t request_timeout_seconds; /* for a request to arrive; also idle time             */
    uint32_t drain_ms;                /* for requests under way when the end comes           */
    bool tls;                         /* with the certificate of server/tls.h                */
    /* A connection is closed.  On a loop thread; takes no lock but leaves. */
    void (*forget)(void *ctx, const struct sockaddr_storage *peer);
    void *ctx;
};

struct http;

/* `app` and `workers` must outlive http_stop(). */
MUST_CHECK enum err_code http_start(const struct http_options *options, struct api_app *app,
                                    struct workers *workers, struct http **out, struct err *err);

/* Deal a connection to the least loaded loop.  Takes ownership of fd.  One thread at a time, not
 * after http_drain(). */
void http_take(struct http *http, int fd, const struct sockaddr_storage *peer,
               socklen_t peer_bytes);

/* Any thread. */
size_t http_connection_count(const struct http *http);

/* True if every loop has answered the previous call since; asks them again.  One thread at a
 * time. */
bool http_ping(struct http *http);

/* Finish the requests under way (app->draining is set), then close every connection.
 * drained(ctx) is called once, on a loop thread, when all is done. */
void http_drain(struct http *http, void (*drained)(void *ctx), void *ctx);

/* Join the loops; drains first, and waits, if nobody has. */
void http_stop(struct http *http);
void http_free(struct http *http); /* NULL is fine */

#endif
