/*
 * index_measure.c - what recall an effort gives on these rows, and what live searches had.
 *
 * CALIBRATION.  Rows of the graph are taken as queries, as if they were not there.  Their nearest
 * rows are found by comparing all; then the graph is searched for them with more and more
 * candidates.  The table of the recalls is what searches choose their effort by.
 *
 * Some hundred queries make a table (and a few of them one that is there sooner); with its standard
 * errors it is good enough to keep a promise, but not cheaply.  In idle time it is made again of
 * more of them, batch by batch, until the errors near the recalls that are asked for are small, or
 * too much has been computed.
 *
 * SAMPLES are live searches; rows that came or ended since are left out of the comparison.
 *
 * Recall counts by distance: any row not farther away than the k-th nearest is a hit.
 *
 * Both compare a block of rows with all queries at a time, so that rows are read once.
 */
#include "storage/index/index_work.h"

#include <math.h>
#include <string.h>

#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/index/effort.h"
#include "storage/index/search.h"

enum {
    FIRST_QUERIES = 60, /* a table of large errors, which is soon there: better than a guess */
    BATCH_QUERIES = 300,
    BATCH_BYTES = 64 << 20, /* of queries */
    QUERIES_MAX = 2400,
    QUERIES_MIN = 100,
    BUDGET_S = 20, /* of exact distances */
    KEPT = 120,    /* nearest rows of a query: some may end meanwhile   */
    K_MAX = 100,
    FEW_QUERIES = 100,     /* where nearly all is found: that costs more */
    MANY_CANDIDATES = 300, /* at least, before queries are few           */
    BLOCK_BYTES_MAX = 1 << 20,
    BLOCK_ROWS_MAX = 512,
    GROWN_PERCENT = 25, /* more or fewer rows: measured again */
    SAMPLES_REST_S = 10,
    AVERAGED = 64, /* samples that the moving average is about */
};

/* Of k = 10.  Recalls that matter; below and above, errors may be what they are. */
#define MATTERS_FROM 0.85
#define MATTERS_TO   0.995
/* Two standard errors are small next to what is missed. */
#define PRECISION      0.1
#define PRECISION_BEST 0.002

static const uint32_t ladder[EFFORT_STEPS] = {10,  16,  24,  32,  48,  64,   96,   128,
                                              192, 256, 384, 512, 768, 1024, 1536, 2048};

struct truth {
    uint32_t count;
    uint32_t slots[KEPT];
    double distances[KEPT]; /* nearest first */
};

/* A query and what belongs to it. */
struct subject {
    const float *vector;
    struct exact exact;
    uint32_t hidden; /* UINT32_MAX: none */
    uint64_t lsn;    /* of rows to be compared, UINT64_MAX: all */
    struct truth truth;
    double recall[EFFORT_KS];  /* of the last step of the ladder */
    uint32_t asked[EFFORT_KS]; /* with so many candidates */
};

/* Recalls with one number of candidates, of all batches. */
struct step_sums {
    uint32_t count;
    double sum[EFFORT_KS], squares[EFFORT_KS];
};

struct measurement {
    bool is_calibration;
    bool is_climbing; /* the nearest rows are known */
    uint64_t work_ns;
    float *vectors;
    struct subject *subjects;
    uint32_t count;
    struct sample *samples; /* NULL: calibration */

    /* Finding the nearest rows. */
    uint32_t next_slot, end_slot;
    struct {
        uint32_t count, room;
        float *numbers;
        const float *rows[BLOCK_ROWS_MAX];
        uint32_t slots[BLOCK_ROWS_MAX];
        uint64_t births[BLOCK_ROWS_MAX];
    } block;

    /* The ladder. */
    uint32_t step;
    struct step_sums sums[EFFORT_STEPS];
    struct effort_table table;
    bool replaces;             /* the table that there is, however good that is */
    uint64_t batch_ns;         /* what it cost when there was a table of a whole batch */
    uint32_t queries_max;      /* of all batches */
    uint64_t shuffled, looked; /* rows are taken in the order that begins at `shuffled` */

    const struct index_work *w; /* while it is worked on */
    struct graph *graph;
    _Atomic uint32_t next;
    _Atomic bool failed;
};

