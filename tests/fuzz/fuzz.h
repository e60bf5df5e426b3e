/*
 * fuzz.h - what the fuzzers share.
 *
 * Each tests/fuzz/fuzz_*.c feeds one kind of bytes that come from outside to the code that reads
 * them, and claims what must hold of the outcome.  It is linked twice: with libFuzzer and
 * sanitizers (`make fuzz`), and as tests/fuzz/smoke_*, a unit test that runs the seeds and a few
 * mutants of each.  One thread.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

/* ---- made by each fuzzer ---- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Give every seed to add().  The bytes need to live during the call only. */
typedef void fuzz_add_fn(void *ctx, const void *bytes, size_t size);
void fuzz_seeds(fuzz_add_fn *add, void *ctx);

/* Optional: mutants that random changes would not find, with checksums made right and the like. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);

/* ---- libFuzzer's; smoke.c has a plain one ---- */

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

/* ---- common.c ---- */

/* Ends the process: the input is a finding. */
_Noreturn void fuzz_fail(const char *file, int line, const char *claim);
#define CLAIM(x) ((x) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #x))

static inline void fuzz_add_text(fuzz_add_fn *add, void *ctx, const char *text)
{
    add(ctx, text, strlen(text));
}

/* A copy with a zero byte behind it and nothing else, for the sanitizer; free(). */
char *fuzz_text(const uint8_t *data, size_t size);

/* No log from here on. */
void fuzz_quiet(void);

/* A directory for files of this process, in memory if possible; removed at exit. */
const char *fuzz_dir(void);
/* Make a file there what these bytes are. */
void fuzz_file(const char *name, const void *bytes, size_t size);
/* The bytes of a file there; free(). */
uint8_t *fuzz_file_bytes(const char *name, size_t *size);

/* A service in memory, without threads that build indexes. */
struct service *fuzz_service_in_memory(void);

/* One request from begin to end, its body in slices if it is streamed; everything is released.
 * `answer` (may be NULL) is what the client would get; buf_free().  Returns the status. */
int fuzz_request(struct api_app *app, const char *method, const char *target,
                 const char *content_type, const char *body, size_t bytes, size_t slice,
                 struct buf *answer);

#endif
