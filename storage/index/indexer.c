#include "storage/index/indexer.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "storage/base/clock.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/index/index_file.h"
#include "storage/index/index_work.h"
#include "storage/index/team.h"

enum {
    HOT_MAX = 64, /* databases that are known to have work; if they are more: look at all */
    BUILD_PENDING_MAX = 4096, /* a build begins: more rows are linked first */
};
#define TURN_NS      (SECOND_NS / 100)
#define REST_NS      (SECOND_NS / 500) /* between two wakings: rows come in batches then */
#define BUILD_IN_WAY (SECOND_NS / 4)   /* another graph is being built: look again later */

/* A large graph of a database that was opened may be out of the cache again soon: it is brought to
 * memory if it is searched, or written to, or stays. */
enum { LOAD_SMALL_BYTES = 8 << 20, LOAD_SEARCHES = 100 };
#define LOAD_AFTER_NS (5 * SECOND_NS)
#define LOAD_LOOK_NS  (SECOND_NS / 4)

struct hot {
    char names[HOT_MAX][NAME_BYTES_MAX + 1];
    int count;
    bool all;
};

struct indexer {
    struct file_cache *cache;
    struct team *team;
    pthread_t thread;
    _Atomic bool stopped;

    struct mutex mu;              /* LOCK_LEAF; guards the rest but for the leader's own */
    pthread_cond_t wake, settled; /* on the monotonic clock; some database is settled    */
    struct hot hot;

    /* The leader's. */
    struct database *building; /* pinned; NULL: none */
    uint64_t look_ns;          /* when some database is due again */
};

/* ---- waking ---- */

static void add_hot(struct hot *hot, const char *name)
{
    for (int i = 0; i < hot->count; i++)
        if (strcmp(hot->names[i], name) == 0) return;
    if (hot->count < HOT_MAX)
        snprintf(hot->names[hot->count++], sizeof hot->names[0], "%s", name);
    else
        hot->all = true;
}

static void wake(void *ctx, const char *name)
{
    struct indexer *x = ctx;
    mutex_lock(&x->mu);
    bool was_idle = x->hot.count == 0 && !x->hot.all;
    add_hot(&x->hot, name);
    if (was_idle) pthread_cond_signal(&x->wake);
    mutex_unlock(&x->mu);
}

/* Take what is hot; wait for it unless there is more to do anyway.  False: stopped. */
static bool next_round(struct indexer *x, bool more, struct hot *round)
{
    mutex_lock(&x->mu);
    while (!more && x->hot.count == 0 && !x->hot.all && !atomic_load(&x->stopped) &&
           clock_ns() < x->look_ns) {
        struct timespec until = {.tv_sec = (time_t)(x->look_ns / SECOND_NS),
                                 .tv_nsec = (long)(x->look_ns % SECOND_NS)};
        if (x->look_ns == UINT64_MAX)
            mutex_wait(&x->wake, &x->mu);
        else
            pthread_cond_timedwait(&x->wake, &x->mu.os, &until);
    }
    *round = x->hot;
    x->hot = (struct hot){0};
    mutex_unlock(&x->mu);
    if (clock_ns() >= x->look_ns) round->all = true;
    return !atomic_load(&x->stopped);
}

/* ---- one turn ---- */

static void note_changes(struct vector_index *ix)
{
    uint64_t changes = atomic_load_explicit(&ix->tail, memory_order_relaxed) +
                       atomic_load_explicit(&ix->ended, memory_order_relaxed);
    if (changes != ix->seen_changes) ix->changed_ns = clock_ns();
    ix->seen_changes = changes;
}

/* The log was replayed before anybody could ask for work. */
static void note_opened(struct index_work *w)
{
    if (!w->ix->adopted.replaying) return;
    mutex_lock(&w->db->writer);
    w->ix->adopted.replaying = false;
    mutex_unlock(&w->db->writer);
}

static bool go_on(void *ctx)
{
    return !work_is_cancelled(ctx);
}

static bool may_load(const struct vector_index *ix, uint64_t now)
{
    return graph_memory(atomic_load(&ix->graph)) <= LOAD_SMALL_BYTES || atomic_load(&ix->hurry) ||
           !link_is_done(ix) || now >= ix->adopted.at_ns + LOAD_AFTER_NS ||
           atomic_load_explicit(&ix->searched, memory_order_relaxed) >= LOAD_SEARCHES;
}

/* A graph that was opened lies in the file as it was found: before anything is done to it, it is
 * checked and brought to memory.  False: not before *due. */
