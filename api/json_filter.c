/*
 * json_filter.c - one pass to check the JSON, one to build the tree.
 *
 *     filter     {"$and": [filter..], "$or": [filter..], "$not": filter, "$id": condition,
 *                 "path": condition, ...}                     all of them
 *     condition  scalar | {"$gt": scalar, "$in": [scalar..], "$not": condition, ...}   all of them
 */
#include "api/json_filter.h"

#include <stdio.h>
#include <string.h>

#include "storage/base/utf8.h"

struct parser {
    struct json_scan *s;
    struct err *err;
    int depth;
    unsigned nodes;
    char where[256]; /* the path to what is being read, cut to fit */
    size_t where_len;
};

enum operand { SCALAR, SCALARS, BOOLEAN, CONDITION, CIRCLE, BOX };

static const struct {
    const char *name;
    enum filter_op op;
    enum operand operand;
} operators[] = {
    {"$eq", FILTER_EQ, SCALAR},          {"$ne", FILTER_NE, SCALAR},
    {"$gt", FILTER_GT, SCALAR},          {"$gte", FILTER_GTE, SCALAR},
    {"$lt", FILTER_LT, SCALAR},          {"$lte", FILTER_LTE, SCALAR},
    {"$in", FILTER_IN, SCALARS},         {"$nin", FILTER_NIN, SCALARS},
    {"$exists", FILTER_EXISTS, BOOLEAN}, {"$contains", FILTER_CONTAINS, SCALAR},
    {"$prefix", FILTER_PREFIX, SCALAR},  {"$regex", FILTER_REGEX, SCALAR},
    {"$text", FILTER_TEXT, SCALAR},      {"$geo_radius", FILTER_GEO_RADIUS, CIRCLE},
    {"$geo_box", FILTER_GEO_BOX, BOX},   {"$not", FILTER_NOT, CONDITION},
};
enum { OPERATOR_COUNT = sizeof operators / sizeof *operators };

/* ---- messages ---- */

static enum err_code no_memory(struct parser *p)
{
    return err_set(p->err, ERR_NOMEM, "out of memory for this request");
}

/* `what` is a predicate of the place. */
static enum err_code refuse(struct parser *p, const char *what)
{
    if (p->where_len == 0) return err_set(p->err, ERR_INVALID_FILTER, "has a filter that %s", what);
    return err_set(p->err, ERR_INVALID_FILTER, "has a filter in which \"%s\" %s", p->where, what);
}

static enum err_code unknown(struct parser *p, const struct json_text *name)
{
    int len = (int)utf8_cut(name->data, name->len < 40 ? name->len : 40);
    bool at_root = p->where_len == 0;
    return err_set(p->err, ERR_INVALID_FILTER,
                   "has a filter with the unknown operator \"%.*s\" at %s%s%s; there are $eq $ne "
                   "$gt $gte $lt $lte $in $nin $exists $contains $prefix $regex $text $geo_radius "
                   "$geo_box $not for a field, and $and $or $not $id for a filter",
                   len, name->data, at_root ? "its top" : "\"", p->where, at_root ? "" : "\"");
}

static size_t enter_key(struct parser *p, const struct json_text *key)
{
    size_t before = p->where_len;
    char *end = p->where + sizeof p->where - 1, *at = p->where + p->where_len;
    if (at > p->where && at < end) *at++ = '.';
    size_t len = key->len < (size_t)(end - at) ? key->len : (size_t)(end - at);
    len = utf8_cut(key->data, len);
    memcpy(at, key->data, len);
    at[len] = '\0';
    p->where_len = (size_t)(at - p->where) + len;
    return before;
}

static size_t enter_index(struct parser *p, size_t index)
{
    size_t before = p->where_len;
    int n = snprintf(p->where + p->where_len, sizeof p->where - p->where_len, "[%zu]", index);
    p->where_len += (size_t)n;
    if (p->where_len > sizeof p->where - 1) p->where_len = sizeof p->where - 1;
    return before;
}

static void leave(struct parser *p, size_t before)
{
    p->where_len = before;
    p->where[before] = '\0';
}

/* ---- nodes ---- */

