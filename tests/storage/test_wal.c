/* The log: what was appended comes back, what is torn is cut, what is damaged is refused. */
#include "tests/storage/faults.h"
#include "tests/storage/temp_dir.h"

#include <pthread.h>
#include <sched.h>

#include "storage/base/crc32c.h"
#include "storage/syncer.h"
#include "storage/wal.h"

static const uint8_t uuid[16] = "0123456789abcde";

/* ---- a log of records with short texts ---- */

struct seen {
    uint64_t lsns[5000];
    char texts[5000][24];
    size_t count;
};

static enum err_code see(void *ctx, const struct disk_wal_record *record, const uint8_t *ops,
                         uint64_t ops_bytes, struct err *err)
{
    struct seen *s = ctx;
    if (s->count == 5000) return err_set(err, ERR_INTERNAL, "too many records");
    assert_true(ops_bytes < sizeof s->texts[0]);
    memcpy(s->texts[s->count], ops, ops_bytes);
    s->texts[s->count][ops_bytes] = '\0';
    s->lsns[s->count++] = record->lsn;
    return ERR_OK;
}

static struct seen seen;
static struct wal_recovery found;
static struct err err;

static enum err_code try_open(int dir, const char *name, uint64_t checkpoint_lsn, bool create,
                              struct syncer *syncer, struct wal **wal)
{
    struct wal_options o = {.dir_fd = dir,
                            .name = name,
                            .checkpoint_lsn = checkpoint_lsn,
                            .create = create,
                            .syncer = syncer};
    memcpy(o.uuid, uuid, sizeof o.uuid);
    seen.count = 0;
    return wal_open(&o, see, &seen, wal, &found, &err);
}

static struct wal *open_log(int dir, uint64_t checkpoint_lsn)
{
    struct wal *wal = NULL;
    enum err_code rc = try_open(dir, "db", checkpoint_lsn, true, NULL, &wal);
    if (rc) fail_msg("%s", err.msg);
    return wal;
}

static enum err_code open_fails(int dir, uint64_t checkpoint_lsn)
{
    struct wal *wal = NULL;
    enum err_code rc = try_open(dir, "db", checkpoint_lsn, false, NULL, &wal);
    wal_close(wal);
    return rc;
}

static void go_on(struct wal *wal)
{
    assert_int_equal(wal_prepare(wal, &err), ERR_OK);
    assert_int_equal(wal_switch(wal, &err), ERR_OK);
}

/* A started, empty log. */
static struct wal *new_log(void)
{
    struct wal *wal = open_log(data_fd, 0);
    go_on(wal);
    assert_int_equal(wal_sync_segment(wal, &err), ERR_OK);
    return wal;
}

static enum err_code try_append(struct wal *wal, const char *text, uint64_t *lsn)
{
    struct disk_wal_record head = {.type = WAL_ROWS, .op_count = 1};
    struct iovec iov[3] = {{&head, sizeof head}, {(void *)(uintptr_t)text, strlen(text)}};
    return wal_append(wal, &head, iov, 2, lsn, &err);
}

static uint64_t append(struct wal *wal, const char *text)
{
    uint64_t lsn = 0;
    assert_int_equal(try_append(wal, text, &lsn), ERR_OK);
    return lsn;
}

/* Text of record number n, of any length. */
static const char *text_of(uint64_t lsn)
{
    static char text[24];
    snprintf(text, sizeof text, "%.*s%u", (int)(lsn % 14), "abcdefghijklmn", (unsigned)lsn);
    return text;
}

static void append_many(struct wal *wal, uint64_t first, uint64_t last)
{
    for (uint64_t lsn = first; lsn <= last; lsn++)
        assert_int_equal(append(wal, text_of(lsn)), lsn);
}

static void assert_seen(uint64_t first, uint64_t last)
{
    assert_int_equal(seen.count, last + 1 - first);
    for (uint64_t i = 0; i < seen.count; i++) {
        assert_int_equal(seen.lsns[i], first + i);
        assert_string_equal(seen.texts[i], text_of(first + i));
    }
}

static uint64_t record_bytes(uint64_t lsn)
{
    return (sizeof(struct disk_wal_record) + strlen(text_of(lsn)) + 7) & ~7ull;
}

/* Where it ends in a segment that begins with record 1. */
static uint64_t end_of(uint64_t lsn)
{
    return lsn ? end_of(lsn - 1) + record_bytes(lsn) : WAL_HEADER_BYTES;
}

/* ---- replay ---- */

