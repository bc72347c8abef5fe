/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is let in: the gateway's keys, or whom it trusts to certify others, and TLS that asks for them; or,
 * where that was said in so many words, plaintext between processes of this machine.
 */
#ifndef SMOE_DAEMON_GUARD_H
#define SMOE_DAEMON_GUARD_H

#include <uv.h>

#include "common/io/tls.h"

/* Of handshakes, in one turn of the event loop: some 0.2 ms each, between which slots end. */
#define SMOE_GUARD_SHAKES_A_TURN 4

/* What plaintext is allowed to. */
#define SMOE_INSECURE_MAP(X) \
    X(NO, "no")              \
    X(LOOPBACK, "loopback-only")

enum smoe_insecure {
#define X(symbol, name) SMOE_INSECURE_##symbol,
    SMOE_INSECURE_MAP(X)
#undef X
};

struct smoe_guard {
    struct smoe_keyring keys;
    const char *certificate;      /* borrowed; the file, or NULL: keys */
    struct smoe_tls_context *tls; /* NULL: plaintext, on loopback only */
    uv_idle_t turns;              /* runs while handshakes wait for the next turn */
};

/* Once the loop is there, and before smoe_guard_init; the handle is closed by smoe_guard_close. */
void smoe_guard_start(struct smoe_guard *guard, uv_loop_t *loop);
void smoe_guard_close(struct smoe_guard *guard);

/* Reads the keys of the directory `dir`, or, if `certificate` is not "", that file instead; both are
 * borrowed. SMOE_ECONFIG where there are none, or not as they should be: nobody is let in then, and the
 * sentence says what to do. */
int smoe_guard_init(struct smoe_guard *guard, enum smoe_insecure insecure, int dir,
                    const char *certificate,
                    void (*established)(void *context, const struct smoe_key *peer),
                    struct smoe_why *why);

/* Reads them again. On failure of any kind those in force stay. */
int smoe_guard_reload(struct smoe_guard *guard, int dir, struct smoe_why *why);

/* After all connections are closed. May be zeroed. */
void smoe_guard_release(struct smoe_guard *guard);

#endif
