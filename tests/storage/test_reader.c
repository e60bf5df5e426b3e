/* A reader follows links that a file claims: to the right row, or to an error, and to an end. */
#include <sched.h>

#include "tests/storage/fixture.h"

#include "storage/database_private.h"

struct fixture {
    char *dir;
    struct service *svc;
    struct database *db;
};

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    fx->dir = test_dir_new();
    fx->svc = test_service_open(fx->dir);
    test_create(fx->svc, "a", 4, METRIC_EUCLIDEAN);
    fx->db = test_acquire(fx->svc, "a");
    alarm(100); /* for links in a circle */
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    alarm(0);
    service_release(fx->db);
    if (service_close(fx->svc, &err)) err.msg[0] = '\0'; /* what was damaged is not flushed */
    test_dir_remove(fx->dir);
    free(fx);
    return 0;
}

static struct vector_id number_id(uint64_t number)
{
    return (struct vector_id){.number = number};
}

static bool take_any(void *ctx, const struct row *row)
{
    ++*(uint64_t *)ctx;
    return row != NULL;
}

static enum err_code list_all(struct reader *r, uint64_t *rows, struct err *err)
{
    bool more;
    *rows = 0;
    return reader_list(r, NULL, NULL, 0, SIZE_MAX, take_any, rows, &more, err);
}

static struct slot *slot_of(struct fixture *fx, uint64_t number)
{
    struct vector_id id = number_id(number);
    struct index_key key = index_key_of(&id);
    uint32_t slot = 0;
    mutex_lock(&fx->db->writer);
    assert_int_equal(id_index_find(&fx->db->store->index, &key, &slot), INDEX_FOUND);
    struct slot *s = jvdb_file_change(&fx->db->store->file, REGION_SLOTS, slot);
    mutex_unlock(&fx->db->writer);
    return s;
}

static void a_missing_row_is_named(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct reader r;
    struct row row;
    struct vector_id id = test_text_id("nobody");
    test_put_number(fx->db, 1, 1);
    reader_begin(fx->db, &r);
    assert_int_equal(reader_get(&r, &id, &row, &err), ERR_VECTOR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "nobody"));
    assert_non_null(strstr(err.msg, "\"a\""));
    reader_end(&r);
}

/* A hundred versions back. */
static void every_reader_follows_a_row_back_to_its_own_time(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    enum { VERSIONS = 100 };
    static struct reader readers[VERSIONS];
    for (int i = 0; i < VERSIONS; i++) {
        if (i % 10 == 9)
            test_delete(fx->db, number_id(1));
        else
            test_put_number(fx->db, 1, (float)i);
        test_put_number(fx->db, 2, (float)i);
        reader_begin(fx->db, &readers[i]);
    }
    for (int i = VERSIONS - 1; i >= 0; i--) {
        struct row row;
        struct vector_id one = number_id(1), two = number_id(2);
        if (i % 10 == 9) {
            assert_int_equal(reader_get(&readers[i], &one, &row, &err), ERR_VECTOR_NOT_FOUND);
        } else {
            CHECK_OK(reader_get(&readers[i], &one, &row, &err));
            assert_true(row.vector[0] == (float)i);
        }
        CHECK_OK(reader_get(&readers[i], &two, &row, &err));
        assert_true(row.vector[0] == (float)i);
        uint64_t rows;
        CHECK_OK(list_all(&readers[i], &rows, &err));
        assert_int_equal(rows, i % 10 == 9 ? 1 : 2);
        assert_int_equal(reader_count(&readers[i]), rows);
        reader_end(&readers[i]);
    }
}

struct look {
    const struct snapshot *snapshot;
    uint64_t rows;
    float first;
    enum err_code rc;
};

static void *look_at_snapshot(void *arg)
{
    struct look *l = arg;
    struct err err;
    struct reader r;
    struct row row;
    struct vector_id id = number_id(1);
    reader_begin_at(l->snapshot, &r);
    l->rc = reader_get(&r, &id, &row, &err);
    if (!l->rc) l->first = row.vector[0];
    if (!l->rc) l->rc = list_all(&r, &l->rows, &err);
    reader_end(&r);
    return NULL;
}

