/* One line per message, whatever is in the message. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "storage/base/log.h"

static char dir_path[512], path[600], moved_path[600];
static struct err err;
static char content[1 << 20];

static void open_log(enum log_level level, enum log_format format)
{
    unlink(path);
    const struct log_options options = {level, format, path};
    assert_int_equal(log_open(&options, &err), ERR_OK);
}

static const char *read_file(const char *name)
{
    FILE *f = fopen(name, "r");
    assert_non_null(f);
    const size_t len = fread(content, 1, sizeof content - 1, f);
    fclose(f);
    content[len] = '\0';
    return content;
}

static unsigned count_lines(const char *text)
{
    unsigned lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static void a_text_line_has_time_level_and_message(void **state)
{
    (void)state;
    open_log(LOG_DEBUG, LOG_TEXT);
    log_warning("disk is %d%% full", 93);
    log_close();
    const char *line = read_file(path);
    const char *mask = "####-##-##T##:##:##.###Z [warning] disk is 93% full\n";
    assert_int_equal(strlen(line), strlen(mask));
    for (size_t i = 0; mask[i]; i++) {
        if (mask[i] == '#')
            assert_in_range(line[i], '0', '9');
        else
            assert_int_equal(line[i], mask[i]);
    }
}

static void a_json_line_is_an_object(void **state)
{
    (void)state;
    open_log(LOG_INFO, LOG_JSON);
    log_info("quote \" backslash \\ newline \n escape \x1b c1 \xc2\x85 euro \xe2\x82\xac");
    log_close();
    const char *line = read_file(path);
    assert_int_equal(count_lines(line), 1);
    assert_null(strstr(line, "\xc2\x85"));
    json_error_t why;
    json_t *object = json_loads(line, 0, &why);
    assert_non_null(object);
    assert_int_equal(json_object_size(object), 3);
    assert_string_equal(json_string_value(json_object_get(object, "level")), "info");
    assert_int_equal(json_string_length(json_object_get(object, "ts")), 24);
    assert_string_equal(
        json_string_value(json_object_get(object, "msg")),
        "quote \" backslash \\ newline \n escape \x1b c1 \xc2\x85 euro \xe2\x82\xac");
    json_decref(object);
}

static void a_client_cannot_forge_a_line_or_drive_a_terminal(void **state)
{
    (void)state;
    open_log(LOG_INFO, LOG_TEXT);
    log_info("%s", "a\r\nb\t\x1b[2J\x7f\xc2\x9b"
                   "0m\\n");
    log_close();
    const char *line = read_file(path);
    assert_non_null(strstr(line, "[info] a\\r\\nb\\t\\x1b[2J\\x7f\\x9b0m\\\\n\n"));
    assert_int_equal(count_lines(line), 1);
}

static void bytes_that_are_not_utf8_are_replaced(void **state)
{
    (void)state;
    open_log(LOG_INFO, LOG_TEXT);
    log_info("%s", "a\xff"
                   "b\xc3");
    log_close();
    assert_non_null(strstr(read_file(path), "a\xef\xbf\xbd"
                                            "b\xef\xbf\xbd\n"));
}

static void lines_below_the_level_are_not_written(void **state)
{
    (void)state;
    open_log(LOG_WARNING, LOG_TEXT);
    log_debug("one");
    log_info("two");
    log_warning("three");
    log_error("four");
    log_close();
    const char *text = read_file(path);
    assert_int_equal(count_lines(text), 2);
    assert_non_null(strstr(text, "[warning] three\n"));
    assert_non_null(strstr(text, "[error] four\n"));
}

static void a_long_line_is_cut_with_an_ellipsis(void **state)
{
    (void)state;
    /* Around the limit, plain, multi-byte, and growing by escapes. */
    const char *const units[] = {"x", "\xe2\x82\xac", "\n", "\"", "\x01", "\xff"};
    for (int format = LOG_TEXT; format <= LOG_JSON; format++) {
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            for (size_t want = 600; want<20000; want += want> 3950 && want < 4150 ? 1 : 137) {
                char message[20100];
                size_t len = 0;
                while (len < want) {
                    memcpy(message + len, units[u], strlen(units[u]));
                    len += strlen(units[u]);
                }
                message[len] = '\0';
                if (want % 7 == 0 || want < 4000) {
                    open_log(LOG_INFO, format);
                    log_info("%s", message);
                    log_close();
                    const char *line = read_file(path);
                    assert_true(strlen(line) <= 4096);
                    assert_int_equal(count_lines(line), 1);
                    if (want >= 4096) assert_non_null(strstr(line, "\xe2\x80\xa6"));
                    if (format == LOG_JSON) {
                        json_t *object = json_loads(line, 0, NULL);
                        assert_non_null(object);
                        json_decref(object);
                    }
                }
            }
        }
    }
}

