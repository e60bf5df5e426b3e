/* Searches while rows are pending: what was written is found, by its code too. */
#include "tests/storage/index/graph_db.h"

#include <math.h>

#include "storage/base/arena.h"
#include "storage/filter/filter.h"

#if defined(__SANITIZE_THREAD__)
enum { ROWS = 2000, MORE = 200 };
#else
enum { ROWS = 3000, MORE = 400 };
#endif
enum { K = 10 };

static struct err err;

/* Codes for what is pending, but no links: as between two steps of the linker. */
static void encode_pending(struct database *db)
{
    struct vector_index *ix = db->store->vectors;
    struct vector_index_rest rest;
    mutex_lock(vector_index_mutex(ix));
    struct graph *g = vector_index_graph(ix, UINT64_MAX, &rest);
    assert_non_null(g);
    assert_int_equal(graph_reserve(g, db->store->counts.slot_count, &err), ERR_OK);
    for (uint64_t i = rest.head; i < rest.tail; i++) {
        uint32_t slot = rest.slots[i & rest.mask];
        const float *row = jvdb_file_read(&db->store->file, REGION_VECTORS, slot);
        assert_true(graph_encode(g, slot, row, graph_db_slot(db, slot)->generation));
    }
    atomic_store(&ix->encoded, rest.tail);
    mutex_unlock(vector_index_mutex(ix));
}

static struct database *database_with_pending_rows(void)
{
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, ROWS, 1);
    graph_db_link(db, CODEC_INT8);
    graph_db_put(db, ROWS, ROWS + MORE, 1);
    encode_pending(db);
    return db;
}

static void put_vector(struct database *db, uint64_t id, const float *vector)
{
    struct row_input row = {.id.number = id, .vector = vector};
    uint64_t lsn;
    if (database_put(db, &row, 1, GRAPH_DB_DIMENSION, true, &lsn, &err)) fail_msg("%s", err.msg);
}

struct answer {
    size_t count;
    uint64_t id[K];
    double distance[K];
    struct search_report report;
};

static struct answer ask_reader(struct reader *r, const struct search_query *q)
{
    struct search_hit hits[K];
    struct answer a;
    if (reader_search(r, q, true, hits, &a.count, &a.report, &err)) fail_msg("%s", err.msg);
    for (size_t i = 0; i < a.count; i++) {
        a.id[i] = hits[i].row.id.number;
        a.distance[i] = hits[i].distance;
    }
    return a;
}

static struct answer ask(struct database *db, const struct search_query *q)
{
    struct reader r;
    reader_begin(db, &r);
    struct answer a = ask_reader(&r, q);
    reader_end(&r);
    return a;
}

static void pending_rows_are_found_by_their_codes(void **state)
{
    (void)state;
    struct database *db = database_with_pending_rows();
    float query[GRAPH_DB_DIMENSION];
    size_t good = 0;
    for (uint64_t id = ROWS; id < ROWS + MORE; id++) {
        graph_db_vector(id, 1, query);
        struct search_query q = {.vector = query, .top_k = K};
        struct answer got = ask(db, &q);
        q.exact = true;
        struct answer want = ask(db, &q);
        assert_int_equal(got.report.strategy, SEARCH_GRAPH);
        assert_int_equal(got.report.unlinked, MORE);
        assert_true(got.report.row_distances < 128); /* most were not compared as rows */
        assert_int_equal(got.count, K);
        assert_int_equal(got.id[0], id);
        for (size_t i = 0; i < K; i++)
            good += got.distance[i] <= want.distance[K - 1];
    }
    if (good < 0.98 * K * MORE) fail_msg("%zu of %d", good, K * MORE);
    graph_db_close(db);
}

/* No row is answered twice when it is linked already and still among the pending. */
static void rows_between_pending_and_linked_are_found_once(void **state)
{
    (void)state;
    struct database *db = database_with_pending_rows();
    struct graph *g = graph_db_graph(db);
    float query[GRAPH_DB_DIMENSION];
    for (uint32_t slot = ROWS; slot < ROWS + MORE; slot += 2)
        assert_true(graph_link(g, slot, 0, NULL));
    for (uint64_t id = ROWS; id < ROWS + MORE; id++) {
        graph_db_vector(id, 1, query);
        struct search_query q = {.vector = query, .top_k = K, .oversampling = 1};
        struct answer a = ask(db, &q);
        assert_int_equal(a.report.strategy, SEARCH_GRAPH);
        assert_int_equal(a.count, K);
        assert_int_equal(a.id[0], id);
        for (size_t i = 0; i < K; i++)
            for (size_t k = 0; k < i; k++)
                assert_int_not_equal(a.id[i], a.id[k]);
    }
    graph_db_close(db);
}

