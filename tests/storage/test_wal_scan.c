/* What a look at a log says, and that it says what an opening would. */
#include "storage/wal_scan.h"

#include "tests/storage/temp_dir.h"

#include "storage/wal.h"
#include "storage/wal_segment.h"

static const uint8_t uuid[16] = "0123456789abcde", other_uuid[16] = "another";

/* ---- segments, byte by byte ---- */

struct forge {
    struct disk_wal_header h;
    uint8_t bytes[1 << 20];
    size_t end;
    uint64_t next_lsn;
    uint32_t previous;
};

static struct forge forge;

static void begin(uint64_t sequence, uint64_t base_lsn)
{
    forge = (struct forge){.h = {.format_version = FORMAT_VERSION,
                                 .sequence = sequence,
                                 .base_lsn = base_lsn,
                                 .after_lsn = base_lsn - 1,
                                 .salt = sequence * 77},
                           .end = WAL_HEADER_BYTES,
                           .next_lsn = base_lsn};
    memcpy(forge.h.magic, WAL_MAGIC, sizeof forge.h.magic);
    memcpy(forge.h.uuid, uuid, sizeof uuid);
}

static void record(uint64_t durable_lsn)
{
    struct disk_wal_record r = {.bytes = sizeof r + 8,
                                .lsn = forge.next_lsn++,
                                .durable_lsn = durable_lsn,
                                .previous_crc = forge.previous,
                                .type = WAL_ROWS};
    uint8_t *at = forge.bytes + forge.end;
    memcpy(at, &r, sizeof r);
    memset(at + sizeof r, (int)r.lsn, 8);
    r.crc = crc32c(wal_record_crc_start(forge.h.salt), at + sizeof r.crc, r.bytes - sizeof r.crc);
    memcpy(at, &r.crc, sizeof r.crc);
    forge.previous = r.crc;
    forge.end += wal_padded(r.bytes);
}

static void end(const char *name, size_t bytes)
{
    forge.h.crc = wal_header_crc(&forge.h);
    memcpy(forge.bytes, &forge.h, sizeof forge.h);
    set_file(data_fd, name, forge.bytes, bytes);
}

/* ---- both ways to read it ---- */

struct paced {
    uint64_t bytes, stop_at;
    int calls;
};

static bool count_bytes(void *ctx, uint64_t bytes)
{
    struct paced *p = ctx;
    p->bytes += bytes;
    p->calls++;
    return !p->stop_at || p->bytes < p->stop_at;
}

static struct wal_scan scan(struct paced *p)
{
    struct err err;
    struct wal_scan s = {.dir_fd = data_fd, .name = "db", .uuid = uuid, .pace = count_bytes};
    s.ctx = p;
    assert_int_equal(wal_scan(&s, &err), ERR_OK);
    return s;
}

static enum err_code take(void *ctx, const struct disk_wal_record *r, const uint8_t *ops,
                          uint64_t ops_bytes, struct err *err)
{
    (void)r, (void)ops, (void)ops_bytes, (void)err;
    ++*(uint64_t *)ctx;
    return ERR_OK;
}

/* The same verdict, the same number of records, the same tail. */
static struct wal_scan assert_both_say(bool damaged, uint64_t records)
{
    struct paced p = {0};
    struct wal_scan s = scan(&p);
    struct wal *wal = NULL;
    struct wal_recovery found;
    struct wal_options o = {.dir_fd = data_fd, .name = "db", .read_only = true};
    struct err err;
    uint64_t taken = 0;
    memcpy(o.uuid, uuid, sizeof o.uuid);
    enum err_code rc = wal_open(&o, take, &taken, &wal, &found, &err);
    if ((rc != ERR_OK) != damaged) fail_msg("an opening says %d: %s", rc, rc ? err.msg : "");
    if (s.damaged != damaged) fail_msg("a scan says: %s", s.damaged ? s.damage.msg : "good");
    if (!damaged) {
        assert_int_equal(taken, records);
        assert_int_equal(s.records, records);
        assert_int_equal(s.cut_bytes, found.cut_bytes);
    }
    wal_close(wal);
    return s;
}

/* ---- tests ---- */

