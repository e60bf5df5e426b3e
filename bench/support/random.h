/*
 * random.h - random numbers that are the same on every machine.
 *
 * Only integers, and float64 operations that IEEE 754 rounds exactly: no function of libm.  The
 * generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
 * 2014); every row of a data set has a stream of its own, so threads do not change what comes out.
 */
#ifndef BENCH_RANDOM_H
#define BENCH_RANDOM_H

#include <math.h>
#include <stdint.h>

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *r)
{
    uint64_t x = r->state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The stream of one row (`number`) of the data that `seed` names. */
static inline struct random random_stream(uint64_t seed, uint64_t number)
{
    struct random r = {seed};
    r.state = random_next(&r) ^ (number * 0xd1342543de82ef95u);
    random_next(&r);
    return r;
}

static inline double random_unit(struct random *r) /* [0, 1) */
{
    return (double)(random_next(r) >> 11) / 9007199254740992.0;
}

static inline uint64_t random_below(struct random *r, uint64_t end)
{
    return (uint64_t)(random_unit(r) * (double)end);
}

/* Mean 0, variance 1, nearly normal: the sum of eight uniform numbers. */
static inline double random_normal(struct random *r)
{
    const double mean = 4 * 65535.0, deviation = 53509.919921; /* sqrt(8 * (2^32 - 1) / 12) */
    uint64_t a = random_next(r), b = random_next(r), sum = 0;
    for (int i = 0; i < 4; i++, a >>= 16, b >>= 16)
        sum += (a & 0xffff) + (b & 0xffff);
    return ((double)sum - mean) / deviation;
}

/* e^x for |x| < 40, good to six digits: (1 + x/2^20)^(2^20). */
static inline double random_exp(double x)
{
    double power = 1 + x / 1048576;
    for (int i = 0; i < 20; i++)
        power *= power;
    return power;
}

#endif