static void replay_after_close_gives_the_same_records(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 3000);
    assert_int_equal(wal_last_lsn(wal), 3000);
    uint64_t bytes = wal_bytes(wal);
    wal_close(wal);
    for (int twice = 0; twice < 2; twice++) {
        wal = open_log(data_fd, 0);
        assert_seen(1, 3000);
        assert_int_equal(found.records, 3000);
        assert_int_equal(found.bytes, bytes);
        assert_int_equal(found.cut_bytes, 0);
        assert_int_equal(wal_last_lsn(wal), 3000);
        assert_int_equal(wal_next_lsn(wal), 3001);
        assert_int_equal(wal_durable_lsn(wal), 3000);
        assert_false(wal_is_started(wal));
        wal_close(wal);
    }
}

static void only_what_is_behind_the_checkpoint_is_replayed(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 20);
    wal_close(wal);
    for (uint64_t lsn = 0; lsn <= 20; lsn++) {
        wal_close(open_log(data_fd, lsn));
        assert_seen(lsn + 1, 20);
    }
}

static void a_log_goes_on_over_many_openings(void **state)
{
    (void)state;
    wal_close(new_log());
    for (uint64_t round = 0; round < 20; round++) {
        struct wal *wal = open_log(data_fd, 0);
        assert_seen(1, round * 3);
        go_on(wal);
        append_many(wal, round * 3 + 1, round * 3 + 3);
        wal_close(wal);
    }
}

static void an_error_of_the_callback_ends_the_opening(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 3);
    wal_close(wal);
    seen.count = 5000;
    struct wal_options o = {.dir_fd = data_fd, .name = "db"};
    memcpy(o.uuid, uuid, sizeof o.uuid);
    wal = NULL;
    assert_int_equal(wal_open(&o, see, &seen, &wal, &found, &err), ERR_INTERNAL);
    assert_null(wal);
}

static void a_missing_log_is_refused_unless_it_is_to_be_made(void **state)
{
    (void)state;
    assert_int_equal(open_fails(data_fd, 0), ERR_CORRUPT);
    wal_close(new_log());
    assert_int_equal(open_fails(data_fd, 0), ERR_OK);
    assert_int_equal(wal_remove(data_fd, "db", &err), ERR_OK);
    assert_int_equal(open_fails(data_fd, 0), ERR_CORRUPT);
}

static void the_log_of_another_life_of_the_name_is_not_taken(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 5);
    wal_close(wal);
    struct wal_options o = {.dir_fd = data_fd, .name = "db", .uuid = "another", .create = true};
    seen.count = 0;
    assert_int_equal(wal_open(&o, see, &seen, &wal, &found, &err), ERR_OK);
    assert_int_equal(seen.count, 0);
    assert_int_equal(found.segments, 0);
    go_on(wal);
    assert_int_equal(append(wal, "x"), 1);
    wal_close(wal);
    o.create = false;
    assert_int_equal(wal_open(&o, see, &seen, &wal, &found, &err), ERR_OK);
    assert_int_equal(seen.count, 1);
    wal_close(wal);
}

static void a_log_of_a_newer_format_is_left_alone(void **state)
{
    (void)state;
    wal_close(new_log());
    size_t len;
    uint8_t *bytes = file_bytes(data_fd, "db.wal.0", &len);
    struct disk_wal_header h;
    memcpy(&h, bytes, sizeof h);
    h.format_version = FORMAT_VERSION + 1;
    h.crc = crc32c(0, &h, offsetof(struct disk_wal_header, crc));
    poke(data_fd, "db.wal.0", 0, &h, sizeof h);
    free(bytes);
    bytes = file_bytes(data_fd, "db.wal.0", &len);
    assert_int_equal(open_fails(data_fd, 0), ERR_QUARANTINED);
    size_t after;
    uint8_t *same = file_bytes(data_fd, "db.wal.0", &after);
    assert_int_equal(after, len);
    assert_memory_equal(bytes, same, len);
    free(bytes);
    free(same);
}

/* ---- the tail ---- */

/* The bytes of a closed log of so many records. */
static uint8_t *bytes_of_log(uint64_t records, size_t *len)
{
    struct wal *wal = new_log();
    append_many(wal, 1, records);
    wal_close(wal);
    return file_bytes(data_fd, "db.wal.0", len);
}

