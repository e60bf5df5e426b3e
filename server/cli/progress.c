/* progress.c - how far a long transfer is: a bar on a terminal, plain lines otherwise (stderr). */
#include "server/cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "server/cli/text.h"
#include "storage/base/clock.h"

/* A bar lives; lines are for a log that somebody reads later. */
enum { BAR_EVERY_MS = 100, LINE_EVERY_MS = 5000, BAR_WIDTH = 30 };

static void show(struct progress *p, uint64_t now_ns)
{
    char bytes[32], rate[32], line[160];
    double seconds = (double)(now_ns - p->begun_ns) / 1e9;
    int used;

    text_bytes(bytes, (double)p->bytes);
    text_bytes(rate, seconds > 0 ? (double)p->bytes / seconds : 0);
    if (p->total == UINT64_MAX || p->total == 0) {
        used = snprintf(line, sizeof line, "%s %s, %s/s, %.1f s", p->verb, bytes, rate, seconds);
    } else {
        double part = (double)p->bytes / (double)p->total;
        char bar[BAR_WIDTH + 1];
        if (part > 1) part = 1;
        for (int i = 0; i < BAR_WIDTH; i++)
            bar[i] = i < (int)(part * BAR_WIDTH) ? '#' : '.';
        bar[BAR_WIDTH] = '\0';
        if (p->terminal)
            used = snprintf(line, sizeof line, "%s [%s] %3.0f%%  %s, %s/s", p->verb, bar,
                            part * 100, bytes, rate);
        else
            used = snprintf(line, sizeof line, "%s %.0f%%, %s, %s/s, %.1f s", p->verb, part * 100,
                            bytes, rate, seconds);
    }
    if (p->terminal)
        fprintf(stderr, "\r%.*s\033[K", used, line);
    else
        fprintf(stderr, "%.*s\n", used, line);
    p->shown_ns = now_ns;
}

void progress_start(struct progress *p, const char *verb, uint64_t total)
{
    *p = (struct progress){.verb = verb, .total = total, .terminal = isatty(STDERR_FILENO)};
    p->begun_ns = p->shown_ns = clock_ns();
}

void progress_update(void *ctx, uint64_t bytes)
{
    struct progress *p = ctx;
    uint64_t now_ns = clock_ns();
    uint64_t every_ms = p->terminal ? BAR_EVERY_MS : LINE_EVERY_MS;
    p->bytes = bytes;
    if (now_ns - p->shown_ns >= every_ms * 1000000) show(p, now_ns);
}

void progress_end(struct progress *p)
{
    show(p, clock_ns());
    if (p->terminal) fputc('\n', stderr);
}
