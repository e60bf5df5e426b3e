/*
 * config.c - the table of options made into a parser.
 *
 * Each place a value can come from ends in assign(), which takes text: so a range is checked, and
 * its error worded, once.  Places are read from the weakest to the strongest; each overwrites the
 * one before.  The preset comes last, because the mode is only known then, and fills what nobody
 * set.
 */
#include "config/config.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "config/suggest.h"
#include "storage/base/mem.h"

#define AUTO UINT64_MAX

enum option_kind { KIND_U64, KIND_BOOL, KIND_TEXT, KIND_ENUM };

struct option {
    const char *name; /* section.key */
    enum option_kind kind;
    size_t member; /* offset in struct config */
    uint64_t number_default, min, max;
    const char *text_default; /* NULL: none, and "" means none too */
    const char *unit;
    const char *choices;
    const char *help;
};

#define MEMBER(section, key) #section "." #key
static const struct option options[] = {
#define OPTION_U64(section, key, def, low, high, units, text)                                      \
    {.name = MEMBER(section, key),                                                                 \
     .kind = KIND_U64,                                                                             \
     .member = offsetof(struct config, section##_##key),                                           \
     .number_default = (def),                                                                      \
     .min = (low),                                                                                 \
     .max = (high),                                                                                \
     .unit = (units),                                                                              \
     .help = (text)},
#define OPTION_BOOL(section, key, def, text)                                                       \
    {.name = MEMBER(section, key),                                                                 \
     .kind = KIND_BOOL,                                                                            \
     .member = offsetof(struct config, section##_##key),                                           \
     .number_default = (def),                                                                      \
     .help = (text)},
#define OPTION_TEXT(section, key, def, text)                                                       \
    {.name = MEMBER(section, key),                                                                 \
     .kind = KIND_TEXT,                                                                            \
     .member = offsetof(struct config, section##_##key),                                           \
     .text_default = (def),                                                                        \
     .help = (text)},
#define OPTION_ENUM(section, key, def, list, text)                                                 \
    {.name = MEMBER(section, key),                                                                 \
     .kind = KIND_ENUM,                                                                            \
     .member = offsetof(struct config, section##_##key),                                           \
     .text_default = (def),                                                                        \
     .choices = (list),                                                                            \
     .help = (text)},
#include "config/options.def"
};

enum { OPTION_COUNT = sizeof options / sizeof *options, NAME_BYTES = 96, FILE_BYTES_MAX = 1 << 20 };

/* The defaults that persistence.mode changes; `balanced` is the table's own. */
static const struct {
    const char *mode, *name, *text;
} presets[] = {
    {"high_safety", "persistence.flush_interval_seconds", "60"},
    {"high_safety", "persistence.scrub_interval_seconds", "302400"},
    {"high_throughput", "persistence.flush_interval_seconds", "600"},
    {"high_throughput", "persistence.durability", "periodic"},
    {"high_throughput", "persistence.wal_bytes_max", "1073741824"},
    {"low_space", "persistence.compact_percent", "10"},
};

enum source { SOURCE_DEFAULT, SOURCE_PRESET, SOURCE_FILE, SOURCE_ENV, SOURCE_FLAG };

struct config_sources {
    enum source of[OPTION_COUNT];
    char *file; /* owned; NULL without a configuration file */
};

/* What the command line says, before anything is believed. */
struct command_line {
    enum config_action action;
    const char *file;
    const char *value[OPTION_COUNT]; /* NULL: no such flag */
};

/* ---- names ---- */

static const char *flag_name(const struct option *o, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "--%s", o->name);
    for (char *c = name; *c; c++) {
        if (*c == '.' || *c == '_') *c = '-';
    }
    return name;
}

static const char *env_name(const struct option *o, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "JADEVECTORDB_%s", o->name);
    for (char *c = name; *c; c++)
        *c = *c == '.' ? '_' : (char)toupper((unsigned char)*c);
    return name;
}

static size_t section_bytes(const struct option *o)
{
    return (size_t)(strchr(o->name, '.') - o->name);
}

static size_t option_index(const char *name)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strcmp(options[i].name, name) == 0) return i;
    }
    return OPTION_COUNT;
}

