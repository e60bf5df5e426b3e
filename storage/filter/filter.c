/*
 * filter.c - from a tree of nodes to leaves and terms, and trying one row.
 *
 * Compiling turns every node into LEAVES (conditions on the values of one field, each true if some
 * value satisfies it) under AND, OR and NOT: $ne is NOT $eq, "is null" is "has no such field or is
 * null".  A row is tried in one walk over its metadata, which sets a bit for each leaf that holds;
 * the terms are looked at behind it.
 */
#include "storage/filter/filter.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/mem.h"
#include "storage/base/utf8.h"
#include "storage/filter/filter_private.h"

/* ---- compiling: room ---- */

struct compiler {
    struct arena *arena;
    struct err *err;
    struct leaf *leaves;
    struct field *fields;
    uint32_t leaf_count, leaf_cap, field_count, field_cap;
    uint32_t node_count;
};

static enum err_code no_memory(struct compiler *c)
{
    return err_set(c->err, ERR_NOMEM, "out of memory for a filter");
}

static enum err_code refuse(struct compiler *c, const struct filter_node *n, const char *what)
{
    return err_set(c->err, ERR_INVALID_FILTER, "has a filter in which \"%s\" %s",
                   n->where ? n->where : "", what);
}

/* Make room for one more behind `count` things. */
static bool grow(struct compiler *c, void **things, uint32_t count, uint32_t *cap, size_t size)
{
    if (count < *cap) return true;
    uint32_t wider_cap = *cap ? 2 * *cap : 8;
    void *wider = arena_alloc(c->arena, wider_cap * size);
    if (!wider) return false;
    if (count) memcpy(wider, *things, count * size);
    *things = wider;
    *cap = wider_cap;
    return true;
}

static enum err_code find_field(struct compiler *c, const struct filter_node *n, uint32_t *field)
{
    if (n->path) {
        unsigned keys = metadata_path_keys(n->path, n->path_bytes);
        if (keys == 0) return refuse(c, n, "has no path of keys joined by dots");
        if (keys > METADATA_PATH_KEYS_MAX || n->path_bytes > METADATA_PATH_BYTES_MAX)
            return refuse(c, n, "has a path of more than 16 keys or 256 bytes");
    }
    for (*field = 0; *field < c->field_count; ++*field) {
        const struct field *f = &c->fields[*field];
        if (!f->path != !n->path) continue;
        if (!n->path) return ERR_OK;
        if (f->path_bytes == n->path_bytes && memcmp(f->path, n->path, n->path_bytes) == 0)
            return ERR_OK;
    }
    if (!grow(c, (void **)&c->fields, c->field_count, &c->field_cap, sizeof *c->fields))
        return no_memory(c);
    c->fields[c->field_count++] =
        (struct field){.path = n->path, .path_bytes = (uint32_t)n->path_bytes};
    return ERR_OK;
}

static struct term *term_new(struct compiler *c, enum filter_op op)
{
    struct term *t = arena_alloc(c->arena, sizeof *t);
    if (t) *t = (struct term){.op = op};
    return t;
}

/* ---- fields, before leaves: what kind they are decides how operands are read ---- */

static enum err_code collect_fields(struct compiler *c, const struct filter_node *n, int depth)
{
    if (++c->node_count > FILTER_NODES_MAX)
        return err_set(c->err, ERR_INVALID_FILTER, "has a filter of more than %d conditions",
                       FILTER_NODES_MAX);
    assert(depth <= FILTER_TREE_DEPTH_MAX);
    if (n->op > FILTER_NOT) {
        uint32_t ignored;
        return find_field(c, n, &ignored);
    }
    for (const struct filter_node *part = n->first; part; part = part->next) {
        enum err_code rc = collect_fields(c, part, depth + 1);
        if (rc) return rc;
    }
    return ERR_OK;
}

struct index_types {
    struct field *fields;
    const uint32_t *path_fields;
};