static void a_cut_at_any_byte_drops_only_the_tail(void **state)
{
    (void)state;
    size_t len;
    uint8_t *bytes = bytes_of_log(12, &len);
    for (size_t cut = WAL_HEADER_BYTES; cut <= end_of(12); cut++) {
        /* Cut, and once more with what was behind it never written. */
        for (int zeros = 0; zeros < 2; zeros++) {
            uint8_t *torn = calloc(1, len);
            assert_non_null(torn);
            memcpy(torn, bytes, cut);
            set_file(image_fd, "db.wal.0", torn, zeros ? len : cut);
            free(torn);
            uint64_t whole = 0;
            while (whole < 12 &&
                   end_of(whole) + sizeof(struct disk_wal_record) + strlen(text_of(whole + 1)) <=
                       cut)
                whole++;
            struct wal *wal = open_log(image_fd, 0);
            assert_seen(1, whole);
            assert_int_equal(wal_next_lsn(wal), whole + 1);
            wal_close(wal);
        }
    }
    free(bytes);
}

/* Much of it has numbers where a record has its LSNs. */
static void what_an_earlier_life_of_the_file_left_is_no_evidence(void **state)
{
    (void)state;
    size_t len;
    uint8_t *bytes = bytes_of_log(3, &len);
    size_t at = end_of(3);
    for (uint32_t n = 0; at + sizeof(struct disk_wal_record) <= len; n++, at += 40) {
        struct disk_wal_record r = {.bytes = (uint32_t)(len - at),
                                    .lsn = 10000 + n,
                                    .durable_lsn = 9999,
                                    .type = (uint16_t)(n * 31),
                                    .flags = (uint16_t)n,
                                    .reserved = n};
        memcpy(bytes + at, &r, sizeof r);
    }
    set_file(data_fd, "db.wal.0", bytes, len);
    free(bytes);
    struct wal *wal = open_log(data_fd, 0);
    assert_seen(1, 3);
    wal_close(wal);
}

static void after_a_torn_tail_the_log_goes_on_and_the_tail_stays_gone(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 12);
    wal_close(wal);
    flip_byte(data_fd, "db.wal.0", end_of(2) + 41);
    wal = open_log(data_fd, 0);
    assert_seen(1, 2);
    assert_true(found.cut_bytes > 0);
    go_on(wal);
    append_many(wal, 3, 5);
    wal_close(wal);
    /* Even if the bad record heals. */
    flip_byte(data_fd, "db.wal.0", end_of(2) + 41);
    wal = open_log(data_fd, 0);
    assert_seen(1, 5);
    wal_close(wal);
}

/* Power loss can keep a segment and lose what came before it. */
static void segments_behind_a_torn_one_are_superseded_with_it(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 4);
    go_on(wal);
    append_many(wal, 5, 6);
    wal_close(wal);
    flip_byte(data_fd, "db.wal.0", end_of(3) + 41);
    wal = open_log(data_fd, 0);
    assert_seen(1, 3);
    go_on(wal);
    append_many(wal, 4, 8);
    wal_close(wal);
    for (int twice = 0; twice < 2; twice++) {
        wal_close(open_log(data_fd, 0));
        assert_seen(1, 8);
    }
}

static void damage_that_a_later_record_proves_is_refused_at_every_byte(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 4);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    append_many(wal, 5, 6); /* they know that 4 is durable */
    wal_close(wal);
    for (uint64_t at = WAL_HEADER_BYTES; at < end_of(6); at++) {
        take_image();
        size_t len;
        uint8_t *bytes = file_bytes(image_fd, "db.wal.0", &len);
        /* Padding is not part of a record. */
        uint64_t lsn = 1;
        while (end_of(lsn) <= at)
            lsn++;
        bool padding =
            at - end_of(lsn - 1) >= sizeof(struct disk_wal_record) + strlen(text_of(lsn));
        free(bytes);
        flip_byte(image_fd, "db.wal.0", at);
        if (padding) {
            assert_int_equal(open_fails(image_fd, 0), ERR_OK);
            assert_seen(1, 6);
        } else if (at < end_of(4)) {
            assert_int_equal(open_fails(image_fd, 0), ERR_CORRUPT);
        } else {
            assert_int_equal(open_fails(image_fd, 0), ERR_OK);
            assert_seen(1, lsn - 1);
        }
    }
}

static void damage_before_the_checkpoint_is_not_judged(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 4);
    go_on(wal);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    append_many(wal, 5, 6);
    wal_close(wal);
    flip_byte(data_fd, "db.wal.0", WAL_HEADER_BYTES + 50);
    assert_int_equal(open_fails(data_fd, 0), ERR_CORRUPT);
    assert_int_equal(open_fails(data_fd, 4), ERR_OK);
    assert_seen(5, 6);
}

