/* SPDX-License-Identifier: Apache-2.0
 *
 * Nothing here compares secrets: keys are found by their names, and whether somebody has the right one is
 * decided by OpenSSL, which compares the binders of the handshake in constant time. What remains are
 * the two translations between bytes and digits. They work on every digit alike, and whether the digits were
 * good is asked once, of all of them together.
 */
#include "common/io/key.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "common/base/text.h"
#include "common/base/wipe.h"

#define PREFIX "smoe1:"

static const char *const role_names[] = {
    [SMOE_ROLE_WORKER] = "worker",
    [SMOE_ROLE_TRAINER] = "trainer",
    [SMOE_ROLE_ADMIN] = "admin",
    [SMOE_ROLE_PEER] = "peer",
};

const char *smoe_role_name(enum smoe_role role)
{
    return role_names[role];
}

bool smoe_role_parse(const char *text, size_t len, enum smoe_role *ret)
{
    for (size_t r = SMOE_ROLE_WORKER; r < SMOE_ROLE_PEER; r++)
        if (strlen(role_names[r]) == len && memcmp(role_names[r], text, len) == 0) {
            *ret = (enum smoe_role)r;
            return true;
        }
    return false;
}

/* ---- digits ---- */

/* All ones if a < b, else 0; both below 2^31. */
static unsigned below(unsigned a, unsigned b)
{
    return 0u - ((a - b) >> 31);
}

void smoe_hex_encode(const uint8_t *bytes, size_t n, char *ret_digits)
{
    for (size_t i = 0; i < 2 * n; i++) {
        unsigned nibble = i % 2 ? bytes[i / 2] & 15u : bytes[i / 2] >> 4;
        ret_digits[i] = (char)('0' + nibble + (below(9, nibble) & ('a' - '0' - 10)));
    }
}

unsigned smoe_hex_decode(const char *digits, size_t n, uint8_t *ret_bytes)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned byte = 0;
        for (size_t half = 0; half < 2; half++) {
            unsigned c = (unsigned char)digits[2 * i + half];
            unsigned is_number = ~below(c, '0') & below(c, '9' + 1);
            unsigned is_letter = ~below(c, 'a') & below(c, 'f' + 1);
            bad |= ~(is_number | is_letter);
            byte = byte << 4 | (is_number & (c - '0')) | (is_letter & (c - 'a' + 10));
        }
        ret_bytes[i] = (uint8_t)byte;
    }
    return bad;
}

/* ---- keys ---- */

static void set_print(struct smoe_key *key)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256(key->secret, sizeof key->secret, digest);
    smoe_hex_encode(digest, SMOE_KEY_PRINT_DIGITS / 2, key->print);
    key->print[SMOE_KEY_PRINT_DIGITS] = 0;
    smoe_wipe(digest, sizeof digest);
}

int smoe_key_make(enum smoe_role role, const char *name, struct smoe_key *ret, struct smoe_why *why)
{
    struct smoe_key key = {.role = role};
    if (!smoe_name_valid(name, strnlen(name, SMOE_NAME_MAX + 1)))
        return smoe_fail(why, SMOE_EFIELD, "a name has 1..%d of [A-Za-z0-9._-]", SMOE_NAME_MAX);
    smoe_name_copy(key.name, name);
    if (RAND_priv_bytes(key.secret, sizeof key.secret) != 1)
        return smoe_fail(why, SMOE_EUNKNOWN, "no random numbers");
    set_print(&key);
    *ret = key;
    smoe_wipe(&key, sizeof key);
    return 0;
}

void smoe_key_of_link(const char *name, const uint8_t secret[SMOE_KEY_BYTES], struct smoe_key *ret)
{
    *ret = (struct smoe_key){.role = SMOE_ROLE_PEER};
    smoe_name_copy(ret->name, name);
    memcpy(ret->secret, secret, SMOE_KEY_BYTES);
    set_print(ret);
}

static int malformed(struct smoe_why *why)
{
    return smoe_fail(why, SMOE_EDATA,
                     "no key: a key is one line " PREFIX
                     "ROLE:NAME:, ROLE worker, trainer or admin, and 64 digits of 0-9a-f");
}

/* `name:digits`, to the end of the line. */
static int parse_rest(const char *rest, size_t len, struct smoe_key *key)
{
    const char *colon = memchr(rest, ':', len);
    size_t name_len = colon ? (size_t)(colon - rest) : 0;
    if (!smoe_name_valid(rest, name_len) || len - name_len - 1 != 2 * SMOE_KEY_BYTES)
        return SMOE_EDATA;
    memcpy(key->name, rest, name_len);
    key->name[name_len] = 0;
    return smoe_hex_decode(colon + 1, SMOE_KEY_BYTES, key->secret) ? SMOE_EDATA : 0;
}

int smoe_key_parse(const char *line, size_t len, struct smoe_key *ret, struct smoe_why *why)
{
    const size_t prefix = sizeof PREFIX - 1;
    struct smoe_key key = {.role = SMOE_ROLE_WORKER};
    if (len <= prefix || len >= SMOE_KEY_LINE_MAX || memcmp(line, PREFIX, prefix) != 0)
        return malformed(why);
    const char *role = line + prefix;
    const char *colon = memchr(role, ':', len - prefix);
    if (!colon || !smoe_role_parse(role, (size_t)(colon - role), &key.role))
        return malformed(why);
    int rc = parse_rest(colon + 1, len - (size_t)(colon + 1 - line), &key);
    if (rc == 0) {
        set_print(&key);
        *ret = key;
    }
    smoe_wipe(&key, sizeof key);
    return rc ? malformed(why) : 0;
}

void smoe_key_format(const struct smoe_key *key, char ret[SMOE_KEY_LINE_MAX])
{
    int n = snprintf(ret, SMOE_KEY_LINE_MAX, PREFIX "%s:%s:", smoe_role_name(key->role), key->name);
    smoe_hex_encode(key->secret, SMOE_KEY_BYTES, ret + n);
    ret[n + 2 * SMOE_KEY_BYTES] = 0;
}

void smoe_key_identity(const struct smoe_key *key, char ret[SMOE_KEY_IDENTITY_MAX])
{
    snprintf(ret, SMOE_KEY_IDENTITY_MAX, "%s:%s:%s", smoe_role_name(key->role), key->name,
             key->print);
}
