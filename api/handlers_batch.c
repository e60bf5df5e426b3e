/*
 * handlers_batch.c - many rows in one write: as JSON, or as raw float32 rows.  (As lines:
 * handlers_batch_lines.c.)
 *
 * Raw rows are stored from where they arrived: the body is the array of vectors, and nothing is
 * copied or converted on the way to the log and the file.
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "api/api_private.h"
#include "api/json_vectors.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw rows are little-endian");

enum { RAW_ROWS_MAX = 1000000 }; /* what rows cost besides their numbers: about 150 bytes each */

struct batch {
    struct row_input *rows; /* in the request's arena */
    size_t count;
    bool ids_are_known; /* to the client: none was assigned */
};

/* ---- raw rows ---- */

/* ?first_id=&count= */
static enum err_code raw_query(struct query *q, uint64_t *first_id, uint64_t *count,
                               struct err *err)
{
    size_t len;
    struct vector_id id;
    const char *first = query_text(q, "first_id", &len);
    if (!first || !query_text(q, "count", NULL))
        return err_set(err, ERR_INVALID_REQUEST,
                       "a body of raw float32 rows needs ?first_id= and &count=");
    if (vector_id_parse(first, len, &id, err) || id.text)
        return err_set(err, ERR_INVALID_ID,
                       "?first_id= must be an integer from 0 to 9223372036854775807");
    enum err_code rc = query_u64(q, "count", 0, RAW_ROWS_MAX, count, err);
    if (rc) return rc;
    if (*count && id.number > INT64_MAX - (*count - 1))
        return err_set(err, ERR_INVALID_ID,
                       "?first_id=%" PRIu64 "&count=%" PRIu64
                       " goes beyond the greatest id, 9223372036854775807",
                       id.number, *count);
    *first_id = id.number;
    return ERR_OK;
}

/* Is the body `count` vectors long? */
static enum err_code raw_length(const struct database *db, uint64_t bytes, uint64_t count,
                                struct err *err)
{
    uint64_t dimension = database_schema(db)->dimension, wanted = count * dimension * sizeof(float);
    if (bytes == wanted) return ERR_OK;
    if (count && bytes && bytes % (count * sizeof(float)) == 0)
        return err_set(err, ERR_DIMENSION_MISMATCH,
                       "the body has %" PRIu64 " bytes, %" PRIu64 " float32 numbers for each of "
                       "%" PRIu64 " vectors; database \"%s\" has dimension %" PRIu64,
                       bytes, bytes / sizeof(float) / count, count, database_name(db), dimension);
    return err_set(err, ERR_INVALID_REQUEST,
                   "the body has %" PRIu64 " bytes; %" PRIu64 " vector%s of dimension %" PRIu64
                   " are %" PRIu64 " bytes of float32",
                   bytes, count, count == 1 ? "" : "s", dimension, wanted);
}

static enum err_code raw_rows(struct api_request *req, const struct database *db, uint64_t first_id,
                              uint64_t count, struct batch *batch, struct err *err)
{
    size_t dimension = database_schema(db)->dimension;
    enum err_code rc = raw_length(db, req->body_bytes, count, err);
    if (rc) return rc;
    assert((uintptr_t)req->body % _Alignof(float) == 0);
    const float *vectors = (const float *)(const void *)req->body;
    batch->rows = arena_alloc(&req->arena, (count ? count : 1) * sizeof *batch->rows);
    if (!batch->rows) return err_set(err, ERR_NOMEM, "out of memory for %" PRIu64 " rows", count);
    for (size_t i = 0; i < count; i++)
        batch->rows[i] =
            (struct row_input){.id.number = first_id + i, .vector = vectors + i * dimension};
    batch->count = count;
    batch->ids_are_known = true;
    return ERR_OK;
}

/* ---- JSON ---- */

static enum err_code json_rows(struct api_request *req, const struct database *db,
                               struct batch *batch, struct err *err)
{
    struct json_scan s;
    struct vector_rules rules = {.database = database_name(db),
                                 .dimension = database_schema(db)->dimension};
    body_scan(req, &s);
    enum err_code rc = json_vector_batch(&s, &rules, &batch->rows, &batch->count, err);
    if (rc) return rc;
    batch->ids_are_known = true;
    for (size_t i = 0; i < batch->count; i++)
        batch->ids_are_known &= !batch->rows[i].assign_id;
    return ERR_OK;
}

/* ---- either ---- */

uint64_t database_lsn_now(struct database *db)
{
    struct reader r;
    reader_begin(db, &r);
    uint64_t lsn = r.lsn;
    reader_end(&r);
    return lsn;
}

static void put_answer(struct api_response *res, const struct batch *batch, uint64_t lsn)
{
    size_t replaced = 0;
    for (size_t i = 0; i < batch->count; i++)
        replaced += batch->rows[i].replaced;

    struct buf *out = answer_json(res, 200);
    buf_printf(out, "{\"count\":%zu,\"created\":%zu,\"replaced\":%zu,\"lsn\":%" PRIu64,
               batch->count, batch->count - replaced, replaced, lsn);
    if (!batch->ids_are_known) {
        buf_str(out, ",\"vector_ids\":[");
        for (size_t i = 0; i < batch->count; i++) {
            if (i) buf_str(out, ",");
            put_vector_id(out, &batch->rows[i].id);
        }
        buf_str(out, "]");
    }
    buf_str(out, "}\n");
}

enum err_code vectors_batch(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    struct query q;
    struct database *db = NULL;
    struct batch batch = {0};
    enum durability durability;
    bool is_raw = req->form == FORM_FLOATS;
    uint64_t lsn = 0, first_id = 0, count = 0;

    if (req->form == FORM_LINES) return lines_answer(app, req, res, err);
    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (!rc) rc = query_durability(&q, db, &durability, err);
    if (!rc && is_raw) rc = raw_query(&q, &first_id, &count, err);
    if (!rc) rc = query_done(&q, err);
    if (!rc)
        rc = is_raw ? raw_rows(req, db, first_id, count, &batch, err)
                    : json_rows(req, db, &batch, err);
    if (rc) goto out;

    if (batch.count) {
        rc = database_put(db, batch.rows, batch.count, database_schema(db)->dimension,
                          req->may_block, &lsn, err);
        if (rc) goto out;
        answer_waits(res, db, lsn, durability);
    } else {
        lsn = database_lsn_now(db);
    }
    put_answer(res, &batch, lsn);
out:
    if (db) service_release(db);
    return rc;
}
