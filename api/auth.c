/* auth.c - keys are compared by their SHA-256, all of them, every time. */
#include "api/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <nettle/sha2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api_private.h"
#include "storage/base/clock.h"
#include "storage/base/hex.h"
#include "storage/base/lock.h"
#include "storage/base/mem.h"
#include "storage/base/utf8.h"

enum { KEYS_MAX = 10000, DATABASES_MAX = 1000, FILE_BYTES_MAX = 16 * 1024 * 1024 };

struct api_key {
    char name[AUTH_NAME_BYTES];
    unsigned char hash[SHA256_DIGEST_SIZE];
    enum api_scope scope;
    bool every_database;
    char **databases;
    size_t database_count;
    /* Token bucket, filled at rate_limit per second up to one second's worth. */
    double tokens;
    uint64_t filled_ns;
};

struct key_list {
    struct api_key *keys;
    size_t count;
};

struct api_auth {
    const char *path;
    uint64_t rate_limit;
    struct mutex mu; /* guards `list` and the buckets in it */
    struct key_list list;
};

static void list_deinit(struct key_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        for (size_t j = 0; j < list->keys[i].database_count; j++)
            mem_free(list->keys[i].databases[j]);
        mem_free(list->keys[i].databases);
    }
    mem_free(list->keys);
    *list = (struct key_list){0};
}

static enum err_code read_file(const char *path, char **text, size_t *len, struct err *err)
{
    struct stat st;
    enum err_code rc = ERR_OK;
    *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_os(err, errno, "cannot open the API keys file %s", path);
    if (fstat(fd, &st) != 0) {
        rc = err_os(err, errno, "cannot examine the API keys file %s", path);
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(err, ERR_INVALID_REQUEST, "the API keys file %s is not a regular file", path);
    } else if (st.st_mode & 077) {
        rc = err_set(err, ERR_INVALID_REQUEST,
                     "the API keys file %s has mode %04o: others may read it; chmod 600 it", path,
                     (unsigned)(st.st_mode & 07777));
    } else if (st.st_size > FILE_BYTES_MAX) {
        rc = err_set(err, ERR_INVALID_REQUEST, "the API keys file %s is too long", path);
    } else if (!(*text = mem_try((size_t)st.st_size + 1))) {
        rc = err_set(err, ERR_NOMEM, "out of memory for the API keys");
    } else {
        *len = 0;
        for (ssize_t n; *len < (size_t)st.st_size;) {
            n = read(fd, *text + *len, (size_t)st.st_size - *len);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) rc = err_os(err, errno, "cannot read the API keys file %s", path);
            if (n <= 0) break;
            *len += (size_t)n;
        }
        (*text)[*len] = 0;
    }
    close(fd);
    return rc;
}

static bool parse_hash(const char *hex, unsigned char *hash)
{
    if (strlen(hex) != 2 * SHA256_DIGEST_SIZE) return false;
    for (size_t i = 0; i < SHA256_DIGEST_SIZE; i++) {
        int byte = hex_value(hex + 2 * i, 2);
        if (byte < 0) return false;
        hash[i] = (unsigned char)byte;
    }
    return true;
}

static enum err_code parse_databases(const json_t *list, struct api_key *key, const char *where,
                                     struct err *err)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count == 0 || count > DATABASES_MAX)
        return err_set(err, ERR_INVALID_REQUEST, "%s needs \"databases\": [\"*\"] or names", where);
    key->databases = mem_zalloc(count * sizeof *key->databases);
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name)
            return err_set(err, ERR_INVALID_REQUEST, "%s has a database name that is no string",
                           where);
        if (strcmp(name, "*") == 0) {
            key->every_database = true;
            continue;
        }
        enum err_code rc = database_name_check(name, strlen(name), err);
        if (rc) return rc;
        key->databases[key->database_count++] = mem_strdup(name);
    }
    return ERR_OK;
}

static enum err_code parse_key(const json_t *object, struct api_key *key, size_t index,
                               struct err *err)
{
    static const char *const fields[] = {"name", "scope", "sha256", "databases", NULL};
    static const char *const scopes[] = {"", "read", "write", "admin"};
    char where[96];
    const char *name = json_string_value(json_object_get(object, "name"));
    const char *scope = json_string_value(json_object_get(object, "scope"));
    const char *hash = json_string_value(json_object_get(object, "sha256"));

    snprintf(where, sizeof where, "API key %zu (%.32s)", index + 1, name ? name : "without name");
    if (!json_is_object(object) || !name || !*name)
        return err_set(err, ERR_INVALID_REQUEST, "%s needs a \"name\"", where);
    enum err_code rc = json_only_fields(object, fields, where, err);
    if (rc) return rc;
    size_t name_bytes = strlen(name);
    if (name_bytes >= sizeof key->name) name_bytes = utf8_cut(name, sizeof key->name - 1);
    memcpy(key->name, name, name_bytes);
    for (int i = SCOPE_READ; scope && i <= SCOPE_ADMIN; i++) {
        if (strcmp(scope, scopes[i]) == 0) key->scope = (enum api_scope)i;
    }
    if (key->scope == SCOPE_NONE)
        return err_set(err, ERR_INVALID_REQUEST, "%s needs \"scope\": read, write or admin", where);
    if (!hash || !parse_hash(hash, key->hash))
        return err_set(err, ERR_INVALID_REQUEST,
                       "%s needs \"sha256\": 64 hexadecimal digits of the key's SHA-256", where);
    return parse_databases(json_object_get(object, "databases"), key, where, err);
}

