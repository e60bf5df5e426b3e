/* parallel.h - run one function on several threads and wait for all of them. */
#ifndef STORAGE_BASE_PARALLEL_H
#define STORAGE_BASE_PARALLEL_H

/* Call fn(ctx) on `threads` threads (at most 16; the caller is one of them) and return when all
 * have returned.  Fewer run if the system gives no more: fn takes its work from ctx until none is
 * left. */
void parallel_run(int threads, void (*fn)(void *ctx), void *ctx);

#endif
