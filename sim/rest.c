/* SPDX-License-Identifier: Apache-2.0
 *
 * The world at rest: what must be true when every trainer has done its part and nothing is on its way.
 * It looks inside the machines, because what they must not have any more is not for others to see.
 */
#include <string.h>

#include "client/libstablemoe/core/uplink_state.h"
#include "client/worker/agent/agent_state.h"
#include "daemon/core/sharded.h"
#include "daemon/gateway/gateway_state.h"
#include "sim/script.h"

/* The frozen routers in force: nothing else is kept of what was sent. */
static size_t routers_in_force(const struct smoe_gateway *g)
{
    size_t bytes = 0;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_frozen *f = &g->routers.in_force[l];
        bytes += f->experts ? smoe_frozen_memory(f->kind, f->inputs, f->experts) : 0;
    }
    return bytes;
}

static int check_gateway(const struct smoe_sim_process *p, struct smoe_why *why)
{
    const struct smoe_gateway *g = smoe_sim_gateway_machine(p);
    struct smoe_core_totals totals;
    smoe_core_totals(g->core, &totals);
    if (totals.account.in_flight)
        return smoe_fail(why, SMOE_ESTATE, "%s has %llu visits in flight", p->name,
                         (unsigned long long)totals.account.in_flight);
    if (g->budget.used_bytes != routers_in_force(g))
        return smoe_fail(why, SMOE_ESTATE, "%s holds %zu bytes of tensors", p->name,
                         g->budget.used_bytes);
    /* These workers are ours, whatever happens to them. */
    if (smoe_core_quarantine(g->core)->strikes && !smoe_world_acts(p->world, SMOE_SIM_LIE))
        return smoe_fail(why, SMOE_ESTATE, "%s blamed a worker: %s", p->name,
                         smoe_core_quarantine(g->core)->conducts[0].why);
    /* Nor is one that lies, where nobody else could have proved it. */
    if (smoe_core_quarantine(g->core)->strikes && smoe_core_fleet(g->core)->n_used < 2)
        return smoe_fail(why, SMOE_ESTATE, "%s blamed the only worker: %s", p->name,
                         smoe_core_quarantine(g->core)->conducts[0].why);
    return 0;
}

static int check_worker(const struct smoe_sim_process *p, struct smoe_why *why)
{
    const struct smoe_agent *a = smoe_sim_worker_machine(p);
    if (a->n_parcel_free != a->parcels_max)
        return smoe_fail(why, SMOE_ESTATE, "%s holds %u parcels", p->name,
                         a->parcels_max - a->n_parcel_free);
    if (a->budget.used_bytes)
        return smoe_fail(why, SMOE_ESTATE, "%s holds %zu bytes of tensors", p->name,
                         a->budget.used_bytes);
    return 0;
}

/* ---- experts ---- */

static const struct smoe_sim_process *worker_named(const struct smoe_world *w, const char *name)
{
    for (uint32_t i = 0; i < w->n_processes; i++)
        if (w->processes[i]->kind == SMOE_SIM_WORKER && strcmp(w->processes[i]->name, name) == 0)
            return w->processes[i];
    return NULL;
}

/* The weights in force of an expert where the gateway has placed it, or NULL. */
static const smoe_real *weights_of(const struct smoe_world *w, const struct smoe_core *core,
                                   const struct smoe_layer_view *layer, uint32_t expert)
{
    uint32_t host = layer->experts[expert].worker;
    if (host == UINT32_MAX)
        return NULL;
    const struct smoe_sim_process *p = worker_named(w, smoe_core_fleet(core)->workers[host].id);
    const struct smoe_agent *a = p ? smoe_sim_worker_machine(p) : NULL;
    for (uint32_t l = 0; a && l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_held_layer *held = &a->experts.layers[l];
        if (held->used && held->run == layer->run && strcmp(held->name, layer->name) == 0 &&
            held->step == layer->step && held->expert_at[expert] != SMOE_NO_EXPERT)
            return a->experts.experts[held->expert_at[expert]].now.weights;
    }
    return NULL;
}

/* ---- sharded layers ---- */

