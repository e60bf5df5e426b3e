/* handlers_databases.c - create, list, describe, drop, flush, wait. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"
#include "storage/base/clock.h"
#include "storage/base/mem.h"

enum { DESCRIPTION_BYTES_MAX = 4096, METADATA_INDEXES_MAX = 64, FIELD_PATH_BYTES_MAX = 256 };

/* ---- the schema in a request ---- */

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words; words++) {
        if (strcmp(text, *words) == 0) return true;
    }
    return false;
}

/* What is allowed to be said is more than what a graph is built with: the rest is cut. */
static uint32_t clamp(uint64_t value, uint32_t min, uint32_t max)
{
    return value < min ? min : value > max ? max : (uint32_t)value;
}

static enum err_code index_from_json(const json_t *index, struct index_options *options,
                                     struct err *err)
{
    static const char *const fields[] = {"type", "m", "ef_construction", NULL};
    uint64_t m, ef;
    bool has_m, has_ef;
    if (!json_is_object(index))
        return err_set(err, ERR_INVALID_REQUEST, "\"index\" must be an object");
    const json_t *type = json_object_get(index, "type");
    if (!json_is_string(type) ||
        !index_kind_parse(json_string_value(type), json_string_length(type), &options->kind))
        return err_set(err, ERR_INVALID_REQUEST, "\"index\" needs a \"type\": hnsw, flat or auto");
    enum err_code rc = json_only_fields(index, fields, "\"index\"", err);
    if (!rc) rc = json_get_u64(index, "m", 2, 512, &m, &has_m, err);
    if (!rc) rc = json_get_u64(index, "ef_construction", 1, 100000, &ef, &has_ef, err);
    if (rc) return rc;
    if (has_m) options->m = clamp(m, INDEX_M_MIN, INDEX_M_MAX);
    if (has_ef) options->ef_construction = clamp(ef, INDEX_EF_MIN, INDEX_EF_MAX);
    return ERR_OK;
}

static enum err_code index_options_from_json(const json_t *object, struct index_options *options,
                                             struct err *err)
{
    const json_t *index = json_object_get(object, "index");
    const json_t *q = json_object_get(object, "quantization");
    *options = (struct index_options){0};
    if (q && (!json_is_string(q) || !quantization_parse(json_string_value(q), json_string_length(q),
                                                        &options->quantization)))
        return err_set(err, ERR_INVALID_REQUEST,
                       "\"quantization\" must be none, int8, binary or auto");
    return index ? index_from_json(index, options, err) : ERR_OK;
}

static enum err_code check_metadata_indexes(const json_t *indexes, struct err *err)
{
    static const char *const types[] = {"keyword",  "integer", "float", "bool",
                                        "datetime", "geo",     "text",  NULL};
    const char *path;
    json_t *type;
    if (!json_is_object(indexes) || json_object_size(indexes) > METADATA_INDEXES_MAX)
        return err_set(err, ERR_INVALID_REQUEST,
                       "\"metadata_indexes\" must be an object of at most %d fields",
                       METADATA_INDEXES_MAX);
    json_object_foreach((json_t *)indexes, path, type)
    {
        if (!*path || strlen(path) > FIELD_PATH_BYTES_MAX)
            return err_set(err, ERR_INVALID_REQUEST,
                           "\"metadata_indexes\": a field path has 1 to %d bytes",
                           FIELD_PATH_BYTES_MAX);
        if (!json_is_string(type) || !is_one_of(json_string_value(type), types))
            return err_set(err, ERR_INVALID_REQUEST,
                           "\"metadata_indexes\": the type of \"%.64s\" must be keyword, integer, "
                           "float, bool, datetime, geo or text",
                           path);
    }
    return ERR_OK;
}

/* Everything that storage keeps without reading it, as compact JSON with sorted keys, so that equal
 * options are equal text.  What says no more than the default is left out. */
static enum err_code options_from_json(const json_t *object, char **options, struct err *err)
{
    json_t *indexes = json_object_get(object, "metadata_indexes");
    json_t *description = json_object_get(object, "description");
    enum err_code rc = ERR_OK;