void measurement_free(struct measurement *m)
{
    if (!m) return;
    mem_free(m->vectors);
    mem_free(m->subjects);
    mem_free(m->samples);
    mem_free(m->block.numbers);
    mem_free(m);
}

/* ---- when ---- */

static bool has_changed(const struct effort_table *t, uint64_t rows)
{
    uint64_t difference = rows > t->rows ? rows - t->rows : t->rows - rows;
    return difference * 100 > t->rows * GROWN_PERCENT;
}

static bool is_step_precise(const struct effort_table *t, uint32_t i)
{
    double missed = 1 - t->recall[1][i];
    return 2 * t->error[1][i] <= fmax(PRECISION * missed, PRECISION_BEST);
}

static bool is_precise(const struct effort_table *t)
{
    for (uint32_t i = 0; i < t->steps; i++) {
        bool matters = t->recall[1][i] >= MATTERS_FROM && t->recall[1][i] <= MATTERS_TO;
        if (matters && !is_step_precise(t, i)) return false;
    }
    return true;
}

/* Of a calibration that goes on to its end. */
static uint32_t query_count(const struct index_work *w, uint64_t rows)
{
    uint64_t ns = rows * (8 + w->ix->dimension / 10) + 1;
    uint64_t count = BUDGET_S * SECOND_NS / ns;
    if (count > QUERIES_MAX) count = QUERIES_MAX;
    if (count < QUERIES_MIN) count = QUERIES_MIN;
    uint32_t most = atomic_load_explicit(&w->ix->queries_max, memory_order_relaxed);
    return most && count > most ? most : (uint32_t)count;
}

/* More queries are not worth while, or would be not many more: it need not be done again whenever
 * the database is opened. */
static bool is_final(const struct index_work *w, const struct effort_table *t)
{
    uint64_t most = query_count(w, t->rows);
    if (most > t->rows) most = t->rows;
    return t->queries * 2 >= most || is_precise(t);
}

static uint64_t calibration_due(const struct index_work *w)
{
    const struct vector_index *ix = w->ix;
    const struct graph *g = work_graph(w);
    if (!g || atomic_load(&g->linked_count) < 2) return UINT64_MAX;
    const struct effort_table *t = atomic_load_explicit(&ix->effort, memory_order_relaxed);
    if (!t || has_changed(t, atomic_load(&g->linked_count))) return 0;
    bool is_due = ix->measure_again || (!ix->measured_well && !is_final(w, t));
    return is_due ? work_idle_at(w, ix->measured_ns) : UINT64_MAX;
}

static uint64_t samples_due(const struct index_work *w)
{
    struct vector_index *ix = w->ix;
    if (!work_graph(w)) return UINT64_MAX;
    mutex_lock(&ix->samples.mu);
    bool any = ix->samples.count > 0;
    mutex_unlock(&ix->samples.mu);
    if (!any) return UINT64_MAX;
    if (atomic_load(&ix->hurry)) return 0;
    uint64_t rest = 50 * ix->sampled_ns;
    if (rest < SAMPLES_REST_S * SECOND_NS) rest = SAMPLES_REST_S * SECOND_NS;
    return ix->sampled_at_ns + rest;
}

uint64_t measurement_due(const struct index_work *w)
{
    uint64_t calibration = calibration_due(w), samples = samples_due(w);
    return calibration < samples ? calibration : samples;
}

/* ---- begin ---- */

static bool make_room(struct index_work *w, struct measurement *m, uint32_t queries)
{
    size_t row_bytes = w->ix->dimension * sizeof(float);
    size_t rows = BLOCK_BYTES_MAX / row_bytes;
    m->block.room = rows < 1 ? 1 : rows > BLOCK_ROWS_MAX ? BLOCK_ROWS_MAX : (uint32_t)rows;
    m->block.numbers = mem_try(m->block.room * row_bytes);
    m->vectors = mem_try(queries * row_bytes);
    m->subjects = mem_try(queries * sizeof *m->subjects);
    for (uint32_t i = 0; i < m->block.room; i++)
        m->block.rows[i] = m->block.numbers + (size_t)i * w->ix->dimension;
    return m->block.numbers && m->vectors && m->subjects;
}

