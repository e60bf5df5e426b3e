/* Which slots hold a row of a snapshot: the words say what the slots say, at every snapshot. */
#include "tests/storage/fixture.h"

#include <inttypes.h>

#include "storage/database_private.h"
#include "storage/records.h"
#include "storage/visibility.h"

enum { ROWS = CHUNK_SLOTS + 1000 };

static void check(struct reader *r)
{
    struct err err;
    uint64_t words[CHUNK_WORDS], count = 0;
    for (uint32_t chunk = 0; chunk < visibility_chunks(r); chunk++) {
        CHECK_OK(visibility_words(r, chunk, words, &err));
        for (uint32_t i = 0; i < CHUNK_SLOTS; i++) {
            uint64_t slot = (uint64_t)chunk * CHUNK_SLOTS + i;
            bool got = words[i / 64] >> i % 64 & 1, want = false;
            if (slot < r->slot_count) {
                const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, slot);
                want = slot_is_visible(s, r->lsn, r->now_ms);
            }
            if (got != want) fail_msg("slot %" PRIu64 " is %svisible", slot, want ? "" : "not ");
            count += got;
        }
    }
    if (r->now_ms < 1000) assert_int_equal(count, r->live_count);
}

static struct database *open_database(const char *dir, struct service **svc, bool create)
{
    *svc = test_service_open(dir);
    if (create) test_create(*svc, "d", 1, METRIC_EUCLIDEAN);
    return test_acquire(*svc, "d");
}

static void put_rows(struct database *db, uint64_t first, uint64_t count)
{
    struct err err;
    float zero = 0;
    struct row_input *rows = calloc(count, sizeof *rows);
    uint64_t lsn;
    for (uint64_t i = 0; i < count; i++)
        rows[i] = (struct row_input){.id.number = first + i, .vector = &zero};
    CHECK_OK(database_put(db, rows, count, 1, true, &lsn, &err));
    free(rows);
}

static void words_are_those_of_the_snapshot_whatever_came_later(void **state)
{
    (void)state;
    struct service *svc;
    struct database *db = open_database(NULL, &svc, true);
    struct reader old[8];
    uint64_t seed = 3;
    put_rows(db, 0, ROWS);
    for (int round = 0; round < 4; round++) {
        for (int k = 0; k < 8; k++) {
            reader_begin(db, &old[k]);
            old[k].now_ms = 0;
            for (int i = 0; i < 20; i++) {
                struct vector_id id = {.number = test_random(&seed) % (2 * ROWS)};
                if (test_random(&seed) % 2)
                    test_delete(db, id);
                else
                    put_rows(db, id.number, 1 + test_random(&seed) % 3);
            }
        }
        for (int k = 7; k >= 0; k--) {
            check(&old[k]);
            reader_end(&old[k]);
        }
    }
    service_release(db);
    test_service_close(svc);
}

/* After an opening nothing is known; it becomes known when somebody asks, and stays right. */
static void what_was_in_the_file_is_tracked_on_demand(void **state)
{
    (void)state;
    char *dir = test_dir_new();
    struct service *svc;
    struct reader r;
    struct database *db = open_database(dir, &svc, true);
    put_rows(db, 0, ROWS);
    for (uint64_t i = 0; i < ROWS; i += 7)
        test_delete(db, (struct vector_id){.number = i});
    service_release(db);
    test_service_close(svc);

    db = open_database(dir, &svc, false);
    reader_begin(db, &r);
    assert_int_equal(visibility_untracked(&r), ROWS);
    r.now_ms = 0;
    check(&r);
    /* While the writer is busy nobody waits. */
    visibility_track(&r);
    assert_int_equal(visibility_untracked(&r), 0);
    check(&r);
    put_rows(db, 100, 50);
    check(&r);
    reader_end(&r);
    reader_begin(db, &r);
    r.now_ms = 0;
    check(&r);
    reader_end(&r);
    service_release(db);
    test_service_close(svc);
    test_dir_remove(dir);
}

static void births_since_an_lsn_are_told(void **state)
{
    (void)state;
    struct service *svc;
    struct err err;
    struct reader r;
    struct database *db = open_database(NULL, &svc, true);
    uint64_t words[CHUNK_WORDS], visible[CHUNK_WORDS];
    bool any;
    put_rows(db, 0, 200);
    uint64_t before = test_put_number(db, 300, 1);
    reader_begin(db, &r);
    CHECK_OK(visibility_words(&r, 0, visible, &err));
    CHECK_OK(visibility_born_after(&r, 0, before, visible, words, &any, &err));
    assert_false(any);
    assert_false(visibility_changed_after(&r, 0, before));
    reader_end(&r);
    test_delete(db, (struct vector_id){.number = 3});
    put_rows(db, 70, 1);
    reader_begin(db, &r);
    CHECK_OK(visibility_words(&r, 0, visible, &err));
    CHECK_OK(visibility_born_after(&r, 0, before, visible, words, &any, &err));
    assert_true(any);
    uint64_t bits = 0;
    for (int w = 0; w < CHUNK_WORDS; w++)
        bits += (uint64_t)__builtin_popcountll(words[w]);
    assert_int_equal(bits, 1);
    assert_true(visibility_changed_after(&r, 0, before)); /* row 3 ended */
    reader_end(&r);
    service_release(db);
    test_service_close(svc);
}

/* Rows that expire are looked at, again and again: time passes without a write. */
static void expiry_is_seen_without_a_write(void **state)
{
    (void)state;
    struct service *svc;
    struct err err;
    struct reader r;
    struct database *db = open_database(NULL, &svc, true);
    uint64_t words[CHUNK_WORDS], lsn;
    float zero = 0;
    put_rows(db, 0, 10);
    CHECK_OK(database_lock_writer(db, true, &err));
    struct row_op op = {.head = {.kind = WAL_OP_PUT, .slot = 10, .key = 77, .expires_at_ms = 5000},
                        .vector = &zero,
                        .lsn = db->last_lsn + 1};
    op.head.row_crc = database_row_crc(db, &op.head, &zero);
    CHECK_OK(database_reserve(db, 11, 0, 1, &err));
    CHECK_OK(database_write_rows(db, &op, 1, &err));
    CHECK_OK(database_commit(db, &op, 1, &lsn, &err));
    mutex_unlock(&db->writer);
    reader_begin(db, &r);
    for (r.now_ms = 4000; r.now_ms <= 6000; r.now_ms += 500) {
        CHECK_OK(visibility_words(&r, 0, words, &err));
        assert_int_equal(words[0], r.now_ms < 5000 ? 0x7ff : 0x3ff);
        check(&r);
    }
    reader_end(&r);
    service_release(db);
    test_service_close(svc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_those_of_the_snapshot_whatever_came_later),
        cmocka_unit_test(what_was_in_the_file_is_tracked_on_demand),
        cmocka_unit_test(births_since_an_lsn_are_told),
        cmocka_unit_test(expiry_is_seen_without_a_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