/* What the worker of that index holds of the layer, or NULL. */
static const struct smoe_agent *holder(const struct smoe_world *w, const struct smoe_core *core,
                                       const struct smoe_layer_view *layer, uint32_t worker,
                                       const struct smoe_held_layer **ret)
{
    const struct smoe_sim_process *p = worker_named(w, smoe_core_fleet(core)->workers[worker].id);
    const struct smoe_agent *a = p ? smoe_sim_worker_machine(p) : NULL;
    for (uint32_t l = 0; a && l < SMOE_LAYERS_MAX; l++) {
        *ret = &a->experts.layers[l];
        if ((*ret)->used && (*ret)->run == layer->run && strcmp((*ret)->name, layer->name) == 0)
            return (*ret)->step == layer->step ? a : NULL;
    }
    return NULL;
}

/* The worker's masters, or moments, of the elements from `offset` on; NULL if it has not. */
static const smoe_real *state_of(const struct smoe_world *w, const struct smoe_core *core,
                                 const struct smoe_layer_view *layer, uint32_t worker,
                                 uint32_t expert, const struct smoe_shard_piece *piece,
                                 unsigned vector)
{
    const struct smoe_held_layer *held = NULL;
    const struct smoe_agent *a = holder(w, core, layer, worker, &held);
    size_t at =
        a ? smoe_shard_find(&held->layout, piece->offset, piece->length) : SMOE_SHARD_NOWHERE;
    if (at == SMOE_SHARD_NOWHERE)
        return NULL;
    uint32_t number = held->expert_at[layer->shape.experts + expert];
    const struct smoe_expert_vectors *now = &a->experts.experts[number].now;
    const smoe_real *v = vector ? now->moments[vector - 1] : now->weights;
    return v ? v + at : NULL;
}

/* Slots have the masters, as the layer's wire brought them. */
static bool serves(const struct smoe_layer_view *layer, const smoe_real *masters,
                   const smoe_real *weights, size_t n)
{
    bool same = true;
    if (layer->shape.wire != SMOE_WIRE_BF16)
        return memcmp(masters, weights, n * sizeof *weights) == 0;
    for (size_t i = 0; i < n; i++) {
        smoe_real brought = smoe_bf16_value(smoe_bf16_round(masters[i]));
        same &= memcmp(&brought, &weights[i], sizeof brought) == 0;
    }
    return same;
}

/* Owner and follower have the same bits, and the masters are what slots have. */
static int check_piece(const struct smoe_world *w, const struct smoe_core *core,
                       const struct smoe_layer_view *layer, uint32_t expert,
                       const struct smoe_shard_piece *piece, const smoe_real *weights,
                       struct smoe_why *why)
{
    size_t bytes = (size_t)piece->length * sizeof *weights;
    const smoe_real *own = state_of(w, core, layer, piece->owner, expert, piece, 0);
    if (!own || !serves(layer, own, weights + piece->offset, (size_t)piece->length))
        return smoe_fail(why, SMOE_ESTATE, "%s: masters of expert %u at %llu are not what serves",
                         layer->name, expert, (unsigned long long)piece->offset);
    for (unsigned v = 0; piece->follower != SMOE_SHARD_NONE && v < 3; v++) {
        const smoe_real *a = state_of(w, core, layer, piece->owner, expert, piece, v);
        const smoe_real *b = state_of(w, core, layer, piece->follower, expert, piece, v);
        if ((a || b) && (!a || !b || memcmp(a, b, bytes) != 0))
            return smoe_fail(why, SMOE_ESTATE, "%s: copies of expert %u at %llu differ",
                             layer->name, expert, (unsigned long long)piece->offset);
    }
    return 0;
}

/* All slots of the expert have these weights, and so have its pieces. */
static int check_sharded(const struct smoe_world *w, const struct smoe_core *core,
                         const struct smoe_layer_view *layer, uint32_t expert,
                         const smoe_real *weights, struct smoe_why *why)
{
    const struct smoe_sharded *s = NULL;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (core->layers[l].experts == layer->experts)
            s = core->layers[l].sharded;
    int rc = 0;
    for (uint32_t r = s ? s->replica_first[expert] : 0; s && r < s->replica_first[expert + 1];
         r++) {
        const struct smoe_held_layer *held = NULL;
        const struct smoe_agent *a = holder(w, core, layer, s->replica_worker[r], &held);
        uint32_t slot = a ? held->expert_at[expert] : SMOE_NO_EXPERT;
        if (slot == SMOE_NO_EXPERT || memcmp(a->experts.experts[slot].now.weights, weights,
                                             held->n_params * sizeof *weights) != 0)
            return smoe_fail(why, SMOE_ESTATE, "%s: a slot of expert %u is wrong", layer->name,
                             expert);
    }
    for (uint32_t i = 0; s && i < s->map.n_pieces && !rc; i++)
        rc = check_piece(w, core, layer, expert, &s->map.pieces[i], weights, why);
    return rc;
}

