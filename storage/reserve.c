/* reserve.c - several files rather than one: a file system can also be out of inodes. */
#include "storage/reserve.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>

#include "storage/base/file.h"
#include "storage/base/lock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"

/* Room for a checkpoint of about 100,000 changed rows. */
enum { FILES = 4, FILE_BYTES = 1 << 20 };

enum state {
    HELD,
    GIVEN_UP, /* the disk is full                                       */
    NONE,     /* it cannot be made here for another reason: do without it */
};

struct reserve {
    int dir_fd;
    struct mutex mu;   /* LOCK_LEAF: one thread at a time moves the state */
    _Atomic int state; /* read without the lock as a hint                 */
    int users;         /* between reserve_use() and reserve_done()        */
};

static void file_name(int i, char text[32])
{
    snprintf(text, 32, ".reserve.%d", i);
}

static void remove_files(struct reserve *r)
{
    for (int i = 0; i < FILES; i++) {
        char name[32];
        file_name(i, name);
        int ignored = file_unlink(r->dir_fd, name);
        (void)ignored;
    }
}

static int make_file(int dir_fd, const char *name)
{
    uint64_t bytes = 0;
    int fd = -1;
    int os_errno = file_open(dir_fd, name, O_RDWR | O_CREAT, &fd);
    if (!os_errno) os_errno = file_size(fd, &bytes);
    if (!os_errno && bytes < FILE_BYTES) os_errno = file_allocate(fd, 0, FILE_BYTES);
    file_close(fd);
    return os_errno;
}

/* All of it, or nothing: what is half there would only be in the way. */
static enum state make(struct reserve *r)
{
    int os_errno = 0;
    for (int i = 0; i < FILES && !os_errno; i++) {
        char name[32];
        file_name(i, name);
        os_errno = make_file(r->dir_fd, name);
    }
    if (!os_errno) return HELD;
    remove_files(r);
    return os_errno == ENOSPC || os_errno == EDQUOT ? GIVEN_UP : NONE;
}

static void say_full(void)
{
    log_warning("the disk is full: only reads, deletes and flushes until %d MiB are free",
                FILES * FILE_BYTES >> 20);
}

struct reserve *reserve_open(int dir_fd)
{
    struct reserve *r = mem_new(struct reserve);
    r->dir_fd = dir_fd;
    mutex_init(&r->mu, LOCK_LEAF);
    atomic_init(&r->state, make(r));
    if (atomic_load(&r->state) == GIVEN_UP) say_full();
    return r;
}

void reserve_close(struct reserve *r)
{
    if (!r) return;
    mutex_deinit(&r->mu);
    mem_free(r);
}

void reserve_restore(struct reserve *r)
{
    if (!r || atomic_load(&r->state) != GIVEN_UP) return;
    mutex_lock(&r->mu);
    bool changed = false;
    if (atomic_load(&r->state) == GIVEN_UP && r->users == 0) {
        enum state state = make(r);
        changed = state != GIVEN_UP;
        atomic_store(&r->state, (int)state);
    }
    mutex_unlock(&r->mu);
    if (changed) log_info("there is room on the disk again");
}

enum err_code reserve_check(struct reserve *r, struct err *err)
{
    reserve_restore(r);
    if (!r || atomic_load(&r->state) != GIVEN_UP) return ERR_OK;
    return err_set(err, ERR_STORAGE_FULL,
                   "the disk is full; only reads, deletes and flushes until %d MiB are free",
                   FILES * FILE_BYTES >> 20);
}

bool reserve_use(struct reserve *r, const struct err *err)
{
    if (!r || err->code != ERR_STORAGE_FULL || (err->os_errno != ENOSPC && err->os_errno != EDQUOT))
        return false;
    mutex_lock(&r->mu);
    bool changed = atomic_load(&r->state) == HELD;
    if (changed) {
        atomic_store(&r->state, GIVEN_UP);
        remove_files(r);
    }
    r->users++;
    mutex_unlock(&r->mu);
    if (changed) say_full();
    return true;
}

void reserve_done(struct reserve *r)
{
    mutex_lock(&r->mu);
    assert(r->users > 0);
    r->users--;
    mutex_unlock(&r->mu);
}
