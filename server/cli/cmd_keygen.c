/* cmd_keygen.c - `keygen`: a new random API key, and what the server has to know of it. */
#include <errno.h>
#include <nettle/sha2.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include "api/base64.h"
#include "server/cli/cli.h"
#include "storage/types.h"

enum { KEY_BYTES = 32, KEY_NAME_BYTES_MAX = 128 };
#define KEY_PREFIX                                                                                 \
    "jvdb_" /* for people, and for programs that look for keys in the wrong places                 \
             */

static enum err_code key_make(struct buf *key, struct err *err)
{
    unsigned char secret[KEY_BYTES];

    if (getrandom(secret, sizeof secret, 0) != (ssize_t)sizeof secret)
        return err_os(err, errno, "no random numbers");
    buf_str(key, KEY_PREFIX);
    base64url_write(key, secret, sizeof secret);
    explicit_bzero(secret, sizeof secret);
    return ERR_OK;
}

static void add_sha256(struct buf *out, const struct buf *key)
{
    unsigned char digest[SHA256_DIGEST_SIZE];
    struct sha256_ctx sha;

    sha256_init(&sha);
    sha256_update(&sha, key->len, (const uint8_t *)key->data);
    sha256_digest(&sha, sizeof digest, digest);
    buf_str(out, "\"");
    for (size_t i = 0; i < sizeof digest; i++)
        buf_printf(out, "%02x", digest[i]);
    buf_str(out, "\"");
}

static enum err_code check_scope(const char *scope, struct err *err)
{
    if (strcmp(scope, "read") == 0 || strcmp(scope, "write") == 0 || strcmp(scope, "admin") == 0)
        return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST, "--scope: \"%.32s\" must be read, write or admin",
                   scope);
}

/* `a,b` -> ["a","b"] */
static enum err_code add_databases(struct buf *out, const char *list, struct err *err)
{
    bool more = true;

    buf_str(out, "[");
    while (more) {
        size_t len = strcspn(list, ",");
        struct err why;
        if (!(len == 1 && *list == '*') && database_name_check(list, len, &why))
            return err_set(err, ERR_INVALID_REQUEST, "--databases: %s", why.msg);
        buf_str(out, "\"");
        buf_add(out, list, len); /* a good name needs no escapes */
        buf_str(out, "\"");
        more = list[len] == ',';
        if (more) buf_str(out, ",");
        list += len + more;
    }
    buf_str(out, "]");
    return ERR_OK;
}

static enum err_code add_entry(struct buf *out, const struct args *args, const struct buf *key,
                               struct err *err)
{
    const char *name = args_get(args, "name"), *scope = args_get(args, "scope");
    const char *databases = args_get(args, "databases");

    if (strlen(name) > KEY_NAME_BYTES_MAX)
        return err_set(err, ERR_INVALID_REQUEST, "--name is longer than %d bytes",
                       KEY_NAME_BYTES_MAX);
    enum err_code rc = check_scope(scope, err);
    if (rc) return rc;
    cli_add_member(out, "name");
    rc = cli_add_string(out, name, "--name", err);
    if (rc) return rc;
    cli_add_member(out, "scope");
    rc = cli_add_string(out, scope, "--scope", err);
    if (rc) return rc;
    cli_add_member(out, "sha256");
    add_sha256(out, key);
    cli_add_member(out, "databases");
    rc = add_databases(out, databases ? databases : "*", err);
    buf_str(out, "}");
    return rc;
}

static enum err_code run(struct cli *cli, const struct args *args, struct err *err)
{
    struct buf key = {0}, entry = {0};

    enum err_code rc = key_make(&key, err);
    if (!rc) rc = add_entry(&entry, args, &key, err);
    if (!rc && (key.failed || entry.failed)) rc = err_set(err, ERR_NOMEM, "out of memory");
    if (!rc)
        printf(cli->json ? "{\"key\": \"%.*s\", \"entry\": %.*s}\n" : "key    %.*s\nentry  %.*s\n",
               (int)key.len, key.data, (int)entry.len, entry.data);
    if (!rc && !cli->json)
        fputs("The key is shown this once. Add the entry to \"keys\" in security.api_keys_file, "
              "then SIGHUP.\n",
              stderr);
    if (key.data) explicit_bzero(key.data, key.len);
    buf_free(&key);
    buf_free(&entry);
    return rc;
}

const struct command command_keygen = {
    .name = "keygen",
    .summary = "make a random API key and its entry for security.api_keys_file",
    .examples = "jadevectordb-cli keygen --name ops --scope admin\n"
                "jadevectordb-cli keygen --name shop --scope write --databases products,reviews\n",
    .args =
        (const struct arg_spec[]){
            {"name", "NAME", "whose key it is", ARG_REQUIRED | ARG_POSITIONAL},
            {"scope", "SCOPE", "read, write or admin", ARG_REQUIRED | ARG_POSITIONAL},
            {"databases", "A,B", "those it is for (default *: all, and what is about all)", 0},
            {0}},
    .run = run,
};
