/* Errors: a code to branch on, a message that always fits. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/base/err.h"

static void setting_an_error_returns_its_code(void **state)
{
    (void)state;
    struct err err = {.os_errno = 9};
    assert_int_equal(err_set(&err, ERR_CONFLICT, "log is %d bytes", 7), ERR_CONFLICT);
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_int_equal(err.os_errno, 0);
    assert_string_equal(err.msg, "log is 7 bytes");
}

static void system_errors_get_the_code_that_clients_can_act_on(void **state)
{
    (void)state;
    const struct {
        int os_errno;
        enum err_code code;
    } rows[] = {
        {ENOSPC, ERR_STORAGE_FULL}, {EDQUOT, ERR_STORAGE_FULL},
        {EFBIG, ERR_STORAGE_FULL},  {ENOMEM, ERR_NOMEM},
        {EMFILE, ERR_OVERLOADED},   {ENFILE, ERR_OVERLOADED},
        {EROFS, ERR_READ_ONLY},     {EIO, ERR_IO},
        {EACCES, ERR_IO},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err;
        assert_int_equal(err_os(&err, rows[i].os_errno, "cannot write %s", "x"), rows[i].code);
        assert_int_equal(err.os_errno, rows[i].os_errno);
        char want[200];
        snprintf(want, sizeof want, "cannot write x: %s", strerror(rows[i].os_errno));
        assert_string_equal(err.msg, want);
    }
}

static void a_long_message_is_cut_not_overrun(void **state)
{
    (void)state;
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct err err;
    err_os(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
}

static void every_code_has_a_word(void **state)
{
    (void)state;
    for (int code = 0; code < ERR_CODE_COUNT; code++) {
        const char *word = err_word(code);
        assert_non_null(word);
        assert_int_equal(strspn(word, "abcdefghijklmnopqrstuvwxyz_"), strlen(word));
    }
    assert_string_equal(err_word(ERR_DATABASE_NOT_FOUND), "database_not_found");
    assert_string_equal(err_word(ERR_OK), "ok");
}

static void a_printable_message_has_no_control_characters_and_is_utf8(void **state)
{
    (void)state;
    struct err err;
    /* ESC, a character of two bytes, C1, half a character, and one that is cut by the end. */
    err_set(&err, ERR_CONFLICT, "a\x1b[31m\xc3\xa9\xc2\x85\xa9z\xf0\x9f\x98");
    err_make_printable(&err);
    assert_string_equal(err.msg, "a?[31m\xc3\xa9???z???");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(setting_an_error_returns_its_code),
        cmocka_unit_test(system_errors_get_the_code_that_clients_can_act_on),
        cmocka_unit_test(a_long_message_is_cut_not_overrun),
        cmocka_unit_test(every_code_has_a_word),
        cmocka_unit_test(a_printable_message_has_no_control_characters_and_is_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
