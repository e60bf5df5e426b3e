/* cli.c - what the commands share. */
#include "server/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/cli/text.h"
#include "storage/base/mem.h"

enum { STDIN_BYTES_MAX = 64 << 20 };

char *cli_path(const char *format, const char *first, const char *second)
{
    struct buf path = {0};
    const char *segments[] = {first, second};
    size_t next = 0;
    for (const char *c = format; *c; c++) {
        if (c[0] == '%' && c[1] == 's') {
            text_add_segment(&path, segments[next++]);
            c++;
        } else {
            buf_add(&path, c, 1);
        }
    }
    buf_add(&path, "", 1);
    char *text = mem_strdup(path.failed ? "" : path.data);
    buf_free(&path);
    return text;
}

enum err_code cli_answer(struct cli *cli, const struct buf *reply, json_t **answer, struct err *err)
{
    *answer = NULL;
    if (cli->json) {
        fwrite(reply->data, 1, reply->len, stdout);
        if (reply->len == 0 || reply->data[reply->len - 1] != '\n') fputc('\n', stdout);
        return ERR_OK;
    }
    json_error_t bad;
    *answer = json_loadb(reply->data ? reply->data : "", reply->len, 0, &bad);
    if (!*answer)
        return err_set(err, ERR_INTERNAL, "the answer is not JSON (%s); is this JadeVectorDB?",
                       bad.text);
    return ERR_OK;
}

enum err_code cli_call_text(struct cli *cli, const char *method, const char *path,
                            const struct buf *body, json_t **answer, struct err *err)
{
    struct buf reply = {0};
    *answer = NULL;
    enum err_code rc = client_call(cli->client, method, path, body, &reply, err);
    if (!rc) rc = cli_answer(cli, &reply, answer, err);
    buf_free(&reply);
    return rc;
}

enum err_code cli_call(struct cli *cli, const char *method, const char *path, json_t *body,
                       json_t **answer, struct err *err)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    struct buf borrowed = {.data = text, .len = text ? strlen(text) : 0};
    enum err_code rc = cli_call_text(cli, method, path, text ? &borrowed : NULL, answer, err);
    free(text);
    return rc;
}

enum err_code cli_read_stdin(struct buf *out, struct err *err)
{
    for (;;) {
        char *to = buf_reserve(out, 65536);
        if (!to) return err_set(err, ERR_NOMEM, "out of memory");
        ssize_t n = read(STDIN_FILENO, to, 65536);
        if (n < 0 && errno == EINTR && !client_interrupted()) continue;
        if (n < 0) return err_os(err, errno, "cannot read standard input");
        if (n == 0) return ERR_OK;
        out->len += (size_t)n;
        if (out->len > STDIN_BYTES_MAX)
            return err_set(err, ERR_PAYLOAD_TOO_LARGE, "standard input is longer than 64 MiB");
    }
}

void cli_add_member(struct buf *body, const char *name)
{
    buf_printf(body, "%s\"%s\":", body->len == 0 ? "{" : ",", name);
}

enum err_code cli_add_string(struct buf *body, const char *text, const char *what, struct err *err)
{
    json_t *string = json_string(text);
    char *json = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    json_decref(string);
    if (!json) return err_set(err, ERR_INVALID_REQUEST, "%s is not UTF-8 text", what);
    buf_str(body, json);
    free(json);
    return ERR_OK;
}
