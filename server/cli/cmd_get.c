/* cmd_get.c - one vector. */
#include "server/cli/cli.h"
#include "server/cli/output.h"
#include "storage/base/mem.h"

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    char *path =
        cli_path("/databases/%s/vectors/%s", args_get(args, "database"), args_get(args, "id"));
    json_t *answer;

    enum err_code rc = cli_call(cli, "GET", path, NULL, &answer, err);
    if (!rc && answer) output_pairs(answer, stdout);
    json_decref(answer);
    mem_free(path);
    return rc;
}

const struct command command_get = {
    .name = "get",
    .summary = "show one vector (--json: all its numbers)",
    .examples = "jadevectordb-cli get docs 7\n"
                "jadevectordb-cli get --database docs --id 7 --json\n",
    .args = (const struct arg_spec[]){ARG_DATABASE,
                                      {"id", "ID", "the vector", ARG_REQUIRED | ARG_POSITIONAL},
                                      {0}},
    .run = run,
};
