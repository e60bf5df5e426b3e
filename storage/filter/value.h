/*
 * value.h - what a filter compares: JSON scalars, exactly, in one total order.
 *
 * Pure functions of their arguments.  Any thread.
 */
#ifndef STORAGE_FILTER_VALUE_H
#define STORAGE_FILTER_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A JSON number.  Whole numbers below 2^64 in size are exact, however they are written (1e3 is
 * 1000); all others are the nearest double. */
struct number {
    double real;        /* the nearest double, in any case */
    uint64_t magnitude; /* of a whole number */
    bool is_whole;
    bool is_negative; /* of a whole number; never of 0 */
};

/* The number that is written in `text`, all of it.  False: it is no number. */
bool number_parse(const char *text, size_t bytes, struct number *out);
struct number number_from_u64(uint64_t n);
struct number number_from_real(double d);
/* < 0, 0, > 0: by value, exactly. */
int number_compare(const struct number *a, const struct number *b);

/* A point in time, to the nanosecond. */
struct instant {
    int64_t seconds; /* since 1970-01-01T00:00:00Z */
    uint32_t nanoseconds;
};

/* An RFC 3339 date-time: "2026-11-20T09:30:00.25+01:00".  Digits of a second behind the ninth are
 * dropped.  False: it is none. */
bool instant_parse(const char *text, size_t bytes, struct instant *out);

/* In the order in which values of different kinds are sorted. */
enum value_kind {
    VALUE_NULL,
    VALUE_FALSE,
    VALUE_TRUE,
    VALUE_NUMBER,
    VALUE_TIME, /* a string that is a time, where it is to be taken for one */
    VALUE_STRING,
    VALUE_OBJECT, /* these two have no order: only that they are there counts */
    VALUE_ARRAY
};

struct value {
    enum value_kind kind;
    bool in_array;    /* an element of the array that the field holds */
    uint32_t bytes;   /* of `text` */
    const char *text; /* of strings and times: unescaped; of objects: the JSON; borrowed */
    union {
        struct number number;
        struct instant instant;
    };
};

/* A total order over scalars: by kind, then by value; strings by bytes. */
int value_compare(const struct value *a, const struct value *b);
/* A string that is a time becomes one. */
void value_take_for_time(struct value *v);

#endif
