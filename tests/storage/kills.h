/*
 * kills.h - what a kill -9 before each system call would leave, opened and compared with the model.
 *
 * kills_watch() arms faults.h: before each call of this thread that changes files, the directory is
 * copied and the copy opened.  kills_end() says whether all of them were right.
 */
#ifndef TESTS_STORAGE_KILLS_H
#define TESTS_STORAGE_KILLS_H

#include "tests/storage/images.h"
#include "tests/storage/model.h"

static struct {
    const struct model *model;
    const char *file; /* counted: images that have it */
    int with_file;
    int bad_image; /* the first; -1: none */
    char why[300];
} kills;

static void kills_check_image(void)
{
    struct err bad;
    struct database *db;
    char why[300];
    bool has_file = file_exists(image_fd, kills.file); /* an opening may remove it */
    bool good = model_try_open(image_fd, false, &db, &bad) == ERR_OK;
    if (good) {
        good = model_matches(db, kills.model, why);
        database_free(
            db); /* not model_close(): that waits for readers, and what is tested may be one */
    } else {
        snprintf(why, sizeof why, "cannot open: %.250s", bad.msg);
    }
    if (!good && kills.bad_image < 0) {
        kills.bad_image = images.count;
        memcpy(kills.why, why, sizeof why);
    }
    kills.with_file += has_file;
}

static inline void kills_begin(const struct model *model, const char *file)
{
    kills.model = model;
    kills.file = file;
    images.count = kills.with_file = 0;
    kills.bad_image = -1;
}

static inline void kills_watch(void)
{
    images_watch(kills_check_image);
}

static inline void kills_end(void)
{
    faults_disarm();
    if (kills.bad_image >= 0) fail_msg("before call %d: %s", kills.bad_image, kills.why);
}

#endif
