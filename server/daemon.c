/* daemon.c - one more libuv loop, for everything that is not a request. */
#include "server/daemon.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "server/notify.h"
#include "server/tls.h"
#include "storage/base/clock.h"
#include "storage/base/log.h"

enum { SWEEP_MS = 250, BACK_OFF_MS = 100 };

struct daemon_loop {
    struct daemon *daemon;
    uv_loop_t uv;
    uv_signal_t terminate, interrupt, hangup;
    uv_poll_t poll;      /* the listening socket */
    uv_timer_t back_off; /* no descriptors: look again later instead of spinning */
    unsigned lacks;      /* times in a row */
    uv_timer_t sweeper;
    uv_timer_t watchdog;
    uv_async_t drained; /* from the last loop thread */
    bool stopping;
};

static const int daemon_signals[] = {SIGTERM, SIGINT, SIGHUP};
enum { DAEMON_SIGNALS = sizeof daemon_signals / sizeof *daemon_signals };

static void daemon_signal_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < DAEMON_SIGNALS; i++)
        sigaddset(set, daemon_signals[i]);
}

void daemon_block_signals(void)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an errno, like a full disk */
    daemon_signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* ---- the acceptor ---- */

static void daemon_on_connect(uv_poll_t *poll, int status, int events);

static void daemon_on_back_off(uv_timer_t *timer)
{
    struct daemon_loop *d = timer->data;
    if (!d->stopping) uv_poll_start(&d->poll, UV_READABLE, daemon_on_connect);
}

static void daemon_on_sweep(uv_timer_t *timer)
{
    struct daemon_loop *d = timer->data;
    if (!listener_sweep(d->daemon->listener)) uv_timer_stop(&d->sweeper);
}

static void daemon_on_connect(uv_poll_t *poll, int status, int events)
{
    struct daemon_loop *d = poll->data;

    (void)status;
    (void)events;
    bool room = listener_accept(d->daemon->listener);
    if (listener_sweep(d->daemon->listener) && !uv_is_active((uv_handle_t *)&d->sweeper))
        uv_timer_start(&d->sweeper, daemon_on_sweep, SWEEP_MS, SWEEP_MS);
    if (room) {
        if (d->lacks > 0) log_info("there are descriptors for new connections again");
        d->lacks = 0;
        return;
    }
    if (d->lacks++ == 0) log_warning("no descriptors left for new connections");
    uv_poll_stop(&d->poll);
    uv_timer_start(&d->back_off, daemon_on_back_off, BACK_OFF_MS, 0);
}

/* ---- signals ---- */

static void daemon_on_drained(uv_async_t *async)
{
    uv_stop(async->loop);
}

/* On a loop thread. */
static void daemon_drained(void *ctx)
{
    struct daemon_loop *d = ctx;
    uv_async_send(&d->drained);
}

static void daemon_exit_now(int signum)
{
    _exit(128 + signum);
}

static void daemon_on_stop(uv_signal_t *handle, int signum)
{
    struct daemon_loop *d = handle->data;

    if (d->stopping) daemon_exit_now(signum);
    d->stopping = true;
    log_info("Graceful shutdown initiated...");
    notify_send("STOPPING=1");
    atomic_store(&d->daemon->app->ready, 0);
    atomic_store(&d->daemon->app->draining, 1);
    uv_poll_stop(&d->poll);
    uv_timer_stop(&d->back_off);
    listener_shut(d->daemon->listener);
    service_interrupt(d->daemon->app->service);
    http_drain(d->daemon->http, daemon_drained, d);
}

static void daemon_on_hangup(uv_signal_t *handle, int signum)
{
    struct daemon_loop *d = handle->data;
    char text[64];
    struct err err;

    (void)signum;
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)(clock_ns() / 1000));
    notify_send(text);
    if (log_reopen(&err)) log_error("the log file stays as it is: %s", err.msg);
    if (api_app_reload(d->daemon->app, &err))
        log_error("the API keys stay as they are: %s", err.msg);
    if (d->daemon->tls && tls_reload(d->daemon->tls, &err))
        log_error("the TLS certificate stays as it is: %s", err.msg);
    log_info("Configuration reloaded");
    notify_send("READY=1");
}

/* ---- the watchdog ---- */

static void daemon_on_watchdog(uv_timer_t *timer)
{
    struct daemon_loop *d = timer->data;

    if (http_ping(d->daemon->http))
        notify_send("WATCHDOG=1");
    else
        log_warning("a loop thread has not answered for half the watchdog interval");
}

/* ---- the loop ---- */

static int daemon_init_handles(struct daemon_loop *d)
{
    int fd = listener_fd(d->daemon->listener);
    int rc = uv_poll_init(&d->uv, &d->poll, fd);

    if (!rc) rc = uv_signal_init(&d->uv, &d->terminate);
    if (!rc) rc = uv_signal_init(&d->uv, &d->interrupt);
    if (!rc) rc = uv_signal_init(&d->uv, &d->hangup);
    if (!rc) rc = uv_timer_init(&d->uv, &d->back_off);
    if (!rc) rc = uv_timer_init(&d->uv, &d->sweeper);
    if (!rc) rc = uv_timer_init(&d->uv, &d->watchdog);
    if (!rc) rc = uv_async_init(&d->uv, &d->drained, daemon_on_drained);
    if (rc) return rc;
    d->poll.data = d->back_off.data = d->sweeper.data = d->watchdog.data = d;
    d->terminate.data = d->interrupt.data = d->hangup.data = d;
    rc = uv_signal_start(&d->terminate, daemon_on_stop, SIGTERM);
    if (!rc) rc = uv_signal_start(&d->interrupt, daemon_on_stop, SIGINT);
    if (!rc) rc = uv_signal_start(&d->hangup, daemon_on_hangup, SIGHUP);
    if (!rc) rc = uv_poll_start(&d->poll, UV_READABLE, daemon_on_connect);
    return rc;
}

static void daemon_close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

enum err_code daemon_run(struct daemon *daemon, struct err *err)
{
    struct daemon_loop d = {.daemon = daemon};
    uint64_t watchdog_ms = notify_watchdog_us() / 2000;
    sigset_t set;
    int rc;

    rc = uv_loop_init(&d.uv);
    if (rc) return err_os(err, -rc, "cannot make the main loop");
    rc = daemon_init_handles(&d);
    if (!rc) {
        if (watchdog_ms > 0) {
            (void)http_ping(daemon->http);
            uv_timer_start(&d.watchdog, daemon_on_watchdog, watchdog_ms, watchdog_ms);
        }
        daemon_signal_set(&set);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        notify_send("READY=1");
        uv_run(&d.uv, UV_RUN_DEFAULT);
        /* From here on the main thread does not come back to a loop: a second signal is for the
         * handler itself, and SIGHUP for nobody. */
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    }
    uv_walk(&d.uv, daemon_close_handle, NULL);
    uv_run(&d.uv, UV_RUN_DEFAULT);
    uv_loop_close(&d.uv);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, daemon_exit_now);
    signal(SIGINT, daemon_exit_now);
    daemon_signal_set(&set);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return rc ? err_os(err, -rc, "cannot start the main loop") : ERR_OK;
}
