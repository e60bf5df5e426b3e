/*
 * model.h - a small database and what it must hold.
 *
 * Rows 0 .. MODEL_ROWS - 1: even ones have integer ids, odd ones string ids.  A row's whole content
 * follows from its number and its value; value 0: there is no such row.
 */
#ifndef TESTS_STORAGE_MODEL_H
#define TESTS_STORAGE_MODEL_H

#include "tests/storage/temp_dir.h"

#include "storage/base/crc32c.h"
#include "storage/base/epoch.h"
#include "storage/checkpoint.h"
#include "storage/database_private.h"
#include "storage/manifest.h"

enum { MODEL_ROWS = 64, MODEL_DIMENSION = 5 };

struct model {
    uint32_t value[MODEL_ROWS];
};

static const uint8_t model_uuid[16] = {9, 8, 7, 6, 5, 4, 3, 2, 1};
static const struct schema model_schema = {.dimension = MODEL_DIMENSION,
                                           .metric = METRIC_EUCLIDEAN};

/* ---- content ---- */

struct model_row {
    char text[40];
    char metadata[80];
    float vector[MODEL_DIMENSION];
    struct vector_id id;
    uint32_t metadata_bytes;
};

static inline void model_row(struct model_row *r, uint32_t number, uint32_t value)
{
    *r = (struct model_row){.id.number = number};
    if (number % 2) {
        r->id = (struct vector_id){.text = r->text};
        r->id.text_bytes = (uint32_t)snprintf(r->text, sizeof r->text, "row/%u%s", number,
                                              number % 4 == 1 ? "" : "/with a longer text");
    }
    for (int i = 0; i < MODEL_DIMENSION; i++)
        r->vector[i] = (float)(number * 100000 + value * 8) + (float)i;
    if (value % 3)
        r->metadata_bytes =
            (uint32_t)snprintf(r->metadata, sizeof r->metadata, "{\"value\":%u,\"pad\":\"%.*s\"}",
                               value, (int)(value % 30), "..............................");
    else
        r->metadata_bytes = (uint32_t)snprintf(r->metadata, sizeof r->metadata, "{}");
}

/* ---- open, write ---- */

static inline void model_create(int dir)
{
    struct err err;
    if (database_create_files(dir, "db", model_uuid, &model_schema, &err)) fail_msg("%s", err.msg);
}

static inline enum err_code model_try_open(int dir, bool skip_lsns, struct database **db,
                                           struct err *err)
{
    struct database_open_options options = {.skip_lsns = skip_lsns};
    struct database_host host = {0};
    *db = NULL;
    return database_open(dir, "db", model_uuid, &options, &host, db, err);
}

static inline struct database *model_open(int dir)
{
    struct err err;
    struct database *db;
    if (model_try_open(dir, false, &db, &err)) fail_msg("%s", err.msg);
    return db;
}

/* Give rows first .. last this value, in one write. */
static inline enum err_code model_try_put(struct database *db, struct model *m, uint32_t first,
                                          uint32_t last, uint32_t value, uint64_t *lsn,
                                          struct err *err)
{
    struct model_row rows[MODEL_ROWS];
    struct row_input in[MODEL_ROWS];
    for (uint32_t n = first; n <= last; n++) {
        model_row(&rows[n], n, value);
        in[n] = (struct row_input){.id = rows[n].id,
                                   .vector = rows[n].vector,
                                   .metadata = rows[n].metadata,
                                   .metadata_bytes = rows[n].metadata_bytes};
    }
    enum err_code rc =
        database_put(db, in + first, last + 1 - first, MODEL_DIMENSION, true, lsn, err);
    for (uint32_t n = first; n <= last && !rc; n++)
        m->value[n] = value;
    return rc;
}

static inline uint64_t model_put(struct database *db, struct model *m, uint32_t first,
                                 uint32_t last, uint32_t value)
{
    struct err err;
    uint64_t lsn = 0;
    if (model_try_put(db, m, first, last, value, &lsn, &err)) fail_msg("%s", err.msg);
    return lsn;
}