static struct subject *add_subject(struct index_work *w, struct measurement *m, const float *vector)
{
    float *copy = m->vectors + (size_t)m->count * w->ix->dimension;
    struct subject *s = &m->subjects[m->count++];
    memcpy(copy, vector, w->ix->dimension * sizeof *copy);
    *s = (struct subject){.vector = copy, .hidden = UINT32_MAX, .lsn = UINT64_MAX};
    s->exact = exact_init(w->db, copy);
    return s;
}

static uint32_t batch_size(const struct index_work *w)
{
    uint64_t room = BATCH_BYTES / (w->ix->dimension * sizeof(float));
    return room < 1 ? 1 : room < BATCH_QUERIES ? (uint32_t)room : BATCH_QUERIES;
}

/* A sample of the rows of the graph: the next ones. */
static void choose_queries(struct index_work *w, struct measurement *m, struct graph *g)
{
    unsigned bits = work_shuffle_bits(m->end_slot);
    uint64_t all = UINT64_C(1) << bits;
    uint32_t asked = m->table.queries, left = m->queries_max - asked, most = batch_size(w);
    if (asked < BATCH_QUERIES) {
        uint32_t next = asked ? BATCH_QUERIES - asked : FIRST_QUERIES;
        if (most > next) most = next;
    }
    if (most > left) most = left;
    m->count = 0;
    for (; m->looked < all && m->count < most && !work_is_cancelled(w); m->looked++) {
        uint64_t slot = work_shuffle((m->shuffled + m->looked) & (all - 1), bits);
        const struct slot *s;
        const float *row;
        if (slot >= m->end_slot || !work_is_linked(g, (uint32_t)slot)) continue;
        epoch_enter();
        if (work_slot(w, (uint32_t)slot, &s) && SLOT_GET(s->death) == SLOT_NEVER &&
            work_row(w, (uint32_t)slot, s, &row))
            add_subject(w, m, row)->hidden = (uint32_t)slot;
        epoch_leave();
    }
}

static struct measurement *calibration_new(struct index_work *w)
{
    struct graph *g = work_graph(w);
    uint32_t linked = atomic_load(&g->linked_count);
    struct measurement *m = mem_new(struct measurement);
    m->is_calibration = true;
    m->end_slot = atomic_load(&g->node_count);
    m->queries_max = query_count(w, linked);
    m->shuffled = clock_ns();
    m->table.rows = linked;
    m->replaces = w->ix->measure_again;
    w->ix->measure_again = false;
    w->ix->measured_well = false;
    if (!make_room(w, m, batch_size(w))) {
        measurement_free(m);
        return NULL;
    }
    choose_queries(w, m, g);
    return m;
}

static struct measurement *sampling_new(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    struct samples *from = &ix->samples;
    struct measurement *m = mem_new(struct measurement);
    m->samples = mem_zalloc(SAMPLES_MAX * sizeof *m->samples);
    m->end_slot = atomic_load_explicit(&w->db->slot_count, memory_order_acquire);
    mutex_lock(&from->mu);
    uint32_t count = from->count;
    memcpy(m->samples, from->list, count * sizeof *m->samples);
    from->count = 0;
    mutex_unlock(&from->mu);
    bool good = make_room(w, m, count ? count : 1);
    for (uint32_t i = 0; i < count; i++) {
        if (good) add_subject(w, m, m->samples[i].query)->lsn = m->samples[i].lsn;
        mem_free(m->samples[i].query);
    }
    ix->sampled_at_ns = clock_ns();
    if (good) return m;
    measurement_free(m);
    return NULL;
}

void measurement_start(struct index_work *w)
{
    w->ix->measurement = calibration_due(w) <= clock_ns() ? calibration_new(w) : sampling_new(w);
    if (!w->ix->measurement) w->ix->not_before_ns = clock_ns() + SECOND_NS;
}

/* ---- the nearest rows ---- */

