/* output.c - answers for people: aligned tables and lists of `key  value`. */
#include "server/cli/output.h"

#include <stdbool.h>
#include <string.h>

#include "server/cli/text.h"
#include "storage/base/mem.h"

enum { ARRAY_SHOWN = 8, PAIRS_MAX = 256 };

static char *take(struct buf *b)
{
    buf_add(b, "", 1);
    char *text = mem_strdup(b->failed ? "(out of memory)" : b->data);
    buf_free(b);
    return text;
}

static void add_json(struct buf *out, const json_t *value)
{
    char *json = json_dumps(value, JSON_ENCODE_ANY);
    if (json) text_add_printable(out, json, strlen(json));
    free(json);
}

static void add_number(struct buf *out, const json_t *value)
{
    if (json_is_integer(value))
        buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else
        buf_printf(out, "%.9g", json_real_value(value)); /* enough for any float32 */
}

char *output_value(const json_t *value)
{
    struct buf b = {0};
    if (json_is_string(value)) {
        text_add_printable(&b, json_string_value(value), json_string_length(value));
    } else if (json_is_number(value)) {
        add_number(&b, value);
    } else if (json_is_array(value)) {
        size_t count = json_array_size(value);
        buf_str(&b, "[");
        for (size_t i = 0; i < count && i < ARRAY_SHOWN; i++) {
            const json_t *one = json_array_get(value, i);
            if (i) buf_str(&b, ", ");
            json_is_number(one) ? add_number(&b, one) : add_json(&b, one);
        }
        if (count > ARRAY_SHOWN) buf_printf(&b, ", ... %zu in all", count);
        buf_str(&b, "]");
    } else if (!value || json_is_null(value)) {
        buf_str(&b, "-");
    } else {
        add_json(&b, value);
    }
    return take(&b);
}

/* Characters, which is columns for most scripts. */
static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void pad(FILE *out, size_t width)
{
    for (; width; width--)
        fputc(' ', out);
}

void table_add(struct table *t, const json_t *value)
{
    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        char **cells = mem_resize(t->cells, cap * sizeof *cells);
        if (!cells) return; /* the table ends here; the JSON form needs no such memory */
        t->cells = cells;
        t->cap = cap;
    }
    t->cells[t->count++] = output_value(value);
}

void table_print(const struct table *t, FILE *out)
{
    size_t columns = 0, widths[TABLE_COLUMNS_MAX];
    for (; columns < TABLE_COLUMNS_MAX && t->heads[columns]; columns++)
        widths[columns] = width_of(t->heads[columns]);
    for (size_t i = 0; i < t->count; i++) {
        size_t width = width_of(t->cells[i]);
        if (width > widths[i % columns]) widths[i % columns] = width;
    }
    for (size_t i = 0; i < columns + t->count; i++) {
        const char *cell = i < columns ? t->heads[i] : t->cells[i - columns];
        bool last = i % columns == columns - 1;
        fputs(cell, out);
        if (last)
            fputc('\n', out);
        else
            pad(out, widths[i % columns] - width_of(cell) + 2);
    }
}

void table_free(struct table *t)
{
    for (size_t i = 0; i < t->count; i++)
        mem_free(t->cells[i]);
    mem_free(t->cells);
    t->cells = NULL;
    t->count = t->cap = 0;
}

/* ---- key  value ---- */

struct pair {
    char *key;
    const json_t *value;
};

static void collect(struct pair *pairs, size_t *count, const char *prefix, const json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        if (*count == PAIRS_MAX) return;
        struct buf name = {0};
        buf_printf(&name, "%s%s", prefix, *prefix ? "." : "");
        text_add_printable(&name, key, strlen(key));
        char *full = take(&name);
        if (json_is_object(value) && json_object_size(value) && !strchr(prefix, '.') &&
            strcmp(key, "metadata") != 0) {
            collect(pairs, count, full, value);
            mem_free(full);
        } else {
            pairs[(*count)++] = (struct pair){full, value};
        }
    }
}

void output_pairs(const json_t *object, FILE *out)
{
    struct pair pairs[PAIRS_MAX];
    size_t count = 0, widest = 0;

    collect(pairs, &count, "", object);
    for (size_t i = 0; i < count; i++) {
        size_t width = width_of(pairs[i].key);
        if (width > widest) widest = width;
    }
    for (size_t i = 0; i < count; i++) {
        char *value = output_value(pairs[i].value);
        fputs(pairs[i].key, out);
        pad(out, widest - width_of(pairs[i].key) + 2);
        fprintf(out, "%s\n", value);
        mem_free(value);
        mem_free(pairs[i].key);
    }
}
