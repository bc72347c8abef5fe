/* SPDX-License-Identifier: Apache-2.0
 *
 * Elements of sharded layers on their way between workers. The core asks (ShardAsk), the worker sends them to those
 * who need them over direct links (links.h) where it has them, and answers with a ShardPart, which is passed on to the
 * others, or, if there are none, with ShardSent; whoever needed them says ShardTaken:
 *
 *     ask --> [part --> passed on to those without a link, or sent] --> n x taken
 *     nobody else needs it: ask --> taken
 *
 * Should a link break, the worker sends what was on it once more, for that one peer (ShardPart.again).
 *
 * A layer has one exchange at a time; which range is asked of whom, and how much at a time, is exchange_lanes.c's. Any
 * order is right: sums are added in the order of ranks whenever they came, and weights count when all of them have.
 *
 * An exchange is voided when the step it belongs to ends or somebody it needs is gone; numbers are never used again,
 * so what still comes of it is recognised. Weights are then asked for anew under another `fill`.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/exchange_lanes.h"

static uint64_t element_bytes(const struct smoe_layer *layer, enum smoe_exchange_kind kind)
{
    return kind == SMOE_EXCHANGE_STATES ? smoe_held_element_bytes(layer)
                                        : smoe_part_element_bytes(layer, false);
}

/* ---- whom ---- */

/* The map covers every element. */
const struct smoe_shard_piece *smoe_exchange_piece_at(const struct smoe_sharded *s, uint64_t offset)
{
    uint32_t i = 0;
    while (i + 1 < s->map.n_pieces && s->map.pieces[i + 1].offset <= offset)
        i++;
    return &s->map.pieces[i];
}

/* Who else needs the range, in the update's memory. */
static uint32_t list_takers(struct smoe_core *c, const struct smoe_sharded *s,
                            const struct smoe_msg_shard_ask *ask, uint32_t from,
                            const uint32_t **ret)
{
    uint32_t first = s->replica_first[ask->expert], last = s->replica_first[ask->expert + 1];
    uint32_t *list = smoe_core_list(c, (last - first + 2) * sizeof *list), n = 0;
    const struct smoe_shard_piece *p = smoe_exchange_piece_at(s, ask->offset);
    if (ask->kind == SMOE_SHARD_STATE)
        list[n++] = s->filling.to;
    if (ask->kind == SMOE_SHARD_GRADIENT && p->owner != from)
        list[n++] = p->owner;
    if (ask->kind == SMOE_SHARD_GRADIENT && p->follower != SMOE_SHARD_NONE && p->follower != from)
        list[n++] = p->follower;
    for (uint32_t r = first; ask->kind == SMOE_SHARD_WEIGHTS && r < last; r++)
        if ((s->stale[r] || ask->older) && s->replica_worker[r] != from)
            list[n++] = s->replica_worker[r];
    smoe_core_list_trim(c, list, n * sizeof *list);
    *ret = list;
    return n;
}

/* ---- asking ---- */

/* There is one: smoe_flow_open. */
static uint32_t free_transfer(const struct smoe_core *c)
{
    uint32_t i = 0;
    while (c->sharding->transfers[i].used)
        i++;
    smoe_assert(i < SMOE_TRANSFERS_MAX);
    return i;
}

/* Who gets it over a link hears of it before the peer is asked: what comes from there unannounced is not taken. */
static void announce(struct smoe_core *c, const struct smoe_transfer *t)
{
    for (uint32_t i = 0; i < t->ask.peers.n; i++) {
        uint32_t session = c->fleet.workers[t->ask.peers.peers[i]].session;
        struct smoe_msg_shard_due *m = &smoe_core_send(c, session, SMOE_MSG_SHARD_DUE)->shard_due;
        m->from = t->from;
        m->part = smoe_msg_shard_part_of(&t->ask);
    }
}

