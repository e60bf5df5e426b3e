/* One suite, both engines: what a database promises does not depend on where it lies. */
#include "tests/storage/fixture.h"

#include <float.h>
#include <pthread.h>
#include <stdatomic.h>

static enum engine_kind engine;

struct fixture {
    char *dir; /* NULL: in memory */
    struct service *svc;
};

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    if (engine == ENGINE_PERSISTENT) fx->dir = test_dir_new();
    fx->svc = test_service_open(fx->dir);
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    test_service_close(fx->svc);
    if (fx->dir) test_dir_remove(fx->dir);
    free(fx);
    return 0;
}

static struct vector_id number_id(uint64_t number)
{
    return (struct vector_id){.number = number};
}

static void flush(struct fixture *fx, const char *name)
{
    struct err err;
    double ms;
    CHECK_OK(service_flush(fx->svc, name, &ms, &err));
}

/* ---- databases ---- */

static void a_database_exists_from_create_to_drop(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct database *db;
    assert_int_equal(service_acquire(fx->svc, "a", true, &db, &err), ERR_DATABASE_NOT_FOUND);
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    db = test_acquire(fx->svc, "a");
    assert_string_equal(database_name(db), "a");
    assert_int_equal(database_schema(db)->dimension, 3);
    test_put_number(db, 1, 1);
    service_release(db);
    CHECK_OK(service_drop(fx->svc, "a", &err));
    assert_int_equal(service_drop(fx->svc, "a", &err), ERR_DATABASE_NOT_FOUND);
    assert_int_equal(service_acquire(fx->svc, "a", true, &db, &err), ERR_DATABASE_NOT_FOUND);
    /* The next of that name has nothing of the last. */
    test_create(fx->svc, "a", 5, METRIC_MANHATTAN);
    db = test_acquire(fx->svc, "a");
    assert_int_equal(database_schema(db)->dimension, 5);
    assert_int_equal(test_count(db), 0);
    assert_true(isnan(test_first(db, number_id(1))));
    service_release(db);
}

static void an_existing_name_is_refused_or_compared(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    bool created = true;
    struct schema schema = {.dimension = 3, .metric = METRIC_DOT_PRODUCT, .options = "{\"a\":1}"};
    CHECK_OK(service_create(fx->svc, "a", &schema, true, &created, &err));
    assert_true(created);
    assert_int_equal(service_create(fx->svc, "a", &schema, false, &created, &err),
                     ERR_DATABASE_EXISTS);
    CHECK_OK(service_create(fx->svc, "a", &schema, true, &created, &err));
    assert_false(created);
    struct schema other = schema;
    other.dimension = 4;
    assert_int_equal(service_create(fx->svc, "a", &other, true, &created, &err), ERR_CONFLICT);
    other = schema;
    other.metric = METRIC_COSINE;
    assert_int_equal(service_create(fx->svc, "a", &other, true, &created, &err), ERR_CONFLICT);
    other = schema;
    other.durability = DURABILITY_PERIODIC;
    assert_int_equal(service_create(fx->svc, "a", &other, true, &created, &err), ERR_CONFLICT);
    other = schema;
    other.options = "{\"a\":2}";
    assert_int_equal(service_create(fx->svc, "a", &other, true, &created, &err), ERR_CONFLICT);

    struct database_info info;
    CHECK_OK(service_info(fx->svc, "a", true, &info, &err));
    assert_string_equal(info.schema.options, "{\"a\":1}");
    database_info_deinit(&info);
}

static void wrong_names_and_schemas_are_refused(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    bool created;
    static const char *const names[] = {"", ".a", "-a", "a/b", "a b", "x.jvdb", "\xc3\xa9", ".."};
    struct schema schema = {.dimension = 3};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(service_create(fx->svc, names[i], &schema, false, &created, &err),
                         ERR_INVALID_NAME);
    schema.dimension = 0;
    assert_int_equal(service_create(fx->svc, "a", &schema, false, &created, &err),
                     ERR_INVALID_REQUEST);
    schema.dimension = DIMENSION_MAX + 1;
    assert_int_equal(service_create(fx->svc, "a", &schema, false, &created, &err),
                     ERR_INVALID_REQUEST);
}

