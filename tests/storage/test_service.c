/* What was stored is there after a stop, a kill, and whatever people do to a directory. */
#include "storage/catalog.h"
#include "tests/storage/fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

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
    if (fx->svc) test_service_close(fx->svc);
    test_dir_remove(fx->dir);
    free(fx);
    return 0;
}

static void stop(struct fixture *fx)
{
    test_service_close(fx->svc);
    fx->svc = NULL;
}

static void start(struct fixture *fx)
{
    fx->svc = test_service_open(fx->dir);
}

static struct vector_id number_id(uint64_t number)
{
    return (struct vector_id){.number = number};
}

static uint64_t fill(struct fixture *fx, const char *name, uint64_t count)
{
    uint64_t lsn = 0;
    struct database *db = test_acquire(fx->svc, name);
    for (uint64_t i = 0; i < count; i++)
        lsn = test_put_number(db, i, (float)i);
    service_release(db);
    return lsn;
}

static void check_filled(struct fixture *fx, const char *name, uint64_t count)
{
    struct database *db = test_acquire(fx->svc, name);
    assert_int_equal(test_count(db), count);
    for (uint64_t i = 0; i < count; i++)
        assert_true(test_first(db, number_id(i)) == (float)i);
    service_release(db);
}

static void remove_file(struct fixture *fx, const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", fx->dir, name);
    assert_int_equal(unlink(path), 0);
}

static void write_file(struct fixture *fx, const char *name, size_t bytes)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", fx->dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (size_t i = 0; i < bytes; i++)
        fputc((int)(i * 37 % 251), f);
    fclose(f);
}

/* ---- stop and start ---- */

static void a_restart_gives_everything_back(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    bool created;
    for (uint32_t i = 0; i < 8; i++) {
        char name[32], options[32];
        snprintf(name, sizeof name, "db%u", i);
        snprintf(options, sizeof options, "{\"n\":%u}", i);
        struct schema schema = {.dimension = 1 + i * 5,
                                .metric = (enum metric)(i % METRIC_COUNT),
                                .durability = (enum durability)(i % 2),
                                .initial_capacity = 7 + i,
                                .index = {.kind = INDEX_FLAT, .m = 4 + i},
                                .options = options};
        CHECK_OK(service_create(fx->svc, name, &schema, false, &created, &err));
        fill(fx, name, i * 50);
    }
    stop(fx);
    start(fx);
    for (uint32_t i = 0; i < 8; i++) {
        char name[32], options[32];
        snprintf(name, sizeof name, "db%u", i);
        snprintf(options, sizeof options, "{\"n\":%u}", i);
        struct database_info info;
        CHECK_OK(service_info(fx->svc, name, false, &info, &err)); /* known without opening it */
        assert_false(info.open);
        assert_int_equal(info.vector_count, i * 50);
        assert_int_equal(info.schema.dimension, 1 + i * 5);
        assert_int_equal(info.schema.metric, i % METRIC_COUNT);
        assert_int_equal(info.schema.durability, i % 2);
        assert_int_equal(info.schema.initial_capacity, 7 + i);
        assert_int_equal(info.schema.index.kind, INDEX_FLAT);
        assert_int_equal(info.schema.index.m, 4 + i);
        assert_string_equal(info.schema.options, options);
        database_info_deinit(&info);
        check_filled(fx, name, i * 50);
    }
}

static void an_index_out_of_bounds_is_refused(void **state)
{
    struct fixture *fx = *state;
    static const struct index_options bad[] = {
        {.kind = INDEX_KIND_COUNT},
        {.quantization = QUANTIZATION_COUNT},
        {.m = INDEX_M_MIN - 1},
        {.m = INDEX_M_MAX + 1},
        {.ef_construction = INDEX_EF_MIN - 1},
        {.ef_construction = INDEX_EF_MAX + 1},
    };
    struct err err;
    bool created;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct schema schema = {.dimension = 2, .index = bad[i]};
        assert_int_equal(service_create(fx->svc, "a", &schema, false, &created, &err),
                         ERR_INVALID_REQUEST);
    }
    struct schema schema = {.dimension = 2, .index = {.m = INDEX_M_MAX}};
    CHECK_OK(service_create(fx->svc, "a", &schema, false, &created, &err));
    schema.index.m = INDEX_M_MIN;
    assert_int_equal(service_create(fx->svc, "a", &schema, true, &created, &err), ERR_CONFLICT);
}

