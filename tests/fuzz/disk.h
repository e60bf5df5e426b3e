/*
 * disk.h - for the fuzzers of files: a data directory that a service wrote, as bytes in memory.
 *
 * It has one database, "d", of DISK_DIMENSION numbers; each row is known by its number.
 */
#ifndef TESTS_FUZZ_DISK_H
#define TESTS_FUZZ_DISK_H

#include "storage/service.h"
#include "tests/fuzz/fuzz.h"

enum { DISK_DIMENSION = 4, DISK_FILES_MAX = 16 };

struct disk_file {
    char name[64];
    uint8_t *bytes;
    size_t size;
};

struct disk {
    struct disk_file files[DISK_FILES_MAX];
    size_t count;
};

/* On fuzz_dir(); NULL: it cannot be opened. */
struct service *disk_service(struct err *err);

/* Row `number` into the database: even ones have an integer id, odd ones a string. */
void disk_put(struct database *db, uint32_t number);
/* Is it exactly as disk_put() made it? */
bool disk_row_is_right(const struct row *row);

/* Take what lies in fuzz_dir() now. */
void disk_take(struct disk *d);
/* Make fuzz_dir() that again, but for the reserve, which nobody fuzzes. */
void disk_restore(const struct disk *d);
/* The file whose name ends so; must be there. */
struct disk_file *disk_find(struct disk *d, const char *suffix);

/* Read every row, search, and return how many rows there were; SIZE_MAX: an error was told.
 * `exact`: they must be right. */
size_t disk_read(struct database *db, bool exact);

#endif
