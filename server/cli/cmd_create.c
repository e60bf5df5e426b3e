/* cmd_create.c - a new, empty database. */
#include "server/cli/cli.h"
#include "storage/base/mem.h"

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *name = args_get(args, "database");
    const char *metric = args_get(args, "metric");
    const char *durability = args_get(args, "durability");
    const char *index = args_get(args, "index"), *quantization = args_get(args, "quantization");
    uint64_t dimension, capacity;
    enum err_code rc;

    rc = args_u64(args, "dimension", 0, 1, 65536, &dimension, err);
    if (!rc) rc = args_u64(args, "initial-capacity", 0, 1, 1u << 31, &capacity, err);
    if (rc) return rc;

    char *path = cli_path("/databases/%s", name, NULL);
    json_t *answer, *body = json_pack("{s:I, s:s}", "dimension", (json_int_t)dimension,
                                      "distance_metric", metric ? metric : "cosine");
    if (durability) json_object_set_new(body, "durability", json_string(durability));
    if (index) json_object_set_new(body, "index", json_pack("{s:s}", "type", index));
    if (quantization) json_object_set_new(body, "quantization", json_string(quantization));
    if (capacity) json_object_set_new(body, "initial_capacity", json_integer((json_int_t)capacity));
    rc = cli_call(cli, args_get(args, "if-missing") ? "PUT" : "POST", path, body, &answer, err);
    if (!rc && answer)
        printf("database %s: %d dimensions, %s\n", name, (int)dimension,
               metric ? metric : "cosine");
    json_decref(answer);
    mem_free(path);
    return rc;
}

const struct command command_create = {
    .name = "create",
    .summary = "create a database",
    .examples = "jadevectordb-cli create docs --dimension 768 --metric cosine\n",
    .args =
        (const struct arg_spec[]){
            ARG_DATABASE,
            {"dimension", "N", "numbers in each vector, 1 to 65536", ARG_REQUIRED},
            {"metric", "WORD", "cosine (default), euclidean, dot_product or manhattan", 0},
            {"durability", "WORD", "synced or periodic; default: the server's", 0},
            {"index", "WORD", "auto (default), hnsw or flat: when to search by a graph", 0},
            {"quantization", "WORD", "auto (default), none, int8 or binary: codes of the graph", 0},
            {"initial-capacity", "ROWS", "how many rows to expect", 0},
            {"if-missing", NULL, "succeed when it is there already, with the same shape", 0},
            {0}},
    .run = run,
};
