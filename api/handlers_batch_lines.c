/*
 * handlers_batch_lines.c - a batch of any length as NDJSON: one vector object a line.
 *
 * Lines are collected into chunks, each of which is one write: stored whole or not at all.  Memory
 * is that of one chunk and one line.  A line that cannot be stored ends it; the chunks before it
 * stay, the lines of its own chunk do not count.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"
#include "api/json_vectors.h"
#include "storage/base/mem.h"
#include "storage/base/utf8.h"

enum {
    CHUNK_ROWS = 1000,
    CHUNK_BYTES = 4 * 1024 * 1024, /* of what the rows keep */
    LINE_BYTES_MAX = 8 * 1024 * 1024,
};

struct lines {
    struct database *db; /* acquired */
    enum durability durability;
    struct buf line;               /* as far as it has come */
    uint64_t number;               /* of lines that are complete                        */
    uint64_t bad_line;             /* the one that was refused; 0: none                 */
    uint64_t committed;            /* lines of which nothing is in the chunk any more    */
    uint64_t count, replaced, lsn; /* of rows that are stored */

    /* The chunk, with everything its rows point to. */
    struct arena arena;
    struct row_input *rows;
    size_t row_count;
};

static void lines_free(void *p)
{
    struct lines *l = p;
    if (l->db) service_release(l->db);
    buf_free(&l->line);
    arena_free(&l->arena);
    mem_free(l->rows);
    mem_free(l);
}

/* At the first piece of the body, or at its end if it had none. */
static enum err_code lines_begin(struct api_app *app, struct api_request *req, struct err *err)
{
    struct query q;
    struct lines *l = mem_new(struct lines);
    req->stream = l;
    req->stream_free = lines_free;
    l->rows = mem_zalloc(CHUNK_ROWS * sizeof *l->rows);

    enum err_code rc = query_parse(req, &q, err);
    if (rc) return rc;
    rc = service_acquire(app->service, req->params[0].text, true, &l->db, err);
    if (rc) {
        l->db = NULL;
        return rc;
    }
    rc = query_durability(&q, l->db, &l->durability, err);
    return rc ? rc : query_done(&q, err);
}

static enum err_code lines_store(struct lines *l, struct err *err)
{
    size_t count = l->row_count;
    enum err_code rc = ERR_OK;
    if (count)
        rc = database_put(l->db, l->rows, count, database_schema(l->db)->dimension, true, &l->lsn,
                          err);
    l->row_count = 0;
    arena_free(&l->arena);
    if (rc) return rc;
    for (size_t i = 0; i < count; i++)
        l->replaced += l->rows[i].replaced;
    l->count += count;
    l->committed = l->number;
    return ERR_OK;
}

static bool is_blank(const struct buf *line)
{
    for (size_t i = 0; i < line->len; i++)
        if (!strchr(" \t\r", line->data[i]) || !line->data[i]) return false;
    return true;
}

/* "line 17: ..."; a message about a row is a predicate. */
static void name_line(struct lines *l, struct err *err)
{
    struct err why = *err;
    bool predicate = why.code != ERR_INVALID_JSON && why.code != ERR_NOMEM;
    l->bad_line = l->number;
    err_set(err, why.code, "line %" PRIu64 "%s %s", l->number, predicate ? "" : ":", why.msg);
    err->msg[utf8_cut(err->msg, strlen(err->msg))] = 0;
}

static enum err_code lines_parse(struct lines *l, struct err *err)
{
    struct json_scan s;
    struct vector_rules rules = {.database = database_name(l->db),
                                 .dimension = database_schema(l->db)->dimension};
    struct row_input *row = &l->rows[l->row_count];
    char *end = buf_reserve(&l->line, 1);
    if (!end) return err_set(err, ERR_NOMEM, "out of memory for a line");
    *end = 0; /* the scanner wants it */
    json_scan_init(&s, l->line.data, l->line.len, &l->arena);
    enum err_code rc = json_vector_row(&s, &rules, row, err);
    if (!rc) rc = json_scan_end(&s, err);
    if (rc) return rc;
    if (!json_vector_keep(&l->arena, row))
        return err_set(err, ERR_NOMEM, "out of memory for a line");
    l->row_count++;
    return ERR_OK;
}

/* The line is complete. */
static enum err_code lines_take(struct lines *l, struct err *err)
{
    l->number++;
    enum err_code rc = is_blank(&l->line) ? ERR_OK : lines_parse(l, err);
    l->line.len = 0;
    if (rc) {
        name_line(l, err);
        return rc;
    }
    return l->row_count == CHUNK_ROWS || l->arena.bytes >= CHUNK_BYTES ? lines_store(l, err)
                                                                       : ERR_OK;
}

static enum err_code lines_add(struct lines *l, const char *data, size_t len, struct err *err)
{
    if (l->line.len + len > LINE_BYTES_MAX) {
        l->bad_line = l->number + 1;
        return err_set(err, ERR_PAYLOAD_TOO_LARGE, "line %" PRIu64 " is longer than %d bytes",
                       l->bad_line, LINE_BYTES_MAX);
    }
    buf_add(&l->line, data, len);
    return l->line.failed ? err_set(err, ERR_NOMEM, "out of memory for a line") : ERR_OK;
}

enum err_code lines_feed(struct api_app *app, struct api_request *req, const char *data, size_t len,
                         struct err *err)
{
    enum err_code rc = req->stream ? ERR_OK : lines_begin(app, req, err);
    struct lines *l = req->stream;
    while (!rc && len > 0) {
        const char *end = memchr(data, '\n', len);
        size_t bytes = end ? (size_t)(end - data) : len;
        rc = lines_add(l, data, bytes, err);
        if (!rc && end) rc = lines_take(l, err);
        bytes += end != NULL;
        data += bytes;
        len -= bytes;
    }
    return rc;
}

/* What we say is committed must stay so. */
static void put_details(struct lines *l, struct api_response *res)
{
    char line[48] = "";
    struct err ignored;
    if (l->lsn && database_wait(l->db, l->lsn, l->durability, &ignored)) l->committed = 0;
    if (l->bad_line) snprintf(line, sizeof line, "\"line\":%" PRIu64 ",", l->bad_line);
    snprintf(res->details, sizeof res->details, "{%s\"committed\":%" PRIu64 "}", line,
             l->committed);
}

enum err_code lines_answer(struct api_app *app, struct api_request *req, struct api_response *res,
                           struct err *err)
{
    enum err_code rc = req->stream ? ERR_OK : lines_begin(app, req, err);
    struct lines *l = req->stream;
    if (req->feed_rc) { /* perhaps before the first lines_feed() */
        *err = req->feed_err;
        rc = req->feed_rc;
    }
    if (!rc && l->line.len) rc = lines_take(l, err); /* without a line feed behind it */
    if (!rc) rc = lines_store(l, err);
    if (rc) {
        put_details(l, res);
        return rc;
    }
    if (l->lsn)
        answer_waits(res, l->db, l->lsn, l->durability);
    else
        l->lsn = database_lsn_now(l->db);
    buf_printf(answer_json(res, 200),
               "{\"count\":%" PRIu64 ",\"committed\":%" PRIu64 ",\"created\":%" PRIu64
               ",\"replaced\":%" PRIu64 ",\"lsn\":%" PRIu64 "}\n",
               l->count, l->committed, l->count - l->replaced, l->replaced, l->lsn);
    return ERR_OK;
}