static bool note_index_type(void *ctx, unsigned path, const struct value *v)
{
    struct index_types *types = ctx;
    struct field *f = &types->fields[types->path_fields[path]];
    if (v->kind != VALUE_STRING) return true;
    if (v->bytes == 8 && memcmp(v->text, "datetime", 8) == 0)
        f->is_datetime = true;
    else if (v->bytes == 4 && memcmp(v->text, "text", 4) == 0)
        f->is_text = true;
    else if (v->bytes == 3 && memcmp(v->text, "geo", 3) == 0)
        f->is_geo = true;
    else
        f->is_scalar = true;
    return true;
}

static bool keep_object(void *ctx, unsigned path, const struct value *v)
{
    (void)path;
    *(struct value *)ctx = *v;
    return false;
}

/* What "metadata_indexes" of the options says of the fields. */
static enum err_code read_index_types(struct compiler *c, struct filter *f, const char *options)
{
    static const struct metadata_path indexes_path = {"metadata_indexes", 16};
    struct index_types types = {c->fields, f->path_fields};
    struct value indexes = {.kind = VALUE_NULL};
    struct metadata_walk walk = {0};
    enum err_code rc = ERR_OK;
    if (!options || f->path_count == 0) return ERR_OK;
    if (!metadata_walk_init(&walk, &indexes_path, 1, keep_object, &indexes)) rc = no_memory(c);
    if (!rc) metadata_walk(&walk, options, strlen(options));
    metadata_walk_deinit(&walk);
    if (rc || indexes.kind != VALUE_OBJECT) return rc;
    if (!metadata_walk_init(&walk, f->paths, f->path_count, note_index_type, &types))
        return no_memory(c);
    metadata_walk(&walk, indexes.text, indexes.bytes);
    metadata_walk_deinit(&walk);
    return ERR_OK;
}

/* Those that are to be looked for in the metadata. */
static enum err_code list_paths(struct compiler *c, struct filter *f)
{
    struct metadata_path *paths = arena_alloc(c->arena, (c->field_count + 1) * sizeof *paths);
    uint32_t *fields = arena_alloc(c->arena, (c->field_count + 1) * sizeof *fields);
    if (!paths || !fields) return no_memory(c);
    f->id_field = UINT32_MAX;
    for (uint32_t i = 0; i < c->field_count; i++) {
        if (!c->fields[i].path) {
            f->id_field = i;
            continue;
        }
        paths[f->path_count] = (struct metadata_path){c->fields[i].path, c->fields[i].path_bytes};
        fields[f->path_count++] = i;
    }
    f->paths = paths;
    f->path_fields = fields;
    return ERR_OK;
}

/* ---- leaves ---- */

static int by_value(const void *a, const void *b)
{
    return value_compare(a, b);
}

/* The operand as the field's values will be. */
static void take_operand(const struct field *f, struct value *v)
{
    struct vector_id id;
    struct err ignored;
    if (f->is_datetime) value_take_for_time(v);
    if (f->path || v->kind != VALUE_STRING) return;
    /* "17" is the id 17. */
    if (vector_id_parse(v->text, v->bytes, &id, &ignored) || id.text) return;
    v->kind = VALUE_NUMBER;
    v->number = number_from_u64(id.number);
}

static enum err_code check_operands(struct compiler *c, const struct filter_node *n,
                                    const struct field *f, const struct value *values)
{
    for (size_t i = 0; i < n->value_count; i++)
        if (values[i].kind > VALUE_STRING)
            return refuse(c, n,
                          "is compared with an array or an object; a filter compares "
                          "numbers, strings, true, false and null");
    enum value_kind kind = n->value_count ? values[0].kind : VALUE_NULL;
    bool is_text = kind == VALUE_STRING || kind == VALUE_TIME;
    switch (n->op) {
    case FILTER_GT:
    case FILTER_GTE:
    case FILTER_LT:
    case FILTER_LTE:
        if (!is_text && kind != VALUE_NUMBER) return refuse(c, n, "needs a number or a string");
        if (f->is_datetime && kind == VALUE_STRING)
            return refuse(c, n,
                          "needs a time like \"2026-11-20T09:30:00Z\" (RFC 3339): the field has a "
                          "datetime index");
        return ERR_OK;
    case FILTER_PREFIX:
    case FILTER_REGEX:
    case FILTER_TEXT:
        return is_text ? ERR_OK : refuse(c, n, "needs a string");
    case FILTER_CONTAINS:
        return kind == VALUE_NULL ? refuse(c, n, "needs a string, a number, true or false")
                                  : ERR_OK;
    case FILTER_IN:
    case FILTER_NIN:
        if (n->value_count > FILTER_VALUES_MAX) return refuse(c, n, "has more than 10000 values");
        return ERR_OK;
    default:
        return ERR_OK;
    }
}

