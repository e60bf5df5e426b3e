/*
 * regex.c - parse to a tree, write out a program, run all its threads at once.
 *
 * A program is a list of steps.  A thread is the number of the next step; there is never more than
 * one thread for each step, so a text of n characters takes at most n times the program.
 *
 * If there are at most 64 steps, the threads are the bits of a word: which of them consume an ASCII
 * character is one word for each character, and where each goes on is one word for each step, made
 * beforehand (after Wu and Manber, "Fast text searching allowing errors", CACM 35(10), 1992).
 *
 *     ab*         0 CHAR a
 *                 1 SPLIT 2, 4
 *                 2 CHAR b
 *                 3 JUMP 1
 *                 4 MATCH
 */
#include "storage/filter/regex.h"

#include <string.h>

#include "storage/base/hex.h"
#include "storage/filter/words.h"

enum {
    GROUPS_MAX = 100,  /* nested */
    REPEAT_MAX = 1000, /* in {m,n} */
    RANGES_MAX = 4096, /* of all classes of a pattern */
    CHARACTER_MAX = 0x10ffff,
};

enum step_kind {
    STEP_CHAR,       /* the character x                     */
    STEP_CHAR_FOLD,  /* one whose folded form is x          */
    STEP_CLASS,      /* one of class x                      */
    STEP_ANY,        /* any                                 */
    STEP_ANY_BUT_NL, /* any but \n                          */
    STEP_SPLIT,      /* go on at x and at y                 */
    STEP_JUMP,       /* go on at x                          */
    STEP_ASSERT,     /* go on at the next one if x is true  */
    STEP_MATCH
};

enum assertion {
    AT_TEXT_START,
    AT_TEXT_END,
    AT_LINE_START,
    AT_LINE_END,
    AT_WORD_BORDER,
    NOT_AT_WORD_BORDER
};

struct step {
    uint16_t kind; /* enum step_kind */
    uint16_t y;
    uint32_t x;
};

struct range {
    uint32_t first, last;
};
struct class
{
    uint32_t range, range_count;
    bool negated, folded;
};

/* What assertions tell apart of the characters before and behind a place. */
enum neighbour { IS_NONE, IS_NEWLINE, IS_WORD, IS_OTHER, NEIGHBOUR_COUNT };
enum { WORD_STEPS = 64 };

struct regex {
    struct step *steps;
    uint32_t step_count;
    const struct class *classes;
    const struct range *ranges;
    /* For a program of at most WORD_STEPS; else NULL. */
    const uint64_t *consumers; /* of each ASCII character: which steps consume it */
    /* Threads that adding one at step i makes, [before][behind][i]; if there are no assertions,
     * only the first step_count are there. */
    const uint64_t *reached;
    bool has_assertions;
    /* Bytes that a match can begin with.  All, if it can be empty. */
    bool can_begin[256];
};

/* ---- the tree ---- */

enum node_kind { NODE_STEP, NODE_EMPTY, NODE_SEQUENCE, NODE_CHOICE, NODE_REPEAT };

struct node {
    enum node_kind kind;
    struct step step;          /* NODE_STEP: one that consumes a character, or an assertion */
    struct node *first, *next; /* children of a sequence or choice; what is repeated */
    uint32_t min, max;         /* NODE_REPEAT; UINT32_MAX: no end */
};

enum flag { FLAG_FOLD = 1, FLAG_DOT_NL = 2, FLAG_LINES = 4 };

struct parser {
    const char *start, *at, *end;
    struct arena *arena;
    unsigned flags, depth;
    struct class *classes;
    uint32_t class_count, class_cap;
    struct range *ranges;
    uint32_t range_count, range_cap;
    struct err *err;
};

static enum err_code fail(struct parser *p, const char *what)
{
    return err_set(p->err, ERR_INVALID_FILTER, "is not a regular expression: %s at byte %zu", what,
                   (size_t)(p->at - p->start));
}

static enum err_code no_memory(struct parser *p)
{
    return err_set(p->err, ERR_NOMEM, "out of memory for a regular expression");
}

static struct node *node_new(struct parser *p, enum node_kind kind)
{
    struct node *n = arena_alloc(p->arena, sizeof *n);
    if (n) *n = (struct node){.kind = kind};
    return n;
}

static struct node *step_node(struct parser *p, enum step_kind kind, uint32_t x)
{
    struct node *n = node_new(p, NODE_STEP);
    if (n) n->step = (struct step){.kind = (uint16_t)kind, .x = x};
    return n;
}

