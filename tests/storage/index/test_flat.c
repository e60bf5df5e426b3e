/* Exact search finds what a plain loop over doubles finds, ties and limits included. */
#include "tests/storage/fixture.h"

struct fixture {
    struct service *svc;
};

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    fx->svc = test_service_open(NULL);
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    test_service_close(fx->svc);
    free(fx);
    return 0;
}

enum { ROWS = 400, DIMENSION_TOP = 67, HITS = 1000 };

static struct vector_id number_id(uint64_t number)
{
    return (struct vector_id){.number = number};
}

/* ---- the plain loop ---- */

struct wanted {
    struct vector_id id;
    double distance, score;
};

static void plain(enum metric metric, const float *a, const float *b, uint32_t dimension,
                  double *distance, double *score)
{
    double dot = 0, aa = 0, bb = 0, l1 = 0, l2 = 0;
    for (uint32_t i = 0; i < dimension; i++) {
        double x = (double)a[i], y = (double)b[i];
        dot += x * y;
        aa += x * x;
        bb += y * y;
        l1 += fabs(x - y);
        l2 += (x - y) * (x - y);
    }
    switch (metric) {
    case METRIC_COSINE:
        *score = aa == 0 || bb == 0 ? 0 : dot / sqrt(aa) / sqrt(bb);
        *distance = 1 - *score;
        return;
    case METRIC_EUCLIDEAN:
        *distance = sqrt(l2);
        *score = 1 / (1 + *distance);
        return;
    case METRIC_DOT_PRODUCT:
        *score = dot;
        *distance = -dot;
        return;
    default:
        *distance = l1;
        *score = 1 / (1 + l1);
    }
}

static int nearer(const void *a, const void *b)
{
    const struct wanted *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return vector_id_compare(&x->id, &y->id);
}

static struct search_hit hits[HITS];

static size_t search(struct database *db, const struct search_query *q, struct reader *r)
{
    struct err err;
    size_t count;
    reader_begin(db, r);
    CHECK_OK(reader_search(r, q, true, hits, &count, NULL, &err));
    assert_true(count <= q->top_k);
    return count;
}

static bool close_to(double a, double b)
{
    return fabs(a - b) <= 1e-12 * (1 + fabs(a) + fabs(b));
}

struct rows {
    float vectors[ROWS][DIMENSION_TOP];
    struct vector_id ids[ROWS];
    char texts[ROWS][16];
    bool dead[ROWS];
};

static void make_rows(struct rows *rows, struct database *db, uint32_t dimension, uint64_t seed)
{
    for (size_t i = 0; i < ROWS; i++) {
        for (uint32_t k = 0; k < dimension; k++)
            rows->vectors[i][k] = test_random_float(&seed);
        rows->dead[i] = false;
        rows->ids[i] = number_id(test_random(&seed) >> 1);
        if (i % 3 == 0) {
            snprintf(rows->texts[i], 16, "t%u", (unsigned)i);
            rows->ids[i] = test_text_id(rows->texts[i]);
        }
        test_put(db, rows->ids[i], rows->vectors[i], i % 5 ? NULL : "{\"a\":1}");
    }
}

static size_t plain_search(const struct rows *rows, enum metric metric, const float *query,
                           uint32_t dimension, struct wanted *wanted)
{
    size_t count = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (rows->dead[i]) continue;
        wanted[count].id = rows->ids[i];
        plain(metric, query, rows->vectors[i], dimension, &wanted[count].distance,
              &wanted[count].score);
        count++;
    }
    qsort(wanted, count, sizeof *wanted, nearer);
    return count;
}

static void check_hits(const struct wanted *wanted, size_t count, size_t got)
{
    assert_int_equal(got, count);
    for (size_t i = 0; i < count; i++) {
        assert_true(close_to(hits[i].distance, wanted[i].distance));
        assert_true(close_to(hits[i].score, wanted[i].score));
        /* Random rows are never this close to each other, so the order is sure. */
        assert_int_equal(vector_id_compare(&hits[i].row.id, &wanted[i].id), 0);
    }
}

