/*
 * handlers_dumps.c - export, import and restore in the JSON form, in constant memory.
 *
 * An export reads page by page, each page one snapshot; between pages nothing is held.  An import
 * collects rows into batches; a batch is stored whole or not at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/api_private.h"
#include "api/dump_frame.h"
#include "api/json_vectors.h"
#include "storage/base/file.h"
#include "storage/base/mem.h"

enum {
    PAGE_ROWS = 256,
    PAGE_BYTES = 256 * 1024,
    BATCH_ROWS = 1000,
    BATCH_BYTES = 4 * 1024 * 1024,
};

/* ---- export ---- */

struct export
{
    char(*names)[NAME_BYTES_MAX + 1];
    size_t count, idx;
    bool named;   /* by the client: all of them must be there */
    bool started; /* names[idx] has its head */
    bool any;     /* a database has been written */
    uint32_t dimension;
    enum metric metric;
    struct vector_id last;
    char last_text[ID_BYTES_MAX];
    bool has_last;
};

struct page {
    struct buf *out;
    struct export *ex;
    size_t end; /* of `out`, where the page is long enough */
    bool cut;
};

static void export_free(void *p)
{
    struct export *ex = p;
    mem_free(ex->names);
    mem_free(ex);
}

static bool export_row(void *ctx, const struct row *row)
{
    struct page *page = ctx;
    struct export *ex = page->ex;
    struct row_format format = {.include = INCLUDE_DATA | INCLUDE_METADATA,
                                .dimension = ex->dimension};
    buf_str(page->out, ex->has_last ? ",\n{\"id\":" : "\n{\"id\":");
    put_vector_id(page->out, &row->id);
    put_row_values(page->out, row, &format);
    buf_str(page->out, "}");
    ex->has_last = true;
    ex->last = row->id;
    if (row->id.text) {
        memcpy(ex->last_text, row->id.text, row->id.text_bytes);
        ex->last.text = ex->last_text;
    }
    page->cut = page->out->len > page->end || page->out->failed;
    return !page->cut;
}

static void export_head(struct export *ex, struct buf *out, const struct schema *schema)
{
    ex->dimension = schema->dimension;
    ex->metric = schema->metric;
    ex->has_last = false;
    buf_str(out, ex->any ? ",\n{\"name\":" : "\n{\"name\":");
    json_put_str(out, ex->names[ex->idx]);
    buf_printf(out,
               ",\"schema\":{\"dimension\":%" PRIu32
               ",\"distance_metric\":\"%s\",\"durability\":\"%s\"",
               schema->dimension, metric_name(schema->metric), durability_name(schema->durability));
    put_schema_options(out, schema);
    buf_str(out, "},\"vectors\":[");
    ex->any = ex->started = true;
}

/* One page of names[idx]. */
static enum err_code export_page(struct api_app *app, struct export *ex, struct page *page,
                                 struct err *err)
{
    struct database *db;
    struct reader r;
    bool more = false;
    const char *name = ex->names[ex->idx];
    enum err_code rc = service_acquire(app->service, name, true, &db, err);
    if (rc == ERR_DATABASE_NOT_FOUND && !ex->started && !ex->named) {
        ex->idx++; /* deleted since we listed it */
        return ERR_OK;
    }
    if (rc) return rc;
    const struct schema *schema = database_schema(db);
    if (!ex->started) {
        export_head(ex, page->out, schema);
    } else if (schema->dimension != ex->dimension || schema->metric != ex->metric) {
        service_release(db);
        return err_set(err, ERR_CONFLICT, "database \"%s\" was replaced during its export", name);
    }
    reader_begin(db, &r);
    rc = reader_list(&r, ex->has_last ? &ex->last : NULL, NULL, 0, PAGE_ROWS, export_row, page,
                     &more, err);
    reader_end(&r);
    service_release(db);
    if (!rc && !more && !page->cut) {
        buf_str(page->out, "]}");
        ex->started = false;
        ex->idx++;
    }
    return rc;
}

