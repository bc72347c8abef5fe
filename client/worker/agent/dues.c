/* SPDX-License-Identifier: Apache-2.0
 *
 * What is due from peers. The gateway announces each part (ShardDue) in the order of its own words, so that what a part
 * means is known from it, and only the elements are the peer's. A part over a link may come before its announcement:
 * then it waits; or after the gateway has given it up: then it is passed over. One that comes twice (over a link that
 * broke before its acknowledgement got through, then through the gateway) counts once.
 *
 * Numbers of transfers that are equal modulo SMOE_TRANSFERS_MAX rise, and of these the highest is under way: a table of
 * so many entries is enough, and nothing in it grows.
 */
#include <float.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"
#include "common/base/within.h"

/* Parts that are not due yet; the peer sends no more than SMOE_LINK_BYTES_MAX ahead, or one. */
#define PARKED_BYTES_MAX (2 * SMOE_LINK_BYTES_MAX)

static struct smoe_due *due_of(const struct smoe_agent *a, uint64_t number)
{
    return &a->dues[number % SMOE_TRANSFERS_MAX];
}

static bool is_due(const struct smoe_due *d, uint64_t number)
{
    return d->used && d->part.number == number;
}

bool smoe_agent_due_done(const struct smoe_agent *a, uint64_t number)
{
    const struct smoe_due *d = due_of(a, number);
    return is_due(d, number) && d->done;
}

bool smoe_agent_due_claim(struct smoe_agent *a, uint64_t number)
{
    struct smoe_due *d = due_of(a, number);
    bool again = smoe_agent_due_done(a, number);
    if (is_due(d, number))
        d->done = true;
    return !again;
}

/* ---- taking ---- */

/* Bytes that the part must have; false: nobody waits for it any more. */
static bool wanted(struct smoe_agent *a, const struct smoe_due *d, uint64_t *ret_bytes)
{
    struct smoe_why unused;
    return !d->done && smoe_agent_shard_bytes(a, &d->part, ret_bytes, &unused) == 0;
}

static bool good_numbers(const struct smoe_held_layer *layer, enum smoe_shard_kind kind,
                         const struct smoe_blob *blob)
{
    bool rounded = layer->shape.wire == SMOE_WIRE_BF16 && kind != SMOE_SHARD_STATE;
    return smoe_within(blob->data, blob->bytes, rounded ? sizeof(uint16_t) : sizeof(smoe_real),
                       sizeof(smoe_real) == sizeof(double) && !rounded ? DBL_MAX : (double)FLT_MAX);
}

static int take(struct smoe_agent *a, struct smoe_due *d, struct smoe_blob *blob,
                struct smoe_why *why)
{
    uint64_t bytes;
    if (!wanted(a, d, &bytes))
        return 0;
    if (blob->bytes != bytes)
        return smoe_fail(why, SMOE_ESHAPE, "LINK_PART: raw part of %zu bytes, expected %llu",
                         blob->bytes, (unsigned long long)bytes);
    if (!good_numbers(smoe_experts_layer(&a->experts, d->part.layer), d->part.kind, blob))
        return smoe_fail(why, SMOE_ENOTFINITE, "LINK_PART: numbers that cannot be");
    struct smoe_message m = {.type = SMOE_MSG_SHARD_PART};
    m.shard_part = d->part;
    int rc = smoe_agent_state(a, &m, blob, why);
    d->done = rc == 0; /* else it is still due, by another way */
    return rc;
}

/* ---- coming over a link ---- */

int smoe_agent_due_expect(struct smoe_agent *a, const struct smoe_agent_peer *p, uint64_t number,
                          size_t bytes, struct smoe_why *why)
{
    const struct smoe_due *d = due_of(a, number);
    uint64_t right;
    bool early = !d->used || d->part.number < number;
    if (!early && (d->part.number != number || d->from != p->number || !wanted(a, d, &right)))
        return SMOE_CHANNEL_SKIP;
    if (!early && bytes != right)
        return smoe_fail(why, SMOE_ESHAPE, "LINK_PART: raw part of %zu bytes, expected %llu", bytes,
                         (unsigned long long)right);
    if (early && p->parked_bytes && p->parked_bytes + bytes > PARKED_BYTES_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "LINK_PART: more than may be sent ahead");
    smoe_agent_make_room(a, bytes);
    return 0;
}

/* What was parked is taken or given up: its sender may forget it. */
static void unpark(struct smoe_agent *a, struct smoe_due *d, bool good)
{
    struct smoe_agent_peer *p = smoe_agent_peer(a, d->parked_from);
    struct smoe_message m = {.type = SMOE_MSG_LINK_TAKEN};
    m.link_taken.number = d->parked_number;
    if (p)
        p->parked_bytes -= d->parked->bytes < p->parked_bytes ? d->parked->bytes : p->parked_bytes;
    if (p && p->up && good)
        smoe_agent_link_send(p->up, &m, NULL, 0);
    else if (p && p->up)
        p->up->over = true;
    smoe_blob_unref(d->parked);
    d->parked = NULL;
}

static void park(struct smoe_agent *a, struct smoe_agent_peer *p, struct smoe_due *d,
                 uint64_t number, struct smoe_blob *blob)
{
    if (d->parked)
        unpark(a, d, true); /* of the two the one with the higher number can be due */
    a->any_due = true;
    d->parked = smoe_blob_ref(blob);
    d->parked_number = number;
    d->parked_from = p->number;
    p->parked_bytes += blob->bytes;
}

int smoe_agent_due_came(struct smoe_agent *a, struct smoe_agent_peer *p, uint64_t number,
                        struct smoe_blob *blob, bool *ret_kept, struct smoe_why *why)
{
    struct smoe_due *d = due_of(a, number);
    bool early = !d->used || d->part.number < number;
    *ret_kept = early && !(d->parked && d->parked_number > number);
    if (*ret_kept)
        park(a, p, d, number, blob);
    if (early || d->part.number != number || d->from != p->number)
        return 0;
    return take(a, d, blob, why);
}

/* ---- the gateway's word ---- */

void smoe_agent_due(struct smoe_agent *a, const struct smoe_msg_shard_due *m)
{
    struct smoe_due *d = due_of(a, m->part.number);
    struct smoe_why unused;
    a->any_due = d->used = true;
    d->done = false;
    d->from = m->from;
    d->part = m->part;
    if (!d->parked || d->parked_number > m->part.number)
        return;
    bool same = d->parked_number == m->part.number && d->parked_from == m->from;
    unpark(a, d, !same || take(a, d, d->parked, &unused) == 0);
}

void smoe_agent_forget_dues(struct smoe_agent *a)
{
    for (size_t i = 0; a->any_due && i < SMOE_TRANSFERS_MAX; i++) {
        smoe_blob_unref(a->dues[i].parked);
        a->dues[i] = (struct smoe_due){0};
    }
    a->any_due = false;
}
