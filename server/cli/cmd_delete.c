/* cmd_delete.c - one vector, or a database with all that is in it. */
#include "server/cli/cli.h"
#include "storage/base/mem.h"

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *database = args_get(args, "database"), *id = args_get(args, "id");
    char *path = cli_path(id ? "/databases/%s/vectors/%s" : "/databases/%s", database, id);
    json_t *answer;

    enum err_code rc = cli_call(cli, "DELETE", path, NULL, &answer, err);
    if (!rc && answer && id) printf("deleted vector %s of %s\n", id, database);
    if (!rc && answer && !id) printf("deleted database %s\n", database);
    json_decref(answer);
    mem_free(path);
    return rc;
}

const struct command command_delete = {
    .name = "delete",
    .summary = "delete a vector, or a whole database (it does not ask)",
    .examples = "jadevectordb-cli delete --database docs --id 7\n"
                "jadevectordb-cli delete --database docs\n",
    .args = (const struct arg_spec[]){ARG_DATABASE,
                                      {"id", "ID", "the vector; without it the database is deleted",
                                       ARG_POSITIONAL},
                                      {0}},
    .run = run,
};
