/* Chunks of columns: what they say of a row is what its metadata says, or that they do not know. */
#include "tests/storage/fixture.h"

#include <inttypes.h>

#include "api/json_filter.h"
#include "storage/base/buf.h"
#include "storage/filter/column.h"

enum { TEXT_MAX = 160, FLAVOURS = 12, CONDITIONS = 24 };

/* Rows of one kind, so that every form of a chunk comes up. */
static int put_scalar(char *text, size_t cap, int flavour, uint64_t *seed)
{
    uint64_t dice = test_random(seed);
    switch (flavour) {
    case 0: /* few different */
        return snprintf(text, cap, "\"k%u\"", (unsigned)(dice % 7));
    case 1: /* all different */
        return snprintf(text, cap, "\"%s%" PRIx64 "\"", dice % 3 ? "lib" : "", dice >> 30);
    case 2:
        return snprintf(text, cap, "%d", (int)(dice % 100) - 50);
    case 3: /* doubles with all small integers among them */
        return snprintf(text, cap, dice % 2 ? "%.3f" : "%.0f", (double)(int)(dice >> 40) / 1000);
    case 4: /* integers that are no doubles */
        return snprintf(text, cap, "%s%" PRIu64, dice % 2 ? "-" : "",
                        (UINT64_C(1) << 53) + (dice >> 32) % 500);
    case 5: /* around the ends of int64 */
        return snprintf(text, cap, "%s%" PRIu64, dice % 2 ? "-" : "",
                        (UINT64_C(1) << 63) - 300 + (dice >> 32) % 310);
    case 6: /* of all sizes */
        return snprintf(text, cap, "%s%" PRIu64 "%s", dice % 2 ? "-" : "", dice >> 8 >> dice % 50,
                        dice >> 8 & 1   ? ""
                        : dice >> 9 & 1 ? ".5"
                                        : "e9");
    case 7:
        return snprintf(text, cap, "\"2026-%02u-%02uT%02u:%02u:%02u.%uZ\"",
                        1 + (unsigned)(dice % 12), 1 + (unsigned)(dice >> 8) % 28,
                        (unsigned)(dice >> 16) % 24, (unsigned)(dice >> 24) % 60,
                        (unsigned)(dice >> 32) % 60, (unsigned)(dice >> 40) % 100);
    case 8: /* times beyond 64 bits of nanoseconds among others */
        return snprintf(text, cap, "\"%04u-01-01T00:00:%02uZ\"", (unsigned)(dice % 9999) + 1,
                        (unsigned)(dice >> 32) % 60);
    case 9: {
        static const char *const words[] = {"the", "quick", "brown", "fox", "Dog", "a", "lazy"};
        return snprintf(text, cap, "\"%s %s, %s\"", words[dice % 7], words[(dice >> 8) % 7],
                        words[(dice >> 16) % 7]);
    }
    case 10:
        return snprintf(text, cap, "{\"lat\":%d,\"lon\":%d}", (int)(dice % 200) - 100,
                        (int)((dice >> 8) % 380) - 190);
    default: /* anything */
        return put_scalar(text, cap, (int)((dice >> 50) % 11), seed);
    }
}

static void put_row(char text[TEXT_MAX], int flavour, uint64_t *seed)
{
    uint64_t dice = test_random(seed);
    size_t len = 0;
    if (dice % 11 == 0) { /* without the field */
        strcpy(text, dice >> 8 & 1 ? "{}" : "{\"g\":1}");
        return;
    }
    static const char *const words[] = {"null", "true", "false", "[]", "{}", "[[1]]"};
    len += (size_t)snprintf(text, TEXT_MAX, "{\"f\":");
    int elements = dice % 13 == 1 ? (int)(dice >> 8) % 4 : 1;
    if (dice % 29 == 2) {
        len += (size_t)snprintf(text + len, TEXT_MAX - len, "%s", words[(dice >> 8) % 6]);
    } else if (dice % 13 == 1) {
        len += (size_t)snprintf(text + len, TEXT_MAX - len, "[");
        for (int i = 0; i < elements; i++) {
            len += (size_t)snprintf(text + len, TEXT_MAX - len, "%s", i ? "," : "");
            len += (size_t)put_scalar(text + len, TEXT_MAX - len, flavour, seed);
        }
        len += (size_t)snprintf(text + len, TEXT_MAX - len, "]");
    } else {
        len += (size_t)put_scalar(text + len, TEXT_MAX - len, flavour, seed);
    }
    snprintf(text + len, TEXT_MAX - len, "}");
}

