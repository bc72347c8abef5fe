/* SPDX-License-Identifier: Apache-2.0
 *
 * A gateway's handshakes take their turns. A step of one, which is what the bytes of one `received` bring
 * about, costs a hundred microseconds and more; 96 of them in one turn of the event loop, and the slot is
 * late. So at most `shakes_a_turn` are made in a turn. The others' bytes are copied (they lie in a buffer
 * that all connections share) and wait in order of arrival, and who is still waiting waits behind nobody who
 * came later.
 *
 * What waits is at most a handshake's worth of bytes, SMOE_TLS_HANDSHAKE_BYTES_MAX, for the time of a turn or
 * a few, and before OpenSSL has taken memory for them. Bytes that cannot begin a handshake do not wait, they
 * end it.
 *
 * Where a turn begins only the owner of the loop knows: he is told by `shaking` that one has work in it, and says
 * smoe_tls_context_turn in the next one.
 *
 * Invariants: 1. a connection is on the list of the waiting iff it has `held` bytes. 2. If some wait, `shaking` was
 * called and no turn followed.
 */
#include <stdlib.h>
#include <string.h>

#include "common/io/tls_internal.h"

/* Of somebody whose bytes wait, more bytes. False: it is over. */
static bool hold(struct smoe_tls *tls, const uint8_t *data, size_t n)
{
    if (tls->received > SMOE_TLS_HANDSHAKE_BYTES_MAX) {
        smoe_tls_end_because(tls, "a handshake of too many bytes");
        return false;
    }
    uint8_t *more = realloc(tls->held, tls->n_held + n);
    if (!more) {
        smoe_tls_end_because(tls, "out of memory");
        return false;
    }
    memcpy(more + tls->n_held, data, n);
    tls->held = more;
    tls->n_held += n;
    return true;
}

static bool is_waiting(const struct smoe_tls *tls)
{
    return tls->held != NULL;
}

void smoe_tls_wait_no_more(struct smoe_tls *tls)
{
    if (!is_waiting(tls))
        return;
    smoe_list_remove(&tls->turn);
    free(tls->held);
    tls->held = NULL;
    tls->n_held = 0;
}

/* One step is made now; it is told that there was one in this turn. */
static void count(struct smoe_tls_context *c)
{
    if (c->shakes++ == 0 && c->options.shaking)
        c->options.shaking(c->options.loop);
}

bool smoe_tls_waits(struct smoe_tls *tls, const uint8_t *data, size_t n)
{
    struct smoe_tls_context *c = tls->context;
    if (!c->options.shakes_a_turn)
        return false;
    bool waited = is_waiting(tls);
    if (!waited && c->shakes < c->options.shakes_a_turn) {
        count(c);
        return false;
    }
    if (!hold(tls, data, n)) {
        smoe_tls_wait_no_more(tls);
        return false;
    }
    if (!waited)
        smoe_list_push_back(&c->waiting, &tls->turn);
    return true;
}

bool smoe_tls_context_turn(struct smoe_tls_context *c)
{
    struct smoe_list *first;
    c->shakes = 0;
    while (c->shakes < c->options.shakes_a_turn && (first = smoe_list_first(&c->waiting))) {
        struct smoe_tls *tls = smoe_container_of(first, struct smoe_tls, turn);
        uint8_t *held = tls->held;
        size_t n = tls->n_held;
        tls->held = NULL; /* before its owner, who may end it, hears of anything */
        tls->n_held = 0;
        smoe_list_remove(&tls->turn);
        if (tls->state == SMOE_TLS_SHAKING) {
            count(c);
            smoe_tls_take(tls, held, n);
        }
        free(held);
    }
    return c->shakes > 0;
}