static enum err_code list_load(const char *path, struct key_list *out, struct err *err)
{
    static const char *const fields[] = {"keys", NULL};
    char *text = NULL;
    size_t len = 0;
    json_t *root = NULL;
    struct arena arena = {0};
    struct key_list list = {0};

    enum err_code rc = read_file(path, &text, &len, err);
    if (rc) goto out;
    struct err why;
    if (json_load_object(text, len, &arena, &root, &why)) {
        rc = err_set(err, ERR_INVALID_REQUEST, "the API keys file %s: %s", path, why.msg);
        goto out;
    }
    rc = json_only_fields(root, fields, "the API keys file", err);
    if (rc) goto out;
    const json_t *keys = json_object_get(root, "keys");
    if (!json_is_array(keys) || json_array_size(keys) == 0 || json_array_size(keys) > KEYS_MAX) {
        rc = err_set(err, ERR_INVALID_REQUEST,
                     "the API keys file %s needs {\"keys\":[...]} with 1 to %d keys", path,
                     KEYS_MAX);
        goto out;
    }
    list.keys = mem_zalloc(json_array_size(keys) * sizeof *list.keys);
    for (size_t i = 0; i < json_array_size(keys); i++) {
        list.count = i + 1;
        rc = parse_key(json_array_get(keys, i), &list.keys[i], i, err);
        if (rc) goto out;
    }
    *out = list;
    list = (struct key_list){0};
out:
    if (rc) err_make_printable(err);
    list_deinit(&list);
    json_decref(root);
    arena_free(&arena);
    mem_free(text);
    return rc;
}

enum err_code auth_load(const char *path, uint64_t rate_limit, struct api_auth **out,
                        struct err *err)
{
    struct key_list list;
    enum err_code rc = list_load(path, &list, err);
    if (rc) return rc;
    struct api_auth *auth = mem_new(struct api_auth);
    auth->path = path;
    auth->rate_limit = rate_limit;
    auth->list = list;
    mutex_init(&auth->mu, LOCK_LEAF);
    *out = auth;
    return ERR_OK;
}

enum err_code auth_reload(struct api_auth *auth, struct err *err)
{
    struct key_list list;
    enum err_code rc = list_load(auth->path, &list, err);
    if (rc) return rc;
    mutex_lock(&auth->mu);
    struct key_list old = auth->list;
    auth->list = list;
    mutex_unlock(&auth->mu);
    list_deinit(&old);
    return ERR_OK;
}

void auth_free(struct api_auth *auth)
{
    if (!auth) return;
    list_deinit(&auth->list);
    mutex_deinit(&auth->mu);
    mem_free(auth);
}

/* The key of a request, "" when it has none. */
static const char *presented(const char *authorization, const char *api_key)
{
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0) {
        authorization += 7;
        while (*authorization == ' ')
            authorization++;
        return authorization;
    }
    return api_key ? api_key : "";
}

/* True if a request may pass now. */
static bool take_token(struct api_key *key, uint64_t rate, uint64_t now_ns)
{
    double burst = (double)rate;
    if (!key->filled_ns)
        key->tokens = burst;
    else
        key->tokens += (double)(now_ns - key->filled_ns) * 1e-9 * (double)rate;
    if (key->tokens > burst) key->tokens = burst;
    key->filled_ns = now_ns;
    if (key->tokens < 1) return false;
    key->tokens -= 1;
    return true;
}

static bool may_use(const struct api_key *key, const char *database)
{
    if (key->every_database) return true;
    for (size_t i = 0; database && i < key->database_count; i++) {
        if (strcmp(key->databases[i], database) == 0) return true;
    }
    return false;
}

enum err_code auth_check(struct api_auth *auth, const char *authorization, const char *api_key,
                         int scope, const char *database, char key_name[AUTH_NAME_BYTES],
                         uint32_t *retry_after_seconds, struct err *err)
{
    static const char nobody[AUTH_NAME_BYTES];
    const char *text = presented(authorization, api_key);
    unsigned char hash[SHA256_DIGEST_SIZE];
    struct sha256_ctx sha;
    sha256_init(&sha);
    sha256_update(&sha, strlen(text), (const uint8_t *)text);
    sha256_digest(&sha, sizeof hash, hash);

    enum err_code rc = ERR_OK;
    mutex_lock(&auth->mu);
    struct api_key *key = NULL;
    for (size_t i = 0; i < auth->list.count; i++) {
        unsigned char difference = 0;
        for (size_t j = 0; j < sizeof hash; j++)
            difference |= auth->list.keys[i].hash[j] ^ hash[j];
        if (!difference) key = &auth->list.keys[i]; /* no early exit: the same time for all */
    }
    if (!*text) key = NULL;
    memcpy(key_name, key ? key->name : nobody, sizeof nobody);
    if (!key) {
        rc = err_set(err, ERR_UNAUTHORIZED,
                     "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY");
    } else if (auth->rate_limit && !take_token(key, auth->rate_limit, clock_ns())) {
        *retry_after_seconds = 1;
        rc = err_set(err, ERR_RATE_LIMITED, "more than %llu requests per second with this key",
                     (unsigned long long)auth->rate_limit);
    } else if ((int)key->scope < scope) {
        static const char *const scopes[] = {"none", "read", "write", "admin"};
        rc = err_set(err, ERR_FORBIDDEN, "this needs a key with scope \"%s\"", scopes[scope]);
    } else if (!may_use(key, database)) {
        rc = database ? err_set(err, ERR_FORBIDDEN, "this key is not for database \"%s\"", database)
                      : err_set(err, ERR_FORBIDDEN,
                                "this key is limited to single databases; this call is not");
    }
    mutex_unlock(&auth->mu);
    return rc;
}
