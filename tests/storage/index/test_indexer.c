/* The indexer at work: what is acknowledged is found, what is dead goes, what is promised holds. */
#include "tests/storage/fixture.h"

#include <inttypes.h>
#include <pthread.h>

#include "storage/base/epoch.h"
#include "storage/database_private.h"
#include "storage/index/index_file.h"
#include "storage/index/index_work.h"

#if defined(__SANITIZE_THREAD__)
enum { SLOWER = 20 }; /* fewer rows with sanitizers */
#elif defined(__SANITIZE_ADDRESS__)
enum { SLOWER = 4 };
#else
enum { SLOWER = 1 };
#endif

static struct err err;

/* ---- rows ---- */

static float normal(uint64_t *seed)
{
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += test_random_float(seed);
    return sum / 2;
}

/* `clusters` centres, `spread` far from each other, and rows around them with deviation 1. */
struct rows {
    uint32_t dimension, count;
    float *numbers;
};

static const float *row_at(const struct rows *r, uint64_t i)
{
    return r->numbers + (size_t)i * r->dimension;
}

static struct rows make_rows(uint32_t dimension, uint32_t count, uint32_t clusters, float spread,
                             bool ordered, uint64_t seed)
{
    struct rows r = {dimension, count, malloc((size_t)count * dimension * sizeof(float))};
    float *centres = malloc((size_t)clusters * dimension * sizeof *centres);
    assert_true(r.numbers && centres);
    uint64_t fixed = 42;
    for (size_t i = 0; i < (size_t)clusters * dimension; i++)
        centres[i] = spread * normal(&fixed);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t c = ordered ? (uint32_t)((uint64_t)i * clusters / count)
                             : (uint32_t)(test_random(&seed) % clusters);
        for (uint32_t k = 0; k < dimension; k++)
            r.numbers[(size_t)i * dimension + k] =
                centres[(size_t)c * dimension + k] + normal(&seed);
    }
    free(centres);
    return r;
}

/* ---- a database ---- */

static struct service *svc;
static struct database *db;

static void open_with(const struct index_options *options, uint32_t dimension, enum metric metric)
{
    struct schema schema = {.dimension = dimension,
                            .metric = metric,
                            .durability = DURABILITY_PERIODIC,
                            .index = *options};
    bool created;
    svc = test_service_open(NULL);
    CHECK_OK(service_create(svc, "db", &schema, false, &created, &err));
    db = test_acquire(svc, "db");
    if (SLOWER > 1) atomic_store(&db->store->vectors->queries_max, 160 / SLOWER);
}

static void open_graph(uint32_t dimension)
{
    open_with(&(struct index_options){.kind = INDEX_GRAPH}, dimension, METRIC_EUCLIDEAN);
}

static void close_all(void)
{
    service_release(db);
    test_service_close(svc);
}

/* Rows first .. end-1, as ids of the same numbers. */
static void put_rows(const struct rows *r, uint32_t first, uint32_t end)
{
    enum { BATCH = 500 };
    struct row_input in[BATCH];
    uint64_t lsn;
    for (uint32_t at = first; at < end;) {
        size_t n = 0;
        for (; n < BATCH && at < end; n++, at++)
            in[n] = (struct row_input){.id = {.number = at}, .vector = row_at(r, at)};
        CHECK_OK(database_put(db, in, n, r->dimension, true, &lsn, &err));
    }
}

static struct vector_index *index_of(struct database *of)
{
    return of->store->vectors;
}

static size_t search(struct database *in, const float *query, size_t k, double recall, bool exact,
                     uint64_t *ids, struct search_report *report)
{
    struct err why = {0};
    struct search_hit hits[100];
    struct search_query q = {.vector = query, .top_k = k, .recall = recall, .exact = exact};
    struct reader r;
    size_t count;
    reader_begin(in, &r);
    enum err_code rc = reader_search(&r, &q, true, hits, &count, report, &why);
    for (size_t i = 0; i < count && !rc; i++)
        ids[i] = hits[i].row.id.number;
    reader_end(&r);
    if (rc) fail_msg("%s", why.msg);
    return count;
}

static bool finds_itself(const float *row, uint64_t id)
{
    uint64_t found[1];
    return search(db, row, 1, 0.999, false, found, NULL) == 1 && found[0] == id;
}

/* Of searches with `queries`, on average, for 10 rows. */
static double measure(const struct rows *queries, double recall, struct search_report *report)
{
    double sum = 0;
    for (uint32_t q = 0; q < queries->count; q++) {
        uint64_t got[10], want[10];
        size_t n = search(db, row_at(queries, q), 10, recall, false, got, report);
        size_t all = search(db, row_at(queries, q), 10, 0, true, want, NULL), hits = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < all; k++)
                hits += got[i] == want[k];
        sum += (double)hits / (double)all;
    }
    return sum / queries->count;
}

