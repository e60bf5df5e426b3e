/* The id index is a sorted array, whoever looks while it changes; a damaged one says so. */
#include "tests/storage/fixture.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "storage/base/epoch.h"
#include "storage/id_index.h"
#include "storage/records.h"

static const uint8_t uuid[16] = "index";

struct fixture {
    struct jvdb_file f;
    struct id_index ix;
    uint64_t records_bytes;
};

static int set_up(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    struct err err;
    CHECK_OK(jvdb_file_init(&fx->f, -1, "index", uuid, 1, &err));
    fx->ix.file = &fx->f;
    *state = fx;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    epoch_synchronize();
    jvdb_file_deinit(&fx->f);
    free(fx);
    return 0;
}

static uint64_t write_text(struct fixture *fx, const struct vector_id *id)
{
    struct err err;
    if (!id->text) return 0;
    uint64_t at = fx->records_bytes + 1;
    fx->records_bytes += records_size(id->text_bytes, 0);
    CHECK_OK(jvdb_file_grow(&fx->f, REGION_RECORDS, fx->records_bytes, &err));
    CHECK_OK(records_write(&fx->f, at, 1, id->text, id->text_bytes, "", 0, &err));
    return at;
}

static void make_room(struct fixture *fx, uint64_t keys)
{
    struct err err;
    CHECK_OK(jvdb_file_grow(&fx->f, REGION_ID_INDEX, id_index_nodes_needed(&fx->ix, keys), &err));
}

static enum index_result put(struct fixture *fx, const struct vector_id *id, uint32_t slot,
                             uint32_t *old)
{
    struct index_key key = index_key_of(id);
    uint64_t room = id_index_nodes_needed(&fx->ix, 1), text_at = write_text(fx, id);
    make_room(fx, 1);
    enum index_result found = id_index_put(&fx->ix, &key, text_at, slot, old);
    assert_true(fx->ix.nodes <= room);
    return found;
}

static enum index_result find(struct fixture *fx, const struct vector_id *id, uint32_t *slot)
{
    struct index_key key = index_key_of(id);
    epoch_enter();
    enum index_result found = id_index_find(&fx->ix, &key, slot);
    epoch_leave();
    return found;
}

/* All slots behind `after`, up to `max`; -1: damaged, or more than that. */
static int64_t scan(struct fixture *fx, const struct vector_id *after, uint32_t *slots, size_t max)
{
    struct index_key key, *from = NULL;
    if (after) {
        key = index_key_of(after);
        from = &key;
    }
    struct index_entry entries[INDEX_NODE_ENTRIES];
    uint32_t leaf = 0, count, next;
    size_t total = 0;
    do {
        enum index_result found = id_index_scan(&fx->ix, from, leaf, entries, &count, &next);
        if (found == INDEX_DAMAGED || total + count > max) return -1;
        if (found == INDEX_MISSING) break;
        for (uint32_t i = 0; i < count; i++)
            slots[total++] = entries[i].ref;
        leaf = next;
        from = NULL;
    } while (leaf);
    return (int64_t)total;
}

/* ---- against a sorted array ---- */

struct pair {
    struct vector_id id; /* text owned */
    uint32_t slot;
};

struct oracle {
    struct pair *pairs;
    size_t count;
};