static const struct filter *random_condition(struct arena *arena, const char *options, int flavour,
                                             char text[512], uint64_t *seed)
{
    static const char *const ops[] = {"$eq",    "$gt",   "$gte",     "$lt",        "$lte",
                                      "$in",    "$in",   "$exists",  "$contains",  "$prefix",
                                      "$regex", "$text", "$geo_box", "$geo_radius"};
    for (;;) {
        const char *op = ops[test_random(seed) % 14];
        size_t len = (size_t)snprintf(text, 512, "{\"f\":{\"%s\":", op);
        if (strcmp(op, "$exists") == 0) {
            len += (size_t)snprintf(text + len, 512 - len, "true");
        } else if (strcmp(op, "$prefix") == 0) {
            len += (size_t)snprintf(text + len, 512 - len, "\"%s\"",
                                    test_random(seed) % 2 ? "li" : "2026-0");
        } else if (strcmp(op, "$regex") == 0) {
            len += (size_t)snprintf(text + len, 512 - len, "\"[a-c]$|^k\"");
        } else if (strcmp(op, "$text") == 0) {
            len += (size_t)snprintf(text + len, 512 - len, "\"%s\"",
                                    test_random(seed) % 2 ? "FOX the" : "dog");
        } else if (strcmp(op, "$geo_box") == 0) {
            len +=
                (size_t)snprintf(text + len, 512 - len,
                                 "{\"top_left\":{\"lat\":50,\"lon\":%d},\"bottom_right\":{\"lat\":"
                                 "-20,\"lon\":40}}",
                                 test_random(seed) % 2 ? -30 : 100);
        } else if (strcmp(op, "$geo_radius") == 0) {
            len += (size_t)snprintf(text + len, 512 - len,
                                    "{\"lat\":10,\"lon\":175,\"meters\":4000000}");
        } else {
            int count = strcmp(op, "$in") == 0 ? (int)(test_random(seed) % 8) : 1;
            bool is_set = strcmp(op, "$in") == 0;
            len += (size_t)snprintf(text + len, 512 - len, is_set ? "[" : "");
            for (int i = 0; i < count; i++) {
                len += (size_t)snprintf(text + len, 512 - len, "%s", i ? "," : "");
                len += (size_t)put_scalar(text + len, 512 - len, flavour, seed);
            }
            len += (size_t)snprintf(text + len, 512 - len, is_set ? "]" : "");
        }
        snprintf(text + len, 512 - len, "}}");
        struct json_scan s;
        struct err err;
        const struct filter *filter;
        json_scan_init(&s, text, strlen(text), arena);
        if (json_filter(&s, options, &filter, &err) == ERR_OK) return filter;
        assert_int_equal(err.code, ERR_INVALID_FILTER); /* an order of objects, say */
    }
}

static bool bit(const uint64_t *words, uint32_t i)
{
    return words[i / 64] >> i % 64 & 1;
}

/* Every condition says of every row what its metadata says; of how many it did not know. */
static uint64_t check_chunk(const struct column_chunk *c, enum column_kind kind, const char *rows,
                            const char *options, int flavour, uint64_t *seed)
{
    uint64_t unknown = 0;
    for (int i = 0; i < CONDITIONS; i++) {
        struct arena arena = {0};
        struct matcher m;
        struct err err;
        char text[512];
        uint64_t must[CHUNK_WORDS], may[CHUNK_WORDS];
        const struct filter *f = random_condition(&arena, options, flavour, text, seed);
        CHECK_OK(matcher_init(&m, f, &err));
        /* $eq null has two leaves; the one on the values is the first. */
        if (column_kind_of(f, &f->leaves[0]) == kind && f->leaf_count == 1) {
            column_chunk_select(c, &f->leaves[0], m.workspace, must, may);
            for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++) {
                const char *row = rows + (size_t)slot * TEXT_MAX;
                bool want;
                CHECK_OK(matcher_try(&m, &(struct vector_id){.number = 1}, row, strlen(row), &want,
                                     &err));
                if (bit(must, slot) && !want) fail_msg("%s does not hold for %s", text, row);
                if (!bit(may, slot) && want) fail_msg("%s holds for %s", text, row);
                if (!bit(column_chunk_known(c), slot))
                    assert_true(!bit(must, slot) && bit(may, slot));
                unknown += bit(must, slot) != bit(may, slot);
            }
        }
        matcher_deinit(&m);
        arena_free(&arena);
    }
    return unknown;
}

