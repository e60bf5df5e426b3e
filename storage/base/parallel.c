#include "storage/base/parallel.h"

#include <pthread.h>

enum { THREADS_MAX = 16 };

struct job {
    void (*fn)(void *ctx);
    void *ctx;
};

static void *run(void *arg)
{
    const struct job *job = arg;
    job->fn(job->ctx);
    return NULL;
}

void parallel_run(int threads, void (*fn)(void *ctx), void *ctx)
{
    struct job job = {fn, ctx};
    pthread_t helpers[THREADS_MAX];
    int started = 0;
    while (started < threads - 1 && started < THREADS_MAX &&
           pthread_create(&helpers[started], NULL, run, &job) == 0)
        started++;
    fn(ctx);
    for (int i = 0; i < started; i++)
        pthread_join(helpers[i], NULL);
}
