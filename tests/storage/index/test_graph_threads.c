/* Readers go on while linkers link, the owner repairs and grows, and somebody writes it all out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <pthread.h>
#include <sched.h>

#include <cmocka.h>

#include "tests/storage/index/graph_world.h"

enum { LINKERS = 3, READERS = 2, BATCH = 100, ROWS = 4000 / ROWS_DIVISOR };

/* What all threads share.  `linked` rows may be searched for: stored after they were linked. */
struct shared {
    struct world *w;
    _Atomic uint32_t linked, next, end;
    _Atomic bool stop;
    _Atomic uint64_t searches, lost, copies;
};

static void *read_on(void *arg)
{
    struct shared *s = arg;
    const struct world *w = s->w;
    for (uint32_t i = 0; !atomic_load(&s->stop); i++) {
        uint32_t linked = atomic_load(&s->linked), row = linked ? i * 7919 % linked : 0;
        if (linked == 0) continue;
        struct graph_found found;
        struct err err;
        struct graph_query q = {.vector = world_row(w, row), .ef = 40, .hidden = UINT32_MAX};
        epoch_enter();
        assert_int_equal(graph_search(w->g, &q, &found, &err), ERR_OK);
        bool good = false;
        for (uint32_t k = 0; k < found.count; k++)
            good |= found.nodes[k] == row;
        epoch_leave();
        atomic_fetch_add(&s->searches, 1);
        if (!good) atomic_fetch_add(&s->lost, 1);
    }
    return NULL;
}

/* As a checkpoint does. */
static void *copy_on(void *arg)
{
    struct shared *s = arg;
    _Alignas(64) uint8_t copy[512];
    for (uint32_t i = 0; !atomic_load(&s->stop); i++) {
        uint32_t linked = atomic_load(&s->linked), node = linked ? i * 31 % linked : 0;
        if (linked == 0) continue;
        epoch_enter();
        graph_copy_node(s->w->g, node, 1, copy);
        epoch_leave();
        assert_true(graph_node_is_good(s->w->g, node, 1, copy));
        atomic_fetch_add(&s->copies, 1);
    }
    return NULL;
}

static void *link_some(void *arg)
{
    struct shared *s = arg;
    for (;;) {
        uint32_t i = atomic_fetch_add(&s->next, 1);
        if (i >= atomic_load(&s->end)) return NULL;
        world_link(s->w, i);
    }
}

struct crowd {
    pthread_t readers[READERS], copier;
};

static void crowd_start(struct crowd *c, struct shared *s)
{
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&c->readers[i], NULL, read_on, s), 0);
    assert_int_equal(pthread_create(&c->copier, NULL, copy_on, s), 0);
}

