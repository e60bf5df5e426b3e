/*
 * filter_rows.c - the rows that match, from the cache if they are known.
 *
 * A result of the reader's own LSN is the answer.  One of an earlier LSN is brought up to date if
 * that is cheaper than to select anew:
 *
 *   - what did not change since (visibility.h knows) is as it was;
 *   - of what changed, rows that the snapshot still sees and that were born by then matched then
 * and match now, for a row is never changed in place;
 *   - rows that were born since are tried by their metadata.  If they are too many, nothing is
 *     tried: a selection with columns costs less.
 *
 * All of this holds as long as time alone changes nothing: where rows expire there is no cache.
 */
#include <string.h>

#include "storage/base/clock.h"
#include "storage/base/mem.h"
#include "storage/database_private.h"
#include "storage/filter/filter_cache.h"
#include "storage/records.h"
#include "storage/visibility.h"

enum {
    LIST_MAX = 2048,    /* rows that are kept as a list */
    BORN_MAX = 2048,    /* rows that are tried to bring a result up to date, at most */
    BORN_MIN = 32,      /* so many in any case */
    TRY_NS = 1000,      /* trying one, generously */
    INLINE_BORN = 400,  /* on a thread that must not wait: about 200 us */
    INLINE_CHUNKS = 64, /* chunks that changed */
    SLACK_WORDS = 64    /* of bits, so that they last for some inserts */
};

/* A list of the rows in `bits`. */
static struct filter_result *list_of(const struct filter *filter, const uint64_t *bits,
                                     size_t words, uint64_t count)
{
    uint32_t *to;
    struct filter_result *result = filter_result_new_list(filter, count, &to);
    for (size_t w = 0; w < words && result; w++)
        for (uint64_t left = bits[w]; left; left &= left - 1)
            *to++ = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(left);
    return result;
}

/* ---- bringing up to date ---- */

struct update {
    struct reader *r;
    const struct filter *filter;
    const struct filter_result *old;
    uint64_t since; /* of which LSN it is */
    uint32_t born_max, chunks_max;
    enum err_code rc;
    struct err *err;

    uint64_t visible[CHUNK_WORDS], newer[CHUNK_WORDS]; /* of a chunk: the latter were born since */
    uint64_t lost;                                     /* rows of the old result that are gone */
    uint32_t born[BORN_MAX];
    uint32_t born_count; /* those that match, once they were tried */
    uint32_t kept[LIST_MAX];
    uint32_t kept_count;
    struct filter_result *result; /* the new one, if there is one */
    uint64_t *bits;               /* its bits */
};

/* What the update comes to. */
enum outcome {
    UPDATE_FAILED, /* with an error */
    UPDATE_DEAR,   /* selecting anew is cheaper, or all there is */
    UPDATE_SAME,   /* the rows are those of the old result */
    UPDATE_NEW     /* u->result */
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for a filter");
}

/* Note the rows that were born since; false: they are too many. */
static bool note_born(struct update *u, uint32_t chunk)
{
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        for (uint64_t left = u->newer[w]; left; left &= left - 1) {
            if (u->born_count == u->born_max) return false;
            u->born[u->born_count++] =
                chunk * CHUNK_SLOTS + w * 64 + (uint32_t)__builtin_ctzll(left);
        }
    }
    return true;
}

/* Look at a chunk; *changed: something may be different from then. */
static enum outcome look_at_chunk(struct update *u, uint32_t chunk, bool *changed)
{
    bool any;
    *changed = visibility_chunk_changed_after(u->r, chunk, u->since);
    if (!*changed) return UPDATE_SAME;
    if (u->chunks_max-- == 0) return UPDATE_DEAR;
    u->rc = visibility_words(u->r, chunk, u->visible, u->err);
    if (!u->rc)
        u->rc = visibility_born_after(u->r, chunk, u->since, u->visible, u->newer, &any, u->err);
    if (u->rc) return UPDATE_FAILED;
    if (!any) memset(u->newer, 0, sizeof u->newer);
    return !any || note_born(u, chunk) ? UPDATE_SAME : UPDATE_DEAR;
}

static void keep_listed(struct update *u, uint32_t *at, uint32_t chunk, bool changed)
{
    const struct filter_result *old = u->old;
    uint64_t end = ((uint64_t)chunk + 1) * CHUNK_SLOTS;
    for (; *at < old->count && old->slots[*at] < end; ++*at) {
        uint32_t slot = old->slots[*at], w = slot % CHUNK_SLOTS / 64;
        bool stays = !changed || (u->visible[w] & ~u->newer[w]) >> slot % 64 & 1;
        if (stays)
            u->kept[u->kept_count++] = slot;
        else
            u->lost++;
    }
}