/* Copy the next rows into the block; without holding back the world for long. */
static void load_block(struct index_work *w, struct measurement *m)
{
    size_t n = w->ix->dimension;
    m->block.count = 0;
    epoch_enter();
    for (; m->next_slot < m->end_slot && m->block.count < m->block.room; m->next_slot++) {
        uint32_t slot = m->next_slot, at = m->block.count;
        const struct slot *s;
        const float *row;
        if (m->is_calibration && !work_is_linked(m->graph, slot)) continue;
        if (!work_slot(w, slot, &s)) break;
        if (SLOT_GET(s->death) != SLOT_NEVER) continue;
        m->block.births[at] = SLOT_GET(s->birth);
        if (m->block.births[at] == SLOT_NEVER) continue;
        if (!work_row(w, slot, s, &row)) break;
        memcpy(m->block.numbers + (size_t)at * n, row, n * sizeof *row);
        m->block.slots[at] = slot;
        m->block.count++;
    }
    epoch_leave();
}

static void offer(struct truth *t, uint32_t slot, double distance)
{
    if (t->count == KEPT && distance >= t->distances[KEPT - 1]) return;
    uint32_t at = t->count < KEPT ? t->count++ : KEPT - 1;
    for (; at > 0 && t->distances[at - 1] > distance; at--) {
        t->distances[at] = t->distances[at - 1];
        t->slots[at] = t->slots[at - 1];
    }
    t->distances[at] = distance;
    t->slots[at] = slot;
}

static void compare_some(void *ctx)
{
    struct measurement *m = ctx;
    double distances[BLOCK_ROWS_MAX];
    for (;;) {
        uint32_t q = atomic_fetch_add_explicit(&m->next, 1, memory_order_relaxed);
        if (q >= m->count) return;
        struct subject *s = &m->subjects[q];
        work_distances(&s->exact, m->block.rows, m->block.count, distances);
        for (uint32_t i = 0; i < m->block.count; i++)
            if (m->block.slots[i] != s->hidden && m->block.births[i] <= s->lsn)
                offer(&s->truth, m->block.slots[i], distances[i]);
    }
}

/* True: all are found. */
static bool find_truth(struct index_work *w, struct measurement *m)
{
    while (m->next_slot < m->end_slot) {
        if (work_is_over(w)) return false;
        load_block(w, m);
        if (work_is_cancelled(w)) return false;
        atomic_store(&m->next, 0);
        team_run(w->team, TEAM_MAX, compare_some, m);
    }
    return true;
}

/* ---- the ladder ---- */

/* The distance of the k-th nearest row that lives still; *k: or of the last one. */
static double nearest_alive(struct reader *r, const struct truth *t, uint32_t *k)
{
    uint32_t alive = 0;
    double distance = 0;
    for (uint32_t i = 0; i < t->count && alive < *k; i++) {
        const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, t->slots[i]);
        if (!s || SLOT_GET(s->death) <= r->lsn) continue;
        alive++;
        distance = t->distances[i];
    }
    *k = alive;
    return distance;
}

static double share(const double *distances, size_t count, double bound, uint32_t k)
{
    uint32_t hits = 0;
    for (size_t i = 0; i < count && i < k; i++)
        hits += distances[i] <= bound;
    return k ? (double)hits / k : 1;
}

/* What a search with `ef` candidates finds of the nearest. */
static enum err_code search_row(struct measurement *m, struct reader *r, struct subject *s, int row,
                                uint32_t ef)
{
    struct err err;
    uint32_t slots[K_MAX], k = effort_ks[row];
    double distances[K_MAX];
    size_t count;
    enum err_code rc = search_graph_only(r, m->graph, s->vector, ef, k, s->hidden, slots, distances,
                                         &count, NULL, &err);
    if (rc) return rc;
    for (int of = row; of >= (row == 1 ? 0 : row); of--) {
        uint32_t wanted = effort_ks[of];
        double bound = nearest_alive(r, &s->truth, &wanted);
        s->recall[of] = share(distances, count, bound, wanted);
    }
    return ERR_OK;
}

/* Search for 10 and for 100: what is found first of the 10 is what a search for one finds.  No
 * search has fewer candidates than results and one more. */
static bool search_subject(struct measurement *m, struct subject *s, uint32_t ef)
{
    struct reader r;
    enum err_code rc = ERR_OK;
    reader_begin(m->w->db, &r);
    for (int row = 1; row < EFFORT_KS && !rc; row++) {
        uint32_t candidates = ef > effort_ks[row] ? ef : effort_ks[row] + 1;
        if (s->asked[row] == candidates) continue; /* on the step before this one */
        rc = search_row(m, &r, s, row, candidates);
        s->asked[row] = candidates;
    }
    reader_end(&r);
    return rc == ERR_OK;
}

