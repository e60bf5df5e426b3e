/*
 * reader.c - the read path: snapshots, lookups by id, listings.
 *
 * A row is visible to a snapshot S if birth <= S < death.  A slot that is being used again has its
 * birth set to "never" before anything else of it changes, so whoever reads death first and birth
 * second cannot pair an old birth with a new death.  From the newest slot of an id a reader follows
 * `replaced` back to the one that its snapshot sees; that slot is not used again before the reader
 * has left.
 */
#include <inttypes.h>
#include <string.h>

#include "storage/base/bits.h"
#include "storage/base/clock.h"
#include "storage/base/crc32c.h"
#include "storage/base/epoch.h"
#include "storage/base/log.h"
#include "storage/base/metrics.h"
#include "storage/database_private.h"
#include "storage/records.h"

#define GET(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)

/* Inside a section. */
static void look(struct database *db, struct reader *r)
{
    *r = (struct reader){.db = db, .now_ms = clock_wall_ms()};
    for (;;) {
        uint32_t version = atomic_load_explicit(&db->snapshot_version, memory_order_acquire);
        r->store = atomic_load_explicit(&db->store, memory_order_acquire);
        r->lsn = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
        r->live_count = atomic_load_explicit(&db->live_count, memory_order_acquire);
        r->slot_count = atomic_load_explicit(&db->slot_count, memory_order_acquire);
        if (!(version & 1) &&
            version == atomic_load_explicit(&db->snapshot_version, memory_order_acquire))
            return;
    }
}

void reader_begin(struct database *db, struct reader *r)
{
    epoch_enter();
    look(db, r);
}

void snapshot_take(struct database *db, struct snapshot *s)
{
    epoch_pin(&s->pin);
    look(db, &s->of);
}

void snapshot_drop(struct snapshot *s)
{
    epoch_unpin(&s->pin);
}

void reader_begin_at(const struct snapshot *s, struct reader *r)
{
    epoch_enter();
    *r = s->of;
}

enum err_code reader_check(struct reader *r, enum err_code rc, struct err *err)
{
    return database_check_read(r->db, &r->store->file, rc, err);
}

void reader_end(struct reader *r)
{
    arena_free(&r->pieces);
    epoch_leave();
}

uint64_t reader_count(struct reader *r)
{
    return r->live_count;
}

const char *search_strategy_name(enum search_strategy s)
{
    static const char *const names[] = {"exact", "graph", "filtered_graph"};
    return s < SEARCH_STRATEGY_COUNT ? names[s] : "unknown";
}

bool slot_is_visible(const struct slot *s, uint64_t lsn, uint64_t now_ms)
{
    uint64_t death = GET(s->death);
    uint64_t birth = GET(s->birth);
    if (birth > lsn || lsn >= death) return false;
    return s->expires_at_ms == 0 || now_ms < s->expires_at_ms;
}

const float *slot_vector(struct reader *r, uint32_t slot_number, const struct slot *s)
{
    const float *vector = jvdb_file_read(&r->store->file, REGION_VECTORS, slot_number);
    if (!vector) return NULL;
    if (jvdb_file_is_checked(&r->store->file, REGION_VECTORS, slot_number)) return vector;

    struct disk_wal_op op = {.key = s->key, .text_bytes = s->text_bytes};
    if (database_row_crc(r->db, &op, vector) != s->row_crc) {
        stat_add(STAT_CHECKSUM_ERRORS, 1);
        log_error("%s: the row in slot %" PRIu32 " fails its checksum", r->store->file.file_name,
                  slot_number);
        return NULL;
    }
    jvdb_file_set_checked(&r->store->file, REGION_VECTORS, slot_number);
    return vector;
}

enum err_code slot_metadata(struct reader *r, const struct slot *s, struct vector_id *id,
                            struct record *record, struct err *err)
{
    *id = (struct vector_id){.number = s->key};
    *record = (struct record){.metadata = "{}", .metadata_bytes = 2};
    if (!s->record_at) return s->text_bytes ? database_damaged(r->db, "a slot", err) : ERR_OK;
    enum err_code rc = records_read(&r->store->file, s->record_at, &r->pieces, record, err);
    if (rc == ERR_CORRUPT) database_quarantine(r->db, err);
    if (rc) return rc;
    if (record->text_bytes != s->text_bytes) return database_damaged(r->db, "a record", err);
    if (record->text_bytes)
        *id = (struct vector_id){.text = record->text, .text_bytes = record->text_bytes};
    if (!record->metadata_bytes) {
        record->metadata = "{}";
        record->metadata_bytes = 2;
    }
    return ERR_OK;
}