static bool have_in_memory(struct index_work *w, uint64_t *due)
{
    struct err err;
    struct vector_index *ix = w->ix;
    if (!index_file_is_mapped(ix)) return true;
    uint64_t now = clock_ns();
    *due = now + LOAD_LOOK_NS;
    if (!may_load(ix, now)) return false;
    enum err_code rc = index_file_load(w->db, go_on, w, &err);
    if (rc == ERR_OK) return true;
    if (rc != ERR_SHUTTING_DOWN)
        log_warning("database \"%s\": its search index: %s", w->db->name, err.msg);
    *due = ix->not_before_ns = clock_ns() + SECOND_NS;
    return false;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What waits until all is linked. */
static uint64_t tend(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    uint64_t now = clock_ns(), due = UINT64_MAX;
    if (ix->sweep) {
        due = sweep_go_on(w);
    } else {
        due = sweep_due(w);
        if (due <= now) {
            sweep_start(w);
            return 0;
        }
    }
    if (due == 0 || !link_is_done(ix)) return due;
    if (ix->audit) return audit_go_on(w);
    uint64_t audit_at = audit_due(w);
    if (audit_at <= now) {
        audit_start(w);
        return 0;
    }
    due = earlier(due, audit_at);
    if (ix->measurement) return measurement_go_on(w);
    uint64_t measure_at = measurement_due(w);
    if (measure_at <= now) {
        measurement_start(w);
        return 0;
    }
    return earlier(due, measure_at);
}

/* Writers may always have more to be linked: what else is under way takes turns with it.  Of four
 * turns a build has three: rows come in as fast as they are linked, and each of its passes has to
 * be clearly shorter than the last, or it would never end.  No slot is used again before that. */
static bool links_now(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    bool has_rival = ix->build || ix->sweep || sweep_due(w) <= clock_ns();
    return !has_rival || ++ix->turns % (ix->build ? 4 : 2) == 0;
}

static uint64_t work(struct index_work *w, bool may_build)
{
    struct vector_index *ix = w->ix;
    uint64_t due = UINT64_MAX;
    note_changes(ix);
    note_opened(w);
    if (atomic_load_explicit(&ix->lost, memory_order_acquire)) index_reset(w);
    if (ix->not_before_ns > clock_ns()) return ix->not_before_ns;
    if (!have_in_memory(w, &due)) return due;
    if (work_graph(w) && !build_is_closing(ix->build))
        due = links_now(w) ? link_pending(w) : link_is_done(ix) ? UINT64_MAX : 0;
    if (work_is_cancelled(w)) return UINT64_MAX;
    if (work_is_over(w)) return 0;
    if (ix->build) return build_go_on(w);
    if (build_is_due(w)) {
        if (!ix->sweep && may_build && vector_index_pending(ix) <= BUILD_PENDING_MAX) {
            build_start(w);
            return 0;
        }
        due = earlier(due, clock_ns() + BUILD_IN_WAY);
    }
    return work_graph(w) ? earlier(due, tend(w)) : due;
}

/* ---- databases ---- */

/* The store of a database, with its index locked; NULL: somebody else owns it now. */
static struct store *lock_store(struct database *db)
{
    epoch_enter();
    struct store *store = atomic_load_explicit(&db->store, memory_order_acquire);
    bool locked = mutex_trylock(&store->vectors->mu);
    /* Whoever replaces the store has the lock: now nobody does. */
    if (locked && store != atomic_load_explicit(&db->store, memory_order_acquire)) {
        mutex_unlock(&store->vectors->mu);
        locked = false;
    }
    epoch_leave();
    return locked ? store : NULL;
}

static void tell_settled(struct indexer *x, struct vector_index *ix)
{
    mutex_lock(&x->mu);
    atomic_store(&ix->settled, true);
    pthread_cond_broadcast(&x->settled);
    mutex_unlock(&x->mu);
}

/* A turn for a pinned database.  Returns when the next one is due. */
static uint64_t turn(struct indexer *x, struct database *db)
{
    struct err err;
    if (atomic_load(&db->failed) != ERR_OK || atomic_load(&db->dropping)) return UINT64_MAX;
    struct store *store = lock_store(db);
    if (!store) return clock_ns() + REST_NS;
    struct index_work w = {.db = db,
                           .store = store,
                           .ix = store->vectors,
                           .team = x->team,
                           .stop = &x->stopped,
                           .deadline_ns = clock_ns() + TURN_NS};
    uint64_t due = work(&w, !x->building || x->building == db);
    /* What was read of a file that cannot be read were zeros. */
    (void)!database_check_read(db, &store->file, ERR_OK, &err);
    bool building = w.ix->build != NULL;
    if (due == UINT64_MAX && atomic_load(&w.ix->hurry)) tell_settled(x, w.ix);
    mutex_unlock(&store->vectors->mu);
    if (building && !x->building && due == 0) {
        file_cache_retain(db);
        x->building = db;
    } else if (x->building == db && (!building || due == UINT64_MAX)) {
        x->building = NULL;
        file_cache_release(db);
    }
    return due;
}

/* A turn; notes when the next one is due, and lets go of the database. */
static void take_turn(struct indexer *x, struct database *db, const char *name, struct hot *more)
{
    uint64_t due = turn(x, db);
    file_cache_release(db);
    if (due == 0)
        add_hot(more, name);
    else
        x->look_ns = earlier(x->look_ns, due);
}

static void turn_by_name(struct indexer *x, const char *name, struct hot *more)
{
    struct cache_entry entry;
    struct database *db;
    if (file_cache_peek(x->cache, name, &entry, &db) && db) take_turn(x, db, name, more);
}

static void look_at_all(struct indexer *x, struct hot *more)
{
    char name[NAME_BYTES_MAX + 1] = "";
    struct database *db;
    x->look_ns = UINT64_MAX;
    while (!atomic_load(&x->stopped) && file_cache_next_open(x->cache, name, &db)) {
        snprintf(name, sizeof name, "%s", database_name(db));
        take_turn(x, db, name, more);
    }
}

/* Whoever drops it waits for the pin. */
static void let_go_of_lost(struct indexer *x)
{
    struct database *db = x->building;
    if (!db || (!atomic_load(&db->dropping) && !atomic_load(&db->failed))) return;
    file_cache_release(db);
    x->building = NULL;
}

static void *run(void *arg)
{
    struct indexer *x = arg;
    struct hot round, *more = mem_new(struct hot);
    team_give_way();
    while (next_round(x, more->count || more->all, &round)) {
        for (int i = 0; i < more->count; i++)
            add_hot(&round, more->names[i]);
        round.all = round.all || more->all;
        *more = (struct hot){0};
        let_go_of_lost(x);
        if (round.all) look_at_all(x, more);
        for (int i = 0; i < round.count && !round.all && !atomic_load(&x->stopped); i++)
            turn_by_name(x, round.names[i], more);
        if (more->count == 0 && !more->all) nanosleep(&(struct timespec){.tv_nsec = REST_NS}, NULL);
    }
    if (x->building) file_cache_release(x->building);
    x->building = NULL;
    mem_free(more);
    return NULL;
}

/* ---- life ---- */

struct indexer *indexer_start(struct file_cache *cache, uint32_t threads)
{
    struct indexer *x = mem_new(struct indexer);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    x->cache = cache;
    x->team = team_new(threads ? (int)threads : (int)processors);
    x->look_ns = 0;
    mutex_init(&x->mu, LOCK_LEAF);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&x->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&x->settled, NULL);
    int failed = pthread_create(&x->thread, NULL, run, x);
    assert(!failed);
    (void)failed;
    file_cache_on_index_work(cache, wake, x);
    return x;
}