static void databases_are_listed_by_name_in_pages(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    static const char *const names[] = {"b2", "a", "b10", "c", "b1", "B", "b"};
    static const char *const sorted[] = {"b", "b1", "b10", "b2"};
    for (size_t i = 0; i < 7; i++)
        test_create(fx->svc, names[i], 1 + (uint32_t)i, METRIC_COSINE);
    struct database_info *infos;
    size_t count, total;
    bool more;
    CHECK_OK(service_list(fx->svc, NULL, NULL, 100, true, &infos, &count, &total, &more, &err));
    assert_true(count == 7 && total == 7 && !more);
    assert_string_equal(infos[0].name, "B");
    assert_string_equal(infos[6].name, "c");
    service_list_free(infos, count);

    const char *after = NULL;
    char last[NAME_BYTES_MAX + 1];
    for (size_t i = 0; i < 4; i++) {
        CHECK_OK(service_list(fx->svc, after, "b", 1, true, &infos, &count, &total, &more, &err));
        assert_true(count == 1 && total == 4 && more == (i < 3));
        assert_string_equal(infos[0].name, sorted[i]);
        memcpy(last, infos[0].name, sizeof last);
        after = last;
        service_list_free(infos, count);
    }
    CHECK_OK(service_list(fx->svc, "b2", "b", 9, true, &infos, &count, &total, &more, &err));
    assert_true(count == 0 && total == 4 && !more);
    service_list_free(infos, count);
}

/* ---- rows ---- */

static float finite_bits(uint64_t *seed)
{
    for (;;) {
        uint32_t bits = (uint32_t)test_random(seed);
        float x;
        memcpy(&x, &bits, sizeof x);
        if (isfinite(x)) return x;
    }
}

static void check_row(struct database *db, struct vector_id id, const float *vector,
                      const char *metadata, uint64_t version)
{
    struct err err;
    struct reader r;
    struct row row;
    size_t bytes = database_schema(db)->dimension * sizeof(float);
    reader_begin(db, &r);
    CHECK_OK(reader_get(&r, &id, &row, &err));
    assert_int_equal(vector_id_compare(&row.id, &id), 0);
    assert_memory_equal(row.vector, vector, bytes);
    assert_int_equal(row.metadata_bytes, strlen(metadata));
    assert_memory_equal(row.metadata, metadata, row.metadata_bytes);
    assert_int_equal(row.version, version);
    assert_int_equal(row.expires_at_ms, 0);
    reader_end(&r);
}

static void every_finite_number_comes_back_bit_for_bit(void **state)
{
    struct fixture *fx = *state;
    static const uint32_t dimensions[] = {1, 17, DIMENSION_MAX};
    uint64_t seed = 1;
    float *vector = calloc(DIMENSION_MAX, sizeof *vector);
    assert_non_null(vector);
    for (int d = 0; d < 3; d++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", d);
        test_create(fx->svc, name, dimensions[d], METRIC_EUCLIDEAN);
        struct database *db = test_acquire(fx->svc, name);
        static const float odd[] = {-0.0f, FLT_TRUE_MIN, -FLT_MAX, FLT_MIN, 0.1f};
        for (uint64_t i = 0; i < 12; i++) {
            for (uint32_t k = 0; k < dimensions[d]; k++)
                vector[k] = finite_bits(&seed);
            if (i < 5) vector[dimensions[d] - 1] = odd[i];
            uint64_t lsn = test_put(db, number_id(i), vector, NULL);
            check_row(db, number_id(i), vector, "{}", lsn);
            if (i == 7) flush(fx, name);
        }
        assert_int_equal(test_count(db), 12);
        service_release(db);
    }
    free(vector);
}

static void metadata_comes_back_as_it_was_sent(void **state)
{
    struct fixture *fx = *state;
    static char longest[METADATA_BYTES_MAX + 1];
    memset(longest, ' ', METADATA_BYTES_MAX);
    memcpy(longest, "{\"k\":1", 6);
    longest[METADATA_BYTES_MAX - 1] = '}';
    const char *const texts[] = {"{}", "{ }", "{\"b\" : 1.50e+00,\"a\":\"\\u00e9\xc3\xa9\"}",
                                 longest, "{\"x\":1}"};
    test_create(fx->svc, "m", 2, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "m");
    const float vector[] = {1, 2};
    uint64_t versions[5];
    for (uint64_t i = 0; i < 5; i++)
        versions[i] = test_put(db, number_id(i), vector, texts[i]);
    for (uint64_t i = 0; i < 5; i++)
        check_row(db, number_id(i), vector, texts[i], versions[i]);
    uint64_t lsn = test_put(db, number_id(2), vector, "{\"new\":true}");
    check_row(db, number_id(2), vector, "{\"new\":true}", lsn);
    lsn = test_put(db, number_id(2), vector, NULL);
    check_row(db, number_id(2), vector, "{}", lsn);
    service_release(db);
}

static void ids_of_512_bytes_are_told_apart(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "i", 1, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "i");
    char text[ID_BYTES_MAX];
    memset(text, 'x', sizeof text);
    for (uint32_t bytes = ID_BYTES_MAX; bytes > 500; bytes--) {
        float x = (float)bytes;
        test_put(db, (struct vector_id){.text = text, .text_bytes = bytes}, &x, "{\"a\":1}");
    }
    for (uint32_t bytes = ID_BYTES_MAX; bytes > 500; bytes--)
        assert_true(test_first(db, (struct vector_id){.text = text, .text_bytes = bytes}) ==
                    (float)bytes);
    text[511] = 'y';
    assert_true(isnan(test_first(db, (struct vector_id){.text = text, .text_bytes = 512})));
    assert_true(isnan(test_first(db, (struct vector_id){.text = text, .text_bytes = 500})));
    assert_int_equal(test_count(db), 12);
    service_release(db);
}