static void after_a_clean_stop_nothing_is_replayed_and_no_lsn_is_skipped(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    uint64_t last = fill(fx, "a", 20);
    for (int round = 0; round < 3; round++) {
        stop(fx);
        start(fx);
        struct database *db = test_acquire(fx->svc, "a");
        struct database_info info = test_info(fx->svc, "a");
        assert_int_equal(info.wal_bytes, 0);
        assert_int_equal(info.last_lsn, last);
        assert_int_equal(info.durable_lsn, last);
        assert_int_equal(test_put_number(db, 5, 5), ++last);
        service_release(db);
    }
}

static void a_stop_without_writes_changes_no_file(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    fill(fx, "a", 20);
    stop(fx);
    char path[600];
    struct stat before, after;
    snprintf(path, sizeof path, "%s/a.jvdb", fx->dir);
    assert_int_equal(stat(path, &before), 0);
    start(fx);
    check_filled(fx, "a", 20);
    stop(fx);
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
                before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
}

/* ---- kill ---- */

/* Checkpoints are under way at any time, too. */
static void *flush_for_ever(void *svc)
{
    struct err err;
    double ms;
    for (;;)
        if (service_flush(svc, "k", &ms, &err)) _exit(3);
    return NULL;
}

/* The child's life ends without a good-bye; the parent has one thread when it begins. */
static void child_writes_and_dies(const char *dir, uint64_t count, int acks)
{
    struct service *svc = test_service_open(dir);
    struct database *db = test_acquire(svc, "k");
    pthread_t flusher;
    if (acks >= 0 && pthread_create(&flusher, NULL, flush_for_ever, svc)) _exit(4);
    for (uint64_t i = 0; i < count; i++) {
        float vector[8] = {(float)i};
        char metadata[40];
        snprintf(metadata, sizeof metadata, "{\"i\":%u}", (unsigned)i);
        test_put(db, number_id(i % 300), vector, metadata);
        if (acks >= 0 && write(acks, &i, sizeof i) != sizeof i) _exit(2);
    }
    _exit(0);
}

static void after_a_kill_the_acknowledged_is_there_and_lsns_skip(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "k", 8, METRIC_COSINE);
    stop(fx);
    uint64_t last = 0;
    for (int round = 0; round < 3; round++) {
        pid_t pid = fork();
        if (pid == 0) child_writes_and_dies(fx->dir, 50, -1);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        start(fx);
        check_filled(fx, "k", 50);
        struct database_info info = test_info(fx->svc, "k");
        assert_true(info.last_lsn >= last + 50);
        struct database *db = test_acquire(fx->svc, "k");
        uint64_t lsn = test_put_number(db, 0, 0);
        service_release(db);
        assert_true(lsn > info.last_lsn + (1 << 20));
        last = lsn;
        stop(fx);
        start(fx); /* and then they go on one by one */
        db = test_acquire(fx->svc, "k");
        assert_int_equal(test_put_number(db, 0, 0), ++last);
        service_release(db);
        stop(fx);
    }
}

static void a_kill_at_any_moment_loses_nothing_acknowledged(void **state)
{
    struct fixture *fx = *state;
    uint64_t seed = 31;
    test_create(fx->svc, "k", 8, METRIC_COSINE);
    stop(fx);
    for (int round = 0; round < 12; round++) {
        int pipes[2];
        assert_int_equal(pipe(pipes), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(pipes[0]);
            child_writes_and_dies(fx->dir, 100000, pipes[1]);
        }
        close(pipes[1]);
        uint64_t acked = 0, wanted = 1 + test_random(&seed) % 900, i;
        while (acked < wanted) {
            assert_int_equal(read(pipes[0], &i, sizeof i), sizeof i);
            acked = i + 1;
        }
        kill(pid, SIGKILL);
        while (read(pipes[0], &i, sizeof i) == sizeof i)
            acked = i + 1; /* what it had said before it died */
        close(pipes[0]);
        assert_int_equal(waitpid(pid, NULL, 0), pid);

        start(fx);
        struct database *db = test_acquire(fx->svc, "k");
        for (uint64_t id = 0; id < 300 && id < acked; id++) {
            /* The last write of an id, or one more that was not acknowledged any more. */
            uint64_t newest = (acked - 1 - id) / 300 * 300 + id;
            float first = test_first(db, number_id(id));
            if (first != (float)newest && first != (float)(newest + 300))
                fail_msg("round %d: id %u is %g, not %u", round, (unsigned)id, (double)first,
                         (unsigned)newest);
            if (first != (float)newest) assert_int_equal(newest + 300, acked);
        }
        struct err err;
        size_t deleted;
        uint64_t lsn;
        struct vector_id ids[300];
        for (uint64_t id = 0; id < 300; id++)
            ids[id] = number_id(id);
        CHECK_OK(database_delete(db, ids, 300, true, &deleted, &lsn, &err));
        assert_int_equal(test_count(db), 0);
        service_release(db);
        stop(fx);
    }
}

