/* Rows that are known from before are those that a selection finds, whatever was written since. */
#include "tests/storage/filter/random_rows.h"

#include <pthread.h>
#include <stdatomic.h>

#include "storage/database_private.h"
#include "storage/filter/filter_cache.h"
#include "storage/visibility.h"

enum { SNAPSHOTS = 4, FEW_ROWS = 300, MANY_ROWS = 40000, LIST_MAX = 2048 };

static void open_database(const char *dir, struct service **svc, struct database **db)
{
    struct err err;
    bool created;
    struct schema schema = {.dimension = 1,
                            .metric = METRIC_EUCLIDEAN,
                            .durability = DURABILITY_PERIODIC,
                            .index.kind = INDEX_FLAT,
                            .options = (char *)(uintptr_t)random_options};
    *svc = test_service_open(dir);
    CHECK_OK(service_create(*svc, "d", &schema, false, &created, &err));
    *db = test_acquire(*svc, "d");
}

static void reopen(const char *dir, struct service **svc, struct database **db)
{
    service_release(*db);
    test_service_close(*svc);
    *svc = test_service_open(dir);
    *db = test_acquire(*svc, "d");
}

static void compact(struct service *svc)
{
    struct err err;
    struct compact_result result;
    CHECK_OK(service_compact(svc, "d", &result, &err));
}

static const struct filter *compile(const char *text, struct arena *arena)
{
    struct json_scan s;
    struct err err;
    const struct filter *filter = NULL;
    json_scan_init(&s, text, strlen(text), arena);
    CHECK_OK(json_filter(&s, random_options, &filter, &err));
    return filter;
}

/* Some rows in one write; few ids, so that they are replaced, even by a row of the same write. */
static void write_rows(struct database *db, uint64_t ids, size_t count, uint64_t *seed)
{
    struct err err;
    uint64_t lsn;
    static const float zero;
    struct row_input *rows = calloc(count, sizeof *rows);
    struct buf *metadata = calloc(count, sizeof *metadata);
    assert_true(rows && metadata);
    for (size_t i = 0; i < count; i++) {
        struct plain_row row;
        random_row(&row, seed);
        put_plain_row(&metadata[i], &row);
        rows[i] = (struct row_input){.id.number = test_random(seed) % ids,
                                     .vector = &zero,
                                     .metadata = metadata[i].data,
                                     .metadata_bytes = (uint32_t)metadata[i].len};
    }
    CHECK_OK(database_put(db, rows, count, 1, true, &lsn, &err));
    for (size_t i = 0; i < count; i++)
        buf_free(&metadata[i]);
    free(metadata);
    free(rows);
}

static void write_something(struct database *db, uint64_t ids, uint64_t *seed)
{
    uint64_t dice = test_random(seed);
    if (dice % 4 == 0)
        test_delete(db, (struct vector_id){.number = dice % ids});
    else
        write_rows(db, ids, 1 + dice % 3, seed);
}

/* Rows as bits that nobody else has touched. */
static uint64_t *bits_of(const struct filter_rows *rows, const struct reader *r)
{
    uint64_t *bits = malloc((filter_words(r) + 1) * sizeof *bits);
    assert_non_null(bits);
    memset(bits, 0xa5, (filter_words(r) + 1) * sizeof *bits);
    filter_rows_to_bits(rows, r, bits);
    assert_int_equal(bits[filter_words(r)], UINT64_C(0xa5a5a5a5a5a5a5a5));
    return bits;
}

/* What is found is what is selected.  True: it came from the cache. */
static bool check(struct reader *r, const struct filter *filter)
{
    struct err err;
    struct filter_rows rows;
    uint64_t count, *want = malloc((filter_words(r) + 1) * sizeof *want);
    assert_non_null(want);
    CHECK_OK(filter_find_rows(r, filter, true, &rows, &err));
    CHECK_OK(filter_select(r, filter, true, want, &count, &err));
    assert_true((rows.slots != NULL) != (rows.bits != NULL));
    for (uint64_t i = 1; rows.slots && i < rows.count; i++)
        assert_true(rows.slots[i - 1] < rows.slots[i]);
    uint64_t *got = bits_of(&rows, r);
    assert_int_equal(rows.count, count);
    assert_memory_equal(got, want, filter_words(r) * sizeof *want);
    bool from_cache = rows.from_cache;
    filter_rows_deinit(&rows);
    free(got);
    free(want);
    return from_cache;
}

struct outcome {
    unsigned found, from_cache;
};

static void check_all(struct reader *r, const struct filter *const *filters, size_t count,
                      uint64_t *seed, struct outcome *o)
{
    for (size_t i = 0; i < count; i++) {
        if (test_random(seed) % 2) continue;
        o->from_cache += check(r, filters[i]);
        o->found++;
    }
}

