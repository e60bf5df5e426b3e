/* test_config.c - config/config.h: where a value comes from, and what is refused. */
#include "config/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define AUTO UINT64_MAX

/* ---- the table again, read by other code ---- */

enum kind { U64, BOOL, TEXT, ENUM };
static const struct row {
    const char *section, *key;
    enum kind kind;
    size_t member;
    uint64_t number, min, max;
    const char *text, *choices, *unit, *help;
} rows[] = {
#define OPTION_U64(sec, name, def, low, high, units, words)                                        \
    {#sec, #name, U64,  offsetof(struct config, sec##_##name), def, low, high, NULL,               \
     NULL, units, words},
#define OPTION_BOOL(sec, name, def, words)                                                         \
    {#sec, #name, BOOL, offsetof(struct config, sec##_##name), def, 0, 0, NULL, NULL, NULL, words},
#define OPTION_TEXT(sec, name, def, words)                                                         \
    {#sec, #name, TEXT, offsetof(struct config, sec##_##name), 0, 0, 0, def, NULL, NULL, words},
#define OPTION_ENUM(sec, name, def, list, words)                                                   \
    {#sec, #name, ENUM, offsetof(struct config, sec##_##name), 0, 0, 0, def, list, NULL, words},
#include "config/options.def"
};
enum { ROW_COUNT = sizeof rows / sizeof *rows };

static uint64_t number_of(const struct config *config, const struct row *row)
{
    return *(const uint64_t *)((const char *)config + row->member);
}

static const char *text_of(const struct config *config, const struct row *row)
{
    return *(char *const *)((const char *)config + row->member);
}

static const char *key_of(const struct row *row)
{
    static char key[96];
    snprintf(key, sizeof key, "%s.%s", row->section, row->key);
    return key;
}

static const char *flag_of(const struct row *row)
{
    static char flag[96];
    snprintf(flag, sizeof flag, "--%s-%s", row->section, row->key);
    for (char *c = flag; *c; c++) {
        if (*c == '_') *c = '-';
    }
    return flag;
}

/* ---- one load ---- */

enum { WORDS_MAX = 8 };

/* What main() would see; everything is optional. */
struct input {
    const char *file; /* text of the configuration file */
    const char *env[WORDS_MAX];
    const char *argv[WORDS_MAX];
};

struct outcome {
    enum err_code rc;
    struct config config;
    enum config_action action;
    struct err err;
    char path[64]; /* of the file */
};

static void load(struct outcome *out, struct input in)
{
    char *argv[WORDS_MAX + 4] = {"jadevectordb"}, *env[WORDS_MAX + 1] = {NULL};
    int argc = 1;

    memset(out, 0, sizeof *out);
    if (in.file) {
        strcpy(out->path, "/tmp/test_config.XXXXXX");
        int fd = mkstemp(out->path);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, in.file, strlen(in.file)), strlen(in.file));
        close(fd);
        argv[argc++] = "--config";
        argv[argc++] = out->path;
    }
    for (int i = 0; i < WORDS_MAX && in.argv[i]; i++)
        argv[argc++] = (char *)in.argv[i];
    for (int i = 0; i < WORDS_MAX && in.env[i]; i++)
        env[i] = (char *)in.env[i];
    out->rc = config_load(argc, argv, env, &out->config, &out->action, &out->err);
    if (in.file) unlink(out->path);
}

static void load_well(struct outcome *out, struct input in)
{
    load(out, in);
    if (out->rc) fail_msg("%s", out->err.msg);
}

/* The load fails and its message holds every one of the given words. */
static void refused(struct input in, const char *const words[])
{
    struct outcome out;
    load(&out, in);
    if (!out.rc) fail_msg("was accepted, want an error with \"%s\"", words[0]);
    for (; *words; words++) {
        if (!strstr(out.err.msg, *words)) fail_msg("no \"%s\" in: %s", *words, out.err.msg);
    }
    assert_null(out.config.sources);
    assert_null(out.config.server_host);
}
#define INPUT(...)          ((struct input){__VA_ARGS__})
#define REFUSED(input, ...) refused(input, (const char *const[]){__VA_ARGS__, NULL})

static void assert_printed(const struct config *config, const char *line)
{
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    config_print(config, out);
    fclose(out);
    if (!strstr(text, line)) fail_msg("no line \"%s\" in:\n%s", line, text);
    free(text);
}

/* ---- defaults ---- */

static void without_input_every_option_has_its_default(void **state)
{
    (void)state;
    struct outcome out;
    load_well(&out, (struct input){0});
    assert_int_equal(out.action, CONFIG_RUN);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *row = &rows[i];
        if (row->kind == U64) {
            uint64_t number = number_of(&out.config, row);
            if (row->number == AUTO)
                assert_true(number >= row->min && number <= row->max);
            else
                assert_int_equal(number, row->number);
        } else if (row->kind == BOOL) {
            assert_int_equal(*((const bool *)&out.config + row->member), row->number);
        } else if (row->text) {
            assert_string_equal(text_of(&out.config, row), row->text);
        } else {
            assert_null(text_of(&out.config, row));
        }
    }
    config_deinit(&out.config);
}

