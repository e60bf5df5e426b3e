/* test_text.c - server/cli/text.h: addresses, segments, vectors and safe printing. */
#include "server/cli/text.c" /* the client is no library */

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void assert_text(struct buf *b, const char *want)
{
    buf_add(b, "", 1);
    assert_false(b->failed);
    assert_string_equal(b->data, want);
    buf_free(b);
}

static void segments_are_encoded_but_for_unreserved_characters(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"docs", "docs"},       {"a-b_c.d~e", "a-b_c.d~e"},
        {"a/b", "a%2Fb"},       {"a b?c#d%", "a%20b%3Fc%23d%25"},
        {"\xc3\xa4", "%C3%A4"}, {".", "%2E"},
        {"..", "%2E%2E"},       {"...", "%2E%2E%2E"},
        {"..a", "..a"},         {"\x01\x7f", "%01%7F"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = {0};
        text_add_segment(&b, cases[i][0]);
        assert_text(&b, cases[i][1]);
    }
}

static void addresses_are_completed(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"http://127.0.0.1:8080", "http://127.0.0.1:8080"},
        {"http://127.0.0.1:8080//", "http://127.0.0.1:8080"},
        {"http://h:1/api/v1/", "http://h:1"},
        {"localhost:8080", "http://localhost:8080"},
        {"https://[::1]:9/below", "https://[::1]:9/below"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = {0};
        struct err err;
        assert_int_equal(text_add_base_url(&b, cases[i][0], &err), ERR_OK);
        assert_text(&b, cases[i][1]);
    }
}

static void other_addresses_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {"",
                                        "/",
                                        "http://",
                                        "http:///x",
                                        "ftp://h",
                                        "file:///x",
                                        "http://h?x=1",
                                        "http://h/#x",
                                        "http://a b",
                                        "http://h\r\nX: y"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = {0};
        struct err err;
        assert_int_equal(text_add_base_url(&b, cases[i], &err), ERR_INVALID_REQUEST);
        assert_int_equal(b.len, 0);
        buf_free(&b);
    }
}

static void vectors_keep_their_digits(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"[1, 2, 3]", "[1,2,3]"},
        {"1,2,3", "[1,2,3]"},
        {" 1 2\t3\n", "[1,2,3]"},
        {"1, 2", "[1,2]"},
        {"5", "[5]"},
        {" [ -0.0 ,1e-3 , 1.5E+10 ] ", "[-0.0,1e-3,1.5E+10]"},
        {"0.1000000014901161193847656250000001", "[0.1000000014901161193847656250000001]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = {0};
        struct err err;
        if (text_add_vector(&b, cases[i][0], &err)) fail_msg("%s: %s", cases[i][0], err.msg);
        assert_text(&b, cases[i][1]);
    }
}

static void what_is_no_vector_is_refused_with_its_place(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "empty"},
        {"[]", "empty"},
        {"  ", "empty"},
        {"1,abc,3", "number 2 of the vector, \"abc\""},
        {"1,,3", "number 2"},
        {"[1,2,]", "number 3"},
        {"1,2,", "number 3"},
        {"[1 2]", "comma is missing behind number 1"},
        {"[1,2", "lacks its ]"},
        {"1,2]", "lacks its ["},
        {"[1,2] 3", "more text"},
        {"[1,2]], \"x\": [1]", "more text"},
        {".5", "number 1"},
        {"+1", "number 1"},
        {"01", "number 1"},
        {"1.", "number 1"},
        {"1e", "number 1"},
        {"-", "number 1"},
        {"NaN", "number 1"},
        {"0x10", "number 1"},
        {"[[1]]", "number 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = {0};
        struct err err;
        if (text_add_vector(&b, cases[i][0], &err) != ERR_INVALID_VECTOR)
            fail_msg("\"%s\" was accepted", cases[i][0]);
        if (!strstr(err.msg, cases[i][1])) fail_msg("\"%s\": %s", cases[i][0], err.msg);
        buf_free(&b);
    }
}

static void nothing_printed_can_steer_a_terminal(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"plain \xc3\xa4\xe2\x82\xac", "plain \xc3\xa4\xe2\x82\xac"},
        {"\033[2J", "\\x1b[2J"},
        {"a\nb", "a\\x0ab"},
        {"\xc2\x9b", "\\xc2\\x9b"}, /* CSI as one C1 character */
        {"\xff\xc3", "\\xff\\xc3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = {0};
        text_add_printable(&b, cases[i][0], strlen(cases[i][0]));
        assert_text(&b, cases[i][1]);
    }
}

static void sizes_are_short(void **state)
{
    (void)state;
    char text[32];
    text_bytes(text, 999);
    assert_string_equal(text, "999 bytes");
    text_bytes(text, 12345678);
    assert_string_equal(text, "12.3 MB");
    text_bytes(text, 5e16);
    assert_string_equal(text, "50000.0 TB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments_are_encoded_but_for_unreserved_characters),
        cmocka_unit_test(addresses_are_completed),
        cmocka_unit_test(other_addresses_are_refused),
        cmocka_unit_test(vectors_keep_their_digits),
        cmocka_unit_test(what_is_no_vector_is_refused_with_its_place),
        cmocka_unit_test(nothing_printed_can_steer_a_terminal),
        cmocka_unit_test(sizes_are_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