static bool is_next(const struct parser *p, const char *text)
{
    size_t len = strlen(text);
    return (size_t)(p->end - p->at) >= len && memcmp(p->at, text, len) == 0;
}

/* ---- classes ---- */

static bool add_range(struct parser *p, uint32_t first, uint32_t last)
{
    if (p->range_count == p->range_cap) {
        uint32_t cap = p->range_cap ? 2 * p->range_cap : 64;
        struct range *wider = arena_alloc(p->arena, cap * sizeof *wider);
        if (!wider) return false;
        if (p->range_count) memcpy(wider, p->ranges, p->range_count * sizeof *wider);
        p->ranges = wider;
        p->range_cap = cap;
    }
    p->ranges[p->range_count++] = (struct range){first, last};
    return true;
}

/* What is between the ranges of a set, which are ascending. */
static bool add_complement(struct parser *p, const struct range *ranges, size_t count)
{
    uint32_t next = 0;
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].first > next && !add_range(p, next, ranges[i].first - 1)) return false;
        next = ranges[i].last + 1;
    }
    return add_range(p, next, CHARACTER_MAX);
}

struct named_set {
    const char *name;
    struct range ranges[4];
    size_t count;
};
/* As in RE2: ASCII only. */
static const struct named_set letter_sets[] = {
    {"d", {{'0', '9'}}, 1},
    {"w", {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, 4},
    {"s", {{'\t', '\n'}, {'\f', '\r'}, {' ', ' '}}, 3},
};
static const struct named_set posix_sets[] = {
    {"[:alnum:]", {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}}, 3},
    {"[:alpha:]", {{'A', 'Z'}, {'a', 'z'}}, 2},
    {"[:digit:]", {{'0', '9'}}, 1},
    {"[:lower:]", {{'a', 'z'}}, 1},
    {"[:punct:]", {{'!', '/'}, {':', '@'}, {'[', '`'}, {'{', '~'}}, 4},
    {"[:space:]", {{'\t', '\r'}, {' ', ' '}}, 2},
    {"[:upper:]", {{'A', 'Z'}}, 1},
    {"[:word:]", {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, 4},
    {"[:xdigit:]", {{'0', '9'}, {'A', 'F'}, {'a', 'f'}}, 3},
};

/* The set of \d, \W and so on; NULL: `letter` names none. */
static const struct named_set *letter_set(char letter, bool *negated)
{
    *negated = letter >= 'A' && letter <= 'Z';
    for (size_t i = 0; i < sizeof letter_sets / sizeof *letter_sets; i++)
        if (letter_sets[i].name[0] == (letter | 32)) return &letter_sets[i];
    return NULL;
}

static bool add_set(struct parser *p, const struct named_set *set, bool negated)
{
    if (negated) return add_complement(p, set->ranges, set->count);
    for (size_t i = 0; i < set->count; i++)
        if (!add_range(p, set->ranges[i].first, set->ranges[i].last)) return false;
    return true;
}

/* Behind \x: two digits, or some in braces. */
static enum err_code parse_hex(struct parser *p, uint32_t *c)
{
    bool braces = p->at < p->end && *p->at == '{';
    uint32_t n = 0;
    int digits = 0;
    p->at += braces;
    while (p->at < p->end && hex_digit(*p->at) >= 0 && digits < (braces ? 6 : 2)) {
        n = n * 16 + (uint32_t)hex_digit(*p->at++);
        digits++;
    }
    bool closed = !braces || (p->at < p->end && *p->at++ == '}');
    if (!closed || digits == 0 || (!braces && digits != 2) || n > CHARACTER_MAX)
        return fail(p, "\\x needs two hexadecimal digits, or a code point in braces");
    *c = n;
    return ERR_OK;
}

/* Behind a backslash: a character of its own. */
static enum err_code parse_escape(struct parser *p, uint32_t *c)
{
    static const char names[] = "tnrfva", values[] = "\t\n\r\f\v\a";
    if (p->at == p->end) return fail(p, "a single \\");
    char letter = *p->at;
    const char *known = memchr(names, letter, sizeof names - 1);
    if (known) {
        p->at++;
        *c = (unsigned char)values[known - names];
        return ERR_OK;
    }
    if (letter == 'x') {
        p->at++;
        return parse_hex(p, c);
    }
    if (letter >= '1' && letter <= '9') return fail(p, "backreferences are not supported,");
    if (letter == 'p' || letter == 'P') return fail(p, "\\p classes are not supported,");
    bool is_word = (letter | 32) >= 'a' && (letter | 32) <= 'z';
    if (is_word || letter == '0') return fail(p, "unknown escape");
    p->at += char_decode(p->at, (size_t)(p->end - p->at), c);
    return ERR_OK;
}

static enum err_code class_new(struct parser *p, uint32_t *number)
{
    if (p->class_count == p->class_cap) {
        uint32_t cap = p->class_cap ? 2 * p->class_cap : 16;
        struct class *wider = arena_alloc(p->arena, cap * sizeof *wider);
        if (!wider) return no_memory(p);
        if (p->class_count) memcpy(wider, p->classes, p->class_count * sizeof *wider);
        p->classes = wider;
        p->class_cap = cap;
    }
    *number = p->class_count++;
    p->classes[*number] = (struct class){.range = p->range_count, .folded = p->flags & FLAG_FOLD};
    return ERR_OK;
}

/* One end of a range in [...]. */
static enum err_code parse_class_char(struct parser *p, uint32_t *c)
{
    if (*p->at == '\\') {
        p->at++;
        return parse_escape(p, c);
    }
    p->at += char_decode(p->at, (size_t)(p->end - p->at), c);
    return ERR_OK;
}

/* A named set within [...]: \d, [:alpha:].  *found false: there is none here. */
static enum err_code parse_class_set(struct parser *p, bool *found)
{
    *found = true;
    if (*p->at == '\\' && p->at + 1 < p->end) {
        bool negated;
        const struct named_set *set = letter_set(p->at[1], &negated);
        if (set) {
            p->at += 2;
            return add_set(p, set, negated) ? ERR_OK : no_memory(p);
        }
    }
    if (is_next(p, "[:")) {
        for (size_t i = 0; i < sizeof posix_sets / sizeof *posix_sets; i++) {
            if (!is_next(p, posix_sets[i].name)) continue;
            p->at += strlen(posix_sets[i].name);
            return add_set(p, &posix_sets[i], false) ? ERR_OK : no_memory(p);
        }
        return fail(p, "unknown class");
    }
    *found = false;
    return ERR_OK;
}

/* Behind [. */
static enum err_code parse_class(struct parser *p, struct node **out)
{
    uint32_t number, first, last;
    enum err_code rc = class_new(p, &number);
    if (rc) return rc;
    if (p->at < p->end && *p->at == '^') {
        p->classes[number].negated = true;
        p->at++;
    }
    /* A ] that comes first stands for itself. */
    for (bool is_first = true; p->at < p->end && (is_first || *p->at != ']'); is_first = false) {
        bool found;
        if (p->range_count > RANGES_MAX) return fail(p, "too many classes");
        rc = parse_class_set(p, &found);
        if (rc) return rc;
        if (found) continue;
        rc = parse_class_char(p, &first);
        if (rc) return rc;
        last = first;
        if (p->end - p->at >= 2 && p->at[0] == '-' && p->at[1] != ']') {
            p->at++;
            rc = parse_class_char(p, &last);
            if (rc) return rc;
            if (last < first) return fail(p, "a range that goes backwards");
        }
        if (!add_range(p, first, last)) return no_memory(p);
    }
    if (p->at == p->end) return fail(p, "a [ without its ]");
    p->at++;
    p->classes[number].range_count = p->range_count - p->classes[number].range;
    *out = step_node(p, STEP_CLASS, number);
    return *out ? ERR_OK : no_memory(p);
}

/* \d and so on, outside of brackets. */
static enum err_code set_node(struct parser *p, const struct named_set *set, bool negated,
                              struct node **out)
{
    uint32_t number;
    enum err_code rc = class_new(p, &number);
    if (rc) return rc;
    p->classes[number].folded = false;
    if (!add_set(p, set, negated)) return no_memory(p);
    p->classes[number].range_count = p->range_count - p->classes[number].range;
    *out = step_node(p, STEP_CLASS, number);
    return *out ? ERR_OK : no_memory(p);
}

/* ---- parsing ---- */

static enum err_code parse_choice(struct parser *p, struct node **out);

/* Behind (?: flags up to : or ), or the name of a group. */
static enum err_code parse_group_head(struct parser *p, bool *is_group)
{
    *is_group = true;
    if (is_next(p, "P<") || (is_next(p, "<") && !is_next(p, "<=") && !is_next(p, "<!"))) {
        const char *close = memchr(p->at, '>', (size_t)(p->end - p->at));
        if (!close) return fail(p, "a group name without its >");
        p->at = close + 1;
        return ERR_OK;
    }
    bool on = true;
    for (; p->at < p->end; p->at++) {
        unsigned flag = 0;
        switch (*p->at) {
        case 'i':
            flag = FLAG_FOLD;
            break;
        case 's':
            flag = FLAG_DOT_NL;
            break;
        case 'm':
            flag = FLAG_LINES;
            break;
        case '-':
            on = false;
            continue;
        case ')':
            *is_group = false;
            /* fall through */
        case ':':
            p->at++;
            return ERR_OK;
        default:
            return fail(p, *p->at == '=' || *p->at == '!' || *p->at == '<'
                               ? "lookaround is not supported,"
                               : "unknown flag");
        }
        p->flags = on ? p->flags | flag : p->flags & ~flag;
    }
    return fail(p, "a ( without its )");
}

/* Behind (. */
static enum err_code parse_group(struct parser *p, struct node **out)
{
    unsigned flags = p->flags;
    bool is_group = true;
    enum err_code rc = ERR_OK;
    if (p->at < p->end && *p->at == '?') {
        p->at++;
        rc = parse_group_head(p, &is_group);
        if (rc) return rc;
    }
    if (!is_group) { /* (?i): for the rest of the group around it */
        *out = node_new(p, NODE_EMPTY);
        return *out ? ERR_OK : no_memory(p);
    }
    if (++p->depth > GROUPS_MAX) return fail(p, "too many nested groups");
    rc = parse_choice(p, out);
    if (rc) return rc;
    if (p->at == p->end) return fail(p, "a ( without its )");
    p->at++;
    p->depth--;
    p->flags = flags;
    return ERR_OK;
}

static enum err_code parse_backslash(struct parser *p, struct node **out)
{
    static const char letters[] = "AzbB";
    static const enum assertion assertions[] = {AT_TEXT_START, AT_TEXT_END, AT_WORD_BORDER,
                                                NOT_AT_WORD_BORDER};
    if (p->at == p->end) return fail(p, "a single \\");
    const char *known = memchr(letters, *p->at, sizeof letters - 1);
    bool negated;
    const struct named_set *set = letter_set(*p->at, &negated);
    if (set) {
        p->at++;
        return set_node(p, set, negated, out);
    }
    if (known) {
        p->at++;
        *out = step_node(p, STEP_ASSERT, assertions[known - letters]);
        return *out ? ERR_OK : no_memory(p);
    }
    uint32_t c;
    enum err_code rc = parse_escape(p, &c);
    if (rc) return rc;
    *out = p->flags & FLAG_FOLD ? step_node(p, STEP_CHAR_FOLD, char_fold(c))
                                : step_node(p, STEP_CHAR, c);
    return *out ? ERR_OK : no_memory(p);
}

static enum err_code parse_atom(struct parser *p, struct node **out)
{
    uint32_t c;
    bool lines = p->flags & FLAG_LINES;
    switch (*p->at) {
    case '(':
        p->at++;
        return parse_group(p, out);
    case '[':
        p->at++;
        return parse_class(p, out);
    case '\\':
        p->at++;
        return parse_backslash(p, out);
    case '*':
    case '+':
    case '?':
        return fail(p, "nothing to repeat");
    case '.':
        p->at++;
        *out = step_node(p, p->flags & FLAG_DOT_NL ? STEP_ANY : STEP_ANY_BUT_NL, 0);
        break;
    case '^':
        p->at++;
        *out = step_node(p, STEP_ASSERT, lines ? AT_LINE_START : AT_TEXT_START);
        break;
    case '$':
        p->at++;
        *out = step_node(p, STEP_ASSERT, lines ? AT_LINE_END : AT_TEXT_END);
        break;
    default:
        p->at += char_decode(p->at, (size_t)(p->end - p->at), &c);
        *out = p->flags & FLAG_FOLD ? step_node(p, STEP_CHAR_FOLD, char_fold(c))
                                    : step_node(p, STEP_CHAR, c);
    }
    return *out ? ERR_OK : no_memory(p);
}

static bool parse_count(struct parser *p, const char **at, uint32_t *n)
{
    const char *first = *at;
    *n = 0;
    for (; *at < p->end && **at >= '0' && **at <= '9'; ++*at)
        if (*n <= REPEAT_MAX) *n = *n * 10 + (uint32_t)(**at - '0');
    return *at > first;
}

/* {m}, {m,} or {m,n}; else the brace stands for itself, as in RE2. */
static bool parse_braces(struct parser *p, uint32_t *min, uint32_t *max)
{
    const char *at = p->at + 1;
    if (!parse_count(p, &at, min)) return false;
    *max = *min;
    if (at < p->end && *at == ',') {
        at++;
        if (!parse_count(p, &at, max)) *max = UINT32_MAX;
    }
    if (at == p->end || *at != '}') return false;
    p->at = at + 1;
    return true;
}

/* An atom, and how often. */
static enum err_code parse_piece(struct parser *p, struct node **out)
{
    enum err_code rc = parse_atom(p, out);
    while (!rc && p->at < p->end) {
        uint32_t min = 0, max = UINT32_MAX;
        char c = *p->at;
        if (c == '*' || c == '+' || c == '?') {
            p->at++;
            min = c == '+';
            if (c == '?') max = 1;
        } else if (c != '{' || !parse_braces(p, &min, &max)) {
            return ERR_OK;
        }
        if (min > REPEAT_MAX || (max != UINT32_MAX && (max > REPEAT_MAX || max < min)))
            return fail(p, "a repetition that is not from 0 to 1000");
        /* Lazy or greedy: what matches is the same. */
        if (p->at < p->end && *p->at == '?') p->at++;
        struct node *repeat = node_new(p, NODE_REPEAT);
        if (!repeat) return no_memory(p);
        repeat->first = *out;
        repeat->min = min;
        repeat->max = max;
        *out = repeat;
        if (p->at < p->end && (*p->at == '*' || *p->at == '+' || *p->at == '?'))
            return fail(p, "nothing to repeat");
    }
    return rc;
}

static enum err_code parse_sequence(struct parser *p, struct node **out)
{
    struct node *sequence = node_new(p, NODE_SEQUENCE), **last;
    if (!sequence) return no_memory(p);
    last = &sequence->first;
    while (p->at < p->end && *p->at != '|' && *p->at != ')') {
        enum err_code rc = parse_piece(p, last);
        if (rc) return rc;
        last = &(*last)->next;
    }
    *out = sequence;
    return ERR_OK;
}

static enum err_code parse_choice(struct parser *p, struct node **out)
{
    struct node *choice = node_new(p, NODE_CHOICE), **last;
    if (!choice) return no_memory(p);
    last = &choice->first;
    for (;;) {
        enum err_code rc = parse_sequence(p, last);
        if (rc) return rc;
        if (p->at == p->end || *p->at != '|') break;
        p->at++;
        last = &(*last)->next;
    }
    *out = choice;
    return ERR_OK;
}

/* ---- writing out ---- */

struct writer {
    struct step steps[REGEX_PROGRAM_MAX];
    uint32_t count;
    uint32_t visits; /* of nodes: empty ones write nothing, and can be repeated, too */
    bool too_large;
};

static uint32_t put(struct writer *w, enum step_kind kind, uint32_t x)
{
    if (w->count == REGEX_PROGRAM_MAX) {
        w->too_large = true;
        return 0;
    }
    w->steps[w->count] = (struct step){.kind = (uint16_t)kind, .x = x};
    return w->count++;
}

static void write_node(struct writer *w, const struct node *n);

static void write_choice(struct writer *w, const struct node *first)
{
    uint32_t jumps = UINT32_MAX; /* a chain through x of those who wait for the end */
    for (const struct node *n = first; n; n = n->next) {
        if (!n->next) {
            write_node(w, n);
            break;
        }
        uint32_t split = put(w, STEP_SPLIT, w->count + 1);
        write_node(w, n);
        jumps = put(w, STEP_JUMP, jumps);
        w->steps[split].y = (uint16_t)w->count;
    }
    while (jumps != UINT32_MAX && !w->too_large) {
        uint32_t next = w->steps[jumps].x;
        w->steps[jumps].x = w->count;
        jumps = next;
    }
}

static void write_repeat(struct writer *w, const struct node *n)
{
    uint32_t skips = UINT32_MAX; /* a chain through y */
    for (uint32_t i = 0; i < n->min && !w->too_large; i++)
        write_node(w, n->first);
    if (n->max == UINT32_MAX) {
        uint32_t split = put(w, STEP_SPLIT, w->count + 1);
        write_node(w, n->first);
        put(w, STEP_JUMP, split);
        w->steps[split].y = (uint16_t)w->count;
        return;
    }
    for (uint32_t i = n->min; i < n->max && !w->too_large; i++) {
        uint32_t split = put(w, STEP_SPLIT, w->count + 1);
        w->steps[split].y = (uint16_t)skips;
        skips = split;
        write_node(w, n->first);
    }
    for (uint32_t i = n->min; i < n->max && !w->too_large; i++) {
        uint32_t next = w->steps[skips].y;
        w->steps[skips].y = (uint16_t)w->count;
        skips = next;
    }
}

/* Recursion is as deep as groups are nested. */
static void write_node(struct writer *w, const struct node *n)
{
    if (++w->visits > 20 * REGEX_PROGRAM_MAX) w->too_large = true;
    if (w->too_large) return;
    switch (n->kind) {
    case NODE_STEP:
        put(w, n->step.kind, n->step.x);
        break;
    case NODE_EMPTY:
        break;
    case NODE_SEQUENCE:
        for (const struct node *part = n->first; part; part = part->next)
            write_node(w, part);
        break;
    case NODE_CHOICE:
        write_choice(w, n->first);
        break;
    case NODE_REPEAT:
        write_repeat(w, n);
        break;
    }
}

/* ---- running ---- */

/* A set of steps that is empty in no time (Briggs and Torczon, "An efficient representation for
 * sparse sets", 1993). */
struct threads {
    uint16_t *dense, *sparse;
    uint32_t count;
};

struct machine {
    const struct regex *re;
    struct threads now, next;
    uint16_t *stack;
    bool matched;
};

size_t regex_workspace_bytes(const struct regex *re)
{
    /* Two sets, and a stack that holds each step twice. */
    return (size_t)re->step_count * sizeof(uint16_t) * 6 + 16;
}

static void machine_init(struct machine *m, const struct regex *re, void *workspace)
{
    uint16_t *at = workspace;
    size_t n = re->step_count;
    *m = (struct machine){.re = re};
    m->now = (struct threads){.dense = at, .sparse = at + n};
    m->next = (struct threads){.dense = at + 2 * n, .sparse = at + 3 * n};
    m->stack = at + 4 * n;
    memset(workspace, 0, 6 * n * sizeof *at); /* sparse: any values would do, but known ones */
}

static bool has_thread(const struct threads *t, uint32_t step)
{
    uint32_t place = t->sparse[step];
    return place < t->count && t->dense[place] == step;
}

static bool is_word(uint32_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= 'a' && c <= 'z');
}

