/* main.c - the daemon from start to end: what is opened, in which order, and closed in reverse. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>

#include "api/api.h"
#include "config/config.h"
#include "server/activation.h"
#include "server/daemon.h"
#include "server/data_dir.h"
#include "server/http.h"
#include "server/listener.h"
#include "server/tls.h"
#include "server/workers.h"
#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/mem.h"
#include "storage/service.h"

enum { WORK_QUEUE_MAX = 1024, DRAIN_MS = 8000 };

extern char **environ;

/* Everything that has to be closed again. */
struct server {
    struct config config;
    int lock_fd;
    int passed_fd; /* a listening socket by the service manager, or -1 */
    struct service *service;
    struct api_app app;
    bool app_ready;
    struct workers *workers;
    struct http *http;
    struct listener *listener;
    struct tls *tls;
};

/* ---- options of each layer ---- */

static bool server_is_persistent(const struct config *c)
{
    return strcmp(c->persistence_type, "persistent") == 0;
}

static struct log_options log_options_of(const struct config *c)
{
    static const char *const levels[] = {"debug", "info", "warning", "error"};
    struct log_options o = {.level = LOG_INFO, .path = c->log_file};

    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(c->log_level, levels[i]) == 0) o.level = (enum log_level)i;
    o.format = strcmp(c->log_format, "json") == 0 ? LOG_JSON : LOG_TEXT;
    return o;
}

static struct service_options service_options_of(const struct config *c)
{
    return (struct service_options){
        .engine = server_is_persistent(c) ? ENGINE_PERSISTENT : ENGINE_MEMORY,
        .storage_path = c->persistence_storage_path,
        .max_open_files = (size_t)c->persistence_max_open_files,
        .flush_interval_seconds = (uint32_t)c->persistence_flush_interval_seconds,
        .auto_flush = c->vector_storage_enable_auto_flush,
        .wal_sync_interval_ms = (uint32_t)c->persistence_wal_sync_interval_ms,
        .wal_bytes_max = c->persistence_wal_bytes_max,
        .compact_percent = (uint32_t)c->persistence_compact_percent,
        .scrub_interval_seconds = c->persistence_scrub_interval_seconds,
        .scrub_bytes_per_second = c->persistence_scrub_bytes_per_second,
    };
}

static struct api_options api_options_of(const struct config *c)
{
    enum durability durability = DURABILITY_SYNCED;

    (void)durability_parse(c->persistence_durability, strlen(c->persistence_durability),
                           &durability);
    return (struct api_options){
        .max_body_bytes = c->server_max_body_bytes,
        .api_keys_file = c->security_api_keys_file,
        .cors_origins = c->server_cors_origins,
        .slow_query_ms = (uint32_t)c->log_slow_query_ms,
        .export_path = c->persistence_export_path,
        .rate_limit_per_key = c->security_rate_limit_per_key,
        .initial_capacity = c->vector_storage_initial_capacity,
        .durability = durability,
    };
}

static void server_forget(void *ctx, const struct sockaddr_storage *peer)
{
    struct server *s = ctx;
    listener_forget(s->listener, peer);
}

static void server_take(void *ctx, int fd, const struct sockaddr_storage *peer, socklen_t bytes)
{
    struct server *s = ctx;
    http_take(s->http, fd, peer, bytes);
}

static size_t server_connection_count(void *ctx)
{
    struct server *s = ctx;
    return http_connection_count(s->http);
}

static struct http_options http_options_of(struct server *s)
{
    const struct config *c = &s->config;
    return (struct http_options){
        .threads = (size_t)c->server_threads,
        .body_bytes_max = c->server_max_body_bytes,
        .connection_count_max = (uint32_t)c->server_max_connections,
        .request_timeout_seconds = (uint32_t)c->server_request_timeout_seconds,
        .drain_ms = DRAIN_MS,
        .tls = s->tls != NULL,
        .forget = server_forget,
        .ctx = s,
    };
}

static struct listener_options listener_options_of(struct server *s)
{
    const struct config *c = &s->config;
    return (struct listener_options){
        .host = c->server_host,
        .port = (uint16_t)c->server_port,
        .passed_fd = s->passed_fd > 0 ? s->passed_fd : 0,
        .tls = s->tls != NULL,
        .connection_count_max = (size_t)c->server_max_connections,
        .connection_per_ip_count_max = (size_t)c->server_max_connections_per_ip,
        .take = server_take,
        .ctx = s,
    };
}

/* ---- steps ---- */

static enum err_code server_load_tls(struct server *s, struct err *err)
{
    const struct config *c = &s->config;

    if (!c->security_tls_cert) return ERR_OK;
    return tls_load(c->security_tls_cert, c->security_tls_key, &s->tls, err);
}

/* As many descriptors as we may have, and a word if that is less than we may need. */
static void server_raise_limits(const struct config *c)
{
    enum { OTHER_FILES = 64 };
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        log_warning("cannot raise the limit of open files: %s", strerror(errno));
    if (files.rlim_max < c->server_max_connections + c->persistence_max_open_files + OTHER_FILES)
        log_warning("the limit of open files is %llu: too few for server.max_connections and "
                    "persistence.max_open_files",
                    (unsigned long long)files.rlim_max);
}

