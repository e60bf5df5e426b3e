/* client.c - requests to the daemon: libcurl, seen as three calls. */
#include "server/cli/client.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "server/cli/text.h"
#include "storage/base/mem.h"

enum { REPLY_BYTES_MAX = 1 << 30, ERROR_BYTES_MAX = 1 << 20, CONNECT_SECONDS = 10 };

struct client {
    CURL *curl;
    char *base; /* http://host:port/api/v1, owned */
    char *host; /* http://host:port, owned        */
    struct curl_slist *auth;
    struct buf error_body; /* NUL-terminated when not empty */
};

/* One request under way. */
struct transfer {
    struct client *client;
    struct buf *reply; /* NULL: to fd_out instead */
    int fd_out, fd_in;
    int io_errno; /* of our own side */
    bool too_long;
    uint64_t bytes;
    client_progress_fn *progress;
    void *ctx;
};

static volatile sig_atomic_t interrupted;

void client_interrupt(void)
{
    interrupted = 1;
}

int client_interrupted(void)
{
    return interrupted;
}

static char *text_of(struct buf *b)
{
    buf_add(b, "", 1);
    char *text = b->failed ? NULL : mem_strdup(b->data);
    buf_free(b);
    return text;
}

static bool is_loopback(const char *base)
{
    const char *host = strstr(base, "://") + 3;
    return strncmp(host, "127.", 4) == 0 || strncmp(host, "localhost", 9) == 0 ||
           strncmp(host, "[::1]", 5) == 0;
}

enum err_code client_new(const char *url, const char *api_key, struct client **out, struct err *err)
{
    struct client *c = mem_new(struct client);
    struct buf text = {0};
    enum err_code rc;

    rc = text_add_base_url(&text, url, err);
    if (rc) goto out;
    c->host = text_of(&text);
    buf_printf(&text, "%s/api/v1", c->host);
    c->base = text_of(&text);

    if (api_key) {
        if (!*api_key || strpbrk(api_key, "\r\n")) {
            rc = err_set(err, ERR_INVALID_REQUEST, "the API key must be one line of text");
            goto out;
        }
        buf_printf(&text, "X-API-Key: %s", api_key);
        char *line = text_of(&text);
        c->auth = curl_slist_append(NULL, line);
        mem_free(line);
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    c->curl = curl_easy_init();
    if (!c->curl) rc = err_set(err, ERR_NOMEM, "cannot set up libcurl");

out:
    buf_free(&text);
    if (rc) {
        client_free(c);
        c = NULL;
    }
    *out = c;
    return rc;
}

void client_free(struct client *c)
{
    if (!c) return;
    curl_easy_cleanup(c->curl);
    curl_slist_free_all(c->auth);
    mem_free(c->base);
    mem_free(c->host);
    buf_free(&c->error_body);
    mem_free(c);
}

const char *client_error_body(const struct client *c)
{
    return c->error_body.len ? c->error_body.data : NULL;
}

/* ---- callbacks of libcurl: anything but the full count ends the transfer ---- */

static long status_of(const struct transfer *t)
{
    long status = 0;
    curl_easy_getinfo(t->client->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static bool write_all(struct transfer *t, const char *data, size_t len)
{
    while (len) {
        ssize_t n = write(t->fd_out, data, len);
        if (n < 0 && errno == EINTR && !interrupted) continue;
        if (n < 0) {
            t->io_errno = errno;
            return false;
        }
        data += n;
        len -= (size_t)n;
    }
    return true;
}

static size_t on_body(char *data, size_t one, size_t len, void *ctx)
{
    struct transfer *t = ctx;
    (void)one;
    if (status_of(t) >= 400) {
        if (t->client->error_body.len + len <= ERROR_BYTES_MAX)
            buf_add(&t->client->error_body, data, len);
        return len;
    }
    if (t->reply) {
        t->too_long = t->reply->len + len > REPLY_BYTES_MAX;
        if (!t->too_long) buf_add(t->reply, data, len);
        return t->too_long || t->reply->failed ? 0 : len;
    }
    if (!write_all(t, data, len)) return 0;
    t->bytes += len;
    if (t->progress) t->progress(t->ctx, t->bytes);
    return len;
}

static size_t on_read(char *to, size_t one, size_t cap, void *ctx)
{
    struct transfer *t = ctx;
    ssize_t n;
    do
        n = read(t->fd_in, to, one * cap);
    while (n < 0 && errno == EINTR && !interrupted);
    if (n < 0) {
        t->io_errno = errno;
        return CURL_READFUNC_ABORT;
    }
    t->bytes += (uint64_t)n;
    if (t->progress) t->progress(t->ctx, t->bytes);
    return (size_t)n;
}

static int on_tick(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)ctx, (void)a, (void)b, (void)c, (void)d;
    return interrupted;
}

/* ---- one request ---- */

/* The server's own words, if that is what came back. */
static enum err_code fail_with_answer(struct client *c, long status, struct err *err)
{
    buf_add(&c->error_body, "", 1);
    json_t *root = c->error_body.failed ? NULL : json_loads(c->error_body.data, 0, NULL);
    const json_t *error = json_object_get(root, "error");
    const char *word = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));

