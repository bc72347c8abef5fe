/* SPDX-License-Identifier: Apache-2.0
 *
 * Everybody who gives something in an exchange has a lane: the chunks that it will be asked for, in an order
 * of its own. A lane goes in rounds through the experts and pieces that its worker has something of, a chunk
 * of each in a round. Lanes take turns, a chunk at a time, so that all links are in use from the beginning to
 * the end:
 *
 *     gradients   of the experts that the worker hosts, all pieces, in lane k of n from the k/n-th on, around: at any
 *                 time lanes are at pieces of different workers, and each gives to several
 *     weights     of all experts, in lane k from the k/n-th on, around, the pieces that the worker owns: at any time
 *                 lanes are at experts that stand on different workers; and so the weights before
 *     states      one lane: the pieces that are filled
 *
 * Flow control has four bounds (exchange_lanes.h): a slow worker makes the lanes wait that lead to it, and nobody's
 * memory grow; what must go through the gateway waits for the gateway alone. A lane waits with what it has
 * next and does not look for something else: that would end with the slow worker's part alone.
 *
 * A transfer counts in its giver's flow until it ends, in a peer's until that has taken it (`flows`).
 */
#include "daemon/core/exchange_lanes.h"

#include <string.h>

#include "common/base/assert.h"

#define CHUNK_BYTES (UINT64_C(1) << 19)

static uint64_t window(const struct smoe_core *c)
{
    return c->options.exchange_bytes ? c->options.exchange_bytes : SMOE_FLOW_BYTES;
}

/* ---- who gives ---- */

static bool any_stale(const struct smoe_sharded *s, uint32_t expert)
{
    for (uint32_t r = s->replica_first[expert]; r < s->replica_first[expert + 1]; r++)
        if (s->stale[r])
            return true;
    return false;
}

static bool gives_weights(const struct smoe_sharded *s)
{
    return s->exchange.kind == SMOE_EXCHANGE_WEIGHTS || s->exchange.kind == SMOE_EXCHANGE_OLDER;
}

/* Every worker that gives something in the exchange, in the sharding's scratch; false: nobody but `from` does. */
static bool mark_givers(struct smoe_core *c, const struct smoe_layer *layer, bool *gives)
{
    const struct smoe_sharded *s = layer->sharded;
    memset(gives, 0, c->fleet.n_used * sizeof *gives);
    bool gradients = s->exchange.kind == SMOE_EXCHANGE_GRADIENTS;
    for (uint32_t r = 0; gradients && r < s->sum_first[layer->shape.experts]; r++)
        gives[s->sum_worker[r]] = true;
    for (uint32_t i = 0; i < s->map.n_pieces; i++)
        if (gives_weights(s))
            gives[s->map.pieces[i].owner] = true;
    return s->exchange.kind != SMOE_EXCHANGE_STATES;
}

void smoe_lanes_begin(struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    bool *gives = c->sharding->gives;
    uint32_t n = 0;
    if (!mark_givers(c, layer, gives))
        gives[s->filling.from] = true;
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (gives[w])
            s->lanes[n++] = (struct smoe_lane){.worker = w};
    bool weights = gives_weights(s);
    for (uint32_t k = 0; k < n; k++) {
        s->lanes[k].first_expert = weights ? (uint32_t)((uint64_t)k * layer->shape.experts / n) : 0;
        s->lanes[k].first_piece = weights ? 0 : (uint32_t)((uint64_t)k * s->map.n_pieces / n);
    }
    s->exchange.n_lanes = n;
    s->exchange.turn = 0;
}

/* ---- what it gives ---- */