    *options = NULL;
    if (indexes) rc = check_metadata_indexes(indexes, err);
    if (!rc && description &&
        (!json_is_string(description) || json_string_length(description) > DESCRIPTION_BYTES_MAX))
        rc = err_set(err, ERR_INVALID_REQUEST,
                     "\"description\" must be a string of at most %d bytes", DESCRIPTION_BYTES_MAX);
    if (rc) return rc;

    if (indexes && json_object_size(indexes) == 0) indexes = NULL;
    if (description && json_string_length(description) == 0) description = NULL;
    if (!indexes && !description) return ERR_OK;

    json_t *kept = json_object();
    int failed = !kept;
    if (indexes) failed |= json_object_set(kept, "metadata_indexes", indexes);
    if (description) failed |= json_object_set(kept, "description", description);
    size_t len = failed ? 0 : json_dumpb(kept, NULL, 0, JSON_COMPACT | JSON_SORT_KEYS);
    char *text = failed ? NULL : mem_try(len + 1);
    if (!text) {
        rc = err_set(err, ERR_NOMEM, "out of memory");
    } else if (len > OPTIONS_BYTES_MAX) {
        rc = err_set(err, ERR_INVALID_REQUEST, "the options have %zu bytes of JSON; at most %d",
                     len, OPTIONS_BYTES_MAX);
    } else {
        json_dumpb(kept, text, len, JSON_COMPACT | JSON_SORT_KEYS);
        text[len] = 0;
        *options = text;
        text = NULL;
    }
    mem_free(text);
    json_decref(kept);
    return rc;
}

enum err_code schema_from_json(const struct api_app *app, const json_t *object,
                               struct schema *schema, struct err *err)
{
    uint64_t dimension = 0, capacity = app->options.initial_capacity;
    const char *text;
    size_t len;
    bool found;

    *schema = (struct schema){.metric = METRIC_COSINE, .durability = app->options.durability};
    enum err_code rc = json_get_u64(object, "dimension", 1, DIMENSION_MAX, &dimension, &found, err);
    if (!rc && !found)
        rc = err_set(err, ERR_INVALID_REQUEST, "\"dimension\" is missing: an integer from 1 to %d",
                     DIMENSION_MAX);
    if (rc) return rc;
    schema->dimension = (uint32_t)dimension;

    rc = json_get_text(object, "distance_metric", &text, &len, &found, err);
    if (rc) return rc;
    if (found && !metric_parse(text, len, &schema->metric))
        return err_set(err, ERR_INVALID_REQUEST,
                       "\"distance_metric\" must be cosine, euclidean, dot_product or manhattan");

    rc = json_get_text(object, "durability", &text, &len, &found, err);
    if (rc) return rc;
    if (found && !durability_parse(text, len, &schema->durability))
        return err_set(err, ERR_INVALID_REQUEST, "\"durability\" must be synced or periodic");

    rc = json_get_u64(object, "initial_capacity", 1, UINT64_C(1) << 31, &capacity, &found, err);
    if (rc) return rc;
    schema->initial_capacity = capacity;

    if (json_object_get(object, "default_ttl_seconds"))
        return err_set(err, ERR_INVALID_REQUEST,
                       "\"default_ttl_seconds\" is not supported by this version yet");
    rc = index_options_from_json(object, &schema->index, err);
    if (rc) return rc;
    return options_from_json(object, &schema->options, err);
}

/* ---- descriptions ---- */

void put_schema_options(struct buf *out, const struct schema *schema)
{
    const struct index_options *o = &schema->index;
    if (o->kind != INDEX_AUTO || o->m || o->ef_construction) {
        buf_printf(out, ",\"index\":{\"type\":\"%s\"", index_kind_name(o->kind));
        if (o->m) buf_printf(out, ",\"m\":%" PRIu32, o->m);
        if (o->ef_construction)
            buf_printf(out, ",\"ef_construction\":%" PRIu32, o->ef_construction);
        buf_str(out, "}");
    }
    if (o->quantization != QUANTIZATION_AUTO)
        buf_printf(out, ",\"quantization\":\"%s\"", quantization_name(o->quantization));
    const char *text = schema->options;
    if (text && strlen(text) > 2) {
        buf_str(out, ","); /* {"description":...} without its braces */
        buf_add(out, text + 1, strlen(text) - 2);
    }
}