static void a_log_of_two_segments_is_read_in_order(void **state)
{
    (void)state;
    begin(1, 1);
    record(0);
    record(0);
    end("db.wal.4", 65536);
    begin(2, 3);
    record(2);
    end("db.wal.0", 65536);
    struct wal_scan s = assert_both_say(false, 3);
    assert_int_equal(s.segments, 2);
    assert_int_equal(s.first_lsn, 1);
    assert_int_equal(s.last_lsn, 3);
    assert_int_equal(s.foreign, 0);
}

static void the_proof_of_damage_may_lie_in_a_later_segment(void **state)
{
    (void)state;
    for (int durable = 0; durable < 2; durable++) {
        begin(1, 1);
        record(0);
        record(0);
        forge.bytes[forge.end - 1] ^= 1;
        end("db.wal.0", 65536);
        begin(2, 3);
        record(durable ? 2 : 0);
        end("db.wal.1", 65536);
        assert_both_say(durable, 1);
    }
}

static void a_segment_of_another_database_is_not_judged(void **state)
{
    (void)state;
    begin(1, 1);
    record(0);
    end("db.wal.0", 65536);
    begin(9, 100);
    memcpy(forge.h.uuid, other_uuid, sizeof other_uuid);
    forge.h.format_version = FORMAT_VERSION + 1;
    end("db.wal.1", 65536);
    struct wal_scan s = assert_both_say(false, 1);
    assert_int_equal(s.foreign, 1);
    forge.h.format_version = FORMAT_VERSION;
    end("db.wal.1", 65536);
    assert_int_equal(assert_both_say(false, 1).foreign, 1);
}

static void a_segment_of_a_newer_version_is_not_passed_over(void **state)
{
    (void)state;
    begin(1, 1);
    record(0);
    end("db.wal.0", 65536);
    begin(2, 2);
    forge.h.format_version = FORMAT_VERSION + 1;
    end("db.wal.1", 65536);
    assert_both_say(true, 0);
}

/* Behind a bad record, every 8 bytes a head that claims the rest of the file. */
static void forge_heads(void)
{
    begin(1, 1);
    record(0);
    for (size_t at = forge.end + 8; at + sizeof(struct disk_wal_record) <= sizeof forge.bytes;
         at += sizeof(struct disk_wal_record)) {
        struct disk_wal_record r = {.bytes = (uint32_t)(sizeof forge.bytes - at),
                                    .lsn = 1000,
                                    .durable_lsn = 999,
                                    .type = WAL_ROWS};
        memcpy(forge.bytes + at, &r, sizeof r);
    }
    end("db.wal.0", sizeof forge.bytes);
}

static void a_forged_log_costs_a_bounded_time(void **state)
{
    (void)state;
    struct err err;
    struct paced p = {0};
    forge_heads();
    assert_both_say(true, 0);
    scan(&p);
    assert_true(p.bytes < (WAL_SEARCH_WORK + 8) * sizeof forge.bytes);
    /* Nor does the search for what is left of it. */
    struct wal_scan s = {
        .dir_fd = data_fd, .name = "db", .past_damage = true, .pace = count_bytes, .ctx = &p};
    p = (struct paced){0};
    assert_int_equal(wal_scan(&s, &err), ERR_OK);
    assert_int_equal(s.records, 1);
    assert_true(p.bytes < (2 * WAL_SEARCH_WORK + 8) * sizeof forge.bytes);
}

static void it_stops_when_it_is_told_to(void **state)
{
    (void)state;
    forge_heads();
    struct paced p = {0};
    scan(&p);
    assert_true(p.calls > 10);
    uint64_t all = p.bytes;
    p = (struct paced){.stop_at = all / 4};
    scan(&p);
    assert_true(p.bytes < all / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(a_log_of_two_segments_is_read_in_order),
        temp_dir_test(the_proof_of_damage_may_lie_in_a_later_segment),
        temp_dir_test(a_segment_of_another_database_is_not_judged),
        temp_dir_test(a_segment_of_a_newer_version_is_not_passed_over),
        temp_dir_test(a_forged_log_costs_a_bounded_time),
        temp_dir_test(it_stops_when_it_is_told_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