static struct smoe_msg_shard_ask ask_for(const struct smoe_core *c, uint32_t l,
                                         const struct smoe_range *range)
{
    const struct smoe_layer *layer = &c->layers[l];
    const struct smoe_sharded *s = layer->sharded;
    enum smoe_exchange_kind kind = s->exchange.kind;
    bool gradient = kind == SMOE_EXCHANGE_GRADIENTS;
    const struct smoe_step *step = gradient ? &c->trainers[layer->owner].step : NULL;
    return (struct smoe_msg_shard_ask){
        .kind = gradient                       ? SMOE_SHARD_GRADIENT
                : kind == SMOE_EXCHANGE_STATES ? SMOE_SHARD_STATE
                                               : SMOE_SHARD_WEIGHTS,
        .layer = l,
        .expert = range->expert,
        .offset = range->offset,
        .length = range->length,
        .rank = range->rank,
        .step = gradient ? step->number : layer->step,
        .attempt = gradient ? step->attempt : layer->attempt,
        .fill = s->fill,
        .keep = kind == SMOE_EXCHANGE_WEIGHTS &&
                smoe_sharded_has_weights(s, range->expert, range->from),
        .older =
            kind == SMOE_EXCHANGE_OLDER || (kind == SMOE_EXCHANGE_STATES && layer->shape.staleness),
    };
}

/* The transfer that the range would be, with all but its number. */
static struct smoe_transfer transfer_for(struct smoe_core *c, uint32_t l,
                                         const struct smoe_range *range, uint64_t bytes)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_transfer t = {.used = true,
                              .asked = true,
                              .from = range->from,
                              .bytes = bytes,
                              .ask = ask_for(c, l, range)};
    const uint32_t *takers;
    uint32_t n = list_takers(c, layer->sharded, &t.ask, t.from, &takers);
    t.n_due = n ? n : 1;
    t.ask.send = n > 0;
    smoe_links_reach(c, t.from, takers, n, &t.ask.peers);
    t.ask.others = n > t.ask.peers.n;
    smoe_core_list_trim(c, takers, 0);
    return t;
}

/* Asks for the next chunk of the layer for which there is room; false: there is none, now. */
static bool ask_next(struct smoe_core *c, uint32_t l)
{
    struct smoe_exchange *x = &c->layers[l].sharded->exchange;
    struct smoe_range range;
    for (uint32_t tries = x->n_lanes; tries && smoe_lanes_next(c, l, &range); tries--) {
        uint64_t bytes = element_bytes(&c->layers[l], x->kind) * range.length;
        if (!smoe_flow_leaves(c, range.from, bytes))
            continue;
        struct smoe_transfer t = transfer_for(c, l, &range, bytes);
        if (!smoe_flow_fits(c, &t))
            continue;
        uint32_t slot = free_transfer(c);
        t.ask.number = ++c->sharding->serial * SMOE_TRANSFERS_MAX + slot;
        c->sharding->transfers[slot] = t;
        smoe_lanes_asked(c, l, &range);
        smoe_flow_begin(c, &c->sharding->transfers[slot]);
        x->n_out++;
        announce(c, &t);
        smoe_core_send(c, c->fleet.workers[t.from].session, SMOE_MSG_SHARD_ASK)->shard_ask = t.ask;
        return true;
    }
    return false;
}

static void finish(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    enum smoe_exchange_kind kind = s->exchange.kind;
    s->exchange = (struct smoe_exchange){0};
    c->sharding->exchanging &= ~(UINT64_C(1) << l);
    if (kind == SMOE_EXCHANGE_GRADIENTS)
        return; /* norms follow */
    if (kind == SMOE_EXCHANGE_WEIGHTS) {
        memset(s->stale, 0, s->replica_first[c->layers[l].shape.experts] * sizeof *s->stale);
        smoe_traffic_weights_came(c, l);
    }
    if (kind == SMOE_EXCHANGE_OLDER)
        smoe_sharded_before_filled(c, l);
    if (kind == SMOE_EXCHANGE_STATES)
        smoe_sharded_filled(c, l);
    smoe_layers_advance(c); /* to which a step may be waiting for this */
}

