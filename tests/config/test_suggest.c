/* test_suggest.c - config/suggest.h: slips are recognized, other words are left alone. */
#include "config/suggest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static const char *const words[] = {"export", "import", "delete", "server.port"};

static const char *nearest(const char *word)
{
    return suggest(word, words, sizeof words / sizeof *words);
}

static void one_slip_names_the_word(void **state)
{
    (void)state;
    assert_string_equal(nearest("exprot"), "export");  /* swapped   */
    assert_string_equal(nearest("mport"), "import");   /* left out  */
    assert_string_equal(nearest("deletee"), "delete"); /* too many  */
    assert_string_equal(nearest("server.prt"), "server.port");
    assert_string_equal(nearest("sever-port"), "server.port");
}

static void another_word_names_nothing(void **state)
{
    (void)state;
    assert_null(nearest("frobnicate"));
    assert_null(nearest(""));
    assert_null(nearest("x"));
}

static void very_long_words_are_left_alone(void **state)
{
    (void)state;
    char word[300];
    for (size_t i = 0; i < sizeof word - 1; i++)
        word[i] = 'e';
    word[sizeof word - 1] = '\0';
    assert_null(nearest(word));
    const char *const known[] = {word};
    assert_null(suggest("e", known, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_slip_names_the_word),
        cmocka_unit_test(another_word_names_nothing),
        cmocka_unit_test(very_long_words_are_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