static void every_metric_matches_a_plain_loop(void **state)
{
    struct fixture *fx = *state;
    static const uint32_t dimensions[] = {2, 3, 16, 31, DIMENSION_TOP};
    static struct rows rows;
    static struct wanted wanted[ROWS];
    uint64_t seed = 5;
    for (size_t d = 0; d < sizeof dimensions / sizeof dimensions[0]; d++) {
        for (int metric = 0; metric < METRIC_COUNT; metric++) {
            char name[32];
            snprintf(name, sizeof name, "m%d-%u", metric, dimensions[d]);
            test_create(fx->svc, name, dimensions[d], (enum metric)metric);
            struct database *db = test_acquire(fx->svc, name);
            make_rows(&rows, db, dimensions[d], 10 + d);
            for (size_t i = 0; i < ROWS; i += 7) {
                rows.dead[i] = true;
                test_delete(db, rows.ids[i]);
            }
            for (int round = 0; round < 6; round++) {
                float query[DIMENSION_TOP];
                for (uint32_t k = 0; k < dimensions[d]; k++)
                    query[k] = test_random_float(&seed);
                size_t count =
                    plain_search(&rows, (enum metric)metric, query, dimensions[d], wanted);
                size_t top_k = 1 + test_random(&seed) % 50, offset = test_random(&seed) % 50;
                struct search_query q = {.vector = query, .top_k = top_k, .offset = offset};
                struct reader r;
                size_t got = search(db, &q, &r);
                check_hits(wanted + offset, top_k, got);
                reader_end(&r);
                q = (struct search_query){.vector = query, .top_k = HITS};
                got = search(db, &q, &r);
                check_hits(wanted, count, got);
                for (size_t i = 0; i < count; i += 11)
                    assert_int_equal(hits[i].row.metadata_bytes % 5, 2); /* {} or {"a":1} */
                reader_end(&r);
            }
            service_release(db);
        }
    }
}

static void ties_are_broken_by_id_with_integers_first(void **state)
{
    struct fixture *fx = *state;
    static const char *const texts[] = {"b", "a", "aa", "abcdefgh", "abcdefghi", "Z"};
    static const char *const sorted[] = {"Z", "a", "aa", "abcdefgh", "abcdefghi", "b"};
    static const uint64_t numbers[] = {10, 2, INT64_MAX, 0, 300, 20};
    static const uint64_t ascending[] = {0, 2, 10, 20, 300, INT64_MAX};
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", metric);
        test_create(fx->svc, name, 3, (enum metric)metric);
        struct database *db = test_acquire(fx->svc, name);
        const float same[] = {0.1f, 0.7f, -0.3f};
        for (int i = 0; i < 6; i++) {
            test_put(db, test_text_id(texts[i]), same, NULL);
            test_put(db, number_id(numbers[i]), same, NULL);
        }
        for (size_t top_k = 1; top_k <= 13; top_k++) {
            struct search_query q = {.vector = (const float[]){1, 2, 3}, .top_k = top_k};
            struct reader r;
            size_t count = search(db, &q, &r);
            assert_int_equal(count, top_k < 12 ? top_k : 12);
            for (size_t i = 0; i < count; i++) {
                assert_true(hits[i].distance == hits[0].distance);
                struct vector_id want =
                    i < 6 ? number_id(ascending[i]) : test_text_id(sorted[i - 6]);
                assert_int_equal(vector_id_compare(&hits[i].row.id, &want), 0);
            }
            reader_end(&r);
        }
        service_release(db);
    }
}

static void offset_and_top_k_page_through_all_rows(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "p", 2, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(fx->svc, "p");
    for (uint64_t i = 0; i < 95; i++)
        test_put_number(db, i, (float)i);
    for (size_t offset = 0; offset < 120; offset += 10) {
        struct search_query q = {.vector = (const float[]){0, 0}, .top_k = 10, .offset = offset};
        struct reader r;
        size_t count = search(db, &q, &r);
        assert_int_equal(count, offset + 10 <= 95 ? 10 : offset < 95 ? 95 - offset : 0);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(hits[i].row.id.number, offset + i);
        reader_end(&r);
    }
    static const size_t refused[][2] = {{0, 0}, {20001, 0}, {1, 20000}, {10, SIZE_MAX}};
    struct reader r;
    size_t count;
    reader_begin(db, &r);
    for (int i = 0; i < 4; i++) {
        struct search_query q = {
            .vector = (const float[]){0, 0}, .top_k = refused[i][0], .offset = refused[i][1]};
        assert_int_equal(reader_search(&r, &q, true, hits, &count, NULL, &err),
                         ERR_INVALID_REQUEST);
    }
    struct search_query q = {.vector = (const float[]){0, NAN}, .top_k = 1};
    assert_int_equal(reader_search(&r, &q, true, hits, &count, NULL, &err), ERR_INVALID_VECTOR);
    reader_end(&r);
    service_release(db);
}