static struct vector_index_info info_now(void)
{
    struct vector_index_info info;
    epoch_enter();
    vector_index_info(index_of(db), &info);
    epoch_leave();
    return info;
}

/* ---- a graph comes into being ---- */

static void a_graph_is_built_when_there_are_enough_rows(void **state)
{
    (void)state;
    struct rows r = make_rows(8, 400, 10, 3, false, 1);
    open_graph(8);
    put_rows(&r, 0, 255);
    service_settle_index(svc, db);
    assert_int_equal(info_now().state, INDEX_STATE_NONE);
    put_rows(&r, 255, 400);
    service_settle_index(svc, db);
    struct vector_index_info info = info_now();
    assert_int_equal(info.state, INDEX_STATE_READY);
    assert_int_equal(info.indexed_count, 400);
    assert_int_equal(info.pending_count, 0);
    assert_true(info.progress == 1 && info.eta_ms == 0 && info.memory_bytes > 0);
    for (uint32_t i = 0; i < 400; i++)
        assert_true(finds_itself(row_at(&r, i), i));
    free(r.numbers);
    close_all();
}

static bool is_ready(void *ctx)
{
    (void)ctx;
    return info_now().state == INDEX_STATE_READY;
}

static void auto_waits_for_rows_that_take_long_to_scan_and_flat_for_ever(void **state)
{
    (void)state;
    if (SLOWER > 10) skip(); /* it takes 10,000 rows */
    struct rows r = make_rows(16, 12000, 10, 3, false, 1);
    for (int kind = 0; kind < 2; kind++) {
        open_with(&(struct index_options){.kind = kind ? INDEX_FLAT : INDEX_AUTO}, 16,
                  METRIC_EUCLIDEAN);
        put_rows(&r, 0, 9000);
        service_settle_index(svc, db);
        assert_int_equal(info_now().state, INDEX_STATE_NONE);
        put_rows(&r, 9000, 12000);
        if (kind) service_settle_index(svc, db);
        if (kind) assert_int_equal(info_now().state, INDEX_STATE_NONE);
        if (!kind) assert_true(test_until(is_ready, NULL));
        close_all();
    }
    free(r.numbers);
}

/* ---- always visible ---- */

struct crowd {
    const struct rows *rows;
    _Atomic uint32_t acknowledged; /* rows below this were */
    _Atomic bool done;
    _Atomic uint64_t searches;
    _Atomic uint64_t by_graph;
};

static void *search_for_new_rows(void *arg)
{
    struct crowd *c = arg;
    uint64_t seed = 7 + (uint64_t)(uintptr_t)&seed;
    while (!atomic_load(&c->done)) {
        uint32_t n = atomic_load(&c->acknowledged);
        if (n == 0) continue;
        /* Mostly the newest ones. */
        uint32_t back = (uint32_t)(test_random(&seed) % (test_random(&seed) % 2 ? 50 : n));
        uint32_t i = back < n ? n - 1 - back : 0;
        uint64_t found[10];
        struct search_report report;
        size_t count = search(db, row_at(c->rows, i), 10, 0.999, false, found, &report);
        /* Every pending row is compared, by its code if it has one; one of the graph is its own
         * nearest neighbour, which a walk does not miss. */
        if (count == 0 || found[0] != i) fail_msg("row %u of %u was not found", i, n);
        atomic_fetch_add(&c->searches, 1);
        atomic_fetch_add(&c->by_graph, report.strategy == SEARCH_GRAPH);
    }
    return NULL;
}

static void what_is_acknowledged_is_found_at_once(void **state)
{
    (void)state;
    enum { SEARCHERS = 2 };
    uint32_t count = 20000 / SLOWER;
    struct rows r = make_rows(16, count, 50, 3, false, 5);
    struct crowd c = {.rows = &r};
    pthread_t threads[SEARCHERS];
    open_graph(16);
    for (int i = 0; i < SEARCHERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, search_for_new_rows, &c), 0);
    uint64_t seed = 3;
    for (uint32_t at = 0; at < count;) {
        uint32_t n = 1 + (uint32_t)(test_random(&seed) % 40);
        uint32_t end = count - at < n ? count : at + n;
        put_rows(&r, at, end);
        at = end;
        atomic_store(&c.acknowledged, at);
    }
    while (atomic_load(&c.by_graph) < 100)
        sched_yield();
    atomic_store(&c.done, true);
    for (int i = 0; i < SEARCHERS; i++)
        pthread_join(threads[i], NULL);
    free(r.numbers);
    close_all();
}

static bool nothing_is_pending(void *ctx)
{
    return vector_index_pending(ctx) == 0;
}

