/* The room that is kept: there, given up when it is needed, there again. */
#include "tests/storage/faults.h"
#include "tests/storage/temp_dir.h"

#include "storage/reserve.h"

static struct err err;

static const struct err no_room = {.code = ERR_STORAGE_FULL, .os_errno = ENOSPC};

static int file_count(void)
{
    char name[32];
    int count = 0;
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, ".reserve.%d", i);
        count += file_exists(data_fd, name);
    }
    return count;
}

static void a_reserve_is_made_of_real_blocks_and_stays(void **state)
{
    (void)state;
    struct reserve *r = reserve_open(data_fd);
    assert_int_equal(reserve_check(r, &err), ERR_OK);
    reserve_close(r);
    assert_int_equal(file_count(), 4);
    struct stat st;
    assert_int_equal(fstatat(data_fd, ".reserve.3", &st, 0), 0);
    assert_int_equal(st.st_size, 1 << 20);
    assert_true(st.st_blocks * 512 >= st.st_size);
    faults_arm(FAULT_ANY, -1, 0);
    r = reserve_open(data_fd);
    assert_int_equal(faults_disarm(), 0);
    reserve_close(r);
}

static void want_of_room_gives_it_up_and_anything_else_does_not(void **state)
{
    (void)state;
    struct reserve *r = reserve_open(data_fd);
    assert_false(reserve_use(r, &(struct err){.code = ERR_IO, .os_errno = EIO}));
    assert_false(reserve_use(r, &(struct err){.code = ERR_STORAGE_FULL})); /* a limit of ours */
    assert_false(reserve_use(r, &(struct err){.code = ERR_STORAGE_FULL, .os_errno = EFBIG}));
    assert_int_equal(file_count(), 4);
    assert_true(reserve_use(r, &no_room));
    assert_int_equal(file_count(), 0);
    assert_true(reserve_use(r, &no_room)); /* another thread that met the full disk before */
    reserve_close(r);
}

static void it_is_not_made_again_while_somebody_uses_its_room(void **state)
{
    (void)state;
    struct reserve *r = reserve_open(data_fd);
    assert_true(reserve_use(r, &no_room));
    assert_true(reserve_use(r, &no_room));
    for (int users = 2; users > 0; users--) {
        reserve_restore(r);
        assert_int_equal(reserve_check(r, &err), ERR_STORAGE_FULL);
        assert_int_equal(file_count(), 0);
        reserve_done(r);
    }
    assert_int_equal(reserve_check(r, &err), ERR_OK);
    assert_int_equal(file_count(), 4);
    reserve_close(r);
}

static void without_a_reserve_writes_are_refused_until_there_is_room_for_it(void **state)
{
    (void)state;
    struct reserve *r = reserve_open(data_fd);
    assert_true(reserve_use(r, &no_room));
    reserve_done(r);
    faults_arm(FAULT_ALLOCATE, 2, ENOSPC);
    assert_int_equal(reserve_check(r, &err), ERR_STORAGE_FULL);
    faults_disarm();
    assert_int_equal(file_count(), 0); /* no half of it is in the way */
    faults_arm(FAULT_ALLOCATE, 0, EDQUOT);
    reserve_restore(r);
    faults_disarm();
    assert_int_equal(file_count(), 0);
    assert_int_equal(reserve_check(r, &err), ERR_OK);
    assert_int_equal(file_count(), 4);
    reserve_close(r);
}

static void a_start_on_a_full_disk_begins_without_it(void **state)
{
    (void)state;
    faults_arm(FAULT_ALLOCATE, 0, ENOSPC);
    struct reserve *r = reserve_open(data_fd);
    faults.fail_all = true;
    assert_int_equal(reserve_check(r, &err), ERR_STORAGE_FULL);
    faults_disarm();
    assert_int_equal(reserve_check(r, &err), ERR_OK);
    reserve_close(r);
}

static void where_it_cannot_be_made_for_another_reason_nothing_is_refused(void **state)
{
    (void)state;
    faults_arm(FAULT_ALLOCATE, 0, EIO);
    faults.fail_all = true;
    struct reserve *r = reserve_open(data_fd);
    assert_int_equal(reserve_check(r, &err), ERR_OK);
    faults_disarm();
    reserve_close(r);
    assert_int_equal(reserve_check(NULL, &err), ERR_OK);
    assert_false(reserve_use(NULL, &no_room));
    reserve_restore(NULL);
    reserve_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_dir_test(a_reserve_is_made_of_real_blocks_and_stays),
        temp_dir_test(want_of_room_gives_it_up_and_anything_else_does_not),
        temp_dir_test(it_is_not_made_again_while_somebody_uses_its_room),
        temp_dir_test(without_a_reserve_writes_are_refused_until_there_is_room_for_it),
        temp_dir_test(a_start_on_a_full_disk_begins_without_it),
        temp_dir_test(where_it_cannot_be_made_for_another_reason_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
