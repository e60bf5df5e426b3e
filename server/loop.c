/* loop.c - a libuv loop that drives a libmicrohttpd daemon of its own; its connections. */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/http_private.h"
#include "server/tls.h"
#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"

enum {
    /* libmicrohttpd clears this much after every request: beyond 32 KiB it shows. */
    CONNECTION_BYTES = 32 * 1024,
    RUNS_MAX = 64, /* of libmicrohttpd before other handles get their turn */
    SWEEP_MS = 500,
    DRAIN_SWEEP_MS = 10,
    DRAIN_GRACE_MS = 100, /* for requests that are on their way when the end comes */
    DRAIN_FLUSH_MS = 300, /* past the deadline, for answers to leave */
};

static void loop_drive(struct http_loop *l);
static void loop_on_sweep(uv_timer_t *timer);

/* ---- from other threads to a loop ---- */

void loop_push_done(struct exchange *x)
{
    struct http_loop *l = x->loop;
    struct exchange *old = atomic_load_explicit(&l->done, memory_order_relaxed);

    do
        x->next_done = old;
    while (!atomic_compare_exchange_weak_explicit(&l->done, &old, x, memory_order_release,
                                                  memory_order_relaxed));
    /* x is the loop's from here on.  With something on the stack a wake-up is already due. */
    if (!old) uv_async_send(&l->async);
}

void loop_push_arrived(struct http_loop *l, struct connection *c)
{
    struct connection *old = atomic_load_explicit(&l->arrived, memory_order_relaxed);

    do
        c->next = old;
    while (!atomic_compare_exchange_weak_explicit(&l->arrived, &old, c, memory_order_release,
                                                  memory_order_relaxed));
    if (!old) uv_async_send(&l->async);
}

/* ---- connections ---- */

static void connection_free(struct connection *c)
{
    struct http_loop *l = c->loop;

    l->http->options.forget(l->http->options.ctx, &c->peer);
    atomic_fetch_sub_explicit(&l->connection_count, 1, memory_order_relaxed);
    mem_free(c);
}

static void connection_describe(struct connection *c)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&c->peer;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&c->peer;
    bool is_v4 = c->peer.ss_family == AF_INET;
    bool is_mapped = !is_v4 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);
    const void *address = is_v4       ? (const void *)&v4->sin_addr
                          : is_mapped ? (const void *)&v6->sin6_addr.s6_addr[12]
                                      : (const void *)&v6->sin6_addr;

    inet_ntop(is_v4 || is_mapped ? AF_INET : AF_INET6, address, c->peer_text, sizeof c->peer_text);
}

static void mhd_connection(void *cls, struct MHD_Connection *mhd, void **context,
                           enum MHD_ConnectionNotificationCode what)
{
    struct http_loop *l = cls;
    struct connection *c;

    (void)mhd;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        c = l->adding;
        l->adding = NULL;
        assert(c);
        c->prev = NULL;
        c->next = l->connections;
        if (c->next) c->next->prev = c;
        l->connections = c;
        c->deadline_ns = clock_ns() + 2 * l->http->timeout_ns;
        *context = c;
        return;
    }
    c = *context;
    if (!c) return;
    *context = NULL;
    if (c->prev)
        c->prev->next = c->next;
    else
        l->connections = c->next;
    if (c->next) c->next->prev = c->prev;
    connection_free(c);
}

static void mhd_log(void *cls, const char *fmt, va_list args)
{
    char line[512];

    (void)cls;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\r\n")] = '\0';
    log_debug("libmicrohttpd: %s", line);
}

/* ---- the loop ---- */

static void loop_on_timer(uv_timer_t *timer)
{
    struct http_loop *l = timer->data;

    l->timer_armed = false;
    loop_drive(l);
}

static void loop_on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    loop_drive(poll->data);
}

