/* dump_frame.c - the state machine: where we are (level) and what may come next (expect). */
#include "api/dump_frame.h"

#include <inttypes.h>
#include <string.h>

#include "api/json_scan.h"

enum level {
    IN_DOCUMENT,  /* {"databases": */
    IN_DATABASES, /* [ of databases */
    IN_DATABASE,  /* {"name", "schema", "vectors"} */
    IN_VECTORS,   /* [ of rows */
};

enum expect {
    DOCUMENT,
    KEY_OR_CLOSE,
    KEY,
    COLON,
    VALUE,
    COMMA_OR_CLOSE, /* in an object */
    ITEM_OR_CLOSE,
    ITEM,
    ITEM_COMMA_OR_CLOSE, /* in an array */
    COLLECTING,
    NOTHING,
};

enum kind { STRING, CONTAINER, SCALAR };
enum field { DATABASES, NAME, SCHEMA, VECTORS, A_KEY, A_ROW };

void dump_frame_init(struct dump_frame *f, const struct dump_events *events, void *ctx, bool single)
{
    *f = (struct dump_frame){
        .events = events, .ctx = ctx, .single = single, .level = IN_DOCUMENT, .expect = DOCUMENT};
}

void dump_frame_deinit(struct dump_frame *f)
{
    buf_free(&f->text);
}

static enum err_code fail(const struct dump_frame *f, const char *what, struct err *err)
{
    return err_set(err, ERR_INVALID_JSON, "invalid JSON at byte %" PRIu64 ": %s", f->at, what);
}

/* Collect the value whose first byte is `c`. */
static enum err_code collect(struct dump_frame *f, int field, char c, struct err *err)
{
    if (c == ',' || c == ']' || c == '}' || c == ':') return fail(f, "expected a value", err);
    f->field = field;
    f->text.len = 0;
    f->text_at = f->at;
    f->text_bytes_max = field == A_ROW ? DUMP_ROW_BYTES_MAX : DUMP_FIELD_BYTES_MAX;
    f->kind = c == '"' ? STRING : c == '{' || c == '[' ? CONTAINER : SCALAR;
    f->depth = 0;
    f->in_string = f->escaped = false;
    f->expect = COLLECTING;
    return ERR_OK;
}

static enum err_code begin_database(struct dump_frame *f, struct err *err)
{
    f->level = IN_DATABASE;
    f->seen = 0;
    return f->events->database_begin(f->ctx, err);
}

static enum err_code take_key(struct dump_frame *f, struct err *err)
{
    static const char *const in_document[] = {"databases", NULL};
    static const char *const in_database[] = {"name", "schema", "vectors", NULL};
    struct arena arena = {0};
    struct json_scan s;
    struct json_text key;
    enum err_code rc;

    json_scan_init(&s, f->text.data, f->text.len, &arena);
    s.base = f->text_at;
    rc = json_scan_string(&s, &key, err);
    if (rc) goto out;
    if (f->level == IN_DOCUMENT && f->single && !f->seen && !json_text_is(&key, "databases")) {
        f->bare = true;
        rc = begin_database(f, err);
        if (rc) goto out;
    }
    rc = json_scan_field(&key, f->level == IN_DOCUMENT ? in_document : in_database, &f->seen,
                         &f->field, err);
    if (f->level == IN_DATABASE) f->field += NAME; /* the tables are in the order of the enum */
    if (rc) {
        struct err why = *err;
        err_set(err, rc, "the dump %s (byte %" PRIu64 ")", why.msg, f->text_at);
    }
    f->expect = COLON;
out:
    arena_free(&arena);
    return rc;
}

/* A whole value is in f->text. */
static enum err_code collected(struct dump_frame *f, struct err *err)
{
    buf_add(&f->text, "", 1);
    if (f->text.failed) return err_set(err, ERR_NOMEM, "out of memory for the dump");
    f->text.len--;
    switch (f->field) {
    case NAME:
        f->expect = COMMA_OR_CLOSE;
        return f->events->name(f->ctx, f->text.data, f->text.len, f->text_at, err);
    case SCHEMA:
        f->expect = COMMA_OR_CLOSE;
        return f->events->schema(f->ctx, f->text.data, f->text.len, f->text_at, err);
    case A_ROW:
        f->expect = ITEM_COMMA_OR_CLOSE;
        return f->events->row(f->ctx, f->text.data, f->text.len, f->text_at, err);
    default:
        return take_key(f, err);
    }
}

