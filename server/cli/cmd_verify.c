/* cmd_verify.c - compare the blocks, rows and log of a database with their checksums: a file here,
 * or by the server.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "server/cli/cli.h"
#include "server/cli/local.h"
#include "storage/base/mem.h"
#include "storage/verify.h"

/* ---- by the server ---- */

static void print_index(json_int_t bad, json_int_t checked)
{
    if (bad)
        printf("search index: %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT
               " codes and links are bad; they are made again from the rows\n",
               bad, checked);
}

static json_int_t integer(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static enum err_code verify_online(struct cli *cli, const char *database, struct err *err)
{
    char *path = cli_path("/databases/%s/verify", database, NULL);
    json_t *answer = NULL;
    bool json = cli->json;
    cli->json = false; /* its verdict is needed too */
    enum err_code rc = cli_call(cli, "POST", path, NULL, &answer, err);
    cli->json = json;
    if (rc) goto out;
    if (json) {
        json_dumpf(answer, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    } else {
        size_t i;
        const json_t *e;
        json_array_foreach(json_object_get(answer, "errors"), i, e)
        {
            printf("%s%s\n", json_string_value(json_object_get(e, "message")),
                   json_is_true(json_object_get(e, "healed")) ? " - written anew from memory" : "");
        }
        print_index(integer(answer, "index_cells_bad"), integer(answer, "index_cells_checked"));
        printf("%s: %" JSON_INTEGER_FORMAT " blocks, %" JSON_INTEGER_FORMAT
               " rows, %" JSON_INTEGER_FORMAT " errors\n",
               database, integer(answer, "blocks_checked"), integer(answer, "rows_checked"),
               integer(answer, "error_count"));
    }
    if (!json_is_true(json_object_get(answer, "ok")))
        rc = err_set(err, ERR_CORRUPT, "database \"%s\" is damaged%s", database,
                     json_is_true(json_object_get(answer, "quarantined"))
                         ? " and quarantined; see `jadevectordb-cli repair --help`"
                         : "");
out:
    json_decref(answer);
    mem_free(path);
    return rc;
}

/* ---- a file ---- */

static bool keep_on(void *ctx, uint64_t bytes)
{
    (void)ctx, (void)bytes;
    return !client_interrupted();
}

static void print_json(const char *path, const struct verify_result *r)
{
    json_t *errors = json_array();
    for (size_t i = 0; i < r->errors_kept; i++) {
        const struct verify_error *e = &r->errors[i];
        char text[320];
        verify_error_text(e, text, sizeof text);
        json_t *one =
            json_pack("{s:s, s:s}", "region", verify_region_name(e->region), "message", text);
        if (e->has_block) json_object_set_new(one, "block", json_integer((json_int_t)e->block));
        if (e->has_row) json_object_set_new(one, "row", json_integer((json_int_t)e->row));
        json_array_append_new(errors, one);
    }
    json_t *out = json_pack(
        "{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "file", path, "ok",
        r->error_count == 0, "blocks_checked", (json_int_t)r->blocks_checked, "rows_checked",
        (json_int_t)r->rows_checked, "records_checked", (json_int_t)r->records_checked,
        "log_records_checked", (json_int_t)r->log_records, "index_cells_checked",
        (json_int_t)r->index.cells_checked, "index_cells_bad", (json_int_t)r->index.cells_bad,
        "lsn", (json_int_t)r->lsn, "error_count", (json_int_t)r->error_count, "errors", errors);
    json_dumpf(out, stdout, JSON_COMPACT);
    fputc('\n', stdout);
    json_decref(out);
}

static enum err_code verify_file(struct cli *cli, const char *path, struct err *err)
{
    struct local_file file;
    struct verify_result *r = NULL;
    enum err_code rc = local_file_open(path, &file, err);
    if (rc) return rc;
    struct verify_options options = {.dir_fd = file.dir_fd, .name = file.name, .pace = keep_on};
    r = mem_new(struct verify_result);
    rc = verify_files(&options, r, err);
    if (!rc && !r->complete) rc = err_set(err, ERR_SHUTTING_DOWN, "interrupted");
    if (rc) goto out;
    if (cli->json) {
        print_json(path, r);
    } else {
        for (size_t i = 0; i < r->errors_kept; i++) {
            char text[320];
            verify_error_text(&r->errors[i], text, sizeof text);
            printf("%s\n", text);
        }
        if (r->error_count > r->errors_kept)
            printf("and %" PRIu64 " more\n", r->error_count - r->errors_kept);
        print_index((json_int_t)r->index.cells_bad, (json_int_t)r->index.cells_checked);
        if (r->index.is_unusable)
            printf("search index: its record makes no sense; it is built anew\n");
        printf("%s: %" PRIu64 " blocks, %" PRIu64 " rows, %" PRIu64 " errors, as of LSN %" PRIu64
               "; ",
               path, r->blocks_checked, r->rows_checked, r->error_count, r->lsn);
        if (r->log_segments)
            printf("%" PRIu64 " log records behind it%s\n", r->log_records,
                   r->log_cut_bytes ? ", then a torn tail (normal after a power cut)" : "");
        else
            printf("no log beside it\n");
    }
    if (r->error_count)
        rc = err_set(err, ERR_CORRUPT,
                     "%s is damaged; `jadevectordb-cli repair %s --output NEW` "
                     "rescues what can be read",
                     path, path);
out:
    mem_free(r);
    local_file_close(&file);
    return rc;
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *path = args_get(args, "file"), *database = args_get(args, "database");
    if (!path == !database)
        return err_set(err, ERR_INVALID_REQUEST, "give either a file or --database NAME");
    return path ? verify_file(cli, path, err) : verify_online(cli, database, err);
}

const struct command command_verify = {
    .name = "verify",
    .summary = "compare every block, live row and record of a database with its checksum",
    .examples = "jadevectordb-cli verify --database docs\n"
                "jadevectordb-cli verify backup/docs.jvdb\n",
    .args =
        (const struct arg_spec[]){
            {"file", "FILE", "a .jvdb file that no server has open", ARG_POSITIONAL},
            {"database", "NAME", "let the server verify one of its databases", 0},
            {0}},
    .run = run,
};
