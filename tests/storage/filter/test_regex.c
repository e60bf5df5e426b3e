/* Regular expressions: against a table, against the C library, and against hostile patterns. */
#include "tests/storage/fixture.h"

#include <inttypes.h>
#include <regex.h>

#include "storage/filter/regex.h"

static enum err_code compile(const char *pattern, struct arena *arena, const struct regex **re,
                             struct err *err)
{
    return regex_compile(pattern, strlen(pattern), arena, re, err);
}

static bool run(const struct regex *re, const char *text, size_t bytes)
{
    /* Exactly as long as they are, for the sanitizer. */
    void *workspace = malloc(regex_workspace_bytes(re));
    char *copy = malloc(bytes + (bytes == 0));
    memcpy(copy, text, bytes);
    bool matches = regex_matches(re, copy, bytes, workspace);
    free(workspace);
    free(copy);
    return matches;
}

static bool matches(const char *pattern, const char *text)
{
    struct arena arena = {0};
    struct err err;
    const struct regex *re;
    if (compile(pattern, &arena, &re, &err)) fail_msg("/%s/ %s", pattern, err.msg);
    bool result = run(re, text, strlen(text));
    arena_free(&arena);
    return result;
}

static void patterns_match_what_they_say(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *yes[6], *no[6];
    } cases[] = {
        {"", {"", "a"}, {0}},
        {"abc", {"abc", "xabcx"}, {"ab", "acb", ""}},
        {"^abc$", {"abc"}, {"xabc", "abcx", "abc\n"}},
        {"a.c",
         {"abc", "a\xc3\xa9"
                 "c"},
         {"ac", "a\nc"}},
        {"(?s)a.c", {"a\nc"}, {"ac"}},
        {"a|bc|", {"", "a"}, {0}},
        {"^(a|bc)$", {"a", "bc"}, {"b", "abc"}},
        {"^(ab)*$", {"", "ab", "abab"}, {"aba"}},
        {"^a+b?$", {"a", "aab"}, {"", "b", "abb"}},
        {"^a{2}$", {"aa"}, {"a", "aaa"}},
        {"^a{2,}$", {"aa", "aaaa"}, {"a"}},
        {"^a{1,3}$", {"a", "aaa"}, {"", "aaaa"}},
        {"^(a{0,2}){0,2}$", {"", "a", "aaaa"}, {"aaaaa"}},
        {"^a{0}$", {""}, {"a"}},
        {"^a{,2}$", {"a{,2}"}, {"a", ""}},
        {"x{y", {"x{y"}, {"xy"}},
        {"^[a-c]+$", {"abc"}, {"abd", ""}},
        {"^[^a-c]+$", {"xyz", "\n"}, {"a", ""}},
        {"^[]a]+$", {"]a"}, {"b"}},
        {"^[a-]+$", {"a-"}, {"b"}},
        {"^[\\d.]+$", {"1.2"}, {"1,2"}},
        {"^[^\\s]+$", {"abc"}, {"a b"}},
        {"^[[:alpha:]_]+$", {"a_b"}, {"a1"}},
        {"^\\d+\\s\\w+$", {"12 a_B9"}, {"12a", "x y"}},
        {"^\\D\\S\\W$", {"a-."}, {"1-.", "a ."}},
        {"\\bcat\\b", {"cat", "a cat.", "cat dog"}, {"cats", "concat", "_cat"}},
        {"\\Bat", {"cat"}, {"at", "a at"}},
        {"\\Aab\\z", {"ab"}, {"xab", "abx"}},
        {"(?m)^b$", {"a\nb\nc"}, {"ab"}},
        {"(?i)straSSe", {"STRASSE", "strasse"}, {"strase"}},
        {"(?i)^\xc3\xa9t\xc3\x89$", {"\xc3\x89T\xc3\xa9"}, {"ete"}},
        {"(?i)^[a-c\xc3\xa9]+$", {"ABC\xc3\x89"}, {"d"}},
        {"(?i)^[^a]$", {"b"}, {"A", "a"}},
        {"a(?i)b(?-i)c", {"aBc", "abc"}, {"ABc", "abC"}},
        {"a(?i:b)c", {"aBc"}, {"aBC"}},
        {"(?P<name>a)(?<other>b)(?:c)", {"abc"}, {"ab"}},
        {"^[\xc3\xa0-\xc3\xbc]$", {"\xc3\xa9"}, {"e"}},
        {"^.$", {"\xf0\x9f\x98\x80"}, {"ab"}},
        {"\\.\\*\\[\\\\\\/", {".*[\\/"}, {"a"}},
        {"^\\x41\\x{1F600}\\t$", {"A\xf0\x9f\x98\x80\t"}, {"A"}},
        {"a*?b+?", {"b", "aab"}, {"a"}},
        {"^(|a)+$", {"", "aaa"}, {"b"}},
        {"(a*)*$", {"", "b", "aaa"}, {0}},
        {"$^", {""}, {"a"}},
        {"a$|^b", {"ba", "xa", "bx"}, {"ab"}},
    };
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        /* Short programs and long ones run in different ways. */
        char pattern[100];
        snprintf(pattern, sizeof pattern, "%s%s", cases[i / 2].pattern, i % 2 ? "|\\x01{70}" : "");
        for (int k = 0; k < 6 && cases[i / 2].yes[k]; k++)
            if (!matches(pattern, cases[i / 2].yes[k]))
                fail_msg("/%s/ does not match \"%s\"", pattern, cases[i / 2].yes[k]);
        for (int k = 0; k < 6 && cases[i / 2].no[k]; k++)
            if (matches(pattern, cases[i / 2].no[k]))
                fail_msg("/%s/ matches \"%s\"", pattern, cases[i / 2].no[k]);
    }
}

