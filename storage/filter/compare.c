/*
 * compare.c - plain loops, and the same for AVX2, where one instruction gives four bits.
 *
 * The choice is made at each call: it is a load and a branch for thousands of numbers.
 */
#include "storage/filter/compare.h"

static void doubles_plain(const double *numbers, const uint64_t *has, size_t words, double low,
                          double high, uint64_t *bits)
{
    for (size_t w = 0; w < words; w++, numbers += 64) {
        uint64_t word = 0;
        if (!has[w]) continue;
        for (int i = 0; i < 64; i++)
            word |= (uint64_t)((numbers[i] >= low) & (numbers[i] <= high)) << i;
        bits[w] |= word & has[w];
    }
}

static void int64s_plain(const int64_t *numbers, const uint64_t *has, size_t words, int64_t low,
                         int64_t high, uint64_t *bits)
{
    /* One comparison instead of two: what is less than `low` wraps around. */
    uint64_t from = (uint64_t)low, span = (uint64_t)high - from;
    for (size_t w = 0; w < words; w++, numbers += 64) {
        uint64_t word = 0;
        if (!has[w]) continue;
        for (int i = 0; i < 64; i++)
            word |= (uint64_t)((uint64_t)numbers[i] - from <= span) << i;
        bits[w] |= word & has[w];
    }
}

#ifdef __x86_64__
#include <immintrin.h>

__attribute__((target("avx2"))) static void doubles_avx2(const double *numbers, const uint64_t *has,
                                                         size_t words, double low, double high,
                                                         uint64_t *bits)
{
    __m256d lows = _mm256_set1_pd(low), highs = _mm256_set1_pd(high);
    for (size_t w = 0; w < words; w++, numbers += 64) {
        uint64_t word = 0;
        if (!has[w]) continue;
        for (int i = 0; i < 64; i += 4) {
            __m256d v = _mm256_loadu_pd(numbers + i);
            __m256d in = _mm256_and_pd(_mm256_cmp_pd(v, lows, _CMP_GE_OQ),
                                       _mm256_cmp_pd(v, highs, _CMP_LE_OQ));
            word |= (uint64_t)_mm256_movemask_pd(in) << i;
        }
        bits[w] |= word & has[w];
    }
}

__attribute__((target("avx2"))) static void int64s_avx2(const int64_t *numbers, const uint64_t *has,
                                                        size_t words, int64_t low, int64_t high,
                                                        uint64_t *bits)
{
    __m256i lows = _mm256_set1_epi64x(low), highs = _mm256_set1_epi64x(high);
    for (size_t w = 0; w < words; w++, numbers += 64) {
        uint64_t word = 0;
        if (!has[w]) continue;
        for (int i = 0; i < 64; i += 4) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(numbers + i));
            __m256i out =
                _mm256_or_si256(_mm256_cmpgt_epi64(lows, v), _mm256_cmpgt_epi64(v, highs));
            word |= (uint64_t)(~_mm256_movemask_pd(_mm256_castsi256_pd(out)) & 15) << i;
        }
        bits[w] |= word & has[w];
    }
}

#define CHOOSE(name) (__builtin_cpu_supports("avx2") ? name##_avx2 : name##_plain)
#else
#define CHOOSE(name) name##_plain
#endif

void compare_doubles(const double *numbers, const uint64_t *has, size_t words, double low,
                     double high, uint64_t *bits)
{
    CHOOSE(doubles)(numbers, has, words, low, high, bits);
}

void compare_int64s(const int64_t *numbers, const uint64_t *has, size_t words, int64_t low,
                    int64_t high, uint64_t *bits)
{
    CHOOSE(int64s)(numbers, has, words, low, high, bits);
}