/* The first pair that is not less (or with or_equal: that is greater). */
static size_t oracle_rank(const struct oracle *o, const struct vector_id *id, bool or_equal)
{
    size_t low = 0, high = o->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = vector_id_compare(&o->pairs[mid].id, id);
        if (order < 0 || (order == 0 && or_equal))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool oracle_has(const struct oracle *o, size_t i, const struct vector_id *id)
{
    return i < o->count && vector_id_compare(&o->pairs[i].id, id) == 0;
}

/* Ids that are hard to tell apart: small alphabets, lengths around 8, long common prefixes. */
static struct vector_id random_id(uint64_t *seed, char text[ID_BYTES_MAX])
{
    static const char letters[] = {'a', 'b', '\x7f', '\xc3', '\xff', '!'};
    uint32_t bytes, prefix = 0;
    switch (test_random(seed) % 8) {
    case 0:
        return (struct vector_id){.number = test_random(seed) % 500};
    case 1:
        return (struct vector_id){.number = test_random(seed) >> 1};
    case 2: /* looks like a short text, read as a number */
        memcpy(text, "ab!!!!!!", 8);
        return (struct vector_id){.number = 0x6162000000000000u + test_random(seed) % 8};
    case 3:
        bytes = 1 + (uint32_t)(test_random(seed) % 3);
        break;
    case 4:
        bytes = 7 + (uint32_t)(test_random(seed) % 3);
        prefix = 6;
        break;
    case 5:
        bytes = 500 + (uint32_t)(test_random(seed) % 13);
        prefix = 499;
        break;
    case 6:
        bytes = 8 + (uint32_t)(test_random(seed) % 9);
        prefix = 8;
        break;
    default:
        bytes = 1 + (uint32_t)(test_random(seed) % ID_BYTES_MAX);
        prefix = bytes > 3 ? bytes - 3 : 0;
    }
    for (uint32_t i = 0; i < bytes; i++)
        text[i] = i < prefix ? 'a' : letters[test_random(seed) % sizeof letters];
    return (struct vector_id){.text = text, .text_bytes = bytes};
}

static void check_scan(struct fixture *fx, const struct oracle *o, const struct vector_id *after,
                       uint32_t *slots)
{
    size_t first = after ? oracle_rank(o, after, true) : 0;
    assert_int_equal(scan(fx, after, slots, o->count - first), o->count - first);
    for (size_t i = first; i < o->count; i++)
        assert_int_equal(slots[i - first], o->pairs[i].slot);
}

static void random_puts_and_removes_match_a_sorted_array(void **state)
{
    struct fixture *fx = *state;
    enum { STEPS = 30000 };
    struct oracle o = {.pairs = calloc(STEPS, sizeof(struct pair))};
    uint32_t *slots = calloc(STEPS, sizeof *slots);
    assert_true(o.pairs && slots);
    uint64_t seed = 1;
    for (uint32_t step = 0; step < STEPS; step++) {
        char text[ID_BYTES_MAX];
        struct vector_id id = random_id(&seed, text);
        struct index_key key = index_key_of(&id);
        size_t i = oracle_rank(&o, &id, false);
        bool exists = oracle_has(&o, i, &id);
        uint32_t slot = UINT32_MAX;
        assert_int_equal(find(fx, &id, &slot), exists ? INDEX_FOUND : INDEX_MISSING);
        if (exists) assert_int_equal(slot, o.pairs[i].slot);

        if (test_random(&seed) % 4 == 0) {
            /* Half of the time an id that is there. */
            if (o.count && test_random(&seed) % 2) {
                i = test_random(&seed) % o.count;
                key = index_key_of(&o.pairs[i].id);
                exists = true;
            }
            if (exists) {
                assert_int_equal(id_index_remove(&fx->ix, &key, o.pairs[i].slot + 1),
                                 INDEX_MISSING);
                assert_int_equal(id_index_remove(&fx->ix, &key, o.pairs[i].slot), INDEX_FOUND);
                free((void *)(uintptr_t)o.pairs[i].id.text);
                o.count--;
                memmove(&o.pairs[i], &o.pairs[i + 1], (o.count - i) * sizeof o.pairs[0]);
            } else {
                assert_int_equal(id_index_remove(&fx->ix, &key, step), INDEX_MISSING);
            }
        } else {
            uint32_t old = UINT32_MAX;
            assert_int_equal(put(fx, &id, step, &old), exists ? INDEX_FOUND : INDEX_MISSING);
            if (exists) {
                assert_int_equal(old, o.pairs[i].slot);
            } else {
                memmove(&o.pairs[i + 1], &o.pairs[i], (o.count - i) * sizeof o.pairs[0]);
                o.count++;
                o.pairs[i].id = id;
                if (id.text) {
                    char *copy = malloc(id.text_bytes);
                    assert_non_null(copy);
                    memcpy(copy, id.text, id.text_bytes);
                    o.pairs[i].id.text = copy;
                }
            }
            o.pairs[i].slot = step;
        }
        if (step % 500 == 0 || step == STEPS - 1) {
            check_scan(fx, &o, NULL, slots);
            for (int k = 0; k < 20; k++) {
                char other[ID_BYTES_MAX];
                struct vector_id after = random_id(&seed, other);
                check_scan(fx, &o, &after, slots);
                if (o.count) check_scan(fx, &o, &o.pairs[test_random(&seed) % o.count].id, slots);
            }
        }
    }
    assert_true(fx->ix.levels >= 2 && o.count > 3000);
    /* And down to nothing again. */
    while (o.count) {
        size_t i = test_random(&seed) % o.count;
        struct index_key key = index_key_of(&o.pairs[i].id);
        assert_int_equal(id_index_remove(&fx->ix, &key, o.pairs[i].slot), INDEX_FOUND);
        free((void *)(uintptr_t)o.pairs[i].id.text);
        o.count--;
        memmove(&o.pairs[i], &o.pairs[i + 1], (o.count - i) * sizeof o.pairs[0]);
        if (o.count % 512 == 0) check_scan(fx, &o, NULL, slots);
    }
    free(o.pairs);
    free(slots);
}

static void an_empty_index_has_nothing(void **state)
{
    struct fixture *fx = *state;
    struct vector_id id = {.number = 0}, text = test_text_id("a");
    struct index_key key = index_key_of(&id);
    uint32_t slot;
    assert_int_equal(find(fx, &id, &slot), INDEX_MISSING);
    assert_int_equal(find(fx, &text, &slot), INDEX_MISSING);
    assert_int_equal(id_index_remove(&fx->ix, &key, 0), INDEX_MISSING);
    assert_int_equal(scan(fx, NULL, &slot, 1), 0);
    assert_int_equal(scan(fx, &text, &slot, 1), 0);
}

#ifdef __SANITIZE_THREAD__ /* ten times slower, and most tests have one thread */
enum { MANY = 40 * 1000, SUBTREES = 1, HOSTILE_WORDS = 8 };
#else
enum { MANY = 200 * 1000, SUBTREES = 20, HOSTILE_WORDS = 40 };
#endif

/* Numbers 0, 3, 6, ...: those between are missing. */
static void check_many(struct fixture *fx, uint32_t *slots)
{
    uint32_t slot;
    for (uint32_t i = 0; i < MANY; i++) {
        struct vector_id id = {.number = 3ull * i}, between = {.number = 3ull * i + 1};
        if (find(fx, &id, &slot) != INDEX_FOUND || slot != i) fail_msg("%u is lost", i);
        if (i % 16 == 0) assert_int_equal(find(fx, &between, &slot), INDEX_MISSING);
    }
    assert_int_equal(scan(fx, NULL, slots, MANY), MANY);
    for (uint32_t i = 0; i < MANY; i++)
        if (slots[i] != i) fail_msg("%u is out of order", i);
    for (uint32_t i = 0; i < MANY; i += 9973) {
        struct vector_id after = {.number = 3ull * i};
        assert_int_equal(scan(fx, &after, slots, MANY), MANY - 1 - i);
        if (i + 1 < MANY) assert_int_equal(slots[0], i + 1);
    }
}

static void ascending_ids_fill_their_nodes(void **state)
{
    struct fixture *fx = *state;
    uint32_t *slots = calloc(MANY, sizeof *slots), old;
    assert_non_null(slots);
    for (uint32_t i = 0; i < MANY; i++) {
        struct vector_id id = {.number = 3ull * i};
        assert_int_equal(put(fx, &id, i, &old), INDEX_MISSING);
    }
    check_many(fx, slots);
    assert_true(fx->ix.nodes <= MANY / INDEX_NODE_ENTRIES + 20);
    free(slots);
}

static void random_ids_fill_more_than_half_of_their_nodes(void **state)
{
    struct fixture *fx = *state;
    uint32_t *slots = calloc(MANY, sizeof *slots), *order = calloc(MANY, sizeof *order), old;
    assert_true(slots && order);
    uint64_t seed = 2;
    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t k = (uint32_t)(test_random(&seed) % (i + 1));
        order[i] = order[k];
        order[k] = i;
    }
    for (uint32_t i = 0; i < MANY; i++) {
        struct vector_id id = {.number = 3ull * order[i]};
        assert_int_equal(put(fx, &id, order[i], &old), INDEX_MISSING);
    }
    check_many(fx, slots);
    assert_true(fx->ix.nodes <= 2 * MANY / INDEX_NODE_ENTRIES + 20);
    free(slots);
    free(order);
}