/* NONE: there is no character before the first, or behind the last. */
#define NONE UINT32_MAX

static bool holds(enum assertion what, uint32_t before, uint32_t behind)
{
    bool border = (before != NONE && is_word(before)) != (behind != NONE && is_word(behind));
    switch (what) {
    case AT_TEXT_START:
        return before == NONE;
    case AT_TEXT_END:
        return behind == NONE;
    case AT_LINE_START:
        return before == NONE || before == '\n';
    case AT_LINE_END:
        return behind == NONE || behind == '\n';
    case AT_WORD_BORDER:
        return border;
    default:
        return !border;
    }
}

/* Add a thread, and go on over the steps that consume nothing. */
static void add_thread(struct machine *m, struct threads *t, uint32_t step, uint32_t before,
                       uint32_t behind)
{
    uint32_t depth = 0;
    m->stack[depth++] = (uint16_t)step;
    while (depth) {
        step = m->stack[--depth];
        if (has_thread(t, step)) continue;
        t->sparse[step] = (uint16_t)t->count;
        t->dense[t->count++] = (uint16_t)step;
        const struct step *s = &m->re->steps[step];
        switch (s->kind) {
        case STEP_SPLIT:
            m->stack[depth++] = s->y;
            m->stack[depth++] = (uint16_t)s->x;
            break;
        case STEP_JUMP:
            m->stack[depth++] = (uint16_t)s->x;
            break;
        case STEP_ASSERT:
            if (holds((enum assertion)s->x, before, behind))
                m->stack[depth++] = (uint16_t)(step + 1);
            break;
        case STEP_MATCH:
            m->matched = true;
            return;
        default:
            break;
        }
    }
}