enum err_code slot_row(struct reader *r, uint32_t slot_number, const struct slot *s,
                       struct row *row, struct err *err)
{
    *row = (struct row){
        .vector = slot_vector(r, slot_number, s),
        .version = GET(s->birth),
        .expires_at_ms = s->expires_at_ms,
    };
    if (!row->vector) return database_damaged(r->db, "a vector", err);
    struct record record;
    enum err_code rc = slot_metadata(r, s, &row->id, &record, err);
    row->metadata = record.metadata;
    row->metadata_bytes = record.metadata_bytes;
    return rc;
}

/* From the newest slot of an id to the one that the snapshot sees; NULL: none (*damage says why).
 * A step goes to a certain life of a slot.  If that slot was used again since, the row that was
 * replaced had died before this snapshot, and there is nothing to see. */
static const struct slot *visible_version(struct reader *r, uint32_t *slot_number, bool *damage)
{
    uint32_t number = *slot_number, generation = 0;
    *damage = false;
    uint32_t extents =
        atomic_load_explicit(&r->store->file.extent_count[REGION_SLOTS], memory_order_acquire);
    uint64_t slots = region_capacity(&r->store->file.shapes[REGION_SLOTS], extents);
    for (uint64_t hops = 0; hops < slots; hops++) { /* more: a forged circle */
        const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, number);
        if (!s) break;
        if (hops == 0) generation = GET(s->generation);
        if (GET(s->generation) != generation) return NULL;
        if (slot_is_visible(s, r->lsn, r->now_ms)) {
            *slot_number = number;
            return s;
        }
        /* Older versions matter only if this one is too new. */
        uint64_t birth = GET(s->birth);
        uint32_t replaced = GET(s->replaced), replaced_generation = GET(s->replaced_generation);
        if (GET(s->generation) != generation) return NULL;
        if (birth <= r->lsn || birth == SLOT_NEVER || replaced == 0) return NULL;
        number = replaced - 1;
        generation = replaced_generation;
    }
    *damage = true;
    return NULL;
}

/* The index was read before the slot it names was looked at: meanwhile that slot, if its row was
 * dead, may have been used again for a newer row of another id, and visible_version() has followed
 * that one's past. */
static bool slot_has_id(struct reader *r, const struct slot *s, const struct index_key *id)
{
    if (s->key != id->key || s->text_bytes != id->text_bytes) return false;
    if (s->text_bytes <= sizeof s->key) return true;
    char copy[ID_BYTES_MAX];
    const char *text = records_text(&r->store->file, s->record_at, s->text_bytes, copy);
    /* Damage is found when the row is read. */
    return !text || !id->text || memcmp(text, id->text, s->text_bytes) == 0;
}

enum err_code reader_find(struct reader *r, const struct vector_id *id, uint32_t *slot_number,
                          struct err *err)
{
    struct index_key key = index_key_of(id);
    uint32_t newest = 0;
    bool damage = false;
    const struct slot *s = NULL;
    enum index_result found = id_index_find(&r->store->index, &key, &newest);
    if (found == INDEX_DAMAGED) return database_damaged(r->db, "the id index", err);
    *slot_number = newest;
    if (found == INDEX_FOUND) s = visible_version(r, slot_number, &damage);
    if (damage) return database_damaged(r->db, "a slot", err);
    if (s && (*slot_number == newest || slot_has_id(r, s, &key))) return ERR_OK;
    char text[80];
    vector_id_format(id, text, sizeof text);
    return err_set(err, ERR_VECTOR_NOT_FOUND, "database \"%s\" has no vector \"%s\"", r->db->name,
                   text);
}

static enum err_code get(struct reader *r, const struct vector_id *id, struct row *row,
                         struct err *err)
{
    uint32_t slot;
    enum err_code rc = database_check_readable(r->db, err);
    if (!rc) rc = reader_find(r, id, &slot, err);
    if (rc) return rc;
    const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, slot);
    if (!s) return database_damaged(r->db, "a slot", err);
    return slot_row(r, slot, s, row, err);
}

enum err_code reader_get(struct reader *r, const struct vector_id *id, struct row *row,
                         struct err *err)
{
    return reader_check(r, get(r, id, row, err), err);
}

static bool has_prefix(const struct row *row, const char *prefix, size_t prefix_bytes)
{
    return row->id.text && row->id.text_bytes >= prefix_bytes &&
           memcmp(row->id.text, prefix, prefix_bytes) == 0;
}