static void an_upsert_says_whether_it_replaced(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "u", 1, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "u");
    float x[] = {1, 2, 3};
    struct row_input rows[] = {{.id = number_id(1), .vector = &x[0]},
                               {.id = test_text_id("one"), .vector = &x[1]},
                               {.id = number_id(2), .vector = &x[2]}};
    uint64_t first, second, lsn;
    CHECK_OK(database_put(db, rows, 2, 1, true, &first, &err));
    assert_false(rows[0].replaced || rows[1].replaced);
    CHECK_OK(database_put(db, rows, 3, 1, true, &second, &err));
    assert_true(rows[0].replaced && rows[1].replaced && !rows[2].replaced);
    assert_int_equal(second, first + 1);
    assert_int_equal(test_delete(db, number_id(1)), 1);
    CHECK_OK(database_put(db, rows, 3, 1, true, &lsn, &err));
    assert_true(!rows[0].replaced && rows[1].replaced && rows[2].replaced);
    assert_int_equal(test_count(db), 3);
    service_release(db);
}

static void of_repeated_ids_in_a_batch_the_last_stays(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "r", 1, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "r");
    float x[9];
    struct row_input rows[9];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 9; i++) {
            x[i] = (float)(round * 100 + i + 1);
            rows[i] = (struct row_input){.id = number_id((uint64_t)i % 3), .vector = &x[i]};
            if (i % 3 == 2) rows[i].id = test_text_id("two");
        }
        uint64_t lsn;
        CHECK_OK(database_put(db, rows, 9, 1, true, &lsn, &err));
        assert_int_equal(test_count(db), 3);
        assert_true(test_first(db, number_id(0)) == (float)(round * 100 + 7));
        assert_true(test_first(db, number_id(1)) == (float)(round * 100 + 8));
        assert_true(test_first(db, test_text_id("two")) == (float)(round * 100 + 9));
        flush(fx, "r");
    }
    service_release(db);
}

static void a_bad_row_refuses_its_whole_batch(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    static char too_long[METADATA_BYTES_MAX + 1];
    memset(too_long, ' ', sizeof too_long);
    test_create(fx->svc, "b", 2, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "b");
    uint64_t before = test_put_number(db, 7, 7), lsn = 0;
    float good[] = {1, 2}, nan[] = {1, NAN}, infinite[] = {-INFINITY, 0};
    struct row_input rows[] = {{.id = number_id(1), .vector = good},
                               {.id = number_id(7), .vector = good},
                               {.assign_id = true, .vector = nan}};
    assert_int_equal(database_put(db, rows, 3, 2, true, &lsn, &err), ERR_INVALID_VECTOR);
    rows[2].vector = infinite;
    assert_int_equal(database_put(db, rows, 3, 2, true, &lsn, &err), ERR_INVALID_VECTOR);
    rows[2].vector = good;
    rows[2].metadata = too_long;
    rows[2].metadata_bytes = sizeof too_long;
    assert_int_equal(database_put(db, rows, 3, 2, true, &lsn, &err), ERR_INVALID_REQUEST);
    rows[2].metadata_bytes = 0;
    assert_int_equal(database_put(db, rows, 3, 3, true, &lsn, &err), ERR_DIMENSION_MISMATCH);
    assert_int_equal(database_put(db, rows, 3, 1, true, &lsn, &err), ERR_DIMENSION_MISMATCH);
    assert_int_equal(database_put(db, rows, 0, 2, true, &lsn, &err), ERR_INVALID_REQUEST);

    assert_int_equal(test_count(db), 1);
    assert_true(isnan(test_first(db, number_id(1))) && test_first(db, number_id(7)) == 7);
    assert_int_equal(test_put_number(db, 8, 8), before + 1); /* no LSN was spent */
    service_release(db);
}

static uint64_t put_assigned(struct database *db)
{
    struct err err;
    float x = 1;
    struct row_input row = {.assign_id = true, .vector = &x};
    uint64_t lsn;
    CHECK_OK(database_put(db, &row, 1, 1, true, &lsn, &err));
    assert_null(row.id.text);
    assert_false(row.replaced);
    return row.id.number;
}

