/* Many write, many read, the file grows, checkpoints come and go: everybody gets what is his. */
#include "tests/storage/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#include "storage/base/epoch.h"
#include "storage/database_private.h"

struct fixture {
    char *dir;
    struct service *svc;
};

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    fx->dir = test_dir_new();
    fx->svc = test_service_open(fx->dir);
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    test_service_close(fx->svc);
    test_dir_remove(fx->dir);
    free(fx);
    return 0;
}

static void restart(struct fixture *fx)
{
    test_service_close(fx->svc);
    fx->svc = test_service_open(fx->dir);
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

/* ---- durability ---- */

struct waiter {
    _Atomic unsigned calls;
    _Atomic int rc;
};

static void is_durable(void *ctx, enum err_code rc)
{
    struct waiter *w = ctx;
    atomic_store(&w->rc, rc);
    atomic_fetch_add(&w->calls, 1);
}

static bool was_called(void *ctx)
{
    return atomic_load(&((struct waiter *)ctx)->calls) > 0;
}

static void who_waits_for_durability_is_called_once(void **state)
{
    struct fixture *fx = *state;
    static struct waiter waiters[100];
    test_create(fx->svc, "a", 2, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "a");
    uint64_t lsns[100];
    unsigned waiting = 0;
    for (unsigned i = 0; i < 100; i++) {
        lsns[i] = test_put_number(db, i, 1);
        if (database_await(db, lsns[i], DURABILITY_SYNCED, is_durable, &waiters[i]))
            assert_true(wal_durable_lsn(db->wal) >= lsns[i]);
        else
            waiting++;
    }
    assert_true(waiting > 0);
    unsigned called = 0;
    for (unsigned i = 0; i < 100; i++) {
        if (wal_durable_lsn(db->wal) < lsns[i]) assert_true(test_until(was_called, &waiters[i]));
    }
    struct err err;
    CHECK_OK(database_wait(db, lsns[99], DURABILITY_SYNCED, &err));
    assert_true(wal_durable_lsn(db->wal) >= lsns[99]);
    assert_true(database_await(db, lsns[99], DURABILITY_SYNCED, is_durable, &waiters[0]));
    service_release(db);
    restart(fx); /* whoever is called late has been called now */
    for (unsigned i = 0; i < 100; i++) {
        unsigned calls = atomic_load(&waiters[i].calls);
        assert_true(calls <= 1 && atomic_load(&waiters[i].rc) == ERR_OK);
        called += calls;
    }
    assert_int_equal(called, waiting);
}

static void periodic_durability_waits_for_nothing(void **state)
{
    struct fixture *fx = *state;
    struct waiter w = {0};
    test_create(fx->svc, "a", 2, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "a");
    uint64_t lsn = test_put_number(db, 1, 1);
    assert_true(database_await(db, lsn, DURABILITY_PERIODIC, is_durable, &w));
    assert_int_equal(atomic_load(&w.calls), 0);
    service_release(db);
}

static void a_write_that_may_not_block_does_all_or_nothing(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "a", 2, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "a");
    float vector[2] = {1, 2};
    struct row_input row = {.id = number_id(7), .vector = vector};
    uint64_t lsn;
    size_t deleted;
    struct vector_id id = number_id(7);
    /* A descriptor must be opened first. */
    assert_int_equal(database_put(db, &row, 1, 2, false, &lsn, &err), ERR_WOULD_BLOCK);
    assert_int_equal(test_count(db), 0);
    test_put_number(db, 1, 1);
    CHECK_OK(database_put(db, &row, 1, 2, false, &lsn, &err));
    assert_int_equal(test_count(db), 2);

    mutex_lock(&db->writer); /* somebody writes */
    lock_ranks_held = 0;     /* somebody else, that is */
    assert_int_equal(database_put(db, &row, 1, 2, false, &lsn, &err), ERR_WOULD_BLOCK);
    assert_int_equal(database_delete(db, &id, 1, false, &deleted, &lsn, &err), ERR_WOULD_BLOCK);
    assert_true(test_first(db, id) == 1); /* readers do not mind */
    lock_ranks_held = 1u << LOCK_DATABASE;
    mutex_unlock(&db->writer);
    CHECK_OK(database_delete(db, &id, 1, false, &deleted, &lsn, &err));
    assert_int_equal(deleted, 1);
    service_release(db);
}