static void readers_on_several_threads_share_a_snapshot(void **state)
{
    struct fixture *fx = *state;
    struct snapshot snapshot;
    for (uint64_t i = 1; i <= 50; i++)
        test_put_number(fx->db, i, 7);
    snapshot_take(fx->db, &snapshot);
    for (uint64_t i = 1; i <= 50; i++) {
        test_put_number(fx->db, i, 8);
        test_put_number(fx->db, 100 + i, 8);
        if (i % 2) test_delete(fx->db, number_id(i));
    }
    pthread_t threads[4];
    struct look looks[4];
    for (int i = 0; i < 4; i++) {
        looks[i] = (struct look){.snapshot = &snapshot};
        assert_int_equal(pthread_create(&threads[i], NULL, look_at_snapshot, &looks[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(looks[i].rc, ERR_OK);
        assert_int_equal(looks[i].rows, 50);
        assert_true(looks[i].first == 7);
    }
    const uint64_t epoch = epoch_now();
    assert_false(epoch_passed(epoch));
    snapshot_drop(&snapshot);
    while (!epoch_passed(epoch)) /* but for a thread in the background */
        sched_yield();
}

struct kept {
    const char *metadata[500];
    uint32_t bytes[500];
    const float *vectors[500];
    size_t count;
};

static bool keep(void *ctx, const struct row *row)
{
    struct kept *k = ctx;
    assert_true(k->count < 500);
    k->metadata[k->count] = row->metadata;
    k->bytes[k->count] = row->metadata_bytes;
    k->vectors[k->count++] = row->vector;
    return true;
}

/* Long metadata straddles extents often, and is pieced together. */
static void listed_rows_stay_until_the_reader_ends(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    static char metadata[8001];
    static struct kept k;
    k.count = 0;
    for (unsigned i = 0; i < 300; i++) {
        memset(metadata, 'a' + (int)(i % 26), 8000);
        int n = snprintf(metadata, 40, "{\"i\":\"%03u", i);
        metadata[n] = 'x';
        memcpy(metadata + 7998, "\"}", 3);
        test_put(fx->db, number_id(i), (const float[]){(float)i, 0, 0, 0}, metadata);
    }
    struct reader r;
    bool more;
    reader_begin(fx->db, &r);
    CHECK_OK(reader_list(&r, NULL, NULL, 0, 500, keep, &k, &more, &err));
    for (unsigned i = 0; i < 300; i++) /* meanwhile */
        test_put_number(fx->db, i, -1);
    assert_int_equal(k.count, 300);
    for (unsigned i = 0; i < 300; i++) {
        memset(metadata, 'a' + (int)(i % 26), 8000);
        int n = snprintf(metadata, 40, "{\"i\":\"%03u", i);
        metadata[n] = 'x';
        memcpy(metadata + 7998, "\"}", 3);
        assert_int_equal(k.bytes[i], 8000);
        assert_memory_equal(k.metadata[i], metadata, 8000);
        assert_true(k.vectors[i][0] == (float)i);
    }
    reader_end(&r);
}

static void expect_quarantine(struct fixture *fx)
{
    struct err err;
    struct reader r;
    struct row row;
    uint64_t rows, lsn;
    struct vector_id id = number_id(1);
    reader_begin(fx->db, &r);
    assert_int_equal(reader_get(&r, &id, &row, &err), ERR_QUARANTINED);
    assert_int_equal(list_all(&r, &rows, &err), ERR_QUARANTINED);
    reader_end(&r);
    struct row_input input = {.id = id, .vector = (const float[]){1, 2, 3, 4}};
    assert_int_equal(database_put(fx->db, &input, 1, 4, true, &lsn, &err), ERR_QUARANTINED);
}

static void versions_in_a_circle_are_damage(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct reader r;
    struct row row;
    struct vector_id id = number_id(1);
    test_put_number(fx->db, 1, 1);
    reader_begin(fx->db, &r);
    test_put_number(fx->db, 1, 2);
    test_put_number(fx->db, 1, 3);
    struct slot *s = slot_of(fx, 1);
    s->replaced = 3; /* slot 2: itself */
    assert_int_equal(reader_get(&r, &id, &row, &err), ERR_CORRUPT);
    reader_end(&r);
    expect_quarantine(fx);
}

static void a_version_that_is_nowhere_is_damage(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct reader r;
    struct row row;
    struct vector_id id = number_id(1);
    test_put_number(fx->db, 1, 1);
    reader_begin(fx->db, &r);
    test_put_number(fx->db, 1, 2);
    slot_of(fx, 1)->replaced = UINT32_MAX;
    assert_int_equal(reader_get(&r, &id, &row, &err), ERR_CORRUPT);
    reader_end(&r);
    expect_quarantine(fx);
}

static void leaves_in_a_circle_are_damage(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    for (uint64_t i = 0; i < 400; i++)
        test_put_number(fx->db, i, 1);
    mutex_lock(&fx->db->writer);
    struct index_node *first = jvdb_file_change(&fx->db->store->file, REGION_ID_INDEX, 0);
    assert_int_equal(first->level, 0);
    first->right = 1; /* node 0: itself */
    mutex_unlock(&fx->db->writer);
    struct reader r;
    uint64_t rows;
    reader_begin(fx->db, &r);
    assert_int_equal(list_all(&r, &rows, &err), ERR_CORRUPT);
    reader_end(&r);
    expect_quarantine(fx);
}

static void a_record_of_another_row_is_damage(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct reader r;
    struct row row;
    struct vector_id id = number_id(1);
    test_put(fx->db, id, (const float[]){1, 2, 3, 4}, "{\"a\":1}");
    slot_of(fx, 1)->record_at = 1 << 20;
    reader_begin(fx->db, &r);
    assert_int_equal(reader_get(&r, &id, &row, &err), ERR_CORRUPT);
    reader_end(&r);
    expect_quarantine(fx);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_missing_row_is_named),
        TEST(every_reader_follows_a_row_back_to_its_own_time),
        TEST(readers_on_several_threads_share_a_snapshot),
        TEST(listed_rows_stay_until_the_reader_ends),
        TEST(versions_in_a_circle_are_damage),
        TEST(a_version_that_is_nowhere_is_damage),
        TEST(leaves_in_a_circle_are_damage),
        TEST(a_record_of_another_row_is_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