/* Queries of this step of the ladder. */
static uint32_t step_queries(const struct measurement *m)
{
    const struct effort_table *t = &m->table;
    uint32_t i = m->step;
    bool is_easy = i > 0 && t->recall[1][i - 1] >= 0.97f && t->recall[2][i - 1] >= 0.97f;
    bool few = ladder[i] > MANY_CANDIDATES && is_easy && m->count > FEW_QUERIES;
    return few ? FEW_QUERIES : m->count;
}

static void search_some(void *ctx)
{
    struct measurement *m = ctx;
    uint32_t count = step_queries(m);
    while (!work_is_over(m->w) && !atomic_load_explicit(&m->failed, memory_order_relaxed)) {
        uint32_t q = atomic_fetch_add_explicit(&m->next, 1, memory_order_relaxed);
        if (q >= count) return;
        if (!search_subject(m, &m->subjects[q], ladder[m->step])) atomic_store(&m->failed, true);
    }
}

static void take_over(struct effort_table *t, int to_row, uint32_t to, int row, uint32_t i)
{
    if (t->recall[to_row][to] >= t->recall[row][i]) return;
    t->recall[to_row][to] = t->recall[row][i];
    t->error[to_row][to] = t->error[row][i];
}

/* The means over all queries so far.  None is less than with fewer candidates; and one row is not
 * harder to find than ten, but its mean has the larger error. */
static void fill_step(struct effort_table *t, uint32_t i, const struct step_sums *sums)
{
    const double n = sums->count;
    t->ef[i] = ladder[i];
    for (int row = 0; row < EFFORT_KS; row++) {
        double mean = sums->sum[row] / n, variance = sums->squares[row] / n - mean * mean;
        t->recall[row][i] = (float)mean;
        t->error[row][i] = (float)sqrt(fmax(variance, 0) / n);
        if (i > 0) take_over(t, row, i, row, i - 1);
    }
    take_over(t, 0, i, 1, i);
}

static void note_step(struct measurement *m)
{
    struct step_sums *sums = &m->sums[m->step];
    uint32_t count = step_queries(m);
    sums->count += count;
    for (int row = 0; row < EFFORT_KS; row++) {
        for (uint32_t q = 0; q < count; q++) {
            double recall = m->subjects[q].recall[row];
            sums->sum[row] += recall;
            sums->squares[row] += recall * recall;
        }
    }
    if (m->step == m->table.steps) m->table.steps++;
    for (uint32_t i = m->step; i < m->table.steps; i++)
        fill_step(&m->table, i, &m->sums[i]);
}

/* The ladder is high enough. */
static bool is_enough(const struct measurement *m)
{
    const struct effort_table *t = &m->table;
    uint32_t last = t->steps - 1;
    bool nearly_all = t->recall[1][last] >= 0.998f && t->recall[2][last] >= 0.99f;
    return t->steps == EFFORT_STEPS || nearly_all || t->ef[last] >= t->rows;
}

/* On to the next step that is worth while.  False: there is none. */
static bool next_step(struct measurement *m)
{
    atomic_store(&m->next, 0);
    while (++m->step < m->table.steps) {
        bool is_known = m->sums[m->step].count >= FEW_QUERIES;
        if (!is_known || !is_step_precise(&m->table, m->step)) return true;
    }
    return !is_enough(m);
}

/* True: it is measured with the queries of this batch. */
static bool climb(struct index_work *w, struct measurement *m)
{
    do {
        team_run(w->team, TEAM_MAX, search_some, m);
        if (work_is_cancelled(w) || atomic_load(&m->failed)) return false;
        if (atomic_load(&m->next) < step_queries(m)) return false;
        note_step(m);
    } while (next_step(m));
    m->table.queries += m->count;
    return true;
}

