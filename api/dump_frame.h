/*
 * dump_frame.h - finds the pieces of a JSON dump that arrives in arbitrary slices.
 *
 *     {"databases":[{"name":..,"schema":{..},"vectors":[{..}, ..]}, ..]}
 *     {"name":..,"schema":{..},"vectors":[..]}                     (only with `single`)
 *
 * A state machine over bytes that buffers one value at a time, so memory is bounded whatever the
 * length of the dump.  It knows the frame; the values are only delimited here and are to be parsed
 * by whoever gets them.  One thread at a time.
 */
#ifndef API_DUMP_FRAME_H
#define API_DUMP_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/base/buf.h"
#include "storage/base/err.h"

enum { DUMP_ROW_BYTES_MAX = 8 * 1024 * 1024, DUMP_FIELD_BYTES_MAX = 64 * 1024 };

/* Text is followed by a zero byte and gone after the call; `at` is its position in the dump.  An
 * error ends everything. */
struct dump_events {
    enum err_code (*database_begin)(void *ctx, struct err *err);
    enum err_code (*name)(void *ctx, const char *json, size_t len, uint64_t at, struct err *err);
    enum err_code (*schema)(void *ctx, const char *json, size_t len, uint64_t at, struct err *err);
    enum err_code (*vectors_begin)(void *ctx, struct err *err);
    enum err_code (*row)(void *ctx, const char *json, size_t len, uint64_t at, struct err *err);
    enum err_code (*database_end)(void *ctx, struct err *err);
};

struct dump_frame {
    const struct dump_events *events;
    void *ctx;
    bool single; /* the document may be one database */
    bool bare;   /* and is */
    int level, expect, field;
    unsigned seen;
    uint64_t at;
    /* The value that is being collected. */
    struct buf text;
    uint64_t text_at;
    size_t text_bytes_max;
    int kind;
    size_t depth;
    bool in_string, escaped;
};

void dump_frame_init(struct dump_frame *f, const struct dump_events *events, void *ctx,
                     bool single);
void dump_frame_deinit(struct dump_frame *f);

/* ERR_INVALID_JSON, ERR_INVALID_REQUEST, ERR_PAYLOAD_TOO_LARGE (one value), or of an event. */
MUST_CHECK enum err_code dump_frame_feed(struct dump_frame *f, const char *data, size_t len,
                                         struct err *err);
/* ERR_INVALID_JSON unless the document is complete. */
MUST_CHECK enum err_code dump_frame_end(struct dump_frame *f, struct err *err);

#endif