/* ---- what people do to a directory ---- */

static void a_flushed_file_is_a_backup(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    double ms;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    uint64_t last = fill(fx, "a", 100);
    CHECK_OK(service_flush(fx->svc, "a", &ms, &err));
    struct fixture other = {.dir = test_dir_new()};
    test_file_copy(fx->dir, "a.jvdb", other.dir, "copy.jvdb");
    fill(fx, "a", 120); /* the original goes on */
    start(&other);
    check_filled(&other, "copy", 100);
    struct database *db = test_acquire(other.svc, "copy");
    assert_true(test_put_number(db, 500, 1) > last);
    service_release(db);
    stop(&other);
    start(&other);
    struct database_info info = test_info(other.svc, "copy");
    assert_int_equal(info.vector_count, 101);
    stop(&other);
    test_dir_remove(other.dir);
    check_filled(fx, "a", 120);
}

static void a_copy_under_another_name_is_another_database(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    fill(fx, "a", 10);
    stop(fx);
    test_file_copy(fx->dir, "a.jvdb", fx->dir, "b.jvdb");
    start(fx);
    check_filled(fx, "a", 10);
    check_filled(fx, "b", 10);
    fill(fx, "b", 30);
    check_filled(fx, "a", 10);
    CHECK_OK(service_drop(fx->svc, "a", &err));
    stop(fx);
    start(fx);
    check_filled(fx, "b", 30);
    struct database *db;
    assert_int_equal(service_acquire(fx->svc, "a", true, &db, &err), ERR_DATABASE_NOT_FOUND);
    /* And again: the one whose twin was dropped must outlive every start. */
    stop(fx);
    start(fx);
    check_filled(fx, "b", 30);
}

static void a_missing_file_is_not_a_database_that_never_was(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    test_create(fx->svc, "b", 3, METRIC_COSINE);
    fill(fx, "a", 10);
    fill(fx, "b", 10);
    stop(fx);
    remove_file(fx, "a.jvdb");
    for (int round = 0; round < 2; round++) {
        start(fx);
        struct database *db;
        assert_int_equal(service_acquire(fx->svc, "a", true, &db, &err), ERR_QUARANTINED);
        assert_non_null(strstr(err.msg, "missing"));
        assert_true(test_info(fx->svc, "a").quarantined);
        check_filled(fx, "b", 10);
        stop(fx);
    }
    start(fx);
    CHECK_OK(service_drop(fx->svc, "a", &err));
    test_create(fx->svc, "a", 4, METRIC_COSINE);
    fill(fx, "a", 5);
    check_filled(fx, "a", 5);
}

static void note_uuid(void *ctx, const struct catalog_entry *entry)
{
    memcpy(ctx, entry->uuid, sizeof entry->uuid);
}

