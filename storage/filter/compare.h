/* compare.h - numbers between two bounds, as bits: 64 numbers make a word.  Any thread. */
#ifndef STORAGE_FILTER_COMPARE_H
#define STORAGE_FILTER_COMPARE_H

#include <stddef.h>
#include <stdint.h>

/* Bit i of bits[w] is set if bit i of has[w] is, and low <= numbers[64 w + i] <= high; others stay
 * as they are. */
void compare_doubles(const double *numbers, const uint64_t *has, size_t words, double low,
                     double high, uint64_t *bits);
void compare_int64s(const int64_t *numbers, const uint64_t *has, size_t words, int64_t low,
                    int64_t high, uint64_t *bits);

#endif