/* One chunk of each layer in turn, so that none waits for another's whole exchange. */
static void ask_all(struct smoe_core *c)
{
    for (bool more = true; more;) {
        more = false;
        for (uint64_t left = c->sharding->exchanging; left && smoe_flow_open(c); left &= left - 1) {
            uint32_t l = (uint32_t)__builtin_ctzll(left);
            more |= ask_next(c, l);
        }
    }
}

static bool finish_any(struct smoe_core *c)
{
    for (uint64_t left = c->sharding->exchanging; left; left &= left - 1) {
        uint32_t l = (uint32_t)__builtin_ctzll(left);
        const struct smoe_exchange *x = &c->layers[l].sharded->exchange;
        if (x->n_lanes || x->n_out)
            continue;
        finish(c, l);
        return true;
    }
    return false;
}

void smoe_exchange_pump(struct smoe_core *c)
{
    if (!c->sharding || !c->sharding->exchanging)
        return;
    do
        ask_all(c);
    while (finish_any(c));
}

void smoe_exchange_begin(struct smoe_core *c, uint32_t l, enum smoe_exchange_kind kind)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    smoe_assert(s->exchange.kind == SMOE_EXCHANGE_NONE);
    s->exchange = (struct smoe_exchange){.kind = kind};
    c->sharding->exchanging |= UINT64_C(1) << l;
    if (kind == SMOE_EXCHANGE_WEIGHTS || kind == SMOE_EXCHANGE_OLDER)
        s->fill = ++c->sharding->serial;
    smoe_lanes_begin(c, l);
}

bool smoe_exchange_under_way(const struct smoe_core *c, uint64_t layers)
{
    for (uint32_t l = 0; c->sharding && l < SMOE_LAYERS_MAX; l++)
        if ((layers >> l & 1) && c->layers[l].sharded &&
            (c->layers[l].sharded->exchange.kind != SMOE_EXCHANGE_NONE ||
             c->layers[l].sharded->filling.length))
            return true;
    return false;
}

/* ---- answers ---- */

static void end_transfer(struct smoe_core *c, struct smoe_transfer *t)
{
    c->layers[t->ask.layer].sharded->exchange.n_out--;
    smoe_flow_end(c, t);
    t->used = false;
}

void smoe_exchange_void(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    for (uint32_t i = 0; i < SMOE_TRANSFERS_MAX && s->exchange.n_out; i++)
        if (c->sharding->transfers[i].used && c->sharding->transfers[i].ask.layer == l)
            end_transfer(c, &c->sharding->transfers[i]);
    c->sharding->exchanging &= ~(UINT64_C(1) << l);
    s->exchange = (struct smoe_exchange){0};
}

static struct smoe_transfer *transfer_of(const struct smoe_core *c, uint64_t number)
{
    if (!c->sharding)
        return NULL;
    struct smoe_transfer *t = &c->sharding->transfers[number % SMOE_TRANSFERS_MAX];
    return t->used && t->ask.number == number ? t : NULL;
}

/* The transfer that this is what was asked of the worker, or, to one whose link broke, what is not there yet; or NULL:
 * late. */
static struct smoe_transfer *expected(const struct smoe_core *c, uint32_t worker,
                                      const struct smoe_msg_shard_part *m)
{
    struct smoe_transfer *t = transfer_of(c, m->number);
    bool right = t && t->ask.send && t->from == worker && m->kind == t->ask.kind &&
                 m->layer == t->ask.layer && m->expert == t->ask.expert &&
                 m->offset == t->ask.offset && m->length == t->ask.length &&
                 m->rank == t->ask.rank && m->step == t->ask.step && m->attempt == t->ask.attempt &&
                 m->fill == t->ask.fill && m->older == t->ask.older;
    bool due = right && (m->again ? smoe_peers_have(&t->direct, m->again - 1) : t->asked);
    return due ? t : NULL;
}