static void an_interrupted_drop_is_finished_by_the_next_start(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    struct database *db;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    fill(fx, "a", 10);
    stop(fx);

    /* As if the power had failed between the tombstone and the unlink. */
    int dir_fd = open(fx->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint8_t uuid[16];
    struct catalog *catalog;
    bool was_clean, was_lost;
    CHECK_OK(catalog_open(dir_fd, note_uuid, uuid, &catalog, &was_clean, &was_lost, &err));
    CHECK_OK(catalog_drop(catalog, "a", uuid, &err));
    catalog_close(catalog);
    close(dir_fd);

    for (int round = 0; round < 2; round++) {
        start(fx);
        assert_int_equal(service_acquire(fx->svc, "a", true, &db, &err), ERR_DATABASE_NOT_FOUND);
        assert_false(test_file_exists(fx->dir, "a.jvdb"));
        stop(fx);
    }
    start(fx);
}

static void a_backup_put_back_after_a_drop_and_a_kill_is_taken(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    fill(fx, "a", 10);
    stop(fx);
    test_file_copy(fx->dir, "a.jvdb", fx->dir, "saved");
    pid_t pid = fork();
    if (pid == 0) {
        start(fx);
        _exit(service_drop(fx->svc, "a", &err) ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_false(test_file_exists(fx->dir, "a.jvdb"));
    test_file_copy(fx->dir, "saved", fx->dir, "a.jvdb");
    start(fx);
    struct database_info info;
    CHECK_OK(service_info(fx->svc, "a", true, &info, &err));
    assert_int_equal(info.vector_count, 10);
    database_info_deinit(&info);
}

static void a_dropped_database_leaves_no_files(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    for (int open = 0; open < 2; open++) {
        test_create(fx->svc, "gone", 3, METRIC_COSINE);
        fill(fx, "gone", 100);
        if (!open) {
            stop(fx);
            start(fx);
        }
        CHECK_OK(service_drop(fx->svc, "gone", &err));
        DIR *dir = opendir(fx->dir);
        for (struct dirent *d; (d = readdir(dir));)
            if (strncmp(d->d_name, "gone", 4) == 0) fail_msg("%s is left", d->d_name);
        closedir(dir);
    }
}

static void files_that_are_no_databases_are_ignored(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    fill(fx, "a", 10);
    stop(fx);
    static const char *const names[] = {
        "notes.txt", ".hidden.jvdb", "-x.jvdb", "a.jvdb.bak", "x.jvdb~",  "sp ace.jvdb",
        ".jvdb",     "jvdb",         "b.new",   "b.ckpt",     "b.wal.0x", "caf\xc3\xa9.jvdb"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        write_file(fx, names[i], 5000);
    for (int round = 0; round < 2; round++) {
        start(fx);
        struct service_stats stats;
        service_stats(fx->svc, &stats);
        assert_int_equal(stats.databases, 1);
        assert_int_equal(stats.quarantined, 0);
        check_filled(fx, "a", 10);
        stop(fx);
    }
    assert_true(test_file_exists(fx->dir, "notes.txt")); /* not ours to remove */
    start(fx);
}

static void a_file_of_junk_is_quarantined_and_the_rest_works(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    fill(fx, "a", 10);
    stop(fx);
    static const size_t sizes[] = {0, 1, 4096, 70000};
    for (size_t i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "junk%u.jvdb", (unsigned)i);
        write_file(fx, name, sizes[i]);
    }
    char path[600];
    snprintf(path, sizeof path, "%s/dir.jvdb", fx->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/link.jvdb", fx->dir);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    for (int round = 0; round < 2; round++) {
        start(fx);
        for (unsigned i = 0; i < 4; i++) {
            char name[32];
            struct database *db;
            snprintf(name, sizeof name, "junk%u", i);
            assert_int_equal(service_acquire(fx->svc, name, true, &db, &err), ERR_QUARANTINED);
        }
        check_filled(fx, "a", 10);
        stop(fx);
    }
    snprintf(path, sizeof path, "%s/dir.jvdb", fx->dir);
    assert_int_equal(rmdir(path), 0);
    assert_true(test_file_exists(fx->dir, "junk3.jvdb"));
    start(fx);
}

static void a_lost_catalog_is_made_again_from_the_files(void **state)
{
    struct fixture *fx = *state;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    test_create(fx->svc, "b", 5, METRIC_MANHATTAN);
    fill(fx, "a", 10);
    fill(fx, "b", 20);
    stop(fx);
    remove_file(fx, ".catalog");
    start(fx);
    check_filled(fx, "a", 10);
    check_filled(fx, "b", 20);
    stop(fx);
    start(fx);
    check_filled(fx, "b", 20);
}

static void a_directory_that_is_not_there_is_named(void **state)
{
    (void)state;
    struct err err;
    struct service *svc = NULL;
    struct service_options options = test_options("/nonexistent/place");
    assert_int_not_equal(service_open(&options, &svc, &err), ERR_OK);
    assert_non_null(strstr(err.msg, "/nonexistent/place"));
}

/* Once a drop is complete, its uuid is forgotten: a backup may be copied back. */
static void a_backup_of_a_dropped_database_can_be_put_back(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    test_create(fx->svc, "a", 3, METRIC_COSINE);
    fill(fx, "a", 10);
    stop(fx);
    test_file_copy(fx->dir, "a.jvdb", fx->dir, "saved");
    start(fx);
    CHECK_OK(service_drop(fx->svc, "a", &err));
    stop(fx);
    test_file_copy(fx->dir, "saved", fx->dir, "a.jvdb");
    start(fx);
    check_filled(fx, "a", 10);
    fill(fx, "a", 12);
    stop(fx);
    start(fx);
    check_filled(fx, "a", 12);
}

/* ---- flush ---- */

static void a_flush_of_all_takes_closed_databases_too(void **state)
{
    struct fixture *fx = *state;
    struct err err;
    stop(fx);
    struct service_options options = test_options(fx->dir);
    options.max_open_files = 5;
    CHECK_OK(service_open(&options, &fx->svc, &err));
    for (int i = 0; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof name, "f%d", i);
        test_create(fx->svc, name, 3, METRIC_COSINE);
        fill(fx, name, 10);
    }
    size_t flushed;
    double ms;
    CHECK_OK(service_flush_all(fx->svc, &flushed, &ms, &err));
    assert_int_equal(flushed, 12);
    struct fixture other = {.dir = test_dir_new()};
    for (int i = 0; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof name, "f%d.jvdb", i);
        test_file_copy(fx->dir, name, other.dir, name);
    }
    CHECK_OK(service_flush_all(fx->svc, &flushed, &ms, &err));
    assert_int_equal(flushed, 0);
    start(&other);
    for (int i = 0; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof name, "f%d", i);
        check_filled(&other, name, 10);
    }
    stop(&other);
    test_dir_remove(other.dir);
    assert_int_equal(service_flush(fx->svc, "none", &ms, &err), ERR_DATABASE_NOT_FOUND);
}