static enum err_code compile_regex(struct compiler *c, const struct filter_node *n,
                                   struct leaf *leaf)
{
    struct err why;
    enum err_code rc =
        regex_compile(n->values[0].text, n->values[0].bytes, c->arena, &leaf->regex, &why);
    if (rc == ERR_INVALID_FILTER) return refuse(c, n, why.msg);
    return rc ? no_memory(c) : ERR_OK;
}

static enum err_code compile_words(struct compiler *c, const struct filter_node *n,
                                   struct leaf *leaf)
{
    struct words text = {n->values[0].text, n->values[0].text + n->values[0].bytes};
    struct word *words = arena_alloc(c->arena, FILTER_WORDS_MAX * sizeof *words), next;
    if (!words) return no_memory(c);
    while (words_next(&text, next.text, &next.bytes)) {
        uint32_t i = 0;
        while (i < leaf->word_count &&
               (words[i].bytes != next.bytes || memcmp(words[i].text, next.text, next.bytes) != 0))
            i++;
        if (i < leaf->word_count) continue;
        if (leaf->word_count == FILTER_WORDS_MAX) return refuse(c, n, "has more than 64 words");
        words[leaf->word_count++] = next;
    }
    if (leaf->word_count == 0) return refuse(c, n, "has no word in it");
    leaf->words = words;
    return ERR_OK;
}

static enum err_code compile_geo(struct compiler *c, const struct filter_node *n, struct leaf *leaf)
{
    if (n->op == FILTER_GEO_RADIUS) {
        if (!geo_point_is_valid(&n->center) || !(n->meters >= 0))
            return refuse(c, n,
                          "needs \"lat\" from -90 to 90, \"lon\" from -180 to 180 and "
                          "\"meters\" from 0");
        geo_circle_init(&leaf->circle, n->center, n->meters);
        return ERR_OK;
    }
    const struct geo_point corners[] = {{n->box.top, n->box.left}, {n->box.bottom, n->box.right}};
    if (!geo_point_is_valid(&corners[0]) || !geo_point_is_valid(&corners[1]) ||
        n->box.top < n->box.bottom)
        return refuse(c, n,
                      "needs \"top_left\" north of \"bottom_right\", each with \"lat\" from "
                      "-90 to 90 and \"lon\" from -180 to 180");
    leaf->box = n->box;
    return ERR_OK;
}

static enum err_code compile_leaf(struct compiler *c, const struct filter_node *n,
                                  struct leaf *leaf)
{
    uint32_t field;
    enum err_code rc = find_field(c, n, &field);
    if (rc) return rc;
    *leaf = (struct leaf){.op = n->op, .field = field, .value_count = n->value_count};
    if (n->op == FILTER_GEO_RADIUS || n->op == FILTER_GEO_BOX) return compile_geo(c, n, leaf);

    struct value *values = arena_alloc(c->arena, (n->value_count + 1) * sizeof *values);
    if (!values) return no_memory(c);
    if (n->value_count) memcpy(values, n->values, n->value_count * sizeof *values);
    bool is_textual = n->op == FILTER_PREFIX || n->op == FILTER_REGEX || n->op == FILTER_TEXT ||
                      (n->op == FILTER_CONTAINS && !n->path);
    for (size_t i = 0; i < n->value_count && !is_textual; i++)
        take_operand(&c->fields[field], &values[i]);
    leaf->values = values;
    rc = check_operands(c, n, &c->fields[field], values);
    if (rc) return rc;
    if (n->op == FILTER_REGEX) return compile_regex(c, n, leaf);
    if (n->op == FILTER_TEXT) return compile_words(c, n, leaf);
    if (n->op == FILTER_IN && n->value_count) {
        qsort(values, n->value_count, sizeof *values, by_value);
        size_t kept = 1;
        for (size_t i = 1; i < n->value_count; i++)
            if (value_compare(&values[i], &values[kept - 1]) != 0) values[kept++] = values[i];
        leaf->value_count = kept;
    }
    return ERR_OK;
}