/* Whoever searches compares few pending rows, however fast others write; and no put takes long. */
static void writers_make_way_for_searches(void **state)
{
    (void)state;
    enum { OFTEN = 20 };
    uint32_t first = 1000, count = first + 8000 / SLOWER;
    struct rows r = make_rows(128, count, 20, 1, false, 5);
    struct search_report report;
    uint64_t ids[10], most = 0, longest = 0;
    open_graph(128);
    put_rows(&r, 0, first);
    service_settle_index(svc, db);
    for (uint32_t i = first; i < count; i++) {
        uint64_t begun = clock_ns();
        put_rows(&r, i, i + 1);
        uint64_t took = clock_ns() - begun;
        if (took > longest) longest = took;
        if (i % OFTEN) continue;
        search(db, row_at(&r, i), 10, 0, false, ids, &report);
        assert_int_equal(report.strategy, SEARCH_GRAPH);
        if (report.unlinked > most) most = report.unlinked;
    }
    /* Without searches so many would be pending in no time. */
    if (most > 2500) fail_msg("%" PRIu64 " were pending", most);
    /* 40 ms it waits at most; the rest is the machine's doing. */
    if (longest > 2 * SECOND_NS) fail_msg("a put took %" PRIu64 " us", longest / 1000);
    assert_true(test_until(nothing_is_pending, index_of(db)));
    free(r.numbers);
    close_all();
}

/* Linkers that are never done do not keep dead rows from being swept. */
static void sweeps_find_time_while_rows_are_replaced_at_full_speed(void **state)
{
    (void)state;
    enum { ROWS = SLOWER > 1 ? 300 : 1000, OFTEN = 10 };
    struct rows r = make_rows(128, 2 * ROWS, 20, 1, false, 5);
    struct search_report report;
    uint64_t ids[10];
    open_graph(128);
    put_rows(&r, 0, ROWS);
    service_settle_index(svc, db);
    struct vector_index *ix = index_of(db);
    uint64_t swept = vector_index_reuse_lsn(ix), until = clock_ns() + 60 * SECOND_NS;
    for (uint32_t i = 0; vector_index_reuse_lsn(ix) == swept; i++) {
        test_put(db, (struct vector_id){.number = i % ROWS}, row_at(&r, i % (2 * ROWS)), NULL);
        if (i % OFTEN == 0) search(db, row_at(&r, i % ROWS), 10, 0, false, ids, &report);
        if (clock_ns() > until) fail_msg("no sweep during %u updates", i);
    }
    free(r.numbers);
    close_all();
}

/* ---- dead rows ---- */

static void slots_are_used_again_only_behind_a_sweep(void **state)
{
    (void)state;
    struct rows r = make_rows(8, 1200, 10, 3, false, 1);
    open_graph(8);
    put_rows(&r, 0, 1000);
    service_settle_index(svc, db);
    uint32_t slots = db->store->counts.slot_count;
    uint64_t swept = vector_index_reuse_lsn(index_of(db));
    for (uint32_t i = 0; i < 20; i++) /* too few to be swept at once */
        assert_int_equal(test_delete(db, (struct vector_id){.number = i}), 1);
    put_rows(&r, 1000, 1001);
    if (vector_index_reuse_lsn(index_of(db)) == swept) /* a second has not passed */
        assert_int_equal(db->store->counts.slot_count, slots + 1);
    service_settle_index(svc, db);
    assert_true(vector_index_reuse_lsn(index_of(db)) > swept);
    /* The next put finds out that all readers have left, the one after that uses it. */
    put_rows(&r, 1001, 1002);
    slots = db->store->counts.slot_count;
    for (uint32_t i = 1002; i < 1012; i++)
        put_rows(&r, i, i + 1);
    assert_int_equal(db->store->counts.slot_count, slots);
    service_settle_index(svc, db);
    for (uint32_t i = 20; i < 1012; i++)
        assert_true(finds_itself(row_at(&r, i), i));
    free(r.numbers);
    close_all();
}

