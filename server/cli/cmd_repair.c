/* cmd_repair.c - rescue what can be read of a damaged file into a new one, without a server. */
#include <inttypes.h>
#include <string.h>

#include "server/cli/cli.h"
#include "server/cli/local.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/salvage.h"

static void say(void *ctx, const char *line)
{
    const struct cli *cli = ctx;
    if (!cli->json) printf("%s\n", line);
}

static void print_result(struct cli *cli, const char *output, const struct salvage_result *r)
{
    if (cli->json) {
        json_t *out =
            json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "output", output, "complete",
                      r->complete, "rows_rescued", (json_int_t)r->rows_rescued, "rows_lost",
                      (json_int_t)r->rows_lost, "rows_in_doubt", (json_int_t)r->rows_in_doubt,
                      "metadata_lost", (json_int_t)r->metadata_lost, "log_records",
                      (json_int_t)r->log_records, "log_gaps", (json_int_t)r->log_gaps);
        json_dumpf(out, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(out);
        return;
    }
    printf("%s: %" PRIu64 " rows rescued, %" PRIu64 " lost%s", output, r->rows_rescued,
           r->rows_lost, r->expected_known ? "" : " that are known of");
    if (r->metadata_lost) printf(", %" PRIu64 " without their metadata", r->metadata_lost);
    if (r->rows_in_doubt) printf(", %" PRIu64 " out of damaged blocks", r->rows_in_doubt);
    printf("; %" PRIu64 " log records replayed", r->log_records);
    if (r->log_gaps) printf(", %" PRIu64 " gaps in the log", r->log_gaps);
    printf("\n");
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    const char *path = args_get(args, "file"), *output = args_get(args, "output");
    const char *metric = args_get(args, "metric");
    struct local_file from, to = {.dir_fd = -1};
    struct salvage_result r;
    uint64_t dimension = 0;
    enum metric m = METRIC_COSINE;
    enum err_code rc = local_file_open(path, &from, err);
    if (!rc) rc = local_file_open(output, &to, err);
    if (!rc) rc = args_u64(args, "dimension", 0, 1, DIMENSION_MAX, &dimension, err);
    if (!rc && metric && !metric_parse(metric, strlen(metric), &m))
        rc = err_set(err, ERR_INVALID_REQUEST,
                     "--metric must be cosine, euclidean, dot_product or manhattan");
    struct log_options quiet = {.level = LOG_ERROR};
    if (!rc) rc = log_open(&quiet, err);
    if (rc) goto out;

    const char *slash = strrchr(output, '/');
    char *directory = mem_strdup(slash ? output : ".");
    if (slash) directory[slash == output ? 1 : slash - output] = '\0';
    struct salvage_options options = {
        .dir_fd = from.dir_fd,
        .name = from.name,
        .output_dir_fd = to.dir_fd,
        .output_dir = directory,
        .output_name = to.name,
        .dimension = (uint32_t)dimension,
        .metric = m,
        .say = say,
        .ctx = cli,
    };
    rc = salvage_run(&options, &r, err);
    mem_free(directory);
    if (rc) goto out;
    print_result(cli, output, &r);
    if (!r.complete)
        rc = err_set(err, ERR_CORRUPT,
                     r.rows_lost || r.metadata_lost ? "not everything could be rescued"
                                                    : "it is not sure that everything was rescued");
out:
    local_file_close(&from);
    local_file_close(&to);
    return rc;
}

const struct command command_repair = {
    .name = "repair",
    .summary = "rescue every readable vector of a damaged file into a new one",
    .examples = "jadevectordb-cli repair data/docs.jvdb --output rescued/docs.jvdb\n",
    .args =
        (const struct arg_spec[]){
            {"file", "FILE", "the damaged .jvdb; its log beside it is used too; nothing is changed",
             ARG_REQUIRED | ARG_POSITIONAL},
            {"output", "NEW", "the new .jvdb; must not exist", ARG_REQUIRED},
            {"dimension", "N", "if the file no longer knows it", 0},
            {"metric", "NAME", "if the file no longer knows it (cosine)", 0},
            {0}},
    .run = run,
};