static enum err_code node_new(struct parser *p, enum filter_op op, struct filter_node **out)
{
    if (++p->nodes > FILTER_NODES_MAX)
        return err_set(p->err, ERR_INVALID_FILTER, "has a filter of more than %d conditions",
                       FILTER_NODES_MAX);
    *out = arena_alloc(p->s->arena, sizeof **out);
    char *where = arena_copy(p->s->arena, p->where, p->where_len + 1);
    if (!*out || !where) return no_memory(p);
    **out = (struct filter_node){.op = op, .where = where};
    return ERR_OK;
}

/* All of the nodes behind `first`: itself, if it is the only one. */
static enum err_code all_of(struct parser *p, struct filter_node *first, struct filter_node **out)
{
    if (first && !first->next) {
        *out = first;
        return ERR_OK;
    }
    enum err_code rc = node_new(p, FILTER_AND, out);
    if (!rc) (*out)->first = first;
    return rc;
}

/* ---- operands ---- */

static enum err_code scan_scalar(struct parser *p, struct value *v)
{
    struct json_text text;
    enum err_code rc;
    *v = (struct value){.kind = VALUE_STRING};
    switch (json_scan_peek(p->s)) {
    case '"':
        rc = json_scan_string(p->s, &text, p->err);
        v->text = text.data;
        v->bytes = (uint32_t)text.len;
        return rc;
    case '[':
        return refuse(p, "is compared with an array; use $in for any of several values, or $and "
                         "with $contains for all of them");
    case '{':
        return refuse(p, "is compared with an object; name the field inside it with a dot, like "
                         "\"a.b\"");
    default:
        break;
    }
    rc = json_scan_value(p->s, &text, p->err);
    if (rc) return rc;
    v->kind = text.data[0] == 't'   ? VALUE_TRUE
              : text.data[0] == 'f' ? VALUE_FALSE
              : text.data[0] == 'n' ? VALUE_NULL
                                    : VALUE_NUMBER;
    if (v->kind == VALUE_NUMBER && !number_parse(text.data, text.len, &v->number))
        return refuse(p, "is compared with something that is no number");
    return ERR_OK;
}

static enum err_code scan_scalars(struct parser *p, struct filter_node *n)
{
    size_t cap = 16, count = 0;
    bool more;
    if (json_scan_peek(p->s) != '[') return refuse(p, "needs an array of values");
    struct value *values = arena_alloc(p->s->arena, cap * sizeof *values);
    if (!values) return no_memory(p);
    enum err_code rc = json_scan_array(p->s, p->err);
    while (!rc && !(rc = json_scan_element(p->s, &more, p->err)) && more) {
        if (count == FILTER_VALUES_MAX) return refuse(p, "has more than 10000 values");
        if (count == cap) {
            struct value *wider = arena_alloc(p->s->arena, 2 * cap * sizeof *wider);
            if (!wider) return no_memory(p);
            memcpy(wider, values, count * sizeof *wider);
            values = wider;
            cap *= 2;
        }
        rc = scan_scalar(p, &values[count++]);
    }
    n->values = values;
    n->value_count = count;
    return rc;
}

static enum err_code scan_bool(struct parser *p, bool *out)
{
    struct json_text text;
    enum err_code rc = json_scan_value(p->s, &text, p->err);
    if (rc) return rc;
    if (!json_text_is(&text, "true") && !json_text_is(&text, "false"))
        return refuse(p, "needs true or false");
    *out = text.data[0] == 't';
    return ERR_OK;
}

/* An object of numbers, all of them there and no others. */
static enum err_code scan_numbers(struct parser *p, const char *const *names, double *numbers,
                                  const char *wanted)
{
    struct json_text key;
    struct value v;
    uint32_t seen = 0, all = 0;
    int field;
    bool more;
    while (names[all])
        all++;
    if (json_scan_peek(p->s) != '{') return refuse(p, wanted);
    enum err_code rc = json_scan_object(p->s, p->err);
    while (!rc && !(rc = json_scan_member(p->s, &key, &more, p->err)) && more) {
        if (json_scan_field(&key, names, &seen, &field, p->err)) return refuse(p, wanted);
        char c = json_scan_peek(p->s);
        if (c == '{' || c == '[') return refuse(p, wanted);
        rc = scan_scalar(p, &v);
        if (!rc && v.kind != VALUE_NUMBER) return refuse(p, wanted);
        numbers[field] = v.number.real;
    }
    return rc || seen == (1u << all) - 1 ? rc : refuse(p, wanted);
}