static void a_damaged_header_of_a_started_segment_is_refused(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 4);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    go_on(wal); /* a checkpoint that did not finish: both segments are needed */
    append_many(wal, 5, 6);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    wal_close(wal);
    for (uint64_t at = 0; at < sizeof(struct disk_wal_header); at++) {
        take_image();
        flip_byte(image_fd, "db.wal.1", at);
        assert_int_equal(open_fails(image_fd, 0), ERR_CORRUPT);
    }
}

static void a_current_segment_that_is_gone_is_missed(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 4);
    go_on(wal);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    wal_drop_old(wal);
    append_many(wal, 5, 6);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    wal_close(wal);
    assert_true(file_exists(data_fd, "db.wal.0")); /* the spare one is no replacement */
    remove_file(data_fd, "db.wal.1");
    assert_int_equal(open_fails(data_fd, 4), ERR_CORRUPT);
}

/* ---- segments ---- */

static void the_header_of_a_segment_is_durable_before_older_ones_are_dropped(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 4);
    wal_close(wal);
    wal = open_log(data_fd, 0);
    go_on(wal);
    faults_arm(FAULT_SYNC, -1, 0);
    assert_int_equal(wal_sync(wal, &err), ERR_OK); /* a checkpoint does, of the replayed rows */
    assert_int_equal(faults_disarm(), 1);
    wal_close(wal);
}

static int wal_files(void)
{
    int n = 0;
    for (int i = 0; i < 64; i++) {
        char name[32];
        snprintf(name, sizeof name, "db.wal.%d", i);
        n += file_exists(data_fd, name);
    }
    return n;
}

static void files_that_kills_left_behind_are_used_again(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    for (uint64_t lsn = 0; lsn < 100; lsn++) {
        append_many(wal, lsn + 1, lsn + 1);
        go_on(wal);
        assert_int_equal(wal_sync(wal, &err), ERR_OK);
        wal_drop_old(wal);
        assert_int_equal(wal_prepare(wal, &err), ERR_OK);
        wal_close(wal); /* a current one without records, a prepared one */
        wal = open_log(data_fd, lsn + 1);
        assert_int_equal(seen.count, 0);
        go_on(wal);
        assert_true(wal_files() <= 4);
    }
    wal_close(wal);
}

static void stale_records_of_a_recycled_segment_are_never_replayed(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 40);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    go_on(wal); /* 1 */
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    wal_drop_old(wal); /* 0 is spare */
    go_on(wal);        /* unused: stays 1 */
    append_many(wal, 41, 45);
    go_on(wal); /* 0 again: stale records 1 .. 40 lie behind the header */
    append_many(wal, 46, 46);
    wal_close(wal);
    assert_true(file_exists(data_fd, "db.wal.0"));
    wal = open_log(data_fd, 40);
    assert_seen(41, 46);
    assert_int_equal(wal_next_lsn(wal), 47);
    wal_close(wal);

    /* The same LSNs at the same places, as after a loss of the tail: only the salt differs. */
    size_t len;
    uint8_t *bytes = file_bytes(data_fd, "db.wal.0", &len);
    struct disk_wal_header h;
    memcpy(&h, bytes, sizeof h);
    free(bytes);
    assert_int_equal(h.base_lsn, 46);
}

static void a_record_of_another_salt_is_not_a_record(void **state)
{
    (void)state;
    size_t len;
    uint8_t *bytes = bytes_of_log(5, &len);
    assert_int_equal(wal_remove(data_fd, "db", &err), ERR_OK);
    struct wal *wal = new_log();
    append_many(wal, 1, 2);
    wal_close(wal);
    /* Behind the new records 1 and 2: the old 3, 4, 5, which would fit to the byte. */
    uint64_t at = end_of(2);
    poke(data_fd, "db.wal.0", at, bytes + at, len - at);
    free(bytes);
    wal_close(open_log(data_fd, 0));
    assert_seen(1, 2);
}

static void dropping_keeps_the_current_segment_and_one_file_for_the_next(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    uint64_t lsn = 0;
    for (int round = 0; round < 200; round++) {
        append_many(wal, lsn + 1, lsn + 7);
        lsn += 7;
        go_on(wal);
        if (round % 3) continue; /* some checkpoints fail: several old ones */
        assert_int_equal(wal_sync(wal, &err), ERR_OK);
        append_many(wal, lsn + 1, lsn + 2);
        lsn += 2;
        wal_drop_old(wal);
        assert_int_equal(wal_bytes(wal), record_bytes(lsn - 1) + record_bytes(lsn));
        assert_true(wal_files() <= 2);
    }
    wal_close(wal);
    wal_close(open_log(data_fd, lsn - 9));
    assert_true(seen.count <= 9);
}

