#include "storage/filter/value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

enum { NUMBER_TEXT_MAX = 1100 }; /* more digits than any double has; what is behind is dropped */

#define TWO_TO_64 18446744073709551616.0

struct number number_from_real(double d)
{
    struct number n = {.real = d};
    if (d > -TWO_TO_64 && d < TWO_TO_64 && d == floor(d)) {
        n.is_whole = true;
        n.is_negative = d < 0;
        n.magnitude = (uint64_t)fabs(d);
    }
    return n;
}

/* What is no plain integer of 64 bits. */
static bool parse_real(const char *text, size_t bytes, struct number *out)
{
    char copy[NUMBER_TEXT_MAX + 1];
    char *end;
    if (bytes > NUMBER_TEXT_MAX) bytes = NUMBER_TEXT_MAX;
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    *out = number_from_real(strtod(copy, &end));
    return end == copy + bytes;
}

/* Decimals of few digits: mantissa and power of ten are doubles without rounding, so their quotient
 * is rounded once (Clinger, "How to read floating point numbers accurately", PLDI 1990). */
static bool parse_short_decimal(const char *p, const char *end, bool negative, uint64_t mantissa,
                                struct number *out)
{
    static const double powers[] = {1,    1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    size_t decimals = 0;
    for (p++; p < end && *p >= '0' && *p <= '9' && mantissa < UINT64_C(1) << 49; p++, decimals++)
        mantissa = mantissa * 10 + (uint64_t)(*p - '0');
    if (p < end || decimals == 0 || decimals > 22 || mantissa > UINT64_C(1) << 53) return false;
    double d = (double)mantissa / powers[decimals];
    *out = number_from_real(negative ? -d : d);
    return true;
}

bool number_parse(const char *text, size_t bytes, struct number *out)
{
    const char *p = text, *end = text + bytes;
    bool negative = p < end && *p == '-';
    p += negative;
    const char *digits = p;
    uint64_t n = 0;
    while (p < end && *p >= '0' && *p <= '9' && n < UINT64_MAX / 10)
        n = n * 10 + (uint64_t)(*p++ - '0');
    if (p == digits) return false;
    if (p < end && *p >= '0' && *p <= '9') { /* the twentieth digit */
        uint64_t digit = (uint64_t)(*p - '0');
        if (n > UINT64_MAX / 10 || digit > UINT64_MAX % 10) return parse_real(text, bytes, out);
        n = n * 10 + digit;
        p++;
    }
    if (p == end) {
        *out = (struct number){.real = negative ? -(double)n : (double)n,
                               .magnitude = n,
                               .is_whole = true,
                               .is_negative = negative && n};
        return true;
    }
    if (*p == '.' && parse_short_decimal(p, end, negative, n, out)) return true;
    return parse_real(text, bytes, out);
}

struct number number_from_u64(uint64_t n)
{
    return (struct number){.real = (double)n, .magnitude = n, .is_whole = true};
}

int number_compare(const struct number *a, const struct number *b)
{
    if (a->is_whole && b->is_whole) {
        if (a->is_negative != b->is_negative) return a->is_negative ? -1 : 1;
        int size = (a->magnitude > b->magnitude) - (a->magnitude < b->magnitude);
        return a->is_negative ? -size : size;
    }
    /* Rounding keeps the order. */
    if (a->real != b->real) return a->real < b->real ? -1 : 1;
    if (a->is_whole == b->is_whole) return 0;
    /* A whole number was rounded up to a double of 2^64 or more. */
    bool whole_is_less = a->real > 0;
    return a->is_whole == whole_is_less ? -1 : 1;
}

/* ---- times ---- */

/* Days from 1970-01-01 in the Gregorian calendar (after H. Hinnant, "chrono-compatible low-level
 * date algorithms": years begin in March, so that the leap day is the last). */
static int64_t days_from_civil(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* `count` digits; < 0: they are none. */
static int digits_at(const char *p, int count)
{
    int n = 0;
    for (int i = 0; i < count; i++) {
        if (p[i] < '0' || p[i] > '9') return -1;
        n = n * 10 + (p[i] - '0');
    }
    return n;
}

/* The offset at the end of a time, in seconds. */
static bool parse_offset(const char *p, const char *end, int *seconds)
{
    *seconds = 0;
    if (end - p == 1) return *p == 'Z' || *p == 'z';
    if (end - p != 6 || (*p != '+' && *p != '-') || p[3] != ':') return false;
    int hours = digits_at(p + 1, 2), minutes = digits_at(p + 4, 2);
    if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return false;
    *seconds = (hours * 60 + minutes) * 60 * (*p == '-' ? -1 : 1);
    return true;
}

bool instant_parse(const char *text, size_t bytes, struct instant *out)
{
    if (bytes < sizeof "2026-11-20T09:30:00Z" - 1 || bytes > 64) return false;
    const char *p = text, *end = text + bytes;
    if (p[4] != '-' || p[7] != '-' || p[13] != ':' || p[16] != ':') return false;
    if (p[10] != 'T' && p[10] != 't' && p[10] != ' ') return false;
    int year = digits_at(p, 4), month = digits_at(p + 5, 2), day = digits_at(p + 8, 2);
    int hour = digits_at(p + 11, 2), minute = digits_at(p + 14, 2), second = digits_at(p + 17, 2);
    if (year < 0 || month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
        return false;
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
        return false;
    uint32_t nanoseconds = 0;
    p += 19;
    if (*p == '.') {
        uint32_t unit = 100000000;
        const char *first = ++p;
        for (; p < end && *p >= '0' && *p <= '9'; p++, unit /= 10)
            nanoseconds += (uint32_t)(*p - '0') * unit;
        if (p == first) return false;
    }
    int offset;
    if (!parse_offset(p, end, &offset)) return false;
    out->seconds =
        days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset;
    out->nanoseconds = nanoseconds;
    return true;
}

/* ---- values ---- */

void value_take_for_time(struct value *v)
{
    struct instant at;
    if (v->kind != VALUE_STRING || !instant_parse(v->text, v->bytes, &at)) return;
    v->kind = VALUE_TIME;
    v->instant = at;
}

static int compare_texts(const struct value *a, const struct value *b)
{
    uint32_t common = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = common ? memcmp(a->text, b->text, common) : 0;
    if (order) return order;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

int value_compare(const struct value *a, const struct value *b)
{
    if (a->kind != b->kind) return a->kind < b->kind ? -1 : 1;
    switch (a->kind) {
    case VALUE_NUMBER:
        return number_compare(&a->number, &b->number);
    case VALUE_TIME:
        if (a->instant.seconds != b->instant.seconds)
            return a->instant.seconds < b->instant.seconds ? -1 : 1;
        return (a->instant.nanoseconds > b->instant.nanoseconds) -
               (a->instant.nanoseconds < b->instant.nanoseconds);
    case VALUE_STRING:
        return compare_texts(a, b);
    default:
        return 0;
    }
}