static void assigned_ids_follow_the_highest_number(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "n", 1, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "n");
    assert_int_equal(put_assigned(db), 1);
    assert_int_equal(put_assigned(db), 2);
    test_put_number(db, 40, 1);
    test_put(db, test_text_id("99x"), &(float){1}, NULL);
    assert_int_equal(put_assigned(db), 41);
    test_delete(db, number_id(41));
    assert_int_equal(put_assigned(db), 42); /* never the same twice */

    float x[] = {1, 2, 3, 4};
    struct row_input rows[] = {{.assign_id = true, .vector = &x[0]},
                               {.id = number_id(50), .vector = &x[1]},
                               {.assign_id = true, .vector = &x[2]},
                               {.id = number_id(10), .vector = &x[3]}};
    uint64_t lsn;
    CHECK_OK(database_put(db, rows, 4, 1, true, &lsn, &err));
    assert_int_equal(rows[0].id.number, 43);
    assert_int_equal(rows[2].id.number, 51);
    assert_true(test_first(db, number_id(43)) == 1 && test_first(db, number_id(51)) == 3);

    test_put_number(db, INT64_MAX - 1, 1);
    assert_int_equal(put_assigned(db), INT64_MAX);
    uint64_t count = test_count(db);
    struct row_input row = {.assign_id = true, .vector = x};
    assert_int_equal(database_put(db, &row, 1, 1, true, &lsn, &err), ERR_CONFLICT);
    assert_int_equal(test_count(db), count);
    service_release(db);
}

static void a_delete_counts_what_existed_once(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "d", 1, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "d");
    for (uint64_t i = 0; i < 10; i++)
        test_put_number(db, i, 1);
    uint64_t last = test_put(db, test_text_id("text"), &(float){1}, NULL), lsn;
    struct vector_id ids[] = {number_id(3), number_id(77),       number_id(3), test_text_id("text"),
                              number_id(4), test_text_id("tex"), number_id(3)};
    size_t deleted;
    CHECK_OK(database_delete(db, ids, 7, true, &deleted, &lsn, &err));
    assert_int_equal(deleted, 3);
    assert_int_equal(lsn, last + 1);
    assert_int_equal(test_count(db), 8);
    CHECK_OK(database_delete(db, ids, 7, true, &deleted, &lsn, &err));
    assert_true(deleted == 0 && lsn == last + 1);
    assert_true(isnan(test_first(db, number_id(3))) && isnan(test_first(db, number_id(4))));
    assert_true(isnan(test_first(db, test_text_id("text"))) && test_first(db, number_id(5)) == 1);
    service_release(db);
}

/* ---- listing ---- */

struct page {
    struct vector_id ids[512]; /* texts copied */
    char texts[512][40];
    size_t count;
    size_t stop_after; /* 0: never */
};

static bool take_row(void *ctx, const struct row *row)
{
    struct page *p = ctx;
    assert_true(p->count < 512);
    p->ids[p->count] = row->id;
    if (row->id.text) {
        assert_true(row->id.text_bytes < 40);
        memcpy(p->texts[p->count], row->id.text, row->id.text_bytes);
        p->ids[p->count].text = p->texts[p->count];
    }
    return ++p->count != p->stop_after;
}

static bool list(struct database *db, const struct vector_id *after, const char *prefix,
                 size_t limit, struct page *page)
{
    struct err err;
    struct reader r;
    bool more;
    page->count = 0;
    reader_begin(db, &r);
    CHECK_OK(reader_list(&r, after, prefix, prefix ? strlen(prefix) : 0, limit, take_row, page,
                         &more, &err));
    reader_end(&r);
    for (size_t i = 1; i < page->count; i++)
        assert_true(vector_id_compare(&page->ids[i - 1], &page->ids[i]) < 0);
    if (after && page->count) assert_true(vector_id_compare(after, &page->ids[0]) < 0);
    return more;
}