static void keep_bits(struct update *u, uint32_t chunk)
{
    size_t first = (size_t)chunk * CHUNK_WORDS;
    for (size_t w = 0; w < CHUNK_WORDS && first + w < u->old->words; w++) {
        uint64_t stays = u->visible[w] & ~u->newer[w];
        uint64_t lost = u->bits[first + w] & ~stays;
        if (!lost) continue;
        u->bits[first + w] &= stays;
        u->lost += (uint64_t)__builtin_popcountll(lost);
    }
}

/* Try the rows that were born since: those that match stay in u->born. */
static enum err_code try_born(struct update *u)
{
    struct matcher m;
    uint32_t matching = 0;
    if (u->born_count == 0) return ERR_OK;
    enum err_code rc = matcher_init(&m, u->filter, u->err);
    if (rc) return rc;
    for (uint32_t i = 0; i < u->born_count && !rc; i++) {
        struct vector_id id;
        struct record record;
        bool matches = false;
        const struct slot *s = jvdb_file_read(&u->r->store->file, REGION_SLOTS, u->born[i]);
        rc = s ? slot_metadata(u->r, s, &id, &record, u->err)
               : database_damaged(u->r->db, "a slot", u->err);
        if (!rc)
            rc = matcher_try(&m, &id, record.metadata, record.metadata_bytes, &matches, u->err);
        u->born[matching] = u->born[i];
        matching += matches;
    }
    u->born_count = matching;
    matcher_deinit(&m);
    return rc;
}

/* Both lists are ascending, and have no slot in common. */
static void merge(const struct update *u, uint32_t *to)
{
    uint32_t i = 0, k = 0;
    while (i < u->kept_count || k < u->born_count) {
        bool from_kept = k == u->born_count || (i < u->kept_count && u->kept[i] < u->born[k]);
        *to++ = from_kept ? u->kept[i++] : u->born[k++];
    }
}

static enum outcome update_list(struct update *u)
{
    uint32_t at = 0, *slots;
    for (uint32_t chunk = 0; chunk < visibility_chunks(u->r); chunk++) {
        bool changed;
        enum outcome outcome = look_at_chunk(u, chunk, &changed);
        if (outcome != UPDATE_SAME) return outcome;
        keep_listed(u, &at, chunk, changed);
    }
    u->rc = try_born(u);
    if (u->rc) return UPDATE_FAILED;
    if (u->lost == 0 && u->born_count == 0) return UPDATE_SAME;
    uint64_t count = (uint64_t)u->kept_count + u->born_count;
    if (count > LIST_MAX) return UPDATE_DEAR;
    u->result = filter_result_new_list(u->filter, count, &slots);
    if (!u->result) return UPDATE_DEAR;
    merge(u, slots);
    return UPDATE_NEW;
}

static size_t words_with_slack(const struct reader *r)
{
    return (filter_words(r) / SLACK_WORDS + 1) * SLACK_WORDS;
}

/* The old bits, to be changed. */
static bool copy_bits(struct update *u)
{
    size_t words = u->old->words;
    if (words < filter_words(u->r)) words = words_with_slack(u->r);
    u->result = filter_result_new_bits(u->filter, words, &u->bits);
    if (!u->result) return false;
    memcpy(u->bits, u->old->bits, u->old->words * sizeof *u->bits);
    memset(u->bits + u->old->words, 0, (words - u->old->words) * sizeof *u->bits);
    return true;
}

static void make_list(struct update *u)
{
    struct filter_result *list = list_of(u->filter, u->bits, u->result->words, u->result->count);
    if (!list) return;
    filter_result_free(u->result);
    u->result = list;
}

static enum outcome update_bits(struct update *u)
{
    if (!copy_bits(u)) return UPDATE_DEAR;
    for (uint32_t chunk = 0; chunk < visibility_chunks(u->r); chunk++) {
        bool changed;
        enum outcome outcome = look_at_chunk(u, chunk, &changed);
        if (outcome != UPDATE_SAME) return outcome;
        if (changed) keep_bits(u, chunk);
    }
    u->rc = try_born(u);
    if (u->rc) return UPDATE_FAILED;
    for (uint32_t i = 0; i < u->born_count; i++)
        u->bits[u->born[i] / 64] |= UINT64_C(1) << u->born[i] % 64;
    u->result->count = u->old->count - u->lost + u->born_count;
    if (u->lost == 0 && u->born_count == 0 && u->result->words == u->old->words) return UPDATE_SAME;
    /* Not as soon as it could be a list: a row more or less, and it would be bits again. */
    if (u->result->count <= LIST_MAX / 2) make_list(u);
    return UPDATE_NEW;
}

static uint32_t born_max(const struct filter_result *old, bool may_block)
{
    uint64_t most = BORN_MIN + old->select_ns / TRY_NS, limit = may_block ? BORN_MAX : INLINE_BORN;
    return (uint32_t)(most < limit ? most : limit);
}

static enum outcome update(struct update *u)
{
    if (!visibility_is_timeless(u->r)) return UPDATE_DEAR;
    return u->old->slots ? update_list(u) : update_bits(u);
}