static bool section_is_known(const char *section)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (section_bytes(&options[i]) == strlen(section) &&
            strncmp(options[i].name, section, strlen(section)) == 0)
            return true;
    }
    return false;
}

/* `what` is the place with its name, e.g. `flag "--server-prot"`; `word` is what to look up among
 * the names that `name_of` makes. */
static enum err_code refuse_unknown(const char *what, const char *word,
                                    const char *(*name_of)(const struct option *, char *),
                                    struct err *err)
{
    char names[OPTION_COUNT][NAME_BYTES];
    const char *known[OPTION_COUNT];
    for (size_t i = 0; i < OPTION_COUNT; i++)
        known[i] = name_of(&options[i], names[i]);

    const char *nearest = suggest(word, known, OPTION_COUNT);
    if (nearest)
        return err_set(err, ERR_INVALID_REQUEST, "unknown %s; did you mean %s?", what, nearest);
    return err_set(err, ERR_INVALID_REQUEST, "unknown %s; --help lists every key", what);
}

static const char *plain_name(const struct option *o, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "%s", o->name);
    return name;
}

/* ---- values ---- */

static void *member_of(const struct config *config, const struct option *o)
{
    return (char *)config + o->member;
}

static uint64_t core_count(void)
{
    cpu_set_t cores; /* those we may run on, which in a container are fewer than there are */
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
    return (uint64_t)CPU_COUNT(&cores);
}

static void choices_sentence(const struct option *o, char *text, size_t cap)
{
    size_t used = 0;
    for (const char *c = o->choices; *c && used + 3 < cap; c++) {
        if (*c == '|') {
            text[used++] = ',';
            text[used++] = ' ';
        } else {
            text[used++] = *c;
        }
    }
    text[used] = '\0';
}

static enum err_code refuse(const struct option *o, const char *value, const char *source,
                            struct err *err)
{
    char allowed[160];
    switch (o->kind) {
    case KIND_U64:
        snprintf(allowed, sizeof allowed, "a whole number from %" PRIu64 " to %" PRIu64 "%s%s",
                 o->min, o->max, *o->unit ? " " : "", o->unit);
        break;
    case KIND_BOOL:
        snprintf(allowed, sizeof allowed, "true or false");
        break;
    case KIND_TEXT:
        snprintf(allowed, sizeof allowed, "text that is not empty");
        break;
    case KIND_ENUM: {
        char list[120];
        choices_sentence(o, list, sizeof list);
        snprintf(allowed, sizeof allowed, "one of %s", list);
        break;
    }
    }
    return err_set(err, ERR_INVALID_REQUEST, "%s: \"%.64s\" (%.120s) is not allowed: it must be %s",
                   o->name, value, source, allowed);
}

static bool parse_u64(const char *text, uint64_t *out)
{
    if (!*text || text[strspn(text, "0123456789")]) return false;
    errno = 0;
    *out = strtoull(text, NULL, 10);
    return errno == 0;
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const words[][2] = {
        {"false", "true"}, {"no", "yes"}, {"off", "on"}, {"0", "1"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        for (int value = 0; value < 2; value++) {
            if (strcasecmp(text, words[i][value]) == 0) {
                *out = value;
                return true;
            }
        }
    }
    return false;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t len = strlen(text);
    if (strchr(text, '|')) return false;
    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL) {
        if (len && strncmp(c, text, len) == 0 && (c[len] == '|' || !c[len])) return true;
    }
    return false;
}

