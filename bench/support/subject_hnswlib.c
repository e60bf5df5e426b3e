/* subject_hnswlib.c - hnswlib as a subject; rows of unit length under cosine. */
#include "bench/support/client.h"
#include "bench/support/hnswlib_peer.h"
#include "bench/support/subjects.h"

static void set_ef(void *ctx, uint32_t ef)
{
    hnswlib_peer_set_ef(ctx, ef);
}

static size_t search(void *ctx, const float *query, uint32_t k, uint32_t ef, uint32_t *rows)
{
    (void)ef;
    return hnswlib_peer_search(ctx, query, k, rows);
}

static enum hnswlib_space space_of(enum metric metric)
{
    switch (metric) {
    case METRIC_EUCLIDEAN:
        return HNSWLIB_L2;
    case METRIC_MANHATTAN:
        return HNSWLIB_L1;
    default:
        return HNSWLIB_IP;
    }
}

void subject_hnswlib(struct subject *s, const struct dataset *set, const struct subject_options *o,
                     struct build_cost *cost)
{
    struct hnswlib_peer *p =
        hnswlib_peer_new(space_of(set->metric), set->dimension, set->base_count, o->m ? o->m : 16,
                         o->ef_construction ? o->ef_construction : 200);
    if (!p) bench_fail("no memory for hnswlib");
    const double cpu = measure_cpu_s(), wall = bench_now();
    if (!hnswlib_peer_add(p, set->base, 0, set->base_count, set->dimension, o->threads))
        bench_fail("hnswlib failed to insert");
    *cost = (struct build_cost){.cpu_s = measure_cpu_s() - cpu,
                                .wall_s = bench_now() - wall,
                                .row_bytes = (double)hnswlib_peer_row_bytes(p),
                                .codec = "float32"};
    *s = (struct subject){.name = "hnswlib", .ctx = p, .set_ef = set_ef, .search = search};
}

void subject_hnswlib_free(struct subject *s)
{
    hnswlib_peer_free(s->ctx);
}
