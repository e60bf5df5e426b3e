/* effort.h - from what was measured to the number of candidates that a recall takes. */
#ifndef STORAGE_INDEX_EFFORT_H
#define STORAGE_INDEX_EFFORT_H

#include "storage/index/vector_index.h"

/* Of the EFFORT_KS rows of a table. */
extern const uint32_t effort_ks[EFFORT_KS];

/* Candidates that find the `k` nearest with `recall`, by a table: the measured recall less twice
 * its standard error reaches it, and a tenth of what may be missed is kept in reserve; between
 * steps and ks it is interpolated.  *expected is the recall that was measured there. */
double effort_measured(const struct effort_table *t, double recall, size_t k, double *expected);
/* Now that there are more rows than when it was measured.  On data that are hard to search the
 * effort grows about with the square root of their number, else more slowly. */
double effort_grown(double effort, double measured_rows, double rows);
/* Candidates of a search that names no effort, at least.  Audits see to it that every row finds
 * itself with so many. */
enum { EFFORT_MIN = 10 };

/* Before anything was measured, for a graph of so many rows with such codes: careful, enough for
 * random rows of 64 dimensions. */
double effort_guessed(enum codec_kind codec, double rows, double recall, size_t k);

#endif
