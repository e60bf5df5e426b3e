/* cmd_put.c - write one vector, from options or as a JSON object on standard input. */
#include "server/cli/cli.h"

#include <unistd.h>

#include "server/cli/text.h"
#include "storage/base/mem.h"

/* The metadata goes out as it was typed: the server keeps key order and number text. */
static enum err_code check_metadata(const char *text, struct err *err)
{
    json_error_t bad;
    json_t *metadata = json_loads(text, JSON_REJECT_DUPLICATES, &bad);
    enum err_code rc = ERR_OK;
    if (!metadata)
        rc = err_set(err, ERR_INVALID_REQUEST, "--metadata is not JSON: %s", bad.text);
    else if (!json_is_object(metadata))
        rc = err_set(err, ERR_INVALID_REQUEST, "--metadata must be a JSON object");
    json_decref(metadata);
    return rc;
}

static enum err_code make_body(struct buf *body, const struct args *args, struct err *err)
{
    const char *id = args_get(args, "id"), *data = args_get(args, "data");
    const char *metadata = args_get(args, "metadata");
    enum err_code rc;

    if (!data) {
        if (id || metadata)
            return err_set(err, ERR_INVALID_REQUEST, "--data \"[0.1, ...]\" is missing");
        if (isatty(STDIN_FILENO))
            return err_set(err, ERR_INVALID_REQUEST,
                           "--data is missing, and no JSON object comes on standard input");
        return cli_read_stdin(body, err);
    }
    if (id) {
        cli_add_member(body, "vector_id");
        rc = cli_add_string(body, id, "--id", err);
        if (rc) return rc;
    }
    cli_add_member(body, "data");
    rc = text_add_vector(body, data, err);
    if (rc) return rc;
    if (metadata) {
        rc = check_metadata(metadata, err);
        if (rc) return rc;
        cli_add_member(body, "metadata");
        buf_str(body, metadata);
    }
    buf_str(body, "}");
    return body->failed ? err_set(err, ERR_NOMEM, "out of memory") : ERR_OK;
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *database = args_get(args, "database");
    char *path = cli_path("/databases/%s/vectors", database, NULL);
    struct buf body = {0};
    json_t *answer = NULL;

    enum err_code rc = make_body(&body, args, err);
    if (!rc) rc = cli_call_text(cli, "POST", path, &body, &answer, err);
    if (!rc && answer) {
        char *id = json_dumps(json_object_get(answer, "vector_id"), JSON_ENCODE_ANY);
        printf("stored vector %s in %s\n", id ? id : "?", database);
        free(id);
    }
    json_decref(answer);
    buf_free(&body);
    mem_free(path);
    return rc;
}

const struct command command_put = {
    .name = "put",
    .summary = "write one vector",
    .examples =
        "jadevectordb-cli put docs 7 --data \"[0.1, 0.2, 0.3]\" --metadata '{\"lang\":\"en\"}'\n"
        "echo '{\"vector_id\": 7, \"data\": [0.1, 0.2, 0.3]}' | jadevectordb-cli put docs\n",
    .args =
        (const struct arg_spec[]){
            ARG_DATABASE,
            {"id", "ID", "the vector; default: the next free number", ARG_POSITIONAL},
            {"data", "NUMBERS", "\"[0.1, 0.2]\" or 0.1,0.2; default: an object on stdin", 0},
            {"metadata", "JSON", "an object", 0},
            {0}},
    .run = run,
};