static void rows_are_listed_in_id_order_with_prefix_and_cursor(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "l", 1, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "l");
    static const char *const texts[] = {"a",        "ab",        "ab!", "abc",
                                        "abcdefgh", "abcdefghi", "b",   "ac"};
    for (size_t i = 0; i < 8; i++)
        test_put(db, test_text_id(texts[i]), &(float){1}, NULL);
    for (uint64_t i = 0; i < 300; i++)
        test_put_number(db, i * 7 % 300, 1);

    static struct page page;
    assert_false(list(db, NULL, NULL, 500, &page));
    assert_int_equal(page.count, 308);
    assert_true(page.ids[299].number == 299 && page.ids[300].text);
    assert_false(list(db, NULL, NULL, 308, &page));
    assert_true(list(db, NULL, NULL, 307, &page));
    assert_true(list(db, NULL, NULL, 0, &page));
    assert_int_equal(page.count, 0);

    assert_false(list(db, NULL, "ab", 500, &page));
    assert_int_equal(page.count, 5);
    assert_false(list(db, NULL, "abcdefgh", 500, &page));
    assert_int_equal(page.count, 2);
    assert_false(list(db, NULL, "abcdefghi", 500, &page));
    assert_int_equal(page.count, 1);
    assert_false(list(db, NULL, "zz", 500, &page));
    assert_int_equal(page.count, 0);
    assert_true(list(db, NULL, "ab", 1, &page));
    assert_true(list(db, NULL, "ab", 4, &page));
    assert_false(list(db, NULL, "ab", 5, &page));
    assert_true(list(db, NULL, "ab", 0, &page));
    struct vector_id after = test_text_id("ab!");
    assert_false(list(db, &after, "ab", 500, &page));
    assert_int_equal(page.count, 3);
    after = test_text_id("ab");
    assert_false(list(db, &after, "ab", 500, &page));
    assert_int_equal(page.count, 4);
    after = number_id(5);
    assert_false(list(db, &after, "ab", 500, &page));
    assert_int_equal(page.count, 5);
    after = test_text_id("ad");
    assert_false(list(db, &after, "ab", 500, &page));
    assert_int_equal(page.count, 0);

    after = number_id(250);
    assert_false(list(db, &after, NULL, 500, &page));
    assert_int_equal(page.count, 49 + 8);
    page.stop_after = 3;
    list(db, NULL, NULL, 500, &page);
    assert_int_equal(page.count, 3);
    page.stop_after = 0;
    test_delete(db, number_id(0));
    test_delete(db, test_text_id("ab"));
    assert_false(list(db, NULL, NULL, 306, &page));
    assert_false(list(db, NULL, "ab", 4, &page));
    assert_int_equal(page.count, 4);
    service_release(db);
}

struct update_while_listing {
    struct database *db;
    uint64_t numbers[8];
    size_t count;
};

static bool update_nine(void *ctx, const struct row *row)
{
    struct update_while_listing *u = ctx;
    assert_true(u->count < 8);
    u->numbers[u->count++] = row->id.number;
    if (row->id.number == 0) test_put_number(u->db, 9, 2); /* takes the slot of 5 or 6 */
    return true;
}

static void a_slot_used_again_for_another_id_is_not_taken_for_the_old_one(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "s", 4, METRIC_COSINE);
    struct update_while_listing u = {.db = test_acquire(fx->svc, "s")};
    for (uint64_t number = 0; number < 10; number++)
        test_put_number(u.db, number, 1);
    assert_int_equal(test_delete(u.db, number_id(5)), 1);
    assert_int_equal(test_delete(u.db, number_id(6)), 1);
    flush(fx, "s");
    test_put_number(u.db, 20, 1); /* in memory, slots become free one write later */
    struct reader r;
    bool more;
    reader_begin(u.db, &r);
    CHECK_OK(reader_list(&r, NULL, NULL, 0, 8, update_nine, &u, &more, &err));
    reader_end(&r);
    static const uint64_t expected[8] = {0, 1, 2, 3, 4, 7, 8, 9};
    assert_int_equal(u.count, 8);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(u.numbers[i], expected[i]);
    service_release(u.db);
}

struct early_reader {
    struct database *db;
    pthread_barrier_t step;
};

static void *hold_a_reader(void *arg)
{
    struct early_reader *e = arg;
    struct reader r;
    reader_begin(e->db, &r);
    pthread_barrier_wait(&e->step);
    pthread_barrier_wait(&e->step);
    reader_end(&r);
    pthread_barrier_wait(&e->step);
    return NULL;
}

static void an_id_that_comes_back_in_its_old_slot_has_no_past_in_a_circle(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct reader r;
    struct row row;
    test_create(fx->svc, "o", 2, METRIC_EUCLIDEAN);
    struct early_reader e = {.db = test_acquire(fx->svc, "o")};
    pthread_t thread;
    pthread_barrier_init(&e.step, NULL, 2);
    test_put_number(e.db, 1, 1);
    assert_int_equal(test_delete(e.db, number_id(1)), 1);
    assert_int_equal(pthread_create(&thread, NULL, hold_a_reader, &e), 0);
    pthread_barrier_wait(&e.step);
    test_put_number(e.db, 7, 1);
    flush(fx, "o");
    reader_begin(e.db, &r);
    test_put_number(e.db, 1, 2); /* the early reader keeps the first slot from being used */
    pthread_barrier_wait(&e.step);
    pthread_barrier_wait(&e.step);
    test_put_number(e.db, 1, 3); /* and now it is, by the successor of its successor */
    enum err_code rc = reader_get(&r, &(struct vector_id){.number = 1}, &row, &err);
    reader_end(&r);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&e.step);
    assert_int_equal(rc, ERR_VECTOR_NOT_FOUND);
    assert_true(test_first(e.db, number_id(1)) == 3);
    service_release(e.db);
}

struct churn {
    struct database *db;
    _Atomic bool done;
};