/* ---- rows ---- */

static void give(struct filter_rows *rows, const struct filter_result *result, bool from_cache)
{
    rows->slots = result->slots;
    rows->bits = result->bits;
    rows->count = result->count;
    rows->from_cache = from_cache;
}

/* Hand a result over to the cache, or to `rows` if that does not take it. */
static void keep(struct reader *r, struct filter_result *result, struct filter_rows *rows)
{
    if (!filter_cache_put(r->store->filters, result, r->lsn, r->slot_count)) rows->own = result;
}

/* Take the rows from an older result.  False: it has to be done without; *rc says if that would be
 * in vain. */
static bool take_updated(struct reader *r, const struct filter *filter, struct filter_result *old,
                         uint64_t since, bool may_block, struct filter_rows *rows,
                         enum err_code *rc, struct err *err)
{
    struct update u UNINITIALIZED;
    u.r = r;
    u.filter = filter;
    u.old = old;
    u.since = since;
    u.born_max = born_max(old, may_block);
    u.chunks_max = may_block ? UINT32_MAX : INLINE_CHUNKS;
    u.rc = ERR_OK;
    u.err = err;
    u.lost = u.born_count = u.kept_count = 0;
    u.result = NULL;
    enum outcome outcome = update(&u);
    *rc = reader_check(r, u.rc, err);
    bool is_done = !*rc && (outcome == UPDATE_SAME || outcome == UPDATE_NEW);
    if (is_done && outcome == UPDATE_NEW) {
        u.result->select_ns = old->select_ns;
        give(rows, u.result, true);
        keep(r, u.result, rows);
        return true;
    }
    filter_result_free(u.result);
    if (is_done) {
        filter_result_raise(old, r->lsn);
        give(rows, old, true);
    }
    return is_done;
}

/* Select, and keep what comes out. */
static enum err_code select_to_keep(struct reader *r, const struct filter *filter, bool may_block,
                                    struct filter_rows *rows, struct err *err)
{
    uint64_t *bits, begun = clock_ns();
    size_t words = filter_words(r), room = words_with_slack(r);
    struct filter_result *result = filter_result_new_bits(filter, room, &bits);
    if (!result) return no_memory(err);
    memset(bits + words, 0, (room - words) * sizeof *bits);
    enum err_code rc = filter_select(r, filter, may_block, bits, &result->count, err);
    if (rc) {
        filter_result_free(result);
        return rc;
    }
    result->select_ns = clock_ns() - begun;
    struct filter_result *list =
        result->count <= LIST_MAX ? list_of(filter, bits, words, result->count) : NULL;
    if (list) {
        list->select_ns = result->select_ns;
        filter_result_free(result);
        result = list;
    }
    give(rows, result, false);
    keep(r, result, rows);
    return ERR_OK;
}

static enum err_code select_once(struct reader *r, const struct filter *filter, bool may_block,
                                 struct filter_rows *rows, struct err *err)
{
    uint64_t *bits = mem_try((filter_words(r) + 1) * sizeof *bits);
    if (!bits) return no_memory(err);
    rows->own = bits;
    rows->bits = bits;
    enum err_code rc = filter_select(r, filter, may_block, bits, &rows->count, err);
    if (!rc) filter_cache_note(r->store->filters, filter);
    return rc;
}

enum err_code filter_find_rows(struct reader *r, const struct filter *filter, bool may_block,
                               struct filter_rows *rows, struct err *err)
{
    struct filter_cache *cache = r->store->filters;
    uint64_t lsn = 0;
    *rows = (struct filter_rows){0};
    enum err_code rc = database_check_readable(r->db, err);
    if (rc) return rc;
    struct filter_result *old = filter_cache_find(cache, filter, &lsn);
    if (old && lsn == r->lsn && (old->slots || old->words >= filter_words(r))) {
        give(rows, old, true);
        return ERR_OK;
    }
    if (old && lsn < r->lsn && (take_updated(r, filter, old, lsn, may_block, rows, &rc, err) || rc))
        return rc;
    /* For a snapshot that is older than what is kept, nothing is. */
    bool is_old = old && lsn >= r->lsn;
    if (!is_old && filter_cache_wants(cache, filter) && visibility_is_timeless(r))
        return select_to_keep(r, filter, may_block, rows, err);
    return select_once(r, filter, may_block, rows, err);
}

void filter_rows_deinit(struct filter_rows *rows)
{
    mem_free(rows->own);
}

void filter_rows_to_bits(const struct filter_rows *rows, const struct reader *r, uint64_t *bits)
{
    size_t words = filter_words(r);
    if (rows->bits) {
        memcpy(bits, rows->bits, words * sizeof *bits);
        return;
    }
    memset(bits, 0, words * sizeof *bits);
    for (uint64_t i = 0; i < rows->count; i++)
        bits[rows->slots[i] / 64] |= UINT64_C(1) << rows->slots[i] % 64;
}