    if (word && message) {
        err_set(err, ERR_INTERNAL, "%.280s (%.40s, HTTP %ld)", message, word, status);
    } else {
        buf_free(&c->error_body);
        err_set(err, ERR_INTERNAL, "%s answered HTTP %ld, and not as a JadeVectorDB server would",
                c->host, status);
    }
    json_decref(root);
    return ERR_INTERNAL;
}

static enum err_code fail_on_the_way(const struct transfer *t, CURLcode code, struct err *err)
{
    if (interrupted) return err_set(err, ERR_SHUTTING_DOWN, "interrupted");
    if (t->io_errno && code == CURLE_WRITE_ERROR)
        return err_os(err, t->io_errno, "cannot write the output");
    if (t->io_errno) return err_os(err, t->io_errno, "cannot read the input");
    if (t->too_long) return err_set(err, ERR_PAYLOAD_TOO_LARGE, "the answer is longer than 1 GiB");
    if (t->reply && t->reply->failed) return err_set(err, ERR_NOMEM, "out of memory");
    if (code == CURLE_COULDNT_CONNECT)
        return err_set(err, ERR_IO, "nothing listens at %.200s: is jadevectordb running there?",
                       t->client->host);
    if (code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING)
        return err_set(err, ERR_IO, "%.200s broke off in the middle of its answer (%s)",
                       t->client->host, curl_easy_strerror(code));
    return err_set(err, ERR_IO, "%.200s: %s", t->client->host, curl_easy_strerror(code));
}

static enum err_code perform(struct transfer *t, const char *method, const char *path,
                             const struct buf *body, uint64_t upload_bytes, struct err *err)
{
    struct client *c = t->client;
    CURL *curl = c->curl;
    struct curl_slist *headers = NULL;
    struct buf url = {0};
    enum err_code rc = ERR_OK;

    buf_free(&c->error_body);
    curl_easy_reset(curl);
    buf_printf(&url, "%s%s", c->base, path);
    buf_add(&url, "", 1);
    for (const struct curl_slist *h = c->auth; h; h = h->next)
        headers = curl_slist_append(headers, h->data);
    if (body || t->fd_in >= 0)
        headers = curl_slist_append(headers, "Content-Type: application/json");
    if (t->fd_in >= 0 && upload_bytes == UINT64_MAX)
        headers = curl_slist_append(headers, "Transfer-Encoding: chunked");
    if (url.failed) {
        rc = err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }

    curl_easy_setopt(curl, CURLOPT_URL, url.data);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "jadevectordb-cli/" JADEVECTORDB_VERSION);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    if (is_loopback(c->base)) curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_tick);
    if (t->fd_in >= 0) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(curl, CURLOPT_READDATA, t);
        if (upload_bytes != UINT64_MAX)
            curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)upload_bytes);
    } else if (body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->data);
    }
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);

    CURLcode code = curl_easy_perform(curl);
    long status = status_of(t);
    /* An early refusal ends an upload with an error of its own; the refusal says more. */
    if (status >= 400 && c->error_body.len)
        rc = fail_with_answer(c, status, err);
    else if (code != CURLE_OK)
        rc = fail_on_the_way(t, code, err);
    else if (status < 200 || status >= 300)
        rc = fail_with_answer(c, status, err);

out:
    curl_slist_free_all(headers);
    buf_free(&url);
    return rc;
}

enum err_code client_call(struct client *c, const char *method, const char *path,
                          const struct buf *body, struct buf *reply, struct err *err)
{
    struct transfer t = {.client = c, .reply = reply, .fd_out = -1, .fd_in = -1};
    return perform(&t, method, path, body, 0, err);
}

enum err_code client_download(struct client *c, const char *method, const char *path,
                              const struct buf *body, int fd, client_progress_fn *progress,
                              void *ctx, struct err *err)
{
    struct transfer t = {.client = c, .fd_out = fd, .fd_in = -1, .progress = progress, .ctx = ctx};
    return perform(&t, method, path, body, 0, err);
}

enum err_code client_upload(struct client *c, const char *path, int fd, uint64_t total,
                            struct buf *reply, client_progress_fn *progress, void *ctx,
                            struct err *err)
{
    struct transfer t = {
        .client = c, .reply = reply, .fd_out = -1, .fd_in = fd, .progress = progress, .ctx = ctx};
    return perform(&t, "POST", path, NULL, total, err);
}