/* The first words of the migration guide's log; scripts look for them. */
static void server_announce_storage(const struct config *c)
{
    if (!server_is_persistent(c)) {
        log_info(
            "Keeping all data in memory (persistence.type in-memory): nothing survives a stop");
        return;
    }
    log_info("Initializing PersistentDatabasePersistence at %s", c->persistence_storage_path);
    log_info("LRU cache configured with max_open_files=%llu",
             (unsigned long long)c->persistence_max_open_files);
    if (c->persistence_flush_interval_seconds > 0 && c->vector_storage_enable_auto_flush)
        log_info("Starting periodic flush with interval=%llus",
                 (unsigned long long)c->persistence_flush_interval_seconds);
    else
        log_info("Periodic flush is off");
}

static int server_fail(int status, const struct err *err)
{
    fprintf(stderr, "jadevectordb: %s\n", err->msg);
    return status;
}

/* The configuration knows server.host; what is passed in may be bound to anything. */
static enum err_code server_check_passed(const struct server *s, struct err *err)
{
    const struct config *c = &s->config;

    if (listener_is_loopback(s->listener) || c->security_api_keys_file || c->server_allow_insecure)
        return ERR_OK;
    return err_set(err, ERR_INVALID_REQUEST,
                   "the socket that was passed in (%s) is not a loopback one, so anybody who "
                   "reaches it could read and delete everything: set security.api_keys_file, or "
                   "server.allow_insecure to do it all the same",
                   listener_url(s->listener));
}

static enum err_code server_listen(struct server *s, struct err *err)
{
    struct listener_options options = listener_options_of(s);
    bool is_passed = s->passed_fd >= 0;

    s->passed_fd = -1; /* the listener's from here on */
    enum err_code rc = listener_open(&options, &s->listener, err);
    return rc || !is_passed ? rc : server_check_passed(s, err);
}

/* As far as it gets; server_close() undoes it.  0 or the exit status. */
static int server_open(struct server *s, struct err *err)
{
    struct log_options log = log_options_of(&s->config);
    struct service_options service = service_options_of(&s->config);
    struct api_options api = api_options_of(&s->config);
    struct http_options http;
    enum err_code rc;

    if (activation_take(&s->passed_fd, err)) return EX_CONFIG;
    if (log_open(&log, err) || server_load_tls(s, err)) return EX_CONFIG;
    server_raise_limits(&s->config);
    if (server_is_persistent(&s->config)) {
        rc = data_dir_open(s->config.persistence_storage_path, &s->lock_fd, err);
        if (rc) return rc == ERR_CONFLICT ? EX_TEMPFAIL : EX_CONFIG;
    }
    server_announce_storage(&s->config);
    if (service_open(&service, &s->service, err)) return EXIT_FAILURE;
    if (api_app_init(&s->app, s->service, &api, err)) return EX_CONFIG;
    s->app_ready = true;
    s->app.connection_count = server_connection_count;
    s->app.connection_ctx = s;
    if (workers_start(0, WORK_QUEUE_MAX, &s->workers, err)) return EXIT_FAILURE;
    http = http_options_of(s);
    rc = http_start(&http, &s->app, s->workers, &s->http, err);
    if (rc) return rc == ERR_INVALID_REQUEST ? EX_CONFIG : EXIT_FAILURE;
    rc = server_listen(s, err);
    if (rc) return rc == ERR_INVALID_REQUEST ? EX_CONFIG : EXIT_FAILURE;
    return 0;
}

static int server_run(struct server *s, struct err *err)
{
    struct daemon daemon = {
        .http = s->http, .listener = s->listener, .app = &s->app, .tls = s->tls};

    atomic_store(&s->app.ready, 1);
    log_info("Listening on %s", listener_url(s->listener));
    log_info("JadeVectorDB started successfully");
    return daemon_run(&daemon, err) ? EXIT_FAILURE : 0;
}

/* In reverse; http_free() comes after service_close() because a syncer thread may still be in the
 * middle of waking a loop. */
static int server_close(struct server *s, int status)
{
    struct err err;

    if (s->http) http_stop(s->http);
    workers_stop(s->workers);
    if (s->app_ready) api_app_deinit(&s->app);
    if (service_close(s->service, &err)) {
        log_error("not everything could be flushed, the logs hold the rest: %s", err.msg);
        if (status == 0) status = EXIT_FAILURE;
    }
    http_free(s->http);
    listener_close(s->listener);
    data_dir_close(s->lock_fd);
    return status;
}

static int server_main(struct server *s)
{
    struct err err;
    int status = server_open(s, &err);

    if (status == 0) status = server_run(s, &err);
    if (status != 0) server_fail(status, &err);
    status = server_close(s, status);
    if (status == 0) log_info("Shutdown complete");
    log_close();
    return status;
}

int main(int argc, char **argv)
{
    struct server s = {.lock_fd = -1, .passed_fd = -1};
    enum config_action action;
    struct err err;
    int status = 0;

    daemon_block_signals();
    if (config_load(argc, argv, environ, &s.config, &action, &err))
        return server_fail(EX_CONFIG, &err);
    switch (action) {
    case CONFIG_PRINT:
        config_print(&s.config, stdout);
        break;
    case CONFIG_VERSION:
        puts("jadevectordb " JADEVECTORDB_VERSION);
        break;
    case CONFIG_HELP:
        config_print_help(stdout);
        break;
    case CONFIG_CHECK:
        if (server_load_tls(&s, &err))
            status = server_fail(EX_CONFIG, &err);
        else
            puts("configuration is valid");
        break;
    case CONFIG_RUN:
        status = server_main(&s);
        break;
    }
    tls_free(s.tls);
    config_deinit(&s.config);
    return status;
}
