/* cmd_stats.c - numbers about the server, or about one database. */
#include "server/cli/cli.h"
#include "server/cli/output.h"
#include "storage/base/mem.h"

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *database = args_get(args, "database");
    char *path = cli_path(database ? "/databases/%s/stats" : "/storage/stats", database, NULL);
    json_t *answer;

    enum err_code rc = cli_call(cli, "GET", path, NULL, &answer, err);
    if (!rc && answer) output_pairs(answer, stdout);
    json_decref(answer);
    mem_free(path);
    return rc;
}

const struct command command_stats = {
    .name = "stats",
    .summary = "show numbers about the server or one database",
    .examples = "jadevectordb-cli stats\n"
                "jadevectordb-cli stats --database docs\n",
    .args =
        (const struct arg_spec[]){
            {"database", "NAME", "the database; default: the whole server", ARG_POSITIONAL}, {0}},
    .run = run,
};
