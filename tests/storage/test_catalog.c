/* Which databases exist: torn, lost, clean or not. */
#include "tests/storage/faults.h"
#include "tests/storage/temp_dir.h"

#include "storage/catalog.h"
#include "storage/format.h"

static struct err err;
static struct catalog_entry seen[300];
static char options[300][40];
static size_t seen_count;
static bool was_clean, was_lost;

static void see(void *ctx, const struct catalog_entry *e)
{
    (void)ctx;
    assert_true(seen_count < 300);
    snprintf(options[seen_count], sizeof options[0], "%s",
             e->schema.options ? e->schema.options : "");
    seen[seen_count++] = *e;
}

static struct catalog *open_catalog(void)
{
    struct catalog *c = NULL;
    seen_count = 0;
    if (catalog_open(data_fd, see, NULL, &c, &was_clean, &was_lost, &err)) fail_msg("%s", err.msg);
    return c;
}

static struct catalog *new_catalog(void)
{
    struct catalog *c = open_catalog();
    assert_true(was_lost);
    assert_int_equal(catalog_rewrite(c, NULL, NULL, false, &err), ERR_OK);
    return c;
}

static struct catalog_entry entry(int number)
{
    static char text[40];
    struct catalog_entry e = {
        .uuid = {(uint8_t)number, (uint8_t)(number >> 8), 7},
        .schema = {.dimension = (uint32_t)number + 1,
                   .metric = METRIC_MANHATTAN,
                   .index = {.kind = (enum index_kind)(number % INDEX_KIND_COUNT),
                             .quantization = (enum quantization)(number % QUANTIZATION_COUNT),
                             .m = number % 2 ? 4 : 0,
                             .ef_construction = 100 + (uint32_t)number}},
        .live_count = (uint64_t)number * 3,
        .last_lsn = (uint64_t)number * 5,
        .counts_known = true,
    };
    snprintf(e.name, sizeof e.name, "db-%d", number);
    snprintf(text, sizeof text, "{\"number\":%d}", number);
    if (number % 2) e.schema.options = text;
    return e;
}

static void add(struct catalog *c, int number)
{
    struct catalog_entry e = entry(number);
    assert_int_equal(catalog_add(c, &e, &err), ERR_OK);
}

static void drop(struct catalog *c, int number)
{
    struct catalog_entry e = entry(number);
    assert_int_equal(catalog_drop(c, e.name, e.uuid, &err), ERR_OK);
}

/* What was seen of a database: 0 nothing, 1 it, 2 its tombstone. */
static int state_of(int number)
{
    struct catalog_entry want = entry(number);
    int state = 0;
    for (size_t i = 0; i < seen_count; i++) {
        if (strcmp(seen[i].name, want.name) != 0) continue;
        assert_int_equal(state, 0);
        assert_memory_equal(seen[i].uuid, want.uuid, 16);
        state = seen[i].dropped ? 2 : 1;
        if (seen[i].dropped) continue;
        assert_int_equal(seen[i].schema.dimension, want.schema.dimension);
        assert_int_equal(seen[i].schema.metric, want.schema.metric);
        assert_memory_equal(&seen[i].schema.index, &want.schema.index, sizeof want.schema.index);
        assert_string_equal(options[i], want.schema.options ? want.schema.options : "");
    }
    return state;
}

static void what_was_added_is_there_and_what_was_dropped_is_a_tombstone(void **state)
{
    (void)state;
    struct catalog *c = new_catalog();
    for (int i = 0; i < 100; i++)
        add(c, i);
    for (int i = 0; i < 100; i += 3)
        drop(c, i);
    catalog_close(c);
    catalog_close(open_catalog());
    assert_false(was_lost);
    for (int i = 0; i < 100; i++)
        assert_int_equal(state_of(i), i % 3 ? 1 : 2);
    assert_int_equal(seen_count, 100);
}

static void a_name_that_came_back_has_its_new_life_and_the_old_tombstone(void **state)
{
    (void)state;
    struct catalog *c = new_catalog();
    struct catalog_entry e = entry(4);
    add(c, 4);
    drop(c, 4);
    e.uuid[5] = 99;
    assert_int_equal(catalog_add(c, &e, &err), ERR_OK);
    catalog_close(c);
    catalog_close(open_catalog());
    assert_int_equal(seen_count, 2);
    int live = seen[0].dropped;
    assert_true(seen[!live].dropped);
    assert_false(seen[live].dropped);
    assert_int_equal(seen[live].uuid[5], 99);
    assert_int_equal(seen[!live].uuid[5], 0);
}

