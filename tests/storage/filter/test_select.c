/* The rows of a snapshot that match a filter, against a model, while rows come and go. */
#include "tests/storage/filter/random_rows.h"

#include "storage/database_private.h"

enum { ROWS = 300, SNAPSHOTS = 3 };

struct world {
    struct plain_row rows[ROWS];
    bool lives[ROWS];
};

static void open_database(const char *dir, struct service **svc, struct database **db)
{
    struct err err;
    bool created;
    struct schema schema = {.dimension = 2,
                            .metric = METRIC_EUCLIDEAN,
                            .durability = DURABILITY_PERIODIC,
                            .options = (char *)(uintptr_t)random_options};
    *svc = test_service_open(dir);
    CHECK_OK(service_create(*svc, "d", &schema, false, &created, &err));
    *db = test_acquire(*svc, "d");
}

/* Every third id is a text. */
static struct vector_id id_of(int row, char text[16])
{
    if (row % 3) return (struct vector_id){.number = (uint64_t)row};
    snprintf(text, 16, "row-%03d", row);
    return test_text_id(text);
}

static int row_of(const struct vector_id *id)
{
    char text[16];
    if (!id->text) return (int)id->number;
    memcpy(text, id->text, 7);
    text[7] = '\0';
    return atoi(text + 4);
}

static void write_row(struct database *db, struct world *w, int row, uint64_t *seed)
{
    char text[16];
    struct buf metadata = {0};
    struct vector_id id = id_of(row, text);
    float vector[2] = {(float)row, 0};
    if (w->lives[row] && test_random(seed) % 4 == 0) {
        assert_int_equal(test_delete(db, id), 1);
        w->lives[row] = false;
        return;
    }
    random_row(&w->rows[row], seed);
    put_plain_row(&metadata, &w->rows[row]);
    buf_add(&metadata, "", 1);
    test_put(db, id, vector, metadata.data);
    buf_free(&metadata);
    w->lives[row] = true;
}

/* What filter_select() finds in a snapshot is what the model says. */
static void check_snapshot(struct reader *r, const struct world *w, const struct filter *filter,
                           const struct plain_filter *plain, const char *text)
{
    struct err err;
    uint64_t count, found = 0;
    bool got[ROWS] = {false};
    uint64_t *bits = malloc((filter_words(r) + 1) * sizeof *bits);
    memset(bits, 0xa5, (filter_words(r) + 1) * sizeof *bits);
    CHECK_OK(filter_select(r, filter, true, bits, &count, &err));
    assert_int_equal(bits[filter_words(r)], UINT64_C(0xa5a5a5a5a5a5a5a5));
    for (uint32_t i = 0; i < filter_words(r) * 64; i++) {
        if (!(bits[i / 64] >> (i % 64) & 1)) continue;
        assert_true(i < r->slot_count);
        const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, i);
        struct row row;
        assert_true(slot_is_visible(s, r->lsn, r->now_ms));
        CHECK_OK(slot_row(r, i, s, &row, &err));
        got[row_of(&row.id)] = true;
        found++;
    }
    if (found != count) fail_msg("%s: %" PRIu64 " bits, count %" PRIu64, text, found, count);
    for (int i = 0; i < ROWS; i++) {
        bool want = w->lives[i] && (!plain || plain_row_matches(plain, &w->rows[i]));
        if (got[i] == want) continue;
        struct buf metadata = {0};
        put_plain_row(&metadata, &w->rows[i]);
        fail_msg("%s should %smatch row %d, %.*s", text, want ? "" : "not ", i, (int)metadata.len,
                 metadata.data);
    }
    free(bits);
}

struct past {
    struct reader reader;
    struct world world;
};

static void run(const char *dir, uint64_t seed, int rounds)
{
    struct service *svc;
    struct database *db;
    struct world *w = calloc(1, sizeof *w);
    struct past *pasts = calloc(SNAPSHOTS, sizeof *pasts);
    struct buf text = {0};
    open_database(dir, &svc, &db);
    for (int round = 0; round < rounds; round++) {
        int writes = round % 7 == 0 ? ROWS : (int)(test_random(&seed) % 12);
        for (int i = 0; i < writes; i++)
            write_row(db, w, (int)(test_random(&seed) % ROWS), &seed);
        /* Older snapshots are asked after newer ones were. */
        int open = round % 3 == 2 ? SNAPSHOTS : 1;
        for (int i = 0; i < open; i++) {
            reader_begin(db, &pasts[i].reader);
            pasts[i].world = *w;
            for (int k = 0; k < 5 && open > 1; k++)
                write_row(db, w, (int)(test_random(&seed) % ROWS), &seed);
        }
        for (int k = 0; k < 8; k++) {
            struct arena arena = {0};
            struct plain_filter *plain = random_filter(&seed, 3);
            const struct filter *filter = compile_plain_filter(plain, &arena, &text);
            for (int i = open - 1; i >= 0; i--)
                check_snapshot(&pasts[i].reader, &pasts[i].world, filter, plain, text.data);
            plain_filter_free(plain);
            arena_free(&arena);
        }
        for (int i = open - 1; i >= 0; i--) {
            check_snapshot(&pasts[i].reader, &pasts[i].world, NULL, NULL, "all rows");
            reader_end(&pasts[i].reader);
        }
    }
    buf_free(&text);
    free(pasts);
    free(w);
    service_release(db);
    test_service_close(svc);
}

static void selections_agree_with_a_model_in_memory(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++)
        run(NULL, seed, 60);
}

static void selections_agree_with_a_model_in_files(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    run(dir, 99, 60);
    test_dir_remove(dir);
}

/* A thread that must not wait does not scan for long. */
static void long_scans_are_for_other_threads(void **state)
{
    (void)state;
    struct service *svc;
    struct database *db;
    struct err err;
    struct reader r;
    struct arena arena = {0};
    struct buf text = {0};
    uint64_t bits[4096 / 64], count;
    struct plain_filter plain = {.op = FILTER_EQ, .field = ANY, .value_count = 1};
    plain.values[0] = plain_number(1);
    open_database(NULL, &svc, &db);
    const struct filter *filter = compile_plain_filter(&plain, &arena, &text);
    for (uint64_t i = 0; i < 2000; i++)
        test_put(db, (struct vector_id){.number = i}, (float[2]){1, 2}, "{\"any\":1}");
    reader_begin(db, &r);
    assert_int_equal(filter_select(&r, filter, false, bits, &count, &err), ERR_WOULD_COMPUTE);
    CHECK_OK(filter_select(&r, filter, true, bits, &count, &err));
    assert_int_equal(count, 2000);
    reader_end(&r);
    arena_free(&arena);
    buf_free(&text);
    service_release(db);
    test_service_close(svc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(selections_agree_with_a_model_in_memory),
        cmocka_unit_test(selections_agree_with_a_model_in_files),
        cmocka_unit_test(long_scans_are_for_other_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