static enum err_code scan_circle(struct parser *p, struct filter_node *n)
{
    static const char *const names[] = {"lat", "lon", "meters", NULL};
    double numbers[3] = {0};
    enum err_code rc = scan_numbers(
        p, names, numbers, "needs {\"lat\": degrees, \"lon\": degrees, \"meters\": distance}");
    n->center = (struct geo_point){numbers[0], numbers[1]};
    n->meters = numbers[2];
    return rc;
}

static enum err_code scan_box(struct parser *p, struct filter_node *n)
{
    static const char *const corners[] = {"top_left", "bottom_right", NULL};
    static const char *const names[] = {"lat", "lon", NULL};
    static const char wanted[] = "needs {\"top_left\": {\"lat\", \"lon\"}, \"bottom_right\": "
                                 "{\"lat\", \"lon\"}} in degrees";
    struct json_text key;
    uint32_t seen = 0;
    int corner;
    bool more;
    double numbers[2][2] = {{0}};
    if (json_scan_peek(p->s) != '{') return refuse(p, wanted);
    enum err_code rc = json_scan_object(p->s, p->err);
    while (!rc && !(rc = json_scan_member(p->s, &key, &more, p->err)) && more) {
        if (json_scan_field(&key, corners, &seen, &corner, p->err)) return refuse(p, wanted);
        rc = scan_numbers(p, names, numbers[corner], wanted);
    }
    n->box = (struct geo_box){numbers[0][0], numbers[0][1], numbers[1][0], numbers[1][1]};
    return rc || seen == 3 ? rc : refuse(p, wanted);
}

/* ---- conditions ---- */

struct subject {
    const char *path; /* NULL: the id */
    size_t path_bytes;
};

static enum err_code enter_depth(struct parser *p)
{
    if (++p->depth > FILTER_DEPTH_MAX)
        return err_set(p->err, ERR_INVALID_FILTER,
                       "has a filter that is nested more than %d levels deep", FILTER_DEPTH_MAX);
    return ERR_OK;
}

static enum err_code scan_condition(struct parser *p, const struct subject *of,
                                    struct filter_node **out);

static enum err_code scan_operator(struct parser *p, const struct subject *of, size_t which,
                                   struct filter_node **out)
{
    struct filter_node *n;
    bool flag = true;
    enum err_code rc = node_new(p, operators[which].op, &n);
    if (rc) return rc;
    *out = n;
    n->path = of->path;
    n->path_bytes = of->path_bytes;
    switch (operators[which].operand) {
    case SCALAR: {
        struct value *v = arena_alloc(p->s->arena, sizeof *v);
        if (!v) return no_memory(p);
        n->values = v;
        n->value_count = 1;
        return scan_scalar(p, v);
    }
    case SCALARS:
        return scan_scalars(p, n);
    case CIRCLE:
        return scan_circle(p, n);
    case BOX:
        return scan_box(p, n);
    case CONDITION:
        if (json_scan_peek(p->s) != '{')
            return refuse(p, "needs an object of operators, like {\"$gt\": 10}");
        rc = enter_depth(p);
        if (!rc) rc = scan_condition(p, of, &n->first);
        p->depth--;
        return rc;
    case BOOLEAN:
        rc = scan_bool(p, &flag);
        if (rc || flag) return rc;
        rc = node_new(p, FILTER_NOT, out);
        if (!rc) (*out)->first = n;
        return rc;
    }
    return rc;
}