static void loop_drive(struct http_loop *l)
{
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    bool timed = true;

    if (l->stopped) return;
    for (int i = 0; i < RUNS_MAX && timed && wait_ms == 0; i++) {
        MHD_run(l->mhd);
        timed = MHD_get_timeout(l->mhd, &wait_ms) == MHD_YES;
    }
    if (!timed) return;
    /* Timeouts of connections only move away, so a timer that fires early just comes back here;
     * arming it anew for every request would cost more. */
    if (wait_ms > 0 && l->timer_armed) return;
    uv_timer_start(&l->timer, loop_on_timer, wait_ms, 0);
    l->timer_armed = true;
}

static void loop_add(struct http_loop *l, struct connection *c)
{
    if (!uv_is_active((uv_handle_t *)&l->sweeper))
        uv_timer_start(&l->sweeper, loop_on_sweep, SWEEP_MS, SWEEP_MS);
    connection_describe(c);
    l->adding = c;
    /* Closes the descriptor if it fails. */
    if (MHD_add_connection(l->mhd, c->fd, (struct sockaddr *)&c->peer, c->peer_bytes) != MHD_YES)
        log_warning("a connection could not be added: %s", strerror(errno));
    if (l->adding) {
        l->adding = NULL;
        connection_free(c);
    }
}

/* The client has gone, and everything it sent has been read.  libmicrohttpd misses that when the
 * last bytes and the end arrive together: its edge-triggered epoll has no further edge. */
static bool connection_has_ended(const struct connection *c)
{
    char byte;
    return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* A client may hold a connection for ever by sending a byte now and then: libmicrohttpd's timeout
 * is one of idle time.  These are the deadlines of whole requests. */
static void loop_reap(struct http_loop *l)
{
    uint64_t now = clock_ns();

    for (struct connection *c = l->connections; c; c = c->next) {
        if (c->deadline_ns == 0) continue; /* it waits for us */
        if (now < c->deadline_ns && !connection_has_ended(c)) continue;
        c->deadline_ns = 0;
        shutdown(c->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes it */
    }
}

static void loop_stop(struct http_loop *l)
{
    struct http *http = l->http;

    assert(l->suspended_count == 0);
    l->stopped = true;
    uv_poll_stop(&l->poll);
    uv_timer_stop(&l->timer);
    uv_timer_stop(&l->sweeper);
    MHD_stop_daemon(l->mhd);
    l->mhd = NULL;
    assert(!l->connections);
    uv_stop(&l->uv);
    atomic_store(&l->pong, LOOP_GONE);
    if (atomic_fetch_sub(&http->loops_running, 1) == 1) http->drained(http->drained_ctx);
}

/* May this loop stop?  It may once every answer has left; clients that have just been connected,
 * or that have a next request on its way, get DRAIN_GRACE_MS to be served. */
static void loop_drain(struct http_loop *l)
{
    struct http *http = l->http;
    uint64_t deadline = http->options.drain_ms * MS, flush = deadline + DRAIN_FLUSH_MS * MS;
    uint64_t elapsed = clock_ns() - l->drain_began_ns;

    if (elapsed >= deadline && !atomic_load(&http->out_of_time)) {
        atomic_store(&http->out_of_time, true);
        log_warning("requests are still under way after %" PRIu32 " ms", http->options.drain_ms);
    }
    loop_drive(l);
    if (l->suspended_count > 0) return;
    if (l->request_count > 0 && elapsed < flush) return;
    if (l->connections && elapsed < DRAIN_GRACE_MS * MS) return;
    loop_stop(l);
}

static void loop_on_sweep(uv_timer_t *timer)
{
    struct http_loop *l = timer->data;

    loop_reap(l);
    if (l->draining)
        loop_drain(l);
    else if (!l->connections)
        uv_timer_stop(&l->sweeper); /* an idle daemon sleeps */
}

static void loop_begin_drain(struct http_loop *l)
{
    l->draining = true;
    l->drain_began_ns = clock_ns();
    uv_timer_start(&l->sweeper, loop_on_sweep, 0, DRAIN_SWEEP_MS);
}

static void loop_on_async(uv_async_t *async)
{
    struct http_loop *l = async->data;
    /* Before `arrived` is emptied: nothing arrives after it is set. */
    bool drain = atomic_load(&l->http->drain);
    struct connection *c = atomic_exchange_explicit(&l->arrived, NULL, memory_order_acquire);
    struct exchange *x = atomic_exchange_explicit(&l->done, NULL, memory_order_acquire);

    atomic_store(&l->pong, atomic_load(&l->http->ping));
    while (x) {
        struct exchange *next = x->next_done;
        exchange_return(x);
        x = next;
    }
    while (c) {
        struct connection *next = c->next;
        loop_add(l, c);
        c = next;
    }
    if (drain && !l->draining) loop_begin_drain(l);
    loop_drive(l);
}

void loop_main(void *arg)
{
    struct http_loop *l = arg;

    loop_drive(l);
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

enum err_code loop_init(struct http_loop *l, struct http *http, struct err *err)
{
    const struct http_options *o = &http->options;
    unsigned flags =
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_NO_LISTEN_SOCKET;
    struct MHD_OptionItem items[16];
    size_t n = 0;
    int rc;

    l->http = http;
    rc = uv_loop_init(&l->uv);
    if (rc) return err_os(err, -rc, "cannot make an event loop");
    l->uv.data = l;
#define ITEM(...) items[n++] = (struct MHD_OptionItem){__VA_ARGS__}
    ITEM(MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)mhd_log, NULL);
    ITEM(MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)mhd_uri, l);
    ITEM(MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)mhd_unescape, NULL);
    ITEM(MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)mhd_completed, l);
    ITEM(MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)mhd_connection, l);
    ITEM(MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, NULL);
    ITEM(MHD_OPTION_CONNECTION_LIMIT, (intptr_t)o->connection_count_max + 64, NULL);
    ITEM(MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)o->request_timeout_seconds, NULL);
    ITEM(MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL);
    if (o->tls) {
        flags |= MHD_USE_TLS;
        ITEM(MHD_OPTION_HTTPS_CERT_CALLBACK, 0, tls_certificate());
        ITEM(MHD_OPTION_HTTPS_PRIORITIES, 0,
             (void *)(uintptr_t) "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2");
    }
    ITEM(MHD_OPTION_END, 0, NULL);