/* Whether the worker gives elements of the expert, and as which of its hosts. */
static bool gives_of(const struct smoe_sharded *s, uint32_t worker, uint32_t expert,
                     uint32_t *ret_rank)
{
    uint32_t first = s->sum_first[expert], last = s->sum_first[expert + 1];
    *ret_rank = 0;
    if (s->exchange.kind == SMOE_EXCHANGE_WEIGHTS)
        return any_stale(s, expert);
    if (s->exchange.kind != SMOE_EXCHANGE_GRADIENTS)
        return true;
    for (uint32_t r = first; r < last; r++)
        if (s->sum_worker[r] == worker) {
            *ret_rank = r - first;
            return true;
        }
    return false;
}

/* What of the piece the worker gives: all of it, what it owns, or what is being filled. */
static void piece_range(const struct smoe_sharded *s, uint32_t worker,
                        const struct smoe_shard_piece *p, uint64_t *ret_offset,
                        uint64_t *ret_length)
{
    uint64_t begin = p->offset, end = p->offset + p->length;
    if (s->exchange.kind == SMOE_EXCHANGE_STATES) {
        uint64_t first = s->filling.offset, last = first + s->filling.length;
        begin = begin > first ? begin : first;
        end = end < last ? end : last;
    }
    if (gives_weights(s) && p->owner != worker)
        end = begin;
    *ret_offset = begin;
    *ret_length = begin < end ? end - begin : 0;
}

/* Elements. */
static uint64_t chunk_of(const struct smoe_core *c, const struct smoe_layer *layer)
{
    uint64_t most = c->options.tensor_bytes_max, n;
    most = most < CHUNK_BYTES ? most : CHUNK_BYTES;
    n = most / (layer->sharded->exchange.kind == SMOE_EXCHANGE_STATES
                    ? smoe_held_element_bytes(layer)
                    : smoe_part_element_bytes(layer, false));
    return n ? n : 1;
}

/* The lane's chunk of its piece; false: that has none in this round. */
static bool chunk_at(const struct smoe_sharded *s, const struct smoe_lane *lane, uint64_t chunk,
                     struct smoe_range *ret)
{
    uint32_t piece = (lane->first_piece + lane->piece) % s->map.n_pieces;
    uint64_t behind = lane->round * chunk;
    piece_range(s, lane->worker, &s->map.pieces[piece], &ret->offset, &ret->length);
    if (behind >= ret->length)
        return false;
    ret->from = lane->worker;
    ret->offset += behind;
    ret->length -= behind;
    ret->length = ret->length < chunk ? ret->length : chunk;
    return true;
}

/* Moves the lane to the next chunk of this round; false: there is none. */
static bool find_in_round(const struct smoe_layer *layer, struct smoe_lane *lane, uint64_t chunk,
                          struct smoe_range *ret)
{
    const struct smoe_sharded *s = layer->sharded;
    uint32_t experts = layer->shape.experts;
    for (; lane->expert < experts; lane->expert++, lane->piece = 0) {
        ret->expert = (lane->first_expert + lane->expert) % experts;
        if (!gives_of(s, lane->worker, ret->expert, &ret->rank))
            continue;
        for (; lane->piece < s->map.n_pieces; lane->piece++)
            if (chunk_at(s, lane, chunk, ret))
                return lane->more = true;
    }
    return false;
}

/* False: the lane is through. */
static bool find_chunk(const struct smoe_layer *layer, struct smoe_lane *lane, uint64_t chunk,
                       struct smoe_range *ret)
{
    for (; !find_in_round(layer, lane, chunk, ret); lane->round++) {
        if (!lane->more)
            return false;
        lane->expert = lane->piece = 0;
        lane->more = false;
    }
    return true;
}

bool smoe_lanes_next(struct smoe_core *c, uint32_t l, struct smoe_range *ret)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    struct smoe_exchange *x = &s->exchange;
    uint64_t most = chunk_of(c, layer);
    for (uint32_t busy = 0; busy < x->n_lanes;) {
        x->turn = x->turn < x->n_lanes ? x->turn : 0;
        struct smoe_lane *lane = &s->lanes[x->turn];
        if (c->sharding->flows[lane->worker].out >= window(c)) {
            busy++;
            x->turn++;
            continue;
        }
        if (!find_chunk(layer, lane, most, ret)) {
            *lane = s->lanes[--x->n_lanes];
            continue;
        }
        ret->lane = x->turn++;
        return true;
    }
    return false;
}