static enum err_code scan_operators(struct parser *p, const struct subject *of,
                                    struct filter_node **out)
{
    struct filter_node *first = NULL, **last = &first;
    struct json_text key;
    bool more;
    enum err_code rc = json_scan_object(p->s, p->err);
    while (!rc && !(rc = json_scan_member(p->s, &key, &more, p->err)) && more) {
        size_t which = 0;
        if (key.len == 0 || key.data[0] != '$')
            return refuse(p, "is compared with an object; name the field inside it with a dot, "
                             "like \"a.b\"");
        while (which < OPERATOR_COUNT && !json_text_is(&key, operators[which].name))
            which++;
        if (which == OPERATOR_COUNT) return unknown(p, &key);
        size_t before = enter_key(p, &key);
        rc = scan_operator(p, of, which, last);
        if (rc) return rc;
        last = &(*last)->next;
        leave(p, before);
    }
    if (rc) return rc;
    if (!first) return refuse(p, "has an empty object: it needs a value, or an operator like $gt");
    return all_of(p, first, out);
}

static enum err_code scan_condition(struct parser *p, const struct subject *of,
                                    struct filter_node **out)
{
    if (json_scan_peek(p->s) == '{') return scan_operators(p, of, out);
    return scan_operator(p, of, 0, out); /* $eq */
}

/* ---- filters ---- */

static enum err_code scan_filter(struct parser *p, struct filter_node **out);

/* The array of $and or $or. */
static enum err_code scan_parts(struct parser *p, enum filter_op op, struct filter_node **out)
{
    struct filter_node **last;
    size_t count = 0;
    bool more;
    if (json_scan_peek(p->s) != '[') return refuse(p, "needs an array of filters");
    enum err_code rc = node_new(p, op, out);
    if (!rc) rc = json_scan_array(p->s, p->err);
    if (rc) return rc;
    last = &(*out)->first;
    while (!rc && !(rc = json_scan_element(p->s, &more, p->err)) && more) {
        size_t before = enter_index(p, count++);
        rc = scan_filter(p, last);
        if (rc) return rc;
        last = &(*last)->next;
        leave(p, before);
    }
    return rc || count ? rc : refuse(p, "needs at least one filter");
}

static enum err_code scan_negation(struct parser *p, struct filter_node **out)
{
    enum err_code rc = node_new(p, FILTER_NOT, out);
    return rc ? rc : scan_filter(p, &(*out)->first);
}

static enum err_code scan_member(struct parser *p, const struct json_text *key,
                                 struct filter_node **out)
{
    if (json_text_is(key, "$and")) return scan_parts(p, FILTER_AND, out);
    if (json_text_is(key, "$or")) return scan_parts(p, FILTER_OR, out);
    if (json_text_is(key, "$not")) return scan_negation(p, out);
    struct subject of = {key->data, key->len};
    if (json_text_is(key, "$id"))
        of = (struct subject){0};
    else if (key->len && key->data[0] == '$')
        return ERR_NOT_FOUND; /* for scan_filter(), which knows the place around it */
    return scan_condition(p, &of, out);
}

static enum err_code scan_filter(struct parser *p, struct filter_node **out)
{
    struct filter_node *first = NULL, **last = &first;
    struct json_text key;
    bool more;
    if (json_scan_peek(p->s) != '{') return refuse(p, "is not an object");
    enum err_code rc = enter_depth(p);
    if (!rc) rc = json_scan_object(p->s, p->err);
    while (!rc && !(rc = json_scan_member(p->s, &key, &more, p->err)) && more) {
        size_t before = enter_key(p, &key);
        rc = scan_member(p, &key, last);
        if (rc == ERR_NOT_FOUND) {
            leave(p, before);
            return unknown(p, &key);
        }
        if (rc) return rc;
        last = &(*last)->next;
        leave(p, before);
    }
    p->depth--;
    return rc ? rc : all_of(p, first, out);
}

enum err_code json_filter(struct json_scan *s, const char *options, const struct filter **filter,
                          struct err *err)
{
    struct parser p = {.s = s, .err = err};
    struct filter_node *tree;
    struct json_text raw;
    /* First all of it for its syntax: below nothing is left of that to fail, and an error cannot
     * hide that the text is no JSON at all. */
    struct json_scan behind = *s;
    *filter = NULL;
    enum err_code rc = json_scan_value(&behind, &raw, err);
    if (!rc && json_text_is(&raw, "null")) {
        *s = behind;
        return ERR_OK;
    }
    if (!rc) rc = scan_filter(&p, &tree);
    if (!rc) rc = filter_compile(tree, options, s->arena, filter, err);
    if (!rc) *s = behind;
    return rc;
}
