/* suggest.c - edit distance, where a swap of two neighbours counts as one slip of the finger. */
#include "config/suggest.h"

#include <string.h>

enum { WORD_BYTES_MAX = 64 };

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t rows[3][WORD_BYTES_MAX + 1];
    size_t *before = rows[0], *above = rows[1], *here = rows[2];

    for (size_t j = 0; j <= b_len; j++)
        above[j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        here[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            here[j] = above[j - 1] + (a[i - 1] != b[j - 1]);
            here[j] = min(here[j], min(above[j], here[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                here[j] = min(here[j], before[j - 2] + 1);
        }
        size_t *spare = before;
        before = above;
        above = here;
        here = spare;
    }
    return above[b_len];
}

const char *suggest(const char *word, const char *const *known, size_t count)
{
    size_t len = strlen(word);
    if (len == 0 || len > WORD_BYTES_MAX) return NULL;

    /* More than a third wrong is another word, not a slip. */
    size_t best = len / 3 + 2;
    const char *nearest = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t known_len = strlen(known[i]);
        if (known_len > WORD_BYTES_MAX) continue;
        size_t d = distance(word, len, known[i], known_len);
        if (d < best) {
            best = d;
            nearest = known[i];
        }
    }
    return nearest;
}
