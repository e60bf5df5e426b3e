/* clock.c - the clocks of the operating system, and RFC 3339 text without the C locale. */
#include "storage/base/clock.h"

#include <string.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec < 0 ? 0 : (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static void put(char *to, unsigned value, int digits)
{
    while (digits-- > 0) {
        to[digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

void clock_rfc3339(uint64_t wall_ms, char text[25])
{
    /* The format has four digits for the year. */
    const uint64_t last = 253402300799999; /* 9999-12-31T23:59:59.999Z */
    if (wall_ms > last) wall_ms = last;

    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm t;
    gmtime_r(&seconds, &t);
    memcpy(text, "0000-00-00T00:00:00.000Z", 25);
    put(text, (unsigned)t.tm_year + 1900, 4);
    put(text + 5, (unsigned)t.tm_mon + 1, 2);
    put(text + 8, (unsigned)t.tm_mday, 2);
    put(text + 11, (unsigned)t.tm_hour, 2);
    put(text + 14, (unsigned)t.tm_min, 2);
    put(text + 17, (unsigned)t.tm_sec, 2);
    put(text + 20, (unsigned)(wall_ms % 1000), 3);
}
