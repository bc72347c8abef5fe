/* SPDX-License-Identifier: Apache-2.0
 *
 * States of sharded layers for trainers (checkpoints). A fetch asks the owner of every piece for it and passes each
 * on as it comes: the trainer's library puts them together. A store is cut here, and each piece goes to owner and
 * follower. What slots have is old then, and filled again.
 *
 * All pieces of one answer must be of one step. So fetches of a layer are answered one after another, and one that a
 * commit, or a change of holders, overtakes begins again under another number (`series`), by which the library tells.
 *
 * Their transfers have numbers with the highest bit set: the relay's, not one of exchange.c's.
 */
#include "daemon/core/sharded.h"
#include "daemon/core/state_relay.h"

#define RELAY_BIT (UINT64_C(1) << 63)

int smoe_sharded_reachable(const struct smoe_core *c, uint32_t l, struct smoe_why *why)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    bool all = s->map.n_pieces > 0 && smoe_standing_quiet(c, &c->layers[l]);
    for (uint32_t i = 0; i < s->map.n_pieces && all; i++)
        all = smoe_standing_usable(c, s->map.pieces[i].owner);
    return all ? 0
               : smoe_fail(why, SMOE_ESTATE, "layer %s: not all of its state can be reached now",
                           c->layers[l].name);
}

/* ---- fetching ---- */

static void begin_fetch(struct smoe_core *c, struct smoe_relay *r)
{
    const struct smoe_layer *layer = &c->layers[r->layer];
    const struct smoe_shard_map *map = &layer->sharded->map;
    r->waiting = false;
    r->series = ++c->sharding->serial;
    r->n_due = map->n_pieces;
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        smoe_core_send(c, c->fleet.workers[p->owner].session, SMOE_MSG_SHARD_ASK)->shard_ask =
            (struct smoe_msg_shard_ask){.number = RELAY_BIT | r->number,
                                        .kind = SMOE_SHARD_STATE,
                                        .layer = r->layer,
                                        .expert = r->expert,
                                        .offset = p->offset,
                                        .length = p->length,
                                        .step = layer->step,
                                        .attempt = layer->attempt,
                                        .fill = r->series,
                                        .send = true};
    }
}

void smoe_sharded_serve_fetches(struct smoe_core *c, uint32_t l)
{
    struct smoe_relay *next = NULL;
    struct smoe_why why;
    for (uint32_t i = 0; i < c->relays_reached; i++) {
        struct smoe_relay *r = &c->relays[i];
        if (!r->used || r->layer != l || r->store)
            continue;
        if (!r->waiting)
            return; /* its turn comes when this one is answered */
        if (!next || r->number < next->number)
            next = r;
    }
    if (next && smoe_sharded_reachable(c, l, &why) == 0)
        begin_fetch(c, next);
}

void smoe_sharded_interrupt_fetches(struct smoe_core *c, uint32_t l)
{
    for (uint32_t i = 0; i < c->relays_reached; i++)
        if (c->relays[i].used && c->relays[i].layer == l && !c->relays[i].store)
            c->relays[i].waiting = true;
}

/* The relay that this piece is for, or NULL: it is late. */
static struct smoe_relay *relay_of(const struct smoe_core *c, uint64_t number, uint32_t layer,
                                   bool store)
{
    struct smoe_relay *r = smoe_relay_place(c, number & ~RELAY_BIT);
    return (number & RELAY_BIT) && r && r->used && !r->waiting && r->store == store &&
                   r->number == (number & ~RELAY_BIT) && (store || r->layer == layer)
               ? r
               : NULL;
}

static const struct smoe_relay *fetched(const struct smoe_core *c, uint32_t worker,
                                        const struct smoe_msg_shard_part *m)
{
    const struct smoe_relay *r = relay_of(c, m->number, m->layer, false);
    const struct smoe_sharded *s = r ? c->layers[r->layer].sharded : NULL;
    if (!s || m->expert != r->expert || m->fill != r->series || m->kind != SMOE_SHARD_STATE)
        return NULL;
    for (uint32_t i = 0; i < s->map.n_pieces; i++)
        if (s->map.pieces[i].offset == m->offset && s->map.pieces[i].length == m->length)
            return s->map.pieces[i].owner == worker ? r : NULL;
    return NULL;
}

struct smoe_verdict smoe_sharded_expect_state(const struct smoe_core *c, uint32_t worker,
                                              const struct smoe_msg_shard_part *m)
{
    if (!fetched(c, worker, m))
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    return (struct smoe_verdict){.kind = SMOE_TAKE,
                                 .bytes = smoe_part_element_bytes(&c->layers[m->layer], true) *
                                          m->length};
}

