/* test_http.c - HTTP over real sockets, with a fake API behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "server/http_private.h"
#include "server/listener.h"
#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "tests/server/fake_api.h"

enum { BODY_MAX = 1024 * 1024, CLIENTS = 300 };

struct server {
    struct api_app app;
    struct workers *workers;
    struct http *http;
    struct listener *listener;
    uint16_t port;
};

static void on_forget(void *ctx, const struct sockaddr_storage *peer)
{
    struct server *s = ctx;
    listener_forget(s->listener, peer);
}

static void on_take(void *ctx, int fd, const struct sockaddr_storage *peer, socklen_t bytes)
{
    struct server *s = ctx;
    http_take(s->http, fd, peer, bytes);
}

static void server_start_with(struct server *s, size_t workers, size_t connections,
                              uint32_t timeout_s, uint32_t drain_ms)
{
    struct err err;
    struct sockaddr_in addr;
    socklen_t bytes = sizeof addr;
    struct http_options http = {
        .threads = 2,
        .body_bytes_max = BODY_MAX,
        .connection_count_max = 1000,
        .request_timeout_seconds = timeout_s,
        .drain_ms = drain_ms,
        .forget = on_forget,
        .ctx = s,
    };
    struct listener_options listener = {
        .host = "127.0.0.1",
        .connection_count_max = connections,
        .connection_per_ip_count_max = 4,
        .take = on_take,
        .ctx = s,
    };

    memset(s, 0, sizeof *s);
    fake.begun = fake.ended = fake.sent = fake.parts = 0;
    fake.enough = false;
    sem_init(&fake.gate, 0, 0);
    sem_init(&fake.at_gate, 0, 0);
    sem_init(&fake.met[0], 0, 0);
    sem_init(&fake.met[1], 0, 0);
    assert_int_equal(workers_start(workers, 1024, &s->workers, &err), ERR_OK);
    assert_int_equal(http_start(&http, &s->app, s->workers, &s->http, &err), ERR_OK);
    assert_int_equal(listener_open(&listener, &s->listener, &err), ERR_OK);
    assert_int_equal(getsockname(listener_fd(s->listener), (struct sockaddr *)&addr, &bytes), 0);
    s->port = ntohs(addr.sin_port);
}

static void server_start(struct server *s)
{
    server_start_with(s, 2, 1000, 20, 5000);
}

static void server_drain(struct server *s)
{
    atomic_store(&s->app.draining, 1);
    listener_shut(s->listener);
    http_stop(s->http);
}

static void server_stop(struct server *s)
{
    server_drain(s); /* twice is fine */
    workers_stop(s->workers);
    http_free(s->http);
    listener_close(s->listener);
    sem_destroy(&fake.gate);
    sem_destroy(&fake.at_gate);
    sem_destroy(&fake.met[0]);
    sem_destroy(&fake.met[1]);
    assert_true(fake.ended >= fake.begun); /* more, if refused before api_begin() */
}

/* ---- a client ---- */

struct answer {
    int status;
    char head[4096];
    char *body;
    size_t body_bytes;
    bool whole; /* as long as it said, or chunked to the end */
};

static int client_connect(struct server *s)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(s->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = 10}; /* less than the server's */

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_true(listener_accept(s->listener));
    return fd;
}

static void client_send(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
        if (n <= 0) return; /* the server may have said no already */
        data += n;
        bytes -= (size_t)n;
    }
}

