/* The rows of a snapshot that match a filter, against a model, while rows come and go. */
#include "tests/storage/filter/random_rows.h"

#include <pthread.h>
#include <stdatomic.h>

#include "storage/database_private.h"
#include "storage/filter/columns.h"

enum { SNAPSHOTS = 3, FEW_ROWS = 300, MANY_ROWS = 20000 }; /* MANY: more than a chunk */

struct world {
    int count;
    struct plain_row *rows;
    bool *lives;
};

static void world_init(struct world *w, int count)
{
    w->count = count;
    w->rows = calloc((size_t)count, sizeof *w->rows);
    w->lives = calloc((size_t)count, sizeof *w->lives);
    assert_true(w->rows && w->lives);
}

static void world_deinit(struct world *w)
{
    free(w->rows);
    free(w->lives);
}

static void world_copy(struct world *to, const struct world *from)
{
    memcpy(to->rows, from->rows, (size_t)from->count * sizeof *to->rows);
    memcpy(to->lives, from->lives, (size_t)from->count * sizeof *to->lives);
}

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

/* Every third id is a text. */
static struct vector_id id_of(int row, char text[16])
{
    if (row % 3) return (struct vector_id){.number = (uint64_t)row};
    snprintf(text, 16, "row-%05d", row);
    return test_text_id(text);
}

