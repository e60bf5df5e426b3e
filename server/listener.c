/*
 * listener.c - accept in batches, count per address, refuse politely.
 *
 * A refused client is not closed at once: it has most likely sent a request already, and closing a
 * socket with unread bytes resets it, so that the client would never see the 503.  It waits for
 * LINGER_NS in a small ring, where the oldest gives way.
 */
#include "server/listener.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "storage/base/clock.h"
#include "storage/base/lock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/base/metrics.h"

enum { BACKLOG = 4096, BATCH = 64, REFUSED_MAX = 64, PEER_BUCKETS = 1024 };
#define LINGER_NS (500 * 1000 * 1000ull)

/* One address with at least one open connection. */
struct peer {
    struct peer *next;
    struct in6_addr addr;
    size_t count;
};

struct listener {
    /* constant after open */
    struct listener_options options;
    char url[96];

    /* main thread only */
    int fd;
    struct {
        int fd;
        uint64_t since_ns;
    } refused[REFUSED_MAX]; /* a ring */
    size_t refused_first, refused_count;

    /* guarded by mu */
    struct mutex mu;
    size_t connection_count;
    struct peer *peers[PEER_BUCKETS];
};

#define REFUSAL_BODY                                                                               \
    "{\"error\":{\"code\":\"overloaded\",\"message\":\"too many connections are open\"}}"
static const char refusal[] = "HTTP/1.1 503 Service Unavailable\r\n"
                              "Content-Type: application/json\r\n"
                              "Content-Length: 73\r\n"
                              "Retry-After: 1\r\n"
                              "Connection: close\r\n"
                              "\r\n" REFUSAL_BODY;
_Static_assert(sizeof REFUSAL_BODY - 1 == 73, "Content-Length of the refusal");

/* ---- addresses ---- */

/* An address as IPv6: 10.0.0.1 is ::ffff:10.0.0.1. */
static struct in6_addr peer_address(const struct sockaddr_storage *peer)
{
    struct in6_addr addr = {0};

    if (peer->ss_family == AF_INET6) {
        memcpy(&addr, &((const struct sockaddr_in6 *)peer)->sin6_addr, sizeof addr);
    } else if (peer->ss_family == AF_INET) {
        addr.s6_addr[10] = addr.s6_addr[11] = 0xff;
        memcpy(&addr.s6_addr[12], &((const struct sockaddr_in *)peer)->sin_addr, 4);
    }
    return addr;
}

static bool address_is_loopback(const struct in6_addr *addr)
{
    if (IN6_IS_ADDR_V4MAPPED(addr)) return addr->s6_addr[12] == 127;
    return IN6_IS_ADDR_LOOPBACK(addr);
}

/* One IPv6 customer has a whole /64 to choose addresses from. */
static struct in6_addr peer_key(struct in6_addr addr)
{
    if (!IN6_IS_ADDR_V4MAPPED(&addr)) memset(&addr.s6_addr[8], 0, 8);
    return addr;
}

static size_t peer_bucket(const struct in6_addr *key)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof key->s6_addr; i++)
        h = (h ^ key->s6_addr[i]) * 1099511628211u;
    return (size_t)((h ^ h >> 32) % PEER_BUCKETS);
}

static enum err_code host_parse(const char *host, uint16_t port, struct sockaddr_storage *addr,
                                socklen_t *addr_bytes, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found = NULL;

    if (strcmp(host, "localhost") == 0) host = "127.0.0.1";
    if (getaddrinfo(host, NULL, &hints, &found) != 0 || !found)
        return err_set(err, ERR_INVALID_REQUEST,
                       "server.host: \"%s\" is not an IPv4 or IPv6 address or \"localhost\"", host);
    memcpy(addr, found->ai_addr, found->ai_addrlen);
    *addr_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    if (addr->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)addr)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)addr)->sin_port = htons(port);
    return ERR_OK;
}

/* ---- counting ---- */

bool listener_admit(struct listener *l, const struct sockaddr_storage *peer)
{
    struct in6_addr addr = peer_address(peer), key = peer_key(addr);
    struct peer **bucket = &l->peers[peer_bucket(&key)], *p = NULL;
    bool admitted = false;

    mutex_lock(&l->mu);
    if (l->connection_count >= l->options.connection_count_max) goto out;
    if (!address_is_loopback(&addr)) {
        for (p = *bucket; p && memcmp(&p->addr, &key, sizeof key) != 0;)
            p = p->next;
        if (!p) {
            p = mem_new(struct peer);
            p->addr = key;
            p->next = *bucket;
            *bucket = p;
        } else if (p->count >= l->options.connection_per_ip_count_max) {
            goto out;
        }
        p->count++;
    }
    l->connection_count++;
    admitted = true;
out:
    mutex_unlock(&l->mu);
    return admitted;
}

void listener_forget(struct listener *l, const struct sockaddr_storage *peer)
{
    struct in6_addr addr = peer_address(peer), key = peer_key(addr);

    mutex_lock(&l->mu);
    assert(l->connection_count > 0);
    l->connection_count--;
    if (!address_is_loopback(&addr)) {
        struct peer **at = &l->peers[peer_bucket(&key)];
        while (*at && memcmp(&(*at)->addr, &key, sizeof key) != 0)
            at = &(*at)->next;
        struct peer *p = *at;
        assert(p && p->count > 0);
        if (--p->count == 0) {
            *at = p->next;
            mem_free(p);
        }
    }
    mutex_unlock(&l->mu);
}

