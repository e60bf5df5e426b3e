/*
 * mem.h - two ways to allocate, chosen by who picks the size.
 *
 * mem_new(), mem_zalloc():  our size.  Never return NULL; a server that cannot get a few hundred
 *                           bytes is better restarted than half alive.
 * mem_try(), mem_resize():  a client's or a file's size.  May return NULL; the caller turns that
 *                           into ERR_NOMEM and the request fails alone.
 *
 * All memory is released with mem_free().  Any thread.  mimalloc stands behind malloc() because it
 * is linked in front of libc (Makefile); nothing else in the tree knows about it.
 */
#ifndef STORAGE_BASE_MEM_H
#define STORAGE_BASE_MEM_H

#include <stddef.h>

/* Behind a local array that is written before it is read, in an inner loop: release builds clear all
 * others, which costs more than what is done with it. */
#define UNINITIALIZED __attribute__((uninitialized))

void *mem_zalloc(size_t bytes);
#define mem_new(type) ((type *)mem_zalloc(sizeof(type)))
char *mem_strdup(const char *text); /* never NULL for a non-NULL text */

void *mem_try(size_t bytes);             /* not zeroed                            */
void *mem_resize(void *p, size_t bytes); /* NULL on failure: `p` is then untouched */
void *mem_try_aligned(size_t bytes);     /* mem_try(), at a multiple of 64           */
void mem_free(void *p);

#endif