static void descending_ids_are_found_too(void **state)
{
    struct fixture *fx = *state;
    uint32_t *slots = calloc(MANY, sizeof *slots), old;
    assert_non_null(slots);
    for (uint32_t i = MANY; i-- > 0;) {
        struct vector_id id = {.number = 3ull * i};
        assert_int_equal(put(fx, &id, i, &old), INDEX_MISSING);
    }
    check_many(fx, slots);
    free(slots);
}

/* Twenty full nodes over full leaves: one key in each splits a leaf and a node. */
static void the_room_that_is_asked_for_is_enough_when_every_node_is_full(void **state)
{
    struct fixture *fx = *state;
    enum { FULL = INDEX_NODE_ENTRIES * INDEX_NODE_ENTRIES };
    uint32_t old;
    for (uint32_t i = 0; i < FULL * SUBTREES; i++) {
        struct vector_id id = {.number = 2ull * i};
        struct index_key key = index_key_of(&id);
        if (i % 1024 == 0) make_room(fx, 1024);
        assert_int_equal(id_index_put(&fx->ix, &key, 0, i, &old), INDEX_MISSING);
    }
    uint64_t room = id_index_nodes_needed(&fx->ix, SUBTREES);
    make_room(fx, SUBTREES);
    for (uint64_t i = 0; i < SUBTREES; i++) {
        struct vector_id id = {.number = 2 * (i * FULL + FULL / 2) + 1};
        struct index_key key = index_key_of(&id);
        assert_int_equal(id_index_put(&fx->ix, &key, 0, 0, &old), INDEX_MISSING);
    }
    if (fx->ix.nodes > room) fail_msg("%u nodes, room for %u", fx->ix.nodes, (unsigned)room);
}

