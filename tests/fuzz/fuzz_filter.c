/*
 * fuzz_filter.c - filters: two filters with one key have one verdict on every row, logic holds
 * (not, and, or of a filter), and what a database selects are the rows that match one by one.
 *
 * An input is a filter, a zero byte, another filter, a zero byte, and metadata.
 */
#include "tests/fuzz/fuzz.h"

#include "api/json_filter.h"
#include "storage/base/buf.h"
#include "storage/filter/filter_private.h"

static const char options[] =
    "{\"metadata_indexes\":{\"at\":\"datetime\",\"title\":\"text\",\"n\":\"float\","
    "\"k\":\"keyword\",\"where\":\"geo\",\"a.at\":\"datetime\"}}";

static const char *const rows[] = {
    "{}",
    "{\"a\":1,\"n\":1,\"k\":\"x\"}",
    "{\"a\":\"x\",\"n\":-2.5,\"k\":\"\"}",
    "{\"a\":[1,2,\"x\",null],\"n\":[1,1e30],\"k\":[\"x\",\"y\"]}",
    "{\"a\":{\"b\":[{\"c\":1},{\"c\":\"x\"}]},\"a.b\":3}",
    "{\"at\":\"2026-11-20T09:30:00.25+01:00\",\"a\":{\"at\":\"2026-11-20T08:30:00.25Z\"}}",
    "{\"at\":\"no time\",\"title\":\"The quick brown fox\"}",
    "{\"title\":[\"lazy dog\",\"Quick fox\"],\"n\":18446744073709551615}",
    "{\"where\":{\"lat\":52.5,\"lon\":13.4},\"n\":9007199254740993}",
    "{\"where\":{\"lat\":-90,\"lon\":180},\"a\":null,\"k\":null}",
    "{\"a\":true,\"n\":false,\"k\":\"\\u0000\\u00e9\"}",
    "{\"a\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\",\"k\":\"K\"}",
};
enum { ROW_COUNT = sizeof rows / sizeof *rows };

/* A database with these rows, ids 0, 1, ... and the last one a string. */
static struct database *stored(void)
{
    static struct service *service;
    static struct database *db;
    struct schema schema = {
        .dimension = 1, .initial_capacity = 100, .options = (char *)(uintptr_t)options};
    struct err err;
    bool created;
    uint64_t lsn;
    float zero = 0;
    if (db) return db;
    service = fuzz_service_in_memory();
    CLAIM(!service_create(service, "d", &schema, false, &created, &err));
    CLAIM(!service_acquire(service, "d", true, &db, &err));
    for (uint64_t i = 0; i < ROW_COUNT; i++) {
        struct row_input row = {.id = {.number = i},
                                .vector = &zero,
                                .metadata = rows[i],
                                .metadata_bytes = (uint32_t)strlen(rows[i])};
        if (i == ROW_COUNT - 1) row.id = (struct vector_id){.text = "id x", .text_bytes = 4};
        CLAIM(!database_put(db, &row, 1, 1, true, &lsn, &err));
    }
    return db;
}

static const struct filter *compile(const char *text, size_t len, struct arena *arena)
{
    struct json_scan s;
    struct err err;
    const struct filter *filter = NULL;
    json_scan_init(&s, text, len, arena);
    enum err_code rc = json_filter(&s, options, &filter, &err);
    if (!rc) rc = json_scan_end(&s, &err);
    CLAIM(!rc || rc == ERR_INVALID_JSON || rc == ERR_INVALID_FILTER || rc == ERR_NOMEM);
    return rc ? NULL : filter;
}

static bool holds(const struct filter *filter, const struct vector_id *id, const char *metadata,
                  size_t bytes)
{
    struct err err;
    bool yes = false;
    CLAIM(!filter_matches(filter, id, metadata, bytes, &yes, &err));
    return yes;
}

struct case_of {
    const struct filter *filter;
    const uint64_t *bits;
    size_t row;
};

