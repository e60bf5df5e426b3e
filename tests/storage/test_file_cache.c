/* However many databases there are, few are open, and nobody notices but by the clock. */
#include "tests/storage/faults.h"
#include "tests/storage/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MAX_OPEN = 5, MANY = 50 };

struct fixture {
    char *dir;
    struct service *svc;
};

static void reopen(struct fixture *fx)
{
    struct err err;
    if (fx->svc) test_service_close(fx->svc);
    struct service_options options = test_options(fx->dir);
    options.max_open_files = MAX_OPEN;
    CHECK_OK(service_open(&options, &fx->svc, &err));
}

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    fx->dir = test_dir_new();
    reopen(fx);
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

static const char *name_of(unsigned i)
{
    static _Thread_local char name[16];
    snprintf(name, sizeof name, "db%03u", i);
    return name;
}

static void create_many(struct fixture *fx, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        test_create(fx->svc, name_of(i), 4, METRIC_EUCLIDEAN);
}

static struct service_stats stats_of(struct fixture *fx)
{
    struct service_stats stats;
    service_stats(fx->svc, &stats);
    return stats;
}

/* What the kernel says: descriptors on .jvdb files and files that are mapped. */
static unsigned really_open(struct fixture *fx)
{
    static char mapped[256][300], line[1024];
    unsigned fds = 0, maps = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    for (struct dirent *d; (d = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), d->d_name, line, sizeof line - 1);
        line[n > 0 ? n : 0] = '\0';
        fds += strstr(line, fx->dir) && strstr(line, ".jvdb");
    }
    closedir(dir);
    FILE *f = fopen("/proc/self/maps", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *path = strchr(line, '/');
        if (!path || !strstr(path, fx->dir) || !strstr(path, ".jvdb")) continue;
        unsigned i = 0;
        while (i < maps && strcmp(mapped[i], path) != 0)
            i++;
        assert_true(i < 256 && strlen(path) < 300);
        if (i == maps) strcpy(mapped[maps++], path);
    }
    fclose(f);
    return fds + maps;
}

static void check_limit(struct fixture *fx)
{
    uint64_t open_files = stats_of(fx).open_files;
    if (open_files > MAX_OPEN) fail_msg("%u files are open", (unsigned)open_files);
    assert_true(really_open(fx) <= open_files);
}

static void few_files_are_open_and_nothing_is_lost(void **state)
{
    struct fixture *fx = *state;
    create_many(fx, MANY);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < MANY; i++) {
            struct database *db = test_acquire(fx->svc, name_of(i));
            check_limit(fx);
            for (unsigned old = 0; old < round; old++)
                assert_true(test_first(db, (struct vector_id){.number = old}) ==
                            (float)(i * 10 + old));
            test_put_number(db, round, (float)(i * 10 + round));
            check_limit(fx);
            service_release(db);
            check_limit(fx);
        }
    }
    assert_true(stats_of(fx).lru_evictions >= 2 * MANY);
    reopen(fx);
    for (unsigned i = 0; i < MANY; i++) {
        struct database *db = test_acquire(fx->svc, name_of(i));
        assert_int_equal(test_count(db), 3);
        assert_true(test_first(db, (struct vector_id){.number = 1}) == (float)(i * 10 + 1));
        service_release(db);
        check_limit(fx);
    }
}

/* Too long to be replayed: 2.4 MB in 40 rows. */
static void fill_with_a_long_log(struct fixture *fx, const char *name)
{
    static float vector[4];
    static char metadata[60001];
    memset(metadata, ' ', sizeof metadata - 1);
    memcpy(metadata, "{\"a\":1}", 7);
    struct database *db = test_acquire(fx->svc, name);
    for (uint64_t i = 0; i < 40; i++)
        test_put(db, (struct vector_id){.number = i}, vector, metadata);
    service_release(db);
}

static void a_long_log_is_evicted_without_loss(void **state)
{
    struct fixture *fx = *state;
    create_many(fx, 12);
    fill_with_a_long_log(fx, name_of(0));
    struct database *db;
    for (unsigned i = 1; i < 12; i++)
        service_release(test_acquire(fx->svc, name_of(i)));
    assert_false(test_info(fx->svc, name_of(0)).open);
    db = test_acquire(fx->svc, name_of(0));
    assert_int_equal(test_count(db), 40);
    assert_int_equal(test_info(fx->svc, name_of(0)).wal_bytes, 0);
    service_release(db);
}

