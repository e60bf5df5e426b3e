/* args.c - options of a command line, described by a table. */
#include "server/cli/args.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "config/suggest.h"

void args_add(struct args *args, const struct arg_spec *specs)
{
    for (; specs->name; specs++) {
        assert(args->count < ARGS_MAX);
        args->specs[args->count++] = specs;
    }
}

static enum err_code refuse_unknown(const struct args *args, const char *name, struct err *err)
{
    const char *known[ARGS_MAX];
    for (size_t i = 0; i < args->count; i++)
        known[i] = args->specs[i]->name;
    const char *nearest = suggest(name, known, args->count);
    if (nearest)
        return err_set(err, ERR_INVALID_REQUEST, "unknown option --%.64s; did you mean --%s?", name,
                       nearest);
    return err_set(err, ERR_INVALID_REQUEST, "unknown option --%.64s", name);
}

static enum err_code set(struct args *args, size_t i, const char *value, struct err *err)
{
    if (args->values[i])
        return err_set(err, ERR_INVALID_REQUEST, "option --%s is given twice",
                       args->specs[i]->name);
    args->values[i] = value;
    return ERR_OK;
}

/* *words is the option; it moves on to the value if that is the next word. */
static enum err_code parse_option(struct args *args, char *const **words, char *const *end,
                                  struct err *err)
{
    const char *name = **words + 2;
    size_t len = strcspn(name, "=");
    const char *value = name[len] ? name + len + 1 : NULL;

    size_t i = 0;
    while (i < args->count &&
           (strncmp(args->specs[i]->name, name, len) != 0 || args->specs[i]->name[len]))
        i++;
    if (i == args->count) {
        char cut[80];
        snprintf(cut, sizeof cut, "%.*s", (int)(len < 79 ? len : 79), name);
        return refuse_unknown(args, cut, err);
    }
    const struct arg_spec *spec = args->specs[i];
    if (!spec->placeholder) {
        if (value)
            return err_set(err, ERR_INVALID_REQUEST, "option --%s takes no value", spec->name);
        return set(args, i, "", err);
    }
    if (!value) {
        char *const *next = *words + 1;
        if (next == end || strncmp(*next, "--", 2) == 0)
            return err_set(err, ERR_INVALID_REQUEST, "option --%s needs a value: --%s %s",
                           spec->name, spec->name, spec->placeholder);
        value = *next;
        *words = next;
    }
    return set(args, i, value, err);
}

static enum err_code parse_positional(struct args *args, const char *word, struct err *err)
{
    for (size_t i = 0; i < args->count; i++) {
        if (args->specs[i]->flags & ARG_POSITIONAL && !args->values[i])
            return set(args, i, word, err);
    }
    return err_set(err, ERR_INVALID_REQUEST, "unexpected argument \"%.64s\"", word);
}

enum err_code args_parse(struct args *args, int count, char *const *words, struct err *err)
{
    char *const *end = words + count;
    for (char *const *word = words; word < end; word++) {
        enum err_code rc;
        if (strncmp(*word, "--", 2) == 0)
            rc = parse_option(args, &word, end, err);
        else if ((*word)[0] == '-' && (*word)[1])
            rc = err_set(err, ERR_INVALID_REQUEST, "unknown option %.64s", *word);
        else
            rc = parse_positional(args, *word, err);
        if (rc) return rc;
    }
    for (size_t i = 0; i < args->count; i++) {
        const struct arg_spec *spec = args->specs[i];
        if (spec->flags & ARG_REQUIRED && !args->values[i])
            return err_set(err, ERR_INVALID_REQUEST, "--%s %s is missing", spec->name,
                           spec->placeholder);
        /* An empty shell variable must not turn "delete this row" into "delete the database". */
        if (spec->placeholder && args->values[i] && !*args->values[i])
            return err_set(err, ERR_INVALID_REQUEST, "--%s is empty", spec->name);
    }
    return ERR_OK;
}

const char *args_get(const struct args *args, const char *name)
{
    for (size_t i = 0; i < args->count; i++) {
        if (strcmp(args->specs[i]->name, name) == 0) return args->values[i];
    }
    assert(0 && "no such option in the table");
    return NULL;
}

enum err_code args_u64(const struct args *args, const char *name, uint64_t fallback, uint64_t min,
                       uint64_t max, uint64_t *out, struct err *err)
{
    const char *text = args_get(args, name);
    *out = fallback;
    if (!text) return ERR_OK;

    errno = 0;
    if (!text[strspn(text, "0123456789")]) *out = strtoull(text, NULL, 10);
    if (text[strspn(text, "0123456789")] || errno || *out < min || *out > max)
        return err_set(err, ERR_INVALID_REQUEST,
                       "--%s: \"%.32s\" must be a whole number from %" PRIu64 " to %" PRIu64, name,
                       text, min, max);
    return ERR_OK;
}

enum err_code args_double(const struct args *args, const char *name, double fallback, double min,
                          double max, double *out, struct err *err)
{
    const char *text = args_get(args, name);
    *out = fallback;
    if (!text) return ERR_OK;

    char *end;
    *out = strtod(text, &end); /* takes more than we do: spaces, hexadecimals, names */
    if (*end || text[strspn(text, "0123456789.")] || !(*out >= min && *out <= max))
        return err_set(err, ERR_INVALID_REQUEST, "--%s: \"%.32s\" must be a number from %g to %g",
                       name, text, min, max);
    return ERR_OK;
}

void args_print_help(const struct arg_spec *specs, FILE *out)
{
    for (; specs->name; specs++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", specs->name, specs->placeholder ? " " : "",
                 specs->placeholder ? specs->placeholder : "");
        fprintf(out, "  %-24s %s%s\n", left, specs->help,
                specs->flags & ARG_REQUIRED ? " (required)" : "");
    }
}