static bool class_has_one(const struct regex *re, const struct class *c, uint32_t character)
{
    for (uint32_t i = 0; i < c->range_count; i++) {
        const struct range *r = &re->ranges[c->range + i];
        if (character >= r->first && character <= r->last) return true;
    }
    return false;
}

static bool class_has(const struct regex *re, const struct class *c, uint32_t character)
{
    bool has = class_has_one(re, c, character);
    if (!has && c->folded) {
        uint32_t small = char_fold(character);
        has = class_has_one(re, c, small) || class_has_one(re, c, char_unfold(small));
    }
    return has != c->negated;
}

static bool consumes(const struct regex *re, const struct step *s, uint32_t c)
{
    switch (s->kind) {
    case STEP_CHAR:
        return c == s->x;
    case STEP_CHAR_FOLD:
        return char_fold(c) == s->x;
    case STEP_CLASS:
        return class_has(re, &re->classes[s->x], c);
    case STEP_ANY:
        return true;
    case STEP_ANY_BUT_NL:
        return c != '\n';
    default:
        return false;
    }
}

static enum neighbour neighbour_of(uint32_t c)
{
    return c == NONE ? IS_NONE : c == '\n' ? IS_NEWLINE : is_word(c) ? IS_WORD : IS_OTHER;
}