static enum err_code leaf_term(struct compiler *c, const struct filter_node *n, struct term **out)
{
    if (!grow(c, (void **)&c->leaves, c->leaf_count, &c->leaf_cap, sizeof *c->leaves))
        return no_memory(c);
    enum err_code rc = compile_leaf(c, n, &c->leaves[c->leaf_count]);
    if (rc) return rc;
    *out = term_new(c, n->op);
    if (!*out) return no_memory(c);
    (*out)->leaf = c->leaf_count++;
    return ERR_OK;
}

/* ---- terms ---- */

/* `parts` under one operator. */
static enum err_code wrap(struct compiler *c, enum filter_op op, struct term *parts,
                          struct term **out)
{
    *out = term_new(c, op);
    if (!*out) return no_memory(c);
    (*out)->first = parts;
    return ERR_OK;
}

static bool has_null(const struct filter_node *n)
{
    for (size_t i = 0; i < n->value_count; i++)
        if (n->values[i].kind == VALUE_NULL) return true;
    return false;
}

/* EQ or IN; null is also "there is no such field". */
static enum err_code compile_equality(struct compiler *c, const struct filter_node *n,
                                      enum filter_op op, struct term **out)
{
    struct filter_node plain = *n, exists = *n;
    struct term *is_there, *missing;
    plain.op = op;
    enum err_code rc = leaf_term(c, &plain, out);
    if (rc || !has_null(n)) return rc;
    exists.op = FILTER_EXISTS;
    exists.value_count = 0;
    rc = leaf_term(c, &exists, &is_there);
    if (!rc) rc = wrap(c, FILTER_NOT, is_there, &missing);
    if (rc) return rc;
    missing->next = *out;
    return wrap(c, FILTER_OR, missing, out);
}

static enum err_code compile_node(struct compiler *c, const struct filter_node *n,
                                  struct term **out)
{
    enum err_code rc = ERR_OK;
    struct term *part;
    switch (n->op) {
    case FILTER_AND:
    case FILTER_OR:
    case FILTER_NOT: {
        struct term *first = NULL, *last = NULL;
        for (const struct filter_node *child = n->first; child && !rc; child = child->next) {
            rc = compile_node(c, child, &part);
            if (rc) return rc;
            if (last)
                last->next = part;
            else
                first = part;
            last = part;
        }
        return wrap(c, n->op, first, out);
    }
    case FILTER_EQ:
    case FILTER_IN:
        return compile_equality(c, n, n->op, out);
    case FILTER_NE:
    case FILTER_NIN:
        rc = compile_equality(c, n, n->op == FILTER_NE ? FILTER_EQ : FILTER_IN, &part);
        return rc ? rc : wrap(c, FILTER_NOT, part, out);
    default:
        return leaf_term(c, n, out);
    }
}

/* Each field knows its leaves. */
static enum err_code list_leaves(struct compiler *c)
{
    for (uint32_t i = 0; i < c->leaf_count; i++)
        c->fields[c->leaves[i].field].leaf_count++;
    for (uint32_t i = 0; i < c->field_count; i++) {
        struct field *f = &c->fields[i];
        f->leaves = arena_alloc(c->arena, f->leaf_count * sizeof *f->leaves + 1);
        if (!f->leaves) return no_memory(c);
        f->leaf_count = 0;
    }
    for (uint32_t i = 0; i < c->leaf_count; i++) {
        struct field *f = &c->fields[c->leaves[i].field];
        f->leaves[f->leaf_count++] = i;
    }
    return ERR_OK;
}

