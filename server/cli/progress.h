/* progress.h - how far a long transfer is: a bar on a terminal, plain lines otherwise (stderr). */
#ifndef SERVER_CLI_PROGRESS_H
#define SERVER_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *verb; /* "importing" */
    uint64_t total;   /* UINT64_MAX: not known */
    uint64_t bytes;
    uint64_t begun_ns, shown_ns;
    bool terminal;
};

void progress_start(struct progress *p, const char *verb, uint64_t total);
void progress_update(void *p, uint64_t bytes); /* a client_progress_fn */
void progress_end(struct progress *p);

#endif