void smoe_lanes_asked(struct smoe_core *c, uint32_t l, const struct smoe_range *range)
{
    c->layers[l].sharded->lanes[range->lane].piece++;
}

/* ---- how much is on its way ---- */

static bool fits(uint64_t used, uint64_t more, uint64_t most)
{
    return !used || used + more <= most;
}

bool smoe_flow_open(const struct smoe_core *c)
{
    return c->sharding->n_transfers < SMOE_TRANSFERS_MAX && c->sharding->bytes_out < 16 * window(c);
}

bool smoe_flow_leaves(const struct smoe_core *c, uint32_t from, uint64_t bytes)
{
    uint64_t most = window(c);
    return fits(c->sharding->flows[from].out, bytes, most) &&
           fits(c->sharding->bytes_out, bytes, 16 * most);
}

bool smoe_flow_fits(const struct smoe_core *c, const struct smoe_transfer *t)
{
    const struct smoe_sharding *all = c->sharding;
    uint64_t most = window(c);
    bool fit = !t->ask.others || fits(all->relayed_out, t->bytes, 4 * most);
    for (uint32_t i = 0; fit && i < t->ask.peers.n; i++)
        fit = fits(all->flows[t->ask.peers.peers[i]].in, t->bytes, 4 * most);
    return fit;
}

void smoe_flow_begin(struct smoe_core *c, struct smoe_transfer *t)
{
    struct smoe_sharding *all = c->sharding;
    all->n_transfers++;
    all->bytes_out += t->bytes;
    all->relayed_out += t->ask.others ? t->bytes : 0;
    all->flows[t->from].out += t->bytes;
    for (uint32_t i = 0; i < t->ask.peers.n; i++)
        all->flows[t->ask.peers.peers[i]].in += t->bytes;
    t->flows = (UINT64_C(1) << t->ask.peers.n) - 1;
}

static void leave_flow(struct smoe_core *c, struct smoe_transfer *t, uint32_t i)
{
    struct smoe_flow *flow = &c->sharding->flows[t->ask.peers.peers[i]];
    if (!(t->flows >> i & 1))
        return;
    smoe_assert(flow->in >= t->bytes);
    flow->in -= t->bytes;
    t->flows &= ~(UINT64_C(1) << i);
}

void smoe_flow_taken(struct smoe_core *c, struct smoe_transfer *t, uint32_t worker)
{
    for (uint32_t i = 0; i < t->ask.peers.n; i++)
        if (t->ask.peers.peers[i] == worker)
            leave_flow(c, t, i);
}

void smoe_flow_end(struct smoe_core *c, struct smoe_transfer *t)
{
    struct smoe_sharding *all = c->sharding;
    uint64_t relayed = t->ask.others ? t->bytes : 0;
    smoe_assert(all->n_transfers > 0 && all->bytes_out >= t->bytes && all->relayed_out >= relayed &&
                all->flows[t->from].out >= t->bytes);
    all->n_transfers--;
    all->bytes_out -= t->bytes;
    all->relayed_out -= relayed;
    all->flows[t->from].out -= t->bytes;
    for (uint32_t i = 0; i < t->ask.peers.n; i++)
        leave_flow(c, t, i);
}

void smoe_flow_check(const struct smoe_core *c, uint64_t in_bytes, uint64_t relayed_bytes)
{
    const struct smoe_sharding *all = c->sharding;
    uint64_t out = 0, in = 0;
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        out += all->flows[w].out;
        in += all->flows[w].in;
    }
    smoe_assert(out == all->bytes_out && in == in_bytes && relayed_bytes == all->relayed_out);
}