#undef ITEM
    assert(n <= sizeof items / sizeof *items);
    l->mhd = MHD_start_daemon(flags, 0, NULL, NULL, mhd_request, l, MHD_OPTION_ARRAY, items,
                              MHD_OPTION_END);
    if (!l->mhd) {
        uv_loop_close(&l->uv);
        l->uv.data = NULL;
        return err_set(err, ERR_INVALID_REQUEST, "libmicrohttpd does not start%s",
                       o->tls ? "; perhaps it was built without TLS" : "");
    }
    int fd = MHD_get_daemon_info(l->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    rc = uv_async_init(&l->uv, &l->async, loop_on_async);
    if (!rc) rc = uv_poll_init(&l->uv, &l->poll, fd);
    if (!rc) rc = uv_timer_init(&l->uv, &l->timer);
    if (!rc) rc = uv_timer_init(&l->uv, &l->sweeper);
    if (rc) return err_os(err, -rc, "cannot make an event loop");
    l->async.data = l->poll.data = l->timer.data = l->sweeper.data = l;
    uv_poll_start(&l->poll, UV_READABLE, loop_on_poll);
    return ERR_OK;
}

static void loop_close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void loop_deinit(struct http_loop *l)
{
    if (!l->uv.data) return;
    /* Connections that were dealt to a loop which had already stopped. */
    struct connection *c = atomic_exchange(&l->arrived, NULL);
    while (c) {
        struct connection *next = c->next;
        close(c->fd);
        connection_free(c);
        c = next;
    }
    uv_walk(&l->uv, loop_close_handle, NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    if (l->mhd) MHD_stop_daemon(l->mhd);
    uv_loop_close(&l->uv);
}
