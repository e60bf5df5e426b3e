/*
 * args.h - options of a command line, described by a table.
 *
 * `--name VALUE`, `--name=VALUE`, and `--name` alone for a switch.  A word without dashes fills the
 * next positional option that is still empty: `get docs 7` is `get --database docs --id 7`.
 */
#ifndef SERVER_CLI_ARGS_H
#define SERVER_CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "storage/base/err.h"

enum { ARGS_MAX = 24 };
enum { ARG_REQUIRED = 1, ARG_POSITIONAL = 2 };

struct arg_spec {
    const char *name;        /* without dashes; NULL ends a table   */
    const char *placeholder; /* of the value; NULL: a switch        */
    const char *help;
    unsigned flags;
};

/* A zeroed struct is empty.  Everything is borrowed. */
struct args {
    const struct arg_spec *specs[ARGS_MAX];
    const char *values[ARGS_MAX]; /* NULL: not given */
    size_t count;
};

void args_add(struct args *args, const struct arg_spec *specs); /* a whole table */

/* ERR_INVALID_REQUEST says which option is unknown (and which was perhaps meant), lacks its value,
 * came twice, or is missing though required. */
MUST_CHECK enum err_code args_parse(struct args *args, int count, char *const *words,
                                    struct err *err);

/* NULL when it was not given; "" for a switch that was. */
const char *args_get(const struct args *args, const char *name);
/* `fallback` when it was not given; ERR_INVALID_REQUEST names the range. */
MUST_CHECK enum err_code args_u64(const struct args *args, const char *name, uint64_t fallback,
                                  uint64_t min, uint64_t max, uint64_t *out, struct err *err);

/* The same for a decimal fraction. */
MUST_CHECK enum err_code args_double(const struct args *args, const char *name, double fallback,
                                     double min, double max, double *out, struct err *err);

void args_print_help(const struct arg_spec *specs, FILE *out);

#endif