static const uint64_t *reached_between(const struct regex *re, uint32_t before, uint32_t behind)
{
    if (!re->has_assertions) return re->reached;
    size_t around = neighbour_of(before) * NEIGHBOUR_COUNT + neighbour_of(behind);
    return re->reached + around * re->step_count;
}

static uint32_t next_char(const char *p, const char *end, size_t *bytes)
{
    uint32_t c;
    *bytes = 0;
    if (p == end) return NONE;
    *bytes = char_decode(p, (size_t)(end - p), &c);
    return c;
}

/* No thread is under way: to where one can begin.  What is skipped ends before a character, so the
 * one before it is the last byte or the end of a longer one. */
static const char *skip(const struct regex *re, const char *p, const char *end, uint32_t *before)
{
    const char *from = p;
    while (p < end && !re->can_begin[(unsigned char)*p])
        p++;
    if (p > from) *before = (unsigned char)p[-1] < 0x80 ? (unsigned char)p[-1] : 0xfffd;
    return p;
}

/* Which of the threads consume the character? */
static uint64_t consuming(const struct regex *re, uint64_t threads, uint32_t c)
{
    if (c < 0x80) return threads & re->consumers[c];
    uint64_t some = 0;
    for (uint64_t left = threads; left; left &= left - 1) {
        int step = __builtin_ctzll(left);
        some |= (uint64_t)consumes(re, &re->steps[step], c) << step;
    }
    return some;
}

