/* SPDX-License-Identifier: Apache-2.0
 *
 * A node's key: 32 random bytes that it shares with its gateway, bound to one role and one name. What a
 * person sees of it is one line,
 *
 *     smoe1:worker:pi-4:2f6c...          (64 hexadecimal digits)
 *
 * and what goes over the wire in clear is its identity, `worker:pi-4:9a0b1c2d`: role, name, and the first
 * bytes of a hash, which tell two keys of one name apart while one takes the other's place.
 *
 * Secrets are read and written without a branch or an address that depends on them, are wiped
 * when they are done with, and appear in no error.
 */
#ifndef SMOE_IO_KEY_H
#define SMOE_IO_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "proto/wire.h"

#define SMOE_KEY_BYTES        32
#define SMOE_KEY_PRINT_DIGITS 8
#define SMOE_KEY_IDENTITY_MAX (8 + SMOE_NAME_MAX + 1 + SMOE_KEY_PRINT_DIGITS + 1)  /* with NUL */
#define SMOE_KEY_LINE_MAX     (6 + 8 + SMOE_NAME_MAX + 1 + 2 * SMOE_KEY_BYTES + 1) /* with NUL */

struct smoe_key {
    enum smoe_role role;
    smoe_name name;
    uint8_t secret[SMOE_KEY_BYTES];
    char print[SMOE_KEY_PRINT_DIGITS + 1]; /* of SHA-256(secret): no secret */
};

/* "worker", "trainer", "admin", "peer". */
const char *smoe_role_name(enum smoe_role role);
/* False if it is none of those that keys are made for. */
bool smoe_role_parse(const char *text, size_t len, enum smoe_role *ret);

/* A new key, from OpenSSL's random numbers. SMOE_EFIELD: no name. */
int smoe_key_make(enum smoe_role role, const char *name, struct smoe_key *ret,
                  struct smoe_why *why);

/* The key of a direct link, of the worker `name` that dials: nobody makes one by hand, or keeps it in a file. */
void smoe_key_of_link(const char *name, const uint8_t secret[SMOE_KEY_BYTES], struct smoe_key *ret);

/* Reads a line of `len` bytes, without its newline. SMOE_EDATA and a sentence that says what it should be, and
 * never what it was. */
int smoe_key_parse(const char *line, size_t len, struct smoe_key *ret, struct smoe_why *why);

/* The line, NUL-terminated: wipe it after use. */
void smoe_key_format(const struct smoe_key *key, char ret[SMOE_KEY_LINE_MAX]);

/* What names the key on the wire and in logs. */
void smoe_key_identity(const struct smoe_key *key, char ret[SMOE_KEY_IDENTITY_MAX]);

/* ---- what must not depend on the secret; here so that a test can watch them ---- */

void smoe_hex_encode(const uint8_t *bytes, size_t n, char *ret_digits);
/* 0 if all 2n digits are of [0-9a-f]; else the result is not meant to be used. */
unsigned smoe_hex_decode(const char *digits, size_t n, uint8_t *ret_bytes);

#endif