static void churn_does_not_wear_the_graph_out(void **state)
{
    (void)state;
    enum { ROUNDS = SLOWER > 1 ? 3 : 10 };
    uint32_t count = 8000 / SLOWER / ROUNDS * ROUNDS, tenth = count / ROUNDS;
    struct rows r = make_rows(32, count * 2, 100, 0.5f, false, 11);
    struct rows queries = make_rows(32, SLOWER > 1 ? 50 : 1000, 100, 0.5f, false, 12);
    struct search_query by_hand = {.top_k = 10, .ef = 40};
    double recall[2];
    /* The same rows at the end: churned, and fresh. */
    for (int fresh = 0; fresh < 2; fresh++) {
        open_graph(32);
        atomic_store(&index_of(db)->queries_max, 50); /* efforts are by hand here */
        if (!fresh) {
            put_rows(&r, 0, count);
            service_settle_index(svc, db);
            for (uint32_t round = 0; round < ROUNDS; round++) {
                for (uint32_t i = round * tenth; i < (round + 1) * tenth; i++)
                    assert_int_equal(test_delete(db, (struct vector_id){.number = i}), 1);
                if (round % 2) service_settle_index(svc, db);
                put_rows(&r, count + round * tenth, count + (round + 1) * tenth);
                service_settle_index(svc, db);
                assert_int_equal(info_now().indexed_count, count);
            }
            assert_true(db->store->counts.slot_count < count + 2 * tenth);
        } else {
            put_rows(&r, count, 2 * count);
            service_settle_index(svc, db);
        }
        assert_int_equal(info_now().indexed_count, count);
        uint32_t lost = 0;
        for (uint32_t i = count; i < 2 * count; i++)
            lost += !finds_itself(row_at(&r, i), i);
        assert_int_equal(lost, 0);
        double hits = 0;
        for (uint32_t q = 0; q < queries.count; q++) {
            struct search_hit found[10];
            uint64_t want[10];
            size_t n, all = search(db, row_at(&queries, q), 10, 0, true, want, NULL);
            struct reader reader;
            by_hand.vector = row_at(&queries, q);
            reader_begin(db, &reader);
            CHECK_OK(reader_search(&reader, &by_hand, true, found, &n, NULL, &err));
            for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < all; k++)
                    hits += found[i].row.id.number == want[k];
            reader_end(&reader);
        }
        recall[fresh] = hits / 10 / queries.count;
        close_all();
    }
    /* It was 0.002 at most; of 10,000 neighbours 0.003 is noise. */
    if (SLOWER == 1 && recall[0] < recall[1] - 0.006)
        fail_msg("churned %.4f, fresh %.4f", recall[0], recall[1]);
    free(r.numbers);
    free(queries.numbers);
}

static uint32_t count_lost(const struct rows *r)
{
    uint32_t lost = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        struct search_query q = {.vector = row_at(r, i), .top_k = 1, .ef = 10};
        struct search_hit hit;
        struct reader reader;
        size_t n;
        reader_begin(db, &reader);
        CHECK_OK(reader_search(&reader, &q, true, &hit, &n, NULL, &err));
        lost += n != 1 || hit.row.id.number != i;
        reader_end(&reader);
    }
    return lost;
}

/* The least effort that there is, rows that have no near neighbours, and links that made room. */
static void every_row_finds_itself(void **state)
{
    (void)state;
    uint32_t count = 4000 / SLOWER;
    struct rows r = make_rows(48, count, 1, 0, false, 13);
    open_graph(48);
    put_rows(&r, 0, count / 2);
    service_settle_index(svc, db);
    put_rows(&r, count / 2, count);
    service_settle_index(svc, db);
    assert_int_equal(count_lost(&r), 0);
    free(r.numbers);
    close_all();
}

/* Of so many rows there is an audit as soon as they are linked, but no time to search for each. */
static void every_row_of_a_bulk_load_finds_itself_later(void **state)
{
    (void)state;
    if (SLOWER > 1) skip(); /* it takes AUDIT_MIN rows */
    struct rows r = make_rows(24, 22000, 1, 0, false, 14);
    open_graph(24);
    atomic_store(&index_of(db)->queries_max, 50);
    put_rows(&r, 0, r.count);
    struct vector_index *ix = index_of(db);
    for (bool is_audited = false; !is_audited; sched_yield()) {
        mutex_lock(vector_index_mutex(ix));
        is_audited = ix->audited_ns != 0;
        mutex_unlock(vector_index_mutex(ix));
    }
    service_settle_index(svc, db);
    assert_int_equal(count_lost(&r), 0);
    free(r.numbers);
    close_all();
}

/* Sweeps, linking and writes at the same time: a slot is dead, swept, used again and swept past,
 * and the graph grows under a sweep. */
static void rows_survive_when_slots_change_hands(void **state)
{
    (void)state;
    enum { ROWS = SLOWER > 1 ? 400 : 1500, TIMES = 60 };
    uint32_t updates = ROWS * (TIMES / SLOWER + 2);
    struct rows r = make_rows(16, ROWS + updates, 10, 3, false, 17);
    static uint32_t now[ROWS]; /* which row each id has */
    uint64_t seed = 9;
    open_graph(16);
    put_rows(&r, 0, ROWS);
    for (uint32_t i = 0; i < ROWS; i++)
        now[i] = i;
    service_settle_index(svc, db);
    struct vector_index *ix = index_of(db);
    for (uint32_t n = 0; n < updates; n++) {
        uint32_t id = (uint32_t)(test_random(&seed) % ROWS);
        now[id] = ROWS + n;
        test_put(db, (struct vector_id){.number = id}, row_at(&r, now[id]), NULL);
        /* First faster than slots are swept, then not. */
        while (n > updates / 4 && n % 300 == 0 && vector_index_pending(ix) > 0)
            sched_yield();
    }
    service_settle_index(svc, db);
    assert_int_equal(info_now().indexed_count, ROWS);
    if (SLOWER == 1) assert_true(db->store->counts.slot_count < updates);
    for (uint32_t i = 0; i < ROWS; i++) {
        uint64_t found[1];
        assert_int_equal(search(db, row_at(&r, now[i]), 1, 0.999, false, found, NULL), 1);
        assert_int_equal(found[0], i);
    }
    free(r.numbers);
    close_all();
}