static void a_forgotten_tombstone_is_gone(void **state)
{
    (void)state;
    struct catalog *c = new_catalog();
    struct catalog_entry e = entry(4);
    add(c, 4);
    add(c, 5);
    drop(c, 4);
    assert_int_equal(catalog_forget(c, e.name, e.uuid, &err), ERR_OK);
    catalog_close(c);
    catalog_close(open_catalog());
    assert_int_equal(state_of(4), 0);
    assert_int_equal(state_of(5), 1);
}

static bool next_entry(void *ctx, struct catalog_entry *e)
{
    int *next = ctx;
    if (*next == 10) return false;
    *e = entry((*next)++);
    return true;
}

static void only_a_clean_rewrite_makes_counts_known(void **state)
{
    (void)state;
    for (int clean = 0; clean < 2; clean++) {
        struct catalog *c = open_catalog();
        int next = 0;
        assert_int_equal(catalog_rewrite(c, next_entry, &next, clean, &err), ERR_OK);
        catalog_close(c);
        catalog_close(open_catalog());
        assert_int_equal(was_clean, clean);
        assert_false(was_lost);
        assert_int_equal(seen_count, 10);
        for (size_t i = 0; i < 10; i++) {
            assert_int_equal(seen[i].counts_known, clean);
            if (clean) assert_int_equal(seen[i].live_count * 5, seen[i].last_lsn * 3);
        }
    }
    /* Any record behind it ends that, even a torn one. */
    size_t len;
    free(file_bytes(data_fd, ".catalog", &len));
    poke(data_fd, ".catalog", len, "torn", 4);
    catalog_close(open_catalog());
    assert_false(was_clean);
    assert_true(was_lost);
    int fd = openat(data_fd, ".catalog", O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
    struct catalog *c = open_catalog();
    add(c, 50);
    catalog_close(c);
    catalog_close(open_catalog());
    assert_false(was_clean);
    assert_int_equal(seen_count, 11);
}

static void a_lost_catalog_is_reported(void **state)
{
    (void)state;
    catalog_close(open_catalog());
    assert_true(was_lost);
    assert_false(was_clean);
    set_file(data_fd, ".catalog", "", 0);
    catalog_close(open_catalog());
    assert_true(was_lost);
    set_file(data_fd, ".catalog", "rubbish, and long enough", 24);
    catalog_close(open_catalog());
    assert_true(was_lost);
    assert_int_equal(seen_count, 0);
}

static void a_torn_tail_loses_only_what_was_torn_and_goes_on(void **state)
{
    (void)state;
    struct catalog *c = new_catalog();
    size_t ends[6], len;
    for (int i = 0; i < 6; i++) {
        add(c, i);
        free(file_bytes(data_fd, ".catalog", &ends[i]));
    }
    catalog_close(c);
    uint8_t *bytes = file_bytes(data_fd, ".catalog", &len);
    for (size_t cut = ends[1]; cut <= len; cut += 4) {
        set_file(data_fd, ".catalog", bytes, cut);
        c = open_catalog();
        size_t whole = 0;
        while (whole < 6 && ends[whole] <= cut)
            whole++;
        assert_int_equal(seen_count, whole);
        assert_int_equal(was_lost, cut != ends[whole - 1]);
        add(c, 20);
        catalog_close(c);
        catalog_close(open_catalog());
        assert_int_equal(seen_count, whole + 1);
        assert_int_equal(state_of(20), 1);
    }
    free(bytes);
}

static void any_flipped_byte_is_noticed(void **state)
{
    (void)state;
    struct catalog *c = open_catalog();
    int next = 0;
    assert_int_equal(catalog_rewrite(c, next_entry, &next, true, &err), ERR_OK);
    catalog_close(c);
    size_t len;
    free(file_bytes(data_fd, ".catalog", &len));
    for (size_t at = 0; at < len; at++) {
        flip_byte(data_fd, ".catalog", at);
        seen_count = 0;
        assert_int_equal(catalog_open(data_fd, see, NULL, &c, &was_clean, &was_lost, &err), ERR_OK);
        assert_true(was_lost);
        assert_false(was_clean);
        for (size_t i = 0; i < seen_count; i++)
            assert_int_equal(state_of((int)i), 1);
        catalog_close(c);
        flip_byte(data_fd, ".catalog", at);
    }
}

static void a_rewrite_that_fails_leaves_the_old_catalog(void **state)
{
    (void)state;
    struct catalog *c = new_catalog();
    add(c, 77);
    for (int n = 0;; n++) {
        int next = 0;
        faults_arm(FAULT_ANY, n, EIO);
        enum err_code rc = catalog_rewrite(c, next_entry, &next, true, &err);
        int calls = faults_disarm();
        if (!rc) {
            assert_true(n >= 3 && n >= calls);
            break;
        }
        catalog_close(c);
        c = open_catalog();
        /* Renamed already, perhaps: then it is all of the new one. */
        assert_true(state_of(77) == 1 ? seen_count == 1 : seen_count == 10);
    }
    catalog_close(c);
    catalog_close(open_catalog());
    assert_int_equal(seen_count, 10);
}

static void after_a_failed_sync_it_takes_no_more(void **state)
{
    (void)state;
    struct catalog *c = new_catalog();
    struct catalog_entry e = entry(1);
    faults_arm(FAULT_WRITE, 0, ENOSPC);
    assert_int_equal(catalog_add(c, &e, &err), ERR_STORAGE_FULL);
    faults_disarm();
    add(c, 2); /* a full disk is not final */
    faults_arm(FAULT_SYNC, 0, EIO);
    assert_int_not_equal(catalog_add(c, &e, &err), ERR_OK);
    faults_disarm();
    assert_int_equal(catalog_add(c, &e, &err), ERR_READ_ONLY);
    catalog_close(c);
    catalog_close(open_catalog());
    assert_int_equal(state_of(2), 1);
}

static size_t catalog_bytes(void)
{
    size_t len;
    free(file_bytes(data_fd, ".catalog", &len));
    return len;
}

static void a_start_says_in_place_that_it_is_in_use_and_a_catalog_wears_out(void **state)
{
    (void)state;
    struct catalog *c = new_catalog();
    int next = 0;
    assert_int_equal(catalog_rewrite(c, next_entry, &next, true, &err), ERR_OK);
    catalog_close(c);
    size_t clean_bytes = catalog_bytes();

    c = open_catalog();
    assert_true(was_clean);
    assert_false(catalog_is_worn(c));
    assert_int_equal(catalog_mark_in_use(c, true, &err), ERR_OK);
    assert_int_equal(catalog_bytes(), clean_bytes);
    add(c, 20);
    catalog_close(c);
    c = open_catalog();
    assert_false(was_clean);
    assert_false(was_lost);
    assert_false(catalog_is_worn(c));
    assert_int_equal(catalog_mark_in_use(c, false, &err), ERR_OK); /* it is already */
    assert_int_equal(seen_count, 11);
    for (size_t i = 0; i < seen_count; i++)
        assert_false(seen[i].counts_known);

    /* What came and went is not kept for ever. */
    for (int i = 0; i < 600; i++) {
        struct catalog_entry e = entry(30 + i);
        add(c, 30 + i);
        drop(c, 30 + i);
        assert_int_equal(catalog_forget(c, e.name, e.uuid, &err), ERR_OK);
    }
    catalog_close(c);
    c = open_catalog();
    assert_int_equal(seen_count, 11);
    assert_true(catalog_is_worn(c));
    next = 0;
    assert_int_equal(catalog_rewrite(c, next_entry, &next, false, &err), ERR_OK);
    catalog_close(c);
    assert_int_equal(catalog_bytes(), clean_bytes);
    c = open_catalog();
    assert_false(catalog_is_worn(c));
    catalog_close(c);

    /* Nor is a torn end appended to. */
    poke(data_fd, ".catalog", clean_bytes, "torn", 4);
    c = open_catalog();
    assert_true(catalog_is_worn(c));
    catalog_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(what_was_added_is_there_and_what_was_dropped_is_a_tombstone),
        temp_dir_test(a_name_that_came_back_has_its_new_life_and_the_old_tombstone),
        temp_dir_test(a_forgotten_tombstone_is_gone),
        temp_dir_test(only_a_clean_rewrite_makes_counts_known),
        temp_dir_test(a_lost_catalog_is_reported),
        temp_dir_test(a_torn_tail_loses_only_what_was_torn_and_goes_on),
        temp_dir_test(any_flipped_byte_is_noticed),
        temp_dir_test(a_rewrite_that_fails_leaves_the_old_catalog),
        temp_dir_test(after_a_failed_sync_it_takes_no_more),
        temp_dir_test(a_start_says_in_place_that_it_is_in_use_and_a_catalog_wears_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
