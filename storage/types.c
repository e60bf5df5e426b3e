/* types.c - names of metrics and modes, and the rules of ids and database names. */
#include "storage/types.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/utf8.h"

struct word {
    const char *text;
    int value;
};

static bool is(const char *text, size_t len, const char *word)
{
    return strlen(word) == len && memcmp(text, word, len) == 0;
}

/* words[] ends with a NULL text; the first word of a value is its name. */
static bool find_value(const struct word *words, const char *text, size_t len, int *value)
{
    for (; words->text; words++) {
        if (is(text, len, words->text)) {
            *value = words->value;
            return true;
        }
    }
    return false;
}

static const char *find_name(const struct word *words, int value)
{
    for (; words->text; words++) {
        if (words->value == value) return words->text;
    }
    return "unknown";
}

static const struct word METRICS[] = {
    {"cosine", METRIC_COSINE},
    {"euclidean", METRIC_EUCLIDEAN},
    {"dot_product", METRIC_DOT_PRODUCT},
    {"manhattan", METRIC_MANHATTAN},
    {"l2", METRIC_EUCLIDEAN},
    {"dot", METRIC_DOT_PRODUCT},
    {"inner_product", METRIC_DOT_PRODUCT},
    {"ip", METRIC_DOT_PRODUCT},
    {"l1", METRIC_MANHATTAN},
    {NULL, 0},
};

static const struct word DURABILITIES[] = {
    {"synced", DURABILITY_SYNCED},
    {"periodic", DURABILITY_PERIODIC},
    {NULL, 0},
};

static const struct word INDEX_KINDS[] = {
    {"auto", INDEX_AUTO},
    {"hnsw", INDEX_GRAPH}, /* by the family's best known name */
    {"flat", INDEX_FLAT},
    {NULL, 0},
};

static const struct word QUANTIZATIONS[] = {
    {"auto", QUANTIZATION_AUTO},
    {"none", QUANTIZATION_NONE},
    {"int8", QUANTIZATION_INT8},
    {"binary", QUANTIZATION_BINARY},
    {NULL, 0},
};

const char *metric_name(enum metric m)
{
    return find_name(METRICS, (int)m);
}

bool metric_parse(const char *text, size_t len, enum metric *out)
{
    int value;
    if (!find_value(METRICS, text, len, &value)) return false;
    *out = (enum metric)value;
    return true;
}

const char *durability_name(enum durability d)
{
    return find_name(DURABILITIES, (int)d);
}

bool durability_parse(const char *text, size_t len, enum durability *out)
{
    int value;
    if (!find_value(DURABILITIES, text, len, &value)) return false;
    *out = (enum durability)value;
    return true;
}

const char *index_kind_name(enum index_kind k)
{
    return find_name(INDEX_KINDS, (int)k);
}

bool index_kind_parse(const char *text, size_t len, enum index_kind *out)
{
    int value;
    if (!find_value(INDEX_KINDS, text, len, &value)) return false;
    *out = (enum index_kind)value;
    return true;
}

const char *quantization_name(enum quantization q)
{
    return find_name(QUANTIZATIONS, (int)q);
}

bool quantization_parse(const char *text, size_t len, enum quantization *out)
{
    int value;
    if (!find_value(QUANTIZATIONS, text, len, &value)) return false;
    *out = (enum quantization)value;
    return true;
}

static bool is_within(uint32_t value, uint32_t min, uint32_t max)
{
    return value == 0 || (value >= min && value <= max);
}

bool index_options_are_sane(const struct index_options *o)
{
    return o->kind < INDEX_KIND_COUNT && o->quantization < QUANTIZATION_COUNT &&
           is_within(o->m, INDEX_M_MIN, INDEX_M_MAX) &&
           is_within(o->ef_construction, INDEX_EF_MIN, INDEX_EF_MAX);
}

/* True for 0 and for digits without a leading zero that are at most 2^63 - 1. */
static bool parse_canonical(const char *text, size_t len, uint64_t *number)
{
    if (len == 0 || len > 19 || (text[0] == '0' && len > 1)) return false;
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = value * 10 + (uint64_t)(text[i] - '0'); /* 19 digits are below 2^64 */
    }
    if (value > INT64_MAX) return false;
    *number = value;
    return true;
}

enum err_code vector_id_parse(const char *text, size_t len, struct vector_id *out, struct err *err)
{
    *out = (struct vector_id){0};
    if (parse_canonical(text, len, &out->number)) return ERR_OK;

    if (len == 0) return err_set(err, ERR_INVALID_ID, "a vector id must not be empty");
    if (len > ID_BYTES_MAX)
        return err_set(err, ERR_INVALID_ID, "the vector id has %zu bytes; at most %d are allowed",
                       len, ID_BYTES_MAX);
    for (size_t at = 0; at < len;) {
        uint32_t c;
        size_t bytes = utf8_decode(text + at, len - at, &c);
        if (bytes == 0)
            return err_set(err, ERR_INVALID_ID, "the vector id is not valid UTF-8 (byte %zu)", at);
        if (utf8_is_control(c))
            return err_set(err, ERR_INVALID_ID,
                           "the vector id contains the control character U+%04X (byte %zu)",
                           (unsigned)c, at);
        at += bytes;
    }
    out->text = text;
    out->text_bytes = (uint32_t)len;
    return ERR_OK;
}

int vector_id_compare(const struct vector_id *a, const struct vector_id *b)
{
    if (!a->text || !b->text) {
        if (a->text || b->text) return a->text ? 1 : -1;
        return (a->number > b->number) - (a->number < b->number);
    }
    const uint32_t common = a->text_bytes < b->text_bytes ? a->text_bytes : b->text_bytes;
    int order = memcmp(a->text, b->text, common);
    if (order) return order < 0 ? -1 : 1;
    return (a->text_bytes > b->text_bytes) - (a->text_bytes < b->text_bytes);
}

void vector_id_format(const struct vector_id *id, char *text, size_t cap)
{
    if (cap == 0) return;
    if (!id->text) {
        snprintf(text, cap, "%" PRIu64, id->number);
        return;
    }
    size_t len = id->text_bytes;
    if (len > cap - 1) len = utf8_cut(id->text, cap - 1);
    memcpy(text, id->text, len);
    text[len] = '\0';
}

static bool is_name_character(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

enum err_code database_name_check(const char *name, size_t len, struct err *err)
{
    if (len == 0) return err_set(err, ERR_INVALID_NAME, "a database name must not be empty");
    if (len > NAME_BYTES_MAX)
        return err_set(err, ERR_INVALID_NAME,
                       "the database name has %zu bytes; at most %d are allowed", len,
                       NAME_BYTES_MAX);
    for (size_t i = 0; i < len; i++) {
        if (!is_name_character(name[i]))
            return err_set(err, ERR_INVALID_NAME,
                           "a database name has only letters, digits, \"_\", \"-\" and \".\" "
                           "(byte %zu is none)",
                           i);
    }
    if (name[0] == '.' || name[0] == '-')
        return err_set(err, ERR_INVALID_NAME, "a database name must not start with \"%c\"",
                       name[0]);
    if (memmem(name, len, ".jvdb", 5))
        return err_set(err, ERR_INVALID_NAME, "a database name must not contain \".jvdb\"");
    return ERR_OK;
}