/* Not in the place of a better one. */
static void publish_table(struct index_work *w, const struct measurement *m)
{
    const struct effort_table *old = atomic_load(&w->ix->effort);
    bool is_newer = !old || has_changed(old, m->table.rows) || m->replaces;
    if (!is_newer && old->queries > m->table.queries) return;
    struct effort_table *t = mem_new(struct effort_table);
    *t = m->table;
    vector_index_retire(atomic_exchange(&w->ix->effort, t));
    double expected = 0, ef = effort_measured(t, 0.95, 10, &expected);
    log_debug("database \"%s\": %.0f candidates find 10 rows with a recall of 0.95 (%u queries)",
              w->db->name, ef, t->queries);
}

/* One batch is done.  True: so is the calibration. */
static bool end_batch(struct index_work *w, struct measurement *m)
{
    publish_table(w, m);
    if (m->table.queries <= BATCH_QUERIES) m->batch_ns = m->work_ns;
    bool is_stale = has_changed(&m->table, atomic_load(&m->graph->linked_count));
    if (is_stale) return true;
    if (m->table.queries >= BATCH_QUERIES) {
        if (work_idle_at(w, m->batch_ns) > clock_ns()) return true;
        w->ix->measured_well = is_precise(&m->table);
        if (w->ix->measured_well) return true;
    }
    choose_queries(w, m, m->graph);
    w->ix->measured_well = m->count == 0; /* as well as may be */
    m->is_climbing = false;
    m->next_slot = 0;
    m->step = 0;
    return m->count == 0;
}

/* ---- samples ---- */

/* Rows of the answer that live still, against as many of the nearest. */
static bool sample_recall(struct index_work *w, const struct sample *sample,
                          const struct subject *subject, double *recall)
{
    double distances[SAMPLE_RESULTS_MAX];
    uint32_t alive = 0, k = sample->count;
    epoch_enter();
    for (uint32_t i = 0; i < sample->count; i++) {
        const struct slot *s;
        const float *row;
        if (!work_slot(w, sample->slots[i], &s)) break;
        if (SLOT_GET(s->death) != SLOT_NEVER || SLOT_GET(s->birth) > sample->lsn) continue;
        if (!work_row(w, sample->slots[i], s, &row)) break;
        work_distances(&subject->exact, &row, 1, &distances[alive++]);
    }
    epoch_leave();
    if (work_is_cancelled(w) || alive * 2 < k || alive == 0) return false;
    uint32_t wanted = alive < subject->truth.count ? alive : subject->truth.count;
    if (wanted == 0) return false;
    *recall = share(distances, alive, subject->truth.distances[wanted - 1], wanted);
    if (*recall > 1) *recall = 1;
    return true;
}

static void note_samples(struct index_work *w, struct measurement *m)
{
    struct vector_index *ix = w->ix;
    for (uint32_t i = 0; i < m->count; i++) {
        double recall;
        if (!sample_recall(w, &m->samples[i], &m->subjects[i], &recall)) continue;
        uint64_t n = atomic_fetch_add(&ix->recall_samples, 1) + 1;
        double before = atomic_load(&ix->recall_ppm) / 1e6;
        double now = before + (recall - before) / (double)(n < AVERAGED ? n : AVERAGED);
        atomic_store(&ix->recall_ppm, (uint32_t)(now * 1e6 + 0.5));
    }
}

uint64_t measurement_go_on(struct index_work *w)
{
    struct vector_index *ix = w->ix;
    struct measurement *m = ix->measurement;
    uint64_t begun = clock_ns();
    m->w = w;
    m->graph = work_graph(w);
    bool done = m->count == 0;
    if (!done && !m->is_climbing && find_truth(w, m)) {
        m->is_climbing = m->is_calibration;
        done = !m->is_calibration;
        atomic_store(&m->next, 0);
        if (done) note_samples(w, m);
    }
    bool is_measured = m->is_climbing && climb(w, m);
    m->work_ns += clock_ns() - begun;
    if (is_measured) done = end_batch(w, m);
    if (atomic_load(&m->failed)) ix->not_before_ns = clock_ns() + SECOND_NS;
    if (!done && !atomic_load(&m->failed)) return 0;
    if (m->is_calibration)
        ix->measured_ns = m->batch_ns ? m->batch_ns : m->work_ns;
    else
        ix->sampled_ns = m->work_ns;
    measurement_free(m);
    ix->measurement = NULL;
    return 0;
}