/* Take what belongs to the value from [data, end); *taken may be short of it. */
static enum err_code collect_more(struct dump_frame *f, const char *data, const char *end,
                                  size_t *taken, struct err *err)
{
    const char *p = data;
    bool complete = false;
    while (p < end && !complete) {
        char c = *p;
        if (f->in_string) {
            /* the common run inside a string */
            if (!f->escaped && c != '"' && c != '\\') {
                p++;
                continue;
            }
            if (f->escaped)
                f->escaped = false;
            else if (c == '\\')
                f->escaped = true;
            else
                f->in_string = false;
            p++;
            complete = !f->in_string && f->kind == STRING;
        } else if (f->kind == SCALAR) {
            if (c == ',' || c == '}' || c == ']' || c == ' ' || c == '\n' || c == '\r' ||
                c == '\t') {
                complete = true;
                break;
            }
            p++;
        } else {
            if (c == '"')
                f->in_string = true;
            else if (c == '{' || c == '[')
                f->depth++;
            else if (c == '}' || c == ']')
                complete = --f->depth == 0;
            p++;
        }
    }
    *taken = (size_t)(p - data);
    if (f->text.len + *taken > f->text_bytes_max)
        return err_set(err, ERR_PAYLOAD_TOO_LARGE,
                       "the value at byte %" PRIu64 " of the dump is longer than %zu bytes",
                       f->text_at, f->text_bytes_max);
    buf_add(&f->text, data, *taken);
    f->at += *taken;
    return complete ? collected(f, err) : ERR_OK;
}

/* Which value may begin with `c` behind a key? */
static enum err_code begin_value(struct dump_frame *f, char c, struct err *err)
{
    if (f->field == NAME || f->field == SCHEMA) return collect(f, f->field, c, err);
    if (c != '[')
        return err_set(err, ERR_INVALID_REQUEST,
                       "\"%s\" of the dump must be an array (byte %" PRIu64 ")",
                       f->field == VECTORS ? "vectors" : "databases", f->at);
    f->level = f->field == VECTORS ? IN_VECTORS : IN_DATABASES;
    f->expect = ITEM_OR_CLOSE;
    return f->level == IN_VECTORS ? f->events->vectors_begin(f->ctx, err) : ERR_OK;
}

static enum err_code begin_item(struct dump_frame *f, char c, struct err *err)
{
    if (f->level == IN_VECTORS) return collect(f, A_ROW, c, err);
    if (c != '{') return fail(f, "expected the object of a database", err);
    f->expect = KEY_OR_CLOSE;
    return begin_database(f, err);
}

static enum err_code close_object(struct dump_frame *f, struct err *err)
{
    if (f->level == IN_DOCUMENT) {
        f->expect = NOTHING;
        if (!f->seen) return err_set(err, ERR_INVALID_REQUEST, "the dump has no \"databases\"");
        return ERR_OK;
    }
    f->level = f->bare ? IN_DOCUMENT : IN_DATABASES;
    f->expect = f->bare ? NOTHING : ITEM_COMMA_OR_CLOSE;
    return f->events->database_end(f->ctx, err);
}

static void close_array(struct dump_frame *f)
{
    if (f->level == IN_VECTORS) {
        f->level = IN_DATABASE;
    } else {
        f->level = IN_DOCUMENT;
        f->seen = 1;
    }
    f->expect = COMMA_OR_CLOSE;
}

/* One byte of the frame that is not white space.  A value's first byte is left to be collected. */
static enum err_code step(struct dump_frame *f, char c, bool *taken, struct err *err)
{
    *taken = true;
    switch ((enum expect)f->expect) {
    case DOCUMENT:
        if (c != '{') return fail(f, "expected the object of a dump", err);
        f->expect = KEY_OR_CLOSE;
        return ERR_OK;
    case KEY_OR_CLOSE:
        if (c == '}') return close_object(f, err);
        /* fall through */
    case KEY:
        if (c != '"') return fail(f, "expected a key in quotes", err);
        *taken = false;
        return collect(f, A_KEY, c, err);
    case COLON:
        if (c != ':') return fail(f, "expected :", err);
        f->expect = VALUE;
        return ERR_OK;
    case VALUE:
        *taken = f->field == VECTORS || f->field == DATABASES;
        return begin_value(f, c, err);
    case COMMA_OR_CLOSE:
        if (c == '}') return close_object(f, err);
        if (c != ',') return fail(f, "expected , or }", err);
        f->expect = KEY;
        return ERR_OK;
    case ITEM_OR_CLOSE:
        if (c == ']') {
            close_array(f);
            return ERR_OK;
        }
        /* fall through */
    case ITEM:
        *taken = f->level != IN_VECTORS;
        return begin_item(f, c, err);
    case ITEM_COMMA_OR_CLOSE:
        if (c == ']') {
            close_array(f);
            return ERR_OK;
        }
        if (c != ',') return fail(f, "expected , or ]", err);
        f->expect = ITEM;
        return ERR_OK;
    default:
        return fail(f, "something behind the dump", err);
    }
}

enum err_code dump_frame_feed(struct dump_frame *f, const char *data, size_t len, struct err *err)
{
    const char *end = data + len;
    enum err_code rc = ERR_OK;
    while (data < end && !rc) {
        if (f->expect == COLLECTING) {
            size_t taken;
            rc = collect_more(f, data, end, &taken, err);
            data += taken;
            continue;
        }
        char c = *data;
        bool step_taken = true;
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') rc = step(f, c, &step_taken, err);
        if (step_taken) {
            data++;
            f->at++;
        } else if (!rc && f->kind == STRING) {
            /* the opening quote would look like a closing one */
            buf_add(&f->text, data++, 1);
            f->at++;
            f->in_string = true;
        }
    }
    return rc;
}

enum err_code dump_frame_end(struct dump_frame *f, struct err *err)
{
    return f->expect == NOTHING ? ERR_OK : fail(f, "the dump ends in the middle", err);
}
