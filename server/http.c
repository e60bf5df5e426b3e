/* http.c - all loops: start, deal connections to them, ask whether they live, end. */
#include "server/http.h"

#include <assert.h>
#include <sched.h>

#include "server/http_private.h"
#include "storage/base/mem.h"

static size_t http_core_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return (size_t)CPU_COUNT(&set);
}

static void http_wake(struct http *http)
{
    for (size_t i = 0; i < http->loop_count; i++)
        if (http->loops[i].started) uv_async_send(&http->loops[i].async);
}

enum err_code http_start(const struct http_options *options, struct api_app *app,
                         struct workers *workers, struct http **out, struct err *err)
{
    struct http *http = mem_new(struct http);
    enum err_code rc = ERR_OK;

    http->options = *options;
    http->app = app;
    http->workers = workers;
    http->timeout_ns = options->request_timeout_seconds * 1000 * MS;
    http->loop_count = options->threads ? options->threads : http_core_count();
    http->loops = mem_zalloc(http->loop_count * sizeof *http->loops);
    for (size_t i = 0; i < http->loop_count && !rc; i++)
        rc = loop_init(&http->loops[i], http, err);
    if (rc) goto out;
    for (size_t i = 0; i < http->loop_count; i++) {
        struct http_loop *l = &http->loops[i];
        int failed = uv_thread_create(&l->thread, loop_main, l);
        if (failed) {
            rc = err_os(err, -failed, "cannot start a loop thread");
            goto out;
        }
        l->started = true;
        atomic_fetch_add(&http->loops_running, 1);
    }
    *out = http;
    http = NULL;
out:
    if (http) {
        http_stop(http);
        http_free(http);
    }
    return rc;
}

void http_take(struct http *http, int fd, const struct sockaddr_storage *peer, socklen_t peer_bytes)
{
    struct http_loop *best = NULL;
    size_t least = SIZE_MAX;

    /* The least loaded; among equals each in its turn. */
    http->turn++;
    for (size_t i = 0; i < http->loop_count; i++) {
        struct http_loop *l = &http->loops[(http->turn + i) % http->loop_count];
        size_t count = atomic_load_explicit(&l->connection_count, memory_order_relaxed);
        if (count >= least) continue;
        least = count;
        best = l;
    }
    struct connection *c = mem_new(struct connection);
    c->loop = best;
    c->fd = fd;
    c->peer = *peer;
    c->peer_bytes = peer_bytes;
    atomic_fetch_add_explicit(&best->connection_count, 1, memory_order_relaxed);
    loop_push_arrived(best, c);
}

size_t http_connection_count(const struct http *http)
{
    size_t count = 0;

    for (size_t i = 0; i < http->loop_count; i++)
        count += atomic_load_explicit(&http->loops[i].connection_count, memory_order_relaxed);
    return count;
}

bool http_ping(struct http *http)
{
    uint64_t ping = atomic_load(&http->ping);
    bool answered = true;

    for (size_t i = 0; i < http->loop_count; i++) {
        uint64_t pong = atomic_load(&http->loops[i].pong);
        if (pong != ping && pong != LOOP_GONE) answered = false;
    }
    /* A loop that is late keeps its old question: asking again would hide that it is late. */
    if (answered) atomic_store(&http->ping, ping + 1);
    http_wake(http);
    return answered;
}

void http_drain(struct http *http, void (*drained)(void *ctx), void *ctx)
{
    http->drained = drained;
    http->drained_ctx = ctx;
    atomic_store(&http->drain, true);
    http_wake(http);
}

static void http_ignore(void *ctx)
{
    (void)ctx;
}

void http_stop(struct http *http)
{
    if (!atomic_load(&http->drain)) http_drain(http, http_ignore, NULL);
    for (size_t i = 0; i < http->loop_count; i++) {
        struct http_loop *l = &http->loops[i];
        if (l->started) uv_thread_join(&l->thread);
        l->started = false;
    }
}

void http_free(struct http *http)
{
    if (!http) return;
    for (size_t i = 0; i < http->loop_count; i++)
        loop_deinit(&http->loops[i]);
    /* Else they would run out in the end. */
    assert(atomic_load(&http->bodies_bytes) == 0 && atomic_load(&http->decoders_bytes) == 0);
    mem_free(http->loops);
    mem_free(http);
}