/* ---- many threads ---- */

enum { WRITERS = 3, WRITES = 250, READERS = 2 };

struct crowd {
    struct database *db;
    unsigned number; /* of this writer */
    uint64_t lsns[WRITES], ids[WRITES];
    _Atomic bool *done;
    const char *wrong;
};

static void fill_row(float vector[20], char metadata[1200], uint64_t key, uint64_t seed)
{
    for (int i = 0; i < 20; i++)
        vector[i] = (float)(key * 20 + (unsigned)i);
    size_t bytes = 10 + test_random(&seed) % 1100;
    memset(metadata, ' ', bytes);
    metadata[bytes] = '\0';
    int n = snprintf(metadata, 1200, "{\"k\":%llu", (unsigned long long)key);
    metadata[n] = ' ';
    if ((size_t)n >= bytes) bytes = (size_t)n + 1;
    metadata[bytes - 1] = '}';
    metadata[bytes] = '\0';
}

static void *write_rows(void *arg)
{
    struct crowd *c = arg;
    struct err err;
    for (unsigned i = 0; i < WRITES && !c->wrong; i++) {
        float vector[20];
        char metadata[1200];
        uint64_t key = c->number * 1000 + i;
        fill_row(vector, metadata, key, key);
        struct row_input row = {.assign_id = true,
                                .vector = vector,
                                .metadata = metadata,
                                .metadata_bytes = (uint32_t)strlen(metadata)};
        if (database_put(c->db, &row, 1, 20, true, &c->lsns[i], &err)) c->wrong = "put";
        c->ids[i] = row.id.number;
        if (i && c->lsns[i] <= c->lsns[i - 1]) c->wrong = "LSNs do not ascend";
    }
    return NULL;
}

struct tally {
    uint64_t rows, last;
    bool bad;
};

static bool check_listed(void *ctx, const struct row *row)
{
    struct tally *t = ctx;
    float vector[20];
    char metadata[1200];
    uint64_t key = (uint64_t)(row->vector[0] / 20);
    fill_row(vector, metadata, key, key);
    t->bad |= t->rows && row->id.number <= t->last;
    t->bad |= memcmp(row->vector, vector, sizeof vector) != 0;
    t->bad |= row->metadata_bytes != strlen(metadata);
    t->bad |= !t->bad && memcmp(row->metadata, metadata, row->metadata_bytes) != 0;
    t->last = row->id.number;
    t->rows++;
    return true;
}

static void *read_rows(void *arg)
{
    struct crowd *c = arg;
    struct err err;
    uint64_t seen = 0, lsn = 0;
    while (!c->wrong && !atomic_load(c->done)) {
        struct reader r;
        struct tally t = {0};
        bool more;
        reader_begin(c->db, &r);
        if (reader_count(&r) < seen || r.lsn < lsn) c->wrong = "time runs backwards";
        seen = reader_count(&r);
        lsn = r.lsn;
        if (reader_list(&r, NULL, NULL, 0, SIZE_MAX, check_listed, &t, &more, &err))
            c->wrong = "list";
        if (t.bad) c->wrong = "a wrong row";
        if (t.rows != seen) c->wrong = "the count differs from the list";
        reader_end(&r);
    }
    return NULL;
}