static void switching_without_records_stays_where_it_is(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    for (int i = 0; i < 200; i++)
        go_on(wal);
    append_many(wal, 1, 1);
    assert_int_equal(wal_files(), 2);
    wal_close(wal);
}

static void old_segments_are_replayed_before_the_current_one(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    for (uint64_t i = 0; i < 10; i++) {
        append_many(wal, i * 2 + 1, i * 2 + 2);
        go_on(wal);
    }
    wal_close(wal);
    wal_close(open_log(data_fd, 0));
    assert_seen(1, 20);
}

static void a_missing_segment_in_the_middle_is_refused(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    for (uint64_t i = 0; i < 3; i++) {
        append_many(wal, i * 2 + 1, i * 2 + 2);
        assert_int_equal(wal_sync(wal, &err), ERR_OK);
        go_on(wal);
    }
    wal_close(wal);
    remove_file(data_fd, "db.wal.1");
    assert_int_equal(open_fails(data_fd, 0), ERR_CORRUPT);
    assert_int_equal(open_fails(data_fd, 4), ERR_OK);
    assert_seen(5, 6);
}

static void a_log_that_does_not_reach_back_to_the_file_is_refused(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 6);
    go_on(wal);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    wal_drop_old(wal);
    go_on(wal);
    append_many(wal, 7, 8);
    go_on(wal); /* takes the spare file of 1 .. 6 */
    wal_close(wal);
    assert_int_equal(open_fails(data_fd, 6), ERR_OK);
    for (uint64_t lsn = 0; lsn < 6; lsn++)
        assert_int_equal(open_fails(data_fd, lsn), ERR_CORRUPT);
}

/* The spare file of a long log is cut to its preallocated size: what is left of it is no log. */
static void an_older_file_is_refused_although_part_of_a_dropped_segment_is_left(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 4000); /* more than WAL_PREALLOCATED_BYTES */
    assert_true(wal_bytes(wal) > WAL_PREALLOCATED_BYTES);
    go_on(wal);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    wal_drop_old(wal);
    wal_close(wal);
    assert_int_equal(open_fails(data_fd, 4000), ERR_OK);
    assert_int_equal(open_fails(data_fd, 0), ERR_CORRUPT);
}

static void lsns_skip_ahead_when_some_may_be_lost(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 3);
    wal_close(wal);
    struct wal_options o = {.dir_fd = data_fd, .name = "db", .skip_lsns = true};
    memcpy(o.uuid, uuid, sizeof o.uuid);
    seen.count = 0;
    assert_int_equal(wal_open(&o, see, &seen, &wal, &found, &err), ERR_OK);
    assert_int_equal(wal_last_lsn(wal), 3);
    assert_int_equal(wal_next_lsn(wal), 4 + (1u << 20));
    go_on(wal);
    assert_int_equal(append(wal, "a"), 4 + (1u << 20));
    assert_int_equal(append(wal, "b"), 5 + (1u << 20));
    wal_close(wal);
    wal_close(open_log(data_fd, 0));
    assert_int_equal(seen.count, 5);
    assert_int_equal(seen.lsns[2], 3);
    assert_int_equal(seen.lsns[3], 4 + (1u << 20));
}

/* ---- failures ---- */

static void a_full_disk_appends_nothing(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    uint64_t lsn = 0;
    append_many(wal, 1, 3);
    faults_arm(FAULT_WRITE, 0, ENOSPC);
    assert_int_equal(try_append(wal, "lost", &lsn), ERR_STORAGE_FULL);
    faults_disarm();
    assert_false(wal_is_broken(wal));
    append_many(wal, 4, 5);
    wal_close(wal);
    wal_close(open_log(data_fd, 0));
    assert_seen(1, 5);
}

/* A record in so many parts that its write takes two calls. */
static enum err_code append_in_two_calls(struct wal *wal)
{
    static char byte = 'x';
    static struct iovec iov[IOV_MAX + 10];
    struct disk_wal_record head = {.type = WAL_ROWS};
    uint64_t lsn;
    iov[0] = (struct iovec){&head, sizeof head};
    for (int i = 1; i < IOV_MAX + 9; i++)
        iov[i] = (struct iovec){&byte, 1};
    return wal_append(wal, &head, iov, IOV_MAX + 9, &lsn, &err);
}