static void limits_of_score_and_distance_are_inclusive(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "l", 1, METRIC_MANHATTAN);
    test_create(fx->svc, "d", 1, METRIC_DOT_PRODUCT);
    struct database *l1 = test_acquire(fx->svc, "l"), *dot = test_acquire(fx->svc, "d");
    for (uint64_t i = 0; i < 10; i++) {
        test_put_number(l1, i, (float)i);
        test_put_number(dot, i, (float)i - 5);
    }
    struct reader r;
    const float zero = 0, one = 1;
    struct search_query q = {.vector = &zero, .top_k = 100, .has_max_distance = true};
    q.max_distance = 3;
    assert_int_equal(search(l1, &q, &r), 4);
    reader_end(&r);
    q.max_distance = 2.999;
    assert_int_equal(search(l1, &q, &r), 3);
    reader_end(&r);
    q.max_distance = -1;
    assert_int_equal(search(l1, &q, &r), 0);
    reader_end(&r);
    q = (struct search_query){.vector = &zero, .top_k = 100, .has_min_score = true};
    q.min_score = 0.25; /* 1/(1+3) */
    assert_int_equal(search(l1, &q, &r), 4);
    reader_end(&r);
    q.offset = 3;
    assert_int_equal(search(l1, &q, &r), 1);
    assert_int_equal(hits[0].row.id.number, 3);
    reader_end(&r);
    q = (struct search_query){.vector = &one, .top_k = 100, .has_min_score = true};
    q.min_score = 0; /* negative products are further away */
    assert_int_equal(search(dot, &q, &r), 5);
    assert_true(hits[0].score == 4 && hits[0].distance == -4);
    reader_end(&r);
    q.min_score = -2;
    assert_int_equal(search(dot, &q, &r), 7);
    reader_end(&r);
    q.has_max_distance = true;
    q.max_distance = -1;
    assert_int_equal(search(dot, &q, &r), 4);
    reader_end(&r);
    service_release(l1);
    service_release(dot);
}

static void the_excluded_row_leaves_its_place_to_the_next(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "x", 2, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(fx->svc, "x");
    for (uint64_t i = 0; i < 10; i++)
        test_put_number(db, i, (float)i);
    test_put(db, test_text_id("zero"), (const float[]){0, 0}, NULL);
    struct vector_id ids[] = {number_id(0), test_text_id("zero"), number_id(77)};
    for (int i = 0; i < 3; i++) {
        struct search_query q = {.vector = (const float[]){0, 0}, .top_k = 3, .exclude = &ids[i]};
        struct reader r;
        assert_int_equal(search(db, &q, &r), 3);
        for (int k = 0; k < 3; k++)
            assert_int_not_equal(vector_id_compare(&hits[k].row.id, &ids[i]), 0);
        assert_int_equal(hits[2].row.id.number, i == 2 ? 1 : 2);
        reader_end(&r);
    }
    service_release(db);
}

static void a_zero_vector_is_one_away_from_everything_under_cosine(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "z", 2, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "z");
    test_put(db, number_id(1), (const float[]){0, 0}, NULL);
    test_put(db, number_id(2), (const float[]){1, 1}, NULL);
    test_put(db, number_id(3), (const float[]){-1, -1}, NULL);
    test_put(db, number_id(4), (const float[]){1e-30f, 1e-30f}, NULL); /* small, not zero */
    struct reader r;
    struct search_query q = {.vector = (const float[]){3, 3}, .top_k = 9};
    assert_int_equal(search(db, &q, &r), 4);
    assert_int_equal(hits[2].row.id.number, 1);
    assert_true(hits[2].distance == 1 && hits[2].score == 0);
    assert_int_equal(hits[3].row.id.number, 3);
    assert_true(close_to(hits[0].distance, 0) && close_to(hits[1].distance, 0));
    assert_true(close_to(hits[3].distance, 2) && close_to(hits[3].score, -1));
    assert_true(hits[3].distance <= 2 && hits[0].distance >= 0);
    reader_end(&r);
    q.vector = (const float[]){0, -0.0f};
    assert_int_equal(search(db, &q, &r), 4);
    for (uint64_t i = 0; i < 4; i++)
        assert_true(hits[i].distance == 1 && hits[i].row.id.number == i + 1);
    reader_end(&r);
    service_release(db);
}

