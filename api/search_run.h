/* search_run.h - one search of a snapshot: run it, write what it found, note what it took. */
#ifndef API_SEARCH_RUN_H
#define API_SEARCH_RUN_H

#include "api/api_private.h"
#include "api/json_vectors.h"

/* What a search did. */
struct search_run {
    struct search_report report;
    uint64_t row_count; /* in the snapshot */
    size_t count;       /* results */
    uint64_t took_ns;   /* in storage */
    uint64_t encode_ns;
};

/* Append the results to `out`, a JSON array.  The rest of its time goes to metrics and the log,
 * under `request_id`.  With may_block false: ERR_WOULD_COMPUTE if it takes long, or if its answer
 * does.  Any thread; one reader and one `out` for each. */
MUST_CHECK enum err_code search_run(const struct api_app *app, struct reader *r,
                                    struct search_request *search, bool may_block,
                                    const char *request_id, struct buf *out, struct search_run *run,
                                    struct err *err);

/* {"plan":...}; `parse_ns` is what came before. */
void put_explain(struct buf *out, const struct search_run *run, uint64_t parse_ns);

#endif