static void after_a_rotation_lines_go_to_the_new_file(void **state)
{
    (void)state;
    open_log(LOG_INFO, LOG_TEXT);
    log_info("before");
    assert_int_equal(rename(path, moved_path), 0);
    log_info("between");
    assert_int_equal(log_reopen(&err), ERR_OK);
    log_info("after");
    log_close();
    assert_int_equal(count_lines(read_file(moved_path)), 2);
    assert_non_null(strstr(content, "between"));
    assert_int_equal(count_lines(read_file(path)), 1);
    assert_non_null(strstr(content, "after"));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777 & ~0640u, 0);
}

static void a_failed_reopen_keeps_the_old_file(void **state)
{
    (void)state;
    open_log(LOG_INFO, LOG_TEXT);
    assert_int_equal(rename(path, moved_path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    const enum err_code rc = log_reopen(&err);
    log_info("still here");
    log_close();
    assert_int_equal(rmdir(path), 0);
    assert_int_not_equal(rc, ERR_OK);
    assert_int_equal(err.os_errno, EISDIR);
    assert_non_null(strstr(read_file(moved_path), "still here"));
}

static void an_impossible_path_is_an_error_with_its_name(void **state)
{
    (void)state;
    char nowhere[600];
    snprintf(nowhere, sizeof nowhere, "%s/no/such/log", dir_path);
    const struct log_options options = {LOG_INFO, LOG_TEXT, nowhere};
    assert_int_not_equal(log_open(&options, &err), ERR_OK);
    assert_int_equal(err.os_errno, ENOENT);
    assert_non_null(strstr(err.msg, "no/such/log"));
}

static void a_sink_that_cannot_be_written_costs_only_the_line(void **state)
{
    (void)state;
    const struct log_options options = {LOG_INFO, LOG_TEXT, "/dev/full"};
    assert_int_equal(log_open(&options, &err), ERR_OK);
    errno = EAGAIN;
    log_info("lost");
    const int after = errno;
    log_close();
    assert_int_equal(after, EAGAIN); /* log_write() may stand between a call and its errno */
}

enum { THREADS = 4, LINES = 300 };

static void *write_lines(void *arg)
{
    char filler[200];
    memset(filler, 'a' + (int)(intptr_t)arg, sizeof filler - 1);
    filler[sizeof filler - 1] = '\0';
    for (int i = 0; i < LINES; i++)
        log_info("%s.", filler);
    return NULL;
}

static void threads_never_interleave_even_while_reopening(void **state)
{
    (void)state;
    open_log(LOG_INFO, LOG_TEXT);
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, (void *)i), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(log_reopen(&err), ERR_OK);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    log_close();

    char *text = (char *)read_file(path), *save = NULL;
    unsigned count = 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        const char *message = strstr(line, "[info] ");
        assert_non_null(message);
        message += 7;
        assert_int_equal(strspn(message, (char[]){message[0], 0}), 199);
        assert_string_equal(message + 199, ".");
        count++;
    }
    assert_int_equal(count, THREADS * LINES);
}

static int set_up(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(dir_path, sizeof dir_path, "%s/jvdb-log-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir_path)) return -1;
    snprintf(path, sizeof path, "%s/log", dir_path);
    snprintf(moved_path, sizeof moved_path, "%s/log.1", dir_path);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    log_close();
    unlink(path);
    unlink(moved_path);
    return rmdir(dir_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_line_has_time_level_and_message),
        cmocka_unit_test(a_json_line_is_an_object),
        cmocka_unit_test(a_client_cannot_forge_a_line_or_drive_a_terminal),
        cmocka_unit_test(bytes_that_are_not_utf8_are_replaced),
        cmocka_unit_test(lines_below_the_level_are_not_written),
        cmocka_unit_test(a_long_line_is_cut_with_an_ellipsis),
        cmocka_unit_test(after_a_rotation_lines_go_to_the_new_file),
        cmocka_unit_test(a_failed_reopen_keeps_the_old_file),
        cmocka_unit_test(an_impossible_path_is_an_error_with_its_name),
        cmocka_unit_test(a_sink_that_cannot_be_written_costs_only_the_line),
        cmocka_unit_test(threads_never_interleave_even_while_reopening),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
