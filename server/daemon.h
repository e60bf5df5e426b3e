/*
 * daemon.h - the main thread: signals, the acceptor, the service manager's watchdog.
 *
 * SIGTERM and SIGINT end daemon_run() once every request under way is answered; a second one ends
 * the process at once.  SIGHUP reopens the log and reads the keys again.  SIGPIPE is ignored.
 */
#ifndef SERVER_DAEMON_H
#define SERVER_DAEMON_H

#include "api/api.h"
#include "server/http.h"
#include "server/listener.h"
#include "storage/base/err.h"

struct daemon {
    struct http *http;
    struct listener *listener;
    struct api_app *app;
    struct tls *tls; /* NULL: none */
};

/* First of all, before any thread is started: threads inherit a mask without these signals, so
 * that they arrive at the main thread, in daemon_run(). */
void daemon_block_signals(void);

/* Serve until a signal says otherwise.  The loops are drained when it returns, and the socket is
 * closed. */
MUST_CHECK enum err_code daemon_run(struct daemon *daemon, struct err *err);

#endif