static bool check_row(void *ctx, const struct row *row)
{
    struct case_of *c = ctx;
    size_t slot = row->id.text ? ROW_COUNT - 1 : (size_t)row->id.number;
    bool selected = c->bits[slot / 64] >> slot % 64 & 1;
    CLAIM(selected == holds(c->filter, &row->id, row->metadata, row->metadata_bytes));
    c->row++;
    return true;
}

static void database_agrees(const struct filter *filter)
{
    uint64_t bits[16], count = 0;
    struct reader r;
    struct err err;
    bool more;
    struct case_of c = {.filter = filter, .bits = bits};
    reader_begin(stored(), &r);
    CLAIM(filter_words(&r) <= 16);
    CLAIM(!filter_select(&r, filter, true, bits, &count, &err));
    CLAIM(!reader_list(&r, NULL, NULL, 0, 100, check_row, &c, &more, &err));
    CLAIM(c.row == ROW_COUNT && count <= ROW_COUNT);
    reader_end(&r);
}

/* The verdict of a filter that is `before` and the given one and `after`; -1: too deep or such. */
static int verdict_in(const char *before, const char *filter, const char *after,
                      const struct vector_id *id, const char *metadata, size_t bytes)
{
    struct arena arena = {0};
    struct buf text = {0};
    buf_str(&text, before);
    buf_str(&text, filter);
    buf_str(&text, after);
    size_t len = text.len;
    buf_add(&text, "", 1);
    const struct filter *whole = compile(text.data, len, &arena);
    int verdict = whole ? holds(whole, id, metadata, bytes) : -1;
    arena_free(&arena);
    buf_free(&text);
    return verdict;
}

static void logic_holds(const char *filter, bool yes, const struct vector_id *id,
                        const char *metadata, size_t bytes)
{
    int not_so = verdict_in("{\"$not\":", filter, "}", id, metadata, bytes);
    int and = verdict_in("{\"$and\":[{},", filter, "]}", id, metadata, bytes);
    int or = verdict_in("{\"$or\":[", filter, ",{\"$not\":{}}]}", id, metadata, bytes);
    CLAIM(not_so == -1 || not_so == !yes);
    CLAIM(and == -1 || and == yes);
    CLAIM(or == -1 || or == yes);
}

/* Is this JSON, as metadata that are stored would be? */
static bool is_stored_text(const char *metadata, size_t bytes)
{
    struct arena arena = {0};
    struct json_scan s;
    struct json_text raw;
    struct err err;
    json_scan_init(&s, metadata, bytes, &arena);
    bool good =
        bytes && metadata[0] == '{' && !json_scan_value(&s, &raw, &err) && !json_scan_end(&s, &err);
    arena_free(&arena);
    return good;
}

static void equal_keys_are_equal(const struct filter *a, const struct filter *b,
                                 const char *metadata, size_t bytes)
{
    struct vector_id id = {.number = 7};
    if (!a || !b || !a->key || !b->key || a->key_bytes != b->key_bytes ||
        memcmp(a->key, b->key, a->key_bytes) != 0)
        return;
    CLAIM(a->hash == b->hash);
    CLAIM(holds(a, &id, metadata, bytes) == holds(b, &id, metadata, bytes));
    for (size_t i = 0; i < ROW_COUNT; i++)
        CLAIM(holds(a, &id, rows[i], strlen(rows[i])) == holds(b, &id, rows[i], strlen(rows[i])));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct vector_id ids[] = {{.number = 7}, {.text = "x", .text_bytes = 1}};
    struct arena arena = {0};
    char *part[3];
    size_t len[3];
    for (int i = 0; i < 3; i++) {
        const uint8_t *zero = i < 2 && size ? memchr(data, 0, size) : NULL;
        len[i] = zero ? (size_t)(zero - data) : size;
        part[i] = fuzz_text(data, len[i]);
        size_t used = len[i] + (zero != NULL);
        data += used;
        size -= used;
    }
    const struct filter *a = compile(part[0], len[0], &arena);
    const struct filter *b = compile(part[1], len[1], &arena);
    if (a) {
        bool is_stored = is_stored_text(part[2], len[2]);
        for (size_t i = 0; i < 2; i++) {
            bool yes = holds(a, &ids[i], part[2], len[2]);
            if (is_stored) logic_holds(part[0], yes, &ids[i], part[2], len[2]);
        }
        database_agrees(a);
    }
    equal_keys_are_equal(a, b, part[2], len[2]);
    arena_free(&arena);
    for (int i = 0; i < 3; i++)
        free(part[i]);
    return 0;
}