static enum err_code export_produce_for(struct api_app *app, struct export *ex, struct buf *out,
                                        bool *done, struct err *err)
{
    struct page page = {.out = out, .ex = ex, .end = out->len + PAGE_BYTES};
    enum err_code rc = ERR_OK;
    *done = false;
    while (!rc && !page.cut && out->len <= page.end && ex->idx < ex->count)
        rc = export_page(app, ex, &page, err);
    if (!rc && ex->idx == ex->count) {
        buf_str(out, "\n]}\n");
        *done = true;
    }
    if (!rc && out->failed) rc = err_set(err, ERR_NOMEM, "out of memory for the export");
    return rc;
}

/* The stream of a request: the export, and the app that produce() is not given. */
struct export_stream {
    struct api_app *app;
    struct export *ex;
};

static void export_stream_free(void *p)
{
    struct export_stream *stream = p;
    export_free(stream->ex);
    mem_free(stream);
}

static enum err_code export_produce(struct api_request *req, struct buf *out, bool *done,
                                    struct err *err)
{
    struct export_stream *stream = req->stream;
    return export_produce_for(stream->app, stream->ex, out, done, err);
}

/* Answer with the dump; takes `ex`. */
static enum err_code export_answer(struct api_app *app, struct api_request *req,
                                   struct api_response *res, struct export *ex, struct err *err)
{
    struct export_stream *stream = mem_new(struct export_stream);
    stream->app = app;
    stream->ex = ex;
    req->stream = stream;
    req->stream_free = export_stream_free;

    bool done;
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"databases\":[");
    enum err_code rc = export_produce_for(app, ex, out, &done, err);
    if (!rc && !done) res->produce = export_produce;
    return rc;
}

static struct export *export_new(size_t count)
{
    struct export *ex = mem_new(struct export);
    ex->count = count;
    ex->names = mem_zalloc((count ? count : 1) * sizeof *ex->names);
    return ex;
}

static enum err_code refuse_quarantined(const struct database_info *info, struct err *err)
{
    if (!info->quarantined) return ERR_OK;
    return err_set(err, ERR_QUARANTINED, "database \"%s\" is quarantined: %s; name the others",
                   info->name, info->reason);
}

static enum err_code export_all(struct api_app *app, struct export **ex, struct err *err)
{
    struct database_info *infos = NULL;
    size_t count = 0, total;
    bool more;
    enum err_code rc = service_list(app->service, NULL, NULL, SIZE_MAX / 2, true, &infos, &count,
                                    &total, &more, err);
    if (rc) return rc;
    *ex = export_new(count);
    for (size_t i = 0; i < count && !rc; i++) {
        memcpy((*ex)->names[i], infos[i].name, sizeof infos[i].name);
        rc = refuse_quarantined(&infos[i], err);
    }
    service_list_free(infos, count);
    return rc;
}

static enum err_code export_name(struct api_app *app, struct export *ex, size_t i, const char *name,
                                 struct err *err)
{
    struct database_info info = {0};
    for (size_t j = 0; j < i; j++) {
        if (strcmp(ex->names[j], name) == 0)
            return err_set(err, ERR_INVALID_REQUEST, "database \"%s\" is named twice", name);
    }
    enum err_code rc = service_info(app->service, name, true, &info, err);
    if (rc) return rc;
    rc = refuse_quarantined(&info, err);
    snprintf(ex->names[i], sizeof ex->names[i], "%s", info.name);
    database_info_deinit(&info);
    return rc;
}

static enum err_code check_format(const char *format, struct err *err)
{
    if (!format || strcmp(format, "json") == 0) return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST,
                   "the format \"%.32s\" is not supported by this version; it supports \"json\"",
                   format);
}

enum err_code dumps_export_one(struct api_app *app, struct api_request *req,
                               struct api_response *res, struct err *err)
{
    struct query q;
    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = check_format(query_text(&q, "format", NULL), err);
    if (!rc) rc = query_done(&q, err);
    if (rc) return rc;
    struct export *ex = export_new(1);
    ex->named = true;
    rc = export_name(app, ex, 0, req->params[0].text, err);
    if (!rc) return export_answer(app, req, res, ex, err);
    export_free(ex);
    return rc;
}

