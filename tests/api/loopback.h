/* loopback.h - a request through api/ without a server, as server/exchange.c would run it. */
#ifndef TESTS_API_LOOPBACK_H
#define TESTS_API_LOOPBACK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>

#include "api/api.h"

/* The answer of one request, copied. */
struct answer {
    int status;
    char *body; /* NUL-terminated */
    size_t len;
    char content_type[64], request_id[65], allow[96], warning[128], etag[32];
    uint32_t retry_after_seconds;
    bool close, deferred, has_parts, streamed;
    char headers[1024]; /* "Name: value\n"... */
    json_t *json;       /* of the body, NULL if it is none */
};

/* What a request is made of besides method, path and body; zeroes are the usual. */
struct extras {
    const char *content_type, *content_encoding, *authorization, *api_key, *request_id, *origin;
    size_t body_bytes; /* of a body that is no text; 0: up to its zero byte */
    size_t slice;      /* of a streamed body; 0: whole */
    bool no_length;    /* a body of unknown length */
    uint64_t claimed;  /* Content-Length without sending anything, to see it refused */
    bool client_gone;  /* give up in the middle of a streamed answer */
};

static inline void answer_drop(struct answer *a)
{
    free(a->body);
    json_decref(a->json);
    *a = (struct answer){0};
}

static inline void loopback_done(void *ctx)
{
    __atomic_store_n((int *)ctx, 1, __ATOMIC_RELEASE);
}

static inline void *loopback_part(void *req)
{
    while (api_part(req))
        continue;
    return NULL;
}

/* On three threads. */
static inline void loopback_parts(struct api_request *req)
{
    pthread_t helpers[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&helpers[i], NULL, loopback_part, req), 0);
    loopback_part(req);
    for (int i = 0; i < 2; i++)
        pthread_join(helpers[i], NULL);
}

/* `target` is path and query.  Frees what *a held. */
static inline void loopback(struct api_app *app, struct answer *a, const char *method,
                            const char *target, const char *body, const struct extras *extras)
{
    static const struct extras usual;
    const struct extras *x = extras ? extras : &usual;
    struct api_request req = {0};
    struct api_response res = {0};
    struct err err;
    char *path = strdup(target), *query = strchr(path, '?');
    size_t len = x->body_bytes ? x->body_bytes : body ? strlen(body) : 0;
    char *text = calloc(1, len + 64);

    answer_drop(a);
    if (query) *query++ = 0;
    if (len) memcpy(text, body, len);
    req.method = method;
    req.path = path;
    req.query = query;
    req.content_type = x->content_type ? x->content_type : body ? "application/json" : NULL;
    req.content_encoding = x->content_encoding;
    req.authorization = x->authorization;
    req.api_key = x->api_key;
    req.request_id = x->request_id;
    req.origin = x->origin;
    req.chunked = x->no_length;
    req.has_content_length = (body && !x->no_length) || x->claimed;
    req.content_length = x->claimed ? x->claimed : req.has_content_length ? len : 0;

    enum api_next next = api_begin(app, &req, &res);
    if (next == API_STREAM) {
        req.may_block = true;
        size_t slice = x->slice ? x->slice : len;
        for (size_t at = 0; at < len; at += slice) {
            size_t n = len - at < slice ? len - at : slice;
            char *piece = malloc(n); /* exactly as long, for the sanitizer */
            memcpy(piece, text + at, n);
            enum err_code rc = api_feed(app, &req, piece, n, &err);
            free(piece);
            if (rc) break;
        }
        next = api_dispatch(app, &req, &res);
    } else if (next == API_BODY) {
        req.body = len ? text : NULL;
        req.body_bytes = len;
        req.may_block = false;
        next = api_dispatch(app, &req, &res);
        if (next == API_DEFER) {
            a->deferred = true;
            req.may_block = true;
            next = api_dispatch(app, &req, &res);
        }
    }
    if (next == API_PARTS) {
        a->has_parts = true;
        loopback_parts(&req);
        api_join(app, &req, &res);
        next = API_DONE;
    }
    assert_int_equal(next, API_DONE);
    int durable = 0;
    if (api_wait(&res, &req, loopback_done, &durable)) {
        while (!__atomic_load_n(&durable, __ATOMIC_ACQUIRE)) {
        }
        assert_false(api_wait(&res, &req, NULL, NULL));
    }
    a->streamed = res.produce != NULL;
    for (bool done = res.produce == NULL; !done && !x->client_gone;) {
        size_t before = res.body.len;
        if (res.produce(&req, &res.body, &done, &err)) {
            print_message("produce: %s\n", err.msg);
            break;
        }
        assert_true(done || res.body.len > before);
    }
    a->status = res.status;
    a->len = res.body.len;
    a->body = calloc(1, a->len + 1);
    if (a->len) memcpy(a->body, res.body.data, a->len);
    snprintf(a->content_type, sizeof a->content_type, "%s", res.content_type);
    memcpy(a->request_id, res.request_id, sizeof a->request_id);
    memcpy(a->allow, res.allow, sizeof a->allow);
    memcpy(a->warning, res.warning, sizeof a->warning);
    memcpy(a->etag, res.etag, sizeof a->etag);
    a->retry_after_seconds = res.retry_after_seconds;
    a->close = res.close;
    for (size_t i = 0; i < res.header_count; i++) {
        size_t used = strlen(a->headers);
        snprintf(a->headers + used, sizeof a->headers - used, "%s: %s\n", res.headers[i].name,
                 res.headers[i].value);
    }
    a->json = json_loadb(a->body, a->len, JSON_REJECT_DUPLICATES, NULL);
    api_end(app, &req, &res, true);
    free(path);
    free(text);
}

static inline const char *answer_code(const struct answer *a)
{
    const char *code =
        json_string_value(json_object_get(json_object_get(a->json, "error"), "code"));
    return code ? code : "";
}

static inline const char *answer_message(const struct answer *a)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(a->json, "error"), "message"));
    return text ? text : "";
}

/* Fails with the whole answer unless it has this status (and this code, unless NULL). */
#define expect(a, wanted, code)                                                                    \
    do {                                                                                           \
        if ((a)->status != (wanted) || (code && strcmp(answer_code(a), code ? code : "") != 0))    \
            fail_msg("%d %s, wanted %d %s", (a)->status, (a)->body, wanted, code ? code : "");     \
    } while (0)

#endif