/* `source` words an error: `flag --server-port`. */
static enum err_code assign(struct config *config, size_t index, const char *text, enum source kind,
                            const char *source, struct err *err)
{
    const struct option *o = &options[index];
    void *member = member_of(config, o);
    uint64_t number;
    bool truth;

    switch (o->kind) {
    case KIND_U64:
        if (!parse_u64(text, &number) || number < o->min || number > o->max)
            return refuse(o, text, source, err);
        *(uint64_t *)member = number;
        break;
    case KIND_BOOL:
        if (!parse_bool(text, &truth)) return refuse(o, text, source, err);
        *(bool *)member = truth;
        break;
    case KIND_TEXT:
        if (!*text && o->text_default) return refuse(o, text, source, err);
        mem_free(*(char **)member);
        *(char **)member = *text ? mem_strdup(text) : NULL;
        break;
    case KIND_ENUM:
        if (!is_choice(o->choices, text)) return refuse(o, text, source, err);
        mem_free(*(char **)member);
        *(char **)member = mem_strdup(text);
        break;
    }
    config->sources->of[index] = kind;
    return ERR_OK;
}

static void assign_defaults(struct config *config)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option *o = &options[i];
        void *member = member_of(config, o);
        switch (o->kind) {
        case KIND_U64: {
            uint64_t number = o->number_default;
            if (number == AUTO) {
                number = core_count();
                number = number < o->min ? o->min : number > o->max ? o->max : number;
            }
            *(uint64_t *)member = number;
            break;
        }
        case KIND_BOOL:
            *(bool *)member = o->number_default;
            break;
        case KIND_TEXT:
        case KIND_ENUM:
            *(char **)member = o->text_default ? mem_strdup(o->text_default) : NULL;
            break;
        }
    }
}

static enum err_code assign_preset(struct config *config, struct err *err)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strcmp(presets[i].mode, config->persistence_mode) != 0) continue;
        size_t index = option_index(presets[i].name);
        assert(index < OPTION_COUNT);
        if (config->sources->of[index] != SOURCE_DEFAULT) continue;
        enum err_code rc = assign(config, index, presets[i].text, SOURCE_PRESET, "preset", err);
        if (rc) return rc;
    }
    return ERR_OK;
}

/* ---- file ---- */

/* One JSON value; what has the wrong type is refused with its JSON text. */
static enum err_code assign_json(struct config *config, size_t index, const json_t *value,
                                 const char *source, struct err *err)
{
    const struct option *o = &options[index];
    char number[32];
    const char *text = NULL;

    if (o->kind == KIND_U64 && json_is_integer(value)) {
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        text = number;
    } else if (o->kind == KIND_BOOL && json_is_boolean(value)) {
        text = json_is_true(value) ? "true" : "false";
    } else if (o->kind == KIND_TEXT && json_is_null(value)) {
        text = "";
    } else if (o->kind == KIND_TEXT || o->kind == KIND_ENUM) {
        text = json_string_value(value);
    }
    if (text) return assign(config, index, text, SOURCE_FILE, source, err);

    char *json = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    enum err_code rc = refuse(o, json ? json : "?", source, err);
    free(json);
    return rc;
}

static enum err_code assign_section(struct config *config, const char *section, json_t *keys,
                                    const char *source, struct err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(keys, key, value)
    {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s.%s", section, key);
        size_t index = option_index(name);
        if (index == OPTION_COUNT) {
            char what[256];
            snprintf(what, sizeof what, "key \"%s\" in %.120s", name, source);
            return refuse_unknown(what, name, plain_name, err);
        }
        enum err_code rc = assign_json(config, index, value, source, err);
        if (rc) return rc;
    }
    return ERR_OK;
}

static enum err_code refuse_section(const char *section, const char *source, struct err *err)
{
    const char *known[OPTION_COUNT];
    char names[OPTION_COUNT][NAME_BYTES];
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        snprintf(names[i], NAME_BYTES, "%.*s", (int)section_bytes(&options[i]), options[i].name);
        known[i] = names[i];
    }
    const char *nearest = suggest(section, known, OPTION_COUNT);
    return err_set(err, ERR_INVALID_REQUEST, "unknown section \"%.64s\" in %.120s%s%s%s", section,
                   source, nearest ? "; did you mean " : "; --help lists every key",
                   nearest ? nearest : "", nearest ? "?" : "");
}

static enum err_code assign_file(struct config *config, const char *path, struct err *err)
{
    json_t *root = NULL;
    char *text = NULL;
    size_t bytes;
    char source[160];
    enum err_code rc = ERR_OK;

