/* index_info.h - what can be said of a search index from outside (vector_index.h keeps it). */
#ifndef STORAGE_INDEX_INDEX_INFO_H
#define STORAGE_INDEX_INDEX_INFO_H

#include <stdint.h>

enum codec_kind { CODEC_INT8, CODEC_BINARY, CODEC_FLOAT32, CODEC_KIND_COUNT };
const char *codec_name(enum codec_kind kind); /* "int8", "binary", "float32" */

enum index_state {
    INDEX_STATE_NONE,     /* searched exactly, and will be */
    INDEX_STATE_BUILDING, /* exact for now */
    INDEX_STATE_LINKING,  /* rows are pending */
    INDEX_STATE_READY,
    INDEX_STATE_COUNT
};

struct vector_index_info {
    enum index_state state;
    enum codec_kind codec;
    uint64_t indexed_count, pending_count;
    double progress; /* 0 .. 1 */
    uint64_t eta_ms; /* 0: nothing to do or not known */
    uint64_t memory_bytes;
    double recall_estimate; /* of live searches that were done again; 0: none yet */
    uint64_t recall_samples;
};

#endif