/* The directory of `path`, which must lie below `root`, and the name in it. */
static enum err_code open_below(const char *root, const char *path, int *dir_fd, const char **name,
                                struct err *err)
{
    size_t root_len = strlen(root);
    while (root_len > 1 && root[root_len - 1] == '/')
        root_len--;
    if (path[0] == '/') {
        if (strncmp(path, root, root_len) != 0 || path[root_len] != '/')
            return err_set(err, ERR_INVALID_REQUEST,
                           "\"output\" must lie below persistence.export_path");
        path += root_len;
    }
    while (*path == '/')
        path++;
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    size_t dir_len = slash ? (size_t)(slash - path) : 0;
    if (!**name || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0 || strlen(*name) > 240 ||
        dir_len >= 1024)
        return err_set(err, ERR_INVALID_REQUEST, "\"output\" is not the path of a file");

    char dir[1024] = ".";
    if (dir_len) {
        memcpy(dir, path, dir_len);
        dir[dir_len] = 0;
    }
    int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0) return err_os(err, errno, "cannot open persistence.export_path");
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    *dir_fd = (int)syscall(SYS_openat2, root_fd, dir, &how, sizeof how);
    int saved = errno;
    close(root_fd);
    if (*dir_fd >= 0) return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST, "\"output\": its directory cannot be used: %s",
                   strerrordesc_np(saved));
}

/* Write the dump to a file on the server: complete and synced under its name, or not there. */
static enum err_code export_to_file(struct api_app *app, struct api_response *res,
                                    struct export *ex, const char *path, struct err *err)
{
    struct buf piece = {0};
    char temporary[256];
    const char *name = NULL;
    int dir_fd = -1, fd = -1;
    uint64_t at = 0;
    bool done = false;

    enum err_code rc = open_below(app->options.export_path, path, &dir_fd, &name, err);
    if (rc) return rc;
    snprintf(temporary, sizeof temporary, "%s.part", name);
    int os = file_open(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC, &fd);
    if (os) {
        fd = -1;
        rc = err_os(err, os, "cannot create the export file");
        goto out;
    }
    buf_str(&piece, "{\"databases\":[");
    while (!done) {
        rc = export_produce_for(app, ex, &piece, &done, err);
        if (rc) goto out;
        os = file_write(fd, piece.data, piece.len, at);
        if (os) {
            rc = err_os(err, os, "cannot write the export file");
            goto out;
        }
        at += piece.len;
        piece.len = 0;
    }
    os = file_sync(fd);
    if (!os) os = file_rename(dir_fd, temporary, name);
    if (!os) os = file_sync(dir_fd);
    if (os) {
        rc = err_os(err, os, "cannot finish the export file");
        goto out;
    }
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"output\":");
    json_put_str(out, path);
    buf_printf(out, ",\"databases\":%zu,\"bytes\":%" PRIu64 "}\n", ex->count, at);
out:
    if (fd >= 0) file_close(fd);
    if (rc && fd >= 0 && file_unlink(dir_fd, temporary)) {
        /* a leftover .part file harms nobody; the first error is the one to tell */
    }
    file_close(dir_fd);
    buf_free(&piece);
    return rc;
}

enum err_code dumps_export(struct api_app *app, struct api_request *req, struct api_response *res,
                           struct err *err)
{
    static const char *const fields[] = {"format", "databases", "output", NULL};
    json_t *body = NULL;
    struct export *ex = NULL;
    const char *format = NULL, *output = NULL;
    size_t len;
    bool found;

    enum err_code rc = query_none(req, err);
    if (!rc)
        rc = json_load_object(req->body_bytes ? req->body : "", req->body_bytes, &req->arena, &body,
                              err);
    if (!rc) rc = json_only_fields(body, fields, "the request", err);
    if (!rc) rc = json_get_text(body, "format", &format, &len, &found, err);
    if (!rc) rc = check_format(format, err);
    if (!rc) rc = json_get_text(body, "output", &output, &len, &found, err);
    if (!rc && output && strlen(output) != len)
        rc = err_set(err, ERR_INVALID_REQUEST, "\"output\" has a zero byte");
    if (rc) goto out;