/* Nor do they keep another graph from being built, and that does not make the file grow and grow.
 */
static void graphs_are_built_anew_while_rows_are_replaced_at_full_speed(void **state)
{
    (void)state;
    enum { ROWS = SLOWER > 1 ? 600 : 3000, OFTEN = 10 };
    struct rows r = make_rows(128, 2 * ROWS, 20, 1, false, 5);
    static uint32_t now[ROWS]; /* which row each id has */
    struct search_report report;
    uint64_t ids[10];
    open_graph(128);
    put_rows(&r, 0, ROWS);
    for (uint32_t i = 0; i < ROWS; i++)
        now[i] = i;
    service_settle_index(svc, db);
    struct vector_index *ix = index_of(db);
    struct graph *old = atomic_load(&ix->graph);
    uint64_t until = clock_ns() + 100 * SECOND_NS;
    mutex_lock(&ix->mu);
    ix->fallen_apart = true;
    mutex_unlock(&ix->mu);
    for (uint32_t i = 0; atomic_load(&ix->graph) == old; i++) {
        now[i % ROWS] = (i + ROWS / 2) % (2 * ROWS);
        test_put(db, (struct vector_id){.number = i % ROWS}, row_at(&r, now[i % ROWS]), NULL);
        if (i % OFTEN == 0) search(db, row_at(&r, i % ROWS), 10, 0, false, ids, &report);
        if (clock_ns() > until) fail_msg("no other graph during %u updates", i);
    }
    uint32_t slots = db->store->counts.slot_count;
    if (slots > 3 * ROWS + 4000) fail_msg("%u slots for %d rows", slots, ROWS);
    service_settle_index(svc, db);
    assert_int_equal(info_now().indexed_count, ROWS);
    uint32_t missed = 0;
    for (uint32_t i = 0; i < ROWS; i++) {
        bool found = search(db, row_at(&r, now[i]), 1, 0.999, false, ids, NULL) == 1;
        missed += !found || now[ids[0]] != now[i];
    }
    if (missed > ROWS / 200) fail_msg("%u rows were not found", missed);
    free(r.numbers);
    close_all();
}

/* ---- codecs ---- */

static enum codec_kind codec_of(const struct rows *r, enum metric metric, enum quantization q)
{
    struct index_options options = {.kind = INDEX_GRAPH, .quantization = q};
    open_with(&options, r->dimension, metric);
    put_rows(r, 0, r->count);
    service_settle_index(svc, db);
    struct vector_index_info info = info_now();
    assert_int_equal(info.state, INDEX_STATE_READY);
    close_all();
    return info.codec;
}

static void codes_suit_the_rows(void **state)
{
    (void)state;
    uint32_t count = SLOWER > 1 ? 300 : 2000;
    struct rows r = make_rows(32, count, 10, 1, false, 1);
    struct rows far = make_rows(32, count, 10, 3000, false, 1);
    struct rows tiny = make_rows(32, count, count / 20, 3000, false, 1);
    struct rows few = make_rows(16, count, 10, 1, false, 1);
    assert_int_equal(codec_of(&r, METRIC_EUCLIDEAN, QUANTIZATION_AUTO), CODEC_INT8);
    assert_int_equal(codec_of(&r, METRIC_COSINE, QUANTIZATION_AUTO), CODEC_INT8);
    assert_int_equal(codec_of(&r, METRIC_DOT_PRODUCT, QUANTIZATION_AUTO), CODEC_INT8);
    assert_int_equal(codec_of(&r, METRIC_MANHATTAN, QUANTIZATION_AUTO), CODEC_FLOAT32);
    assert_int_equal(codec_of(&few, METRIC_EUCLIDEAN, QUANTIZATION_AUTO), CODEC_FLOAT32);
    assert_int_equal(codec_of(&far, METRIC_EUCLIDEAN, QUANTIZATION_AUTO), CODEC_FLOAT32);
    assert_int_equal(codec_of(&tiny, METRIC_EUCLIDEAN, QUANTIZATION_AUTO), CODEC_FLOAT32);
    assert_int_equal(codec_of(&far, METRIC_EUCLIDEAN, QUANTIZATION_INT8), CODEC_INT8);
    assert_int_equal(codec_of(&r, METRIC_EUCLIDEAN, QUANTIZATION_BINARY), CODEC_BINARY);
    assert_int_equal(codec_of(&r, METRIC_EUCLIDEAN, QUANTIZATION_NONE), CODEC_FLOAT32);
    free(r.numbers);
    free(far.numbers);
    free(tiny.numbers);
    free(few.numbers);
}

