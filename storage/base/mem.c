#include "storage/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *or_die(void *p, size_t bytes)
{
    if (!p) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        abort();
    }
    return p;
}

void *mem_zalloc(size_t bytes)
{
    return or_die(calloc(1, bytes ? bytes : 1), bytes);
}

char *mem_strdup(const char *text)
{
    return or_die(strdup(text), strlen(text));
}

void *mem_try(size_t bytes)
{
    return malloc(bytes ? bytes : 1);
}

void *mem_try_aligned(size_t bytes)
{
    return aligned_alloc(64, (bytes + 64) / 64 * 64);
}

void *mem_resize(void *p, size_t bytes)
{
    return realloc(p, bytes ? bytes : 1);
}

void mem_free(void *p)
{
    free(p);
}
