/* suggest.h - the known word that a mistyped one was probably meant to be. */
#ifndef CONFIG_SUGGEST_H
#define CONFIG_SUGGEST_H

#include <stddef.h>

/* The nearest of `known`, or NULL when none is near enough to be worth naming.  Any thread. */
const char *suggest(const char *word, const char *const *known, size_t count);

#endif