static void filters_are_for_pending_rows_as_well(void **state)
{
    (void)state;
    struct database *db = database_with_pending_rows();
    struct arena arena = {0};
    float query[GRAPH_DB_DIMENSION];
    /* Few enough to compare the codes of all, and so many that a walk is cheaper. */
    const uint64_t first[] = {ROWS / 2, 100};
    for (int i = 0; i < 2; i++) {
        struct value from = {.kind = VALUE_NUMBER, .number = number_from_u64(first[i])};
        struct filter_node node = {
            .op = FILTER_GTE, .values = &from, .value_count = 1, .where = "id"};
        const struct filter *filter;
        assert_int_equal(filter_compile(&node, NULL, &arena, &filter, &err), ERR_OK);
        for (uint64_t id = ROWS; id < ROWS + MORE; id++) {
            graph_db_vector(id, 1, query);
            struct search_query q = {.vector = query, .top_k = K, .filter = filter};
            struct answer a = ask(db, &q);
            assert_int_equal(a.report.strategy, SEARCH_FILTERED_GRAPH);
            assert_true(a.report.row_distances < 128);
            assert_int_equal(a.count, K);
            assert_int_equal(a.id[0], id);
            for (size_t k = 0; k < K; k++)
                assert_true(a.id[k] >= first[i]);
        }
        struct value below = {.kind = VALUE_NUMBER, .number = number_from_u64(ROWS - 1)};
        node.op = FILTER_LT; /* no pending row matches */
        node.values = &below;
        assert_int_equal(filter_compile(&node, NULL, &arena, &filter, &err), ERR_OK);
        struct search_query q = {.vector = query, .top_k = K, .filter = filter};
        struct answer a = ask(db, &q);
        for (size_t k = 0; k < K; k++)
            assert_true(a.id[k] < ROWS - 1);
    }
    arena_free(&arena);
    graph_db_close(db);
}

/* Of the last 100 rows each is compared; of the last 600 most are by their codes only. */
static void few_rows_that_match_are_compared_at_once(void **state)
{
    (void)state;
    struct database *db = database_with_pending_rows();
    struct arena arena = {0};
    float query[GRAPH_DB_DIMENSION];
    const uint64_t last[] = {100, 600};
    size_t good = 0, all = 0;
    for (int i = 0; i < 2; i++) {
        struct value from = {.kind = VALUE_NUMBER,
                             .number = number_from_u64(ROWS + MORE - last[i])};
        struct filter_node node = {
            .op = FILTER_GTE, .values = &from, .value_count = 1, .where = "id"};
        const struct filter *filter;
        assert_int_equal(filter_compile(&node, NULL, &arena, &filter, &err), ERR_OK);
        for (uint64_t id = 0; id < 100; id++) {
            graph_db_vector(id, 1, query);
            struct search_query q = {.vector = query, .top_k = K, .filter = filter};
            struct answer got = ask(db, &q);
            q.exact = true;
            struct answer want = ask(db, &q);
            assert_int_equal(got.report.allowed, last[i]);
            assert_int_equal(got.report.strategy, i ? SEARCH_FILTERED_GRAPH : SEARCH_EXACT);
            assert_true(i ? got.report.row_distances <= 64 : got.report.row_distances == last[i]);
            assert_int_equal(got.count, K);
            for (size_t k = 0; k < K; k++)
                good += got.distance[k] <= want.distance[K - 1];
            all += K;
        }
    }
    assert_true(good >= 0.995 * (double)all);
    arena_free(&arena);
    graph_db_close(db);
}

static const struct filter *last_rows(uint64_t rows, uint64_t of, struct value *from,
                                      struct arena *arena)
{
    *from = (struct value){.kind = VALUE_NUMBER, .number = number_from_u64(of - rows)};
    struct filter_node node = {.op = FILTER_GTE, .values = from, .value_count = 1, .where = "id"};
    const struct filter *filter;
    assert_int_equal(filter_compile(&node, NULL, arena, &filter, &err), ERR_OK);
    return filter;
}

static bool was_known(const struct answer *a)
{
    return strstr(a->report.plan, "which rows match was known") != NULL;
}

/* A filter is used for the first time, and again. */
static void check_known_filter(struct database *db, uint64_t rows, uint64_t of)
{
    enum { QUERIES = 20 };
    static struct answer first[QUERIES];
    struct arena arena = {0};
    struct value from;
    float query[GRAPH_DB_DIMENSION];
    for (uint64_t i = 0; i < 3 * QUERIES; i++) {
        graph_db_vector(i % QUERIES * 7, 1, query);
        struct search_query q = {.vector = query, .top_k = K};
        /* Another filter for each query, so that in the first round it is new. */
        q.filter = last_rows(rows - i % QUERIES, of, &from, &arena);
        struct answer a = ask(db, &q), *want = &first[i % QUERIES];
        if (i < QUERIES) *want = a;
        assert_true(was_known(&a) == (i >= 2 * QUERIES));
        assert_int_equal(a.report.allowed, rows - i % QUERIES);
        assert_int_equal(a.report.strategy, want->report.strategy);
        assert_int_equal(a.count, K);
        assert_memory_equal(a.id, want->id, sizeof a.id);
        assert_memory_equal(a.distance, want->distance, sizeof a.distance);
    }
    arena_free(&arena);
}