static inline enum err_code model_try_delete(struct database *db, struct model *m, uint32_t first,
                                             uint32_t last, uint64_t *lsn, struct err *err)
{
    struct model_row rows[MODEL_ROWS];
    struct vector_id ids[MODEL_ROWS] = {{0}};
    size_t deleted = 0;
    for (uint32_t n = first; n <= last; n++) {
        model_row(&rows[n], n, 1);
        ids[n] = rows[n].id;
    }
    enum err_code rc = database_delete(db, ids + first, last + 1 - first, true, &deleted, lsn, err);
    for (uint32_t n = first; n <= last && !rc; n++)
        m->value[n] = 0;
    return rc;
}

static inline uint64_t model_delete(struct database *db, struct model *m, uint32_t first,
                                    uint32_t last)
{
    struct err err;
    uint64_t lsn = 0;
    if (model_try_delete(db, m, first, last, &lsn, &err)) fail_msg("%s", err.msg);
    return lsn;
}

static inline void model_checkpoint(struct database *db)
{
    struct err err;
    if (checkpoint_run(db, &err)) fail_msg("%s", err.msg);
}

/* ---- compare ---- */

static inline bool model_count_row(void *ctx, const struct row *row)
{
    (void)row;
    ++*(uint64_t *)ctx;
    return true;
}

/* Does a database hold just the model?  If not, `why` says. */
static inline bool model_matches(struct database *db, const struct model *m, char why[300])
{
    struct reader r;
    struct err err;
    uint64_t expected = 0, listed = 0;
    bool good = true, more;
    why[0] = '\0';
    reader_begin(db, &r);
    for (uint32_t n = 0; n < MODEL_ROWS && good; n++) {
        struct model_row want;
        struct row row;
        model_row(&want, n, m->value[n]);
        enum err_code rc = reader_get(&r, &want.id, &row, &err);
        if (m->value[n] == 0) {
            good = rc == ERR_VECTOR_NOT_FOUND;
        } else {
            expected++;
            good = rc == ERR_OK && memcmp(row.vector, want.vector, sizeof want.vector) == 0 &&
                   row.metadata_bytes == want.metadata_bytes &&
                   memcmp(row.metadata, want.metadata, want.metadata_bytes) == 0;
        }
        if (!good)
            snprintf(why, 300, "row %u should have value %u: %.150s (found %.80s)", n, m->value[n],
                     rc ? err.msg : "another content", rc ? "nothing" : row.metadata);
    }
    if (good) {
        enum err_code rc =
            reader_list(&r, NULL, NULL, 0, 1000, model_count_row, &listed, &more, &err);
        good = !rc && listed == expected && reader_count(&r) == expected;
        if (!good)
            snprintf(why, 300, "%d rows are expected, %d listed, %d counted (%.150s)",
                     (int)expected, (int)listed, (int)reader_count(&r), rc ? err.msg : "");
    }
    reader_end(&r);
    return good;
}

static inline void assert_model(struct database *db, const struct model *m)
{
    char why[300];
    if (!model_matches(db, m, why)) fail_msg("%s", why);
}

static inline void model_close(struct database *db)
{
    epoch_synchronize();
    database_free(db);
}

/* The same for what lies in a directory. */
static inline bool model_matches_dir(int dir, const struct model *m, char why[300])
{
    struct err err;
    struct database *db;
    if (model_try_open(dir, false, &db, &err)) {
        snprintf(why, 300, "cannot open: %.250s", err.msg);
        return false;
    }
    bool good = model_matches(db, m, why);
    model_close(db);
    return good;
}

static inline void assert_model_in(int dir, const struct model *m)
{
    char why[300];
    if (!model_matches_dir(dir, m, why)) fail_msg("%s", why);
}

/* Keep only the .jvdb of an image and take it in, as a copy made with cp. */
static inline void model_adopt_image(void)
{
    size_t len;
    uint8_t *bytes = file_bytes(data_fd, "db.jvdb", &len);
    for_each_file(image_fd, remove_file);
    set_file(image_fd, "db.jvdb", bytes, len);
    free(bytes);
    struct disk_superblock sb;
    struct err err;
    bool alike;
    int fd = openat(image_fd, "db.jvdb", O_RDONLY | O_CLOEXEC);
    if (superblock_read(fd, "db.jvdb", &sb, &alike, &err)) fail_msg("%s", err.msg);
    close(fd);
    if (database_adopt_files(image_fd, "db", model_uuid, sb.lsn, &err)) fail_msg("%s", err.msg);
}

#endif
