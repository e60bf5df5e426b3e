/* clock.h - two clocks, never mixed: intervals are monotonic, points in time are wall time. */
#ifndef STORAGE_BASE_CLOCK_H
#define STORAGE_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

uint64_t clock_ns(void);      /* CLOCK_MONOTONIC, for durations and deadlines       */
uint64_t clock_wall_ms(void); /* CLOCK_REALTIME, milliseconds since 1970-01-01 UTC  */

/* "2026-11-20T09:30:00.123Z" into `text`, which has room for 25 bytes. */
void clock_rfc3339(uint64_t wall_ms, char text[25]);

#endif
