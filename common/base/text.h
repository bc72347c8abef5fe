/* SPDX-License-Identifier: Apache-2.0
 *
 * Text made piece by piece in the caller's buffer. Invariants: `len < cap`, `buf[len] == 0`, and
 * once a piece did not fit, `cut` stays true and nothing more is added.
 */
#ifndef SMOE_BASE_TEXT_H
#define SMOE_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smoe_text {
    char *buf;
    size_t cap;
    size_t len;
    bool cut;
};

void smoe_text_init(struct smoe_text *t, char *buf, size_t cap);
__attribute__((format(printf, 2, 3))) void smoe_text_add(struct smoe_text *t, const char *format,
                                                         ...);

/* Copies a name (at most SMOE_NAME_MAX bytes) into `ret_name`; false if it is longer. */
bool smoe_name_copy(char ret_name[64], const char *name);

/* True for 1..SMOE_NAME_MAX bytes of [A-Za-z0-9._-], not starting with '-' or '.'. */
bool smoe_name_valid(const char *name, size_t len);

/* Strict numbers: the whole string, no sign for u64, no leading blanks, finite doubles. */
bool smoe_parse_u64(const char *text, uint64_t *ret);
bool smoe_parse_double(const char *text, double *ret);

/* `512`, `64KiB`, `1.5MiB`, `2GiB`: bytes. */
bool smoe_parse_bytes(const char *text, uint64_t *ret);

#endif