static void put_common(struct buf *out, const struct database_info *info)
{
    buf_str(out, "{\"name\":");
    json_put_str(out, info->name);
    buf_printf(out, ",\"dimension\":%" PRIu32 ",\"distance_metric\":\"%s\",\"vector_count\":",
               info->schema.dimension, metric_name(info->schema.metric));
    if (info->counts_unknown)
        buf_str(out, "null");
    else
        buf_printf(out, "%" PRIu64, info->vector_count);
    buf_printf(out, ",\"durability\":\"%s\",\"open\":%s,\"quarantined\":%s",
               durability_name(info->schema.durability), info->open ? "true" : "false",
               info->quarantined ? "true" : "false");
    if (info->reason[0]) {
        buf_str(out, ",\"reason\":");
        json_put_str(out, info->reason);
    }
}

static void put_count_or_null(struct buf *out, const char *name, bool known, uint64_t value)
{
    buf_printf(out, ",\"%s\":", name);
    if (known)
        json_put_u64(out, value);
    else
        buf_str(out, "null");
}

static void put_index_state(struct buf *out, const struct database_info *info)
{
    static const char *const states[INDEX_STATE_COUNT] = {"exact", "building", "linking", "ready"};
    const struct vector_index_info *ix = &info->index;
    /* A closed database is not opened to be asked: some things are plain without asking. */
    bool plain = info->schema.index.kind == INDEX_FLAT || info->vector_count == 0;
    bool exact = info->open ? ix->state == INDEX_STATE_NONE : plain;
    bool known = info->open || exact, has_graph = known && !exact;

    buf_printf(out, "{\"state\":\"%s\"", exact ? "exact" : known ? states[ix->state] : "closed");
    put_count_or_null(out, "indexed_count", known, exact ? info->vector_count : ix->indexed_count);
    put_count_or_null(out, "pending_count", known, exact ? 0 : ix->pending_count);
    buf_str(out, ",\"progress\":");
    json_put_double(out, exact ? 1 : known ? ix->progress : NAN);
    put_count_or_null(out, "eta_ms", known, ix->eta_ms);
    buf_str(out, ",\"codec\":");
    if (has_graph)
        json_put_str(out, codec_name(ix->codec));
    else
        buf_str(out, "null");
    put_count_or_null(out, "memory_bytes", known, ix->memory_bytes);
    buf_str(out, ",\"recall_estimate\":");
    json_put_double(out, has_graph && ix->recall_samples ? ix->recall_estimate : NAN);
    put_count_or_null(out, "recall_samples", known, ix->recall_samples);
    buf_str(out, "}");
}

static void put_description(struct buf *out, const struct database_info *info)
{
    put_common(out, info);
    buf_printf(out,
               ",\"deleted_count\":%" PRIu64 ",\"initial_capacity\":%" PRIu64 ",\"lsn\":%" PRIu64,
               info->deleted_count, info->schema.initial_capacity, info->last_lsn);
    put_schema_options(out, &info->schema);
    buf_str(out, ",\"index_state\":");
    put_index_state(out, info);
    buf_str(out, "}\n");
}

enum err_code databases_get(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    struct database_info info = {0};
    enum err_code rc = query_none(req, err);
    if (!rc) rc = service_info(app->service, req->params[0].text, req->may_block, &info, err);
    if (rc) return rc;
    put_description(answer_json(res, 200), &info);
    database_info_deinit(&info);
    return ERR_OK;
}

enum err_code databases_stats(struct api_app *app, struct api_request *req,
                              struct api_response *res, struct err *err)
{
    struct database_info info = {0};
    enum err_code rc = query_none(req, err);
    if (!rc) rc = service_info(app->service, req->params[0].text, req->may_block, &info, err);
    if (rc) return rc;

