/*
 * config.h - one table of options (options.def), four places a value can come from.
 *
 * Flag > environment > file > preset of persistence.mode > default.  Every option is a JSON key
 * `section.key`, an environment variable JADEVECTORDB_SECTION_KEY and a flag --section-key.  An
 * unknown key or a value out of range is an error that names the key and what is allowed.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "storage/base/err.h"

/* One member per row of options.def: uint64_t, bool or char * (owned, NULL when not set), named
 * section_key. */
struct config {
#define OPTION_U64(section, key, def, min, max, unit, help) uint64_t section##_##key;
#define OPTION_BOOL(section, key, def, help)                bool section##_##key;
#define OPTION_TEXT(section, key, def, help)                char *section##_##key;
#define OPTION_ENUM(section, key, def, choices, help)       char *section##_##key;
#include "config/options.def"
    struct config_sources *sources; /* where each value came from */
};

enum config_action {
    CONFIG_RUN,
    CONFIG_PRINT,   /* --print-config  */
    CONFIG_CHECK,   /* --check-config  */
    CONFIG_VERSION, /* --version       */
    CONFIG_HELP,    /* --help          */
};

/* Read everything: `argv` as of main(), `environ`.  On success *config is to be given to
 * config_deinit().  ERR_INVALID_REQUEST names the key, the source and the range. */
MUST_CHECK enum err_code config_load(int argc, char **argv, char **env, struct config *config,
                                     enum config_action *action, struct err *err);
void config_deinit(struct config *config);

/* Every option with its value and its source, one line each: `server.port = 8080  (default)`. */
void config_print(const struct config *config, FILE *out);
void config_print_help(FILE *out);

#endif