static void writers_readers_and_checkpoints_do_not_disturb_each_other(void **state)
{
    struct fixture *fx = *state;
    static struct crowd writers[WRITERS], readers[READERS];
    _Atomic bool done = false;
    pthread_t threads[WRITERS + READERS];
    test_create(fx->svc, "c", 20, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(fx->svc, "c");
    for (unsigned i = 0; i < WRITERS + READERS; i++) {
        struct crowd *c = i < WRITERS ? &writers[i] : &readers[i - WRITERS];
        *c = (struct crowd){.db = db, .number = i, .done = &done};
        assert_int_equal(pthread_create(&threads[i], NULL, i < WRITERS ? write_rows : read_rows, c),
                         0);
    }
    for (int i = 0; i < 10; i++)
        flush(fx, "c");
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&done, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(threads[WRITERS + i], NULL);
    for (unsigned i = 0; i < WRITERS + READERS; i++) {
        struct crowd *c = i < WRITERS ? &writers[i] : &readers[i - WRITERS];
        if (c->wrong) fail_msg("%s", c->wrong);
    }
    /* No LSN and no id was given twice: together they are 1 .. n. */
    static bool lsn_seen[WRITERS * WRITES + 1], id_seen[WRITERS * WRITES + 1];
    uint64_t first = UINT64_MAX;
    for (unsigned w = 0; w < WRITERS; w++)
        if (writers[w].lsns[0] < first) first = writers[w].lsns[0];
    for (unsigned w = 0; w < WRITERS; w++)
        for (unsigned i = 0; i < WRITES; i++) {
            uint64_t lsn = writers[w].lsns[i] - first, id = writers[w].ids[i] - 1;
            assert_true(lsn < WRITERS * WRITES && !lsn_seen[lsn]);
            assert_true(id < WRITERS * WRITES && !id_seen[id]);
            lsn_seen[lsn] = id_seen[id] = true;
        }
    for (int round = 0; round < 2; round++) {
        for (unsigned w = 0; w < WRITERS; w++)
            for (unsigned i = 0; i < WRITES; i++)
                assert_true(test_first(db, number_id(writers[w].ids[i])) ==
                            (float)((w * 1000 + i) * 20));
        service_release(db);
        if (round == 0) restart(fx);
        if (round == 0) db = test_acquire(fx->svc, "c");
    }
}

/* ---- growth ---- */

/* 1,100 rows of 256 KiB: the first mapping has 256 MiB. */
static void a_file_that_outgrows_its_mapping_keeps_its_changes(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "g", DIMENSION_MAX, METRIC_COSINE);
    struct database *db = test_acquire(fx->svc, "g");
    for (uint64_t i = 0; i < 10; i++)
        test_put_number(db, i, (float)i);
    flush(fx, "g");
    for (uint64_t i = 5; i < 15; i++)
        test_put_number(db, i, (float)(100 + i)); /* not in the file yet */

    struct reader r;
    struct row row;
    struct vector_id id = number_id(12);
    reader_begin(db, &r);
    CHECK_OK(reader_get(&r, &id, &row, &err));
    mutex_lock(&db->writer);
    const struct jvdb_view *before = atomic_load(&db->store->file.view);
    CHECK_OK(jvdb_file_grow(&db->store->file, REGION_VECTORS, 1100, &err));
    assert_ptr_not_equal(before, atomic_load(&db->store->file.view));
    mutex_unlock(&db->writer);
    test_put_number(db, 12, 1000);
    epoch_collect();
    assert_true(row.vector[0] == 112);
    CHECK_OK(reader_get(&r, &id, &row, &err));
    assert_true(row.vector[0] == 112);
    reader_end(&r);

    for (int round = 0; round < 3; round++) {
        assert_int_equal(test_count(db), 15);
        for (uint64_t i = 0; i < 15; i++) {
            float want = i == 12 ? 1000 : i < 5 ? (float)i : (float)(100 + i);
            assert_true(test_first(db, number_id(i)) == want);
        }
        if (round == 0) flush(fx, "g");
        if (round == 1) {
            service_release(db);
            restart(fx);
            db = test_acquire(fx->svc, "g");
        }
    }
    service_release(db);
}

static void a_small_database_has_a_small_file(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "s", 384, METRIC_COSINE);
    struct stat st;
    char path[600];
    snprintf(path, sizeof path, "%s/s.jvdb", fx->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size <= 128 * 1024);
    struct database *db = test_acquire(fx->svc, "s");
    test_put_number(db, 1, 1);
    flush(fx, "s");
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size <= 256 * 1024);
    service_release(db);
}

