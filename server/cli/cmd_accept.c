/* cmd_accept.c - go on with a file as it is, without the log that says otherwise. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/cli/cli.h"
#include "server/data_dir.h"
#include "storage/accept.h"
#include "storage/base/log.h"

static void print_result(struct cli *cli, const char *name, const struct accept_result *r)
{
    if (cli->json) {
        json_t *out = json_pack(
            "{s:s, s:I, s:i, s:s, s:I, s:I, s:I, s:I, s:b}", "database", name, "lsn",
            (json_int_t)r->lsn, "files_set_aside", (int)r->files_set_aside, "aside_suffix",
            r->aside_suffix, "log_records_left_out", (json_int_t)r->log_records,
            "log_bytes_left_out", (json_int_t)r->log_bytes, "first_lsn", (json_int_t)r->first_lsn,
            "last_lsn", (json_int_t)r->last_lsn, "log_was_damaged", r->log_was_damaged);
        json_dumpf(out, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(out);
        return;
    }
    printf("accepted %s.jvdb as of LSN %" PRIu64 ", with a new uuid and an empty log\n", name,
           r->lsn);
    if (r->log_was_damaged) printf("its log: %s\n", r->log_damage.msg);
    if (r->log_records)
        printf("left out: %" PRIu64 " log records (%" PRIu64 " bytes), LSN %" PRIu64 " to %" PRIu64
               "\n",
               r->log_records, r->log_bytes, r->first_lsn, r->last_lsn);
    if (r->files_set_aside)
        printf("set aside: %u files, now named %s.*%s; remove them when all is well\n",
               r->files_set_aside, name, r->aside_suffix);
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *name = args_get(args, "database"), *data = args_get(args, "data");
    struct accept_result r;
    struct log_options quiet = {.level = LOG_WARNING};
    int dir_fd = -1, lock_fd = -1;
    if (!data) data = getenv("JADEVECTORDB_PERSISTENCE_STORAGE_PATH");
    if (!data || !*data) data = "./data";
    enum err_code rc = log_open(&quiet, err);
    if (rc) return rc;
    dir_fd = open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        rc = err_os(err, errno, "cannot open the data directory %.200s", data);
        goto out;
    }
    rc = data_dir_open(data, &lock_fd, err);
    if (!rc) rc = accept_run(dir_fd, name, &r, err);
    if (!rc) print_result(cli, name, &r);
out:
    data_dir_close(lock_fd);
    if (dir_fd >= 0) close(dir_fd);
    return rc;
}

const struct command command_accept = {
    .name = "accept",
    .summary = "go on with a database file as it is, without its log (the server is stopped)",
    .examples = "jadevectordb-cli accept docs --data /var/lib/jadevectordb/data\n",
    .args =
        (const struct arg_spec[]){
            ARG_DATABASE,
            {"data", "DIR", "the data directory (JADEVECTORDB_PERSISTENCE_STORAGE_PATH; ./data)",
             0},
            {0}},
    .run = run,
};