static int check_layer(const struct smoe_sim_process *trainer, const struct smoe_core *core,
                       uint32_t l, struct smoe_why *why)
{
    const struct smoe_script *s = smoe_sim_trainer_script(trainer);
    const struct smoe_uplink_layer *declared = smoe_uplink_layer(s->uplink, s->layers[l]);
    struct smoe_layer_view layer = smoe_core_layer(core, declared->wire);
    if (layer.state == SMOE_LAYER_LOST) { /* and said so; the teller decides what that is worth */
        trainer->world->losses++;
        return 0;
    }
    if (layer.state != SMOE_LAYER_READY || layer.step != s->view.steps)
        return smoe_fail(why, SMOE_ESTATE, "%s: %s is %s at step %llu, not ready at %llu",
                         trainer->name, declared->name, smoe_layer_state_name(layer.state),
                         (unsigned long long)layer.step, (unsigned long long)s->view.steps);
    for (uint32_t e = 0; e < layer.shape.experts; e++) {
        const smoe_real *weights = weights_of(trainer->world, core, &layer, e);
        double tolerance = smoe_oracle_tolerance(&s->oracles[l]);
        if (!weights)
            return smoe_fail(why, SMOE_ESTATE, "%s: nobody holds expert %u at step %llu",
                             declared->name, e, (unsigned long long)layer.step);
        double error = smoe_oracle_expert_error(&s->oracles[l], e, weights);
        if (!(error <= tolerance))
            return smoe_fail(why, SMOE_ESTATE, "%s: expert %u is wrong by %g", declared->name, e,
                             error);
        int rc = check_sharded(trainer->world, core, &layer, e, weights, why);
        if (rc)
            return rc;
    }
    return 0;
}

/* The values of frozen routers, which are kept for gateways that come back without them. */
static size_t router_bytes(const struct smoe_uplink *u)
{
    size_t bytes = 0;
    for (uint32_t l = 0; l < u->n_layers; l++)
        if (u->layers[l].router.values)
            bytes += u->layers[l].router.values->bytes;
    return bytes;
}

static int check_trainer(const struct smoe_sim_process *p, struct smoe_why *why)
{
    const struct smoe_script *s = smoe_sim_trainer_script(p);
    const struct smoe_uplink *u = smoe_sim_trainer_machine(p);
    const struct smoe_sim_process *gateway = p->world->processes[p->gateway];
    int rc = 0;
    if (s->state != SMOE_SCRIPT_DONE)
        return 0;
    if (u->budget.used_bytes != router_bytes(u))
        return smoe_fail(why, SMOE_ESTATE, "%s holds %zu bytes of tensors", p->name,
                         u->budget.used_bytes);
    if (!gateway->up || s->options->evaluate)
        return 0;
    const struct smoe_core *core = smoe_gateway_core(smoe_sim_gateway_machine(gateway));
    for (uint32_t l = 0; l < s->options->n_layers && rc == 0; l++)
        rc = check_layer(p, core, l, why);
    return rc;
}

int smoe_world_check_rest(struct smoe_world *w, struct smoe_why *why)
{
    int rc = smoe_world_verdict(w, why);
    for (uint32_t i = 0; i < w->n_processes && rc == 0; i++) {
        const struct smoe_sim_process *p = w->processes[i];
        if (!p->up)
            continue;
        rc = p->kind == SMOE_SIM_GATEWAY  ? check_gateway(p, why)
             : p->kind == SMOE_SIM_WORKER ? check_worker(p, why)
                                          : check_trainer(p, why);
    }
    return rc;
}

uint64_t smoe_world_parameters(const struct smoe_world *w, uint32_t trainer)
{
    const struct smoe_script *s = smoe_sim_trainer_script(w->processes[trainer]);
    uint64_t digest = 0;
    for (uint32_t l = 0; l < s->options->n_layers && s->has_oracles; l++)
        digest = smoe_mix64(digest + smoe_oracle_digest(&s->oracles[l]));
    return digest;
}