static void the_room_that_is_asked_for_is_enough_from_nothing_on(void **state)
{
    struct fixture *fx = *state;
    uint64_t room = id_index_nodes_needed(&fx->ix, MANY), seed = 5;
    uint32_t old;
    make_room(fx, MANY);
    for (uint32_t i = 0; i < MANY; i++) { /* descending: every split leaves two halves */
        struct vector_id id = {.number = MANY - i + (test_random(&seed) & 1)};
        struct index_key key = index_key_of(&id);
        assert_int_not_equal(id_index_put(&fx->ix, &key, 0, i, &old), INDEX_DAMAGED);
    }
    assert_true(fx->ix.levels >= 3);
    if (fx->ix.nodes > room) fail_msg("%u nodes, room for %u", fx->ix.nodes, (unsigned)room);
}

/* ---- readers while a writer works ---- */

enum { CROWD = 12000, READERS = 3 };

struct crowd {
    struct fixture *fx;
    struct vector_id *ids; /* by slot; constant while threads run */
    uint32_t count;
    _Atomic uint32_t put_count; /* ids[0 .. put_count) are in the index for good */
    _Atomic bool done;
    _Atomic unsigned rounds;
};

static const char *look_around(struct crowd *c, uint64_t *seed, uint32_t *slots)
{
    uint32_t sure = atomic_load_explicit(&c->put_count, memory_order_acquire), slot;
    for (int i = 0; i < 200 && sure; i++) {
        uint32_t k = (uint32_t)(test_random(seed) % sure);
        struct index_key key = index_key_of(&c->ids[k]);
        if (id_index_find(&c->fx->ix, &key, &slot) != INDEX_FOUND) return "an old id is not found";
        if (slot != k) return "an id has a slot of another";
    }
    const struct vector_id *after = NULL;
    if (sure && test_random(seed) % 2) after = &c->ids[test_random(seed) % sure];
    int64_t count = scan(c->fx, after, slots, c->count);
    if (count < 0) return "a scan is too long";
    uint32_t old_ones = 0, expected = 0;
    for (int64_t i = 0; i < count; i++) {
        if (slots[i] >= c->count) return "a scan has a slot of nobody";
        if (i && vector_id_compare(&c->ids[slots[i - 1]], &c->ids[slots[i]]) >= 0)
            return "a scan is out of order, or has an id twice";
        if (!i && after && vector_id_compare(after, &c->ids[slots[i]]) >= 0)
            return "a scan begins too early";
        old_ones += slots[i] < sure;
    }
    for (uint32_t i = 0; i < sure; i++)
        expected += !after || vector_id_compare(after, &c->ids[i]) < 0;
    return old_ones == expected ? NULL : "a scan misses an old id";
}