static bool word_matches(const struct regex *re, const char *p, const char *end)
{
    uint64_t threads = 0, match = UINT64_C(1) << (re->step_count - 1);
    uint32_t before = NONE;
    size_t bytes, behind_bytes;
    for (;;) {
        if (!threads) p = skip(re, p, end, &before);
        uint32_t c = next_char(p, end, &bytes);
        threads |= reached_between(re, before, c)[0];
        if (threads & match) return true;
        if (c == NONE) return false;
        uint32_t behind = re->has_assertions ? next_char(p + bytes, end, &behind_bytes) : NONE;
        const uint64_t *reached = reached_between(re, c, behind);
        uint64_t moving = consuming(re, threads, c);
        for (threads = 0; moving; moving &= moving - 1)
            threads |= reached[__builtin_ctzll(moving) + 1];
        before = c;
        p += bytes;
    }
}

bool regex_matches(const struct regex *re, const char *text, size_t bytes, void *workspace)
{
    struct machine m;
    const char *p = text, *end = text + bytes;
    uint32_t before = NONE;
    size_t step_bytes;
    if (re->consumers) return word_matches(re, text, end);
    machine_init(&m, re, workspace);
    for (;;) {
        if (m.now.count == 0) p = skip(re, p, end, &before);
        uint32_t c = next_char(p, end, &step_bytes);
        add_thread(&m, &m.now, 0, before, c);
        if (m.matched) return true;
        if (c == NONE) return false;
        size_t behind_bytes;
        uint32_t behind = next_char(p + step_bytes, end, &behind_bytes);
        m.next.count = 0;
        for (uint32_t i = 0; i < m.now.count; i++) {
            uint32_t step = m.now.dense[i];
            if (!consumes(re, &re->steps[step], c)) continue;
            add_thread(&m, &m.next, step + 1, c, behind);
            if (m.matched) return true;
        }
        struct threads swap = m.now;
        m.now = m.next;
        m.next = swap;
        before = c;
        p += step_bytes;
    }
}