void indexer_interrupt(struct indexer *x)
{
    if (!x) return;
    mutex_lock(&x->mu);
    atomic_store(&x->stopped, true);
    pthread_cond_signal(&x->wake);
    pthread_cond_broadcast(&x->settled);
    mutex_unlock(&x->mu);
}

void indexer_stop(struct indexer *x)
{
    if (!x) return;
    file_cache_on_index_work(x->cache, NULL, NULL);
    indexer_interrupt(x);
    pthread_join(x->thread, NULL);
    team_free(x->team);
    pthread_cond_destroy(&x->wake);
    pthread_cond_destroy(&x->settled);
    mutex_deinit(&x->mu);
    mem_free(x);
}

static void set_hurry(struct database *db, bool hurry)
{
    epoch_enter();
    struct vector_index *ix = atomic_load_explicit(&db->store, memory_order_acquire)->vectors;
    atomic_store(&ix->hurry, hurry);
    if (hurry) atomic_store(&ix->settled, false);
    epoch_leave();
}

static bool is_settled(struct database *db)
{
    epoch_enter();
    struct vector_index *ix = atomic_load_explicit(&db->store, memory_order_acquire)->vectors;
    bool settled = atomic_load(&ix->settled);
    epoch_leave();
    return settled;
}

void indexer_settle(struct indexer *x, struct database *db)
{
    set_hurry(db, true);
    wake(x, database_name(db));
    mutex_lock(&x->mu);
    while (!is_settled(db) && !atomic_load(&x->stopped))
        mutex_wait(&x->settled, &x->mu);
    mutex_unlock(&x->mu);
    set_hurry(db, false);
}