static void client_say(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

/* Up to and with the empty line. */
static bool client_read_head(int fd, struct answer *a)
{
    size_t n = 0;
    while (n < sizeof a->head - 1) {
        if (recv(fd, a->head + n, 1, 0) != 1) return false;
        a->head[++n] = '\0';
        if (n >= 4 && memcmp(a->head + n - 4, "\r\n\r\n", 4) == 0) break;
    }
    return sscanf(a->head, "HTTP/1.1 %d", &a->status) == 1;
}

static bool client_read_bytes(int fd, struct answer *a, size_t bytes)
{
    a->body = mem_resize(a->body, a->body_bytes + bytes + 1);
    while (bytes > 0) {
        ssize_t n = recv(fd, a->body + a->body_bytes, bytes, 0);
        if (n <= 0) return false;
        a->body_bytes += (size_t)n;
        bytes -= (size_t)n;
    }
    a->body[a->body_bytes] = '\0';
    return true;
}

static bool client_read_chunks(int fd, struct answer *a)
{
    for (;;) {
        char line[32] = "", crlf[3] = "";
        for (size_t n = 0; n < sizeof line - 1; n++) {
            if (recv(fd, line + n, 1, 0) != 1) return false;
            if (line[n] == '\n') break;
        }
        size_t bytes = strtoul(line, NULL, 16);
        if (bytes > 0 && !client_read_bytes(fd, a, bytes)) return false;
        if (recv(fd, crlf, 2, MSG_WAITALL) != 2) return false;
        if (bytes == 0) return true;
    }
}

static struct answer client_read(int fd, bool has_body)
{
    struct answer a = {0};

    if (!client_read_head(fd, &a)) return a;
    const char *length = strstr(a.head, "Content-Length: ");
    if (!has_body)
        a.whole = true;
    else if (strstr(a.head, "Transfer-Encoding: chunked"))
        a.whole = client_read_chunks(fd, &a);
    else if (length)
        a.whole = client_read_bytes(fd, &a, strtoul(length + 16, NULL, 10));
    return a;
}

static struct answer client_ask(int fd, const char *request)
{
    client_say(fd, request);
    return client_read(fd, strncmp(request, "HEAD", 4) != 0);
}

/* Whatever else comes: libmicrohttpd's own 400 for a bad Content-Length is longer than it says. */
static bool client_is_closed(int fd)
{
    char sink[4096];
    ssize_t n;
    do
        n = recv(fd, sink, sizeof sink, 0);
    while (n > 0);
    return n == 0 || errno == ECONNRESET;
}

#define EXPECT(fd, request, want_status, want_body)                                                \
    do {                                                                                           \
        struct answer answer_ = client_ask(fd, request);                                           \
        assert_int_equal(answer_.status, want_status);                                             \
        assert_true(answer_.whole);                                                                \
        assert_string_equal(answer_.body ? answer_.body : "", want_body);                          \
        mem_free(answer_.body);                                                                    \
    } while (0)

/* ---- tests ---- */

static void a_connection_serves_many_requests(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    for (int i = 0; i < 50; i++) {
        EXPECT(fd, "GET /echo?a=%20b&c HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /echo?a=%20b&c 0 ");
        EXPECT(fd, "POST /defer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 200,
               "POST /defer? 5 hello");
        EXPECT(fd, "DELETE /denied HTTP/1.1\r\nHost: x\r\n\r\n", 401, "denied");
        EXPECT(fd, "POST /durable HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok", 200,
               "POST /durable? 2 ok");
    }
    close(fd);
    server_stop(&s);
    assert_int_equal(fake.begun, 200);
    assert_int_equal(fake.ended, 200);
    assert_int_equal(fake.sent, 200);
}

static void the_path_arrives_as_it_was_sent(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    EXPECT(fd, "GET /a%2Fb%00c/%2e%2e/%zz?x=%41+1?y HTTP/1.1\r\nHost: x\r\n\r\n", 200,
           "GET /a%2Fb%00c/%2e%2e/%zz?x=%41+1?y 0 ");
    EXPECT(fd, "GET /%41? HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /%41? 0 ");
    close(fd);
    server_stop(&s);
}

static void a_post_without_length_has_an_empty_body(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    EXPECT(fd, "POST /echo HTTP/1.1\r\nHost: x\r\n\r\n", 200, "POST /echo? 0 ");
    EXPECT(fd, "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 200, "PUT /echo? 0 ");
    close(fd);
    server_stop(&s);
}

static void head_is_get_without_the_body(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    struct answer a = client_ask(fd, "HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.head, "Content-Length: 14\r\n"));
    a = client_ask(fd, "HEAD /dump?3 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(a.status, 200);
    assert_true(client_is_closed(fd));
    close(fd);
    fd = client_connect(&s);
    a = client_ask(fd, "HEAD /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(a.status, 200);
    EXPECT(fd, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /echo? 0 ");
    a = client_ask(fd, "GET /empty HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(a.status, 204);
    close(fd);
    server_stop(&s);
}

/* POST `body` in chunks of `chunk` bytes. */
static void send_chunks(int fd, const char *path, const char *body, size_t bytes, size_t chunk)
{
    char head[200];
    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
             path);
    client_say(fd, head);
    while (bytes > 0) {
        size_t n = bytes < chunk ? bytes : chunk;
        snprintf(head, sizeof head, "%zx\r\n", n);
        client_say(fd, head);
        client_send(fd, body, n);
        client_say(fd, "\r\n");
        body += n;
        bytes -= n;
    }
    client_say(fd, "0\r\n\r\n");
}

static void send_chunked(int fd, const char *path, size_t bytes)
{
    char *body = mem_zalloc(bytes);
    memset(body, 'y', bytes);
    send_chunks(fd, path, body, bytes, 10000);
    mem_free(body);
}

static void a_body_up_to_the_limit_arrives_whole(void **state)
{
    struct server s;
    char head[200], want[200];
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    const size_t sizes[] = {1, 8191, 65535, 65536, 65537, BODY_MAX - 1, BODY_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(want, sizeof want, "POST /echo? %zu %s", sizes[i],
                 sizes[i] < 8 ? "y" : "yyyyyyyy");
        send_chunked(fd, "/echo", sizes[i]);
        struct answer a = client_read(fd, true);
        assert_string_equal(a.body, want);
        mem_free(a.body);
        char *body = mem_zalloc(sizes[i]);
        memset(body, 'y', sizes[i]);
        snprintf(head, sizeof head, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                 sizes[i]);
        client_say(fd, head);
        client_send(fd, body, sizes[i]);
        mem_free(body);
        EXPECT(fd, "", 200, want);
    }
    close(fd);
    server_stop(&s);
}

static void a_longer_body_is_413(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    /* Announced: answered before a byte of it is sent. */
    EXPECT(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n", 413,
           "payload_too_large: the body is longer than server.max_body_bytes");
    assert_true(client_is_closed(fd));
    close(fd);
    fd = client_connect(&s);
    send_chunked(fd, "/echo", BODY_MAX + 1);
    struct answer a = client_read(fd, true);
    assert_int_equal(a.status, 413);
    mem_free(a.body);
    assert_true(client_is_closed(fd));
    close(fd);
    server_stop(&s);
}

static void a_body_without_end_is_cut_off(void **state)
{
    struct server s;
    char *body = mem_zalloc(20 * BODY_MAX);
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    send_chunks(fd, "/echo", body, 20 * BODY_MAX, 30000);
    struct answer a = client_read(fd, true);
    assert_int_equal(a.status, 0);
    assert_true(client_is_closed(fd));
    close(fd);
    mem_free(body);
    server_stop(&s);
    assert_int_equal(fake.ended, 1);
}

static void bodies_together_have_a_limit(void **state)
{
    enum { BODIES = 16 };
    struct server s;
    int fds[BODIES], one_more;
    char head[200], *body = mem_zalloc(BODY_MAX);
    (void)state;
    server_start_with(&s, BODIES, 1000, 20, 5000);
    memset(body, 'y', BODY_MAX);
    snprintf(head, sizeof head, "POST /gate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
             BODY_MAX);
    for (int i = 0; i < BODIES; i++) {
        fds[i] = client_connect(&s);
        client_say(fds[i], head);
        client_send(fds[i], body, BODY_MAX);
    }
    for (int i = 0; i < BODIES; i++)
        sem_wait(&fake.at_gate); /* all of them are in memory */
    one_more = client_connect(&s);
    EXPECT(one_more, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\ny", 503,
           "overloaded: too many long bodies are under way");
    close(one_more);
    for (int i = 0; i < BODIES; i++)
        sem_post(&fake.gate);
    for (int i = 0; i < BODIES; i++) {
        EXPECT(fds[i], "", 200, "POST /gate? 1048576 yyyyyyyy");
        close(fds[i]);
    }
    one_more = client_connect(&s);
    EXPECT(one_more, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\ny", 200,
           "POST /echo? 1 y");
    close(one_more);
    mem_free(body);
    server_stop(&s);
}

static void a_refusal_does_not_wait_for_the_body(void **state)
{
    static const char *const methods[] = {"POST", "PUT", "DELETE", "PATCH", "GET"};
    struct server s;
    char request[200];
    (void)state;
    server_start(&s);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        int fd = client_connect(&s);
        snprintf(request, sizeof request,
                 "%s /denied HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", methods[i]);
        struct answer a = client_ask(fd, request);
        assert_int_equal(a.status, 401);
        assert_non_null(strstr(a.head, "Connection: close"));
        assert_true(client_is_closed(fd));
        mem_free(a.body);
        close(fd);
    }
    server_stop(&s);
}

static void expect_continue_is_answered_at_once(void **state)
{
    struct server s;
    struct answer a = {0};
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    client_say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                   "Expect: 100-continue\r\n\r\n");
    assert_true(client_read_head(fd, &a));
    assert_int_equal(a.status, 100);
    EXPECT(fd, "hello", 200, "POST /echo? 5 hello");
    close(fd);
    fd = client_connect(&s);
    EXPECT(fd,
           "POST /denied HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
           401, "denied");
    close(fd);
    server_stop(&s);
}

static void a_request_whose_end_is_unclear_is_400_and_closed(void **state)
{
    static const char *const requests[] = {
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\na",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /echo HTTP/1.1\r\n\r\n",
        "GET /echo\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length : 1\r\n\r\na",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length\t: 1\r\n\r\na",
        "GET /echo HTTP/1.1\r\nHost: x\r\nX(A): 1\r\n\r\n",
        "GET /echo\tb HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET  /echo HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    struct server s;
    (void)state;
    server_start(&s);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        int fd = client_connect(&s);
        struct answer a = client_ask(fd, requests[i]);
        if (a.status != 400) fail_msg("request %zu: status %d\n%s", i, a.status, a.head);
        mem_free(a.body);
        if (!client_is_closed(fd)) fail_msg("request %zu: not closed\n%s", i, a.head);
        close(fd);
    }
    server_stop(&s);
}

/* libmicrohttpd would take what is before it for the whole. */
static void a_zero_byte_in_the_request_line_is_400(void **state)
{
    static const char *const requests[] = {
        "GET /ec@ho HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /echo@ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /echo?a=@b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET@X /echo HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    struct server s;
    (void)state;
    server_start(&s);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        char request[100];
        size_t bytes = strlen(requests[i]);
        int fd = client_connect(&s);
        memcpy(request, requests[i], bytes);
        *(char *)memchr(request, '@', bytes) = 0;
        assert_int_equal(send(fd, request, bytes, MSG_NOSIGNAL), bytes);
        struct answer a = client_read(fd, true);
        if (a.status != 400) fail_msg("request %zu: status %d\n%s", i, a.status, a.head);
        mem_free(a.body);
        if (!client_is_closed(fd)) fail_msg("request %zu: not closed\n%s", i, a.head);
        close(fd);
    }
    server_stop(&s);
}

static void a_long_uri_is_414(void **state)
{
    struct server s;
    char *request = mem_zalloc(12000);
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    memset(request, 'a', 11000);
    memcpy(request, "GET /", 5);
    strcpy(request + 8000, " HTTP/1.1\r\nHost: x\r\n\r\n");
    struct answer a = client_ask(fd, request);
    assert_int_equal(a.status, 200);
    mem_free(a.body);
    request[8000] = 'a';
    memset(request + 8000, 'a', 1000);
    strcpy(request + 9000, " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT(fd, request, 414, "uri_too_long: the URI is longer than 8 KiB");
    close(fd);
    mem_free(request);
    server_stop(&s);
}

static void a_streamed_body_arrives_in_order_and_whole(void **state)
{
    struct server s;
    const size_t bytes = 3 * 1000 * 1000 + 17; /* more than a buffered body may have */
    char head[100], want[100];
    unsigned long long sum = 0;
    char *body = mem_zalloc(bytes);
    (void)state;
    for (size_t i = 0; i < bytes; i++) {
        body[i] = (char)(i * 2654435761u >> 13);
        sum = sum * 31 + (unsigned char)body[i];
    }
    snprintf(want, sizeof want, "bytes %zu sum %llu", bytes, sum);
    server_start(&s);
    int fd = client_connect(&s);
    for (int i = 0; i < 3; i++) {
        snprintf(head, sizeof head,
                 "POST /import HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", bytes);
        client_say(fd, head);
        client_send(fd, body, bytes);
        EXPECT(fd, "", 200, want);
    }
    EXPECT(fd, "POST /import HTTP/1.1\r\nHost: x\r\n\r\n", 200, "bytes 0 sum 0");
    /* libmicrohttpd hands over chunk after chunk, even while the connection is suspended. */
    const size_t chunks[] = {100, 4096, 5000, 65536, 262144, 300000};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        send_chunks(fd, "/import", body, bytes, chunks[i]);
        EXPECT(fd, "", 200, want);
    }
    send_chunked(fd, "/import?fail", 2000000);
    EXPECT(fd, "", 400, "invalid_json: bad piece");
    close(fd);
    mem_free(body);
    server_stop(&s);
}

/* `text` as a gzip stream. */
static struct buf gzip_of(const char *text, size_t bytes)
{
    struct buf to = {0};
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (z_const Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)bytes;
    z.avail_out = (uInt)deflateBound(&z, bytes);
    z.next_out = (Bytef *)buf_reserve(&to, z.avail_out);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    to.len = z.total_out;
    deflateEnd(&z);
    return to;
}

static void send_gzip(int fd, const char *target, const struct buf *body, size_t chunk)
{
    char head[200];
    if (chunk) {
        snprintf(head, sizeof head,
                 "POST %s HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
                 "Transfer-Encoding: chunked\r\n\r\n",
                 target);
        client_say(fd, head);
        for (size_t at = 0; at < body->len; at += chunk) {
            size_t bytes = body->len - at < chunk ? body->len - at : chunk;
            snprintf(head, sizeof head, "%zx\r\n", bytes);
            client_say(fd, head);
            client_send(fd, body->data + at, bytes);
            client_say(fd, "\r\n");
        }
        client_say(fd, "0\r\n\r\n");
    } else {
        snprintf(head, sizeof head,
                 "POST %s HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
                 "Content-Length: %zu\r\n\r\n",
                 target, body->len);
        client_say(fd, head);
        client_send(fd, body->data, body->len);
    }
}

static void a_compressed_body_is_expanded(void **state)
{
    struct server s;
    const size_t lengths[] = {0, 1, 100, 65536, 65537, 1000000, BODY_MAX};
    const size_t chunks[] = {0, 17, 70000};
    char *text = mem_try(BODY_MAX), want[100];
    (void)state;
    for (size_t i = 0; i < BODY_MAX; i++)
        text[i] = (char)('a' + (i * 2654435761u >> 13) % 16);
    server_start(&s);
    int fd = client_connect(&s);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct buf gzip = gzip_of(text, lengths[i]);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            send_gzip(fd, "/echo", &gzip, chunks[c]);
            snprintf(want, sizeof want, "POST /echo? %zu %.*s", lengths[i],
                     lengths[i] < 8 ? (int)lengths[i] : 8, text);
            EXPECT(fd, "", 200, want);
        }
        send_gzip(fd, "/defer", &gzip, 0);
        snprintf(want, sizeof want, "POST /defer? %zu %.*s", lengths[i],
                 lengths[i] < 8 ? (int)lengths[i] : 8, text);
        EXPECT(fd, "", 200, want);
        buf_free(&gzip);
    }
    close(fd);
    mem_free(text);
    server_stop(&s);
}

static void a_compressed_stream_is_expanded_in_slices(void **state)
{
    struct server s;
    const size_t bytes = 3 * BODY_MAX + 5, chunks[] = {0, 1000, 300000};
    char *text = mem_try(bytes), want[100];
    unsigned long long sum = 0;
    (void)state;
    for (size_t i = 0; i < bytes; i++) {
        text[i] = (char)(i * 2654435761u >> 13);
        sum = sum * 31 + (unsigned char)text[i];
    }
    snprintf(want, sizeof want, "bytes %zu sum %llu", bytes, sum);
    struct buf gzip = gzip_of(text, bytes);
    server_start(&s);
    int fd = client_connect(&s);
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        send_gzip(fd, "/import", &gzip, chunks[c]);
        EXPECT(fd, "", 200, want);
    }
    gzip.len--;
    send_gzip(fd, "/import", &gzip, 0);
    EXPECT(fd, "", 400, "invalid_request: the body ends in the middle of its gzip stream");
    gzip.len = 1000000; /* broken off and damaged: the first error counts */
    gzip.data[100000] ^= 0x55;
    gzip.data[100001] ^= 0x55;
    send_gzip(fd, "/import?fail", &gzip, 0);
    struct answer a = client_read(fd, true);
    assert_int_equal(a.status, 400);
    mem_free(a.body);
    close(fd);
    buf_free(&gzip);
    mem_free(text);
    server_stop(&s);
}

static void a_body_that_cannot_be_expanded_is_refused(void **state)
{
    struct server s;
    char *text = mem_zalloc(BODY_MAX + 1);
    struct buf gzip = gzip_of(text, BODY_MAX + 1);
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    /* The whole body was read: the connection lives on. */
    for (size_t chunk = 0; chunk < 200; chunk += 100) {
        send_gzip(fd, "/echo", &gzip, chunk);
        EXPECT(fd, "", 413, "payload_too_large: the body is longer than server.max_body_bytes");
    }
    buf_free(&gzip);
    gzip = gzip_of("text", 4);
    gzip.len--;
    send_gzip(fd, "/echo", &gzip, 0);
    EXPECT(fd, "", 400, "invalid_request: the body ends in the middle of its gzip stream");
    gzip.len++;
    buf_add(&gzip, "x", 1);
    send_gzip(fd, "/echo", &gzip, 1);
    EXPECT(fd, "", 400, "invalid_request: the body goes on behind the end of its gzip stream");
    EXPECT(fd,
           "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: zstd\r\n"
           "Content-Length: 2\r\n\r\n{}",
           400, "invalid_request: the body is not zstd, as its Content-Encoding says");
    EXPECT(fd,
           "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
           "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
           400, "invalid_request: more than one Content-Encoding");
    close(fd);
    /* Damaged at its beginning, and long: the rest goes by. */
    mem_free(text);
    const size_t bytes = 5 * BODY_MAX / 6;
    text = mem_try(bytes);
    for (size_t i = 0; i < bytes; i++)
        text[i] = (char)(i * i * 2654435761u >> 20);
    buf_free(&gzip);
    gzip = gzip_of(text, bytes);
    gzip.data[50] ^= 0x55;
    gzip.data[51] ^= 0x55;
    gzip.data[52] ^= 0x55;
    fd = client_connect(&s);
    send_gzip(fd, "/echo", &gzip, 5000);
    struct answer a = client_read(fd, true);
    assert_int_equal(a.status, 400);
    mem_free(a.body);
    close(fd);
    buf_free(&gzip);
    mem_free(text);
    server_stop(&s);
}

static void a_client_may_leave_in_the_middle_of_a_compressed_body(void **state)
{
    struct server s;
    char head[200], *text = mem_try(BODY_MAX);
    (void)state;
    for (size_t i = 0; i < BODY_MAX; i++)
        text[i] = (char)(i * i * 2654435761u >> 20);
    struct buf gzip = gzip_of(text, BODY_MAX);
    server_start(&s);
    for (int i = 0; i < 20; i++) {
        int fd = client_connect(&s);
        snprintf(head, sizeof head,
                 "POST %s HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %zu"
                 "\r\n\r\n",
                 i % 2 ? "/import" : "/echo", gzip.len);
        client_say(fd, head);
        client_send(fd, gzip.data, gzip.len / 20 * (size_t)i);
        close(fd);
    }
    int fd = client_connect(&s);
    EXPECT(fd, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /echo? 0 ");
    close(fd);
    buf_free(&gzip);
    mem_free(text);
    server_stop(&s); /* which asserts that no memory is counted any more */
}

/* A zstd stream that asks for a window of 8 MiB and then says nothing, at length. */
static struct buf zstd_window(void)
{
    static const char head[] = {'\x28', '\xb5', '\x2f', '\xfd', 0, 13 << 3}, end[] = {1, 0, 0};
    const size_t blocks = 100000;
    struct buf to = {0};
    buf_add(&to, head, sizeof head);
    memset(buf_reserve(&to, 3 * blocks), 0, 3 * blocks);
    to.len += 3 * blocks;
    buf_add(&to, end, sizeof end);
    return to;
}

static void decoders_together_have_a_limit(void **state)
{
    enum { ENOUGH = 40 };
    struct server s;
    int fds[ENOUGH], count = 0, one_more;
    char head[200];
    struct buf zstd = zstd_window();
    (void)state;
    server_start(&s);
    snprintf(head, sizeof head,
             "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: zstd\r\nContent-Length: %zu"
             "\r\n\r\n",
             zstd.len);
    for (uint64_t before = 0; before < 248 * 1024 * 1024; count++) {
        assert_true(count < ENOUGH);
        fds[count] = client_connect(&s);
        client_say(fds[count], head);
        client_send(fds[count], zstd.data, zstd.len - 1);
        while (atomic_load(&s.http->decoders_bytes) == before)
            sched_yield();
        before = atomic_load(&s.http->decoders_bytes);
    }
    one_more = client_connect(&s);
    client_say(one_more, head);
    client_send(one_more, zstd.data, zstd.len);
    EXPECT(one_more, "", 503, "overloaded: too many compressed bodies are under way");
    close(one_more);
    one_more = client_connect(&s);
    EXPECT(one_more, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\ny", 200,
           "POST /echo? 1 y"); /* who sends it as it is has no part in this */
    for (int i = 0; i < count; i++) {
        client_send(fds[i], zstd.data + zstd.len - 1, 1);
        EXPECT(fds[i], "", 200, "POST /echo? 0 ");
        close(fds[i]);
    }
    client_say(one_more, head);
    client_send(one_more, zstd.data, zstd.len);
    EXPECT(one_more, "", 200, "POST /echo? 0 ");
    close(one_more);
    buf_free(&zstd);
    server_stop(&s);
}

/* What `a` expands to has `bytes` bytes, the first of them "abc" or so. */
static void expect_gzip(struct answer *a, size_t bytes, const char *begin)
{
    char *text = mem_try(bytes + 1);
    z_stream z = {.next_in = (Bytef *)a->body, .avail_in = (uInt)a->body_bytes};
    assert_true(a->whole);
    assert_non_null(strstr(a->head, "Content-Encoding: gzip\r\n"));
    assert_non_null(strstr(a->head, "Vary: Accept-Encoding\r\n"));
    assert_true(a->body_bytes < bytes);
    assert_int_equal(inflateInit2(&z, MAX_WBITS + 16), Z_OK);
    z.next_out = (Bytef *)text;
    z.avail_out = (uInt)bytes + 1;
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    assert_int_equal(z.total_out, bytes);
    assert_memory_equal(text, begin, strlen(begin));
    inflateEnd(&z);
    mem_free(text);
    mem_free(a->body);
}

static void long_answers_are_compressed_for_those_who_ask(void **state)
{
    struct server s;
    struct answer a;
    const size_t lengths[] = {1024, 5000, 32768, 32769, 3000000};
    char request[200];
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    for (int turn = 0; turn < 3; turn++) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            snprintf(request, sizeof request,
                     "GET /long?%zu HTTP/1.1\r\nHost: x\r\nAccept-Encoding: br, gzip\r\n\r\n",
                     lengths[i]);
            a = client_ask(fd, request);
            expect_gzip(&a, lengths[i], "aaaaaaabbbbbbb");
            snprintf(request, sizeof request,
                     "GET /long?%zu HTTP/1.1\r\nHost: x\r\nAccept-Encoding: br, gzip;q=0\r\n\r\n",
                     lengths[i]);
            a = client_ask(fd, request);
            assert_int_equal(a.body_bytes, lengths[i]);
            assert_null(strstr(a.head, "Content-Encoding"));
            assert_non_null(strstr(a.head, "Vary: Accept-Encoding\r\n"));
            mem_free(a.body);
        }
        a = client_ask(fd, "GET /long?1023 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
        assert_int_equal(a.body_bytes, 1023);
        assert_null(strstr(a.head, "Vary"));
        mem_free(a.body);
        a = client_ask(fd,
                       "HEAD /long?100000 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
        assert_non_null(strstr(a.head, "Content-Length: 100000\r\n"));
    }
    close(fd);
    server_stop(&s);
}

static void streams_are_compressed_piece_by_piece(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    for (int i = 0; i < 3; i++) {
        struct answer a =
            client_ask(fd, "GET /dump?20 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
        expect_gzip(&a, 5 + 20 * FAKE_PIECE, "head;xxx");
    }
    struct answer a =
        client_ask(fd, "GET /dump?-3 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
    assert_int_equal(a.status, 200);
    assert_false(a.whole);
    mem_free(a.body);
    assert_true(client_is_closed(fd));
    close(fd);
    for (int i = 0; i < 10; i++) { /* who asks and does not wait */
        fd = client_connect(&s);
        client_say(fd, i % 2 ? "GET /long?9000000 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: *\r\n\r\n"
                             : "GET /dump?100 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: *\r\n\r\n");
        close(fd);
    }
    server_stop(&s);
}

static void a_streamed_answer_is_whole_or_visibly_broken(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    for (int i = 0; i < 3; i++) {
        struct answer a = client_ask(fd, "GET /dump?20 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_true(a.whole);
        assert_int_equal(a.body_bytes, 5 + 20 * FAKE_PIECE);
        assert_memory_equal(a.body, "head;xxx", 8);
        mem_free(a.body);
    }
    struct answer a = client_ask(fd, "GET /dump?-3 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(a.status, 200);
    assert_false(a.whole);
    mem_free(a.body);
    assert_true(client_is_closed(fd));
    close(fd);
    server_stop(&s);
}

static void a_write_that_does_not_become_durable_is_an_error(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    EXPECT(fd, "POST /durable?fail HTTP/1.1\r\nHost: x\r\n\r\n", 503,
           "database_read_only: not durable");
    EXPECT(fd, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /echo? 0 ");
    close(fd);
    server_stop(&s);
}

/* libmicrohttpd's own epoll thread stalls at exactly 128 ready connections. */
static void many_simultaneous_requests_are_all_answered(void **state)
{
    static const int counts[] = {128, 256, CLIENTS};
    struct server s;
    int fds[CLIENTS];
    (void)state;
    server_start(&s);
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < counts[c]; i++)
            fds[i] = client_connect(&s);
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < counts[c]; i++)
                client_say(fds[i], i % 2 ? "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
                                         : "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
            for (int i = 0; i < counts[c]; i++)
                EXPECT(fds[i], "", 200, i % 2 ? "GET /echo? 0 " : "GET /defer? 0 ");
        }
        for (int i = 0; i < counts[c]; i++)
            close(fds[i]);
    }
    server_stop(&s);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    client_say(fd, "GET /defer?1 HTTP/1.1\r\nHost: x\r\n\r\nGET /echo?2 HTTP/1.1\r\nHost: x\r\n\r\n"
                   "POST /durable HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n3"
                   "GET /echo?4 HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT(fd, "", 200, "GET /defer?1 0 ");
    EXPECT(fd, "", 200, "GET /echo?2 0 ");
    EXPECT(fd, "", 200, "POST /durable? 1 3");
    EXPECT(fd, "", 200, "GET /echo?4 0 ");
    close(fd);
    server_stop(&s);
}

static void a_client_may_leave_while_its_request_is_worked_on(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    client_say(fd, "POST /gate HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    sem_wait(&fake.at_gate);
    close(fd);
    fd = client_connect(&s);
    client_say(fd, "GET /dump?10000 HTTP/1.1\r\nHost: x\r\n\r\n");
    struct answer a = {0};
    assert_true(client_read_head(fd, &a));
    close(fd);
    sem_post(&fake.gate);
    server_stop(&s);
    assert_int_equal(fake.ended, 2);
}

static void await_idle_workers(struct server *s)
{
    while (workers_slack(s->workers) < 2)
        sched_yield();
}

static void parts_of_a_request_run_side_by_side(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    int fd = client_connect(&s);
    for (int i = 0; i < 50; i++) {
        await_idle_workers(&s);
        EXPECT(fd, "GET /meet HTTP/1.1\r\nHost: x\r\n\r\n", 200, "parts many");
        await_idle_workers(&s);
        EXPECT(fd, "GET /meet?defer HTTP/1.1\r\nHost: x\r\n\r\n", 200, "parts many");
    }
    close(fd);
    server_stop(&s);
}

static void await_parts(int more)
{
    int before = fake.parts;
    while (fake.parts < before + more)
        sched_yield();
}

static bool arrives_at_gate(void)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 10;
    return sem_timedwait(&fake.at_gate, &limit) == 0;
}

/* Three of them, on two workers, that do not end; all the others go on. */
static void parts_without_end_hold_up_nobody(void **state)
{
    struct server s;
    int fds[3];
    (void)state;
    server_start(&s);
    for (int i = 0; i < 3; i++) {
        fds[i] = client_connect(&s);
        client_say(fds[i], i == 1 ? "GET /parts?defer HTTP/1.1\r\nHost: x\r\n\r\n"
                                  : "GET /parts HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    await_parts(1000);
    int fd = client_connect(&s);
    for (int i = 0; i < 20; i++)
        EXPECT(fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /defer? 0 ");
    await_parts(1000);
    /* Both workers, if need be. */
    int other = client_connect(&s);
    client_say(fd, "GET /gate HTTP/1.1\r\nHost: x\r\n\r\n");
    client_say(other, "GET /gate HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(arrives_at_gate() && arrives_at_gate());
    sem_post(&fake.gate);
    sem_post(&fake.gate);
    EXPECT(fd, "", 200, "GET /gate? 0 ");
    EXPECT(other, "", 200, "GET /gate? 0 ");
    close(other);
    fake.enough = true;
    for (int i = 0; i < 3; i++) {
        EXPECT(fds[i], "", 200, "parts many");
        close(fds[i]);
    }
    close(fd);
    server_stop(&s);
}

static void parts_end_with_the_time_of_the_server(void **state)
{
    struct server s;
    (void)state;
    server_start_with(&s, 2, 100, 20, 100);
    int fd = client_connect(&s);
    client_say(fd, "GET /parts HTTP/1.1\r\nHost: x\r\n\r\n");
    await_parts(1000);
    server_drain(&s);
    EXPECT(fd, "", 503, "shutting_down: the server is stopping");
    close(fd);
    server_stop(&s);
}

static void one_connection_too_many_is_told_so(void **state)
{
    struct server s;
    (void)state;
    server_start_with(&s, 2, 2, 20, 5000);
    int first = client_connect(&s), second = client_connect(&s), third = client_connect(&s);
    struct answer a = client_read(third, true);
    assert_int_equal(a.status, 503);
    assert_true(a.whole);
    assert_non_null(strstr(a.head, "Retry-After: "));
    assert_non_null(strstr(a.body, "\"overloaded\""));
    assert_true(client_is_closed(third));
    mem_free(a.body);
    close(third);
    EXPECT(first, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /echo? 0 ");
    EXPECT(second, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200,
           "GET /echo? 0 ");
    assert_true(client_is_closed(second));
    close(second);
    while (http_connection_count(s.http) > 1)
        sched_yield();
    third = client_connect(&s);
    EXPECT(third, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET /echo? 0 ");
    close(first);
    close(third);
    server_stop(&s);
}

static void a_request_that_drips_in_is_cut_off(void **state)
{
    struct server s;
    (void)state;
    server_start_with(&s, 2, 10, 1, 5000);
    int fd = client_connect(&s);
    client_say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
    uint64_t began = clock_ns();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    do
        client_say(fd, "x");
    while (poll(&p, 1, 50) == 0 && clock_ns() - began < 10000000000ull);
    assert_true(client_is_closed(fd));
    assert_true(clock_ns() - began < 5000000000ull);
    close(fd);
    server_stop(&s);
}

static void a_compressed_body_has_one_deadline_for_all_its_pieces(void **state)
{
    struct server s;
    const size_t bytes = 900000, drip = 20000;
    char *text = mem_try(bytes), head[200];
    (void)state;
    for (size_t i = 0; i < bytes; i++)
        text[i] = (char)(i * i * 2654435761u >> 20);
    struct buf gzip = gzip_of(text, bytes);
    assert_true(gzip.len > bytes / 2);
    server_start_with(&s, 2, 10, 1, 5000);
    int fd = client_connect(&s);
    snprintf(head, sizeof head,
             "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %zu"
             "\r\n\r\n",
             gzip.len);
    client_say(fd, head);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    size_t at = 0;
    for (; at < gzip.len && poll(&p, 1, 60) == 0; at += drip)
        client_send(fd, gzip.data + at, gzip.len - at < drip ? gzip.len - at : drip);
    assert_true(at < gzip.len);
    assert_true(recv(fd, head, 1, 0) <= 0); /* no answer */
    close(fd);
    buf_free(&gzip);
    mem_free(text);
    server_stop(&s);
}

/* Longer than the grace that connections without a request get. */
static void *finish_the_body_late(void *fd)
{
    for (int i = 0; i < 20; i++)
        sem_post(&fake.gate);
    poll(NULL, 0, 300);
    client_say(*(int *)fd, "half");
    return NULL;
}

static void requests_under_way_are_answered_before_the_end(void **state)
{
    struct server s;
    pthread_t late;
    int fds[40], body;
    (void)state;
    server_start(&s);
    for (int i = 0; i < 40; i++) {
        fds[i] = client_connect(&s);
        client_say(fds[i], i % 2 ? "POST /durable HTTP/1.1\r\nHost: x\r\n\r\n"
                                 : "GET /gate HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    body = client_connect(&s);
    client_say(body, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf");
    while (fake.begun < 41)
        sched_yield();
    assert_int_equal(pthread_create(&late, NULL, finish_the_body_late, &body), 0);
    server_drain(&s);
    pthread_join(late, NULL);
    EXPECT(body, "", 200, "POST /echo? 8 halfhalf");
    close(body);
    for (int i = 0; i < 40; i++) {
        EXPECT(fds[i], "", 200, i % 2 ? "POST /durable? 0 " : "GET /gate? 0 ");
        assert_true(client_is_closed(fds[i]));
        close(fds[i]);
    }
    server_stop(&s);
    assert_int_equal(fake.sent, 41);
}

/* The two workers are held until the loops say that the time is over. */
static void *open_the_gate(void *log)
{
    char line[1000] = "";
    while (!strstr(line, "still under way")) {
        rewind(log);
        if (!fgets(line, sizeof line, log)) sched_yield();
    }
    poll(NULL, 0, 500); /* and still are when other answers have had their time to leave */
    for (int i = 0; i < 10; i++)
        sem_post(&fake.gate);
    return NULL;
}

static void past_the_deadline_nothing_new_is_begun(void **state)
{
    struct server s;
    struct log_options log_to = {.level = LOG_WARNING};
    struct err err;
    char path[] = "/tmp/test_http.XXXXXX";
    FILE *log = fdopen(mkstemp(path), "r");
    int fds[6], body;
    pthread_t opener;
    (void)state;
    log_to.path = path;
    assert_int_equal(log_open(&log_to, &err), ERR_OK);
    server_start_with(&s, 2, 100, 20, 200);
    for (int i = 0; i < 6; i++) {
        fds[i] = client_connect(&s);
        client_say(fds[i], "GET /gate HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    body = client_connect(&s);
    client_say(body, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
    sem_wait(&fake.at_gate);
    sem_wait(&fake.at_gate); /* both workers are there; four requests are queued */
    assert_int_equal(pthread_create(&opener, NULL, open_the_gate, log), 0);
    server_drain(&s);
    pthread_join(opener, NULL);
    int served = 0, refused = 0;
    for (int i = 0; i < 6; i++) {
        struct answer a = client_read(fds[i], true);
        served += a.status == 200;
        refused += a.status == 503;
        assert_true(a.whole);
        mem_free(a.body);
        close(fds[i]);
    }
    assert_int_equal(served, 2);
    assert_int_equal(refused, 4);
    assert_true(client_is_closed(body));
    close(body);
    server_stop(&s);
    log_close();
    fclose(log);
    unlink(path);
}

static void a_loop_that_is_alive_answers_a_ping(void **state)
{
    struct server s;
    (void)state;
    server_start(&s);
    assert_true(http_ping(s.http)); /* nothing was asked before */
    uint64_t began = clock_ns();
    while (!http_ping(s.http))
        assert_true(clock_ns() - began < 10000000000ull);
    server_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connection_serves_many_requests),
        cmocka_unit_test(the_path_arrives_as_it_was_sent),
        cmocka_unit_test(a_post_without_length_has_an_empty_body),
        cmocka_unit_test(head_is_get_without_the_body),
        cmocka_unit_test(a_body_up_to_the_limit_arrives_whole),
        cmocka_unit_test(a_longer_body_is_413),
        cmocka_unit_test(a_body_without_end_is_cut_off),
        cmocka_unit_test(bodies_together_have_a_limit),
        cmocka_unit_test(a_refusal_does_not_wait_for_the_body),
        cmocka_unit_test(expect_continue_is_answered_at_once),
        cmocka_unit_test(a_request_whose_end_is_unclear_is_400_and_closed),
        cmocka_unit_test(a_zero_byte_in_the_request_line_is_400),
        cmocka_unit_test(a_long_uri_is_414),
        cmocka_unit_test(a_streamed_body_arrives_in_order_and_whole),
        cmocka_unit_test(a_compressed_body_is_expanded),
        cmocka_unit_test(a_compressed_stream_is_expanded_in_slices),
        cmocka_unit_test(a_body_that_cannot_be_expanded_is_refused),
        cmocka_unit_test(a_client_may_leave_in_the_middle_of_a_compressed_body),
        cmocka_unit_test(decoders_together_have_a_limit),
        cmocka_unit_test(long_answers_are_compressed_for_those_who_ask),
        cmocka_unit_test(streams_are_compressed_piece_by_piece),
        cmocka_unit_test(a_streamed_answer_is_whole_or_visibly_broken),
        cmocka_unit_test(a_write_that_does_not_become_durable_is_an_error),
        cmocka_unit_test(many_simultaneous_requests_are_all_answered),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(a_client_may_leave_while_its_request_is_worked_on),
        cmocka_unit_test(parts_of_a_request_run_side_by_side),
        cmocka_unit_test(parts_without_end_hold_up_nobody),
        cmocka_unit_test(parts_end_with_the_time_of_the_server),
        cmocka_unit_test(one_connection_too_many_is_told_so),
        cmocka_unit_test(a_request_that_drips_in_is_cut_off),
        cmocka_unit_test(a_compressed_body_has_one_deadline_for_all_its_pieces),
        cmocka_unit_test(requests_under_way_are_answered_before_the_end),
        cmocka_unit_test(past_the_deadline_nothing_new_is_begun),
        cmocka_unit_test(a_loop_that_is_alive_answers_a_ping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