    struct buf *out = answer_json(res, 200);
    put_common(out, &info);
    double fragmentation = info.file_bytes > info.live_bytes
                               ? 1 - (double)info.live_bytes / (double)info.file_bytes
                               : 0;
    buf_printf(out,
               ",\"deleted_count\":%" PRIu64 ",\"file_bytes\":%" PRIu64 ",\"live_bytes\":%" PRIu64
               ",\"wal_bytes\":%" PRIu64 ",\"lsn\":%" PRIu64 ",\"durable_lsn\":%" PRIu64
               ",\"fragmentation_ratio\":",
               info.deleted_count, info.file_bytes, info.live_bytes, info.wal_bytes, info.last_lsn,
               info.durable_lsn);
    json_put_double(out, round(fragmentation * 1e4) / 1e4);
    buf_str(out, ",\"last_flush_ms\":");
    json_put_double(out, info.last_flush_ms);
    buf_str(out, ",\"last_flush_at\":");
    if (info.last_flush_at_ms) {
        char text[25];
        clock_rfc3339(info.last_flush_at_ms, text);
        json_put_str(out, text);
    } else {
        buf_str(out, "null");
    }
    buf_str(out, ",\"index\":");
    put_index_state(out, &info);
    buf_printf(out,
               ",\"memory\":{\"vector_bytes\":%" PRIu64 ",\"index_bytes\":%" PRIu64
               ",\"filter_bytes\":%" PRIu64 "}}\n",
               info.vector_count * info.schema.dimension * sizeof(float), info.index.memory_bytes,
               info.filter_bytes);
    database_info_deinit(&info);
    return ERR_OK;
}

enum err_code databases_list(struct api_app *app, struct api_request *req, struct api_response *res,
                             struct err *err)
{
    struct query q;
    struct database_info *infos = NULL;
    size_t count = 0, total = 0, cursor_len;
    bool more = false;
    uint64_t limit = SIZE_MAX / 2; /* all of them: what scripts of the guide expect */
    const char *after;

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = query_u64(&q, "limit", 1, 10000, &limit, err);
    if (!rc) rc = query_cursor(req, &q, &after, &cursor_len, err);
    const char *prefix = query_text(&q, "prefix", NULL);
    if (!rc) rc = query_done(&q, err);
    if (!rc && after && database_name_check(after, cursor_len, err))
        rc = err_set(err, ERR_INVALID_REQUEST,
                     "the cursor is not one that this server gave out in \"next\"");
    if (!rc)
        rc = service_list(app->service, after, prefix, limit, req->may_block, &infos, &count,
                          &total, &more, err);
    if (rc) return rc;

    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"databases\":[");
    for (size_t i = 0; i < count; i++) {
        if (i) buf_str(out, ",");
        put_common(out, &infos[i]);
        buf_str(out, "}");
    }
    buf_printf(out, "],\"total\":%zu,\"next\":", total);
    if (more && count)
        put_cursor(out, infos[count - 1].name, strlen(infos[count - 1].name));
    else
        buf_str(out, "null");
    buf_str(out, "}\n");
    service_list_free(infos, count);
    return ERR_OK;
}

/* ---- changes ---- */

static enum err_code create(struct api_app *app, struct api_request *req, struct api_response *res,
                            bool if_missing, struct err *err)
{
    static const char *const fields[] = {
        "name",  "dimension",    "distance_metric",  "durability",          "initial_capacity",
        "index", "quantization", "metadata_indexes", "default_ttl_seconds", "description",
        NULL};
    json_t *body = NULL;
    struct schema schema = {0};
    struct database_info info = {0};
    const char *in_body = NULL;
    size_t len = 0;
    bool found, created = false;

    enum err_code rc = query_none(req, err);
    if (!rc)
        rc = json_load_object(req->body_bytes ? req->body : "", req->body_bytes, &req->arena, &body,
                              err);
    if (rc) goto out;

    const char *name = req->params[0].text;
    rc = json_get_text(body, "name", &in_body, &len, &found, err);
    if (rc) goto out;
    if (name && in_body && strcmp(name, in_body) != 0) {
        rc = err_set(err, ERR_INVALID_REQUEST, "\"name\" is another one than in the path");
        goto out;
    }
    if (!name && !in_body) {
        rc = err_set(err, ERR_INVALID_REQUEST, "\"name\" is missing");
        goto out;
    }
    if (!name) name = in_body;
    rc = database_name_check(name, name == in_body ? len : req->params[0].len, err);
    if (!rc && name == in_body) req->subject = arena_copy(&req->arena, in_body, len + 1);
    if (!rc) rc = json_only_fields(body, fields, "the request", err);
    if (!rc) rc = schema_from_json(app, body, &schema, err);
    if (!rc) rc = service_create(app->service, name, &schema, if_missing, &created, err);
    if (!rc) rc = service_info(app->service, name, true, &info, err);
    if (rc) goto out;
    put_description(answer_json(res, created ? 201 : 200), &info);
    database_info_deinit(&info);
out:
    mem_free(schema.options);
    json_decref(body);
    return rc;
}