void smoe_sharded_state(struct smoe_core *c, uint32_t worker, const struct smoe_msg_shard_part *m)
{
    if (!fetched(c, worker, m))
        return;
    struct smoe_relay *r = relay_of(c, m->number, m->layer, false);
    smoe_core_send(c, c->trainers[r->trainer].session, SMOE_MSG_EXPERT_STATE)->expert_state =
        (struct smoe_msg_expert_state){.request = r->request,
                                       .layer = r->layer,
                                       .expert = r->expert,
                                       .parts = SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS,
                                       .step = m->step,
                                       .offset = m->offset,
                                       .length = m->length,
                                       .series = r->series};
    smoe_core_attach(c, SMOE_TENSOR_PASS, SMOE_NONE, NULL, 0);
    r->used = --r->n_due > 0;
    smoe_sharded_serve_fetches(c, m->layer);
}

/* ---- storing ---- */

static void send_piece(struct smoe_core *c, const struct smoe_relay *r, uint32_t worker,
                       const struct smoe_shard_piece *p)
{
    const struct smoe_layer *layer = &c->layers[r->layer];
    uint64_t real = smoe_real_bytes(layer);
    smoe_core_send(c, c->fleet.workers[worker].session, SMOE_MSG_SHARD_PART)->shard_part =
        (struct smoe_msg_shard_part){.number = RELAY_BIT | r->number,
                                     .kind = SMOE_SHARD_STATE,
                                     .layer = r->layer,
                                     .expert = r->expert,
                                     .offset = p->offset,
                                     .length = p->length,
                                     .step = layer->step,
                                     .attempt = layer->attempt};
    smoe_core_attach(c, SMOE_TENSOR_CUT, SMOE_NONE, NULL, 0);
    c->actions[c->n_actions - 1].cut =
        (struct smoe_cut){.offset = p->offset * real,
                          .bytes = p->length * real,
                          .stride = layer->sharded->map.elements * real,
                          .n = (uint32_t)(smoe_part_element_bytes(layer, true) / real)};
}

/* All who have something of the layer must be told. */
static void mark_all(struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (smoe_sharded_on_worker(s, w))
            c->fleet.workers[w].host_due |= UINT64_C(1) << l;
}

/* States that are stored belong to no step of their own, so that step and attempt would not tell a holder who missed
 * some of them from one who has all. */
void smoe_sharded_begin_attempt(struct smoe_core *c, uint32_t l)
{
    c->layers[l].sharded->left = false;
    c->layers[l].attempt = smoe_trainer_new_attempt(c);
    c->journal_due |= UINT64_C(1) << l;
    mark_all(c, l);
    smoe_sharded_tell(c, l);
}

void smoe_sharded_store(struct smoe_core *c, struct smoe_relay *r)
{
    struct smoe_sharded *s = c->layers[r->layer].sharded;
    if (s->left)
        smoe_sharded_begin_attempt(c, r->layer);
    smoe_exchange_void(c, r->layer);
    for (uint32_t i = s->replica_first[r->expert]; i < s->replica_first[r->expert + 1]; i++)
        s->stale[i] = true;
    for (uint32_t i = 0; i < s->map.n_pieces; i++) {
        const struct smoe_shard_piece *p = &s->map.pieces[i];
        bool followed = p->follower != SMOE_SHARD_NONE && smoe_standing_usable(c, p->follower);
        r->n_due += 1 + followed;
        send_piece(c, r, p->owner, p);
        if (followed)
            send_piece(c, r, p->follower, p);
    }
}

void smoe_sharded_stored(struct smoe_core *c, const struct smoe_msg_shard_taken *m)
{
    struct smoe_relay *r = relay_of(c, m->number, 0, true);
    if (!r || !r->n_due || --r->n_due)
        return;
    uint32_t l = r->layer;
    r->used = false;
    smoe_core_send(c, c->trainers[r->trainer].session, SMOE_MSG_EXPERT_STORED)->expert_stored =
        (struct smoe_msg_expert_stored){r->request, l, r->expert};
    if (!smoe_sharded_storing(c, l))
        smoe_layers_advance(c); /* slots can be filled */
}

bool smoe_sharded_storing(const struct smoe_core *c, uint32_t l)
{
    for (uint32_t i = 0; i < c->relays_reached; i++)
        if (c->relays[i].used && c->relays[i].layer == l && c->relays[i].store)
            return true;
    return false;
}

void smoe_sharded_fail_stores(struct smoe_core *c, uint32_t l)
{
    for (uint32_t i = 0; i < c->relays_reached; i++) {
        struct smoe_relay *r = &c->relays[i];
        if (!r->used || r->layer != l || !r->store)
            continue;
        r->used = false;
        smoe_core_refuse(c, c->trainers[r->trainer].session, SMOE_ECLOSED,
                         "a worker left before it answered", false, 0, r->request);
    }
}

/* ---- Restore ---- */

void smoe_sharded_rewound(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    smoe_exchange_void(c, l);
    s->filling.length = 0;
    s->plan_due = s->left = false;
    for (uint32_t r = 0; r < SMOE_LAYER_REPLICAS_MAX; r++)
        s->stale[r] = true;
    mark_all(c, l);
}