/* Random filters, used again and again in snapshots of all ages while rows come and go. */
static void run(const char *dir, size_t filter_count, uint64_t ids, uint64_t seed, int rounds,
                double from_cache_min)
{
    struct service *svc;
    struct database *db;
    struct reader readers[SNAPSHOTS];
    struct arena arena = {0};
    struct outcome o = {0};
    const struct filter **filters = calloc(filter_count, sizeof *filters);
    struct buf *texts = calloc(filter_count, sizeof *texts); /* which the filters point into */
    assert_true(filters && texts);
    for (size_t i = 0; i < filter_count; i++) {
        struct plain_filter *plain = random_filter(&seed, 2);
        filters[i] = compile_plain_filter(plain, &arena, &texts[i]);
        plain_filter_free(plain);
    }
    open_database(dir, &svc, &db);
    for (uint64_t i = 0; i < ids; i += 500)
        write_rows(db, ids, ids < 500 ? ids : 500, &seed);
    for (int round = 0; round < rounds; round++) {
        int open = 1 + (int)(test_random(&seed) % SNAPSHOTS);
        for (int i = 0; i < open; i++) {
            reader_begin(db, &readers[i]);
            for (uint64_t k = test_random(&seed) % 4; k > 0; k--)
                write_something(db, ids, &seed);
            if (test_random(&seed) % 16 == 0) write_rows(db, ids, ids / 8, &seed);
        }
        /* The newest first, or the oldest. */
        for (int i = 0; i < open; i++)
            check_all(&readers[round % 2 ? i : open - 1 - i], filters, filter_count, &seed, &o);
        for (int i = open - 1; i >= 0; i--)
            reader_end(&readers[i]);
        if (dir && round % 16 == 15) reopen(dir, &svc, &db);
        if (round % 16 == 7) compact(svc);
    }
    assert_true(o.from_cache >= from_cache_min * o.found);
    for (size_t i = 0; i < filter_count; i++)
        buf_free(&texts[i]);
    free(texts);
    free(filters);
    arena_free(&arena);
    service_release(db);
    test_service_close(svc);
}

static void known_rows_are_exact_in_memory(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++)
        run(NULL, 24, FEW_ROWS, seed, 96, 0.25);
}

static void known_rows_are_exact_over_several_chunks(void **state)
{
    (void)state;
    run(NULL, 24, MANY_ROWS, 11, 12, 0.25);
}

static void known_rows_are_exact_in_files(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    run(dir, 24, FEW_ROWS, 21, 60, 0.2);
    test_dir_remove(dir);
}

static void known_rows_are_exact_with_more_filters_than_are_kept(void **state)
{
    (void)state;
    run(NULL, 3 * FILTER_RESULTS_MAX, 60, 31, 24, 0);
}

/* ---- what is taken from the cache, and what is not ---- */

static void put_kind(struct database *db, uint64_t id, const char *kind)
{
    char text[64];
    snprintf(text, sizeof text, "{\"any\":\"%s\"}", kind);
    test_put(db, (struct vector_id){.number = id}, &(float){0}, text);
}

static bool check_now(struct database *db, const struct filter *filter)
{
    struct reader r;
    reader_begin(db, &r);
    bool from_cache = check(&r, filter);
    reader_end(&r);
    return from_cache;
}

static void from_the_third_use_on_rows_are_known_though_others_are_written(void **state)
{
    (void)state;
    struct service *svc;
    struct database *db;
    struct reader old;
    struct arena arena = {0};
    const struct filter *filter = compile("{\"any\":\"a\"}", &arena);
    open_database(NULL, &svc, &db);
    for (uint64_t i = 0; i < 1000; i++)
        put_kind(db, i, i % 10 ? "b" : "a");
    assert_false(check_now(db, filter));
    assert_false(check_now(db, filter));
    assert_true(check_now(db, filter));
    put_kind(db, 1, "b"); /* the same rows match */
    assert_true(check_now(db, filter));
    put_kind(db, 2, "a");
    assert_true(check_now(db, filter));
    put_kind(db, 0, "b");
    assert_true(check_now(db, filter));
    test_delete(db, (struct vector_id){.number = 10});
    reader_begin(db, &old);
    put_kind(db, 10, "a");
    assert_true(check_now(db, filter));
    assert_false(check(&old, filter)); /* what is kept is newer */
    reader_end(&old);
    assert_true(check_now(db, filter));
    compact(svc);
    assert_false(check_now(db, filter));
    for (uint64_t i = 0; i < 1000; i++)
        put_kind(db, i, "c"); /* selecting anew is as quick */
    assert_false(check_now(db, filter));
    assert_true(check_now(db, filter));
    arena_free(&arena);
    service_release(db);
    test_service_close(svc);
}

