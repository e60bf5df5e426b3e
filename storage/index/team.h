/*
 * team.h - the threads that share the work of the indexer.
 *
 * Helpers are started when they are wanted for the first time, and then wait for the next piece of
 * work.  One thread, the leader, calls team_run().
 */
#ifndef STORAGE_INDEX_TEAM_H
#define STORAGE_INDEX_TEAM_H

enum { TEAM_MAX = 16 };

struct team;

/* Of so many threads, the leader included; at most TEAM_MAX. */
struct team *team_new(int threads);
/* The helpers have ended when this returns.  NULL is fine. */
void team_free(struct team *t);

int team_size(const struct team *t);

/* Call fn(ctx) on the leader and on up to `threads` - 1 helpers, and return when all have returned.
 * Fewer take part if the system gives no more threads: fn takes its work from ctx until none is
 * left. */
void team_run(struct team *t, int threads, void (*fn)(void *ctx), void *ctx);

/* The calling thread does background work: others come first. */
void team_give_way(void);

#endif