/* Odd numbers come, change and go. */
static void *churn_odd_numbers(void *arg)
{
    struct churn *c = arg;
    uint64_t seed = 9;
    while (!atomic_load(&c->done)) {
        uint64_t number = test_random(&seed) % 2000 * 2 + 1;
        if (test_random(&seed) % 3)
            test_put_number(c->db, number, 1);
        else
            test_delete(c->db, number_id(number));
    }
    return NULL;
}

static void a_cursor_meets_every_row_once_while_others_write(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "c", 4, METRIC_COSINE);
    struct churn c = {.db = test_acquire(fx->svc, "c")};
    for (uint64_t i = 0; i < 2000; i++)
        test_put_number(c.db, 2 * i, 1);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, churn_odd_numbers, &c), 0);
    static struct page page;
    for (int round = 0; round < 8; round++) {
        struct vector_id after, *from = NULL;
        uint64_t expected = 0;
        bool more;
        do {
            more = list(c.db, from, NULL, 100, &page);
            assert_true(page.count == 100 || !more);
            for (size_t i = 0; i < page.count; i++) {
                if (page.ids[i].number % 2) continue;
                assert_int_equal(page.ids[i].number, expected);
                expected += 2;
            }
            if (page.count) after = page.ids[page.count - 1];
            from = &after;
        } while (more);
        assert_int_equal(expected, 4000);
    }
    atomic_store(&c.done, true);
    pthread_join(thread, NULL);
    service_release(c.db);
}

/* ---- snapshots ---- */

static size_t search_all(struct reader *r, const float *vector, struct search_hit *hits)
{
    struct err err;
    size_t count;
    struct search_query q = {.vector = vector, .top_k = 100};
    CHECK_OK(reader_search(r, &q, true, hits, &count, NULL, &err));
    return count;
}

static void a_reader_sees_the_moment_it_began(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "s", 1, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(fx->svc, "s");
    for (uint64_t i = 0; i < 50; i++)
        test_put_number(db, i, (float)i);
    struct reader r;
    static struct page page;
    static struct search_hit hits[100];
    bool more;
    reader_begin(db, &r);
    for (int round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < 20; i++)
            test_put_number(db, i, 1000);
        for (uint64_t i = 20; i < 30; i++)
            test_delete(db, number_id(i));
        for (uint64_t i = 100; i < 140; i++)
            test_put_number(db, i, 5);
        for (uint64_t i = 20; i < 30; i++)
            test_put_number(db, i, 2000);
        flush(fx, "s");

        assert_int_equal(reader_count(&r), 50);
        for (uint64_t i = 0; i < 50; i++) {
            struct row row;
            struct vector_id id = number_id(i);
            CHECK_OK(reader_get(&r, &id, &row, &err));
            assert_true(row.vector[0] == (float)i);
        }
        struct row row;
        struct vector_id id = number_id(100);
        assert_int_equal(reader_get(&r, &id, &row, &err), ERR_VECTOR_NOT_FOUND);
        page.count = 0;
        CHECK_OK(reader_list(&r, NULL, NULL, 0, 500, take_row, &page, &more, &err));
        assert_int_equal(page.count, 50);
        size_t count = search_all(&r, &(float){0}, hits);
        assert_int_equal(count, 50);
        for (uint64_t i = 0; i < 50; i++)
            assert_true(hits[i].row.id.number == i && hits[i].row.vector[0] == (float)i);
    }
    reader_end(&r);
    assert_int_equal(test_count(db), 90);
    assert_true(test_first(db, number_id(3)) == 1000 && test_first(db, number_id(25)) == 2000);
    service_release(db);
}

enum { BATCH = 40, BATCH_READERS = 2 };

struct tearing {
    struct database *db;
    _Atomic bool done;
    _Atomic unsigned looks;
};

static const char *look_at_batch(struct reader *r, unsigned how)
{
    struct err err;
    static _Thread_local struct search_hit hits[100];
    uint64_t count = reader_count(r);
    if (count != 0 && count != BATCH) return "half a batch is counted";
    float seen = -1;
    if (how % 2) {
        size_t found = search_all(r, (const float[]){0, 0}, hits);
        if (found != count) return "a search finds half a batch";
        for (size_t i = 0; i < found; i++) {
            if (i && hits[i].row.vector[0] != hits[0].row.vector[0])
                return "a search finds two batches";
            if (hits[i].row.version != hits[0].row.version) return "two versions";
        }
        return NULL;
    }
    for (uint64_t i = 0; i < BATCH; i++) {
        struct row row;
        struct vector_id id = number_id(i);
        enum err_code rc = reader_get(r, &id, &row, &err);
        if (rc && rc != ERR_VECTOR_NOT_FOUND) return "an error";
        float x = rc ? -2 : row.vector[0];
        if (!rc && row.vector[1] != (float)i) return "a row of another";
        if (i && x != seen) return "two batches at once";
        seen = x;
    }
    return (seen == -2) == (count == 0) ? NULL : "rows and counts differ";
}