    const json_t *names = json_object_get(body, "databases");
    if (!names) {
        rc = export_all(app, &ex, err);
    } else if (!json_is_array(names) || json_array_size(names) > 10000) {
        rc = err_set(err, ERR_INVALID_REQUEST, "\"databases\" must be an array of names");
    } else {
        ex = export_new(json_array_size(names));
        ex->named = true;
        for (size_t i = 0; i < ex->count && !rc; i++) {
            const char *name = json_string_value(json_array_get(names, i));
            rc = name ? export_name(app, ex, i, name, err)
                      : err_set(err, ERR_INVALID_REQUEST, "\"databases\" must be names");
        }
    }
    if (rc) goto out;
    if (output && app->options.export_path) {
        rc = export_to_file(app, res, ex, output, err);
        goto out;
    }
    if (output)
        snprintf(res->warning, sizeof res->warning,
                 "299 jadevectordb \"output is ignored: persistence.export_path is not set; the "
                 "dump is this answer\"");
    rc = export_answer(app, req, res, ex, err);
    ex = NULL;
out:
    if (ex) export_free(ex);
    json_decref(body);
    return rc;
}

/* ---- import ---- */

struct import {
    struct dump_frame frame;
    struct api_app *app;
    const char *only_name; /* restore: the name in the path, in the request's arena */
    bool has_durability;
    enum durability durability;
    uint64_t imported;    /* rows stored */
    struct buf databases; /* the answer's array */
    size_t database_count;

    /* The database at hand. */
    char name[NAME_BYTES_MAX + 1];
    bool has_schema;
    struct schema schema;
    struct database *db; /* acquired */
    bool created;
    uint64_t stored, row_idx, lsn;

    /* Rows not stored yet, with everything they point to. */
    struct arena arena;
    struct row_input *rows;
    size_t row_count;
};

static void import_reset_database(struct import *im)
{
    if (im->db) service_release(im->db);
    im->db = NULL;
    mem_free(im->schema.options);
    im->schema = (struct schema){0};
    im->has_schema = im->created = false;
    im->name[0] = 0;
    im->stored = im->row_idx = im->lsn = 0;
    im->row_count = 0;
    arena_free(&im->arena);
}

static void import_free(void *p)
{
    struct import *im = p;
    import_reset_database(im);
    dump_frame_deinit(&im->frame);
    buf_free(&im->databases);
    mem_free(im->rows);
    mem_free(im);
}

static enum err_code import_store(struct import *im, struct err *err)
{
    if (!im->row_count) return ERR_OK;
    size_t count = im->row_count;
    im->row_count = 0;
    enum err_code rc = database_put(im->db, im->rows, count, database_schema(im->db)->dimension,
                                    true, &im->lsn, err);
    arena_free(&im->arena);
    if (rc) {
        struct err why = *err;
        err_set(err, rc, "database \"%s\": %s", im->name, why.msg);
        return rc;
    }
    im->stored += count;
    im->imported += count;
    return ERR_OK;
}

/* Wait until what was stored is durable. */
static enum err_code import_sync(struct import *im, struct err *err)
{
    if (!im->db || !im->lsn) return ERR_OK;
    enum durability durability =
        im->has_durability ? im->durability : database_schema(im->db)->durability;
    return database_wait(im->db, im->lsn, durability, err);
}

static enum err_code on_database_begin(void *ctx, struct err *err)
{
    struct import *im = ctx;
    if (im->only_name && im->database_count)
        return err_set(err, ERR_INVALID_REQUEST,
                       "the dump has more than one database; restore takes one, /import all");
    im->database_count++;
    import_reset_database(im);
    if (im->only_name) snprintf(im->name, sizeof im->name, "%s", im->only_name);
    return ERR_OK;
}

