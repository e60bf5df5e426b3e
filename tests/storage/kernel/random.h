/* random.h - numbers for the kernel tests: the same in every run. */
#ifndef TESTS_STORAGE_KERNEL_RANDOM_H
#define TESTS_STORAGE_KERNEL_RANDOM_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static uint64_t random_state = 0x9e3779b97f4a7c15u;

/* xorshift64, Marsaglia 2003. */
static inline uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static inline float random_unit(void)
{
    return (float)((double)(random_bits() >> 11) / 0x1p53 * 2 - 1);
}

/* Any finite float32: huge, tiny, denormal, both zeros. */
static inline float random_any(void)
{
    for (;;) {
        uint32_t bits = (uint32_t)random_bits();
        float f;
        memcpy(&f, &bits, sizeof f);
        if (isfinite(f)) return f;
    }
}

static inline float random_denormal(void)
{
    return (float)(random_bits() & 0x7fffff) * 0x1p-149f * (random_bits() & 1 ? 1 : -1);
}

#endif