/* Clusters of five rows do without exact codes, larger ones do not. */
static void codes_are_looked_at_again_in_idle_time(void **state)
{
    (void)state;
    uint32_t first = SLOWER > 1 ? 400 : 1000, more = first / 2;
    struct rows r = make_rows(32, first + more, first / 5, 3000, false, 1);
    struct rows crowd = make_rows(32, more, first / 50, 3000, false, 2);
    memcpy(r.numbers + (size_t)first * 32, crowd.numbers, (size_t)more * 32 * sizeof(float));
    open_graph(32);
    put_rows(&r, 0, first);
    service_settle_index(svc, db);
    assert_int_equal(info_now().codec, CODEC_INT8);
    put_rows(&r, first, first + more);
    service_settle_index(svc, db);
    assert_int_equal(info_now().codec, CODEC_FLOAT32);
    free(r.numbers);
    free(crowd.numbers);
    close_all();
}

/* Rows that begin as one cloud and go on as tight clusters far apart. */
static void codes_change_when_the_rows_do(void **state)
{
    (void)state;
    uint32_t first = SLOWER > 1 ? 300 : 1000, count = 4 * first;
    struct rows r = make_rows(32, first, 1, 1, false, 1);
    struct rows far = make_rows(32, count, count / 90, 3000, false, 2);
    open_graph(32);
    put_rows(&r, 0, first);
    service_settle_index(svc, db);
    assert_int_equal(info_now().codec, CODEC_INT8);
    put_rows(&far, first, count);
    service_settle_index(svc, db);
    assert_int_equal(info_now().codec, CODEC_FLOAT32);
    assert_int_equal(info_now().indexed_count, count);
    for (uint32_t i = 0; i < count; i += 7)
        assert_true(finds_itself(i < first ? row_at(&r, i) : row_at(&far, i), i));
    free(r.numbers);
    free(far.numbers);
    close_all();
}

static void rows_without_a_place_in_the_graph_are_found_all_the_same(void **state)
{
    (void)state;
    struct rows r = make_rows(32, 1000, 20, 1, false, 1);
    memset(r.numbers + 32 * 500, 0, 32 * sizeof(float));
    memset(r.numbers + 32 * 999, 0, 32 * sizeof(float));
    open_with(&(struct index_options){.kind = INDEX_GRAPH}, 32, METRIC_COSINE);
    put_rows(&r, 0, 900);
    service_settle_index(svc, db);
    put_rows(&r, 900, 1000);
    service_settle_index(svc, db);
    assert_int_equal(info_now().indexed_count, 1000);
    assert_int_equal(slot_list_count(atomic_load(&index_of(db)->aside)), 2);
    /* Everything that points away from the query is farther than what has no direction. */
    float away[32];
    uint64_t ids[100], exact[100];
    for (int k = 0; k < 32; k++)
        away[k] = -row_at(&r, 3)[k];
    size_t n = search(db, away, 100, 0.99, false, ids, NULL);
    size_t all = search(db, away, 100, 0, true, exact, NULL);
    for (int which = 0; which < 2; which++) {
        uint64_t zero = which ? 999 : 500;
        bool wanted = false, got = false;
        for (size_t i = 0; i < all; i++)
            wanted |= exact[i] == zero;
        for (size_t i = 0; i < n; i++)
            got |= ids[i] == zero;
        assert_int_equal(got, wanted);
    }
    /* They end like others. */
    assert_int_equal(test_delete(db, (struct vector_id){.number = 500}), 1);
    service_settle_index(svc, db);
    assert_int_equal(slot_list_count(atomic_load(&index_of(db)->aside)), 1);
    free(r.numbers);
    close_all();
}

/* ---- recall ---- */

