/*
 * fuzz_batch.c - batches of rows as lines, as JSON and as numbers: taken or refused alike whatever
 * the slices, and what is stored is read back as it was.
 *
 * An input is flags (first byte), and the body.
 */
#include "tests/fuzz/fuzz.h"

enum { KIND_MASK = 3 }; /* the other bits: the size of slices */

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

/* Into an empty database; what it holds then. */
static int store(const uint8_t *data, size_t size, unsigned kind, size_t slice, struct buf *answer,
                 struct buf *stored)
{
    static const char *const types[] = {"application/x-ndjson", "application/json",
                                        "application/octet-stream", "application/x-ndjson"};
    struct schema schema = {.dimension = 3, .initial_capacity = 100};
    struct service *service = app()->service;
    struct err err;
    bool created;
    CLAIM(!service_create(service, "d", &schema, false, &created, &err));
    int status = fuzz_request(app(), "POST", "/api/v1/databases/d/vectors/batch", types[kind],
                              (const char *)data, size, slice, answer);
    CLAIM(fuzz_request(app(), "GET", "/api/v1/databases/d/export", NULL, NULL, 0, 1, stored) ==
          200);
    CLAIM(!service_drop(service, "d", &err));
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf answers[2] = {{0}, {0}}, stored[2] = {{0}, {0}};
    if (size < 1) return 0;
    unsigned kind = data[0] & KIND_MASK;
    size_t slice = 1 + data[0] / 4;
    data++;
    size--;
    int status = store(data, size, kind, size ? size : 1, &answers[0], &stored[0]);
    CLAIM(status == 200 || (status >= 400 && status < 500));
    CLAIM(store(data, size, kind, slice, &answers[1], &stored[1]) == status);
    CLAIM(stored[0].len == stored[1].len &&
          memcmp(stored[0].data, stored[1].data, stored[0].len) == 0);
    if (status == 200) {
        CLAIM(answers[0].len == answers[1].len &&
              memcmp(answers[0].data, answers[1].data, answers[0].len) == 0);
    }
    for (int i = 0; i < 2; i++) {
        buf_free(&answers[i]);
        buf_free(&stored[i]);
    }
    return 0;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    static const char *const bodies[] = {
        "\40{\"vector_id\":1,\"data\":[1,2,3]}\n\n{\"vector_id\":\"a\",\"data\":[0,0,1],"
        "\"metadata\":{\"a\":[1,\"\\n\"]}}\r\n{\"data\":[1e-3,2,3]}",
        "\10{\"vector_id\":1,\"data_base64\":\"AACAPwAAAEAAAEBA\"}\n{\"vector_id\":1,"
        "\"data\":[3,2,1]}\n",
        "\10{\"vector_id\":1,\"data\":[1,2,3]}\n{\"vector_id\":2,\"data\":[1,2]}\n",
        "\1{\"vectors\":[{\"vector_id\":1,\"data\":[1,2,3]},{\"data\":[3,2,1]}]}",
        "\12abcdefghijklabcdefghijkl",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        fuzz_add_text(add, ctx, bodies[i]);
}
