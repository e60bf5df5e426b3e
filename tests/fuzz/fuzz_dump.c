/*
 * fuzz_dump.c - dumps that are restored or imported: the frame is found whatever the slices, and
 * what was taken from a dump is exported and imported again without loss.
 *
 * An input is flags (first byte), and the dump.
 */
#include "tests/fuzz/fuzz.h"

#include "api/dump_frame.h"
#include "storage/base/crc32c.h"

enum { SINGLE = 1 }; /* the other bits: the size of slices */

/* ---- the frame ---- */

/* Everything that the frame told. */
struct told {
    uint32_t crc;
    uint64_t events;
};

static void tell(struct told *t, char kind, const char *json, size_t len, uint64_t at)
{
    t->crc = crc32c(t->crc, &kind, 1);
    t->crc = crc32c(t->crc, &at, sizeof at);
    t->crc = crc32c(t->crc, json, len);
    t->events++;
    CLAIM(json[len] == 0);
}

static enum err_code on_begin(void *ctx, struct err *err)
{
    (void)err;
    tell(ctx, 'b', "", 0, 0);
    return ERR_OK;
}

static enum err_code on_vectors(void *ctx, struct err *err)
{
    (void)err;
    tell(ctx, 'v', "", 0, 0);
    return ERR_OK;
}

static enum err_code on_end(void *ctx, struct err *err)
{
    (void)err;
    tell(ctx, 'e', "", 0, 0);
    return ERR_OK;
}

static enum err_code on_name(void *ctx, const char *json, size_t len, uint64_t at, struct err *err)
{
    (void)err;
    tell(ctx, 'n', json, len, at);
    return ERR_OK;
}

static enum err_code on_schema(void *ctx, const char *json, size_t len, uint64_t at,
                               struct err *err)
{
    (void)err;
    tell(ctx, 's', json, len, at);
    return ERR_OK;
}

static enum err_code on_row(void *ctx, const char *json, size_t len, uint64_t at, struct err *err)
{
    (void)err;
    tell(ctx, 'r', json, len, at);
    return ERR_OK;
}

static enum err_code frame(const uint8_t *data, size_t size, size_t slice, bool single,
                           struct told *told, struct err *err)
{
    static const struct dump_events events = {on_begin,   on_name, on_schema,
                                              on_vectors, on_row,  on_end};
    struct dump_frame f;
    enum err_code rc = ERR_OK;
    dump_frame_init(&f, &events, told, single);
    for (size_t at = 0; at < size && !rc; at += slice) {
        size_t n = size - at < slice ? size - at : slice;
        char *piece = malloc(n); /* exactly as long, for the sanitizer */
        CLAIM(piece);
        memcpy(piece, data + at, n);
        rc = dump_frame_feed(&f, piece, n, err);
        free(piece);
    }
    if (!rc) rc = dump_frame_end(&f, err);
    dump_frame_deinit(&f);
    return rc;
}

/* ---- import ---- */

static struct api_app *app(void)
{
    static struct api_app the_app;
    static struct service *service;
    struct api_options options = {.max_body_bytes = 1 << 26};
    struct err err;
    if (service) return &the_app;
    service = fuzz_service_in_memory();
    CLAIM(!api_app_init(&the_app, service, &options, &err));
    return &the_app;
}

static void drop_all(struct service *service)
{
    struct database_info *infos;
    size_t count, total;
    bool more;
    struct err err;
    CLAIM(!service_list(service, NULL, NULL, 1000, true, &infos, &count, &total, &more, &err));
    for (size_t i = 0; i < count; i++)
        CLAIM(!service_drop(service, infos[i].name, &err));
    service_list_free(infos, count);
}

static int import(const char *target, const char *dump, size_t bytes, size_t slice)
{
    return fuzz_request(app(), "POST", target, "application/json", dump, bytes, slice, NULL);
}

static void export_all(struct buf *out)
{
    CLAIM(fuzz_request(app(), "POST", "/api/v1/export", "application/json", "{}", 2, 2, out) ==
          200);
    CLAIM(!out->failed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    bool single = data[0] & SINGLE;
    size_t slice = 1 + data[0] / 2;
    struct told whole = {0}, sliced = {0};
    struct err a = {0}, b = {0};
    data++;
    size--;
    enum err_code rc = frame(data, size, size, single, &whole, &a);
    CLAIM(frame(data, size, slice, single, &sliced, &b) == rc);
    CLAIM(whole.crc == sliced.crc && whole.events == sliced.events);
    CLAIM(!rc || strcmp(a.msg, b.msg) == 0);

    struct buf once = {0}, twice = {0};
    const char *target = single ? "/api/v1/databases/d/restore" : "/api/v1/import";
    int status = import(target, (const char *)data, size, slice);
    CLAIM(status == 200 || (status >= 400 && status < 500));
    CLAIM(status != 200 || rc == ERR_OK);
    export_all(&once);
    drop_all(app()->service);
    CLAIM(import("/api/v1/import", once.data, once.len, 1000) == 200);
    export_all(&twice);
    drop_all(app()->service);
    CLAIM(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    buf_free(&once);
    buf_free(&twice);
    return 0;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    static const char *const dumps[] = {
        "\6{\"databases\":[{\"name\":\"d\",\"schema\":{\"dimension\":2,\"distance_metric\":"
        "\"cosine\"},\"vectors\":[{\"id\":1,\"data\":[1,0.5]},{\"id\":\"x y\",\"data\":[-1e-3,2],"
        "\"metadata\":{\"a\":\"}]\\\"\\\\\"}}]},{\"name\":\"e\",\"schema\":{\"dimension\":1,"
        "\"distance_metric\":\"l2\",\"durability\":\"periodic\"},\"vectors\":[]}]}",
        "\1{\"name\":\"q\",\"schema\":{\"dimension\":1,\"index\":{\"type\":\"hnsw\",\"m\":8},"
        "\"quantization\":{\"type\":\"int8\"},\"metadata_indexes\":{\"t\":\"text\"},"
        "\"description\":\"d\"},\"vectors\":[{\"id\":0,\"data\":[3]},{\"id\":0,\"data\":[4]}]}",
        "\377{\"databases\":[{\"schema\":{\"dimension\":3},\"name\":\"a.b-c\"}]}",
        "\11{\"databases\":[]}",
        "\4 { \"databases\" : [ { \"name\" : \"d\" , \"vectors\" : [ ] } ] } ",
    };
    for (size_t i = 0; i < sizeof dumps / sizeof *dumps; i++)
        fuzz_add_text(add, ctx, dumps[i]);
}
