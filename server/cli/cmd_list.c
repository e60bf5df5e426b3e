/* cmd_list.c - every database, one line each. */
#include "server/cli/cli.h"
#include "server/cli/output.h"
#include "storage/base/mem.h"

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *prefix = args_get(args, "prefix");
    char *path = cli_path(prefix ? "/databases?prefix=%s" : "/databases", prefix, NULL);
    struct table table = {.heads = {"NAME", "DIMENSION", "METRIC", "VECTORS"}};
    json_t *answer;

    enum err_code rc = cli_call(cli, "GET", path, NULL, &answer, err);
    if (!rc && answer) {
        size_t i;
        const json_t *database;
        json_array_foreach(json_object_get(answer, "databases"), i, database)
        {
            table_add(&table, json_object_get(database, "name"));
            table_add(&table, json_object_get(database, "dimension"));
            table_add(&table, json_object_get(database, "distance_metric"));
            table_add(&table, json_object_get(database, "vector_count"));
        }
        table_print(&table, stdout);
    }
    table_free(&table);
    json_decref(answer);
    mem_free(path);
    return rc;
}

const struct command command_list = {
    .name = "list",
    .summary = "show every database",
    .examples = "jadevectordb-cli list\n",
    .args = (const struct arg_spec[]){{"prefix", "TEXT", "only names that start so", 0}, {0}},
    .run = run,
};