    config->sources->file = mem_strdup(path);
    snprintf(source, sizeof source, "file %s", path);

    FILE *file = fopen(path, "re");
    if (!file) return err_os(err, errno, "cannot open the configuration file %.200s", path);
    text = mem_zalloc(FILE_BYTES_MAX + 1);
    bytes = fread(text, 1, FILE_BYTES_MAX + 1, file);
    if (ferror(file)) {
        rc = err_os(err, errno, "cannot read the configuration file %.200s", path);
        goto out;
    }
    if (bytes > FILE_BYTES_MAX) {
        rc = err_set(err, ERR_INVALID_REQUEST, "configuration file %.200s is longer than 1 MiB",
                     path);
        goto out;
    }

    json_error_t bad;
    const char *zero = memchr(text, 0, bytes); /* jansson would take it for the end */
    if (zero) {
        rc = err_set(err, ERR_INVALID_JSON, "%.160s has a zero byte at byte %td", source,
                     zero - text);
        goto out;
    }
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &bad);
    if (!root) {
        rc = err_set(err, ERR_INVALID_JSON, "%.160s, line %d, column %d: %s", source, bad.line,
                     bad.column, bad.text);
        goto out;
    }
    if (!json_is_object(root)) {
        rc = err_set(err, ERR_INVALID_REQUEST, "%.160s must hold one JSON object of sections",
                     source);
        goto out;
    }
    const char *section;
    json_t *keys;
    json_object_foreach(root, section, keys)
    {
        if (!section_is_known(section)) {
            rc = refuse_section(section, source, err);
        } else if (!json_is_object(keys)) {
            rc = err_set(err, ERR_INVALID_REQUEST, "section \"%s\" in %.160s must be an object",
                         section, source);
        } else {
            rc = assign_section(config, section, keys, source, err);
        }
        if (rc) goto out;
    }

out:
    fclose(file);
    mem_free(text);
    json_decref(root);
    return rc;
}

/* ---- environment ---- */

static bool env_section_is_known(const char *name)
{
    char known[NAME_BYTES];
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        env_name(&options[i], known);
        size_t prefix_bytes = strlen("JADEVECTORDB_") + section_bytes(&options[i]) + 1;
        if (strncmp(name, known, prefix_bytes) == 0) return true;
    }
    return false;
}

static enum err_code assign_env(struct config *config, char **env, struct err *err)
{
    for (; *env; env++) {
        const char *equals = strchr(*env, '=');
        if (strncmp(*env, "JADEVECTORDB_", strlen("JADEVECTORDB_")) != 0 || !equals) continue;

        char name[NAME_BYTES], known[NAME_BYTES], source[NAME_BYTES + 16];
        snprintf(name, sizeof name, "%.*s", (int)(equals - *env), *env);
        size_t index = 0;
        while (index < OPTION_COUNT && strcmp(env_name(&options[index], known), name) != 0)
            index++;
        if (index < OPTION_COUNT) {
            snprintf(source, sizeof source, "environment %s", name);
            enum err_code rc = assign(config, index, equals + 1, SOURCE_ENV, source, err);
            if (rc) return rc;
        } else if (env_section_is_known(name)) {
            snprintf(source, sizeof source, "variable %s", name);
            return refuse_unknown(source, name, env_name, err);
        }
        /* Anything else is another program's: the client's URL, a container's service address. */
    }
    return ERR_OK;
}

static const char *env_value(char **env, const char *name)
{
    size_t len = strlen(name);
    for (; *env; env++) {
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=' && (*env)[len + 1])
            return *env + len + 1;
    }
    return NULL;
}

/* ---- flags ---- */

static const struct {
    const char *flag;
    enum config_action action;
} actions[] = {
    {"--print-config", CONFIG_PRINT}, {"--check-config", CONFIG_CHECK},
    {"--version", CONFIG_VERSION},    {"-V", CONFIG_VERSION},
    {"--help", CONFIG_HELP},          {"-h", CONFIG_HELP},
};

static bool parse_action(const char *arg, enum config_action *action)
{
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(arg, actions[i].flag) == 0) {
            *action = actions[i].action;
            return true;
        }
    }
    return false;
}