/* From a list to bits and back. */
static void many_rows_are_kept_as_bits_and_few_as_a_list(void **state)
{
    (void)state;
    struct service *svc;
    struct database *db;
    struct err err;
    struct reader r;
    struct filter_rows rows;
    struct arena arena = {0};
    const struct filter *filter = compile("{\"any\":\"a\"}", &arena);
    open_database(NULL, &svc, &db);
    uint64_t count = 0, step = 100;
    for (int i = 0; i < 80; i++) {
        for (uint64_t k = 0; k < step; k++)
            put_kind(db, i < 40 ? count++ : --count, i < 40 ? "a" : "b");
        (void)check_now(db, filter);
        (void)check_now(db, filter);
        (void)check_now(db, filter);
        reader_begin(db, &r);
        CHECK_OK(filter_find_rows(&r, filter, false, &rows, &err));
        assert_true(rows.from_cache);
        if (count > LIST_MAX) assert_non_null(rows.bits);
        if (count <= LIST_MAX / 2) assert_non_null(rows.slots);
        filter_rows_deinit(&rows);
        reader_end(&r);
    }
    arena_free(&arena);
    service_release(db);
    test_service_close(svc);
}

/* A thread that must not wait gets what is known, however long it took to find. */
static void known_rows_are_for_every_thread(void **state)
{
    (void)state;
    struct service *svc;
    struct database *db;
    struct err err;
    struct reader r;
    struct filter_rows rows;
    struct arena arena = {0};
    const struct filter *filter = compile("{\"any\":{\"$regex\":\"^a\"}}", &arena);
    open_database(NULL, &svc, &db);
    write_rows(db, 100000, 5000, &(uint64_t){3});
    put_kind(db, 1, "a");
    reader_begin(db, &r);
    assert_int_equal(filter_find_rows(&r, filter, false, &rows, &err), ERR_WOULD_COMPUTE);
    filter_rows_deinit(&rows);
    assert_int_equal(filter_find_rows(&r, filter, false, &rows, &err), ERR_WOULD_COMPUTE);
    filter_rows_deinit(&rows);
    assert_false(check(&r, filter));
    assert_false(check(&r, filter));
    CHECK_OK(filter_find_rows(&r, filter, false, &rows, &err));
    assert_true(rows.from_cache);
    filter_rows_deinit(&rows);
    reader_end(&r);
    put_kind(db, 2, "a");
    reader_begin(db, &r);
    CHECK_OK(filter_find_rows(&r, filter, false, &rows, &err));
    filter_rows_deinit(&rows);
    reader_end(&r);
    arena_free(&arena);
    service_release(db);
    test_service_close(svc);
}

static void put_expiring(struct database *db, uint32_t slot, uint64_t id, uint64_t expires_at_ms)
{
    struct err err;
    uint64_t lsn;
    static const float zero;
    static const char metadata[] = "{\"any\":\"a\"}";
    struct row_op op = {.head = {.kind = WAL_OP_PUT,
                                 .slot = slot,
                                 .key = id,
                                 .expires_at_ms = expires_at_ms,
                                 .metadata_bytes = sizeof metadata - 1,
                                 .record_at = db->store->counts.records_bytes + 1},
                        .metadata = metadata,
                        .vector = &zero,
                        .lsn = db->last_lsn + 1};
    CHECK_OK(database_lock_writer(db, true, &err));
    op.head.row_crc = database_row_crc(db, &op.head, &zero);
    CHECK_OK(database_reserve(db, slot + 1, op.head.record_at + 200, 1, &err));
    CHECK_OK(database_write_rows(db, &op, 1, &err));
    CHECK_OK(database_commit(db, &op, 1, &lsn, &err));
    mutex_unlock(&db->writer);
}

/* Time passes without a write: nothing is kept where rows expire. */
static void rows_that_expire_are_gone_in_time(void **state)
{
    (void)state;
    struct service *svc;
    struct database *db;
    struct reader r;
    struct arena arena = {0};
    const struct filter *filter = compile("{\"any\":\"a\"}", &arena);
    open_database(NULL, &svc, &db);
    for (uint64_t i = 0; i < 10; i++)
        put_kind(db, i, "a");
    for (int i = 0; i < 3; i++)
        (void)check_now(db, filter);
    assert_true(check_now(db, filter));
    put_expiring(db, 10, 77, 5000);
    reader_begin(db, &r);
    for (r.now_ms = 4000; r.now_ms <= 6000; r.now_ms += 500)
        assert_false(check(&r, filter));
    for (r.now_ms = 6000; r.now_ms >= 4000; r.now_ms -= 500)
        assert_false(check(&r, filter)); /* the clock was set */
    reader_end(&r);
    arena_free(&arena);
    service_release(db);
    test_service_close(svc);
}

