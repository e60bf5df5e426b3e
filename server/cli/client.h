/*
 * client.h - requests to the daemon, over one kept-alive connection.
 *
 * Paths start behind /api/v1.  Every function fails with the server's own message and code word,
 * or with what is wrong on the way there, and then never with ERR_INVALID_REQUEST or
 * ERR_INVALID_VECTOR: those stand for a wrong command line.  One thread.
 */
#ifndef SERVER_CLI_CLIENT_H
#define SERVER_CLI_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "storage/base/buf.h"
#include "storage/base/err.h"

struct client;

/* `url` as text_add_base_url() takes it; `api_key` may be NULL. */
MUST_CHECK enum err_code client_new(const char *url, const char *api_key, struct client **out,
                                    struct err *err);
void client_free(struct client *c);

/* `body` is JSON text, or NULL for none.  *reply grows by the body of the answer. */
MUST_CHECK enum err_code client_call(struct client *c, const char *method, const char *path,
                                     const struct buf *body, struct buf *reply, struct err *err);

/* Write the body of the answer to `fd`; `*bytes` counts what is there so far and on the way. */
typedef void client_progress_fn(void *ctx, uint64_t bytes);
MUST_CHECK enum err_code client_download(struct client *c, const char *method, const char *path,
                                         const struct buf *body, int fd,
                                         client_progress_fn *progress, void *ctx, struct err *err);

/* POST what can be read from `fd`: exactly `total` bytes, or with UINT64_MAX all there is. */
MUST_CHECK enum err_code client_upload(struct client *c, const char *path, int fd, uint64_t total,
                                       struct buf *reply, client_progress_fn *progress, void *ctx,
                                       struct err *err);

/* The JSON body of the error that the server answered last, or NULL. */
const char *client_error_body(const struct client *c);

/* Make the request that is under way fail soon.  Safe in a signal handler. */
void client_interrupt(void);
int client_interrupted(void);

#endif