/* Compared as rows, by their codes, by a walk. */
static void answers_are_the_same_when_it_is_known_which_rows_match(void **state)
{
    (void)state;
    static const uint64_t rows[] = {100, 400, ROWS - 300};
    struct database *db = database_with_pending_rows();
    for (int i = 0; i < 3; i++)
        check_known_filter(db, rows[i], ROWS + MORE);
    graph_db_close(db);
}

static void the_same_without_pending_rows(void **state)
{
    (void)state;
    static const uint64_t rows[] = {100, 400, ROWS - 300};
    graph_db_create();
    struct database *db = graph_db_open();
    graph_db_put(db, 0, ROWS, 1);
    graph_db_link(db, CODEC_INT8);
    for (int i = 0; i < 3; i++)
        check_known_filter(db, rows[i], ROWS);
    graph_db_close(db);
}

/* Around the query no row matches, for farther than a walk sees; but there is a way to rows that
 * do, and are not the nearest. */
static void what_matches_is_found_far_from_the_query(void **state)
{
    (void)state;
    enum { LINE = 4000, AWAY = 1000, BAIT = 100 };
    graph_db_create();
    struct database *db = graph_db_open();
    float vector[GRAPH_DB_DIMENSION] = {0};
    for (uint32_t id = 0; id < LINE + BAIT; id++) {
        bool is_bait = id >= LINE;
        vector[0] = is_bait ? 0 : (float)id;
        vector[1] = is_bait ? (float)(2 * AWAY + id - LINE) : 0;
        put_vector(db, id, vector);
    }
    graph_db_link(db, CODEC_FLOAT32);
    struct arena arena = {0};
    struct value from = {.kind = VALUE_NUMBER, .number = number_from_u64(AWAY)};
    struct filter_node node = {.op = FILTER_GTE, .values = &from, .value_count = 1, .where = "id"};
    const struct filter *filter;
    assert_int_equal(filter_compile(&node, NULL, &arena, &filter, &err), ERR_OK);
    vector[0] = vector[1] = 0;
    struct search_query q = {.vector = vector, .top_k = K, .ef = 20, .filter = filter};
    struct answer a = ask(db, &q);
    assert_int_equal(a.report.strategy, SEARCH_FILTERED_GRAPH);
    assert_int_equal(a.count, K);
    for (size_t i = 0; i < K; i++)
        assert_int_equal(a.id[i], AWAY + i);
    assert_true(a.report.visited > 0); /* it was a walk, first */
    arena_free(&arena);
    graph_db_close(db);
}

/* All its former selves are nearer to the query than candidates are many. */
static void a_row_that_is_replaced_again_and_again_is_found(void **state)
{
    (void)state;
    enum { TIMES = 600 };
    struct database *db = database_with_pending_rows();
    float query[GRAPH_DB_DIMENSION], vector[GRAPH_DB_DIMENSION];
    graph_db_vector(ROWS, 1, query);
    memcpy(vector, query, sizeof vector);
    for (int i = 0; i < TIMES; i++) {
        vector[0] = query[0] + 0.001f * (float)i;
        put_vector(db, ROWS, vector);
    }
    struct reader old;
    reader_begin(db, &old);
    vector[0] += 0.001f;
    put_vector(db, ROWS, vector);
    encode_pending(db);
    struct search_query q = {.vector = query, .top_k = K, .ef = 20};
    struct answer a = ask(db, &q);
    assert_int_equal(a.report.strategy, SEARCH_GRAPH);
    assert_int_equal(a.id[0], ROWS);
    assert_true(fabs(a.distance[0] - 0.001 * TIMES) < 0.0005);
    /* The row that ended after a snapshot began is in that still. */
    a = ask_reader(&old, &q);
    assert_int_equal(a.report.strategy, SEARCH_GRAPH);
    assert_int_equal(a.id[0], ROWS);
    assert_true(fabs(a.distance[0] - 0.001 * (TIMES - 1)) < 0.0005);
    reader_end(&old);
    graph_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(pending_rows_are_found_by_their_codes),
        temp_dir_test(rows_between_pending_and_linked_are_found_once),
        temp_dir_test(filters_are_for_pending_rows_as_well),
        temp_dir_test(few_rows_that_match_are_compared_at_once),
        temp_dir_test(answers_are_the_same_when_it_is_known_which_rows_match),
        temp_dir_test(the_same_without_pending_rows),
        temp_dir_test(what_matches_is_found_far_from_the_query),
        temp_dir_test(a_row_that_is_replaced_again_and_again_is_found),
    };
    return cmocka_run_group_tests_name("search", tests, NULL, NULL);
}