static void recall_is_what_was_asked_for(void **state)
{
    (void)state;
    struct rows r = make_rows(32, 12000 / SLOWER, 200, 0.3f, false, 21);
    struct rows queries = make_rows(32, 200, 200, 0.3f, false, 22);
    open_graph(32);
    atomic_store(&index_of(db)->queries_max, SLOWER > 1 ? 100 : 0);
    put_rows(&r, 0, r.count);
    service_settle_index(svc, db);
    const struct effort_table *t = atomic_load(&index_of(db)->effort);
    assert_non_null(t);
    assert_int_equal(t->rows, r.count);
    for (uint32_t i = 1; i < t->steps; i++) {
        assert_true(t->ef[i] > t->ef[i - 1]);
        for (int k = 0; k < EFFORT_KS; k++)
            assert_true(t->recall[k][i] >= t->recall[k][i - 1]);
    }
    const double wanted[] = {0.85, 0.95, 0.99};
    uint32_t last_ef = 0;
    for (int i = 0; i < 3; i++) {
        struct search_report report;
        double got = measure(&queries, wanted[i], &report);
        if (got < wanted[i] - 0.01) fail_msg("wanted %.2f, got %.4f", wanted[i], got);
        assert_true(report.ef > last_ef);
        assert_true(report.expected_recall >= wanted[i] - 0.005);
        last_ef = report.ef;
    }
    free(r.numbers);
    free(queries.numbers);
    close_all();
}

static void live_searches_are_done_again(void **state)
{
    (void)state;
    struct rows r = make_rows(32, SLOWER > 1 ? 500 : 3000, 200, 0.3f, false, 21);
    open_graph(32);
    put_rows(&r, 0, r.count);
    service_settle_index(svc, db);
    assert_int_equal(info_now().recall_samples, 0);
    for (uint32_t i = 0; i < 10; i++) {
        uint64_t ids[10];
        search(db, row_at(&r, i), 10, 0.9, false, ids, NULL);
    }
    assert_int_equal(test_delete(db, (struct vector_id){.number = 0}), 1); /* part of an answer */
    service_settle_index(svc, db);
    assert_in_range(info_now().recall_samples, 2, 10);
    assert_true(info_now().recall_estimate > 0.7 && info_now().recall_estimate <= 1);
    free(r.numbers);
    close_all();
}

static void rows_that_come_cluster_by_cluster_are_found(void **state)
{
    (void)state;
    uint32_t clusters = 2000 / SLOWER;
    struct rows r = make_rows(24, clusters * 10, clusters, 30, true, 31);
    struct rows queries = make_rows(24, 200, clusters, 30, false, 32);
    open_graph(24);
    put_rows(&r, 0, r.count);
    service_settle_index(svc, db);
    double recall = measure(&queries, 0, NULL);
    if (recall < 0.95) fail_msg("recall %.4f", recall);
    free(r.numbers);
    free(queries.numbers);
    close_all();
}

/* ---- opening ---- */

static bool is_loaded(void *ctx)
{
    struct vector_index *ix = ctx;
    mutex_lock(&ix->mu);
    bool mapped = index_file_is_mapped(ix);
    mutex_unlock(&ix->mu);
    return !mapped;
}

/* By the graph; false: the walk missed it. */
static bool walk_finds(const struct rows *r, uint32_t i)
{
    uint64_t found[1];
    struct search_report report;
    assert_int_equal(search(db, row_at(r, i), 1, 0.999, false, found, &report), 1);
    assert_int_equal(report.strategy, SEARCH_GRAPH);
    return found[0] == i;
}

static void reopen(char *dir)
{
    close_all();
    svc = test_service_open(dir);
    db = test_acquire(svc, "db");
}

/* From the file first, then from memory, and searches notice nothing. */
static void an_opened_graph_is_searched_at_once_and_loaded_when_it_is_used(void **state)
{
    (void)state;
    uint32_t count = 30000 / SLOWER;
    struct rows r = make_rows(128, count + 1, 50, 0.5f, false, 5);
    struct schema schema = {
        .dimension = 128, .metric = METRIC_EUCLIDEAN, .index.kind = INDEX_GRAPH};
    char *dir = test_dir_new();
    bool created;
    svc = test_service_open(dir);
    CHECK_OK(service_create(svc, "db", &schema, false, &created, &err));
    db = test_acquire(svc, "db");
    atomic_store(&index_of(db)->queries_max, 20);
    put_rows(&r, 0, count);
    service_settle_index(svc, db);

    uint32_t asked = 0, missed = 0;
    reopen(dir);
    for (; asked < 50; asked++)
        missed += !walk_finds(&r, asked * (count / 50));
    /* That was not yet worth it; small graphs are always. */
    if (SLOWER == 1 && clock_ns() < index_of(db)->adopted.at_ns + 4 * SECOND_NS)
        assert_false(is_loaded(index_of(db)));
    for (; !is_loaded(index_of(db)); asked++)
        missed += !walk_finds(&r, asked % count);
    for (uint32_t i = 0; i < 2000; i++, asked++)
        missed += !walk_finds(&r, i % count);
    if (missed > asked / 100) fail_msg("%u of %u were not found", missed, asked);

    /* Something is to be linked. */
    reopen(dir);
    put_rows(&r, count, count + 1);
    assert_true(walk_finds(&r, count));
    assert_true(test_until(nothing_is_pending, index_of(db)));
    assert_true(is_loaded(index_of(db)));

    /* Nothing happens for a while. */
    reopen(dir);
    mutex_lock(&index_of(db)->mu);
    index_of(db)->adopted.at_ns -= 6 * SECOND_NS;
    mutex_unlock(&index_of(db)->mu);
    assert_true(test_until(is_loaded, index_of(db)));
    assert_int_equal(info_now().indexed_count, count + 1);
    free(r.numbers);
    close_all();
    test_dir_remove(dir);
}

