/*
 * float_text.c - decimal text of floating point numbers.
 *
 * WRITING is Schubfach (R. Giulietti, "The Schubfach way to render doubles", 2020).  A number
 * c * 2^q stands for every real between its two neighbours' midpoints.  With k chosen so that
 * 10^k is at most the width of that interval and 10^(k+1) is more, the interval holds at most one
 * multiple of 10^(k+1) (then that is the shortest) and at least one of 10^k (then the nearest one
 * is).  All is done on v = 4 * c * 2^q / 10^k, whose fraction is only kept as "is there more" in
 * the last bit.
 *
 * READING takes up to 19 digits as an integer and scales it in float64 by an exact power of ten.
 * That is off by less than two units of the last place, so casting it to float32 is right unless a
 * midpoint between two float32 is as near; those, and everything unusual, go to strtof().
 */
#include "api/float_text.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POW10_MIN = -64, POW10_MAX = 64 };

static const uint64_t pow10_table[POW10_MAX - POW10_MIN + 1][2] = {
#include "api/pow10.def"
};

struct decimal {
    uint64_t digits;
    int exp10;
};

/* floor(log2(10^e)), |e| < 1233 */
static int log2_of_pow10(int e)
{
    return (e * 1741647) >> 19;
}

/* floor(log10(2^e)), or of 3/4 * 2^e when the lower neighbour is nearer; |e| < 1500 */
static int log10_of_pow2(int e, bool lower_is_nearer)
{
    return (int)((e * (int64_t)1262611 - (lower_is_nearer ? 524031 : 0)) >> 22);
}

/* The integer part of x * pow10, its last bit set if anything was cut off. */
static uint64_t scale_single(uint64_t pow10, uint64_t x)
{
    unsigned __int128 product = (unsigned __int128)pow10 * x;
    return (uint64_t)(product >> 64) | ((uint32_t)(product >> 32) > 1);
}

static uint64_t scale_double(const uint64_t pow10[2], uint64_t x)
{
    unsigned __int128 low = (unsigned __int128)pow10[1] * x;
    unsigned __int128 high = (unsigned __int128)pow10[0] * x + (uint64_t)(low >> 64);
    return (uint64_t)(high >> 64) | ((uint64_t)high > 1);
}

/* Of the multiples of 10^k around vb / 4 choose the shortest, then the nearest. */
static struct decimal choose(uint64_t vb_lower, uint64_t vb, uint64_t vb_upper, bool even, int k)
{
    /* The ends of the interval belong to it when rounding to even comes back here. */
    uint64_t lower = vb_lower + !even;
    uint64_t upper = vb_upper - !even;
    uint64_t s = vb / 4;

    if (s >= 10) {
        uint64_t tens = s / 10;
        bool down = lower <= 40 * tens;
        bool up = 40 * tens + 40 <= upper;
        if (down != up) return (struct decimal){tens + up, k + 1};
    }
    bool down = lower <= 4 * s;
    bool up = 4 * s + 4 <= upper;
    if (down != up) return (struct decimal){s + up, k};
    uint64_t middle = 4 * s + 2;
    return (struct decimal){s + (vb > middle || (vb == middle && (s & 1))), k};
}

static const char digit_pairs[201] =
    "00010203040506070809101112131415161718192021222324252627282930313"
    "23334353637383940414243444546474849505152535455565758596061626364"
    "6566676869707172737475767778798081828384858687888990919293949596979899";