static struct {
    struct fixture *fx;
    int looks, refused;
} reader;

static void *read_at_once(void *arg)
{
    struct err err;
    struct database *db = NULL;
    (void)arg;
    if (service_acquire(reader.fx->svc, name_of(0), false, &db, &err))
        reader.refused++;
    else
        service_release(db);
    return NULL;
}

static void read_during_a_checkpoint(int call)
{
    pthread_t thread;
    (void)call;
    if (!test_file_exists(reader.fx->dir, "db000.ckpt")) return;
    reader.looks++;
    assert_int_equal(pthread_create(&thread, NULL, read_at_once, NULL), 0);
    pthread_join(thread, NULL);
}

static void a_reader_does_not_wait_for_the_checkpoint_of_an_eviction(void **state)
{
    reader.fx = *state;
    reader.looks = reader.refused = 0;
    create_many(reader.fx, 12);
    fill_with_a_long_log(reader.fx, name_of(0));
    faults_arm(FAULT_SYNC, -1, 0);
    faults.before = read_during_a_checkpoint;
    for (unsigned i = 1; i < 12; i++)
        service_release(test_acquire(reader.fx->svc, name_of(i)));
    faults_disarm();
    assert_true(reader.looks > 0);
    assert_int_equal(reader.refused, 0);
    assert_false(test_info(reader.fx->svc, name_of(0)).open);
}

static void a_list_names_what_cannot_be_opened_now(void **state)
{
    struct fixture *fx = *state;
    create_many(fx, 3);
    for (unsigned i = 0; i < 3; i++)
        fill_with_a_long_log(fx, name_of(i));
    char *old_dir = fx->dir;
    fx->dir = test_dir_copy(old_dir); /* the counts follow from the logs */
    test_service_close(fx->svc);
    test_dir_remove(old_dir);

    struct err err;
    struct database_info *infos = NULL;
    size_t count = 0, total = 0;
    bool more;
    faults_arm(FAULT_ALLOCATE, 0, ENOSPC); /* what is replayed needs room */
    faults.fail_all = faults.all_threads = true;
    fx->svc = NULL;
    reopen(fx);
    enum err_code rc =
        service_list(fx->svc, NULL, NULL, 10, true, &infos, &count, &total, &more, &err);
    faults_disarm();
    if (rc) fail_msg("%s", err.msg);
    assert_int_equal(count, 3);
    size_t unknown = 0;
    for (size_t i = 0; i < count; i++) {
        assert_true(infos[i].counts_unknown == (infos[i].reason[0] != '\0'));
        if (infos[i].counts_unknown)
            unknown++;
        else
            assert_int_equal(infos[i].vector_count, 40);
    }
    assert_true(unknown > 0);
    service_list_free(infos, count);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(test_info(fx->svc, name_of(i)).vector_count, 40);
}

static void the_one_unused_for_longest_is_closed(void **state)
{
    struct fixture *fx = *state;
    create_many(fx, 7);
    reopen(fx);
    struct service_stats before = stats_of(fx);
    for (unsigned i = 0; i < 5; i++)
        service_release(test_acquire(fx->svc, name_of(i)));
    service_release(test_acquire(fx->svc, name_of(0)));
    service_release(test_acquire(fx->svc, name_of(5)));
    assert_true(test_info(fx->svc, name_of(0)).open);
    assert_false(test_info(fx->svc, name_of(1)).open);
    service_release(test_acquire(fx->svc, name_of(6)));
    assert_true(test_info(fx->svc, name_of(0)).open);
    assert_false(test_info(fx->svc, name_of(2)).open);
    struct service_stats after = stats_of(fx);
    assert_int_equal(after.lru_misses - before.lru_misses, 7);
    assert_int_equal(after.lru_hits - before.lru_hits, 1);
    assert_int_equal(after.lru_evictions - before.lru_evictions, 2);
    assert_true(after.lru_evictions_per_minute == 2);
    assert_int_equal(after.open_files, 5);
    assert_int_equal(after.max_open_files, 5);
}

