#include "storage/compactor.h"

#include <stdio.h>

#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/ticker.h"
#include "storage/compact.h"

#define SECOND_NS       1000000000ull
#define LOOK_NS         SECOND_NS
#define SETTLED_NS      (5 * SECOND_NS)  /* over the threshold for so long                */
#define AFTER_ERROR_NS  (60 * SECOND_NS) /* a full disk does not get better by itself     */
#define WASTE_BYTES_MIN (1u << 20)       /* less is not worth a rename                    */
enum { REST_TIMES = 20, LOOKS_TO_CLOSED = 60 };

struct compactor {
    struct file_cache *cache;
    uint32_t percent;
    struct ticker ticker;
    pthread_t thread;
};

static bool is_wasteful(const struct compactor *c, uint64_t waste, uint64_t bytes)
{
    return waste >= WASTE_BYTES_MIN && waste * 100 >= bytes * c->percent;
}

/* The times are this thread's alone. */
static bool is_due(const struct compactor *c, struct database *db, uint64_t now)
{
    struct err err;
    if (!is_wasteful(c, compact_waste(db), atomic_load(&db->file_bytes))) {
        db->compactor.wasteful_since_ns = 0;
        return false;
    }
    if (!db->compactor.wasteful_since_ns) db->compactor.wasteful_since_ns = now;
    return now - db->compactor.wasteful_since_ns >= SETTLED_NS &&
           now >= db->compactor.not_before_ns && database_check_writable(db, &err) == ERR_OK;
}

static void compact(struct compactor *c, struct database *db)
{
    struct compact_result result;
    struct err err;
    uint64_t begun = clock_ns();
    struct compact_options options = {.cancel = &c->ticker.stopped, .gently = true};
    enum err_code rc = compact_run(db, &options, &result, &err);
    uint64_t took = clock_ns() - begun;
    db->compactor.wasteful_since_ns = 0;
    db->compactor.not_before_ns = clock_ns() + (rc ? AFTER_ERROR_NS : REST_TIMES * took);
    if (rc && rc != ERR_SHUTTING_DOWN && rc != ERR_DATABASE_NOT_FOUND)
        log_warning("compaction of \"%s\": %s", database_name(db), err.msg);
}

static void look_at_open(struct compactor *c)
{
    char name[NAME_BYTES_MAX + 1] = "";
    struct database *db;
    while (!ticker_is_stopped(&c->ticker) && file_cache_next_open(c->cache, name, &db)) {
        snprintf(name, sizeof name, "%s", database_name(db));
        if (is_due(c, db, clock_ns())) compact(c, db);
        file_cache_release(db);
    }
}

/* Those that were closed before they were due; what is known of them does without a file. */
static void look_at_closed(struct compactor *c)
{
    struct cache_entry e = {.name = ""};
    while (!ticker_is_stopped(&c->ticker) && file_cache_next_entry(c->cache, e.name, false, &e)) {
        uint64_t waste = compact_waste_of_rows(&e.schema, e.dead_count);
        struct database *db;
        struct err err;
        if (!e.counts_known || !is_wasteful(c, waste, e.file_bytes) ||
            file_cache_acquire(c->cache, e.name, true, &db, &err))
            continue;
        if (is_wasteful(c, compact_waste(db), atomic_load(&db->file_bytes)) &&
            clock_ns() >= db->compactor.not_before_ns && !database_check_writable(db, &err))
            compact(c, db);
        file_cache_release(db);
    }
}

static void *run(void *arg)
{
    struct compactor *c = arg;
    unsigned looks = 0;
    while (ticker_sleep_until(&c->ticker, clock_ns() + LOOK_NS)) {
        look_at_open(c);
        if (++looks % LOOKS_TO_CLOSED == 0) look_at_closed(c);
    }
    return NULL;
}

struct compactor *compactor_start(struct file_cache *cache, uint32_t percent)
{
    if (percent == 0) return NULL;
    struct compactor *c = mem_new(struct compactor);
    c->cache = cache;
    c->percent = percent;
    ticker_init(&c->ticker);
    int failed = pthread_create(&c->thread, NULL, run, c);
    assert(!failed);
    (void)failed;
    return c;
}

void compactor_interrupt(struct compactor *c)
{
    if (c) ticker_stop(&c->ticker);
}

void compactor_stop(struct compactor *c)
{
    if (!c) return;
    compactor_interrupt(c);
    pthread_join(c->thread, NULL);
    ticker_deinit(&c->ticker);
    mem_free(c);
}