static void a_record_that_was_torn_by_a_full_disk_is_cut_off(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 3);
    faults_arm(FAULT_WRITE, 1, ENOSPC);
    assert_int_equal(append_in_two_calls(wal), ERR_STORAGE_FULL);
    assert_int_equal(faults_disarm(), 3); /* two of the record, one that cuts it off */
    assert_false(wal_is_broken(wal));
    take_image();
    wal_close(wal);
    wal = open_log(image_fd, 0);
    assert_seen(1, 3);
    assert_int_equal(found.cut_bytes, 0);
    wal_close(wal);
}

static void a_record_that_cannot_be_cut_off_breaks_the_log(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 3);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    faults_arm(FAULT_WRITE, 1, ENOSPC);
    faults.fail_all = true;
    assert_int_equal(append_in_two_calls(wal), ERR_READ_ONLY);
    faults_disarm();
    assert_true(wal_is_broken(wal));
    uint64_t lsn;
    assert_int_equal(try_append(wal, "x", &lsn), ERR_READ_ONLY);
    assert_int_equal(wal_kept_lsn(wal), 3);
    take_image();
    wal_close(wal);
    wal = open_log(image_fd, 0);
    assert_seen(1, 3);
    assert_true(found.cut_bytes > 0); /* and the start says so */
    wal_close(wal);
}

static void a_segment_that_could_not_be_prepared_is_made_durable_later(void **state)
{
    (void)state;
    /* Whichever step failed, the next attempt must sync the file and its name. */
    for (int step = 0;; step++) {
        assert_int_equal(wal_remove(data_fd, "db", &err), ERR_OK);
        struct wal *wal = open_log(data_fd, 0);
        faults_arm(FAULT_ANY, step, ENOSPC);
        enum err_code rc = wal_prepare(wal, &err);
        faults_disarm();
        if (!rc) {
            assert_true(step >= 4);
            wal_close(wal);
            return;
        }
        assert_int_equal(rc, ERR_STORAGE_FULL);
        int before = atomic_load(&faults.dir_syncs);
        assert_int_equal(wal_prepare(wal, &err), ERR_OK);
        assert_true(atomic_load(&faults.dir_syncs) > before);
        assert_int_equal(wal_switch(wal, &err), ERR_OK);
        append_many(wal, 1, 3);
        wal_close(wal);
        wal_close(open_log(data_fd, 0));
        assert_seen(1, 3);
    }
}

static void a_prepared_segment_of_a_killed_process_is_made_durable_before_it_is_used(void **state)
{
    (void)state;
    wal_close(new_log());
    struct wal *wal = open_log(data_fd, 0);
    assert_int_equal(wal_prepare(wal, &err), ERR_OK);
    wal_close(wal); /* its name may be in the page cache alone */
    wal = open_log(data_fd, 0);
    int before = atomic_load(&faults.dir_syncs);
    go_on(wal);
    assert_true(atomic_load(&faults.dir_syncs) > before);
    wal_close(wal);
}

/* A power cut may leave anything in a file that was not synced; a bad header would be damage. */
static void a_new_segment_has_its_name_only_when_it_is_durable(void **state)
{
    (void)state;
    struct wal *wal = open_log(data_fd, 0);
    faults_arm(FAULT_SYNC, 0, ENOSPC);
    assert_int_equal(wal_prepare(wal, &err), ERR_STORAGE_FULL);
    faults_disarm();
    assert_false(file_exists(data_fd, "db.wal.0"));
    go_on(wal);
    assert_true(file_exists(data_fd, "db.wal.0"));
    wal_close(wal);
    assert_int_equal(wal_remove(data_fd, "db", &err), ERR_OK);
    assert_false(file_exists(data_fd, "db.wal.tmp"));
}

static void a_failed_sync_is_final(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 2);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    append_many(wal, 3, 3);
    faults_arm(FAULT_SYNC, 0, EIO);
    assert_int_equal(wal_sync(wal, &err), ERR_READ_ONLY);
    faults_disarm();
    /* The disk works again, but the kernel may have dropped the pages. */
    assert_true(wal_is_broken(wal));
    assert_int_equal(wal_sync(wal, &err), ERR_READ_ONLY);
    assert_int_equal(wal_durable_lsn(wal), 2);
    uint64_t lsn = 0;
    assert_int_equal(try_append(wal, "x", &lsn), ERR_READ_ONLY);
    assert_int_equal(wal_prepare(wal, &err), ERR_OK);
    assert_int_not_equal(wal_switch(wal, &err), ERR_OK);
    wal_close(wal);
}

static int synced_count;

static void note_sync(int call)
{
    (void)call;
    synced_count++;
}