/* ---- one name, many hands ---- */

enum { HANDS = 8 };
struct maker {
    struct service *svc;
    pthread_barrier_t *barrier;
    const char *name;
    bool if_missing, created;
    enum err_code rc;
};

static void *make(void *arg)
{
    struct maker *m = arg;
    struct err err;
    struct schema schema = {.dimension = 3};
    pthread_barrier_wait(m->barrier);
    m->rc = service_create(m->svc, m->name, &schema, m->if_missing, &m->created, &err);
    return NULL;
}

static void of_eight_who_make_one_name_one_succeeds(void **state)
{
    struct fixture *fx = *state;
    for (int round = 0; round < 10; round++) {
        struct maker makers[HANDS];
        pthread_t threads[HANDS];
        pthread_barrier_t barrier;
        pthread_barrier_init(&barrier, NULL, HANDS);
        char name[32];
        snprintf(name, sizeof name, "one%d", round);
        for (int i = 0; i < HANDS; i++) {
            makers[i] = (struct maker){
                .svc = fx->svc, .barrier = &barrier, .name = name, .if_missing = round % 2};
            assert_int_equal(pthread_create(&threads[i], NULL, make, &makers[i]), 0);
        }
        int created = 0;
        for (int i = 0; i < HANDS; i++) {
            pthread_join(threads[i], NULL);
            created += makers[i].created;
            assert_int_equal(makers[i].rc,
                             makers[i].created || round % 2 ? ERR_OK : ERR_DATABASE_EXISTS);
        }
        pthread_barrier_destroy(&barrier);
        assert_int_equal(created, 1);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_restart_gives_everything_back),
        TEST(an_index_out_of_bounds_is_refused),
        TEST(after_a_clean_stop_nothing_is_replayed_and_no_lsn_is_skipped),
        TEST(a_stop_without_writes_changes_no_file),
        TEST(after_a_kill_the_acknowledged_is_there_and_lsns_skip),
        TEST(a_kill_at_any_moment_loses_nothing_acknowledged),
        TEST(a_flushed_file_is_a_backup),
        TEST(a_copy_under_another_name_is_another_database),
        TEST(a_missing_file_is_not_a_database_that_never_was),
        TEST(an_interrupted_drop_is_finished_by_the_next_start),
        TEST(a_backup_put_back_after_a_drop_and_a_kill_is_taken),
        TEST(a_backup_of_a_dropped_database_can_be_put_back),
        TEST(a_dropped_database_leaves_no_files),
        TEST(files_that_are_no_databases_are_ignored),
        TEST(a_file_of_junk_is_quarantined_and_the_rest_works),
        TEST(a_lost_catalog_is_made_again_from_the_files),
        cmocka_unit_test(a_directory_that_is_not_there_is_named),
        TEST(a_flush_of_all_takes_closed_databases_too),
        TEST(of_eight_who_make_one_name_one_succeeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