static void every_default_is_allowed_as_a_value(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *row = &rows[i];
        char number[32];
        struct outcome out;
        snprintf(number, sizeof number, "%" PRIu64, row->number == AUTO ? row->min : row->number);
        const char *value = row->kind == U64    ? number
                            : row->kind == BOOL ? (row->number ? "true" : "false")
                            : row->text         ? row->text
                                                : "";
        load_well(&out, (struct input){.argv = {flag_of(row), value}});
        config_deinit(&out.config);
    }
}

/* ---- ranges, each through flag, environment and file ---- */

static void try_everywhere(const struct row *row, const char *value, const char *json, bool good)
{
    char flag[160], env[160], file[320];
    snprintf(flag, sizeof flag, "%s=%s", flag_of(row), value);
    int used = snprintf(env, sizeof env, "JADEVECTORDB_%s_%s", row->section, row->key);
    for (char *c = env; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    snprintf(env + used, sizeof env - (size_t)used, "=%s", value);
    snprintf(file, sizeof file, "{\"%s\": {\"%s\": %s}}", row->section, row->key, json);

    const struct input inputs[] = {{.argv = {flag}}, {.env = {env}}, {.file = file}};
    const char *const sources[] = {"flag --", "environment JADEVECTORDB_", "file /tmp/"};
    for (int i = 0; i < 3; i++) {
        struct outcome out;
        if (good) {
            load_well(&out, inputs[i]);
            if (row->kind == U64)
                assert_int_equal(number_of(&out.config, row), strtoull(value, NULL, 10));
            if (row->kind == ENUM) assert_string_equal(text_of(&out.config, row), value);
            config_deinit(&out.config);
        } else {
            refused(inputs[i], (const char *const[]){key_of(row), sources[i], NULL});
        }
    }
}

static void numbers_are_accepted_up_to_both_edges_and_refused_beyond(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *row = &rows[i];
        char number[32], min[32], max[32];
        if (row->kind != U64) continue;
        snprintf(min, sizeof min, "%" PRIu64, row->min);
        snprintf(max, sizeof max, "%" PRIu64, row->max);
        try_everywhere(row, min, min, true);
        try_everywhere(row, max, max, true);
        if (row->min > 0) {
            snprintf(number, sizeof number, "%" PRIu64, row->min - 1);
            try_everywhere(row, number, number, false);
        }
        snprintf(number, sizeof number, "%" PRIu64, row->max + 1);
        try_everywhere(row, number, number, false);
        try_everywhere(row, "-1", "-1", false);
        try_everywhere(row, "many", "\"many\"", false);
        try_everywhere(row, "", "\"\"", false);
        try_everywhere(row, "1.5", "1.5", false);
        try_everywhere(row, " 5", "true", false);

        char range[80];
        snprintf(range, sizeof range, "from %s to %s", min, max);
        refused((struct input){.argv = {flag_of(row), "x"}}, (const char *const[]){range, NULL});
    }
}