static enum err_code on_name(void *ctx, const char *json, size_t len, uint64_t at, struct err *err)
{
    struct import *im = ctx;
    struct arena arena = {0};
    struct json_scan s;
    struct json_text name;
    json_scan_init(&s, json, len, &arena);
    s.base = at;
    enum err_code rc = json_scan_string(&s, &name, err);
    if (!rc && !im->only_name) {
        rc = database_name_check(name.data, name.len, err);
        if (!rc && im->db)
            rc = err_set(err, ERR_INVALID_REQUEST,
                         "\"name\" must come before "
                         "\"vectors\" in the dump");
        if (!rc) {
            memcpy(im->name, name.data, name.len);
            im->name[name.len] = 0;
        }
    }
    arena_free(&arena);
    return rc;
}

static enum err_code on_schema(void *ctx, const char *json, size_t len, uint64_t at,
                               struct err *err)
{
    static const char *const fields[] = {
        "dimension",    "distance_metric",  "durability",          "initial_capacity", "index",
        "quantization", "metadata_indexes", "default_ttl_seconds", "description",      NULL};
    struct import *im = ctx;
    struct arena arena = {0};
    json_t *object = NULL;
    enum err_code rc = json_load_object(json, len, &arena, &object, err);
    if (!rc) rc = json_only_fields(object, fields, "\"schema\"", err);
    if (!rc) rc = schema_from_json(im->app, object, &im->schema, err);
    if (rc) {
        struct err why = *err;
        err_set(err, rc, "the schema at byte %" PRIu64 " of the dump: %s", at, why.msg);
    }
    im->has_schema = !rc;
    json_decref(object);
    arena_free(&arena);
    return rc;
}

/* Open the database, or create it. */
static enum err_code import_open(struct import *im, struct err *err)
{
    if (!im->name[0])
        return err_set(err, ERR_INVALID_REQUEST,
                       "a database of the dump has no \"name\" before its \"vectors\"");
    enum err_code rc = service_acquire(im->app->service, im->name, true, &im->db, err);
    if (rc == ERR_DATABASE_NOT_FOUND) {
        im->db = NULL;
        if (!im->has_schema)
            return err_set(err, ERR_INVALID_REQUEST,
                           "database \"%s\" does not exist, and the dump has no \"schema\" for it "
                           "before its \"vectors\"",
                           im->name);
        rc = service_create(im->app->service, im->name, &im->schema, true, &im->created, err);
        if (!rc) rc = service_acquire(im->app->service, im->name, true, &im->db, err);
    }
    if (rc) {
        im->db = NULL;
        return rc;
    }
    const struct schema *schema = database_schema(im->db);
    if (im->has_schema && im->schema.dimension != schema->dimension)
        return err_set(err, ERR_DIMENSION_MISMATCH,
                       "the dump has dimension %" PRIu32 "; database \"%s\" has dimension %" PRIu32,
                       im->schema.dimension, im->name, schema->dimension);
    if (im->has_schema && im->schema.metric != schema->metric)
        return err_set(err, ERR_CONFLICT, "the dump has distance_metric %s; database \"%s\" has %s",
                       metric_name(im->schema.metric), im->name, metric_name(schema->metric));
    return ERR_OK;
}

static enum err_code on_vectors_begin(void *ctx, struct err *err)
{
    return import_open(ctx, err);
}

static enum err_code on_row(void *ctx, const char *json, size_t len, uint64_t at, struct err *err)
{
    struct import *im = ctx;
    struct json_scan s;
    struct vector_rules rules = {
        .database = im->name, .dimension = database_schema(im->db)->dimension, .is_dump = true};
    struct row_input *row = &im->rows[im->row_count];

    im->row_idx++;
    json_scan_init(&s, json, len, &im->arena);
    s.base = at;
    enum err_code rc = json_vector_row(&s, &rules, row, err);
    if (!rc) rc = json_scan_end(&s, err);
    if (rc) {
        char subject[NAME_BYTES_MAX + 96];
        snprintf(subject, sizeof subject,
                 "vector %" PRIu64 " of database \"%s\" (byte %" PRIu64 " of the dump)",
                 im->row_idx, im->name, at);
        json_vectors_subject(err, subject);
        return rc;
    }
    if (!json_vector_keep(&im->arena, row)) /* the text is the frame's */
        return err_set(err, ERR_NOMEM, "out of memory for the import");
    im->row_count++;
    return im->row_count == BATCH_ROWS || im->arena.bytes >= BATCH_BYTES ? import_store(im, err)
                                                                         : ERR_OK;
}