/* Plain notation unless the exponent form, as C would print it ("1e+05"), is shorter. */
static size_t put_decimal(char *out, bool negative, struct decimal v)
{
    while (v.digits % 10 == 0) {
        v.digits /= 10;
        v.exp10++;
    }
    char digits[20];
    int at = sizeof digits;
    uint64_t rest = v.digits;
    while (rest >= 10) {
        at -= 2;
        memcpy(digits + at, digit_pairs + 2 * (rest % 100), 2);
        rest /= 100;
    }
    if (rest || at == sizeof digits) digits[--at] = (char)('0' + rest);
    /* 1 .. 9 leave a leading zero when the number of digits is odd and the last pair was "0x" */
    const char *d = digits + at;
    int n = (int)sizeof digits - at;
    while (n > 1 && *d == '0')
        d++, n--;

    char *p = out;
    if (negative) *p++ = '-';
    int point = n + v.exp10; /* digits before the decimal point */
    int plain = point <= 0 ? 2 - point + n : point >= n ? point : n + 1;
    if (plain <= n + (n > 1) + 4) {
        if (point <= 0) {
            *p++ = '0', *p++ = '.';
            for (int i = point; i < 0; i++)
                *p++ = '0';
            memcpy(p, d, (size_t)n), p += n;
        } else if (point >= n) {
            memcpy(p, d, (size_t)n), p += n;
            for (int i = n; i < point; i++)
                *p++ = '0';
        } else {
            memcpy(p, d, (size_t)point), p += point;
            *p++ = '.';
            memcpy(p, d + point, (size_t)(n - point)), p += n - point;
        }
        return (size_t)(p - out);
    }
    *p++ = d[0];
    if (n > 1) {
        *p++ = '.';
        memcpy(p, d + 1, (size_t)n - 1), p += n - 1;
    }
    *p++ = 'e';
    int e = point - 1;
    if (e < 0) *p++ = '-', e = -e;
    if (e >= 100)
        *p++ = (char)('0' + e / 100), e %= 100, *p++ = (char)('0' + e / 10);
    else if (e >= 10)
        *p++ = (char)('0' + e / 10);
    *p++ = (char)('0' + e % 10);
    return (size_t)(p - out);
}

static size_t put_zero(char *out, bool negative)
{
    memcpy(out, negative ? "-0.0" : "0", negative ? 4 : 1);
    return negative ? 4 : 1;
}

size_t float_text_write(float value, char *out)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bool negative = bits >> 31;
    uint32_t fraction = bits & 0x7fffff, biased = bits >> 23 & 0xff;
    if (!biased && !fraction) return put_zero(out, negative);

    uint64_t c = biased ? fraction | 0x800000 : fraction;
    int q = (biased ? (int)biased : 1) - 150;
    if (q <= 0 && q > -24 && (c & ((1u << -q) - 1)) == 0) /* a whole number */
        return put_decimal(out, negative, (struct decimal){c >> -q, 0});

    bool lower_is_nearer = fraction == 0 && biased > 1;
    int k = log10_of_pow2(q, lower_is_nearer);
    int h = q + log2_of_pow10(-k) + 1;
    const uint64_t *row = pow10_table[-k - POW10_MIN];
    uint64_t pow10 = row[0] + (row[1] != 0);
    return put_decimal(out, negative,
                       choose(scale_single(pow10, (4 * c - 2 + lower_is_nearer) << h),
                              scale_single(pow10, (4 * c) << h),
                              scale_single(pow10, (4 * c + 2) << h), c % 2 == 0, k));
}

/* Numbers beyond the table (below 1e-47 or above 1e80) are too rare to carry 600 rows for. */
static size_t double_text_slow(double value, char *out)
{
    char text[DOUBLE_TEXT_BYTES_MAX];
    int n = 0;
    for (int precision = 1; precision <= 17; precision++) {
        n = snprintf(text, sizeof text, "%.*g", precision, value);
        if (strtod(text, NULL) == value) break;
    }
    memcpy(out, text, (size_t)n);
    return (size_t)n;
}