/* Now and then the second filter is nearly the first: only such two have one key. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed)
{
    uint8_t *first_end = size ? memchr(data, 0, size) : NULL;
    if (seed % 4 || !first_end) return LLVMFuzzerMutate(data, size, size_max);
    size_t first = (size_t)(first_end - data);
    uint8_t *rest = memchr(first_end + 1, 0, size - first - 1);
    size_t tail = rest ? size - (size_t)(rest - data) : 0; /* with its zero byte */
    uint8_t *twin = malloc(size_max);
    if (!twin || first == 0 || 2 * first + 1 + tail > size_max) {
        free(twin);
        return LLVMFuzzerMutate(data, size, size_max);
    }
    memcpy(twin, data, first);
    size_t twin_len = LLVMFuzzerMutate(twin, first, size_max - first - 1 - tail);
    if (tail) memmove(data + first + 1 + twin_len, rest, tail);
    memcpy(data + first + 1, twin, twin_len);
    free(twin);
    return first + 1 + twin_len + tail;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    static const char *const filters[][2] = {
        {"{\"a\":1}", "{\"a\":{\"$eq\":1.0}}"},
        {"{\"a\":{\"$in\":[1,2,\"x\",null,true]}}", "{\"a\":{\"$in\":[2,1,1e0,\"x\",null,true]}}"},
        {"{\"a\":{\"$nin\":[1]},\"k\":{\"$ne\":\"x\"}}", "{\"k\":{\"$ne\":\"x\"}}"},
        {"{\"n\":{\"$gt\":1,\"$lte\":9007199254740993}}", "{\"n\":{\"$lte\":1e3,\"$gt\":1}}"},
        {"{\"$and\":[{\"a\":1},{\"$or\":[{\"k\":\"x\"},{\"$not\":{\"n\":2}}]}]}",
         "{\"$or\":[{\"k\":\"x\"}]}"},
        {"{\"at\":{\"$gte\":\"2026-11-20T08:30:00Z\"}}",
         "{\"at\":{\"$gte\":\"2026-11-20T09:30:00+01:00\"}}"},
        {"{\"title\":{\"$text\":\"quick fox\"}}", "{\"title\":{\"$text\":\"FOX quick fox\"}}"},
        {"{\"where\":{\"$geo_radius\":{\"lat\":52.5,\"lon\":13.4,\"meters\":1000}}}",
         "{\"where\":{\"$geo_box\":{\"top_left\":{\"lat\":53,\"lon\":13},\"bottom_right\":"
         "{\"lat\":52,\"lon\":14}}}}"},
        {"{\"a\":{\"$regex\":\"^(a|aa)+[^b]?\\\\d{2,3}$\"}}", "{\"a\":{\"$regex\":\"a*b\"}}"},
        {"{\"a\":{\"$contains\":\"x\"},\"k\":{\"$prefix\":\"x\"}}", "{\"a.b.c\":1}"},
        {"{\"a.b\":{\"$exists\":true},\"$id\":{\"$in\":[1,\"x\"]}}",
         "{\"a\":{\"$not\":{\"$gt\":5}}}"},
        {"null", "{}"},
    };
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        struct buf seed = {0};
        buf_add(&seed, filters[i][0], strlen(filters[i][0]) + 1);
        buf_add(&seed, filters[i][1], strlen(filters[i][1]) + 1);
        buf_str(&seed, rows[i % ROW_COUNT]);
        add(ctx, seed.data, seed.len);
        buf_free(&seed);
    }
}
