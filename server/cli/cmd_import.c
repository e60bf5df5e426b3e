/* cmd_import.c - a dump read back: every database in it, or one. */
#include "server/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/cli/output.h"
#include "server/cli/progress.h"
#include "storage/base/mem.h"

static enum err_code check_format(const struct args *args, struct err *err)
{
    const char *format = args_get(args, "format"), *name = args_get(args, "input");
    const char *suffix = strrchr(name, '.');
    if (format && strcmp(format, "json") != 0)
        return err_set(err, ERR_INVALID_REQUEST, "--format: \"%.32s\" is not supported, only json",
                       format);
    if (suffix && (strcmp(suffix, ".gz") == 0 || strcmp(suffix, ".zst") == 0))
        return err_set(err, ERR_INVALID_REQUEST,
                       "--input: %s files are not supported; use %s <%.200s | ... --input -",
                       suffix, suffix[1] == 'g' ? "gunzip" : "unzstd", name);
    return ERR_OK;
}

static enum err_code input_open(const char *name, int *fd, uint64_t *bytes, struct err *err)
{
    struct stat st;
    *fd = STDIN_FILENO;
    *bytes = UINT64_MAX;
    if (strcmp(name, "-") == 0) return ERR_OK;
    *fd = open(name, O_RDONLY | O_CLOEXEC);
    if (*fd < 0 || fstat(*fd, &st) != 0) return err_os(err, errno, "cannot read %.200s", name);
    if (S_ISDIR(st.st_mode)) return err_os(err, EISDIR, "cannot read %.200s", name);
    if (S_ISREG(st.st_mode)) *bytes = (uint64_t)st.st_size;
    if (*bytes == 0) return err_set(err, ERR_INVALID_REQUEST, "%.200s is empty", name);
    return ERR_OK;
}

/* What was stored before the failure stays stored; that matters to who tries again. */
static void tell_what_is_there(const struct client *client, struct err *err)
{
    const char *body = client_error_body(client);
    json_t *root = body ? json_loads(body, 0, NULL) : NULL;
    const json_t *details = json_object_get(json_object_get(root, "error"), "details");
    json_int_t count = json_integer_value(json_object_get(details, "imported"));
    size_t used = strlen(err->msg);

    if (count > 0)
        snprintf(err->msg + used, sizeof err->msg - used,
                 "; the %" JSON_INTEGER_FORMAT " vectors before it are stored", count);
    json_decref(root);
}

static void print_answer(const json_t *answer)
{
    struct table table = {.heads = {"NAME", "VECTORS", "CREATED"}};
    size_t i;
    const json_t *database;

    json_array_foreach(json_object_get(answer, "databases"), i, database)
    {
        table_add(&table, json_object_get(database, "name"));
        table_add(&table, json_object_get(database, "vectors"));
        table_add(&table, json_object_get(database, "created"));
    }
    table_print(&table, stdout);
    table_free(&table);
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *database = args_get(args, "database");
    char *path = cli_path(database ? "/databases/%s/restore" : "/import", database, NULL);
    struct buf reply = {0};
    struct progress progress;
    json_t *answer = NULL;
    uint64_t bytes, batch_size;
    int fd = -1;
    enum err_code rc;

    rc = check_format(args, err);
    if (rc) goto out;
    rc = args_u64(args, "batch-size", 1000, 1, 1000000, &batch_size, err);
    if (rc) goto out;
    rc = input_open(args_get(args, "input"), &fd, &bytes, err);
    if (rc) goto out;

    progress_start(&progress, "importing", bytes);
    rc = client_upload(cli->client, path, fd, bytes, &reply, progress_update, &progress, err);
    if (rc) {
        tell_what_is_there(cli->client, err);
        goto out;
    }
    progress.verb = "imported";
    progress_end(&progress);
    rc = cli_answer(cli, &reply, &answer, err);
    if (!rc && answer) print_answer(answer);

out:
    if (fd > STDIN_FILENO) close(fd);
    json_decref(answer);
    buf_free(&reply);
    mem_free(path);
    return rc;
}

const struct command command_import = {
    .name = "import",
    .summary = "read a dump back: all databases in it, or one",
    .examples = "jadevectordb-cli import --format json --input databases.json\n"
                "jadevectordb-cli import --database docs --input docs.json\n",
    .args =
        (const struct arg_spec[]){
            {"input", "FILE", "the dump; - is standard input", ARG_REQUIRED},
            {"format", "WORD", "json (default)", 0},
            {"database", "NAME", "the file holds one database; store it under this name", 0},
            {"batch-size", "ROWS", "accepted for older scripts; the server chooses", 0},
            {0}},
    .run = run,
};