/* The place for the value of a flag, or NULL when there is no such flag. */
static const char **flag_place(struct command_line *line, const char *flag, bool *is_bool)
{
    char known[NAME_BYTES];
    *is_bool = false;
    if (strcmp(flag, "--config") == 0) return &line->file;
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strcmp(flag_name(&options[i], known), flag) == 0) {
            *is_bool = options[i].kind == KIND_BOOL;
            return &line->value[i];
        }
    }
    return NULL;
}

static enum err_code parse_command_line(int argc, char **argv, struct command_line *line,
                                        struct err *err)
{
    for (int i = 1; i < argc; i++) {
        if (parse_action(argv[i], &line->action)) {
            if (line->action == CONFIG_VERSION || line->action == CONFIG_HELP) return ERR_OK;
            continue;
        }
        if (argv[i][0] != '-')
            return err_set(err, ERR_INVALID_REQUEST,
                           "unexpected argument \"%.64s\": options are --section-key VALUE",
                           argv[i]);

        char flag[NAME_BYTES];
        const char *equals = strchr(argv[i], '=');
        snprintf(flag, sizeof flag, "%.*s", equals ? (int)(equals - argv[i]) : NAME_BYTES, argv[i]);
        bool is_bool, ignored;
        const char **place = flag_place(line, flag, &is_bool);
        if (!place) {
            char what[NAME_BYTES + 16];
            snprintf(what, sizeof what, "option %s", flag);
            return refuse_unknown(what, flag, flag_name, err);
        }
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (equals) {
            *place = equals + 1;
        } else if (is_bool && !(next && parse_bool(next, &ignored))) {
            *place = "true";
        } else if (next && strncmp(next, "--", 2) != 0) {
            *place = next;
            i++;
        } else {
            return err_set(err, ERR_INVALID_REQUEST, "option %s needs a value", flag);
        }
    }
    return ERR_OK;
}

static enum err_code assign_flags(struct config *config, const struct command_line *line,
                                  struct err *err)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (!line->value[i]) continue;
        char flag[NAME_BYTES], source[NAME_BYTES + 8];
        snprintf(source, sizeof source, "flag %s", flag_name(&options[i], flag));
        enum err_code rc = assign(config, i, line->value[i], SOURCE_FLAG, source, err);
        if (rc) return rc;
    }
    return ERR_OK;
}

/* ---- all together ---- */

static bool host_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(host, "localhost") == 0) return true;
    if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* What no single key can tell. */
static enum err_code check_together(const struct config *config, struct err *err)
{
    if (!host_is_loopback(config->server_host) && !config->security_api_keys_file &&
        !config->server_allow_insecure)
        return err_set(
            err, ERR_INVALID_REQUEST,
            "server.host: \"%.64s\" is not a loopback address, so anybody who reaches it "
            "could read and delete everything: set security.api_keys_file, or "
            "server.allow_insecure to do it all the same",
            config->server_host);
    if (!config->security_tls_cert != !config->security_tls_key)
        return err_set(err, ERR_INVALID_REQUEST,
                       "security.tls_cert and security.tls_key belong together: %s is missing",
                       config->security_tls_cert ? "security.tls_key" : "security.tls_cert");
    return ERR_OK;
}

enum err_code config_load(int argc, char **argv, char **env, struct config *config,
                          enum config_action *action, struct err *err)
{
    struct command_line line = {.action = CONFIG_RUN};
    enum err_code rc;

    memset(config, 0, sizeof *config);
    config->sources = mem_new(struct config_sources);
    assign_defaults(config);

    rc = parse_command_line(argc, argv, &line, err);
    if (rc) goto out;
    *action = line.action;
    if (*action == CONFIG_VERSION || *action == CONFIG_HELP) return ERR_OK;

    if (!line.file) line.file = env_value(env, "JADEVECTORDB_CONFIG");
    if (line.file) rc = assign_file(config, line.file, err);
    if (rc) goto out;
    rc = assign_env(config, env, err);
    if (rc) goto out;
    rc = assign_flags(config, &line, err);
    if (rc) goto out;
    rc = assign_preset(config, err);
    if (rc) goto out;
    rc = check_together(config, err);

out:
    if (rc) {
        err_make_printable(err);
        config_deinit(config);
    }
    return rc;
}