static void *look_at_batches(void *arg)
{
    struct tearing *t = arg;
    const char *wrong = NULL;
    for (unsigned i = 0; !wrong && !atomic_load(&t->done); i++) {
        struct reader r;
        reader_begin(t->db, &r);
        wrong = look_at_batch(&r, i);
        reader_end(&r);
        atomic_fetch_add(&t->looks, 1);
    }
    return (void *)(uintptr_t)wrong;
}

static void a_batch_is_never_half_visible(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "t", 2, METRIC_EUCLIDEAN);
    struct tearing t = {.db = test_acquire(fx->svc, "t")};
    pthread_t threads[BATCH_READERS];
    for (int i = 0; i < BATCH_READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, look_at_batches, &t), 0);
    for (unsigned round = 0; round < 400 || atomic_load(&t.looks) < 200; round++) {
        float x[BATCH][2];
        struct row_input rows[BATCH];
        struct vector_id ids[BATCH];
        uint64_t lsn;
        size_t deleted;
        for (uint64_t i = 0; i < BATCH; i++) {
            x[i][0] = (float)round;
            x[i][1] = (float)i;
            ids[i] = number_id(i);
            rows[i] = (struct row_input){.id = ids[i], .vector = x[i]};
        }
        CHECK_OK(database_put(t.db, rows, BATCH, 2, true, &lsn, &err));
        if (round % 5 == 4) CHECK_OK(database_delete(t.db, ids, BATCH, true, &deleted, &lsn, &err));
        if (round % 16 == 0) flush(fx, "t");
    }
    atomic_store(&t.done, true);
    for (int i = 0; i < BATCH_READERS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        if (wrong) fail_msg("%s", (const char *)wrong);
    }
    service_release(t.db);
}

/* ---- space ---- */

static void updates_use_the_same_space_again(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "g", 64, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "g");
    uint64_t early = 0;
    for (int round = 0; round < 60; round++) {
        for (uint64_t i = 0; i < 100; i++)
            test_put_number(db, i, (float)round);
        flush(fx, "g");
        if (round == 6) early = test_info(fx->svc, "g").file_bytes;
    }
    struct database_info info = test_info(fx->svc, "g");
    assert_int_equal(info.vector_count, 100);
    if (info.file_bytes > 2 * early)
        fail_msg("%llu bytes grew to %llu", (unsigned long long)early,
                 (unsigned long long)info.file_bytes);
    assert_true(info.deleted_count <= 500);
    for (uint64_t i = 0; i < 100; i++)
        assert_true(test_first(db, number_id(i)) == 59);
    service_release(db);
}

static void new_ids_use_the_space_of_dead_ones(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "h", 64, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "h");
    uint64_t early = 0;
    for (uint64_t round = 0; round < 60; round++) {
        for (uint64_t i = 0; i < 100; i++)
            test_put_number(db, round * 100 + i, 1);
        for (uint64_t i = 0; round && i < 100; i++)
            assert_int_equal(test_delete(db, number_id((round - 1) * 100 + i)), 1);
        flush(fx, "h");
        if (round == 6) early = test_info(fx->svc, "h").file_bytes;
    }
    assert_true(test_info(fx->svc, "h").file_bytes <= 2 * early);
    static struct page page;
    list(db, NULL, NULL, 500, &page);
    assert_int_equal(page.count, 100);
    assert_int_equal(page.ids[0].number, 5900);
    service_release(db);
}

static void an_old_reader_holds_the_rows_it_may_see(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "o", 8, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "o");
    for (uint64_t i = 0; i < 30; i++)
        test_put_number(db, i, (float)(i + 1));
    flush(fx, "o");
    struct reader r;
    reader_begin(db, &r);
    for (int round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < 30; i++)
            test_put_number(db, i, -1);
        flush(fx, "o");
        for (uint64_t i = 0; i < 30; i++) {
            struct row row;
            struct vector_id id = number_id(i);
            CHECK_OK(reader_get(&r, &id, &row, &err));
            assert_true(row.vector[0] == (float)(i + 1));
        }
    }
    reader_end(&r);
    service_release(db);
}

/* ---- against a model ---- */

enum { MODEL_IDS = 120, MODEL_STEPS = 1500 };

struct model {
    bool exists[MODEL_IDS];
    float first[MODEL_IDS];
    char metadata[MODEL_IDS][64];
    uint64_t version[MODEL_IDS];
    uint64_t count;
};

static struct vector_id model_id(unsigned i, char text[32])
{
    if (i % 2) return number_id(i);
    snprintf(text, 32, i % 4 ? "k%u" : "a long common start %u", i);
    return test_text_id(text);
}