static void *look_until_done(void *arg)
{
    struct crowd *c = arg;
    uint64_t seed = 100 + atomic_fetch_add(&c->rounds, 1);
    uint32_t *slots = calloc(c->count, sizeof *slots);
    const char *wrong = slots ? NULL : "no memory";
    bool last = false;
    while (!wrong && !last) {
        last = atomic_load(&c->done);
        epoch_enter();
        wrong = look_around(c, &seed, slots);
        epoch_leave();
        atomic_fetch_add(&c->rounds, 1);
    }
    free(slots);
    return (void *)(uintptr_t)wrong;
}

static struct vector_id *crowd_ids(uint32_t count, uint64_t seed)
{
    struct vector_id *ids = calloc(count, sizeof *ids);
    assert_non_null(ids);
    for (uint32_t i = 0; i < count; i++) {
        if (i % 3 == 0) {
            ids[i].number = (uint64_t)i << 40 | test_random(&seed) >> 24;
            continue;
        }
        char *text = malloc(80);
        assert_non_null(text);
        /* Random first letters or a long common start, and always something of its own. */
        ids[i].text_bytes =
            (uint32_t)snprintf(text, 80, i % 3 == 1 ? "%c%u" : "the same for a long while %c%u",
                               (int)('a' + test_random(&seed) % 26), i);
        ids[i].text = text;
    }
    /* Shuffle: the writer takes them in this order. */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t k = (uint32_t)(test_random(&seed) % (i + 1));
        struct vector_id swap = ids[i];
        ids[i] = ids[k];
        ids[k] = swap;
    }
    return ids;
}

static void crowd_free(struct crowd *c)
{
    for (uint32_t i = 0; i < c->count; i++)
        free((void *)(uintptr_t)c->ids[i].text);
    free(c->ids);
}

static void join_readers(struct crowd *c, pthread_t threads[READERS])
{
    atomic_store(&c->done, true);
    for (int i = 0; i < READERS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        if (wrong) fail_msg("%s", (const char *)wrong);
    }
}

static void readers_find_every_old_id_while_a_writer_inserts(void **state)
{
    struct crowd c = {.fx = *state, .ids = crowd_ids(CROWD, 3), .count = CROWD};
    pthread_t threads[READERS];
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, look_until_done, &c), 0);
    for (uint32_t i = 0; i < CROWD; i++) {
        uint32_t old;
        assert_int_equal(put(c.fx, &c.ids[i], i, &old), INDEX_MISSING);
        atomic_store_explicit(&c.put_count, i + 1, memory_order_release);
        if (i % 1000 == 0) epoch_collect();
    }
    join_readers(&c, threads);
    assert_true(atomic_load(&c.rounds) > 2 * READERS);
    crowd_free(&c);
}

/* Half of the ids stay; the others come and go. */
static void removed_neighbours_do_not_hide_an_id(void **state)
{
    struct crowd c = {.fx = *state, .ids = crowd_ids(2000, 4), .count = 2000};
    uint32_t old;
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(put(c.fx, &c.ids[i], i, &old), INDEX_MISSING);
    atomic_store(&c.put_count, 1000);
    pthread_t threads[READERS];
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, look_until_done, &c), 0);
    for (int round = 0; round < 12; round++) {
        for (uint32_t i = 1000; i < 2000; i++)
            assert_int_equal(put(c.fx, &c.ids[i], i, &old), INDEX_MISSING);
        for (uint32_t i = 1000; i < 2000; i++) {
            struct index_key key = index_key_of(&c.ids[i]);
            assert_int_equal(id_index_remove(&c.fx->ix, &key, i), INDEX_FOUND);
        }
    }
    join_readers(&c, threads);
    crowd_free(&c);
}

