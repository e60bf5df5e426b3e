/*
 * http_private.h - inside of http.c (all loops), loop.c (one of them, its connections) and
 * exchange*.c (requests, their bodies and their answers).
 *
 *   http ── http_loop (N) ── connection ── exchange: one request and its answer
 *
 * THREADS.  Everything of a loop belongs to its thread: libmicrohttpd, the connections, the
 * exchanges.  Other threads reach it through two stacks and one uv_async:
 *
 *   arrived   connections dealt to it                       (http_take())
 *   done      exchanges that a worker or a syncer is through with
 *
 * libmicrohttpd has no way to wake an external loop, so only the loop itself resumes a connection.
 * An exchange that is handed to a worker (EXCHANGE_BUSY) belongs to that worker until it comes back
 * over `done`; its connection is suspended all that time, and so cannot go away under it.  For the
 * same reason it does not matter whether the worker is done before the loop has suspended: the loop
 * looks at `done` only when it is back in its event loop.
 *
 * THE END.  MHD_stop_daemon() aborts the process if a connection is suspended.  A loop stops only
 * when suspended_count is 0; past the deadline nothing new is handed to a worker, and what a worker
 * has begun is waited for: storage could not be closed under it anyway.
 */
#ifndef SERVER_HTTP_PRIVATE_H
#define SERVER_HTTP_PRIVATE_H

#include <microhttpd.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <uv.h>

#include "server/http.h"

#define MS        1000000ull
#define LOOP_GONE UINT64_MAX /* pong of a loop that has stopped, as it should */

enum exchange_state {
    EXCHANGE_LINE,    /* the request line has arrived                     */
    EXCHANGE_BODY,    /* collecting the body                              */
    EXCHANGE_STREAM,  /* collecting a piece for exchange_feed()           */
    EXCHANGE_DISCARD, /* the answer is known, but the body is on its way  */
    EXCHANGE_BUSY,    /* a worker or the log has it; suspended            */
    EXCHANGE_ANSWER,  /* *res is to be sent                               */
    EXCHANGE_SENT,    /* libmicrohttpd has the answer                     */
};

enum exchange_job {
    JOB_FEED,     /* exchange_feed() the piece                  */
    JOB_DISPATCH, /* feed what is left, api_dispatch()          */
    JOB_PARTS,    /* api_part() until none is left, api_join()  */
    JOB_AWAIT,    /* the write becomes durable                  */
    JOB_PACK,     /* compress an answer                         */
    JOB_PRODUCE,  /* the next piece of a streamed answer        */
};

/* One worker's part in a request. */
struct part {
    struct work work;
    struct exchange *exchange;
    _Atomic bool busy; /* set by the leader, cleared by the helper that goes */
};

struct exchange {
    struct api_request req;
    struct api_response res;
    struct work work;
    struct exchange *next_done; /* while on a `done` stack */
    struct http_loop *loop;
    struct MHD_Connection *mhd;
    enum exchange_state state;
    enum exchange_job job;
    bool api_knows; /* api_begin() or api_fail() was called: api_end() is due */
    bool uri_too_long;
    bool uri_is_raw;      /* bytes in it should have been percent-encoded */
    const char *sent_uri; /* where libmicrohttpd has it, up to the first zero byte */
    size_t sent_uri_bytes;
    bool out_of_time; /* past the drain's deadline: the job was not done */
    size_t body_cap;  /* of req.body, without the padding */
    bool body_is_mapped;
    uint64_t discarded_bytes;

    /* API_PARTS */
    struct part *parts; /* [0] is the leader's */
    size_t part_count;
    _Atomic size_t parts_busy; /* who takes it to 0 makes the answer */

    /* a body that comes in pieces: the piece being filled, or being fed */
    bool is_stream; /* API_STREAM: to api_feed(); else it is expanded into req.body */
    char *piece;
    size_t piece_bytes, piece_cap;

    /* a compressed body */
    struct body_decoder *decoder;
    size_t decoder_bytes; /* of its memory that are part of decoders_bytes */
    char *expanded;       /* of a stream */
    uint64_t received_bytes, expanded_bytes;

    /* a compressed answer */
    const char *accept_encoding;    /* of the request, or NULL                      */
    bool was_packed;                /* it was tried                                 */
    bool is_packed;                 /* res.body is gzip, or the stream is           */
    struct answer_encoder *encoder; /* of a stream                               */
    struct buf plain;               /* and what produce() made for it            */

    /* a streamed answer: res.body, then what produce() made; or all of it, compressed */
    struct buf out;
    size_t out_sent;
    bool out_last;
    enum err_code out_rc;

    char uri[]; /* raw; cut at '?' */
};

/* From http_take() until libmicrohttpd has closed it. */
struct connection {
    struct connection *prev, *next; /* `next` alone while on the `arrived` stack */
    struct http_loop *loop;
    int fd;
    struct sockaddr_storage peer;
    socklen_t peer_bytes;
    char peer_text[INET6_ADDRSTRLEN];
    uint64_t deadline_ns; /* for what has to arrive next; 0: nothing has to */
};

