/* output.h - answers for people: aligned tables and lists of `key  value`. */
#ifndef SERVER_CLI_OUTPUT_H
#define SERVER_CLI_OUTPUT_H

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

enum { TABLE_COLUMNS_MAX = 6 };

struct table {
    const char *heads[TABLE_COLUMNS_MAX]; /* NULL ends them */
    char **cells;                         /* owned, row by row */
    size_t count, cap;
};

void table_add(struct table *t, const json_t *value); /* the next cell */
void table_print(const struct table *t, FILE *out);
void table_free(struct table *t);

/* One value as a cell or line shows it; owned by the caller.  Long arrays are cut. */
char *output_value(const json_t *value);

/* Every member of an object as `key  value`, nested objects with dots. */
void output_pairs(const json_t *object, FILE *out);

#endif
