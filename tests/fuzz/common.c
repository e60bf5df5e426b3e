/* common.c - what the fuzzers share; see fuzz.h. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/base/log.h"

void fuzz_fail(const char *file, int line, const char *claim)
{
    fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, claim);
    abort();
}

char *fuzz_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    CLAIM(text);
    if (size) memcpy(text, data, size);
    text[size] = 0;
    return text;
}

void fuzz_quiet(void)
{
    static bool is_quiet;
    struct log_options quiet = {.level = LOG_ERROR, .path = "/dev/null"};
    struct err err;
    if (!is_quiet) CLAIM(!log_open(&quiet, &err));
    is_quiet = true;
}

/* ---- files ---- */

static char dir_path[256];
static int dir_fd = -1;

static void remove_dir(void)
{
    DIR *dir = fdopendir(dir_fd);
    for (struct dirent *d; dir && (d = readdir(dir));)
        unlinkat(dir_fd, d->d_name, 0);
    if (dir) closedir(dir);
    rmdir(dir_path);
}

const char *fuzz_dir(void)
{
    if (dir_fd >= 0) return dir_path;
    const char *base = getenv("TMPDIR");
    if (!base) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir_path, sizeof dir_path, "%s/jvdb-fuzz-XXXXXX", base);
    CLAIM(mkdtemp(dir_path));
    dir_fd = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLAIM(dir_fd >= 0);
    atexit(remove_dir);
    return dir_path;
}

void fuzz_file(const char *name, const void *bytes, size_t size)
{
    fuzz_dir();
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CLAIM(fd >= 0);
    CLAIM(write(fd, bytes, size) == (ssize_t)size);
    close(fd);
}

uint8_t *fuzz_file_bytes(const char *name, size_t *size)
{
    struct stat st;
    fuzz_dir();
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    CLAIM(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *bytes = malloc((size_t)st.st_size + 1);
    CLAIM(bytes);
    CLAIM(read(fd, bytes, (size_t)st.st_size) == st.st_size);
    close(fd);
    *size = (size_t)st.st_size;
    return bytes;
}

/* ---- requests ---- */

struct service *fuzz_service_in_memory(void)
{
    struct service_options options = {.engine = ENGINE_MEMORY,
                                      .max_open_files = 100,
                                      .wal_sync_interval_ms = 1000,
                                      .wal_bytes_max = 256 << 20,
                                      .no_indexer = true};
    struct service *service = NULL;
    struct err err;
    fuzz_quiet();
    CLAIM(!service_open(&options, &service, &err));
    return service;
}

static void note_done(void *ctx)
{
    __atomic_store_n((int *)ctx, 1, __ATOMIC_RELEASE);
}

static void feed(struct api_app *app, struct api_request *req, const char *body, size_t bytes,
                 size_t slice)
{
    struct err err;
    req->may_block = true;
    for (size_t at = 0; at < bytes; at += slice) {
        size_t n = bytes - at < slice ? bytes - at : slice;
        char *piece = malloc(n); /* exactly as long, for the sanitizer */
        memcpy(piece, body + at, n);
        enum err_code rc = api_feed(app, req, piece, n, &err);
        free(piece);
        if (rc) return;
    }
}

int fuzz_request(struct api_app *app, const char *method, const char *target,
                 const char *content_type, const char *body, size_t bytes, size_t slice,
                 struct buf *answer)
{
    struct api_request req = {0};
    struct api_response res = {0};
    struct err err;
    char *path = strdup(target), *query = strchr(path, '?');
    char *text = calloc(1, bytes + 64); /* what req.body promises */
    CLAIM(path && text);

    if (query) *query++ = 0;
    if (bytes) memcpy(text, body, bytes);
    req.method = method;
    req.path = path;
    req.query = query;
    req.content_type = content_type;
    req.has_content_length = body != NULL;
    req.content_length = bytes;
    enum api_next next = api_begin(app, &req, &res);
    if (next == API_STREAM) feed(app, &req, text, bytes, slice);
    if (next == API_BODY) {
        req.body = bytes ? text : NULL;
        req.body_bytes = bytes;
    }
    while (next == API_STREAM || next == API_BODY || next == API_DEFER) {
        next = api_dispatch(app, &req, &res);
        req.may_block = true;
    }
    if (next == API_PARTS) {
        while (api_part(&req))
            continue;
        api_join(app, &req, &res);
    }
    int durable = 0;
    if (api_wait(&res, &req, note_done, &durable)) {
        while (!__atomic_load_n(&durable, __ATOMIC_ACQUIRE))
            continue;
        CLAIM(!api_wait(&res, &req, NULL, NULL));
    }
    for (bool done = res.produce == NULL; !done;)
        if (res.produce(&req, &res.body, &done, &err)) break;
    int status = res.status;
    CLAIM(status >= 200 && status < 600);
    if (answer) buf_add(answer, res.body.data, res.body.len);
    api_end(app, &req, &res, true);
    free(path);
    free(text);
    return status;
}