enum err_code databases_create(struct api_app *app, struct api_request *req,
                               struct api_response *res, struct err *err)
{
    return create(app, req, res, false, err);
}

enum err_code databases_put(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    return create(app, req, res, true, err);
}

enum err_code databases_drop(struct api_app *app, struct api_request *req, struct api_response *res,
                             struct err *err)
{
    struct database_info info = {0};
    struct err ignored;
    const char *name = req->params[0].text;
    uint64_t lsn = 0;
    enum err_code rc = query_none(req, err);
    if (rc) return rc;
    if (!service_info(app->service, name, true, &info, &ignored)) {
        lsn = info.last_lsn;
        database_info_deinit(&info);
    }
    rc = service_drop(app->service, name, err);
    if (rc) return rc;
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"name\":");
    json_put_str(out, name);
    buf_printf(out, ",\"deleted\":true,\"lsn\":%" PRIu64 "}\n", lsn);
    return ERR_OK;
}

enum err_code databases_flush(struct api_app *app, struct api_request *req,
                              struct api_response *res, struct err *err)
{
    double duration_ms = 0;
    enum err_code rc = body_none(req, err);
    if (!rc) rc = service_flush(app->service, req->params[0].text, &duration_ms, err);
    if (rc) return rc;
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"name\":");
    json_put_str(out, req->params[0].text);
    buf_str(out, ",\"flushed\":1,\"duration_ms\":");
    json_put_double(out, duration_ms);
    buf_str(out, "}\n");
    return ERR_OK;
}

enum err_code databases_wait(struct api_app *app, struct api_request *req, struct api_response *res,
                             struct err *err)
{
    struct query q;
    struct database *db = NULL;
    uint64_t lsn = UINT64_MAX, last, durable;

    enum err_code rc = query_parse(req, &q, err);
    if (!rc) rc = query_u64(&q, "lsn", 0, INT64_MAX, &lsn, err);
    if (!rc) rc = query_done(&q, err);
    if (!rc) rc = service_acquire(app->service, req->params[0].text, req->may_block, &db, err);
    if (rc) return rc;
    database_lsns(db, &last, &durable);
    if (lsn == UINT64_MAX) lsn = last;
    if (lsn > last) {
        rc = err_set(err, ERR_INVALID_REQUEST,
                     "no write has LSN %" PRIu64
                     " yet: the last one of database \"%s\" has %" PRIu64,
                     lsn, database_name(db), last);
        goto out;
    }
    buf_printf(answer_json(res, 200), "{\"durable_lsn\":%" PRIu64 "}\n",
               lsn > durable ? lsn : durable);
    answer_waits(res, db, lsn, DURABILITY_SYNCED);
out:
    service_release(db);
    return rc;
}

enum err_code databases_compact(struct api_app *app, struct api_request *req,
                                struct api_response *res, struct err *err)
{
    struct compact_result result = {0};
    uint64_t begun = clock_ns();
    enum err_code rc = body_none(req, err);
    if (!rc) rc = service_compact(app->service, req->params[0].text, &result, err);
    if (rc) return rc;
    struct buf *out = answer_json(res, 200);
    buf_str(out, "{\"name\":");
    json_put_str(out, req->params[0].text);
    buf_printf(out,
               ",\"vector_count\":%" PRIu64 ",\"bytes_before\":%" PRIu64 ",\"bytes_after\":%" PRIu64
               ",\"duration_ms\":",
               result.rows, result.bytes_before, result.bytes_after);
    json_put_double(out, (double)(clock_ns() - begun) / 1e6);
    buf_str(out, "}\n");
    return ERR_OK;
}
