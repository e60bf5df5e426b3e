/* disk.c - a data directory as bytes; see disk.h. */
#include "tests/fuzz/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

struct service *disk_service(struct err *err)
{
    struct service *service = NULL;
    struct service_options options = {.engine = ENGINE_PERSISTENT,
                                      .storage_path = fuzz_dir(),
                                      .max_open_files = 100,
                                      .wal_sync_interval_ms = 1000,
                                      .wal_bytes_max = 256 << 20,
                                      .index_threads = 1};
    fuzz_quiet();
    return service_open(&options, &service, err) ? NULL : service;
}

/* ---- rows ---- */

static void row_values(uint32_t number, float *vector, char *text, char *metadata)
{
    for (uint32_t i = 0; i < DISK_DIMENSION; i++)
        vector[i] = (float)((number * 2654435761u + i * 40503u) % 1000) / 8 - 60;
    sprintf(text, "row %u", number);
    sprintf(metadata, "{\"n\":%u,\"k\":\"%.*s\"}", number, (int)(number % 64),
            "the quick brown fox jumps over the lazy dog; the quick brown fox ");
}

void disk_put(struct database *db, uint32_t number)
{
    float vector[DISK_DIMENSION];
    char text[32], metadata[128];
    struct err err;
    uint64_t lsn;
    row_values(number, vector, text, metadata);
    struct row_input row = {
        .vector = vector, .metadata = metadata, .metadata_bytes = (uint32_t)strlen(metadata)};
    if (number % 2)
        row.id = (struct vector_id){.text = text, .text_bytes = (uint32_t)strlen(text)};
    else
        row.id.number = number;
    CLAIM(!database_put(db, &row, 1, DISK_DIMENSION, true, &lsn, &err));
}

bool disk_row_is_right(const struct row *row)
{
    float vector[DISK_DIMENSION];
    char text[32], metadata[128], id[64] = "";
    uint32_t number = (uint32_t)row->id.number;
    if (row->id.text) {
        if (row->id.text_bytes >= sizeof id) return false;
        memcpy(id, row->id.text, row->id.text_bytes);
        if (sscanf(id, "row %u", &number) != 1) return false;
    }
    row_values(number, vector, text, metadata);
    return (row->id.text ? strcmp(id, text) == 0 : row->id.number == number) &&
           memcmp(vector, row->vector, sizeof vector) == 0 &&
           row->metadata_bytes == strlen(metadata) &&
           memcmp(row->metadata, metadata, row->metadata_bytes) == 0;
}

/* ---- files ---- */

static bool is_reserve(const char *name)
{
    return strncmp(name, ".reserve", 8) == 0;
}

static void for_each_file(void (*fn)(void *ctx, const char *name), void *ctx)
{
    DIR *dir = opendir(fuzz_dir());
    CLAIM(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_type == DT_REG && !is_reserve(e->d_name)) fn(ctx, e->d_name);
    closedir(dir);
}

static void take_file(void *ctx, const char *name)
{
    struct disk *d = ctx;
    CLAIM(d->count < DISK_FILES_MAX && strlen(name) < sizeof d->files[0].name);
    struct disk_file *f = &d->files[d->count++];
    strcpy(f->name, name);
    f->bytes = fuzz_file_bytes(name, &f->size);
}

void disk_take(struct disk *d)
{
    for_each_file(take_file, d);
}

static void remove_file(void *ctx, const char *name)
{
    (void)ctx;
    char path[400];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    unlink(path);
}

void disk_restore(const struct disk *d)
{
    for_each_file(remove_file, NULL);
    for (size_t i = 0; i < d->count; i++)
        fuzz_file(d->files[i].name, d->files[i].bytes, d->files[i].size);
}

struct disk_file *disk_find(struct disk *d, const char *suffix)
{
    for (size_t i = 0; i < d->count; i++) {
        size_t len = strlen(d->files[i].name), end = strlen(suffix);
        if (len >= end && strcmp(d->files[i].name + len - end, suffix) == 0) return &d->files[i];
    }
    CLAIM(!"the file is there");
    return NULL;
}

/* ---- reading ---- */

struct seen {
    size_t rows;
    bool all_right;
    uint64_t bits; /* of everything: what a reader would touch */
};

static bool see_row(void *ctx, const struct row *row)
{
    struct seen *seen = ctx;
    seen->rows++;
    seen->all_right &= disk_row_is_right(row);
    for (uint32_t i = 0; i < row->metadata_bytes; i++)
        seen->bits += (uint8_t)row->metadata[i];
    for (uint32_t i = 0; row->id.text && i < row->id.text_bytes; i++)
        seen->bits += (uint8_t)row->id.text[i];
    return true;
}

size_t disk_read(struct database *db, bool exact)
{
    enum { TOP_K = 10 };
    struct reader r;
    struct search_hit hits[TOP_K];
    float vector[DISK_DIMENSION] = {1, 2, 3, 4};
    struct seen seen = {.all_right = true};
    struct err err;
    size_t count = 0;
    bool more;
    if (database_schema(db)->dimension != DISK_DIMENSION) return SIZE_MAX;

    reader_begin(db, &r);
    enum err_code rc = reader_list(&r, NULL, NULL, 0, 100000, see_row, &seen, &more, &err);
    rc = reader_check(&r, rc, &err);
    for (int by_graph = 0; by_graph < 2 && !rc; by_graph++) {
        struct search_query query = {.vector = vector, .top_k = TOP_K, .exact = !by_graph};
        rc = reader_search(&r, &query, true, hits, &count, NULL, &err);
        rc = reader_check(&r, rc, &err);
        for (size_t i = 0; i < count && !rc; i++)
            CLAIM(!exact || disk_row_is_right(&hits[i].row));
    }
    reader_end(&r);
    if (rc) return SIZE_MAX;
    CLAIM(!exact || seen.all_right);
    return seen.rows;
}
