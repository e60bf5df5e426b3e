/* engine_memory.c - databases that live as long as the process: the same rows over memory. */
#include "storage/base/mem.h"
#include "storage/engine.h"

static enum err_code load(struct engine *e, struct file_cache *cache, struct err *err)
{
    (void)e, (void)cache, (void)err;
    return ERR_OK;
}

static enum err_code create(struct engine *e, const char *name, const uint8_t uuid[16],
                            const struct schema *schema, struct err *err)
{
    (void)e, (void)name, (void)uuid, (void)schema, (void)err;
    return ERR_OK; /* open() makes it, once */
}

static enum err_code open_database(struct engine *e, const char *name, const uint8_t uuid[16],
                                   const struct schema *schema, struct open_hints hints,
                                   const struct database_host *host, struct database **out,
                                   struct err *err)
{
    (void)e, (void)hints;
    struct database *db = database_new(name, schema, -1, host);
    enum err_code rc = jvdb_file_init(&db->store->file, -1, name, uuid, schema->dimension, err);
    if (rc) {
        database_free(db);
        return rc;
    }
    db->store->row_bytes = db->store->file.shapes[REGION_VECTORS].cell_bytes;
    *out = db;
    return ERR_OK;
}

static enum err_code close_database(struct engine *e, struct database *db, bool keep_log,
                                    bool *has_log, struct err *err)
{
    (void)e, (void)keep_log, (void)err;
    *has_log = false;
    database_free(db);
    return ERR_OK;
}

static bool close_is_slow(struct database *db, bool keep_log)
{
    (void)db, (void)keep_log;
    return false;
}

static enum err_code drop(struct engine *e, const char *name, const uint8_t uuid[16],
                          struct database *db, struct err *err)
{
    (void)e, (void)name, (void)uuid, (void)err;
    database_free(db);
    return ERR_OK;
}

static enum err_code flush(struct engine *e, struct database *db, struct err *err)
{
    (void)e, (void)db, (void)err;
    return ERR_OK;
}

static enum err_code stop(struct engine *e, struct file_cache *cache, bool clean, struct err *err)
{
    (void)cache, (void)clean, (void)err;
    mem_free(e);
    return ERR_OK;
}

struct engine *engine_memory_new(void)
{
    static const struct engine_ops ops = {
        .name = "in-memory",
        .can_evict = false,
        .load = load,
        .create = create,
        .open = open_database,
        .close = close_database,
        .close_is_slow = close_is_slow,
        .drop = drop,
        .flush = flush,
        .stop = stop,
    };
    struct engine *e = mem_new(struct engine);
    e->ops = &ops;
    e->dir_fd = -1;
    return e;
}