static void a_pinned_database_stays_open(void **state)
{
    struct fixture *fx = *state;
    create_many(fx, 20);
    struct database *pinned = test_acquire(fx->svc, name_of(3));
    service_retain(pinned);
    service_release(pinned); /* one of two */
    for (unsigned i = 0; i < 20; i++) {
        struct database *db = test_acquire(fx->svc, name_of(i));
        test_put_number(db, 1, (float)i);
        service_release(db);
        check_limit(fx);
        assert_true(test_info(fx->svc, name_of(3)).open);
    }
    test_put_number(pinned, 2, 33);
    assert_true(test_first(pinned, (struct vector_id){.number = 1}) == 3);
    service_release(pinned);
    for (unsigned i = 4; i < 20; i++)
        service_release(test_acquire(fx->svc, name_of(i)));
    assert_false(test_info(fx->svc, name_of(3)).open);
}

static void counts_of_closed_databases_are_known(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    create_many(fx, 12);
    struct database *db = test_acquire(fx->svc, name_of(0));
    for (uint64_t i = 0; i < 9; i++)
        test_put_number(db, i, 1);
    test_delete(db, (struct vector_id){.number = 4});
    service_release(db);
    struct database_info open = test_info(fx->svc, name_of(0));
    assert_true(open.open && open.vector_count == 8 && open.deleted_count == 1);
    for (unsigned i = 1; i < 12; i++)
        service_release(test_acquire(fx->svc, name_of(i)));
    for (int round = 0; round < 2; round++) {
        struct database_info info;
        CHECK_OK(service_info(fx->svc, name_of(0), false, &info, &err));
        database_info_deinit(&info);
        assert_false(info.open);
        assert_int_equal(info.vector_count, 8);
        assert_int_equal(info.deleted_count, 1);
        assert_int_equal(info.last_lsn, open.last_lsn);
        assert_int_equal(info.schema.dimension, 4);
        struct database_info *infos;
        size_t count, total;
        bool more;
        CHECK_OK(service_list(fx->svc, NULL, NULL, 99, false, &infos, &count, &total, &more, &err));
        assert_int_equal(count, 12);
        service_list_free(infos, count);
        assert_int_equal(stats_of(fx).vectors, 8);
        assert_int_equal(stats_of(fx).databases, 12);
        reopen(fx); /* and so after a restart */
    }
}

static void who_may_not_block_opens_nothing(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    create_many(fx, 1);
    struct database *db = NULL;
    struct service_stats before = stats_of(fx);
    assert_int_equal(service_acquire(fx->svc, name_of(0), false, &db, &err), ERR_WOULD_BLOCK);
    assert_int_equal(service_acquire(fx->svc, "none", false, &db, &err), ERR_DATABASE_NOT_FOUND);
    assert_int_equal(stats_of(fx).open_files, 0);
    assert_int_equal(stats_of(fx).lru_misses, before.lru_misses);
    service_release(test_acquire(fx->svc, name_of(0)));
    CHECK_OK(service_acquire(fx->svc, name_of(0), false, &db, &err));
    service_release(db);
}

struct helper {
    struct fixture *fx;
    const char *name;
    enum err_code rc;
    struct database *db;
    _Atomic bool done;
};

static void *acquire_one(void *arg)
{
    struct helper *h = arg;
    struct err err;
    h->rc = service_acquire(h->fx->svc, h->name, true, &h->db, &err);
    atomic_store(&h->done, true);
    return NULL;
}

static void who_finds_every_file_in_use_waits_for_one(void **state)
{
    struct fixture *fx = *state;
    create_many(fx, 6);
    struct database *pinned[MAX_OPEN];
    for (unsigned i = 0; i < MAX_OPEN; i++)
        pinned[i] = test_acquire(fx->svc, name_of(i));
    struct helper h = {.fx = fx, .name = "db005"};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, acquire_one, &h), 0);
    for (uint64_t begun = clock_ns(); clock_ns() - begun < 50000000;)
        assert_false(atomic_load(&h.done));
    check_limit(fx);
    service_release(pinned[2]);
    pthread_join(thread, NULL);
    assert_int_equal(h.rc, ERR_OK);
    check_limit(fx);
    service_release(h.db);
    for (unsigned i = 0; i < MAX_OPEN; i++)
        if (i != 2) service_release(pinned[i]);
}