void config_deinit(struct config *config)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (options[i].kind == KIND_TEXT || options[i].kind == KIND_ENUM)
            mem_free(*(char **)member_of(config, &options[i]));
    }
    if (config->sources) mem_free(config->sources->file);
    mem_free(config->sources);
    memset(config, 0, sizeof *config);
}

/* ---- for people ---- */

static void print_value(const struct config *config, const struct option *o, FILE *out)
{
    const void *member = member_of(config, o);
    switch (o->kind) {
    case KIND_U64:
        fprintf(out, "%" PRIu64, *(const uint64_t *)member);
        break;
    case KIND_BOOL:
        fputs(*(const bool *)member ? "true" : "false", out);
        break;
    case KIND_TEXT:
    case KIND_ENUM:
        fputs(*(char *const *)member ? *(char *const *)member : "none", out);
        break;
    }
}

void config_print(const struct config *config, FILE *out)
{
    char name[NAME_BYTES];
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        fprintf(out, "%s = ", options[i].name);
        print_value(config, &options[i], out);
        switch (config->sources->of[i]) {
        case SOURCE_DEFAULT:
            fputs("  (default)\n", out);
            break;
        case SOURCE_PRESET:
            fprintf(out, "  (preset %s)\n", config->persistence_mode);
            break;
        case SOURCE_FILE:
            fprintf(out, "  (file %s)\n", config->sources->file);
            break;
        case SOURCE_ENV:
            fprintf(out, "  (environment %s)\n", env_name(&options[i], name));
            break;
        case SOURCE_FLAG:
            fprintf(out, "  (flag %s)\n", flag_name(&options[i], name));
            break;
        }
    }
}

static void print_option_help(const struct option *o, FILE *out)
{
    char flag[NAME_BYTES];
    static const char *const placeholders[] = {
        [KIND_U64] = "N", [KIND_BOOL] = "[true|false]", [KIND_TEXT] = "TEXT", [KIND_ENUM] = "WORD"};
    fprintf(out, "  %s %s\n      %s\n      ", flag_name(o, flag), placeholders[o->kind], o->help);
    switch (o->kind) {
    case KIND_U64:
        if (o->number_default == AUTO)
            fprintf(out, "default: by the machine; %" PRIu64 " to %" PRIu64, o->min, o->max);
        else
            fprintf(out, "default: %" PRIu64 "; %" PRIu64 " to %" PRIu64, o->number_default, o->min,
                    o->max);
        fprintf(out, "%s%s\n", *o->unit ? " " : "", o->unit);
        break;
    case KIND_BOOL:
        fprintf(out, "default: %s\n", o->number_default ? "true" : "false");
        break;
    case KIND_TEXT:
        fprintf(out, "default: %s\n", o->text_default ? o->text_default : "none");
        break;
    case KIND_ENUM: {
        char list[120];
        choices_sentence(o, list, sizeof list);
        fprintf(out, "default: %s; one of %s\n", o->text_default, list);
        break;
    }
    }
}

void config_print_help(FILE *out)
{
    fputs("jadevectordb - vector database server\n"
          "\n"
          "usage: jadevectordb [--config FILE] [--section-key VALUE]...\n"
          "\n"
          "  --config FILE    read a JSON file of sections; also JADEVECTORDB_CONFIG\n"
          "  --print-config   show every option, its value and where that comes from\n"
          "  --check-config   say whether the configuration is good, and stop\n"
          "  --version, -V    show the version\n"
          "  --help, -h       show this\n"
          "\n"
          "Each option below is the key section.key of the file, the variable\n"
          "JADEVECTORDB_SECTION_KEY and a flag.  A flag wins over the environment, the\n"
          "environment over the file, the file over the preset of persistence.mode.\n"
          "\n",
          out);
    for (size_t i = 0; i < OPTION_COUNT; i++)
        print_option_help(&options[i], out);
}