static void check_model(struct database *db, const struct model *m)
{
    struct err err;
    struct reader r;
    char text[32];
    assert_int_equal(test_count(db), m->count);
    for (unsigned i = 0; i < MODEL_IDS; i++) {
        struct vector_id id = model_id(i, text);
        if (m->exists[i]) {
            float vector[3] = {m->first[i], 1, 2};
            check_row(db, id, vector, m->metadata[i], m->version[i]);
        } else {
            assert_true(isnan(test_first(db, id)));
        }
    }
    static struct search_hit hits[100];
    static struct page page;
    bool more;
    reader_begin(db, &r);
    page.count = 0;
    CHECK_OK(reader_list(&r, NULL, NULL, 0, 500, take_row, &page, &more, &err));
    size_t found = search_all(&r, (const float[]){0, 1, 2}, hits);
    reader_end(&r);
    assert_int_equal(page.count, m->count);
    assert_int_equal(found, m->count < 100 ? m->count : 100);
}

static void anything_in_any_order_matches_a_model(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    static struct model m;
    memset(&m, 0, sizeof m);
    uint64_t seed = 77, lsn;
    test_create(fx->svc, "model", 3, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(fx->svc, "model");
    for (int step = 0; step < MODEL_STEPS; step++) {
        unsigned count = 1 + (unsigned)(test_random(&seed) % 12), what = test_random(&seed) % 40;
        unsigned which[12];
        char texts[12][32], metadata[12][64];
        float vectors[12][3];
        struct row_input rows[12];
        struct vector_id ids[12];
        for (unsigned i = 0; i < count; i++) {
            which[i] = (unsigned)(test_random(&seed) % MODEL_IDS);
            ids[i] = model_id(which[i], texts[i]);
            memcpy(vectors[i], (float[]){test_random_float(&seed), 1, 2}, sizeof vectors[i]);
            snprintf(metadata[i], 64, which[i] % 3 ? "{\"step\":%d}" : "{}", step);
            rows[i] = (struct row_input){.id = ids[i],
                                         .vector = vectors[i],
                                         .metadata = metadata[i],
                                         .metadata_bytes = (uint32_t)strlen(metadata[i])};
        }
        if (what < 24) {
            CHECK_OK(database_put(db, rows, count, 3, true, &lsn, &err));
            for (unsigned i = 0; i < count; i++) {
                unsigned k = which[i];
                m.count += !m.exists[k];
                m.exists[k] = true;
                m.first[k] = vectors[i][0];
                m.version[k] = lsn;
                memcpy(m.metadata[k], metadata[i], 64);
            }
        } else if (what < 34) {
            size_t deleted, expected = 0;
            for (unsigned i = 0; i < count; i++) {
                expected += m.exists[which[i]];
                m.exists[which[i]] = false;
            }
            m.count -= expected;
            CHECK_OK(database_delete(db, ids, count, true, &deleted, &lsn, &err));
            assert_int_equal(deleted, expected);
        } else if (what < 38) {
            flush(fx, "model");
        } else {
            if (what == 39 && fx->dir) {
                service_release(db);
                test_service_close(fx->svc);
                fx->svc = test_service_open(fx->dir);
                db = test_acquire(fx->svc, "model");
            }
            check_model(db, &m);
        }
    }
    check_model(db, &m);
    service_release(db);
}

/* ---- all of it, twice ---- */

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_database_exists_from_create_to_drop),
        TEST(an_existing_name_is_refused_or_compared),
        TEST(wrong_names_and_schemas_are_refused),
        TEST(databases_are_listed_by_name_in_pages),
        TEST(every_finite_number_comes_back_bit_for_bit),
        TEST(metadata_comes_back_as_it_was_sent),
        TEST(ids_of_512_bytes_are_told_apart),
        TEST(an_upsert_says_whether_it_replaced),
        TEST(of_repeated_ids_in_a_batch_the_last_stays),
        TEST(a_bad_row_refuses_its_whole_batch),
        TEST(assigned_ids_follow_the_highest_number),
        TEST(a_delete_counts_what_existed_once),
        TEST(rows_are_listed_in_id_order_with_prefix_and_cursor),
        TEST(a_slot_used_again_for_another_id_is_not_taken_for_the_old_one),
        TEST(an_id_that_comes_back_in_its_old_slot_has_no_past_in_a_circle),
        TEST(a_cursor_meets_every_row_once_while_others_write),
        TEST(a_reader_sees_the_moment_it_began),
        TEST(a_batch_is_never_half_visible),
        TEST(updates_use_the_same_space_again),
        TEST(new_ids_use_the_space_of_dead_ones),
        TEST(an_old_reader_holds_the_rows_it_may_see),
        TEST(anything_in_any_order_matches_a_model),
    };
    engine = ENGINE_MEMORY;
    int failed = cmocka_run_group_tests_name("in memory", tests, NULL, NULL);
    engine = ENGINE_PERSISTENT;
    return failed + cmocka_run_group_tests_name("persistent", tests, NULL, NULL);
}
