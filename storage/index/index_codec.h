/*
 * index_codec.h - what codes suit the rows of a store: looked up on a sample of them.
 *
 * The mean is that of up to 20,000 rows.  Codes of 8 bits are good enough if the 10 nearest rows of
 * some 50 others are among the 30 nearest by codes in 98 of 100 cases, and the 3 nearest among 10
 * in 95; up to 200,000 rows are compared for that.  It takes several turns (index_work.h).
 */
#ifndef STORAGE_INDEX_INDEX_CODEC_H
#define STORAGE_INDEX_INDEX_CODEC_H

#include "storage/index/index_work.h"

struct codec_choice;

/* For the rows of slots below `slot_count` that live and were born at `lsn` or before.  NULL: out
 * of memory. */
struct codec_choice *codec_choice_new(const struct index_work *w, uint32_t slot_count,
                                      uint64_t lsn);
void codec_choice_free(struct codec_choice *c); /* NULL is fine */

/* Go on until the turn is over.  True: it is made. */
bool codec_choice_go_on(struct index_work *w, struct codec_choice *c);
bool codec_choice_failed(const struct codec_choice *c); /* out of memory */

/* Once it is made: kind, gain and mean (borrowed) for graph_new(). */
void codec_choice_result(const struct codec_choice *c, struct graph_options *options);
/* Would a graph with other codes than those of `g` be better? */
bool codec_choice_differs(const struct codec_choice *c, const struct graph *g);

#endif
