/* SPDX-License-Identifier: Apache-2.0
 *
 * Second copies. A worker that shall follow an expert with history is filled: the host is asked for
 * the expert's committed state, and what it answers is passed on. Later the copy keeps up by itself: at
 * each step the host's gradient sum is passed to it, and it computes what the host computes.
 *
 * A state that is on its way must still be the committed one when it arrives, so a step does not ask for
 * norms while a worker is being filled with an expert of its layers, and none is begun after that. At most
 * COPY_BYTES_MAX (or one expert) are on their way at a time: a step waits that long at worst.
 */
#include "common/base/assert.h"
#include "daemon/core/core_state.h"
#include "daemon/core/state_relay.h"

#define COPY_BYTES_MAX (16u << 20)

/* ---- filling ---- */

uint32_t smoe_copies_parts(const struct smoe_layer *layer)
{
    return SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS |
           (layer->shape.staleness ? SMOE_STATE_OLDER : 0u);
}

static bool is_copy(const struct smoe_relay *r)
{
    return r->used && r->trainer == SMOE_NONE;
}

static uint64_t bytes_under_way(const struct smoe_core *c)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; c->n_copying && i < c->relays_reached; i++)
        bytes += is_copy(&c->relays[i]) ? c->relays[i].bytes : 0;
    return bytes;
}

static bool being_filled(const struct smoe_core *c, uint32_t l, uint32_t expert)
{
    for (uint32_t i = 0; c->n_copying && i < c->relays_reached; i++)
        if (is_copy(&c->relays[i]) && c->relays[i].layer == l && c->relays[i].expert == expert)
            return true;
    return false;
}

bool smoe_copies_under_way(const struct smoe_core *c, uint64_t layers)
{
    for (uint32_t i = 0; c->n_copying && i < c->relays_reached; i++)
        if (is_copy(&c->relays[i]) && (layers >> c->relays[i].layer & 1))
            return true;
    return false;
}

static bool has_taken_in(const struct smoe_core *c, uint32_t worker, uint32_t l)
{
    return worker != SMOE_NONE && smoe_worker_live(&c->fleet.workers[worker]) &&
           (c->fleet.workers[worker].hosted_layers >> l & 1);
}

static bool start(struct smoe_core *c, uint32_t l, uint32_t expert, uint64_t bytes)
{
    const struct smoe_expert_view *e = &c->layers[l].experts[expert];
    struct smoe_why why;
    struct smoe_relay relay = {.used = true,
                               .trainer = SMOE_NONE,
                               .worker = e->worker,
                               .follower = e->filling,
                               .layer = l,
                               .expert = expert,
                               .parts = smoe_copies_parts(&c->layers[l]),
                               .step = c->layers[l].step,
                               .bytes = bytes};
    uint64_t number;
    if (smoe_relay_remember(c, &relay, &number, &why))
        return false;
    c->n_copying++;
    smoe_core_send(c, c->fleet.workers[e->worker].session, SMOE_MSG_EXPERT_FETCH)->expert_fetch =
        (struct smoe_msg_expert_fetch){number, l, expert, relay.parts};
    return true;
}

void smoe_copies_advance(struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    if (layer->state == SMOE_LAYER_FREE || layer->state == SMOE_LAYER_LOST || !layer->learned ||
        (layer->owner != SMOE_NONE && (c->trainers[layer->owner].step.phase > SMOE_STEP_SETTLING ||
                                       smoe_step_settled(c, layer->owner))))
        return;
    uint64_t bytes = smoe_relay_bytes(layer, smoe_copies_parts(layer)), out = bytes_under_way(c);
    for (uint32_t e = 0; e < layer->shape.experts && (!out || out + bytes <= COPY_BYTES_MAX); e++) {
        const struct smoe_expert_view *x = &layer->experts[e];
        if (!has_taken_in(c, x->worker, l) || !has_taken_in(c, x->filling, l) ||
            being_filled(c, l, e))
            continue;
        if (!start(c, l, e, bytes))
            return;
        out += bytes;
    }
}

void smoe_copies_end(struct smoe_core *c, struct smoe_relay *r)
{
    smoe_assert(is_copy(r) && c->n_copying > 0);
    r->used = false;
    c->n_copying--;
}