/* ---- refusing ---- */

static void refused_close_first(struct listener *l)
{
    char sink[4096];
    int fd = l->refused[l->refused_first].fd;

    for (int i = 0; i < 16 && recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0;)
        i++;
    close(fd);
    l->refused_first = (l->refused_first + 1) % REFUSED_MAX;
    l->refused_count--;
}

static void listener_refuse(struct listener *l, int fd)
{
    stat_add(STAT_REJECTED_REQUESTS, 1);
    if (l->options.tls) {
        close(fd);
        return;
    }
    (void)!send(fd, refusal, sizeof refusal - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    if (l->refused_count == REFUSED_MAX) refused_close_first(l);
    size_t at = (l->refused_first + l->refused_count++) % REFUSED_MAX;
    l->refused[at].fd = fd;
    l->refused[at].since_ns = clock_ns();
}

bool listener_sweep(struct listener *l)
{
    uint64_t now = clock_ns();

    while (l->refused_count > 0 && now - l->refused[l->refused_first].since_ns >= LINGER_NS)
        refused_close_first(l);
    return l->refused_count > 0;
}

/* ---- the socket ---- */

bool listener_is_loopback(const struct listener *l)
{
    struct sockaddr_storage addr = {0};
    socklen_t bytes = sizeof addr;

    if (getsockname(l->fd, (struct sockaddr *)&addr, &bytes) != 0) return false;
    struct in6_addr address = peer_address(&addr);
    return address_is_loopback(&address);
}

static void listener_describe(struct listener *l)
{
    struct sockaddr_storage addr;
    socklen_t bytes = sizeof addr;
    char host[64] = "", port[8] = "";
    const char *scheme = l->options.tls ? "https" : "http";

    getsockname(l->fd, (struct sockaddr *)&addr, &bytes);
    getnameinfo((struct sockaddr *)&addr, bytes, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    bool v6 = addr.ss_family == AF_INET6;
    snprintf(l->url, sizeof l->url, v6 ? "%s://[%s]:%s" : "%s://%s:%s", scheme, host, port);
}

static enum err_code listener_bind(struct listener *l, struct err *err)
{
    const struct listener_options *options = &l->options;
    struct sockaddr_storage addr;
    socklen_t addr_bytes = 0;
    int on = 1, off = 0;
    enum err_code rc = host_parse(options->host, options->port, &addr, &addr_bytes, err);

    if (rc) return rc;
    l->fd = socket(addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0) return err_os(err, errno, "cannot make a socket for %s", options->host);
    /* No SO_REUSEPORT: a second daemon would silently take half of the clients. */
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (addr.ss_family == AF_INET6) setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(l->fd, (struct sockaddr *)&addr, addr_bytes) != 0 || listen(l->fd, BACKLOG) != 0)
        return err_os(err, errno, "cannot listen on %s port %u", options->host,
                      (unsigned)options->port);
    return ERR_OK;
}

enum err_code listener_open(const struct listener_options *options, struct listener **out,
                            struct err *err)
{
    struct listener *l = mem_new(struct listener);
    enum err_code rc = ERR_OK;

    l->options = *options;
    l->fd = options->passed_fd > 0 ? options->passed_fd : -1;
    mutex_init(&l->mu, LOCK_LEAF);
    if (l->fd < 0) rc = listener_bind(l, err);
    if (rc) goto out;
    listener_describe(l);
    l->options.host = NULL; /* was borrowed */
    *out = l;
    l = NULL;
out:
    listener_close(l);
    return rc;
}

int listener_fd(const struct listener *l)
{
    return l->fd;
}

const char *listener_url(const struct listener *l)
{
    return l->url;
}

/* Accept one.  0, EAGAIN when nobody waits, or the errno of a lack. */
static int listener_accept_one(struct listener *l)
{
    struct sockaddr_storage peer = {0};
    socklen_t bytes = sizeof peer;
    int fd = accept4(l->fd, (struct sockaddr *)&peer, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        switch (errno) {
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            return errno;
        case EAGAIN:
            return EAGAIN;
        default: /* ECONNABORTED and other news about a client that is gone */
            return 0;
        }
    }
    if (!listener_admit(l, &peer))
        listener_refuse(l, fd);
    else
        l->options.take(l->options.ctx, fd, &peer, bytes);
    return 0;
}

bool listener_accept(struct listener *l)
{
    for (int i = 0; i < BATCH; i++) {
        int rc = listener_accept_one(l);
        if (rc == EAGAIN) break;
        if (rc) return false;
    }
    return true;
}

void listener_shut(struct listener *l)
{
    if (l->fd < 0) return;
    /* Whoever is in the backlog has connected, as far as he knows. */
    for (int i = 0; i < BACKLOG && l->options.passed_fd == 0 && listener_accept_one(l) == 0;)
        i++;
    close(l->fd);
    l->fd = -1;
}

void listener_close(struct listener *l)
{
    if (!l) return;
    assert(l->connection_count == 0);
    while (l->refused_count > 0)
        refused_close_first(l);
    if (l->fd >= 0) close(l->fd);
    mutex_deinit(&l->mu);
    mem_free(l);
}
