/* The walk over metadata: finds every value of a path, and survives any bytes. */
#include "tests/storage/fixture.h"

#include "storage/filter/metadata.h"

struct seen {
    char text[4096]; /* "path=value;"... */
    size_t len;
    unsigned stop_after; /* 0: never */
    unsigned count;
};

static bool note(void *ctx, unsigned path, const struct value *v)
{
    static const char *const words[] = {"null", "false", "true", "", "", "", "object", "array"};
    struct seen *s = ctx;
    char number[40] = "";
    if (v->kind == VALUE_NUMBER) snprintf(number, sizeof number, "%.17g", v->number.real);
    size_t room = sizeof s->text - s->len;
    int n = snprintf(s->text + s->len, room, "%u%s=%s%.*s;", path, v->in_array ? "[]" : "",
                     v->kind == VALUE_NUMBER ? number : words[v->kind],
                     v->kind == VALUE_STRING ? (int)v->bytes : 0, v->text ? v->text : "");
    s->len += (size_t)n < room ? (size_t)n : 0;
    return ++s->count != s->stop_after;
}

static const char *walk(struct seen *s, const char *const *paths, const char *text)
{
    struct metadata_path list[8];
    unsigned count = 0;
    struct metadata_walk w;
    for (; paths[count]; count++)
        list[count] = (struct metadata_path){paths[count], (uint32_t)strlen(paths[count])};
    s->len = s->count = 0;
    s->text[0] = '\0';
    /* Exactly as long as it is, for the sanitizer. */
    size_t bytes = strlen(text);
    char *copy = malloc(bytes + (bytes == 0));
    memcpy(copy, text, bytes);
    assert_true(metadata_walk_init(&w, list, count, note, s));
    metadata_walk(&w, copy, bytes);
    metadata_walk_deinit(&w);
    free(copy);
    return s->text;
}

static void every_value_of_a_path_is_found(void **state)
{
    (void)state;
    static const struct {
        const char *paths[4], *text, *want;
    } cases[] = {
        {{"a"}, "{\"a\":1}", "0=1;"},
        {{"a"}, " { \"b\" : [1,2,{\"a\":3}] , \"a\" :\t\"x\" , \"c\":null }", "0=x;"},
        {{"a"}, "{}", ""},
        {{"a", "b"}, "{\"b\":true,\"a\":false,\"c\":3}", "1=true;0=false;"},
        {{"a"}, "{\"a\":null}", "0=null;"},
        {{"a"}, "{\"a\":{\"a\":1}}", "0=object;"},
        {{"a.b"}, "{\"a\":{\"b\":1,\"c\":2}}", "0=1;"},
        {{"a.b", "a", "a.c"}, "{\"a\":{\"b\":1,\"c\":2}}", "1=object;0=1;2=2;"},
        {{"a.b"}, "{\"a.b\":1,\"a\":{\"b\":2}}", "0=1;0=2;"},
        {{"a.b.c"}, "{\"a.b\":{\"c\":1},\"a\":{\"b.c\":2,\"b\":{\"c\":3}}}", "0=1;0=2;0=3;"},
        {{"a.b"}, "{\"a\":[{\"b\":1},5,{\"b\":[2,3]},[{\"b\":4}]]}", "0=1;0=array;0[]=2;0[]=3;"},
        {{"a"}, "{\"a\":[]}", "0=array;"},
        {{"a"},
         "{\"a\":[1,\"x\",[2],{\"y\":1},true]}",
         "0=array;0[]=1;0[]=x;0[]=array;0[]=object;0[]=true;"},
        {{"a"}, "{\"a\":\"\\u0041\\n\\\"\\ud83d\\ude00\\\\\"}", "0=A\n\"\xf0\x9f\x98\x80\\;"},
        {{"a"}, "{\"\\u0061\":1}", "0=1;"},
        {{"a"}, "{\"b\":\"}\\\"{\",\"a\":1}", "0=1;"},
        {{"a"}, "{\"aa\":1,\"\":2}", ""},
        {{"a.b"}, "{\"a\":1,\"a.bc\":2,\"ab\":3}", ""},
        {{"a"}, "{\"a\":-12.5e-1,\"b\":1}", "0=-1.25;"},
        {{"b.c", "b"}, "{\"b\":[{\"c\":1}],\"z\":0}", "1=array;1[]=object;0=1;"},
    };
    struct seen s = {.stop_after = 0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = walk(&s, cases[i].paths, cases[i].text);
        if (strcmp(got, cases[i].want) != 0)
            fail_msg("%s: %s, wanted %s", cases[i].text, got, cases[i].want);
    }
}

static void a_walk_stops_when_enough_was_seen(void **state)
{
    (void)state;
    static const char *const paths[] = {"a", NULL};
    struct seen s = {.stop_after = 2};
    assert_string_equal(walk(&s, paths, "{\"a\":[1,2,3]}"), "0=array;0[]=1;");
}

static void paths_are_keys_joined_by_dots(void **state)
{
    (void)state;
    assert_int_equal(metadata_path_keys("a", 1), 1);
    assert_int_equal(metadata_path_keys("a.b.c", 5), 3);
    assert_int_equal(metadata_path_keys("", 0), 0);
    assert_int_equal(metadata_path_keys(".a", 2), 0);
    assert_int_equal(metadata_path_keys("a.", 2), 0);
    assert_int_equal(metadata_path_keys("a..b", 4), 0);
}

/* Damaged metadata must not be read beyond its end, nor for ever. */
static void any_bytes_are_safe(void **state)
{
    (void)state;
    static const char *const paths[] = {"a", "a.b", "a.b.a", "b.a.b", NULL};
    static const char *const pieces[] = {
        "{",     "}",    "[",    "]",   ",",   ":", "\"a\":", "\"",      "\\",       "1",  "-1e5",
        "\"b\"", "true", "null", "\\u", "00e", " ", "\xff",   "{\"b\":", "[{\"a\":", "a.b"};
    uint64_t seed = 11;
    struct seen s = {.stop_after = 0};
    for (int i = 0; i < 200000; i++) {
        char text[256] = "{";
        int n = (int)(test_random(&seed) % 20);
        for (int k = 0; k < n; k++)
            strcat(text, pieces[test_random(&seed) % (sizeof pieces / sizeof *pieces)]);
        walk(&s, paths, text);
    }
    /* As deep as it may be, and deeper. */
    char deep[2000] = "";
    for (int i = 0; i < 300; i++)
        strcat(deep, "{\"a\":");
    walk(&s, paths, deep);
    for (int i = 0; i < 300; i++)
        deep[i] = '[';
    walk(&s, paths, deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_of_a_path_is_found),
        cmocka_unit_test(a_walk_stops_when_enough_was_seen),
        cmocka_unit_test(paths_are_keys_joined_by_dots),
        cmocka_unit_test(any_bytes_are_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