/* ---- the end ---- */

static void stops_and_drops_do_not_wait_for_a_build(void **state)
{
    (void)state;
    /* Linking all of them takes seconds. */
    struct rows r = make_rows(256, 12000, 20, 1, false, 1);
    for (int drop = 0; drop < 2; drop++) {
        open_graph(256);
        put_rows(&r, 0, r.count);
        struct vector_index_info info = info_now();
        service_release(db);
        uint64_t begun = clock_ns();
        if (drop) CHECK_OK(service_drop(svc, "db", &err));
        if (drop) assert_true(clock_ns() - begun < 500000000ull * SLOWER);
        begun = clock_ns();
        test_service_close(svc);
        assert_true(clock_ns() - begun < 500000000ull * SLOWER);
        assert_int_not_equal(info.state, INDEX_STATE_READY);
    }
    free(r.numbers);
}

static void compaction_and_index_go_together(void **state)
{
    (void)state;
    const uint32_t n = SLOWER > 1 ? 300 : 1000;
    struct rows r = make_rows(16, 6 * n, 50, 3, false, 5);
    open_graph(16);
    put_rows(&r, 0, 4 * n);
    service_settle_index(svc, db);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(test_delete(db, (struct vector_id){.number = i}), 1);
    struct compact_result result;
    CHECK_OK(service_compact(svc, "db", &result, &err));
    assert_int_equal(result.rows, 3 * n);
    put_rows(&r, 4 * n, 6 * n);
    for (uint32_t i = n; i < 6 * n; i += 50)
        assert_true(finds_itself(row_at(&r, i), i));
    service_settle_index(svc, db);
    assert_int_equal(info_now().indexed_count, 5 * n);
    for (uint32_t i = n; i < 6 * n; i += 50)
        assert_true(finds_itself(row_at(&r, i), i));
    free(r.numbers);
    close_all();
}

static void without_an_indexer_all_is_exact(void **state)
{
    (void)state;
    struct rows r = make_rows(8, 400, 10, 3, false, 1);
    struct service_options options = test_options(NULL);
    struct schema schema = {.dimension = 8, .index = {.kind = INDEX_GRAPH}};
    bool created;
    options.no_indexer = true;
    CHECK_OK(service_open(&options, &svc, &err));
    CHECK_OK(service_create(svc, "db", &schema, false, &created, &err));
    db = test_acquire(svc, "db");
    put_rows(&r, 0, 400);
    service_settle_index(svc, db); /* does not wait */
    assert_int_equal(info_now().state, INDEX_STATE_NONE);
    free(r.numbers);
    close_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_graph_is_built_when_there_are_enough_rows),
        cmocka_unit_test(auto_waits_for_rows_that_take_long_to_scan_and_flat_for_ever),
        cmocka_unit_test(what_is_acknowledged_is_found_at_once),
        cmocka_unit_test(writers_make_way_for_searches),
        cmocka_unit_test(sweeps_find_time_while_rows_are_replaced_at_full_speed),
        cmocka_unit_test(slots_are_used_again_only_behind_a_sweep),
        cmocka_unit_test(churn_does_not_wear_the_graph_out),
        cmocka_unit_test(every_row_finds_itself),
        cmocka_unit_test(every_row_of_a_bulk_load_finds_itself_later),
        cmocka_unit_test(rows_survive_when_slots_change_hands),
        cmocka_unit_test(graphs_are_built_anew_while_rows_are_replaced_at_full_speed),
        cmocka_unit_test(codes_suit_the_rows),
        cmocka_unit_test(codes_are_looked_at_again_in_idle_time),
        cmocka_unit_test(codes_change_when_the_rows_do),
        cmocka_unit_test(rows_without_a_place_in_the_graph_are_found_all_the_same),
        cmocka_unit_test(recall_is_what_was_asked_for),
        cmocka_unit_test(live_searches_are_done_again),
        cmocka_unit_test(rows_that_come_cluster_by_cluster_are_found),
        cmocka_unit_test(an_opened_graph_is_searched_at_once_and_loaded_when_it_is_used),
        cmocka_unit_test(stops_and_drops_do_not_wait_for_a_build),
        cmocka_unit_test(compaction_and_index_go_together),
        cmocka_unit_test(without_an_indexer_all_is_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