static void the_greatest_numbers_give_finite_distances(void **state)
{
    struct fixture *fx = *state;
    const float most = 3.4028234e38f;
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        char name[16];
        snprintf(name, sizeof name, "g%d", metric);
        test_create(fx->svc, name, 4, (enum metric)metric);
        struct database *db = test_acquire(fx->svc, name);
        test_put(db, number_id(1), (const float[]){most, most, most, most}, NULL);
        test_put(db, number_id(2), (const float[]){-most, -most, -most, -most}, NULL);
        struct search_query q = {.vector = (const float[]){most, most, most, most}, .top_k = 9};
        struct reader r;
        assert_int_equal(search(db, &q, &r), 2);
        assert_int_equal(hits[0].row.id.number, 1);
        for (int i = 0; i < 2; i++)
            assert_true(isfinite(hits[i].distance) && isfinite(hits[i].score));
        reader_end(&r);
        service_release(db);
    }
}

static void deleted_and_replaced_rows_are_never_found(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "n", 2, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(fx->svc, "n");
    uint64_t seed = 8;
    bool there[200] = {false};
    float where[200] = {0};
    for (int step = 0; step < 3000; step++) {
        uint64_t i = test_random(&seed) % 200;
        if (test_random(&seed) % 2) {
            where[i] = (float)step;
            there[i] = true;
            test_put_number(db, i, where[i]);
        } else {
            assert_int_equal(test_delete(db, number_id(i)), there[i]);
            there[i] = false;
        }
        if (step % 50) continue;
        struct search_query q = {.vector = (const float[]){0, 0}, .top_k = HITS};
        struct reader r;
        size_t count = search(db, &q, &r), expected = 0;
        for (size_t k = 0; k < 200; k++)
            expected += there[k];
        assert_int_equal(count, expected);
        for (size_t k = 0; k < count; k++) {
            uint64_t id = hits[k].row.id.number;
            assert_true(there[id] && hits[k].distance == (double)where[id]);
        }
        reader_end(&r);
    }
    service_release(db);
}

static void an_empty_database_has_no_nearest_row(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "e", 2, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "e");
    struct search_query q = {.vector = (const float[]){1, 0}, .top_k = 10};
    struct reader r;
    assert_int_equal(search(db, &q, &r), 0);
    reader_end(&r);
    test_put_number(db, 1, 1);
    test_delete(db, number_id(1));
    assert_int_equal(search(db, &q, &r), 0);
    reader_end(&r);
    service_release(db);
}

static void a_long_scan_is_left_to_who_may_block(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "w", DIMENSION_MAX, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "w");
    float *query = calloc(DIMENSION_MAX, sizeof *query);
    assert_non_null(query);
    query[0] = 1;
    for (uint64_t i = 0; i < 8; i++) {
        test_put_number(db, i, 1);
        struct search_query q = {.vector = query, .top_k = 10};
        struct reader r;
        size_t count;
        reader_begin(db, &r);
        enum err_code rc = reader_search(&r, &q, false, hits, &count, NULL, &err);
        assert_int_equal(rc, i < 6 ? ERR_OK : ERR_WOULD_COMPUTE);
        if (!rc) assert_int_equal(count, i + 1);
        CHECK_OK(reader_search(&r, &q, true, hits, &count, NULL, &err));
        assert_int_equal(count, i + 1);
        reader_end(&r);
    }
    free(query);
    service_release(db);

    /* Short rows are work, too. */
    test_create(fx->svc, "n", 1, METRIC_EUCLIDEAN);
    db = test_acquire(fx->svc, "n");
    for (uint64_t i = 0; i < 8000; i++)
        test_put_number(db, i, (float)i);
    struct search_query q = {.vector = (const float[]){0}, .top_k = 1};
    struct reader r;
    size_t count;
    reader_begin(db, &r);
    assert_int_equal(reader_search(&r, &q, false, hits, &count, NULL, &err), ERR_WOULD_COMPUTE);
    reader_end(&r);
    service_release(db);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_metric_matches_a_plain_loop),
        TEST(ties_are_broken_by_id_with_integers_first),
        TEST(offset_and_top_k_page_through_all_rows),
        TEST(limits_of_score_and_distance_are_inclusive),
        TEST(the_excluded_row_leaves_its_place_to_the_next),
        TEST(a_zero_vector_is_one_away_from_everything_under_cosine),
        TEST(the_greatest_numbers_give_finite_distances),
        TEST(deleted_and_replaced_rows_are_never_found),
        TEST(an_empty_database_has_no_nearest_row),
        TEST(a_long_scan_is_left_to_who_may_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
