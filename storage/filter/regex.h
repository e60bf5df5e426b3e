/*
 * regex.h - regular expressions that match in time linear in the text.
 *
 * The syntax is a part of RE2's (docs/API.md has the table): literals, ., classes, \d \w \s \b,
 * groups, |, * + ? {m,n}, ^ $ \A \z, (?i) (?s) (?m).  No backreferences and no lookaround: they are
 * what makes a matcher exponential.  Patterns and texts are UTF-8.
 *
 * Source: K. Thompson, "Regular expression search algorithm", CACM 11(6), 1968, as a virtual
 * machine with sets of threads (R. Cox, "Regular Expression Matching: the Virtual Machine
 * Approach", 2009), without captures.
 *
 * A compiled expression is constant.  Any thread, each with a workspace of its own.
 */
#ifndef STORAGE_FILTER_REGEX_H
#define STORAGE_FILTER_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/base/arena.h"
#include "storage/base/err.h"

enum {
    REGEX_BYTES_MAX = 1000,  /* of a pattern */
    REGEX_PROGRAM_MAX = 1000 /* steps, each repetition written out */
};

struct regex;

/* ERR_INVALID_FILTER (the message is about the pattern), ERR_NOMEM.  It lies in the arena. */
MUST_CHECK enum err_code regex_compile(const char *pattern, size_t bytes, struct arena *arena,
                                       const struct regex **out, struct err *err);

size_t regex_workspace_bytes(const struct regex *re);
/* Does it match somewhere in the text?  `workspace`: that many bytes, 8-byte aligned. */
bool regex_matches(const struct regex *re, const char *text, size_t bytes, void *workspace);

#endif
