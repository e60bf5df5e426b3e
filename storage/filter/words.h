/*
 * words.h - the words of a text, and characters without their case.
 *
 * A word is a run of letters, digits, marks and '_'; of Chinese and Japanese characters, which have
 * no spaces between words, each is one.  Words are compared without case.  No stemming, no
 * normalisation: "cafe" is not "café".  Pure functions.  Any thread.
 */
#ifndef STORAGE_FILTER_WORDS_H
#define STORAGE_FILTER_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WORD_BYTES_MAX = 64 }; /* what is behind is not compared */

struct words {
    const char *at, *end; /* UTF-8; what is malformed separates words */
};

/* The next word, folded; *bytes is its length.  False: there is none. */
bool words_next(struct words *w, char word[WORD_BYTES_MAX], uint32_t *bytes);

/* Without case: simple case folding (Unicode, CaseFolding.txt, status C and S) of Latin, Greek,
 * Cyrillic and Armenian letters; other characters as they are. */
uint32_t char_fold(uint32_t c);
/* A character whose folded form is `c` and that is not `c`; `c` if there is none.  (Of the few
 * letters that have more than one, the capital.) */
uint32_t char_unfold(uint32_t c);

/* Like utf8_decode(), but never 0: a malformed byte is U+FFFD.  `len` > 0. */
size_t char_decode(const char *text, size_t len, uint32_t *c);

#endif