void smoe_copies_void(struct smoe_core *c, uint32_t l, uint32_t expert)
{
    for (uint32_t i = 0; c->n_copying && i < c->relays_reached; i++)
        if (is_copy(&c->relays[i]) && c->relays[i].layer == l &&
            (expert == SMOE_NONE || c->relays[i].expert == expert))
            smoe_copies_end(c, &c->relays[i]);
}

/* Still wanted there, and of the step that is committed? */
static bool wanted(const struct smoe_core *c, const struct smoe_relay *r)
{
    const struct smoe_layer *layer = &c->layers[r->layer];
    const struct smoe_expert_view *e = &layer->experts[r->expert];
    return layer->step == r->step && e->worker == r->worker && e->filling == r->follower;
}

/* Goes on with what waited for this one. */
static void go_on(struct smoe_core *c, uint32_t l)
{
    smoe_copies_advance(c, l);
    if (c->layers[l].owner != SMOE_NONE)
        smoe_step_advance(c, c->layers[l].owner);
}

void smoe_copies_state(struct smoe_core *c, struct smoe_relay *r,
                       const struct smoe_msg_expert_state *m)
{
    uint32_t l = r->layer;
    if (!wanted(c, r) || m->step != r->step) {
        smoe_copies_end(c, r);
        go_on(c, l);
        return;
    }
    r->store = true;
    struct smoe_message *out =
        smoe_core_send(c, c->fleet.workers[r->follower].session, SMOE_MSG_EXPERT_STORE);
    out->expert_store = (struct smoe_msg_expert_store){r->number, l,       r->expert,
                                                       r->parts,  r->step, c->layers[l].attempt};
    smoe_core_attach(c, SMOE_TENSOR_PASS, SMOE_NONE, NULL, 0);
}

void smoe_copies_stored(struct smoe_core *c, struct smoe_relay *r)
{
    uint32_t l = r->layer;
    if (wanted(c, r))
        smoe_standing_filled(c, l, r->expert);
    smoe_copies_end(c, r);
    smoe_layers_advance(c);
    go_on(c, l);
}

/* ---- keeping up ---- */

static bool followed(const struct smoe_expert_view *e, uint32_t worker)
{
    return e->worker == worker && e->follower != SMOE_NONE;
}

size_t smoe_copies_gradients(struct smoe_core *c, uint64_t layers, uint32_t worker,
                             const struct smoe_layer_experts **ret)
{
    struct smoe_layer_experts *lists = smoe_core_list(c, SMOE_LAYERS_MAX * sizeof *lists);
    size_t n = 0;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_layer *layer = &c->layers[l];
        if (!(layers >> l & 1) || !smoe_layer_on_worker(layer, worker))
            continue;
        uint32_t *experts = smoe_core_list(c, layer->shape.experts * sizeof *experts);
        struct smoe_layer_experts list = {.layer = l, .experts = experts};
        for (uint32_t e = 0; e < layer->shape.experts; e++)
            if (followed(&layer->experts[e], worker))
                experts[list.n++] = e;
        smoe_core_list_trim(c, experts, list.n * sizeof *experts);
        if (list.n)
            lists[n++] = list;
    }
    *ret = lists;
    return n;
}

struct smoe_verdict smoe_copies_expect_gradient(const struct smoe_core *c, uint32_t worker,
                                                const struct smoe_msg_step_gradient *m)
{
    const struct smoe_layer *layer = &c->layers[m->layer];
    if (!smoe_step_expects(c, worker, m->owner, m->step, m->attempt, SMOE_STEP_NORM) ||
        !(c->trainers[m->owner].step.layers >> m->layer & 1) || m->expert >= layer->shape.experts ||
        !followed(&layer->experts[m->expert], worker))
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    return (struct smoe_verdict){.kind = SMOE_TAKE,
                                 .bytes = smoe_relay_bytes(layer, SMOE_STATE_GRADIENT)};
}

void smoe_copies_gradient(struct smoe_core *c, uint32_t worker,
                          const struct smoe_msg_step_gradient *m)
{
    if (smoe_copies_expect_gradient(c, worker, m).kind != SMOE_TAKE)
        return; /* the step ended while it came in */
    uint32_t follower = c->layers[m->layer].experts[m->expert].follower;
    smoe_core_send(c, c->fleet.workers[follower].session, SMOE_MSG_STEP_GRADIENT)->step_gradient =
        *m;
    smoe_core_attach(c, SMOE_TENSOR_PASS, SMOE_NONE, NULL, 0);
}
