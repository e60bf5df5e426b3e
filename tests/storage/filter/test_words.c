/* Words of texts, and letters without their case. */
#include "tests/storage/fixture.h"

#include "storage/filter/words.h"

static const char *split(const char *text)
{
    static char out[512];
    struct words w = {text, text + strlen(text)};
    char word[WORD_BYTES_MAX];
    uint32_t bytes;
    size_t len = 0;
    out[0] = '\0';
    while (words_next(&w, word, &bytes))
        len += (size_t)snprintf(out + len, sizeof out - len, "%s%.*s", len ? "|" : "", (int)bytes,
                                word);
    return out;
}

static void texts_are_split_into_folded_words(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {" ,.;- ", ""},
        {"Hello, World!", "hello|world"},
        {"libfoo_bar-2.0", "libfoo_bar|2|0"},
        {"\xc3\x89t\xc3\xa9", "\xc3\xa9t\xc3\xa9"},                  /* Été */
        {"\xce\xa3\xce\xaf\xcf\x83\xcf\x85\xcf\x86\xce\xbf\xcf\x82", /* Σίσυφος */
         "\xcf\x83\xce\xaf\xcf\x83\xcf\x85\xcf\x86\xce\xbf\xcf\x83"},
        {"\xd0\x9c\xd0\xb8\xd1\x80 \xd0\x81\xd0\xb6",
         "\xd0\xbc\xd0\xb8\xd1\x80|\xd1\x91\xd0\xb6"}, /* Мир Ёж */
        {"a\xc2\xa0"
         "b\xe2\x80\x94"
         "c\xe3\x80\x82"
         "d",
         "a|b|c|d"},                                                           /* spaces, dashes */
        {"\xe6\x9d\xb1\xe4\xba\xac tower", "\xe6\x9d\xb1|\xe4\xba\xac|tower"}, /* 東京 */
        {"x\xff\xfey", "x|y"},
        {"1e5 x2", "1e5|x2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(split(cases[i][0]), cases[i][1]);
}

static void long_words_are_cut(void **state)
{
    (void)state;
    char text[200];
    memset(text, 'x', sizeof text);
    struct words w = {text, text + sizeof text};
    char word[WORD_BYTES_MAX];
    uint32_t bytes;
    assert_true(words_next(&w, word, &bytes));
    assert_true(bytes <= WORD_BYTES_MAX && bytes > WORD_BYTES_MAX - 4);
    assert_false(words_next(&w, word, &bytes));
}

static void folding_is_stable_and_can_be_undone(void **state)
{
    (void)state;
    unsigned pairs = 0;
    for (uint32_t c = 0; c < 0x20000; c++) {
        uint32_t folded = char_fold(c);
        assert_int_equal(char_fold(folded), folded);
        if (folded == c) continue;
        pairs++;
        uint32_t capital = char_unfold(folded);
        assert_int_not_equal(capital, folded);
        assert_int_equal(char_fold(capital), folded);
    }
    assert_true(pairs > 500);
    assert_int_equal(char_unfold('a'), 'A');
    assert_int_equal(char_unfold('1'), '1');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_split_into_folded_words),
        cmocka_unit_test(long_words_are_cut),
        cmocka_unit_test(folding_is_stable_and_can_be_undone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
