/* cli.h - what a command is, and what it gets to run. */
#ifndef SERVER_CLI_CLI_H
#define SERVER_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>

#include "server/cli/args.h"
#include "server/cli/client.h"

struct cli {
    struct client *client;
    bool json; /* print what the server answered, as it is */
};

struct command {
    const char *name;
    const char *summary;
    const char *examples; /* whole lines */
    const struct arg_spec *args;
    enum err_code (*run)(struct cli *cli, const struct args *args, struct err *err);
};

/* One file each; main.c has the table. */
extern const struct command command_accept, command_create, command_delete, command_export,
    command_get, command_import, command_keygen, command_list, command_put, command_query,
    command_stats, command_verify, command_repair;

#define ARG_DATABASE                                                                               \
    {                                                                                              \
        "database", "NAME", "the database", ARG_REQUIRED | ARG_POSITIONAL                          \
    }

/* A path behind /api/v1: printf with %s for texts that become one encoded segment each, at most
 * two.  Owned by the caller. */
char *cli_path(const char *format, const char *first, const char *second);

/* Call, then with --json print the answer; otherwise hand it over as *answer (json_decref()), which
 * is NULL when it was printed already.  `body` may be NULL; it is given away. */
MUST_CHECK enum err_code cli_call(struct cli *cli, const char *method, const char *path,
                                  json_t *body, json_t **answer, struct err *err);
/* The same for a body that is text already. */
MUST_CHECK enum err_code cli_call_text(struct cli *cli, const char *method, const char *path,
                                       const struct buf *body, json_t **answer, struct err *err);
/* The answer to a call that was made otherwise: as cli_call() treats it. */
MUST_CHECK enum err_code cli_answer(struct cli *cli, const struct buf *reply, json_t **answer,
                                    struct err *err);

/* All of standard input, at most 64 MiB. */
MUST_CHECK enum err_code cli_read_stdin(struct buf *out, struct err *err);

/* `{"name": ` and the like: append the member, with a comma behind an earlier one. */
void cli_add_member(struct buf *body, const char *name);
/* Append text as a JSON string; ERR_INVALID_REQUEST (not UTF-8) names `what`. */
MUST_CHECK enum err_code cli_add_string(struct buf *body, const char *text, const char *what,
                                        struct err *err);

#endif
