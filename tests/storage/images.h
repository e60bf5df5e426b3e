/*
 * images.h - what a kill -9 before each system call would leave, for the test to open.
 *
 * images_watch() arms faults.h: before each call of this thread that changes files, the directory
 * is copied to image_fd and the test's function called; faults_disarm() ends it.
 */
#ifndef TESTS_STORAGE_IMAGES_H
#define TESTS_STORAGE_IMAGES_H

#include "tests/storage/faults.h"
#include "tests/storage/temp_dir.h"

#include <pthread.h>

static struct {
    void (*use)(void);
    int count; /* since the test set it to 0 */
} images;

static inline void *images_use(void *arg)
{
    (void)arg;
    images.use();
    return NULL;
}

/* On a thread of its own, which holds no lock. */
static inline void images_before_call(int call)
{
    (void)call;
    pthread_t thread;
    take_image();
    assert_int_equal(pthread_create(&thread, NULL, images_use, NULL), 0);
    pthread_join(thread, NULL);
    images.count++;
}

static inline void images_watch(void (*use)(void))
{
    images.use = use;
    faults_arm(FAULT_ANY, -1, 0);
    faults.before = images_before_call;
}

#endif