static void every_choice_is_accepted_and_no_other(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *row = &rows[i];
        if (row->kind != ENUM) continue;
        char choices[120], json[130];
        snprintf(choices, sizeof choices, "%s", row->choices);
        for (char *save, *c = strtok_r(choices, "|", &save); c; c = strtok_r(NULL, "|", &save)) {
            snprintf(json, sizeof json, "\"%s\"", c);
            try_everywhere(row, c, json, true);
            refused((struct input){.argv = {flag_of(row), "x"}}, (const char *const[]){c, NULL});
        }
        try_everywhere(row, "", "\"\"", false);
        try_everywhere(row, row->choices, "null", false);
        snprintf(choices, sizeof choices, "%.*s", (int)strlen(row->text) - 1, row->text);
        snprintf(json, sizeof json, "\"%s\"", choices);
        try_everywhere(row, choices, json, false);
    }
}

static void bools_are_json_bools_in_the_file_and_words_elsewhere(void **state)
{
    (void)state;
    static const char *const good[] = {"true", "FALSE", "yes", "no", "on", "off", "1", "0"};
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *row = &rows[i];
        if (row->kind != BOOL) continue;
        for (size_t j = 0; j < sizeof good / sizeof *good; j++)
            try_everywhere(row, good[j], j % 2 ? "false" : "true", true);
        try_everywhere(row, "maybe", "\"true\"", false);
        try_everywhere(row, "", "1", false);
    }
}

static void texts_must_not_be_empty_unless_none_is_their_default(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *row = &rows[i];
        if (row->kind != TEXT) continue;
        try_everywhere(row, "", row->text ? "17" : "\"\"", !row->text);
        try_everywhere(row, "", "null", !row->text);
    }
}

/* ---- precedence ---- */