/* ---- compiling ---- */

/* Which bytes can a match begin with?  Those behind ASCII are not told apart. */
static void find_first_bytes(struct regex *re, void *workspace)
{
    struct machine m;
    machine_init(&m, re, workspace);
    /* Whatever stands around it: all that assertions tell apart. */
    static const uint32_t sorts[] = {NONE, '\n', 'a', ' '};
    for (int k = 0; k < 16; k++) {
        m.now.count = 0;
        add_thread(&m, &m.now, 0, sorts[k / 4], sorts[k % 4]);
        for (uint32_t i = 0; i < m.now.count; i++) {
            const struct step *s = &re->steps[m.now.dense[i]];
            for (uint32_t c = 0; c < 0x80; c++)
                re->can_begin[c] |= consumes(re, s, c);
            if (s->kind <= STEP_ANY_BUT_NL)
                memset(re->can_begin + 0x80, true, 0x80); /* some of them */
        }
    }
    if (m.matched) memset(re->can_begin, true, sizeof re->can_begin);
}

/* The words of a short program. */
static bool make_words(struct regex *re, struct arena *arena, void *workspace)
{
    static const uint32_t sorts[NEIGHBOUR_COUNT] = {NONE, '\n', 'a', ' '};
    for (uint32_t i = 0; i < re->step_count; i++)
        re->has_assertions |= re->steps[i].kind == STEP_ASSERT;
    if (re->step_count > WORD_STEPS) return true;
    int around = re->has_assertions ? NEIGHBOUR_COUNT * NEIGHBOUR_COUNT : 1;
    uint64_t *consumers = arena_alloc(arena, 0x80 * sizeof *consumers);
    uint64_t *reached = arena_alloc(arena, (size_t)around * re->step_count * sizeof *reached);
    if (!consumers || !reached) return false;
    for (uint32_t c = 0; c < 0x80; c++) {
        consumers[c] = 0;
        for (uint32_t i = 0; i < re->step_count; i++)
            consumers[c] |= (uint64_t)consumes(re, &re->steps[i], c) << i;
    }
    struct machine m;
    machine_init(&m, re, workspace);
    for (int k = 0; k < around; k++) {
        for (uint32_t i = 0; i < re->step_count; i++) {
            uint64_t *word = &reached[(size_t)k * re->step_count + i];
            *word = 0;
            m.now.count = 0;
            add_thread(&m, &m.now, i, sorts[k / NEIGHBOUR_COUNT], sorts[k % NEIGHBOUR_COUNT]);
            for (uint32_t t = 0; t < m.now.count; t++)
                *word |= UINT64_C(1) << m.now.dense[t];
        }
    }
    re->consumers = consumers;
    re->reached = reached;
    return true;
}