static void the_segment_before_is_synced_first(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 2);
    go_on(wal);
    append_many(wal, 3, 4);
    synced_count = 0;
    faults_arm(FAULT_SYNC, 0, EIO); /* the old segment's */
    faults.before = note_sync;
    assert_int_equal(wal_sync(wal, &err), ERR_READ_ONLY);
    faults_disarm();
    assert_int_equal(synced_count, 1); /* the new one was not even tried */
    assert_int_equal(wal_durable_lsn(wal), 0);
    wal_close(wal);
}

static void a_sync_with_nothing_to_do_costs_nothing(void **state)
{
    (void)state;
    struct wal *wal = new_log();
    append_many(wal, 1, 2);
    assert_int_not_equal(wal_unsynced_since_ns(wal), 0);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    assert_int_equal(wal_unsynced_since_ns(wal), 0);
    faults_arm(FAULT_SYNC, -1, 0);
    assert_int_equal(wal_sync(wal, &err), ERR_OK);
    assert_int_equal(faults_disarm(), 0);
    wal_close(wal);
}

/* ---- waiters, threads ---- */

enum { THREADS = 8, APPENDS = 150 };

struct writers {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    struct wal *wal;
    int waiting, called;
    _Atomic int per_lsn[THREADS * APPENDS + 1];
    _Atomic int early, bad;
};
static struct writers w;

static void durable(void *ctx, enum err_code rc)
{
    uint64_t lsn = (uint64_t)(uintptr_t)ctx;
    if (rc) atomic_fetch_add(&w.bad, 1);
    if (!rc && wal_durable_lsn(w.wal) < lsn) atomic_fetch_add(&w.early, 1);
    atomic_fetch_add(&w.per_lsn[lsn], 1);
    pthread_mutex_lock(&w.mu);
    w.called++;
    pthread_cond_broadcast(&w.cond);
    pthread_mutex_unlock(&w.mu);
}

static void *write_and_wait(void *arg)
{
    (void)arg;
    for (int i = 0; i < APPENDS; i++) {
        uint64_t lsn;
        pthread_mutex_lock(&w.mu); /* the writer lock */
        struct disk_wal_record head = {.type = WAL_ROWS};
        struct iovec iov[2] = {{&head, sizeof head}};
        struct err e;
        if (wal_append(w.wal, &head, iov, 1, &lsn, &e)) abort();
        pthread_mutex_unlock(&w.mu);
        bool is_durable = wal_await(w.wal, lsn, durable, (void *)(uintptr_t)lsn);
        pthread_mutex_lock(&w.mu);
        if (is_durable) {
            if (wal_durable_lsn(w.wal) < lsn) atomic_fetch_add(&w.early, 1);
            atomic_fetch_add(&w.per_lsn[lsn], 1);
        } else {
            w.waiting++;
            while (!atomic_load(&w.per_lsn[lsn]))
                pthread_cond_wait(&w.cond, &w.mu);
        }
        pthread_mutex_unlock(&w.mu);
    }
    return NULL;
}