struct http_loop {
    /* constant after start */
    struct http *http;
    struct MHD_Daemon *mhd;
    uv_thread_t thread;
    bool started;

    /* the loop thread alone, once started */
    uv_loop_t uv;
    uv_poll_t poll;
    uv_timer_t timer; /* libmicrohttpd's timeouts */
    bool timer_armed;
    uv_timer_t sweeper;
    struct connection *connections;
    struct connection *adding; /* on its way through MHD_add_connection() */
    size_t request_count;      /* whose headers have arrived and whose answer has not left */
    size_t suspended_count;
    bool draining, stopped;
    uint64_t drain_began_ns;

    /* atomic; the other side is whoever calls loop_push_*(), http_ping(), http_drain() */
    uv_async_t async;
    _Atomic(struct connection *) arrived;
    _Atomic(struct exchange *) done;
    _Atomic size_t connection_count; /* dealt to this loop and not closed */
    _Atomic uint64_t pong;
};

struct http {
    /* constant after start */
    struct http_options options;
    struct api_app *app;
    struct workers *workers;
    size_t loop_count;
    struct http_loop *loops;
    uint64_t timeout_ns;

    /* the thread that calls http_take() and http_ping() */
    size_t turn;

    /* set by http_drain() before `drain`, read by loops after they see it */
    void (*drained)(void *ctx);
    void *drained_ctx;
    _Atomic bool drain;
    _Atomic bool out_of_time; /* set by the first loop past the deadline, read by workers */
    _Atomic size_t loops_running;
    _Atomic uint64_t ping;
    _Atomic uint64_t bodies_bytes;   /* of bodies in memory, on all loops   */
    _Atomic uint64_t decoders_bytes; /* of what expands bodies, on all loops */
};

/* ---- loop.c ---- */

/* Everything but the thread.  What is begun is undone by loop_deinit(). */
MUST_CHECK enum err_code loop_init(struct http_loop *l, struct http *http, struct err *err);
void loop_deinit(struct http_loop *l); /* its thread has ended, or never began */
void loop_main(void *arg);             /* the thread of the loop `arg` */

/* Any thread: give the loop a connection, or an exchange of its own back. */
void loop_push_arrived(struct http_loop *l, struct connection *c);
void loop_push_done(struct exchange *x);

/* ---- exchange.c; the loop's thread ---- */

/* The answer is this error. */
void exchange_fail(struct exchange *x, enum err_code code, const char *message);
/* Deadline for whatever this request has to bring next; 0: it is our turn. */
void exchange_expect(struct exchange *x, uint64_t ns);
/* Suspend and let a worker do `job`.  False: no room. */
bool exchange_submit(struct exchange *x, enum exchange_job job);

/* Back from a worker or from the log: say what comes next and let the connection run again. */
void exchange_return(struct exchange *x);

/* What libmicrohttpd calls about requests; `cls` is the loop. */
void *mhd_uri(void *cls, const char *uri, struct MHD_Connection *mhd);
size_t mhd_unescape(void *cls, struct MHD_Connection *mhd, char *text);
enum MHD_Result mhd_request(void *cls, struct MHD_Connection *mhd, const char *url,
                            const char *method, const char *version, const char *data,
                            size_t *bytes, void **context);
void mhd_completed(void *cls, struct MHD_Connection *mhd, void **context,
                   enum MHD_RequestTerminationCode why);

/* ---- exchange_body.c; the loop's thread, but for exchange_feed() ---- */

/* Room for a body, or for the first piece of one that comes in pieces.  False: *res says why not.
 */
bool exchange_make_body(struct exchange *x);
/* Bytes of it have arrived.  What a piece has no room for is left in *bytes for the next call,
 * after the worker. */
void exchange_take_body(struct exchange *x, const char *data, size_t bytes);
void exchange_take_piece(struct exchange *x, const char *data, size_t *bytes);
/* On a worker: expand the piece if need be, give it to the API or add it to the body.  req.feed_rc
 * says how it went. */
void exchange_feed(struct exchange *x);
/* All of it was taken, or fed: is it complete?  req.feed_rc. */
void exchange_end_body(struct exchange *x);
/* A body that came in pieces cannot be used (req.feed_rc): *res says so. */
void exchange_fail_body(struct exchange *x);
void exchange_drop_body(struct exchange *x); /* with all memory for it */

/* ---- exchange_answer.c ---- */

/* On the loop's thread: hand *res to libmicrohttpd, or to a worker first that compresses it. */
enum MHD_Result exchange_answer(struct exchange *x);
/* Compress a whole answer; it stays as it is if that is no gain.  On a worker if it is long. */
void exchange_pack(struct exchange *x);
/* On a worker: make the next piece of a streamed answer. */
void exchange_produce(struct exchange *x);

#endif