static void what_is_no_pattern_is_refused_with_a_reason(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"(", "without its )"},
        {"a)", "without its ("},
        {"[a", "without its ]"},
        {"*a", "nothing to repeat"},
        {"a**", "nothing to repeat"},
        {"\\", "single \\"},
        {"(a)\\1", "backreference"},
        {"(?=a)", "lookaround"},
        {"(?<!a)", "lookaround"},
        {"\\pL", "not supported"},
        {"[z-a]", "backwards"},
        {"a{1001}", "1000"},
        {"a{3,2}", "1000"},
        {"\\q", "unknown escape"},
        {"\\x4", "hexadecimal"},
        {"[[:foo:]]", "class"},
        {"(?z)", "flag"},
        {"(?i", "without its )"},
        {"\\x{110000}", "code"},
        {"a{600}b{600}", "steps"},
        {"((((a{9}){9}){9}){9})", "steps"},
        {"(((){1000}){1000}){1000}", "steps"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct arena arena = {0};
        struct err err;
        const struct regex *re;
        if (compile(bad[i][0], &arena, &re, &err) != ERR_INVALID_FILTER)
            fail_msg("/%s/ was taken", bad[i][0]);
        if (!strstr(err.msg, bad[i][1])) fail_msg("/%s/ %s", bad[i][0], err.msg);
        arena_free(&arena);
    }
}

/* A random extended regular expression that both libraries read in the same way. */
static size_t random_pattern(uint64_t *seed, char *out, int depth)
{
    static const char *const atoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "[a-c]"};
    size_t len = 0;
    int pieces = 1 + (int)(test_random(seed) % 3);
    for (int i = 0; i < pieces; i++) {
        if (depth > 0 && test_random(seed) % 3 == 0) {
            out[len++] = '(';
            len += random_pattern(seed, out + len, depth - 1);
            if (test_random(seed) % 2) {
                out[len++] = '|';
                len += random_pattern(seed, out + len, depth - 1);
            }
            out[len++] = ')';
        } else {
            const char *atom = atoms[test_random(seed) % 7];
            memcpy(out + len, atom, strlen(atom));
            len += strlen(atom);
        }
        static const char *const repeats[] = {"", "", "", "*", "+", "?", "{2}", "{0,2}", "{1,}"};
        const char *repeat = repeats[test_random(seed) % 9];
        memcpy(out + len, repeat, strlen(repeat));
        len += strlen(repeat);
    }
    return len;
}