static void who_waits_in_vain_is_told_that_it_is_busy(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    create_many(fx, 6);
    struct database *pinned[MAX_OPEN], *db = NULL;
    for (unsigned i = 0; i < MAX_OPEN; i++)
        pinned[i] = test_acquire(fx->svc, name_of(i));
    assert_int_equal(service_acquire(fx->svc, name_of(5), true, &db, &err), ERR_OVERLOADED);
    check_limit(fx);
    service_release(pinned[0]);
    service_release(test_acquire(fx->svc, name_of(5)));
    for (unsigned i = 1; i < MAX_OPEN; i++)
        service_release(pinned[i]);
}

static void *drop_one(void *arg)
{
    struct helper *h = arg;
    struct err err;
    h->rc = service_drop(h->fx->svc, h->name, &err);
    atomic_store(&h->done, true);
    return NULL;
}

static bool is_not_found(void *ctx)
{
    struct helper *h = ctx;
    struct err err;
    struct database *db;
    enum err_code rc = service_acquire(h->fx->svc, h->name, true, &db, &err);
    if (rc == ERR_OK) service_release(db);
    return rc == ERR_DATABASE_NOT_FOUND;
}

static void a_drop_waits_for_who_is_inside_and_lets_nobody_in(void **state)
{
    struct fixture *fx = *state;
    create_many(fx, 1);
    struct database *db = test_acquire(fx->svc, name_of(0));
    struct helper h = {.fx = fx, .name = "db000"};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drop_one, &h), 0);
    assert_true(test_until(is_not_found, &h));
    assert_false(atomic_load(&h.done));
    test_put_number(db, 1, 1);
    assert_true(test_first(db, (struct vector_id){.number = 1}) == 1);
    service_release(db);
    pthread_join(thread, NULL);
    assert_int_equal(h.rc, ERR_OK);
    assert_false(test_file_exists(fx->dir, "db000.jvdb"));
    assert_int_equal(stats_of(fx).open_files, 0);
}

static void a_damaged_database_is_quarantined_alone(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    create_many(fx, 3);
    for (unsigned i = 0; i < 3; i++) {
        struct database *db = test_acquire(fx->svc, name_of(i));
        test_put_number(db, 1, 1);
        service_release(db);
    }
    test_service_close(fx->svc);
    fx->svc = NULL;
    char path[600];
    snprintf(path, sizeof path, "%s/db001.jvdb", fx->dir);
    int fd = open(path, O_RDWR);
    char junk[8192];
    memset(junk, 'x', sizeof junk);
    assert_int_equal(pwrite(fd, junk, sizeof junk, 0), sizeof junk);
    close(fd);
    reopen(fx);

    struct database *db;
    assert_int_equal(service_acquire(fx->svc, name_of(1), true, &db, &err), ERR_QUARANTINED);
    assert_non_null(strstr(err.msg, "db001"));
    assert_int_equal(service_acquire(fx->svc, name_of(1), false, &db, &err), ERR_QUARANTINED);
    struct database_info info = test_info(fx->svc, name_of(1));
    assert_true(info.quarantined && !info.open && info.reason[0]);
    assert_int_equal(stats_of(fx).quarantined, 1);
    for (unsigned i = 0; i < 3; i += 2) {
        db = test_acquire(fx->svc, name_of(i));
        assert_int_equal(test_count(db), 1);
        service_release(db);
        assert_false(test_info(fx->svc, name_of(i)).quarantined);
    }
    bool created;
    struct schema schema = {.dimension = 1};
    assert_int_equal(service_create(fx->svc, name_of(1), &schema, false, &created, &err),
                     ERR_DATABASE_EXISTS);
    CHECK_OK(service_drop(fx->svc, name_of(1), &err));
    test_create(fx->svc, name_of(1), 2, METRIC_COSINE);
    assert_int_equal(stats_of(fx).quarantined, 0);
}

/* ---- everybody at once ---- */

enum { THREADS = 4, NAMES = 9, ROUNDS = 150 };

struct racer {
    struct fixture *fx;
    uint64_t seed;
    const char *wrong;
};

