/* select.c - the rows of a snapshot that match. */
#include <string.h>

#include "storage/database_private.h"
#include "storage/filter/filter_private.h"
#include "storage/records.h"

/* Rows whose metadata may be looked at on a thread that must not wait: about 200 us of work. */
enum { INLINE_ROWS_MAX = 400 };

/* Id and metadata of a visible row, without its vector. */
static enum err_code slot_metadata(struct reader *r, const struct slot *s, struct record *record,
                                   struct vector_id *id, struct err *err)
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

static enum err_code try_slot(struct reader *r, struct matcher *m, const struct slot *s,
                              bool *matches, struct err *err)
{
    struct record record;
    struct vector_id id;
    enum err_code rc = slot_metadata(r, s, &record, &id, err);
    if (rc) return rc;
    return matcher_try(m, &id, record.metadata, record.metadata_bytes, matches, err);
}

enum err_code filter_select(struct reader *r, const struct filter *filter, bool may_block,
                            uint64_t *bits, uint64_t *count, struct err *err)
{
    struct matcher m = {0};
    *count = 0;
    memset(bits, 0, filter_words(r) * sizeof *bits);
    enum err_code rc = database_check_readable(r->db, err);
    if (rc) return rc;
    if (!may_block && r->slot_count > INLINE_ROWS_MAX)
        return err_set(err, ERR_WOULD_COMPUTE, "a long scan of metadata");
    if (filter) rc = matcher_init(&m, filter, err);
    for (uint32_t i = 0; i < r->slot_count && !rc; i++) {
        const struct slot *s = jvdb_file_read(&r->store->file, REGION_SLOTS, i);
        if (!s) {
            rc = database_damaged(r->db, "a slot", err);
            break;
        }
        if (!slot_is_visible(s, r->lsn, r->now_ms)) continue;
        bool matches = true;
        if (filter) rc = try_slot(r, &m, s, &matches, err);
        bits[i / 64] |= (uint64_t)matches << (i % 64);
        *count += matches;
    }
    matcher_deinit(&m);
    return reader_check(r, rc, err);
}