/* `bits` NULL: every row. */
static bool is_selected(const uint64_t *bits, uint32_t slot)
{
    return !bits || bits_has(bits, slot);
}

static enum err_code list(struct reader *r, const uint64_t *bits, const struct vector_id *after,
                          const char *prefix, size_t prefix_bytes, size_t limit, reader_row_fn *fn,
                          void *ctx, bool *more, struct err *err)
{
    *more = false;
    enum err_code rc = database_check_readable(r->db, err);
    if (rc) return rc;

    /* Every id with a prefix comes behind the prefix itself; that one is an id too. */
    struct vector_id start_id = {.text = prefix, .text_bytes = (uint32_t)prefix_bytes};
    struct index_key start = {0}, *from = NULL;
    bool start_itself = false;
    if (after) {
        start = index_key_of(after);
        from = &start;
    }
    if (prefix_bytes && (!after || vector_id_compare(after, &start_id) < 0)) {
        start = index_key_of(&start_id);
        from = &start;
        start_itself = true;
    }
    size_t given = 0;
    struct vector_id last = {0};
    bool has_last = after != NULL;
    if (after) last = *after;
    if (start_itself) {
        struct row row;
        uint32_t slot;
        rc = reader_find(r, &start_id, &slot, err);
        if (rc == ERR_OK && is_selected(bits, slot)) {
            const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, slot);
            if (!s) return database_damaged(r->db, "a slot", err);
            rc = slot_row(r, slot, s, &row, err);
            if (rc) return rc;
            if (limit == 0) {
                *more = true;
                return ERR_OK;
            }
            given++;
            if (!fn(ctx, &row)) return ERR_OK;
        } else if (rc && rc != ERR_VECTOR_NOT_FOUND) {
            return rc;
        }
    }
    struct index_entry entries[INDEX_NODE_ENTRIES];
    uint32_t count, leaf = 0;
    uint64_t leaves = 0;
    do {
        uint32_t next;
        enum index_result found =
            id_index_scan(&r->store->index, from, leaf, entries, &count, &next);
        if (found == INDEX_DAMAGED) return database_damaged(r->db, "the id index", err);
        if (found == INDEX_MISSING) return ERR_OK;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t slot = entries[i].ref;
            bool damage;
            const struct slot *s = visible_version(r, &slot, &damage);
            if (damage) return database_damaged(r->db, "a slot", err);
            if (!s || !is_selected(bits, slot)) continue;
            if (slot != entries[i].ref) {
                char copy[ID_BYTES_MAX];
                const struct index_entry *e = &entries[i];
                struct index_key id = {.key = e->key, .text_bytes = e->text_bytes};
                if (id.text_bytes)
                    id.text = records_text(&r->store->file, e->text_at, e->text_bytes, copy);
                if (!slot_has_id(r, s, &id)) continue;
            }
            struct row row;
            rc = slot_row(r, slot, s, &row, err);
            if (rc) return rc;
            /* A listing that went back would have no end. */
            if (has_last && vector_id_compare(&last, &row.id) >= 0)
                return database_damaged(r->db, "the id index", err);
            last = row.id;
            has_last = true;
            if (prefix_bytes && !has_prefix(&row, prefix, prefix_bytes)) return ERR_OK;
            if (given == limit) {
                *more = true;
                return ERR_OK;
            }
            given++;
            if (!fn(ctx, &row)) return ERR_OK;
        }
        if (++leaves > id_index_nodes_max(&r->store->index))
            return database_damaged(r->db, "the id index", err); /* leaves in a circle */
        leaf = next;
        from = NULL;
    } while (leaf);
    return ERR_OK;
}

enum err_code reader_list(struct reader *r, const struct vector_id *after, const char *prefix,
                          size_t prefix_bytes, size_t limit, reader_row_fn *fn, void *ctx,
                          bool *more, struct err *err)
{
    enum err_code rc = list(r, NULL, after, prefix, prefix_bytes, limit, fn, ctx, more, err);
    return reader_check(r, rc, err);
}

enum err_code reader_list_selected(struct reader *r, const uint64_t *bits,
                                   const struct vector_id *after, const char *prefix,
                                   size_t prefix_bytes, size_t limit, reader_row_fn *fn, void *ctx,
                                   bool *more, struct err *err)
{
    enum err_code rc = list(r, bits, after, prefix, prefix_bytes, limit, fn, ctx, more, err);
    return reader_check(r, rc, err);
}
