/*
 * fuzz_config.c - configuration files, and files of API keys: taken whole or refused with a message
 * that can be printed.
 */
#include "tests/fuzz/fuzz.h"

#include "api/auth.h"
#include "config/config.h"
#include "storage/base/utf8.h"

static void message_is_text(const struct err *err)
{
    uint32_t character;
    CLAIM(err->msg[0]);
    for (size_t at = 0, n; err->msg[at]; at += n) {
        n = utf8_decode(err->msg + at, strlen(err->msg + at), &character);
        CLAIM(n && !utf8_is_control(character));
    }
}

static void read_config(const char *path)
{
    static FILE *sink;
    char *argv[] = {(char *)"jadevectordb", (char *)"--config", (char *)(uintptr_t)path, NULL};
    char *no_env[] = {NULL};
    struct config config;
    enum config_action action;
    struct err err;
    if (!sink) sink = fopen("/dev/null", "w");
    CLAIM(sink);
    if (config_load(3, argv, no_env, &config, &action, &err)) {
        message_is_text(&err);
        return;
    }
    CLAIM(action == CONFIG_RUN);
    config_print(&config, sink);
    config_deinit(&config);
}

static void read_keys(const char *path)
{
    struct api_auth *auth = NULL;
    struct err err;
    char key_name[AUTH_NAME_BYTES];
    uint32_t retry = 0;
    if (auth_load(path, 0, &auth, &err)) {
        message_is_text(&err);
        return;
    }
    CLAIM(auth_check(auth, "Bearer no-such-key", NULL, 1, "d", key_name, &retry, &err));
    auth_free(auth);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[300];
    snprintf(path, sizeof path, "%s/input.json", fuzz_dir());
    fuzz_file("input.json", data, size);
    read_config(path);
    read_keys(path);
    return 0;
}

void fuzz_seeds(fuzz_add_fn *add, void *ctx)
{
    static const char *const texts[] = {
        "",
        "{}",
        "{\"server\":{\"port\":8081,\"host\":\"127.0.0.1\"},\"logging\":{\"level\":\"debug\"}}",
        "{\"persistence\":{\"mode\":\"in_memory\",\"wal_sync_interval_ms\":1000,"
        "\"max_open_files\":100}}",
        "{\"persistence\":{\"wal_bytes_max\":1e9,\"storage_path\":\"/tmp/x\"},\"sever\":{}}",
        "{\"keys\":[{\"name\":\"ops\",\"scope\":\"admin\",\"sha256\":"
        "\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\","
        "\"databases\":[\"*\"]}]}",
    };
    static const char *const files[] = {"config/development.json", "config/memory-constrained.json",
                                        "config/production-balanced.json",
                                        "config/production-high-durability.json",
                                        "config/production-high-throughput.json"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        fuzz_add_text(add, ctx, texts[i]);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char text[8192];
        FILE *f = fopen(files[i], "r"); /* tests run in the root of the repository */
        if (!f) continue;
        add(ctx, text, fread(text, 1, sizeof text, f));
        fclose(f);
    }
}
