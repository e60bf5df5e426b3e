/*
 * kills.h - what a kill -9 before each system call would leave, opened and compared with the model.
 *
 * kills_watch() arms faults.h: before each call of this thread that changes files, the directory is
 * copied and the copy opened.  kills_end() says whether all of them were right.
 */
#ifndef TESTS_STORAGE_KILLS_H
#define TESTS_STORAGE_KILLS_H

#include "tests/storage/faults.h"
#include "tests/storage/model.h"

#include <pthread.h>

static struct {
    const struct model *model;
    const char *file; /* counted: images that have it */
    int images, with_file;
    int bad_image; /* the first; -1: none */
    char why[300];
} kills;

static void *kills_open_image(void *arg)
{
    (void)arg;
    struct err bad;
    struct database *db;
    char why[300];
    bool good = model_try_open(image_fd, false, &db, &bad) == ERR_OK;
    if (good) {
        good = model_matches(db, kills.model, why);
        database_free(
            db); /* not model_close(): that waits for readers, and what is tested may be one */
    } else {
        snprintf(why, sizeof why, "cannot open: %.250s", bad.msg);
    }
    if (!good && kills.bad_image < 0) {
        kills.bad_image = kills.images;
        memcpy(kills.why, why, sizeof why);
    }
    return NULL;
}

/* On a thread of its own, which holds no lock. */
static void kills_check_image(int call)
{
    (void)call;
    pthread_t thread;
    take_image();
    kills.with_file += file_exists(image_fd, kills.file);
    assert_int_equal(pthread_create(&thread, NULL, kills_open_image, NULL), 0);
    pthread_join(thread, NULL);
    kills.images++;
}

static inline void kills_begin(const struct model *model, const char *file)
{
    kills.model = model;
    kills.file = file;
    kills.images = kills.with_file = 0;
    kills.bad_image = -1;
}

static inline void kills_watch(void)
{
    faults_arm(FAULT_ANY, -1, 0);
    faults.before = kills_check_image;
}

static inline void kills_end(void)
{
    faults_disarm();
    if (kills.bad_image >= 0) fail_msg("before call %d: %s", kills.bad_image, kills.why);
}

#endif