static int row_of(const struct vector_id *id)
{
    char text[16];
    if (!id->text) return (int)id->number;
    memcpy(text, id->text, 9);
    text[9] = '\0';
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

struct listed {
    struct vector_id last;
    char last_text[16];
    uint64_t count;
    bool *got;
};

static bool note_listed(void *ctx, const struct row *row)
{
    struct listed *l = ctx;
    if (l->count++) assert_true(vector_id_compare(&l->last, &row->id) < 0);
    l->last = row->id;
    if (row->id.text) {
        memcpy(l->last_text, row->id.text, row->id.text_bytes);
        l->last.text = l->last_text;
    }
    assert_true(l->got[row_of(&row->id)]);
    return true;
}

/* A list of what was selected has just that, page by page. */
static void check_list(struct reader *r, const uint64_t *bits, uint64_t count, bool *got)
{
    struct err err;
    struct listed l = {.got = got};
    bool more = true;
    uint64_t limit = count / 3 + 1;
    while (more) {
        struct vector_id after = l.last;
        char text[16];
        memcpy(text, l.last_text, sizeof text);
        if (after.text) after.text = text;
        CHECK_OK(reader_list_selected(r, bits, l.count ? &after : NULL, NULL, 0, limit, note_listed,
                                      &l, &more, &err));
    }
    assert_int_equal(l.count, count);
}

/* What filter_select() finds in a snapshot is what the model says. */
static void check_snapshot(struct reader *r, const struct world *w, const struct filter *filter,
                           const struct plain_filter *plain, const char *text)
{
    struct err err;
    uint64_t count, found = 0;
    bool *got = calloc((size_t)w->count, sizeof *got);
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
    check_list(r, bits, count, got);
    for (int i = 0; i < w->count; i++) {
        bool want = w->lives[i] && (!plain || plain_row_matches(plain, &w->rows[i]));
        if (got[i] == want) continue;
        struct buf metadata = {0};
        put_plain_row(&metadata, &w->rows[i]);
        fail_msg("%s should %smatch row %d, %.*s", text, want ? "" : "not ", i, (int)metadata.len,
                 metadata.data);
    }
    free(bits);
    free(got);
}

struct past {
    struct reader reader;
    struct world world;
};

static int any_row(const struct world *w, uint64_t *seed)
{
    return (int)(test_random(seed) % (uint64_t)w->count);
}

static void run(const char *dir, int rows, uint64_t seed, int rounds)
{
    struct service *svc;
    struct database *db;
    struct world w;
    struct past pasts[SNAPSHOTS];
    struct buf text = {0};
    open_database(dir, &svc, &db);
    world_init(&w, rows);
    for (int i = 0; i < SNAPSHOTS; i++)
        world_init(&pasts[i].world, rows);
    for (int round = 0; round < rounds; round++) {
        int writes = round == 0       ? 2 * rows
                     : round % 7 == 0 ? rows / 4
                                      : (int)(test_random(&seed) % 12);
        for (int i = 0; i < writes; i++)
            write_row(db, &w, any_row(&w, &seed), &seed);
        /* Older snapshots are asked after newer ones were. */
        int open = round % 3 == 2 ? SNAPSHOTS : 1;
        for (int i = 0; i < open; i++) {
            reader_begin(db, &pasts[i].reader);
            world_copy(&pasts[i].world, &w);
            for (int k = 0; k < 5 && open > 1; k++)
                write_row(db, &w, any_row(&w, &seed), &seed);
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
        if (dir && round % 10 == 9) reopen(dir, &svc, &db);
        if (round % 10 == 5) compact(svc);
    }
    struct columns_info info;
    columns_info(db->store->columns, &info);
    assert_true(info.count >= 7 && info.automatic > 0 && info.bytes > 0);
    buf_free(&text);
    for (int i = 0; i < SNAPSHOTS; i++)
        world_deinit(&pasts[i].world);
    world_deinit(&w);
    service_release(db);
    test_service_close(svc);
}

static void selections_agree_with_a_model_in_memory(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++)
        run(NULL, FEW_ROWS, seed, 60);
}

static void selections_agree_with_a_model_over_several_chunks(void **state)
{
    (void)state;
    run(NULL, MANY_ROWS, 5, 12);
}

static void selections_agree_with_a_model_in_files(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    run(dir, FEW_ROWS, 99, 58);
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

/* ---- beside a writer ---- */

enum { SHARED_ROWS = 3000, SHARED_WRITES = 6000, READERS = 2 };

struct shared {
    struct database *db;
    _Atomic bool stopping;
    _Atomic unsigned selections;
};

static uint64_t select_count(struct reader *r, const struct filter *filter, uint64_t *bits)
{
    struct err err;
    uint64_t count;
    CHECK_OK(filter_select(r, filter, true, bits, &count, &err));
    return count;
}

static const struct filter *compile_text(const char *text, struct arena *arena)
{
    struct json_scan s;
    struct err err;
    const struct filter *filter = NULL;
    json_scan_init(&s, text, strlen(text), arena);
    CHECK_OK(json_filter(&s, random_options, &filter, &err));
    return filter;
}

/* Every row is a, b or c: in each snapshot the three are all there is, and the bits do not overlap,
 * with a column (kind) and with one that comes of itself (other). */
static void *select_all_along(void *arg)
{
    struct shared *sh = arg;
    struct arena arena = {0};
    const struct filter *filters[] = {
        compile_text("{\"kind\":\"a\"}", &arena),
        compile_text("{\"other\":\"b\"}", &arena),
        compile_text("{\"kind\":{\"$nin\":[\"a\",\"b\"]}}", &arena),
    };
    enum { WORDS = 4 * SHARED_ROWS / 64 };
    uint64_t bits[WORDS], all[WORDS];
    while (!sh->stopping) {
        struct reader r;
        reader_begin(sh->db, &r);
        assert_true(filter_words(&r) <= WORDS);
        uint64_t sum = 0;
        memset(all, 0, sizeof all);
        for (int i = 0; i < 3; i++) {
            sum += select_count(&r, filters[i], bits);
            for (size_t w = 0; w < filter_words(&r); w++) {
                assert_int_equal(all[w] & bits[w], 0);
                all[w] |= bits[w];
            }
        }
        assert_int_equal(sum, reader_count(&r));
        reader_end(&r);
        sh->selections++;
    }
    arena_free(&arena);
    return NULL;
}

static void selections_are_exact_beside_a_writer(void **state)
{
    (void)state;
    struct service *svc;
    struct shared sh = {.stopping = false};
    pthread_t threads[READERS];
    uint64_t seed = 77;
    open_database(NULL, &svc, &sh.db);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, select_all_along, &sh), 0);
    for (int i = 0; i < SHARED_WRITES || sh.selections < 100; i++) {
        char text[64];
        struct vector_id id = {.number = test_random(&seed) % SHARED_ROWS};
        char kind = "abc"[test_random(&seed) % 3];
        snprintf(text, sizeof text, "{\"kind\":\"%c\",\"other\":\"%c\"}", kind, kind);
        if (test_random(&seed) % 5)
            test_put(sh.db, id, (float[2]){1, 2}, text);
        else
            test_delete(sh.db, id);
    }
    sh.stopping = true;
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    service_release(sh.db);
    test_service_close(svc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(selections_agree_with_a_model_in_memory),
        cmocka_unit_test(selections_agree_with_a_model_over_several_chunks),
        cmocka_unit_test(selections_agree_with_a_model_in_files),
        cmocka_unit_test(long_scans_are_for_other_threads),
        cmocka_unit_test(selections_are_exact_beside_a_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