static void writers_in_many_threads_share_syncs_and_are_called_back_once(void **state)
{
    (void)state;
    w = (struct writers){.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    wal_close(new_log());
    struct syncer *syncer = syncer_start(2);
    assert_int_equal(try_open(data_fd, "db", 0, false, syncer, &w.wal), ERR_OK);
    go_on(w.wal);
    faults_arm(FAULT_SYNC, -1, 0);
    faults.all_threads = true;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_and_wait, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    int syncs = faults_disarm();
    wal_close(w.wal); /* forgets it at the syncer: nobody is called any more */
    syncer_stop(syncer);
    assert_int_equal(atomic_load(&w.early), 0);
    assert_int_equal(atomic_load(&w.bad), 0);
    assert_int_equal(w.called, w.waiting);
    for (int lsn = 1; lsn <= THREADS * APPENDS; lsn++)
        assert_int_equal(atomic_load(&w.per_lsn[lsn]), 1);
    assert_true(syncs <= THREADS * APPENDS);
}

static void a_long_log_is_synced_before_anybody_asks(void **state)
{
    (void)state;
    enum { RECORD_BYTES = 1 << 20, RECORDS = 10 };
    wal_close(new_log());
    struct syncer *syncer = syncer_start(1);
    struct wal *wal = NULL;
    assert_int_equal(try_open(data_fd, "db", 0, false, syncer, &wal), ERR_OK);
    go_on(wal);
    char *bytes = calloc(1, RECORD_BYTES);
    assert_non_null(bytes);
    for (int i = 0; i < RECORDS; i++) {
        struct disk_wal_record head = {.type = WAL_ROWS, .op_count = 1};
        struct iovec iov[3] = {{&head, sizeof head}, {bytes, RECORD_BYTES}};
        uint64_t lsn;
        assert_int_equal(wal_append(wal, &head, iov, 2, &lsn, &err), ERR_OK);
    }
    while (wal_durable_lsn(wal) == 0) /* the test's time limit ends this */
        sched_yield();
    wal_close(wal);
    syncer_stop(syncer);
    free(bytes);
}

static void waiters_of_a_broken_log_are_told(void **state)
{
    (void)state;
    w = (struct writers){.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    wal_close(new_log());
    struct syncer *syncer = syncer_start(1);
    assert_int_equal(try_open(data_fd, "db", 0, false, syncer, &w.wal), ERR_OK);
    go_on(w.wal);
    append_many(w.wal, 1, 3);
    faults_arm(FAULT_SYNC, 0, EIO);
    faults.all_threads = true;
    int waiting = 0;
    for (uint64_t lsn = 1; lsn <= 3; lsn++)
        waiting += !wal_await(w.wal, lsn, durable, (void *)(uintptr_t)lsn);
    assert_int_equal(waiting, 3);
    pthread_mutex_lock(&w.mu);
    while (w.called < 3)
        pthread_cond_wait(&w.cond, &w.mu);
    pthread_mutex_unlock(&w.mu);
    faults_disarm();
    assert_int_equal(atomic_load(&w.bad), 3);
    wal_close(w.wal);
    syncer_stop(syncer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(replay_after_close_gives_the_same_records),
        temp_dir_test(only_what_is_behind_the_checkpoint_is_replayed),
        temp_dir_test(a_log_goes_on_over_many_openings),
        temp_dir_test(an_error_of_the_callback_ends_the_opening),
        temp_dir_test(a_missing_log_is_refused_unless_it_is_to_be_made),
        temp_dir_test(the_log_of_another_life_of_the_name_is_not_taken),
        temp_dir_test(a_log_of_a_newer_format_is_left_alone),
        temp_dir_test(a_cut_at_any_byte_drops_only_the_tail),
        temp_dir_test(what_an_earlier_life_of_the_file_left_is_no_evidence),
        temp_dir_test(after_a_torn_tail_the_log_goes_on_and_the_tail_stays_gone),
        temp_dir_test(segments_behind_a_torn_one_are_superseded_with_it),
        temp_dir_test(damage_that_a_later_record_proves_is_refused_at_every_byte),
        temp_dir_test(damage_before_the_checkpoint_is_not_judged),
        temp_dir_test(a_damaged_header_of_a_started_segment_is_refused),
        temp_dir_test(a_current_segment_that_is_gone_is_missed),
        temp_dir_test(the_header_of_a_segment_is_durable_before_older_ones_are_dropped),
        temp_dir_test(files_that_kills_left_behind_are_used_again),
        temp_dir_test(stale_records_of_a_recycled_segment_are_never_replayed),
        temp_dir_test(a_record_of_another_salt_is_not_a_record),
        temp_dir_test(dropping_keeps_the_current_segment_and_one_file_for_the_next),
        temp_dir_test(switching_without_records_stays_where_it_is),
        temp_dir_test(old_segments_are_replayed_before_the_current_one),
        temp_dir_test(a_missing_segment_in_the_middle_is_refused),
        temp_dir_test(a_log_that_does_not_reach_back_to_the_file_is_refused),
        temp_dir_test(an_older_file_is_refused_although_part_of_a_dropped_segment_is_left),
        temp_dir_test(lsns_skip_ahead_when_some_may_be_lost),
        temp_dir_test(a_full_disk_appends_nothing),
        temp_dir_test(a_record_that_was_torn_by_a_full_disk_is_cut_off),
        temp_dir_test(a_record_that_cannot_be_cut_off_breaks_the_log),
        temp_dir_test(a_segment_that_could_not_be_prepared_is_made_durable_later),
        temp_dir_test(a_prepared_segment_of_a_killed_process_is_made_durable_before_it_is_used),
        temp_dir_test(a_new_segment_has_its_name_only_when_it_is_durable),
        temp_dir_test(a_failed_sync_is_final),
        temp_dir_test(the_segment_before_is_synced_first),
        temp_dir_test(a_sync_with_nothing_to_do_costs_nothing),
        temp_dir_test(writers_in_many_threads_share_syncs_and_are_called_back_once),
        temp_dir_test(a_long_log_is_synced_before_anybody_asks),
        temp_dir_test(waiters_of_a_broken_log_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