static struct column_chunk *build(enum column_kind kind, const struct column_chunk *old,
                                  const uint64_t *changed, const char *rows)
{
    uint64_t keep[CHUNK_WORDS];
    for (int w = 0; w < CHUNK_WORDS; w++)
        keep[w] = old ? column_chunk_known(old)[w] & ~changed[w] : 0;
    struct column_builder *b = column_builder_new(kind, "f", 1, old, keep);
    assert_non_null(b);
    for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++) {
        const char *row = rows + (size_t)slot * TEXT_MAX;
        if (!bit(keep, slot)) column_builder_add(b, slot, row, strlen(row));
    }
    struct column_chunk *c = column_builder_finish(b, 7);
    assert_non_null(c);
    assert_int_equal(column_chunk_lsn(c), 7);
    return c;
}

static void run(enum column_kind kind, int flavour, uint64_t seed)
{
    const char *options =
        kind == COLUMN_TIMES ? "{\"metadata_indexes\":{\"f\":\"datetime\"}}" : NULL;
    char *rows = malloc((size_t)CHUNK_SLOTS * TEXT_MAX);
    uint64_t changed[CHUNK_WORDS] = {0};
    for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++)
        put_row(rows + (size_t)slot * TEXT_MAX, flavour, &seed);
    struct column_chunk *c = build(kind, NULL, changed, rows);
    uint64_t unknown = check_chunk(c, kind, rows, options, flavour, &seed);
    /* Few rows are too strange to be known. */
    assert_true(unknown < CONDITIONS * CHUNK_SLOTS / 8);
    assert_true(column_chunk_bytes(c) < (size_t)CHUNK_SLOTS * 100);

    for (int round = 0; round < 3; round++) {
        for (int w = 0; w < CHUNK_WORDS; w++)
            changed[w] = test_random(&seed) & test_random(&seed) & test_random(&seed);
        for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++)
            if (bit(changed, slot)) put_row(rows + (size_t)slot * TEXT_MAX, flavour, &seed);
        struct column_chunk *next = build(kind, c, changed, rows);
        column_chunk_free(c);
        c = next;
        check_chunk(c, kind, rows, options, flavour, &seed);
    }
    column_chunk_free(c);
    free(rows);
}

static void scalars_agree_with_metadata(void **state)
{
    (void)state;
    for (int flavour = 0; flavour < FLAVOURS; flavour++)
        run(COLUMN_SCALARS, flavour, 100 + (uint64_t)flavour);
}

static void times_agree_with_metadata(void **state)
{
    (void)state;
    run(COLUMN_TIMES, 7, 1);
    run(COLUMN_TIMES, 8, 2);
    run(COLUMN_TIMES, 11, 3);
}

static void points_agree_with_metadata(void **state)
{
    (void)state;
    run(COLUMN_POINTS, 10, 4);
}

static void words_agree_with_metadata(void **state)
{
    (void)state;
    run(COLUMN_WORDS, 9, 5);
    run(COLUMN_WORDS, 11, 6);
}