struct smoe_verdict smoe_exchange_expect(const struct smoe_core *c, uint32_t worker,
                                         const struct smoe_msg_shard_part *m)
{
    const struct smoe_transfer *t = expected(c, worker, m);
    if (!t)
        return smoe_sharded_expect_state(c, worker, m);
    return (struct smoe_verdict){.kind = SMOE_TAKE, .bytes = t->bytes};
}

static void pass_to(struct smoe_core *c, const struct smoe_transfer *t, uint32_t taker)
{
    smoe_core_send(c, c->fleet.workers[taker].session, SMOE_MSG_SHARD_PART)->shard_part =
        smoe_msg_shard_part_of(&t->ask);
    smoe_core_attach(c, SMOE_TENSOR_PASS, SMOE_NONE, NULL, 0);
}

static void end_if_taken(struct smoe_core *c, struct smoe_transfer *t)
{
    if (!t->n_due && (!t->asked || !t->ask.send))
        end_transfer(c, t);
}

/* It goes directly to these, the rest is for the daemon to pass on. Returns how many those are. */
static uint32_t begin_sending(struct smoe_core *c, struct smoe_transfer *t,
                              const struct smoe_peer_list *direct, const uint32_t **ret_takers,
                              uint32_t *ret_n)
{
    uint32_t n = list_takers(c, c->layers[t->ask.layer].sharded, &t->ask, t->from, ret_takers);
    t->asked = false;
    t->direct = (struct smoe_peer_list){0};
    for (uint32_t i = 0; i < direct->n; i++)
        if (smoe_peers_have(&t->ask.peers, direct->peers[i]))
            t->direct.peers[t->direct.n++] = direct->peers[i]; /* they rise */
    smoe_traffic_count(c, t, *ret_takers, n);
    *ret_n = n;
    return n - t->direct.n;
}

void smoe_exchange_part(struct smoe_core *c, uint32_t worker, const struct smoe_msg_shard_part *m)
{
    struct smoe_transfer *t = expected(c, worker, m);
    const uint32_t *takers;
    uint32_t n;
    if (!t) {
        smoe_sharded_state(c, worker, m); /* or it was voided while it came in */
        return;
    }
    if (m->again) {
        (void)smoe_peers_drop(&t->direct, m->again - 1);
        smoe_traffic_count_again(c, t);
        pass_to(c, t, m->again - 1);
        return;
    }
    (void)begin_sending(c, t, &m->direct, &takers, &n);
    for (uint32_t i = 0; i < n; i++)
        if (!smoe_peers_have(&t->direct, takers[i]))
            pass_to(c, t, takers[i]);
    end_if_taken(c, t);
}

void smoe_exchange_sent(struct smoe_core *c, uint32_t session, uint32_t worker,
                        const struct smoe_msg_shard_sent *m)
{
    struct smoe_transfer *t = transfer_of(c, m->number);
    const uint32_t *takers;
    uint32_t n;
    if (!t || !t->asked || !t->ask.send || t->from != worker)
        return;
    if (begin_sending(c, t, &m->direct, &takers, &n)) {
        smoe_core_refuse(c, session, SMOE_EFIELD,
                         "SHARD_SENT.direct: somebody who needs it is not among them", true, 0, 0);
        return;
    }
    end_if_taken(c, t);
}

/* Who gets it directly may have it before its sender says so. */
void smoe_exchange_taken(struct smoe_core *c, uint32_t worker, const struct smoe_msg_shard_taken *m)
{
    struct smoe_transfer *t = transfer_of(c, m->number);
    if (c->sharding && !t)
        smoe_sharded_stored(c, m);
    bool early = t && t->asked && t->ask.send && !smoe_peers_have(&t->ask.peers, worker);
    if (!t || early || !t->n_due || (!t->ask.send && t->from != worker))
        return;
    t->n_due--;
    smoe_flow_taken(c, t, worker);
    end_if_taken(c, t);
}
