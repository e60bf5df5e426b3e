/* test_args.c - server/cli/args.h: words become options, mistakes become sentences. */
#include "server/cli/args.c" /* the client is no library */

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct arg_spec specs[] = {
    {"database", "NAME", "the database", ARG_REQUIRED | ARG_POSITIONAL},
    {"id", "ID", "the vector", ARG_POSITIONAL},
    {"top-k", "N", "how many", 0},
    {"json", NULL, "a switch", 0},
    {0},
};

static enum err_code parse(struct args *args, struct err *err, const char *const words[])
{
    int count = 0;
    while (words[count])
        count++;
    memset(args, 0, sizeof *args);
    args_add(args, specs);
    return args_parse(args, count, (char *const *)words, err);
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct args good(const char *const words[])
{
    struct args args;
    struct err err;
    if (parse(&args, &err, words)) fail_msg("%s", err.msg);
    return args;
}

static void refused(const char *const words[], const char *part)
{
    struct args args;
    struct err err;
    assert_int_equal(parse(&args, &err, words), ERR_INVALID_REQUEST);
    if (!strstr(err.msg, part)) fail_msg("no \"%s\" in: %s", part, err.msg);
}

static void values_follow_or_are_joined(void **state)
{
    (void)state;
    struct args args = good(WORDS("--database", "docs", "--id=a=b", "--json"));
    assert_string_equal(args_get(&args, "database"), "docs");
    assert_string_equal(args_get(&args, "id"), "a=b");
    assert_string_equal(args_get(&args, "json"), "");
    assert_null(args_get(&args, "top-k"));
}

static void plain_words_fill_positional_options_in_order(void **state)
{
    (void)state;
    struct args args = good(WORDS("docs", "7"));
    assert_string_equal(args_get(&args, "database"), "docs");
    assert_string_equal(args_get(&args, "id"), "7");
    args = good(WORDS("--database", "docs", "7"));
    assert_string_equal(args_get(&args, "id"), "7");
    args = good(WORDS("-", "--id", "-5"));
    assert_string_equal(args_get(&args, "database"), "-");
    assert_string_equal(args_get(&args, "id"), "-5");
}

static void mistakes_are_explained(void **state)
{
    (void)state;
    refused(WORDS("docs", "--tpo-k", "1"), "unknown option --tpo-k; did you mean --top-k?");
    refused(WORDS("docs", "--frobnicate"), "unknown option --frobnicate");
    refused(WORDS("docs", "--top-k"), "--top-k needs a value: --top-k N");
    refused(WORDS("docs", "--top-k", "--json"), "--top-k needs a value");
    refused(WORDS("docs", "--json=1"), "--json takes no value");
    refused(WORDS("docs", "--database", "x"), "--database is given twice");
    refused(WORDS("docs", "1", "2"), "unexpected argument \"2\"");
    refused(WORDS("docs", "-x"), "unknown option -x");
    refused(WORDS("--json"), "--database NAME is missing");
    refused(WORDS("docs", "--i", "5"), "unknown option --i");
    refused(WORDS("docs", "--"), "unknown option --");
}

static void an_empty_id_is_not_the_same_as_none(void **state)
{
    (void)state;
    refused(WORDS("docs", "--id", ""), "--id is empty");
    refused(WORDS("docs", "--id="), "--id is empty");
    refused(WORDS("docs", ""), "--id is empty");
}

static void numbers_are_checked_against_their_range(void **state)
{
    (void)state;
    static const char *const bad[] = {"0", "11", "-1", "x", "1x", " 1", "99999999999999999999"};
    struct args args = good(WORDS("docs", "--top-k", "10"));
    struct err err;
    uint64_t n;
    assert_int_equal(args_u64(&args, "top-k", 3, 1, 10, &n, &err), ERR_OK);
    assert_int_equal(n, 10);
    args = good(WORDS("docs"));
    assert_int_equal(args_u64(&args, "top-k", 3, 1, 10, &n, &err), ERR_OK);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        args = good(WORDS("docs", "--top-k", bad[i]));
        assert_int_equal(args_u64(&args, "top-k", 3, 1, 10, &n, &err), ERR_INVALID_REQUEST);
        assert_non_null(strstr(err.msg, "from 1 to 10"));
    }
}

static void fractions_are_checked_against_their_range(void **state)
{
    (void)state;
    static const char *const bad[] = {"0.49", "1.01", "-0.7", "0.7.1", "0x1p-1", "nan",
                                      " 0.7", "0.7 ", ".",    "1e-1",  "0,7"};
    struct err err;
    double x;
    struct args args = good(WORDS("docs", "--top-k", "0.75"));
    assert_int_equal(args_double(&args, "top-k", 3, 0.5, 1, &x, &err), ERR_OK);
    assert_true(x == 0.75);
    args = good(WORDS("docs"));
    assert_int_equal(args_double(&args, "top-k", 3, 0.5, 1, &x, &err), ERR_OK);
    assert_true(x == 3);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        args = good(WORDS("docs", "--top-k", bad[i]));
        if (args_double(&args, "top-k", 3, 0.5, 1, &x, &err) != ERR_INVALID_REQUEST)
            fail_msg("%s is taken for %g", bad[i], x);
        assert_non_null(strstr(err.msg, "from 0.5 to 1"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_follow_or_are_joined),
        cmocka_unit_test(plain_words_fill_positional_options_in_order),
        cmocka_unit_test(mistakes_are_explained),
        cmocka_unit_test(an_empty_id_is_not_the_same_as_none),
        cmocka_unit_test(numbers_are_checked_against_their_range),
        cmocka_unit_test(fractions_are_checked_against_their_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