enum err_code filter_compile(const struct filter_node *tree, const char *options,
                             struct arena *arena, const struct filter **out, struct err *err)
{
    struct compiler c = {.arena = arena, .err = err};
    struct filter *f = arena_alloc(arena, sizeof *f);
    struct term *root = NULL;
    if (!f) return no_memory(&c);
    *f = (struct filter){0};
    enum err_code rc = collect_fields(&c, tree, 0);
    if (!rc) rc = list_paths(&c, f);
    if (!rc) rc = read_index_types(&c, f, options);
    if (!rc) rc = compile_node(&c, tree, &root);
    if (!rc) rc = list_leaves(&c);
    if (rc) return rc;
    f->tree = root;
    f->leaves = c.leaves;
    f->leaf_count = c.leaf_count;
    f->fields = c.fields;
    f->field_count = c.field_count;
    for (uint32_t i = 0; i < c.leaf_count; i++) {
        size_t bytes = c.leaves[i].regex ? regex_workspace_bytes(c.leaves[i].regex) : 0;
        if (bytes > f->regex_bytes) f->regex_bytes = bytes;
    }
    rc = filter_set_key(f, arena, err);
    if (rc) return rc;
    *out = f;
    return ERR_OK;
}

/* ---- one value ---- */

static bool is_text(const struct value *v)
{
    return v->kind == VALUE_STRING || v->kind == VALUE_TIME;
}

