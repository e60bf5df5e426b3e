/*
 * fuzz_json.c - JSON bodies: the scanner and jansson have one opinion on every text, and numbers
 * are what strtof() makes of them.
 */
#include "tests/fuzz/fuzz.h"

#include <jansson.h>
#include <math.h>

#include "api/float_text.h"
#include "api/json_vectors.h"
#include "storage/base/utf8.h"

static unsigned depth_of(const json_t *value)
{
    unsigned deepest = 0;
    const char *key;
    json_t *part;
    size_t i;
    if (json_is_object(value)) json_object_foreach((json_t *)(uintptr_t)value, key, part)
        {
            unsigned d = depth_of(part);
            if (d > deepest) deepest = d;
        }
    if (json_is_array(value)) json_array_foreach(value, i, part)
        {
            unsigned d = depth_of(part);
            if (d > deepest) deepest = d;
        }
    return deepest + (json_is_object(value) || json_is_array(value));
}

enum verdict { REFUSED, TAKEN, NO_OPINION };

/* What jansson thinks; it has no number beyond a double and no zero byte in a key, and takes one
 * behind a value for the end of the text. */
static enum verdict jansson_verdict(const char *text, size_t len)
{
    json_error_t why;
    if (memchr(text, 0, len)) return REFUSED;
    json_t *value = json_loadb(
        text, len,
        JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
    if (!value) {
        enum json_error_code code = json_error_code(&why);
        return code == json_error_numeric_overflow || code == json_error_null_byte_in_key
                   ? NO_OPINION
                   : REFUSED;
    }
    enum verdict verdict = depth_of(value) > JSON_DEPTH_MAX ? REFUSED : TAKEN;
    json_decref(value);
    return verdict;
}

static void scan_as_jansson(const char *text, size_t len)
{
    struct arena arena = {0};
    struct json_scan s;
    struct json_text raw;
    struct err err;
    json_scan_init(&s, text, len, &arena);
    enum err_code rc = json_scan_value(&s, &raw, &err);
    if (!rc) {
        CLAIM(raw.data >= text && raw.data + raw.len <= text + len);
        rc = json_scan_end(&s, &err);
    }
    enum verdict verdict = jansson_verdict(text, len);
    CLAIM(verdict == NO_OPINION || (verdict == TAKEN) == (rc == ERR_OK));
    CLAIM(!rc || rc == ERR_INVALID_JSON || rc == ERR_NOMEM);
    arena_free(&arena);
}

/* Whole numbers of the array one by one, by strtof(): false if there is something else. */
static bool floats_by_strtof(const char *text, size_t len, float *out, size_t cap, size_t *count)
{
    struct arena arena = {0};
    struct json_scan s;
    struct json_text raw;
    struct err err;
    bool more, good = true;
    *count = 0;
    json_scan_init(&s, text, len, &arena);
    enum err_code rc = json_scan_array(&s, &err);
    while (!rc && !(rc = json_scan_element(&s, &more, &err)) && more) {
        rc = json_scan_value(&s, &raw, &err);
        if (rc) break;
        char *number = fuzz_text((const uint8_t *)raw.data, raw.len), *end;
        float value = strtof(number, &end);
        good &= (raw.data[0] == '-' || (raw.data[0] >= '0' && raw.data[0] <= '9')) && !*end &&
                isfinite(value);
        if (*count < cap) out[*count] = value;
        ++*count;
        free(number);
    }
    arena_free(&arena);
    return !rc && good;
}

static void floats_are_exact(const char *text, size_t len)
{
    enum { CAP = 64 };
    float ours[CAP], theirs[CAP];
    struct arena arena = {0};
    struct json_scan s;
    struct err err;
    size_t our_count = 0, their_count;
    json_scan_init(&s, text, len, &arena);
    enum err_code rc = json_scan_floats(&s, ours, CAP, &our_count, &err);
    CLAIM(floats_by_strtof(text, len, theirs, CAP, &their_count) == (rc == ERR_OK));
    if (!rc) {
        CLAIM(our_count == their_count);
        size_t known = our_count < CAP ? our_count : CAP;
        CLAIM(memcmp(ours, theirs, known * sizeof *ours) == 0);
    }
    arena_free(&arena);
}

/* Any bits, as text and back. */
static void text_keeps_bits(const uint8_t *data, size_t size)
{
    for (; size >= sizeof(float); data += sizeof(float), size -= sizeof(float)) {
        float value, back;
        char text[FLOAT_TEXT_BYTES_MAX + 1];
        const char *end;
        memcpy(&value, data, sizeof value);
        if (!isfinite(value)) continue;
        size_t len = float_text_write(value, text);
        CLAIM(len <= FLOAT_TEXT_BYTES_MAX);
        text[len] = 0;
        CLAIM(float_text_parse(text, &end, &back) == FLOAT_PARSED && end == text + len);
        CLAIM(memcmp(&value, &back, sizeof value) == 0);
        CLAIM(number_text_skip(text) == text + len);
    }
    for (; size >= sizeof(double); data += sizeof(double), size -= sizeof(double)) {
        double value, back;
        char text[DOUBLE_TEXT_BYTES_MAX + 1];
        memcpy(&value, data, sizeof value);
        if (!isfinite(value)) continue;
        text[double_text_write(value, text)] = 0;
        back = strtod(text, NULL);
        CLAIM(memcmp(&value, &back, sizeof value) == 0);
    }
}

static void id_is_sane(const struct vector_id *id)
{
    uint32_t character;
    CLAIM(id->text ? id->text_bytes >= 1 && id->text_bytes <= ID_BYTES_MAX
                   : id->number <= INT64_MAX);
    for (size_t at = 0; id->text && at < id->text_bytes;) {
        size_t n = utf8_decode(id->text + at, id->text_bytes - at, &character);
        CLAIM(n && !utf8_is_control(character));
        at += n;
    }
}

static void row_is_sane(const struct row_input *row, const struct vector_rules *rules)
{
    if (!row->assign_id && !rules->path_id) id_is_sane(&row->id);
    for (size_t i = 0; i < rules->dimension; i++)
        CLAIM(isfinite(row->vector[i]));
    if (!row->metadata) return;
    CLAIM(row->metadata_bytes <= METADATA_BYTES_MAX && row->metadata[0] == '{');
    CLAIM(jansson_verdict(row->metadata, row->metadata_bytes) != REFUSED);
}

static void vectors_are_sane(const char *text, size_t len, bool is_dump)
{
    static const struct vector_id path_id = {.number = 7};
    struct vector_rules rules = {.database = "d",
                                 .dimension = 3,
                                 .options = "{\"metadata_indexes\":{\"t\":\"text\"}}",
                                 .is_dump = is_dump};
    struct arena arena = {.bytes_max = 1 << 26};
    struct json_scan s;
    struct row_input row = {0}, *rows = NULL;
    struct vector_id *ids, id;
    struct search_request search = {0};
    unsigned include;
    size_t count = 0;
    struct err err;

    json_scan_init(&s, text, len, &arena);
    if (!json_vector_row(&s, &rules, &row, &err)) {
        CLAIM(jansson_verdict(text, (size_t)(s.at - text)) != REFUSED);
        row_is_sane(&row, &rules);
        CLAIM(json_vector_keep(&arena, &row));
        row_is_sane(&row, &rules);
    }
    json_scan_init(&s, text, len, &arena);
    if (!json_vector_batch(&s, &rules, &rows, &count, &err))
        for (size_t i = 0; i < count; i++)
            row_is_sane(&rows[i], &rules);
    json_scan_init(&s, text, len, &arena);
    if (!json_vector_id(&s, &id, &err)) id_is_sane(&id);
    json_scan_init(&s, text, len, &arena);
    if (!json_vector_ids(&s, 100, &ids, &count, &err)) {
        CLAIM(count <= 100);
        for (size_t i = 0; i < count; i++)
            id_is_sane(&ids[i]);
    }
    json_scan_init(&s, text, len, &arena);
    if (!json_vector_include(&s, &include, &err))
        CLAIM((include & ~(unsigned)(INCLUDE_DATA | INCLUDE_METADATA)) == 0);
    json_scan_init(&s, text, len, &arena);
    if (!json_vector_search(&s, &rules, &search, &err)) {
        CLAIM(search.query.top_k >= 1 && search.query.top_k <= 10000);
        CLAIM(search.query.top_k + search.query.offset <= 20000);
        if (search.by_id) id_is_sane(&search.id);
    }
    rules.path_id = &path_id;
    json_scan_init(&s, text, len, &arena);
    if (!json_vector_row(&s, &rules, &row, &err)) row_is_sane(&row, &rules);
    arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size);
    scan_as_jansson(text, size);
    floats_are_exact(text, size);
    text_keeps_bits(data, size);
    vectors_are_sane(text, size, false);
    vectors_are_sane(text, size, true);
    free(text);
    return 0;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    static const char *const texts[] = {
        "",
        "null",
        " [ true , false , null ] ",
        "{\"a\":{\"b\":[1,-0,0.5,1e3,1E-3,{}]},\"c\":\"\\u00e9\\ud83d\\ude00\\n\\u0000\"}",
        "\"\xc3\xa9\xf0\x9f\x98\x80\"",
        "{\"a\":1,\"\\u0061\":2}",
        "[1,2,3.25,-4e-5,1.17549435e-38,3.4028235e38,0.1,1e-46,16777217.0000000001]",
        "[0.333333343267440795898,1.00000017881393421514957253748434595763683319091796875]",
        "{\"vector_id\":7,\"data\":[1,2,3],\"metadata\":{\"a\":1}}",
        "{\"vector_id\":\"a b\",\"data_base64\":\"AACAPwAAAEAAAEBA\"}",
        "{\"id\":\"x\",\"data\":[1,2,3]}",
        "{\"vectors\":[{\"vector_id\":1,\"data\":[1,2,3]},{\"data\":[0,0,1e-3]}]}",
        "[1,\"two\",\"3\",9223372036854775807]",
        "9223372036854775808",
        "[\"data\",\"metadata\"]",
        "{\"data\":[1,2,3],\"top_k\":10,\"filter\":{\"a\":{\"$gt\":1}},\"offset\":1,"
        "\"include\":[\"data\"],\"params\":{\"ef\":64,\"exact\":true},\"min_score\":0.5}",
        "{\"vector_id\":7,\"top_k\":10,\"max_distance\":1.5,\"params\":{\"recall\":0.9},"
        "\"explain\":true,"
        "\"filter\":null}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
        "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        fuzz_add_text(add, ctx, texts[i]);
}
