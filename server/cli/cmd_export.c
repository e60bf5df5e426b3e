/*
 * cmd_export.c - a dump of everything, or of one database.
 *
 * The file appears under its name only when it is whole and on the disk: it is written beside it
 * as NAME.partial-PID, synced, and renamed.
 */
#include "server/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/cli/progress.h"
#include "server/cli/text.h"
#include "storage/base/mem.h"

struct output {
    int fd;
    char *path;    /* owned; NULL: written as it comes (a pipe, a device) */
    char *partial; /* owned; exists until it is renamed                    */
};

static enum err_code output_open(struct output *out, const char *name, struct err *err)
{
    struct stat st;
    *out = (struct output){.fd = -1};
    if (strcmp(name, "-") == 0) {
        out->fd = STDOUT_FILENO;
        return ERR_OK;
    }
    if (stat(name, &st) == 0 && S_ISDIR(st.st_mode))
        return err_os(err, EISDIR, "cannot write %.200s", name);
    if (stat(name, &st) == 0 && !S_ISREG(st.st_mode)) {
        out->fd = open(name, O_WRONLY | O_CLOEXEC);
        return out->fd < 0 ? err_os(err, errno, "cannot write %.200s", name) : ERR_OK;
    }

    char *target = realpath(name, NULL); /* a link stays a link */
    out->path = mem_strdup(target ? target : name);
    free(target);
    struct buf partial = {0};
    buf_printf(&partial, "%s.partial-%ld", out->path, (long)getpid());
    buf_add(&partial, "", 1);
    out->partial = mem_strdup(partial.failed ? "" : partial.data);
    buf_free(&partial);
    out->fd = open(out->partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out->fd >= 0) return ERR_OK;
    int os_errno = errno;
    mem_free(out->partial);
    out->partial = NULL;
    return err_os(err, os_errno, "cannot write %.200s", name);
}

static int sync_folder_of(const char *path)
{
    char *copy = mem_strdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) close(fd);
    mem_free(copy);
    return rc;
}

/* The dump is whole: make it durable and give it its name. */
static enum err_code output_finish(struct output *out, struct err *err)
{
    if (!out->path) return ERR_OK;
    if (fsync(out->fd) != 0 || rename(out->partial, out->path) != 0)
        return err_os(err, errno, "cannot finish %.200s", out->path);
    mem_free(out->partial);
    out->partial = NULL;
    int os_errno = sync_folder_of(out->path);
    return os_errno ? err_os(err, os_errno, "cannot sync the folder of %.200s", out->path) : ERR_OK;
}

static void output_close(struct output *out)
{
    if (out->partial) unlink(out->partial);
    if (out->fd >= 0 && out->fd != STDOUT_FILENO) close(out->fd);
    mem_free(out->partial);
    mem_free(out->path);
}

static enum err_code check_format(const struct args *args, struct err *err)
{
    static const char *const compressed[] = {".gz", ".zst"};
    const char *format = args_get(args, "format"), *name = args_get(args, "output");
    if (format && strcmp(format, "json") != 0)
        return err_set(err, ERR_INVALID_REQUEST, "--format: \"%.32s\" is not supported, only json",
                       format);
    for (int i = 0; i < 2; i++) {
        size_t len = strlen(name), suffix = strlen(compressed[i]);
        if (len > suffix && strcmp(name + len - suffix, compressed[i]) == 0)
            return err_set(err, ERR_INVALID_REQUEST,
                           "--output: %s files are not supported; use --output - | %s >%.200s",
                           compressed[i], i ? "zstd" : "gzip", name);
    }
    return ERR_OK;
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *name = args_get(args, "output"), *database = args_get(args, "database");
    char *path =
        cli_path(database ? "/databases/%s/export?format=json" : "/export", database, NULL);
    struct buf body = {0};
    struct output out = {.fd = -1};
    struct progress progress;

    enum err_code rc = check_format(args, err);
    if (rc) goto out;
    rc = output_open(&out, name, err);
    if (rc) goto out;

    buf_str(&body, "{\"format\":\"json\"}");
    progress_start(&progress, "exporting", UINT64_MAX);
    rc = client_download(cli->client, database ? "GET" : "POST", path, database ? NULL : &body,
                         out.fd, progress_update, &progress, err);
    if (rc) goto out;
    rc = output_finish(&out, err);
    if (rc) goto out;
    progress.verb = "exported";
    progress_end(&progress);
    if (cli->json) {
        json_t *summary =
            json_pack("{s:s, s:I}", "output", name, "bytes", (json_int_t)progress.bytes);
        json_dumpf(summary, out.path ? stdout : stderr, JSON_COMPACT);
        fputc('\n', out.path ? stdout : stderr);
        json_decref(summary);
    }

out:
    output_close(&out);
    buf_free(&body);
    mem_free(path);
    return rc;
}

const struct command command_export = {
    .name = "export",
    .summary = "write a dump of all databases, or of one, to a file",
    .examples = "jadevectordb-cli export --format json --output ./databases.json\n"
                "jadevectordb-cli export --database docs --output - | gzip >docs.json.gz\n",
    .args = (const struct arg_spec[]){{"output", "FILE", "where to; - is standard output",
                                       ARG_REQUIRED},
                                      {"format", "WORD", "json (default)", 0},
                                      {"database", "NAME", "only this one; default: all", 0},
                                      {0}},
    .run = run,
};