static const char *race_once(struct racer *r)
{
    struct err err;
    char name[16];
    snprintf(name, sizeof name, "r%u", (unsigned)(test_random(&r->seed) % NAMES));
    uint64_t what = test_random(&r->seed) % 16;
    enum err_code rc;
    if (what < 3) {
        bool created;
        struct schema schema = {.dimension = 4, .durability = DURABILITY_PERIODIC};
        rc = service_create(r->fx->svc, name, &schema, what == 0, &created, &err);
        return !rc || rc == ERR_DATABASE_EXISTS || rc == ERR_DATABASE_NOT_FOUND ? NULL : "create";
    }
    if (what == 3) {
        rc = service_drop(r->fx->svc, name, &err);
        return !rc || rc == ERR_DATABASE_NOT_FOUND ? NULL : "drop";
    }
    if (what == 4) {
        struct database_info info;
        rc = service_info(r->fx->svc, name, true, &info, &err);
        if (!rc) database_info_deinit(&info);
        return !rc || rc == ERR_DATABASE_NOT_FOUND ? NULL : "info";
    }
    if (what == 5) {
        struct database_info *infos;
        size_t count, total;
        bool more;
        rc = service_list(r->fx->svc, NULL, NULL, 99, true, &infos, &count, &total, &more, &err);
        if (!rc) service_list_free(infos, count);
        return rc || count > NAMES ? "list" : NULL;
    }
    if (what == 6) {
        size_t flushed;
        double ms;
        struct service_stats stats;
        service_stats(r->fx->svc, &stats);
        return service_flush_all(r->fx->svc, &flushed, &ms, &err) ? "flush" : NULL;
    }
    struct database *db;
    rc = service_acquire(r->fx->svc, name, what > 8, &db, &err);
    if (rc == ERR_DATABASE_NOT_FOUND || (rc == ERR_WOULD_BLOCK && what <= 8)) return NULL;
    if (rc) return "acquire";
    float vector[4] = {(float)what};
    struct row_input row = {.assign_id = true, .vector = vector};
    uint64_t lsn, before = test_count(db);
    rc = database_put(db, &row, 1, 4, true, &lsn, &err);
    const char *wrong = rc ? "put" : NULL;
    if (!rc && test_count(db) <= before) wrong = "count";
    if (!rc && test_first(db, row.id) != (float)what) wrong = "get";
    service_release(db);
    return wrong;
}

static void *race(void *arg)
{
    struct racer *r = arg;
    for (int i = 0; i < ROUNDS && !r->wrong; i++)
        r->wrong = race_once(r);
    return NULL;
}

static void create_use_and_drop_may_race(void **state)
{
    struct fixture *fx = *state;
    struct racer racers[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){.fx = fx, .seed = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < THREADS; i++)
        if (racers[i].wrong) fail_msg("%s", racers[i].wrong);

    struct err err;
    struct database_info *before, *after;
    size_t count, count_after, total;
    bool more;
    CHECK_OK(service_list(fx->svc, NULL, NULL, 99, true, &before, &count, &total, &more, &err));
    reopen(fx);
    CHECK_OK(
        service_list(fx->svc, NULL, NULL, 99, true, &after, &count_after, &total, &more, &err));
    assert_int_equal(count, count_after);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(before[i].name, after[i].name);
        assert_int_equal(before[i].vector_count, after[i].vector_count);
        assert_int_equal(before[i].last_lsn, after[i].last_lsn);
        assert_false(after[i].quarantined);
    }
    service_list_free(before, count);
    service_list_free(after, count_after);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(few_files_are_open_and_nothing_is_lost),
        TEST(a_long_log_is_evicted_without_loss),
        TEST(a_reader_does_not_wait_for_the_checkpoint_of_an_eviction),
        TEST(a_list_names_what_cannot_be_opened_now),
        TEST(the_one_unused_for_longest_is_closed),
        TEST(a_pinned_database_stays_open),
        TEST(counts_of_closed_databases_are_known),
        TEST(who_may_not_block_opens_nothing),
        TEST(who_finds_every_file_in_use_waits_for_one),
        TEST(who_waits_in_vain_is_told_that_it_is_busy),
        TEST(a_drop_waits_for_who_is_inside_and_lets_nobody_in),
        TEST(a_damaged_database_is_quarantined_alone),
        TEST(create_use_and_drop_may_race),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
