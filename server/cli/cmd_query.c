/* cmd_query.c - the vectors nearest to one that is given, or to one that is stored. */
#include "server/cli/cli.h"

#include <inttypes.h>
#include <string.h>

#include "server/cli/output.h"
#include "server/cli/text.h"
#include "storage/base/mem.h"

static enum err_code add_include(struct buf *body, const char *list, struct err *err)
{
    cli_add_member(body, "include");
    buf_str(body, "[");
    for (const char *at = list; *at;) {
        char word[32];
        size_t len = strcspn(at, ", ");
        snprintf(word, sizeof word, "%.*s", (int)(len < 31 ? len : 31), at);
        if (strcmp(word, "metadata") != 0 && strcmp(word, "data") != 0)
            return err_set(err, ERR_INVALID_REQUEST,
                           "--include: \"%s\" must be metadata, data or both", word);
        buf_printf(body, "%s\"%s\"", at == list ? "" : ",", word);
        at += len;
        at += strspn(at, ", ");
    }
    buf_str(body, "]");
    return ERR_OK;
}

static enum err_code add_params(struct buf *body, const struct args *args, struct err *err)
{
    uint64_t ef;
    double recall;
    enum err_code rc = args_u64(args, "ef", 0, 1, 32768, &ef, err);
    if (!rc) rc = args_double(args, "recall", 0, 0.5, 1, &recall, err);
    if (rc) return rc;
    cli_add_member(body, "params");
    buf_printf(body, "{\"exact\":%s", args_get(args, "exact") ? "true" : "false");
    if (ef) buf_printf(body, ",\"ef\":%" PRIu64, ef);
    if (recall > 0) buf_printf(body, ",\"recall\":%.17g", recall);
    buf_str(body, "}");
    if (args_get(args, "explain")) {
        cli_add_member(body, "explain");
        buf_str(body, "true");
    }
    return ERR_OK;
}

static enum err_code make_body(struct buf *body, const struct args *args, struct err *err)
{
    const char *data = args_get(args, "data"), *id = args_get(args, "id");
    const char *include = args_get(args, "include");
    uint64_t top_k;
    enum err_code rc;

    if (!data == !id)
        return err_set(err, ERR_INVALID_REQUEST, "give either --data or --id to search by");
    rc = args_u64(args, "top-k", 10, 1, 10000, &top_k, err);
    if (rc) return rc;
    if (data) {
        cli_add_member(body, "data");
        rc = text_add_vector(body, data, err);
    } else {
        cli_add_member(body, "vector_id");
        rc = cli_add_string(body, id, "--id", err);
    }
    if (rc) return rc;
    cli_add_member(body, "top_k");
    buf_printf(body, "%" PRIu64, top_k);
    rc = add_params(body, args, err);
    if (!rc) rc = add_include(body, include ? include : "metadata", err);
    if (rc) return rc;
    buf_str(body, "}");
    return body->failed ? err_set(err, ERR_NOMEM, "out of memory") : ERR_OK;
}

static void print_results(const json_t *answer, bool with_data)
{
    struct table table = {.heads = {"ID", "SCORE", "DISTANCE", "METADATA"}};
    size_t i;
    const json_t *hit;

    if (with_data) table.heads[4] = "DATA";
    json_array_foreach(json_object_get(answer, "results"), i, hit)
    {
        table_add(&table, json_object_get(hit, "vector_id"));
        table_add(&table, json_object_get(hit, "score"));
        table_add(&table, json_object_get(hit, "distance"));
        table_add(&table, json_object_get(hit, "metadata"));
        if (with_data) table_add(&table, json_object_get(hit, "data"));
    }
    table_print(&table, stdout);
    table_free(&table);
}

/* How it was done, below the table. */
static void print_explanation(const json_t *answer)
{
    json_t *shown = json_pack("{s:O?, s:O?}", "strategy", json_object_get(answer, "strategy"),
                              "took_us", json_object_get(answer, "took_us"));
    if (shown) json_object_update(shown, json_object_get(answer, "explain"));
    printf("\n");
    output_pairs(shown, stdout);
    json_decref(shown);
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *include = args_get(args, "include");
    char *path = cli_path("/databases/%s/search", args_get(args, "database"), NULL);
    struct buf body = {0};
    json_t *answer = NULL;

    enum err_code rc = make_body(&body, args, err);
    if (!rc) rc = cli_call_text(cli, "POST", path, &body, &answer, err);
    if (!rc && answer) {
        const char *data = include ? strstr(include, "data") : NULL;
        /* "metadata" ends in "data" */
        while (data && data > include && data[-1] == 'a')
            data = strstr(data + 1, "data");
        print_results(answer, data != NULL);
        if (args_get(args, "explain")) print_explanation(answer);
    }
    json_decref(answer);
    buf_free(&body);
    mem_free(path);
    return rc;
}

const struct command command_query = {
    .name = "query",
    .summary = "search for the nearest vectors",
    .examples = "jadevectordb-cli query docs --data \"[0.1, 0.2, 0.3]\" --top-k 5\n"
                "jadevectordb-cli query --database docs --id 7 --include metadata,data --json\n"
                "jadevectordb-cli query docs --id 7 --recall 0.99 --explain\n",
    .args =
        (const struct arg_spec[]){
            ARG_DATABASE,
            {"data", "NUMBERS", "search by this vector", 0},
            {"id", "ID", "search by this stored vector", 0},
            {"top-k", "N", "how many, 1 to 10000 (default 10)", 0},
            {"include", "LIST", "metadata (default), data or both", 0},
            {"recall", "X", "share of the nearest to be found, 0.5 to 1 (default 0.95)", 0},
            {"ef", "N", "candidates, 1 to 32768, instead of --recall", 0},
            {"exact", NULL, "compare every vector", 0},
            {"explain", NULL, "show how it was done", 0},
            {0}},
    .run = run,
};