static enum err_code on_database_end(void *ctx, struct err *err)
{
    struct import *im = ctx;
    enum err_code rc = ERR_OK;
    if (!im->db) rc = import_open(im, err); /* no "vectors" */
    if (!rc) rc = import_store(im, err);
    if (!rc) rc = import_sync(im, err);
    if (rc) return rc;
    if (im->databases.len) buf_str(&im->databases, ",");
    buf_str(&im->databases, "{\"name\":");
    json_put_str(&im->databases, im->name);
    buf_printf(&im->databases, ",\"vectors\":%" PRIu64 ",\"created\":%s,\"lsn\":%" PRIu64 "}",
               im->stored, im->created ? "true" : "false", im->lsn);
    import_reset_database(im);
    return im->databases.failed ? err_set(err, ERR_NOMEM, "out of memory for the answer") : ERR_OK;
}

static const struct dump_events import_events = {
    .database_begin = on_database_begin,
    .name = on_name,
    .schema = on_schema,
    .vectors_begin = on_vectors_begin,
    .row = on_row,
    .database_end = on_database_end,
};

/* At the first piece of the body, or at its end if it had none. */
static enum err_code import_begin(struct api_app *app, struct api_request *req, struct err *err)
{
    struct query q;
    struct import *im = mem_new(struct import);
    size_t len;
    req->stream = im;
    req->stream_free = import_free;
    im->app = app;
    im->only_name = req->params[0].text;
    im->rows = mem_zalloc(BATCH_ROWS * sizeof *im->rows);
    dump_frame_init(&im->frame, &import_events, im, im->only_name != NULL);

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = check_format(query_text(&q, "format", NULL), err);
    if (rc) return rc;
    const char *mode = query_text(&q, "mode", NULL);
    if (mode && strcmp(mode, "upsert") != 0)
        return err_set(err, ERR_INVALID_REQUEST,
                       "?mode=%.32s is not supported by this version yet; it upserts", mode);
    const char *durability = query_text(&q, "durability", &len);
    im->has_durability = durability != NULL;
    if (durability && !durability_parse(durability, len, &im->durability))
        return err_set(err, ERR_INVALID_REQUEST, "?durability= must be synced or periodic");
    rc = query_done(&q, err);
    if (!rc && im->only_name) rc = database_name_check(im->only_name, req->params[0].len, err);
    return rc;
}

enum err_code dumps_feed(struct api_app *app, struct api_request *req, const char *data, size_t len,
                         struct err *err)
{
    enum err_code rc = req->stream ? ERR_OK : import_begin(app, req, err);
    if (rc) return rc;
    struct import *im = req->stream;
    return dump_frame_feed(&im->frame, data, len, err);
}

enum err_code dumps_import(struct api_app *app, struct api_request *req, struct api_response *res,
                           struct err *err)
{
    enum err_code rc = req->stream ? ERR_OK : import_begin(app, req, err);
    if (req->feed_rc) { /* perhaps before the first api_feed() */
        *err = req->feed_err;
        rc = req->feed_rc;
    }
    struct import *im = req->stream;
    if (!rc) rc = dump_frame_end(&im->frame, err);
    if (!rc && im->only_name && !im->database_count)
        rc = err_set(err, ERR_INVALID_REQUEST, "the dump has no database");
    if (rc) {
        /* What we say is imported must stay imported. */
        struct err ignored;
        if (import_sync(im, &ignored)) im->imported -= im->stored;
        snprintf(res->details, sizeof res->details, "{\"imported\":%" PRIu64 "}", im->imported);
        return rc;
    }
    struct buf *out = answer_json(res, 200);
    buf_printf(out, "{\"imported\":%" PRIu64 ",\"databases\":[", im->imported);
    buf_add(out, im->databases.data, im->databases.len);
    buf_str(out, "]}\n");
    return ERR_OK;
}
