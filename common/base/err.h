/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors: a code for the program, a sentence for the person. Where a person must act, a function
 * takes a `struct smoe_why *` (never NULL) and writes the sentence into it on failure; each layer
 * that passes it on may put itself in front: `listen 0.0.0.0:7700: address in use`.
 */
#ifndef SMOE_BASE_ERR_H
#define SMOE_BASE_ERR_H

#include "stablemoe/error.h"

struct smoe_why {
    char text[240]; /* NUL-terminated, one line, cut at the end if longer */
};

/* The fixed text of a code: ours, or the system's for an errno value (negated). Never NULL. */
const char *smoe_strerror(int code);

/* The symbol of one of our codes ("SMOE_EFIELD"), or NULL if it is not ours. */
const char *smoe_error_name(int code);

/* Writes the sentence; errno is as before. Cold: what ends in it lies away from the code that runs. */
__attribute__((cold, format(printf, 2, 3))) void smoe_why_set(struct smoe_why *why,
                                                              const char *format, ...);

static inline int smoe_fail_code(int code, const struct smoe_why *why)
{
    (void)why;
    return code;
}

/* Writes the sentence and returns `code`, so that a refusal is one line. */
#define smoe_fail(why, code, ...) smoe_fail_code((code), (smoe_why_set((why), __VA_ARGS__), (why)))

/* Puts `prefix: ` in front of the sentence and returns `code`. */
__attribute__((cold, format(printf, 3, 4))) int smoe_fail_at(struct smoe_why *why, int code,
                                                             const char *prefix, ...);

#endif