/* ---- damage ---- */

static struct index_node *node(struct fixture *fx, uint32_t number)
{
    return jvdb_file_change(&fx->f, REGION_ID_INDEX, number);
}

static void fill_hostile(struct fixture *fx)
{
    uint32_t old;
    for (uint32_t i = 0; i < 600; i++) {
        char text[32];
        snprintf(text, sizeof text, "a long common start %u", i);
        struct vector_id id = i % 2 ? test_text_id(text) : (struct vector_id){.number = i};
        assert_int_equal(put(fx, &id, i, &old), INDEX_MISSING);
    }
    assert_int_equal(fx->ix.levels, 2);
}

/* Everything that can be asked, of everything. */
static void poke(struct fixture *fx)
{
    uint32_t slot, slots[2000];
    for (uint32_t i = 0; i < 620; i += 31) {
        char text[32];
        snprintf(text, sizeof text, "a long common start %u", i);
        struct vector_id id = i % 2 ? test_text_id(text) : (struct vector_id){.number = i};
        struct index_key key = index_key_of(&id);
        find(fx, &id, &slot);
        if (i % 3 == 0) scan(fx, &id, slots, 2000);
        if (i % 62 == 0) id_index_remove(&fx->ix, &key, 1u << 31);
    }
    scan(fx, NULL, slots, 2000);
}

static uint64_t spent_ms(uint64_t begun)
{
    return (clock_ns() - begun) / 1000000;
}

static void a_node_is_changed_in_every_word_and_nothing_hangs(void **state)
{
    struct fixture *fx = *state;
    fill_hostile(fx);
    alarm(100); /* a hang ends here */
    static const uint32_t values[] = {0,   1,          2,  5,          13,         168,
                                      169, 0x7fffffff, 64, 0x80000000, 0xffffffff, 3};
    uint32_t root = atomic_load(&fx->ix.root) - 1;
    uint32_t nodes[] = {root, 0, 1, fx->ix.nodes - 1};
    for (size_t n = 0; n < sizeof nodes / sizeof nodes[0]; n++) {
        struct index_node saved = *node(fx, nodes[n]);
        for (size_t word = 0; word < HOSTILE_WORDS; word++) {
            for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
                uint32_t *words = (uint32_t *)node(fx, nodes[n]);
                __atomic_store_n(&words[word], values[v], __ATOMIC_RELEASE);
                poke(fx);
                *node(fx, nodes[n]) = saved;
            }
        }
    }
    alarm(0);
}

static void expect_damage(struct fixture *fx, uint64_t number)
{
    struct vector_id id = {.number = number};
    uint32_t slot;
    uint64_t begun = clock_ns();
    alarm(60);
    assert_int_equal(find(fx, &id, &slot), INDEX_DAMAGED);
    alarm(0);
    assert_true(spent_ms(begun) < 20000);
}