/* A chunk is filled little by little, from nothing, and ends in the form that many rows want. */
static void chunks_grow(void **state)
{
    (void)state;
    char *rows = malloc((size_t)CHUNK_SLOTS * TEXT_MAX);
    uint64_t seed = 9;
    struct column_chunk *c = NULL, *whole;
    uint64_t keep[CHUNK_WORDS] = {0}, nothing[CHUNK_WORDS] = {0};
    for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++)
        put_row(rows + (size_t)slot * TEXT_MAX, 3, &seed);
    for (uint32_t slot = 0; slot < CHUNK_SLOTS;) {
        struct column_builder *b = column_builder_new(COLUMN_SCALARS, "f", 1, c, keep);
        for (uint32_t end = slot + CHUNK_SLOTS / 64; slot < end; slot++) {
            const char *row = rows + (size_t)slot * TEXT_MAX;
            column_builder_add(b, slot, row, strlen(row));
        }
        struct column_chunk *next = column_builder_finish(b, slot);
        assert_non_null(next);
        column_chunk_free(c);
        c = next;
        memcpy(keep, column_chunk_known(c), sizeof keep);
    }
    whole = build(COLUMN_SCALARS, NULL, nothing, rows);
    assert_memory_equal(column_chunk_known(c), column_chunk_known(whole), sizeof keep);
    assert_int_equal(column_chunk_bytes(c), column_chunk_bytes(whole));
    check_chunk(c, COLUMN_SCALARS, rows, NULL, 3, &seed);
    column_chunk_free(whole);
    column_chunk_free(c);
    free(rows);
}

/* What clients make as large as they like is left out, not kept. */
static void strange_rows_are_not_known_and_memory_is_bounded(void **state)
{
    (void)state;
    struct column_builder *b = column_builder_new(COLUMN_SCALARS, "f", 1, NULL, NULL);
    struct buf text = {0};
    buf_str(&text, "{\"f\":\"");
    for (int i = 0; i < 600; i++)
        buf_str(&text, "x");
    buf_str(&text, "\"}");
    column_builder_add(b, 0, text.data, text.len);
    text.len = 0;
    buf_str(&text, "{\"f\":[0");
    for (int i = 1; i < 300; i++)
        buf_printf(&text, ",%d", i);
    buf_str(&text, "]}");
    column_builder_add(b, 1, text.data, text.len);
    column_builder_add(b, 2, "{\"f\":[{\"f\":1}]}", 15);
    column_builder_add(b, 3, "{\"f\":1}", 7);
    struct column_chunk *c = column_builder_finish(b, 1);
    assert_int_equal(column_chunk_known(c)[0], 1 << 2 | 1 << 3);
    column_chunk_free(c);

    /* Is "axb" an element, or a text with an x in it?  The list does not say. */
    b = column_builder_new(COLUMN_SCALARS, "a.b", 3, NULL, NULL);
    const char mixed[] = "{\"a\":[{\"b\":[\"x\"]},{\"b\":\"axb\"}]}";
    column_builder_add(b, 0, mixed, sizeof mixed - 1);
    column_builder_add(b, 1, "{\"a\":[{\"b\":\"x\"}]}", 19);
    c = column_builder_finish(b, 1);
    assert_int_equal(column_chunk_known(c)[0], 2);
    column_chunk_free(c);

    b = column_builder_new(COLUMN_WORDS, "f", 1, NULL, NULL);
    uint64_t seed = 1;
    for (uint32_t slot = 0; slot < CHUNK_SLOTS; slot++) {
        text.len = 0;
        buf_str(&text, "{\"f\":\"");
        for (int i = 0; i < 200; i++)
            buf_printf(&text, "w%" PRIx64 " ", test_random(&seed) >> 24);
        buf_str(&text, "\"}");
        column_builder_add(b, slot, text.data, text.len);
    }
    c = column_builder_finish(b, 1);
    assert_non_null(c);
    assert_true(column_chunk_bytes(c) < (size_t)CHUNK_SLOTS * 600);
    assert_false(bit(column_chunk_known(c), CHUNK_SLOTS - 1));
    column_chunk_free(c);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_agree_with_metadata),
        cmocka_unit_test(times_agree_with_metadata),
        cmocka_unit_test(points_agree_with_metadata),
        cmocka_unit_test(words_agree_with_metadata),
        cmocka_unit_test(chunks_grow),
        cmocka_unit_test(strange_rows_are_not_known_and_memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