/* ---- damage ---- */

/* Everything that is read is right, or refused: returns false if something was refused. */
static bool all_right_or_refused(struct service *svc)
{
    struct err err;
    struct database *db;
    enum err_code rc = service_acquire(svc, "d", true, &db, &err);
    if (rc) {
        assert_int_equal(rc, ERR_QUARANTINED);
        return false;
    }
    bool refused = false;
    struct reader r;
    reader_begin(db, &r);
    assert_int_equal(reader_count(&r), 60);
    for (uint64_t i = 0; i < 60 && !refused; i++) {
        char text[40], metadata[40];
        snprintf(text, sizeof text, "a long common start %u", (unsigned)i);
        int n = snprintf(metadata, sizeof metadata, "{\"i\":%u}", (unsigned)i);
        struct vector_id id = i % 2 ? test_text_id(text) : number_id(i);
        struct row row;
        rc = reader_get(&r, &id, &row, &err);
        refused = rc != ERR_OK;
        if (rc) {
            if (rc != ERR_CORRUPT && rc != ERR_QUARANTINED) fail_msg("%d: %s", (int)rc, err.msg);
            break;
        }
        assert_int_equal(vector_id_compare(&row.id, &id), 0);
        for (int k = 0; k < 30; k++)
            assert_true(row.vector[k] == (float)i + (float)k);
        assert_int_equal(row.metadata_bytes, n);
        assert_memory_equal(row.metadata, metadata, (size_t)n);
    }
    static struct search_hit hits[100];
    size_t count;
    float query[30] = {0};
    struct search_query q = {.vector = query, .top_k = 100};
    rc = reader_search(&r, &q, true, hits, &count, NULL, &err);
    if (rc)
        refused = true;
    else
        assert_int_equal(count, 60);
    reader_end(&r);
    service_release(db);
    return !refused;
}

static void no_flipped_bit_is_ever_served(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "d", 30, METRIC_EUCLIDEAN);
    struct database *db = test_acquire(fx->svc, "d");
    for (uint64_t i = 0; i < 60; i++) {
        char text[40], metadata[40];
        snprintf(text, sizeof text, "a long common start %u", (unsigned)i);
        snprintf(metadata, sizeof metadata, "{\"i\":%u}", (unsigned)i);
        float vector[30];
        for (int k = 0; k < 30; k++)
            vector[k] = (float)i + (float)k;
        test_put(db, i % 2 ? test_text_id(text) : number_id(i), vector, metadata);
    }
    service_release(db);
    restart(fx);
    assert_true(all_right_or_refused(fx->svc));
    test_service_close(fx->svc);

    char path[600];
    snprintf(path, sizeof path, "%s/d.jvdb", fx->dir);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    unsigned refused = 0, tried = 0;
    uint64_t seed = 3;
    for (off_t at = 0; at < st.st_size; at += 1 + (off_t)(test_random(&seed) % 800)) {
        char *dir = test_dir_new();
        test_file_copy(fx->dir, "d.jvdb", dir, "d.jvdb");
        snprintf(path, sizeof path, "%s/d.jvdb", dir);
        int fd = open(path, O_RDWR);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1u << test_random(&seed) % 8);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        struct service *svc = test_service_open(dir);
        refused += !all_right_or_refused(svc);
        tried++;
        struct err err;
        if (service_close(svc, &err)) err.msg[0] = '\0'; /* it may well complain */
        test_dir_remove(dir);
    }
    if (tried < 100 || refused < 60) fail_msg("%u of %u refused", refused, tried);
    fx->svc = test_service_open(fx->dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_waits_for_durability_is_called_once),
        TEST(periodic_durability_waits_for_nothing),
        TEST(a_write_that_may_not_block_does_all_or_nothing),
        TEST(writers_readers_and_checkpoints_do_not_disturb_each_other),
        TEST(a_file_that_outgrows_its_mapping_keeps_its_changes),
        TEST(a_small_database_has_a_small_file),
        TEST(no_flipped_bit_is_ever_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
