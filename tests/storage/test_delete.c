/* Deletes by filter: all that match then, in one record, and nothing else. */
#include "tests/storage/fixture.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "api/json_filter.h"
#include "storage/filter/filter.h"

enum { ROWS = 2000 };

static const struct filter *compile(const char *text, struct arena *arena)
{
    struct json_scan s;
    struct err err;
    const struct filter *filter = NULL;
    json_scan_init(&s, text, strlen(text), arena);
    CHECK_OK(json_filter(&s, NULL, &filter, &err));
    return filter;
}

static size_t delete_matching(struct database *db, const char *filter, uint64_t *lsn)
{
    struct arena arena = {0};
    struct err err;
    size_t deleted = 99;
    CHECK_OK(database_delete_matching(db, compile(filter, &arena), true, &deleted, lsn, &err));
    arena_free(&arena);
    return deleted;
}

static struct vector_id id_of(uint64_t number, char text[24])
{
    if (number % 2) return (struct vector_id){.number = number};
    snprintf(text, 24, "row/%06" PRIu64, number);
    return test_text_id(text);
}

static void put_row(struct database *db, uint64_t number, unsigned kind)
{
    char text[24], metadata[40];
    snprintf(metadata, sizeof metadata, "{\"kind\":%u}", kind);
    test_put(db, id_of(number, text), (float[2]){1, 2}, metadata);
}

static bool has_row(struct database *db, uint64_t number)
{
    char text[24];
    return !isnan(test_first(db, id_of(number, text)));
}

static void what_matches_goes_and_nothing_else(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    struct service *svc = test_service_open(dir);
    uint64_t lsn;
    test_create(svc, "d", 2, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(svc, "d");
    for (uint64_t i = 0; i < ROWS; i++)
        put_row(db, i, i % 5);
    assert_int_equal(delete_matching(db, "{\"kind\":3}", &lsn), ROWS / 5);
    assert_int_equal(lsn, ROWS + 1); /* one record */
    assert_int_equal(delete_matching(db, "{\"kind\":3}", &lsn), 0);
    assert_int_equal(lsn, ROWS + 1); /* none */
    assert_int_equal(delete_matching(db, "{\"$id\":{\"$in\":[1,\"row/000004\",\"none\"]}}", &lsn),
                     2);
    /* What kill -9 would leave has all of it, too. */
    struct err err;
    CHECK_OK(database_wait(db, lsn, DURABILITY_SYNCED, &err));
    char *copy = test_dir_copy(dir);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(test_count(db), ROWS - ROWS / 5 - 2);
        for (uint64_t i = 0; i < ROWS; i++)
            assert_int_equal(has_row(db, i), i % 5 != 3 && i != 1 && i != 4);
        service_release(db);
        test_service_close(svc);
        svc = test_service_open(copy);
        db = test_acquire(svc, "d");
    }
    assert_int_equal(delete_matching(db, "{}", &lsn), ROWS - ROWS / 5 - 2);
    assert_int_equal(test_count(db), 0);
    service_release(db);
    test_service_close(svc);
    test_dir_remove(copy);
    test_dir_remove(dir);
}

static void many_deletes_are_for_other_threads(void **state)
{
    (void)state;
    struct service *svc = test_service_open(NULL);
    struct arena arena = {0};
    struct err err;
    size_t deleted;
    uint64_t lsn;
    test_create(svc, "d", 2, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(svc, "d");
    for (uint64_t i = 0; i < 300; i++)
        put_row(db, i, i < 10);
    const struct filter *many = compile("{\"kind\":0}", &arena),
                        *few = compile("{\"kind\":1}", &arena);
    assert_int_equal(database_delete_matching(db, many, false, &deleted, &lsn, &err),
                     ERR_WOULD_COMPUTE);
    assert_int_equal(test_count(db), 300);
    CHECK_OK(database_delete_matching(db, few, false, &deleted, &lsn, &err));
    assert_int_equal(deleted, 10);
    arena_free(&arena);
    service_release(db);
    test_service_close(svc);
}

/* ---- beside writers and compactions ---- */

struct shared {
    struct service *svc;
    struct database *db;
    _Atomic bool stopping;
    _Atomic uint64_t writes;
};

static void *write_all_along(void *arg)
{
    struct shared *sh = arg;
    uint64_t seed = 5;
    while (!sh->stopping) {
        put_row(sh->db, test_random(&seed) % ROWS, test_random(&seed) % 3);
        sh->writes++;
    }
    return NULL;
}

static void *compact_all_along(void *arg)
{
    struct shared *sh = arg;
    struct err err;
    struct compact_result result;
    while (!sh->stopping)
        CHECK_OK(service_compact(sh->svc, "d", &result, &err));
    return NULL;
}

static bool is_newer(void *ctx, const struct row *row)
{
    uint64_t lsn = *(uint64_t *)ctx;
    if (strstr(row->metadata, "\"kind\":1") && row->version <= lsn)
        fail_msg("a row of LSN %" PRIu64 " survived the delete of LSN %" PRIu64, row->version, lsn);
    return true;
}

static void nothing_that_matches_survives_beside_a_writer(void **state)
{
    (void)state;
    struct shared sh = {.svc = test_service_open(NULL)};
    pthread_t writer, compactor;
    test_create(sh.svc, "d", 2, METRIC_EUCLIDEAN);
    sh.db = test_acquire(sh.svc, "d");
    for (uint64_t i = 0; i < ROWS; i++)
        put_row(sh.db, i, i % 3);
    assert_int_equal(pthread_create(&writer, NULL, write_all_along, &sh), 0);
    assert_int_equal(pthread_create(&compactor, NULL, compact_all_along, &sh), 0);
    uint64_t total = 0;
    for (int i = 0; i < 100 || sh.writes < 2000; i++) {
        uint64_t lsn;
        struct err err;
        struct reader r;
        bool more;
        total += delete_matching(sh.db, "{\"kind\":1}", &lsn);
        reader_begin(sh.db, &r);
        CHECK_OK(reader_list(&r, NULL, NULL, 0, ROWS, is_newer, &lsn, &more, &err));
        reader_end(&r);
    }
    sh.stopping = true;
    pthread_join(writer, NULL);
    pthread_join(compactor, NULL);
    assert_true(total > ROWS / 3);
    service_release(sh.db);
    test_service_close(sh.svc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_matches_goes_and_nothing_else),
        cmocka_unit_test(many_deletes_are_for_other_threads),
        cmocka_unit_test(nothing_that_matches_survives_beside_a_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