static void flag_beats_environment_beats_file_beats_preset_beats_default(void **state)
{
    (void)state;
    const char *const file = "{\"persistence\": {\"mode\": \"high_safety\","
                             "                 \"flush_interval_seconds\": 100}}";
    const char *const only_mode = "{\"persistence\": {\"mode\": \"high_safety\"}}";
    const char *const env = "JADEVECTORDB_PERSISTENCE_FLUSH_INTERVAL_SECONDS=200";
    const struct {
        struct input in;
        uint64_t seconds;
        const char *source;
    } cases[] = {
        {{.file = NULL}, 300, "(default)"},
        {{.file = only_mode}, 60, "(preset high_safety)"},
        {{.file = file}, 100, "(file /tmp/"},
        {{.file = file, .env = {env}},
         200,
         "(environment JADEVECTORDB_PERSISTENCE_FLUSH_INTERVAL_SECONDS)"},
        {{.file = file, .env = {env}, .argv = {"--persistence-flush-interval-seconds", "250"}},
         250,
         "(flag --persistence-flush-interval-seconds)"},
        {{.argv = {"--persistence-flush-interval-seconds=9", "--persistence-mode=high_safety"}},
         9,
         "(flag --persistence-flush-interval-seconds)"},
        {{.env = {env, "JADEVECTORDB_PERSISTENCE_MODE=high_throughput"}}, 200, "(environment "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome out;
        char line[160];
        load_well(&out, cases[i].in);
        assert_int_equal(out.config.persistence_flush_interval_seconds, cases[i].seconds);
        snprintf(line, sizeof line, "persistence.flush_interval_seconds = %" PRIu64 "  %s",
                 cases[i].seconds, cases[i].source);
        assert_printed(&out.config, line);
        config_deinit(&out.config);
    }
}

static void presets_set_what_they_promise(void **state)
{
    (void)state;
    const struct {
        const char *mode;
        uint64_t flush_seconds, wal_bytes_max;
        const char *durability;
    } cases[] = {
        {"balanced", 300, 268435456, "synced"},
        {"high_safety", 60, 268435456, "synced"},
        {"high_throughput", 600, 1073741824, "periodic"},
        {"low_space", 300, 268435456, "synced"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome out;
        load_well(&out, (struct input){.argv = {"--persistence-mode", cases[i].mode}});
        assert_int_equal(out.config.persistence_flush_interval_seconds, cases[i].flush_seconds);
        assert_int_equal(out.config.persistence_wal_bytes_max, cases[i].wal_bytes_max);
        assert_string_equal(out.config.persistence_durability, cases[i].durability);
        config_deinit(&out.config);
    }
}

static void a_single_key_overrides_the_preset_even_with_the_default(void **state)
{
    (void)state;
    struct outcome out;
    load_well(&out, (struct input){.argv = {"--persistence-mode=high_throughput",
                                            "--persistence-durability=synced"}});
    assert_string_equal(out.config.persistence_durability, "synced");
    assert_int_equal(out.config.persistence_flush_interval_seconds, 600);
    config_deinit(&out.config);
}

static void the_last_of_equal_flags_stays(void **state)
{
    (void)state;
    struct outcome out;
    load_well(&out, (struct input){.argv = {"--server-port=1", "--server-port=2"}});
    assert_int_equal(out.config.server_port, 2);
    config_deinit(&out.config);
}

static void the_environment_can_name_the_file_and_the_flag_wins(void **state)
{
    (void)state;
    REFUSED(INPUT(.env = {"JADEVECTORDB_CONFIG=/nowhere/c.json"}), "/nowhere/c.json",
            "No such file");
    struct outcome out;
    load_well(&out, (struct input){.file = "{\"server\": {\"port\": 99}}",
                                   .env = {"JADEVECTORDB_CONFIG=/nowhere/c.json"}});
    assert_int_equal(out.config.server_port, 99);
    config_deinit(&out.config);
    load_well(&out, (struct input){.env = {"JADEVECTORDB_CONFIG="}});
    config_deinit(&out.config);
}

/* ---- flags ---- */

static void bool_flags_may_stand_alone(void **state)
{
    (void)state;
    struct outcome out;
    load_well(&out, (struct input){.argv = {"--server-allow-insecure", "--server-port", "7"}});
    assert_true(out.config.server_allow_insecure);
    assert_int_equal(out.config.server_port, 7);
    config_deinit(&out.config);
    load_well(&out, (struct input){.argv = {"--vector-storage-enable-auto-flush", "false"}});
    assert_false(out.config.vector_storage_enable_auto_flush);
    config_deinit(&out.config);
}

static void mistakes_on_the_command_line_are_explained(void **state)
{
    (void)state;
    REFUSED(INPUT(.argv = {"--server-prot", "1"}), "--server-prot", "did you mean --server-port");
    REFUSED(INPUT(.argv = {"--frobnicate"}), "--frobnicate", "--help");
    REFUSED(INPUT(.argv = {"--server-port"}), "--server-port needs a value");
    REFUSED(INPUT(.argv = {"--server-host", "--server-port", "1"}), "--server-host needs a value");
    REFUSED(INPUT(.argv = {"--config"}), "--config needs a value");
    REFUSED(INPUT(.argv = {"data"}), "unexpected argument \"data\"");
    REFUSED(INPUT(.argv = {"-p", "1"}), "unknown option -p");
    REFUSED(INPUT(.argv = {"--persistence-storage_path", "x"}),
            "did you mean --persistence-storage-path");
}

static void actions_are_recognized(void **state)
{
    (void)state;
    const struct {
        const char *flag;
        enum config_action action;
    } cases[] = {{"--print-config", CONFIG_PRINT}, {"--check-config", CONFIG_CHECK},
                 {"--version", CONFIG_VERSION},    {"-V", CONFIG_VERSION},
                 {"--help", CONFIG_HELP},          {"-h", CONFIG_HELP}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome out;
        load_well(&out, (struct input){.argv = {cases[i].flag, "--server-port", "5"}});
        assert_int_equal(out.action, cases[i].action);
        config_deinit(&out.config);
    }
}

static void version_and_help_work_with_a_broken_configuration(void **state)
{
    (void)state;
    struct outcome out;
    load_well(&out, (struct input){.file = "{", .argv = {"--version"}});
    assert_int_equal(out.action, CONFIG_VERSION);
    config_deinit(&out.config);
}

/* ---- environment ---- */

static void unknown_variables_of_known_sections_are_refused(void **state)
{
    (void)state;
    REFUSED(INPUT(.env = {"JADEVECTORDB_SERVER_PROT=1"}), "JADEVECTORDB_SERVER_PROT",
            "did you mean JADEVECTORDB_SERVER_PORT");
    REFUSED(INPUT(.env = {"JADEVECTORDB_VECTOR_STORAGE_CAPACITY=1"}),
            "JADEVECTORDB_VECTOR_STORAGE_CAPACITY");
    REFUSED(INPUT(.env = {"JADEVECTORDB_LOG_=1"}), "JADEVECTORDB_LOG_");
}

static void variables_of_others_are_ignored(void **state)
{
    (void)state;
    struct outcome out;
    load_well(&out, (struct input){.env = {"JADEVECTORDB_URL=http://a", "JADEVECTORDB_API_KEY=k",
                                           "JADEVECTORDB_BIN=x", "JADEVECTORDB_CLI=x",
                                           "JADEVECTORDB_PORT_8080_TCP=tcp://", "PATH=/bin",
                                           "JADEVECTORDB_SERVER", "server_port=x"}});
    config_deinit(&out.config);
}

/* ---- file ---- */

static void mistakes_in_the_file_are_explained(void **state)
{
    (void)state;
    REFUSED(INPUT(.file = "{\"server\": {\"prot\": 1}}"), "\"server.prot\"", "/tmp/",
            "did you mean server.port");
    REFUSED(INPUT(.file = "{\"servr\": {\"port\": 1}}"), "unknown section \"servr\"", "/tmp/",
            "did you mean server");
    REFUSED(INPUT(.file = "{\"frobnication\": {}}"), "unknown section \"frobnication\"");
    REFUSED(INPUT(.file = "{\"server\": 5}"), "\"server\"", "must be an object");
    REFUSED(INPUT(.file = "[]"), "/tmp/", "object of sections");
    REFUSED(INPUT(.file = ""), "/tmp/", "line 1");
    REFUSED(INPUT(.file = "{\n \"server\": {\"port\": 1,}}"), "line 2");
    REFUSED(INPUT(.file = "{\"server\": {\"port\": 1, \"port\": 2}}"), "duplicate", "port");
    REFUSED(INPUT(.file = "{} {}"), "end of file expected");
    REFUSED(INPUT(.file = "{\"server\": {\"port\": [1]}}"), "server.port", "[1]", "0 to 65535");
    REFUSED(INPUT(.argv = {"--config", "/"}), "configuration file /", "directory");
}

/* Found by tests/fuzz/fuzz_config.c. */
static void messages_can_be_printed_whatever_the_file_holds(void **state)
{
    (void)state;
    /* An escape that is none, cut by jansson's message in the middle of a character. */
    REFUSED(INPUT(.file = "{\"t\\\xd0\xa3\":1}"), "near", "t\\?");
    REFUSED(INPUT(.file = "{\"a\\u001b[31mb\":{}}"), "unknown section \"a?[31mb\"");

    char path[] = "/tmp/test_config.XXXXXX";
    static const char text[] = "{}\0{\"server\":{\"port\":1}}";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    REFUSED(INPUT(.argv = {"--config", path}), "zero byte at byte 2");
    unlink(path);
}

static void a_file_that_is_too_long_is_refused(void **state)
{
    (void)state;
    size_t bytes = (1 << 20) + 1;
    char *file = malloc(bytes + 1);
    memset(file, ' ', bytes);
    file[bytes] = '\0';
    file[0] = '{';
    file[bytes - 1] = '}';
    REFUSED(INPUT(.file = file), "longer than 1 MiB");
    file[bytes - 2] = '}';
    file[bytes - 1] = '\0';
    struct outcome out;
    load_well(&out, (struct input){.file = file});
    config_deinit(&out.config);
    free(file);
}

/* ---- keys that belong together ---- */

static void listening_beyond_loopback_needs_keys_or_a_confession(void **state)
{
    (void)state;
    static const char *const inside[] = {"127.0.0.1", "127.1.2.3", "::1", "localhost"};
    static const char *const outside[] = {"0.0.0.0", "::", "192.0.2.1", "example.org"};
    struct outcome out;
    for (int i = 0; i < 4; i++) {
        load_well(&out, (struct input){.argv = {"--server-host", inside[i]}});
        config_deinit(&out.config);
        REFUSED(INPUT(.argv = {"--server-host", outside[i]}), "server.host", outside[i],
                "server.allow_insecure");
        load_well(&out,
                  (struct input){.argv = {"--server-host", outside[i], "--server-allow-insecure"}});
        config_deinit(&out.config);
        load_well(&out, (struct input){.argv = {"--server-host", outside[i],
                                                "--security-api-keys-file=k.json"}});
        config_deinit(&out.config);
    }
}

static void certificate_and_key_belong_together(void **state)
{
    (void)state;
    REFUSED(INPUT(.argv = {"--security-tls-cert=a"}), "security.tls_key is missing");
    REFUSED(INPUT(.argv = {"--security-tls-key=a"}), "security.tls_cert is missing");
    struct outcome out;
    load_well(&out, (struct input){.argv = {"--security-tls-cert=a", "--security-tls-key=b"}});
    config_deinit(&out.config);
}

/* ---- for people ---- */

static void print_has_one_line_for_every_option(void **state)
{
    (void)state;
    struct outcome out;
    load_well(&out, (struct input){.argv = {"--server-port=0"}});
    for (size_t i = 0; i < ROW_COUNT; i++) {
        char start[110];
        snprintf(start, sizeof start, "%s = ", key_of(&rows[i]));
        assert_printed(&out.config, start);
    }
    assert_printed(&out.config, "server.port = 0  (flag --server-port)\n");
    assert_printed(&out.config, "vector_storage.enable_auto_flush = true  (default)\n");
    assert_printed(&out.config, "security.api_keys_file = none  (default)\n");
    config_deinit(&out.config);
}

static void help_names_every_flag(void **state)
{
    (void)state;
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    config_print_help(out);
    fclose(out);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        char flag[110];
        snprintf(flag, sizeof flag, "  %s ", flag_of(&rows[i]));
        if (!strstr(text, flag)) fail_msg("no %s in the help", flag);
    }
    free(text);
}

/* ---- files of the repository; unit tests run in its top folder ---- */

static void the_five_profiles_load_with_the_values_of_their_use(void **state)
{
    (void)state;
    const struct {
        const char *path, *storage_path;
        uint64_t files, seconds;
        const char *mode;
    } cases[] = {
        {"config/development.json", "./data", 20, 60, "balanced"},
        {"config/production-balanced.json", "/var/lib/jadevectordb/data", 100, 300, "balanced"},
        {"config/production-high-throughput.json", "/mnt/nvme/jadevectordb", 500, 600,
         "high_throughput"},
        {"config/production-high-durability.json", "/data/jadevectordb", 50, 60, "high_safety"},
        {"config/memory-constrained.json", "/var/lib/jadevectordb/data", 10, 300, "balanced"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome out;
        load_well(&out, (struct input){.argv = {"--config", cases[i].path}});
        assert_string_equal(out.config.persistence_storage_path, cases[i].storage_path);
        assert_int_equal(out.config.persistence_max_open_files, cases[i].files);
        assert_int_equal(out.config.persistence_flush_interval_seconds, cases[i].seconds);
        assert_string_equal(out.config.persistence_mode, cases[i].mode);
        config_deinit(&out.config);
    }
}

/* The row of docs/CONFIGURATION.md up to the help text. */
static void document_row(const struct row *row, char *line, size_t cap)
{
    char standard[64], allowed[160] = "";
    switch (row->kind) {
    case U64:
        snprintf(standard, sizeof standard, "%" PRIu64, row->number);
        if (row->number == AUTO) strcpy(standard, "by the machine");
        snprintf(allowed, sizeof allowed, "%" PRIu64 " - %" PRIu64 "%s%s", row->min, row->max,
                 *row->unit ? " " : "", row->unit);
        break;
    case BOOL:
        strcpy(standard, row->number ? "true" : "false");
        strcpy(allowed, "true, false");
        break;
    case TEXT:
        snprintf(standard, sizeof standard, row->text ? "`%s`" : "none", row->text);
        strcpy(allowed, "text");
        break;
    case ENUM:
        snprintf(standard, sizeof standard, "`%s`", row->text);
        for (const char *c = row->choices; *c; c += strcspn(c, "|"), c += *c == '|') {
            size_t used = strlen(allowed);
            snprintf(allowed + used, sizeof allowed - used, "%s`%.*s`", used ? ", " : "",
                     (int)strcspn(c, "|"), c);
        }
        break;
    }
    snprintf(line, cap, "\n| `%s` | %s | %s | %s |\n", key_of(row), standard, allowed, row->help);
}

static void the_document_describes_every_option_as_it_is(void **state)
{
    (void)state;
    static char text[65536];
    FILE *file = fopen("docs/CONFIGURATION.md", "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);

    char *table = strstr(text, "\n## Keys\n"), *end = strstr(text, "\n## Presets\n");
    assert_non_null(table);
    assert_non_null(end);
    *end = '\0';
    for (size_t i = 0; i < ROW_COUNT; i++) {
        char line[512];
        document_row(&rows[i], line, sizeof line);
        if (!strstr(table, line)) fail_msg("docs/CONFIGURATION.md lacks: %s", line);
    }
    size_t described = 0;
    for (char *at = table; (at = strstr(at, "\n| `")); at++)
        described++;
    assert_int_equal(described, ROW_COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_input_every_option_has_its_default),
        cmocka_unit_test(every_default_is_allowed_as_a_value),
        cmocka_unit_test(numbers_are_accepted_up_to_both_edges_and_refused_beyond),
        cmocka_unit_test(every_choice_is_accepted_and_no_other),
        cmocka_unit_test(bools_are_json_bools_in_the_file_and_words_elsewhere),
        cmocka_unit_test(texts_must_not_be_empty_unless_none_is_their_default),
        cmocka_unit_test(flag_beats_environment_beats_file_beats_preset_beats_default),
        cmocka_unit_test(presets_set_what_they_promise),
        cmocka_unit_test(a_single_key_overrides_the_preset_even_with_the_default),
        cmocka_unit_test(the_last_of_equal_flags_stays),
        cmocka_unit_test(the_environment_can_name_the_file_and_the_flag_wins),
        cmocka_unit_test(bool_flags_may_stand_alone),
        cmocka_unit_test(mistakes_on_the_command_line_are_explained),
        cmocka_unit_test(actions_are_recognized),
        cmocka_unit_test(version_and_help_work_with_a_broken_configuration),
        cmocka_unit_test(unknown_variables_of_known_sections_are_refused),
        cmocka_unit_test(variables_of_others_are_ignored),
        cmocka_unit_test(mistakes_in_the_file_are_explained),
        cmocka_unit_test(messages_can_be_printed_whatever_the_file_holds),
        cmocka_unit_test(a_file_that_is_too_long_is_refused),
        cmocka_unit_test(listening_beyond_loopback_needs_keys_or_a_confession),
        cmocka_unit_test(certificate_and_key_belong_together),
        cmocka_unit_test(print_has_one_line_for_every_option),
        cmocka_unit_test(help_names_every_flag),
        cmocka_unit_test(the_document_describes_every_option_as_it_is),
        cmocka_unit_test(the_five_profiles_load_with_the_values_of_their_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