size_t double_text_write(double value, char *out)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bool negative = bits >> 63;
    uint64_t fraction = bits & 0xfffffffffffff;
    int biased = (int)(bits >> 52 & 0x7ff);
    if (!biased && !fraction) return put_zero(out, negative);
    if (!biased) return double_text_slow(value, out);

    uint64_t c = fraction | 0x10000000000000;
    int q = biased - 1075;
    if (q <= 0 && q > -53 && (c & ((1ull << -q) - 1)) == 0)
        return put_decimal(out, negative, (struct decimal){c >> -q, 0});

    bool lower_is_nearer = fraction == 0 && biased > 1;
    int k = log10_of_pow2(q, lower_is_nearer);
    if (-k < POW10_MIN || -k > POW10_MAX) return double_text_slow(value, out);
    int h = q + log2_of_pow10(-k) + 1;
    const uint64_t *pow10 = pow10_table[-k - POW10_MIN];
    return put_decimal(out, negative,
                       choose(scale_double(pow10, (4 * c - 2 + lower_is_nearer) << h),
                              scale_double(pow10, (4 * c) << h),
                              scale_double(pow10, (4 * c + 2) << h), c % 2 == 0, k));
}

static bool is_digit(char c)
{
    return (unsigned char)(c - '0') < 10;
}

/* Digits that count: those of [from, to) without the point and without leading zeros. */
static int significant_digits(const char *from, const char *to)
{
    int n = 0;
    for (; from < to; from++)
        if (is_digit(*from) && (n || *from != '0') && n < 100) n++;
    return n;
}

enum float_parse float_text_parse(const char *text, const char **end, float *out)
{
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *p = text;
    bool negative = *p == '-';
    if (negative) p++;

    const char *digits = p;
    uint64_t w = 0;
    if (*p == '0') {
        p++;
    } else {
        while (is_digit(*p))
            w = w * 10 + (uint64_t)(*p++ - '0');
        if (p == digits) goto syntax;
    }
    if (is_digit(*p)) goto syntax; /* 01 */
    long exp10 = 0;
    const char *digits_end = p;
    if (*p == '.') {
        const char *fraction = ++p;
        while (is_digit(*p))
            w = w * 10 + (uint64_t)(*p++ - '0');
        if (p == fraction) goto syntax;
        exp10 = fraction - p;
        digits_end = p;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        bool minus = *p == '-';
        if (*p == '-' || *p == '+') p++;
        if (!is_digit(*p)) goto syntax;
        long e = 0;
        for (; is_digit(*p); p++)
            if (e < 1000000) e = e * 10 + (*p - '0');
        exp10 += minus ? -e : e;
    }
    *end = p;

    if (digits_end - digits > 19 && significant_digits(digits, digits_end) > 19) goto slow;
    if (w == 0) {
        *out = negative ? -0.0f : 0.0f;
        return FLOAT_PARSED;
    }
    if (exp10 < -22 || exp10 > 22) goto slow;
    double d = exp10 < 0 ? (double)w / exact[-exp10] : (double)w * exact[exp10];
    if (d < 0x1p-126 || d > 0x1p127) goto slow;
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    /* 29 bits go away; 0x10000000 is the midpoint between two float32 */
    if ((bits & 0x1fffffff) - (0x10000000 - 8) <= 16) goto slow;
    *out = (float)(negative ? -d : d);
    return FLOAT_PARSED;

slow:
    *out = strtof(text, NULL); /* the process never leaves the "C" locale */
    return *out - *out == 0 ? FLOAT_PARSED : FLOAT_OVERFLOW;

syntax:
    *end = p;
    return FLOAT_SYNTAX;
}

const char *number_text_skip(const char *p)
{
    if (*p == '-') p++;
    if (*p == '0')
        p++;
    else if (is_digit(*p))
        while (is_digit(*p))
            p++;
    else
        return NULL;
    if (is_digit(*p)) return NULL;
    if (*p == '.') {
        if (!is_digit(*++p)) return NULL;
        while (is_digit(*p))
            p++;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '-' || *p == '+') p++;
        if (!is_digit(*p)) return NULL;
        while (is_digit(*p))
            p++;
    }
    return p;
}