static void random_patterns_agree_with_the_c_library(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int i = 0; i < 3000; i++) {
        char pattern[512], text[16];
        size_t len = 0;
        bool from_start = test_random(&seed) % 2, to_end = test_random(&seed) % 2;
        if (from_start) pattern[len++] = '^';
        pattern[len++] = '(';
        len += random_pattern(&seed, pattern + len, 2);
        pattern[len++] = ')';
        if (to_end) pattern[len++] = '$';
        pattern[len] = '\0';

        struct arena arena = {0};
        struct err err;
        const struct regex *re, *longer;
        regex_t theirs;
        /* Short programs and long ones run in different ways. */
        char with_more[600];
        snprintf(with_more, sizeof with_more, "%s|z{70}", pattern);
        if (compile(pattern, &arena, &re, &err)) fail_msg("/%s/ %s", pattern, err.msg);
        if (compile(with_more, &arena, &longer, &err)) fail_msg("/%s/ %s", with_more, err.msg);
        assert_int_equal(regcomp(&theirs, pattern, REG_EXTENDED | REG_NOSUB), 0);
        for (int k = 0; k < 20; k++) {
            size_t n = test_random(&seed) % 9;
            for (size_t c = 0; c < n; c++)
                text[c] = "abcd"[test_random(&seed) % 4];
            text[n] = '\0';
            bool want = regexec(&theirs, text, 0, NULL, 0) == 0;
            if (run(re, text, n) != want || run(longer, text, n) != want)
                fail_msg("/%s/ on \"%s\": it should %smatch", pattern, text, want ? "" : "not ");
        }
        regfree(&theirs);
        arena_free(&arena);
    }
}

/* Any bytes as a pattern and as a text: no crash, whatever comes out. */
static void any_bytes_are_safe(void **state)
{
    (void)state;
    static const char letters[] = "ab()[]{}*+?|\\^$.-,19xdwsPi:<>=!\xc3\xa9\xff";
    uint64_t seed = 3;
    for (int i = 0; i < 100000; i++) {
        struct arena arena = {0};
        struct err err;
        const struct regex *re;
        size_t n = test_random(&seed) % 24;
        char *pattern = malloc(n + 1), text[12];
        for (size_t k = 0; k < n; k++)
            pattern[k] = letters[test_random(&seed) % (sizeof letters - 1)];
        char *exact = malloc(n + (n == 0));
        memcpy(exact, pattern, n);
        if (regex_compile(exact, n, &arena, &re, &err) == ERR_OK) {
            for (size_t k = 0; k < sizeof text; k++)
                text[k] = (char)(test_random(&seed) % 2 ? test_random(&seed) : 'a');
            run(re, text, test_random(&seed) % sizeof text);
        }
        free(pattern);
        free(exact);
        arena_free(&arena);
    }
}

/* What takes others exponential time. */
static void hostile_patterns_take_linear_time(void **state)
{
    (void)state;
    enum { LENGTH = 64 * 1024 };
    char *text = malloc(LENGTH + 1);
    memset(text, 'a', LENGTH);
    text[LENGTH] = '\0';
    uint64_t begun = clock_ns();
    assert_false(matches("(a*)*b", text));
    assert_false(matches("^(a|aa)+$b", text));
    assert_false(matches("(a?){20}a{20}b", text));
    assert_true(clock_ns() - begun < UINT64_C(20000000000));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_match_what_they_say),
        cmocka_unit_test(what_is_no_pattern_is_refused_with_a_reason),
        cmocka_unit_test(random_patterns_agree_with_the_c_library),
        cmocka_unit_test(any_bytes_are_safe),
        cmocka_unit_test(hostile_patterns_take_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