static void damage_is_reported(void **state)
{
    struct fixture *fx = *state;
    fill_hostile(fx);
    uint32_t root = atomic_load(&fx->ix.root) - 1, old;
    struct index_node saved = *node(fx, root), leaf = *node(fx, 0);
    struct vector_id first = {.number = 1};
    struct index_key key = index_key_of(&first);
    make_room(fx, 1);

    node(fx, root)->right = root + 1; /* a loop to the right */
    expect_damage(fx, 0);
    *node(fx, root) = saved;
    for (int i = 0; i < INDEX_NODE_ENTRIES; i++)
        node(fx, root)->entries[i].ref = root; /* a loop down */
    expect_damage(fx, 0);
    assert_int_equal(id_index_put(&fx->ix, &key, 0, 1, &old), INDEX_DAMAGED);
    for (int i = 0; i < INDEX_NODE_ENTRIES; i++)
        node(fx, root)->entries[i].ref = UINT32_MAX - 5; /* nowhere */
    expect_damage(fx, 0);
    assert_int_equal(id_index_put(&fx->ix, &key, 0, 1, &old), INDEX_DAMAGED);
    *node(fx, root) = saved;
    node(fx, root)->count = 0;
    expect_damage(fx, 0);
    assert_int_equal(id_index_put(&fx->ix, &key, 0, 1, &old), INDEX_DAMAGED);
    node(fx, root)->count = INDEX_NODE_ENTRIES + 1;
    expect_damage(fx, 0);
    assert_int_equal(id_index_put(&fx->ix, &key, 0, 1, &old), INDEX_DAMAGED);
    *node(fx, root) = saved;
    node(fx, root)->level = 12;
    expect_damage(fx, 0);
    *node(fx, root) = saved;
    node(fx, 0)->right = UINT32_MAX;
    memset(&node(fx, 0)->bound, 0, sizeof leaf.bound);
    expect_damage(fx, 0);
    *node(fx, 0) = leaf;

    /* The text of an entry is damaged. */
    struct vector_id text = test_text_id("a long common start 1");
    uint32_t slot;
    assert_int_equal(find(fx, &text, &slot), INDEX_FOUND);
    for (uint32_t n = 0; n < fx->ix.nodes; n++)
        for (int i = 0; i < INDEX_NODE_ENTRIES; i++)
            if (node(fx, n)->entries[i].text_bytes) node(fx, n)->entries[i].text_at = 1ull << 50;
    assert_int_equal(find(fx, &text, &slot), INDEX_DAMAGED);
}

/* No writer is at work: it will never become even. */
static void an_odd_version_in_a_file_is_damage(void **state)
{
    struct fixture *fx = *state;
    uint32_t slots[700];
    fill_hostile(fx);
    uint32_t root = atomic_load(&fx->ix.root) - 1;
    node(fx, root)->version |= 1;
    expect_damage(fx, 0);
    node(fx, root)->version &= ~1u;
    node(fx, 0)->version |= 1;
    expect_damage(fx, 0);
    alarm(60);
    assert_int_equal(scan(fx, NULL, slots, 700), -1);
    struct index_entry entries[INDEX_NODE_ENTRIES];
    uint32_t count, next;
    assert_int_equal(id_index_scan(&fx->ix, NULL, 1, entries, &count, &next), INDEX_DAMAGED);
    alarm(0);
    uint32_t slot;
    struct vector_id other = {.number = 598};
    assert_int_equal(find(fx, &other, &slot), INDEX_FOUND);
}

static void *find_number_300(void *arg)
{
    struct fixture *fx = arg;
    struct vector_id id = {.number = 300};
    uint32_t slot = 0;
    enum index_result found = find(fx, &id, &slot);
    return (void *)(uintptr_t)(found == INDEX_FOUND && slot == 300);
}

/* The writer may lose the processor in the middle of a change, for as long as it pleases others. */
static void a_reader_waits_for_an_interrupted_writer(void **state)
{
    struct fixture *fx = *state;
    fill_hostile(fx);
    struct index_node *root = node(fx, atomic_load(&fx->ix.root) - 1);
    atomic_store(&fx->ix.writing, true);
    __atomic_store_n(&root->version, root->version + 1, __ATOMIC_RELEASE);
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, find_number_300, fx), 0);
    for (uint64_t begun = clock_ns(); spent_ms(begun) < 100;)
        sched_yield();
    __atomic_store_n(&root->version, root->version + 1, __ATOMIC_RELEASE);
    atomic_store(&fx->ix.writing, false);
    void *found;
    pthread_join(reader, &found);
    assert_non_null(found);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_empty_index_has_nothing),
        TEST(random_puts_and_removes_match_a_sorted_array),
        TEST(ascending_ids_fill_their_nodes),
        TEST(random_ids_fill_more_than_half_of_their_nodes),
        TEST(descending_ids_are_found_too),
        TEST(the_room_that_is_asked_for_is_enough_when_every_node_is_full),
        TEST(the_room_that_is_asked_for_is_enough_from_nothing_on),
        TEST(readers_find_every_old_id_while_a_writer_inserts),
        TEST(removed_neighbours_do_not_hide_an_id),
        TEST(a_node_is_changed_in_every_word_and_nothing_hangs),
        TEST(damage_is_reported),
        TEST(a_reader_waits_for_an_interrupted_writer),
        TEST(an_odd_version_in_a_file_is_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
