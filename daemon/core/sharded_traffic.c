/* SPDX-License-Identifier: Apache-2.0
 *
 * What an iteration of a sharded layer sends, counted where parts are passed on, or said to be sent directly:
 * MODEL.md (29) says what it should come to. An iteration begins with the gradients of a step and ends when
 * all slots have the weights that came of it. What an attempt sent that failed was sent, and counts with the
 * iteration that it was of. And how long its parts took, by the clock of events: a step that is tried again
 * is in STEPPING until it is committed.
 */
#include <string.h>

#include "daemon/core/sharded.h"

/* Adds one transfer from worker to worker to the books of both. */
static void book(struct smoe_shard_traffic *from, struct smoe_shard_traffic *to,
                 enum smoe_shard_kind kind, bool follows, uint64_t bytes)
{
    bool gradient = kind == SMOE_SHARD_GRADIENT;
    uint64_t *sent = gradient && follows        ? &from->exchanged.follow_sent
                     : gradient                 ? &from->exchanged.gradient_sent
                     : kind == SMOE_SHARD_STATE ? &from->state_sent
                                                : &from->exchanged.weight_sent;
    uint64_t *received = gradient && follows        ? &to->exchanged.follow_received
                         : gradient                 ? &to->exchanged.gradient_received
                         : kind == SMOE_SHARD_STATE ? &to->state_received
                                                    : &to->exchanged.weight_received;
    *sent += bytes;
    *received += bytes;
}

void smoe_traffic_count(struct smoe_core *c, const struct smoe_transfer *t, const uint32_t *takers,
                        uint32_t n_takers)
{
    const struct smoe_sharded *s = c->layers[t->ask.layer].sharded;
    struct smoe_shard_traffic *now = s->traffic_now;
    uint32_t follower = smoe_exchange_piece_at(s, t->ask.offset)->follower;
    uint64_t direct = t->direct.n * t->bytes, relayed = (n_takers - t->direct.n) * t->bytes;
    now[t->from].uploaded += relayed ? t->bytes : 0;
    now[t->from].direct += direct;
    smoe_links_count(c, t->from, direct, relayed);
    for (uint32_t i = 0; i < n_takers; i++)
        book(&now[t->from], &now[takers[i]], t->ask.kind, takers[i] == follower, t->bytes);
}

void smoe_traffic_count_again(struct smoe_core *c, const struct smoe_transfer *t)
{
    c->layers[t->ask.layer].sharded->traffic_now[t->from].uploaded += t->bytes;
    smoe_links_count(c, t->from, 0, t->bytes);
}

void smoe_traffic_weights_came(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    if (!s->ending)
        return;
    struct smoe_shard_traffic *before = s->traffic;
    s->traffic = s->traffic_now;
    s->traffic_now = before;
    memset(before, 0, c->options.limits.workers_max * sizeof *before);
    smoe_traffic_turn(c, l, SMOE_PART_COMPUTING);
    for (int p = 0; p < SMOE_PARTS; p++)
        s->part_ns[p] += s->part_ns_now[p];
    memset(s->part_ns_now, 0, sizeof s->part_ns_now);
    s->part_since_ns = c->now_ns;
    s->ending = false;
    s->iterations++;
}

void smoe_traffic_turn(struct smoe_core *c, uint32_t l, enum smoe_iteration_part part)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    if (part == s->part)
        return;
    if (s->part_since_ns)
        s->part_ns_now[s->part] += c->now_ns - s->part_since_ns;
    if (s->part_since_ns)
        s->part_since_ns = c->now_ns;
    s->part = part;
}

void smoe_traffic_forget(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    s->traffic[worker] = s->traffic_now[worker] = (struct smoe_shard_traffic){0};
}
