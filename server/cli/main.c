/* main.c - jadevectordb-cli: one table of commands. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "config/suggest.h"
#include "server/cli/cli.h"
#include "server/cli/text.h"

enum { EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

static const struct command *const commands[] = {
    &command_list,   &command_create, &command_delete, &command_put,    &command_get,
    &command_query,  &command_stats,  &command_export, &command_import, &command_verify,
    &command_repair, &command_accept, &command_keygen,
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static const struct arg_spec common[] = {
    {"url", "URL", "the server (JADEVECTORDB_URL; default http://127.0.0.1:8080)", 0},
    {"api-key", "KEY", "better set JADEVECTORDB_API_KEY: others see command lines", 0},
    {"json", NULL, "print the server's answer as it is", 0},
    {"help", NULL, "show the options of a command", 0},
    {0},
};

static void print_help(FILE *out)
{
    fputs("jadevectordb-cli - talk to a JadeVectorDB server, look after its files\n"
          "\n"
          "usage: jadevectordb-cli COMMAND [OPTION]...\n"
          "\n"
          "commands:\n",
          out);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\noptions of every command:\n", out);
    args_print_help(common, out);
    fputs("\n`jadevectordb-cli COMMAND --help` tells more; --version shows the version.\n"
          "Exit status: 0 all was done, 1 it failed, 2 the command line is wrong.\n",
          out);
}

static void print_command_help(const struct command *command, FILE *out)
{
    fprintf(out, "jadevectordb-cli %s - %s\n\noptions:\n", command->name, command->summary);
    args_print_help(command->args, out);
    fputs("\noptions of every command:\n", out);
    args_print_help(common, out);
    fputs("\nexamples:\n", out);
    for (const char *line = command->examples; *line; line = strchr(line, '\n') + 1)
        fprintf(out, "  %.*s\n", (int)strcspn(line, "\n"), line);
}

static void complain(const char *message)
{
    struct buf safe = {0};
    text_add_printable(&safe, message, strlen(message));
    fprintf(stderr, "jadevectordb-cli: %.*s\n", (int)safe.len, safe.data);
    buf_free(&safe);
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    }
    return NULL;
}

static int refuse_command(const char *name)
{
    const char *known[COMMAND_COUNT];
    char message[256];
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        known[i] = commands[i]->name;
    const char *nearest = suggest(name, known, COMMAND_COUNT);
    snprintf(message, sizeof message, "unknown command \"%.64s\"%s%s%s", name,
             nearest ? "; did you mean " : "; --help lists all", nearest ? nearest : "",
             nearest ? "?" : "");
    complain(message);
    return EXIT_USAGE;
}

/* Index of the command's word; `argc` if there is none.  Common options may stand before it. */
static int command_index(int argc, char **argv)
{
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        for (const struct arg_spec *spec = common; spec->name; spec++) {
            if (spec->placeholder && strcmp(argv[i] + 2, spec->name) == 0) {
                i++; /* its value */
                break;
            }
        }
    }
    return i < argc ? i : argc;
}

static void report(const struct client *client, bool json, const struct err *err)
{
    const char *body = client ? client_error_body(client) : NULL;
    if (!json) {
        complain(err->msg);
    } else if (body) {
        fprintf(stderr, "%s\n", body);
    } else {
        json_t *error = json_pack("{s:{s:s, s:s}}", "error", "code", "client", "message", err->msg);
        json_dumpf(error, stderr, JSON_COMPACT);
        fputc('\n', stderr);
        json_decref(error);
    }
}

static int run_command(const struct command *command, int count, char **words)
{
    struct args args = {0};
    struct cli cli = {0};
    struct err err;
    int status = EXIT_FAILURE;

    args_add(&args, command->args);
    args_add(&args, common);
    for (int i = 0; i < count; i++) {
        if (strcmp(words[i], "--help") == 0) {
            print_command_help(command, stdout);
            return EXIT_SUCCESS;
        }
    }
    enum err_code rc = args_parse(&args, count, words, &err);
    cli.json = args_get(&args, "json");
    if (rc) goto out;

    const char *url = args_get(&args, "url"), *key = args_get(&args, "api-key");
    if (!url) url = getenv("JADEVECTORDB_URL");
    if (!key) key = getenv("JADEVECTORDB_API_KEY");
    rc = client_new(url && *url ? url : "http://127.0.0.1:8080", key && *key ? key : NULL,
                    &cli.client, &err);
    if (rc) goto out;
    rc = command->run(&cli, &args, &err);
    if (!rc && (fflush(stdout) != 0 || ferror(stdout)))
        rc = err_set(&err, ERR_IO, "cannot write to standard output");

out:
    if (!rc) status = EXIT_SUCCESS;
    if (rc) {
        report(cli.client, cli.json, &err);
        if (rc == ERR_INVALID_REQUEST || rc == ERR_INVALID_VECTOR) status = EXIT_USAGE;
        if (client_interrupted()) status = EXIT_INTERRUPTED;
    }
    client_free(cli.client);
    return status;
}

static void on_signal(int number)
{
    (void)number;
    client_interrupt();
}

int main(int argc, char **argv)
{
    /* A command that is interrupted still removes its half-written file. */
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);

    for (int i = 1; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0) {
            puts("jadevectordb-cli " JADEVECTORDB_VERSION);
            return EXIT_SUCCESS;
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(stdout);
            return EXIT_SUCCESS;
        }
    }
    int at = command_index(argc, argv);
    if (at == argc) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[at], "help") == 0) {
        const struct command *about = at + 1 < argc ? find_command(argv[at + 1]) : NULL;
        if (!about && at + 1 < argc) return refuse_command(argv[at + 1]);
        about ? print_command_help(about, stdout) : print_help(stdout);
        return EXIT_SUCCESS;
    }
    const struct command *command = find_command(argv[at]);
    if (!command) return refuse_command(argv[at]);

    /* The command's word goes, what stood before it stays. */
    memmove(argv + 2, argv + 1, (size_t)(at - 1) * sizeof *argv);
    return run_command(command, argc - 2, argv + 2);
}