/* Once they have been at it. */
static void crowd_stop(struct crowd *c, struct shared *s)
{
    while (atomic_load(&s->searches) < 200 || atomic_load(&s->copies) < 200)
        sched_yield();
    atomic_store(&s->stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(c->readers[i], NULL);
    pthread_join(c->copier, NULL);
    print_message(
        "%llu searches, %llu lost, %llu copies\n", (unsigned long long)atomic_load(&s->searches),
        (unsigned long long)atomic_load(&s->lost), (unsigned long long)atomic_load(&s->copies));
    assert_true(atomic_load(&s->lost) <= atomic_load(&s->searches) / 50);
}

/* Several linkers, while the owner waits. */
static void link_up_to(struct shared *s, uint32_t end)
{
    pthread_t linkers[LINKERS];
    atomic_store(&s->end, end);
    atomic_store(&s->next, s->w->rows);
    for (int i = 0; i < LINKERS; i++)
        assert_int_equal(pthread_create(&linkers[i], NULL, link_some, s), 0);
    for (int i = 0; i < LINKERS; i++)
        pthread_join(linkers[i], NULL);
    s->w->rows = end;
    atomic_store(&s->linked, end);
    if (graph_wants_pivots(s->w->g)) choose_pivots(s->w, NULL, 0);
}

static void world_of(struct world *w, enum metric metric, enum codec_kind kind)
{
    struct err err;
    world_init(w, metric, 24, ROWS);
    fill_like_embeddings(w, 0, ROWS);
    world_graph(w, kind, 16, 60, ROWS);
    assert_int_equal(graph_reserve(w->g, 100, &err), ERR_OK);
}

static void rows_are_linked_while_others_are_found(void **state)
{
    (void)state;
    static const enum metric metrics[] = {METRIC_EUCLIDEAN, METRIC_DOT_PRODUCT};
    for (size_t i = 0; i < 2; i++) {
        struct world w;
        struct err err;
        struct crowd crowd;
        world_of(&w, metrics[i], CODEC_INT8);
        struct shared s = {.w = &w};
        crowd_start(&crowd, &s);
        while (w.rows + BATCH <= ROWS) {
            assert_int_equal(graph_reserve(w.g, w.rows + BATCH, &err), ERR_OK);
            link_up_to(&s, w.rows + BATCH);
        }
        if (metrics[i] == METRIC_DOT_PRODUCT) atomic_store(&s.lost, 0); /* not its own nearest */
        crowd_stop(&crowd, &s);
        assert_int_equal(atomic_load(&w.g->linked_count), w.rows);
        assert_true(recall_with(&w, 60, NULL, fill_like_embeddings) >= 0.95);
        world_free(&w);
    }
}

/* The arena is replaced again and again. */
static void a_graph_moves_under_its_readers(void **state)
{
    (void)state;
    enum { MOVES = 12 };
    struct world w;
    struct err err;
    struct crowd crowd;
    world_of(&w, METRIC_EUCLIDEAN, CODEC_FLOAT32);
    struct shared s = {.w = &w};
    link_up_to(&s, ROWS / 2);
    crowd_start(&crowd, &s);
    for (int i = 0; i < MOVES; i++) {
        uint32_t capacity = atomic_load(&w.g->arena)->capacity;
        struct graph_arena *a = graph_arena_new(w.g, capacity);
        assert_non_null(a);
        memcpy(a->cells, atomic_load(&w.g->arena)->cells, (size_t)w.rows * w.g->codec.cell_bytes);
        graph_arena_free(a); /* and one that came to nothing */
        if (i < 4) assert_int_equal(graph_reserve(w.g, capacity + 1, &err), ERR_OK);
        choose_pivots(&w, NULL, 0);
        epoch_collect();
    }
    link_up_to(&s, ROWS);
    crowd_stop(&crowd, &s);
    world_free(&w);
}

struct sweep {
    struct world *w;
    uint32_t first, end;
    bool thorough;
};

static void *sweep_some(void *arg)
{
    struct sweep *sweep = arg;
    graph_sweep(sweep->w->g, sweep->w->dead, sweep->first, sweep->end, sweep->thorough);
    return NULL;
}

static void lists_are_repaired_while_they_are_read(void **state)
{
    (void)state;
    for (int thorough = 0; thorough < 2; thorough++) {
        struct world w;
        struct crowd crowd;
        world_of(&w, METRIC_EUCLIDEAN, CODEC_INT8);
        struct err err;
        assert_int_equal(graph_reserve(w.g, ROWS, &err), ERR_OK);
        struct shared s = {.w = &w};
        link_up_to(&s, ROWS);
        for (uint32_t i = ROWS / 4; i < ROWS; i++)
            if (i % 3) world_kill(&w, i);
        atomic_store(&s.linked, ROWS / 4); /* the others are not looked for */
        choose_pivots(&w, NULL, 0);
        crowd_start(&crowd, &s);
        pthread_t threads[2];
        struct sweep halves[2] = {{&w, 0, ROWS / 2, thorough}, {&w, ROWS / 2, ROWS, thorough}};
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, sweep_some, &halves[i]), 0);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        for (uint32_t i = 0; i < ROWS; i++)
            if (world_is_dead(&w, i)) graph_forget(w.g, i);
        /* When nobody can come from there any more, the nodes are used again. */
        epoch_synchronize();
        memset(w.dead, 0, (ROWS / 64 + 1) * sizeof *w.dead);
        for (uint32_t i = ROWS / 4; i < ROWS; i++) {
            if (i % 3 == 0) continue;
            fill_like_embeddings(&w, i, i + 1);
            world_link(&w, i);
        }
        crowd_stop(&crowd, &s);
        assert_int_equal(atomic_load(&w.g->linked_count), ROWS);
        assert_true(recall_with(&w, 60, NULL, fill_like_embeddings) >= 0.95);
        world_free(&w);
    }
}

/* Which of several linkers is the first does not matter, but one is. */
static void the_first_rows_come_all_at_once(void **state)
{
    (void)state;
    enum { ROUNDS = 100, FIRST = 8 };
    for (int round = 0; round < ROUNDS; round++) {
        struct world w;
        struct err err;
        uint32_t nodes[FIRST], count;
        world_of(&w, METRIC_EUCLIDEAN, CODEC_INT8);
        struct shared s = {.w = &w};
        link_up_to(&s, FIRST);
        assert_int_equal(atomic_load(&w.g->linked_count), FIRST);
        assert_int_equal(graph_unreachable(w.g, NULL, nodes, FIRST, &count, &err), ERR_OK);
        assert_int_equal(count, 0);
        world_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_linked_while_others_are_found),
        cmocka_unit_test(a_graph_moves_under_its_readers),
        cmocka_unit_test(lists_are_repaired_while_they_are_read),
        cmocka_unit_test(the_first_rows_come_all_at_once),
    };
    return cmocka_run_group_tests_name("graph_threads", tests, NULL, NULL);
}