/* What is kept is counted, and given back with the database. */
static void known_rows_are_counted(void **state)
{
    (void)state;
    struct service *svc;
    struct database *db;
    struct arena arena = {0};
    char *dir = test_dir_new();
    open_database(dir, &svc, &db);
    for (uint64_t i = 0; i < 100; i++)
        put_kind(db, i, "a");
    uint64_t before = database_filter_bytes(db);
    for (int i = 0; i < 50; i++) {
        char text[32];
        snprintf(text, sizeof text, "{\"any\":\"a%d\"}", i);
        const struct filter *filter = compile(text, &arena);
        (void)check_now(db, filter);
        (void)check_now(db, filter);
    }
    assert_true(filter_cache_bytes(db->store->filters) > 50 * sizeof(struct filter_result));
    assert_true(database_filter_bytes(db) >= before + filter_cache_bytes(db->store->filters));
    reopen(dir, &svc, &db);
    assert_int_equal(filter_cache_bytes(db->store->filters), 0);
    arena_free(&arena);
    service_release(db);
    test_service_close(svc);
    test_dir_remove(dir);
}

/* ---- beside a writer ---- */

enum { SHARED_ROWS = 3000, SHARED_WRITES = 4000, READERS = 2, FILTERS = 5 };

struct shared {
    struct database *db;
    _Atomic bool stopping;
    _Atomic unsigned checks, from_cache;
};

/* Every row is a, b or c. */
static const struct filter *shared_filter(int i, struct arena *arena)
{
    static const char *const texts[FILTERS] = {
        "{\"kind\":\"a\"}", "{\"any\":\"b\"}", "{\"kind\":{\"$nin\":[\"a\",\"b\"]}}",
        "{\"any\":{\"$in\":[\"a\",\"c\"]}}", "{\"any\":\"rare\"}"};
    return compile(texts[i], arena);
}

static void *check_all_along(void *arg)
{
    struct shared *sh = arg;
    struct arena arena = {0};
    const struct filter *filters[FILTERS];
    for (int i = 0; i < FILTERS; i++)
        filters[i] = shared_filter(i, &arena);
    while (!sh->stopping) {
        struct reader r;
        reader_begin(sh->db, &r);
        for (int i = 0; i < FILTERS; i++)
            sh->from_cache += check(&r, filters[i]);
        reader_end(&r);
        sh->checks += FILTERS;
    }
    arena_free(&arena);
    return NULL;
}

static void known_rows_are_exact_beside_a_writer(void **state)
{
    (void)state;
    struct service *svc;
    struct shared sh = {.stopping = false};
    pthread_t threads[READERS];
    uint64_t seed = 78;
    open_database(NULL, &svc, &sh.db);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, check_all_along, &sh), 0);
    for (int i = 0; i < SHARED_WRITES || sh.checks < 500; i++) {
        char text[64];
        struct vector_id id = {.number = test_random(&seed) % SHARED_ROWS};
        char kind = "abc"[test_random(&seed) % 3];
        snprintf(text, sizeof text, "{\"kind\":\"%c\",\"any\":\"%c\"}", kind, kind);
        if (test_random(&seed) % 64 == 0) strcpy(text, "{\"kind\":\"c\",\"any\":\"rare\"}");
        if (test_random(&seed) % 5)
            test_put(sh.db, id, &(float){0}, text);
        else
            test_delete(sh.db, id);
        if (i % 1000 == 999) compact(svc);
    }
    sh.stopping = true;
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    assert_true(sh.from_cache > sh.checks / 4);
    service_release(sh.db);
    test_service_close(svc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_rows_are_exact_in_memory),
        cmocka_unit_test(known_rows_are_exact_over_several_chunks),
        cmocka_unit_test(known_rows_are_exact_in_files),
        cmocka_unit_test(known_rows_are_exact_with_more_filters_than_are_kept),
        cmocka_unit_test(from_the_third_use_on_rows_are_known_though_others_are_written),
        cmocka_unit_test(many_rows_are_kept_as_bits_and_few_as_a_list),
        cmocka_unit_test(known_rows_are_for_every_thread),
        cmocka_unit_test(rows_that_expire_are_gone_in_time),
        cmocka_unit_test(known_rows_are_counted),
        cmocka_unit_test(known_rows_are_exact_beside_a_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