enum err_code regex_compile(const char *pattern, size_t bytes, struct arena *arena,
                            const struct regex **out, struct err *err)
{
    struct parser p = {
        .start = pattern, .at = pattern, .end = pattern + bytes, .arena = arena, .err = err};
    struct node *tree;
    if (bytes > REGEX_BYTES_MAX)
        return err_set(err, ERR_INVALID_FILTER, "is a regular expression of %zu bytes; at most %d",
                       bytes, REGEX_BYTES_MAX);
    enum err_code rc = parse_choice(&p, &tree);
    if (!rc && p.at < p.end) rc = fail(&p, "a ) without its (");
    if (rc) return rc;

    struct writer *w = arena_alloc(arena, sizeof *w);
    struct regex *re = arena_alloc(arena, sizeof *re);
    if (!w || !re) return no_memory(&p);
    w->count = w->visits = 0;
    w->too_large = false;
    write_node(w, tree);
    put(w, STEP_MATCH, 0);
    if (w->too_large)
        return err_set(err, ERR_INVALID_FILTER,
                       "is a regular expression of more than %d steps when its repetitions are "
                       "written out",
                       REGEX_PROGRAM_MAX);
    *re = (struct regex){
        .steps = w->steps, .step_count = w->count, .classes = p.classes, .ranges = p.ranges};
    void *workspace = arena_alloc(arena, regex_workspace_bytes(re));
    if (!workspace) return no_memory(&p);
    find_first_bytes(re, workspace);
    if (!make_words(re, arena, workspace)) return no_memory(&p);
    *out = re;
    return ERR_OK;
}