static bool is_one_of(const struct leaf *leaf, const struct value *v)
{
    size_t low = 0, high = leaf->value_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = value_compare(v, &leaf->values[middle]);
        if (order == 0) return true;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

static bool contains(const struct value *operand, const struct value *v)
{
    if (v->in_array) return value_compare(operand, v) == 0;
    return is_text(v) && is_text(operand) &&
           (operand->bytes == 0 || memmem(v->text, v->bytes, operand->text, operand->bytes));
}

bool words_are_in(const struct word *words, uint32_t count, const char *text, size_t bytes)
{
    struct words rest = {text, text + bytes};
    struct word next;
    uint64_t missing = count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1;
    static_assert(FILTER_WORDS_MAX == 64, "a bit for each");
    while (missing && words_next(&rest, next.text, &next.bytes)) {
        for (uint32_t i = 0; i < count; i++)
            if (words[i].bytes == next.bytes && memcmp(words[i].text, next.text, next.bytes) == 0)
                missing &= ~(UINT64_C(1) << i);
    }
    return missing == 0;
}

static bool note_coordinate(void *ctx, unsigned path, const struct value *v)
{
    double *coordinates = ctx;
    if (v->kind == VALUE_NUMBER && !v->in_array) coordinates[path] = v->number.real;
    return true;
}

bool value_to_point(const struct value *v, struct geo_point *p)
{
    static const struct metadata_path paths[] = {{"lat", 3}, {"lon", 3}};
    double coordinates[2] = {1000, 1000};
    struct metadata_active active[2];
    struct metadata_walk walk = {.paths = paths,
                                 .path_count = 2,
                                 .fn = note_coordinate,
                                 .ctx = coordinates,
                                 .active = active,
                                 .active_max = 2,
                                 .dotless = 2};
    if (v->kind != VALUE_OBJECT) return false;
    metadata_walk(&walk, v->text, v->bytes);
    mem_free(walk.unescaped);
    *p = (struct geo_point){coordinates[0], coordinates[1]};
    return geo_point_is_valid(p);
}

bool leaf_holds(const struct leaf *leaf, const struct value *v, void *workspace)
{
    struct geo_point p;
    if (leaf->op == FILTER_EXISTS) return true;
    if (leaf->op == FILTER_GEO_RADIUS)
        return value_to_point(v, &p) && geo_circle_has(&leaf->circle, &p);
    if (leaf->op == FILTER_GEO_BOX) return value_to_point(v, &p) && geo_box_has(&leaf->box, &p);
    if (v->kind > VALUE_STRING) return false;

    const struct value *operand = leaf->values;
    switch (leaf->op) {
    case FILTER_EQ:
        return value_compare(v, operand) == 0;
    case FILTER_GT:
        return v->kind == operand->kind && value_compare(v, operand) > 0;
    case FILTER_GTE:
        return v->kind == operand->kind && value_compare(v, operand) >= 0;
    case FILTER_LT:
        return v->kind == operand->kind && value_compare(v, operand) < 0;
    case FILTER_LTE:
        return v->kind == operand->kind && value_compare(v, operand) <= 0;
    case FILTER_IN:
        return is_one_of(leaf, v);
    case FILTER_CONTAINS:
        return contains(operand, v);
    case FILTER_PREFIX:
        return is_text(v) && v->bytes >= operand->bytes &&
               memcmp(v->text, operand->text, operand->bytes) == 0;
    case FILTER_REGEX:
        return is_text(v) && regex_matches(leaf->regex, v->text, v->bytes, workspace);
    case FILTER_TEXT:
        return is_text(v) && words_are_in(leaf->words, leaf->word_count, v->text, v->bytes);
    default:
        return false;
    }
}

/* ---- one row ---- */

/* Try the leaves of a field that do not hold yet. */
static void try_field(struct matcher *m, uint32_t field, const struct value *v)
{
    const struct filter *f = m->filter;
    const struct field *of = &f->fields[field];
    struct value as_time = *v;
    if (of->is_datetime) value_take_for_time(&as_time);
    for (uint32_t i = 0; i < of->leaf_count; i++) {
        uint32_t leaf = of->leaves[i];
        uint64_t bit = UINT64_C(1) << (leaf % 64);
        if (m->holds[leaf / 64] & bit) continue;
        if (leaf_holds(&f->leaves[leaf], &as_time, m->workspace)) m->holds[leaf / 64] |= bit;
    }
}

static bool try_value(void *ctx, unsigned path, const struct value *v)
{
    struct matcher *m = ctx;
    try_field(m, m->filter->path_fields[path], v);
    return true;
}

static void try_id(struct matcher *m, const struct vector_id *id)
{
    struct value v = {.kind = VALUE_STRING, .text = id->text, .bytes = id->text_bytes};
    if (!id->text) {
        v.kind = VALUE_NUMBER;
        v.number = number_from_u64(id->number);
    }
    try_field(m, m->filter->id_field, &v);
}

/* Recursion is as deep as filter_compile() lets it be. */
static bool term_holds(const struct term *t, const uint64_t *holds)
{
    switch (t->op) {
    case FILTER_AND:
        for (const struct term *part = t->first; part; part = part->next)
            if (!term_holds(part, holds)) return false;
        return true;
    case FILTER_OR:
    case FILTER_NOT:
        for (const struct term *part = t->first; part; part = part->next)
            if (term_holds(part, holds)) return t->op == FILTER_OR;
        return t->op == FILTER_NOT;
    default:
        return holds[t->leaf / 64] >> (t->leaf % 64) & 1;
    }
}

enum err_code matcher_init(struct matcher *m, const struct filter *filter, struct err *err)
{
    *m = (struct matcher){.filter = filter};
    m->holds = mem_try((filter->leaf_count / 64 + 1) * sizeof *m->holds);
    m->workspace = filter->regex_bytes ? mem_try(filter->regex_bytes) : NULL;
    bool good = metadata_walk_init(&m->walk, filter->paths, filter->path_count, try_value, m);
    if (good && m->holds && (m->workspace || !filter->regex_bytes)) return ERR_OK;
    matcher_deinit(m);
    return err_set(err, ERR_NOMEM, "out of memory for a filter");
}

void matcher_deinit(struct matcher *m)
{
    metadata_walk_deinit(&m->walk);
    mem_free(m->holds);
    mem_free(m->workspace);
    m->holds = m->workspace = NULL;
}

enum err_code matcher_try(struct matcher *m, const struct vector_id *id, const char *metadata,
                          size_t metadata_bytes, bool *matches, struct err *err)
{
    const struct filter *f = m->filter;
    memset(m->holds, 0, (f->leaf_count / 64 + 1) * sizeof *m->holds);
    metadata_walk(&m->walk, metadata, metadata_bytes);
    if (m->walk.out_of_memory) return err_set(err, ERR_NOMEM, "out of memory for a filter");
    if (f->id_field != UINT32_MAX) try_id(m, id);
    *matches = term_holds(f->tree, m->holds);
    return ERR_OK;
}

enum err_code filter_matches(const struct filter *filter, const struct vector_id *id,
                             const char *metadata, size_t metadata_bytes, bool *matches,
                             struct err *err)
{
    struct matcher m;
    enum err_code rc = matcher_init(&m, filter, err);
    if (rc) return rc;
    rc = matcher_try(&m, id, metadata, metadata_bytes, matches, err);
    matcher_deinit(&m);
    return rc;
}
