/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/counted.h"

#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"
#include "sim/world_state.h"

static struct smoe_layer_view layer_of(const struct smoe_world *w, uint32_t gateway)
{
    return smoe_core_layer(smoe_gateway_core(smoe_world_gateway(w, gateway)), 0);
}

static const struct smoe_fleet *fleet_of(const struct smoe_world *w, uint32_t gateway)
{
    return smoe_core_fleet(smoe_gateway_core(smoe_world_gateway(w, gateway)));
}

static struct smoe_place_plan plan_in(struct smoe_counted *c, const struct smoe_layer_view *layer)
{
    return (struct smoe_place_plan){layer->shape.experts, c->n_workers, c->slot_first, c->expert};
}

/* The plan in force, from who holds each expert. */
static struct smoe_place_plan read_plan(struct smoe_counted *c, const struct smoe_layer_view *layer)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < c->n_workers; j++) {
        c->slot_first[j] = n;
        for (uint32_t e = 0; e < layer->shape.experts; e++)
            for (uint32_t r = layer->replica_first[e]; r < layer->replica_first[e + 1]; r++)
                if (layer->replica_worker[r] == j) {
                    smoe_assert(n < SMOE_COUNTED_REPLICAS);
                    c->expert[n++] = (uint16_t)e;
                }
    }
    c->slot_first[c->n_workers] = n;
    return plan_in(c, layer);
}

/* Slots that the worker has in `before` and not in `after`. */
static uint64_t count_left(const struct smoe_place_plan *before,
                           const struct smoe_place_plan *after, uint32_t worker)
{
    uint64_t left = 0;
    for (uint32_t q = before->slot_first[worker]; q < before->slot_first[worker + 1]; q++) {
        bool stays = false;
        for (uint32_t r = after->slot_first[worker]; r < after->slot_first[worker + 1]; r++)
            stays |= after->expert[r] == before->expert[q];
        left += !stays;
    }
    return left;
}

static uint64_t memory_of(const struct smoe_world *w, const char *name)
{
    for (uint32_t i = 0; i < w->n_processes; i++)
        if (w->processes[i]->kind == SMOE_SIM_WORKER && w->processes[i]->up &&
            strcmp(w->processes[i]->name, name) == 0)
            return smoe_sim_worker_machine(w->processes[i])->experts.bytes;
    return 0;
}

static double apart(uint64_t got, uint64_t want)
{
    double difference = got > want ? (double)(got - want) : (double)(want - got);
    return want ? difference / (double)want : difference;
}

static double largest(const struct smoe_place_bytes *got, const struct smoe_place_bytes *want)
{
    const double errors[] = {apart(got->gradient_sent, want->gradient_sent),
                             apart(got->gradient_received, want->gradient_received),
                             apart(got->weight_sent, want->weight_sent),
                             apart(got->weight_received, want->weight_received),
                             apart(got->follow_sent, want->follow_sent),
                             apart(got->follow_received, want->follow_received)};
    double most = 0;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        most = errors[i] > most ? errors[i] : most;
    return most;
}

static void take_counters(const struct smoe_world *w, uint32_t gateway, struct smoe_counted *c)
{
    const struct smoe_layer_view layer = layer_of(w, gateway);
    const struct smoe_fleet *fleet = fleet_of(w, gateway);
    uint32_t real = layer.shape.dtype == SMOE_DTYPE_F64 ? 8 : 4;
    uint64_t owned[SMOE_COUNTED_WORKERS] = {0}, followed[SMOE_COUNTED_WORKERS] = {0};
    struct smoe_counted old = *c;
    struct smoe_place_plan before = plan_in(&old, &layer), after = read_plan(c, &layer);
    struct smoe_place_plan gave = before;
    bool stale = layer.shape.staleness;
    if (stale) {
        gave.slot_first = old.slot_first_before;
        gave.expert = old.expert_before;
    }
    memcpy(c->slot_first_before, old.slot_first, sizeof old.slot_first);
    memcpy(c->expert_before, old.expert, sizeof old.expert);
    smoe_shard_held(layer.map, c->n_workers, owned, followed);
    uint32_t element = layer.shape.wire == SMOE_WIRE_BF16 ? 2 : real;
    struct smoe_place_wire wire = {owned, followed, element, element};
    c->moved = smoe_place_moves(&before, &after, NULL);
    smoe_place_bytes(&gave, &after, &wire, c->formula);
    c->error = c->memory_error = 0;
    for (uint32_t j = 0; j < c->n_workers; j++) {
        uint64_t t = owned[j] + followed[j], slots = c->slot_first[c->n_workers];
        uint64_t own = c->slot_first[j + 1] - c->slot_first[j];
        c->counted[j] = layer.traffic[j];
        c->memory[j] = memory_of(w, fleet->workers[j].id);
        c->memory_formula[j] =
            real *
            ((stale ? 8 : 7) * t * layer.shape.experts + slots * t +
             (stale ? 5 * (own + count_left(&before, &after, j)) : 3 * own) * layer.map->elements);
        double error = largest(&c->counted[j].exchanged, &c->formula[j]);
        double memory = apart(c->memory[j], c->memory_formula[j]);
        c->error = error > c->error ? error : c->error;
        c->memory_error = memory > c->memory_error ? memory : c->memory_error;
    }
}

bool smoe_counted_next(struct smoe_world *w, uint32_t gateway, uint64_t until_ns,
                       struct smoe_counted *c)
{
    bool first = c->iterations == 0;
    while (layer_of(w, gateway).iterations <= c->iterations)
        if (smoe_world_now(w) >= until_ns || !smoe_world_step(w))
            return false;
    c->iterations = layer_of(w, gateway).iterations;
    c->n_workers = fleet_of(w, gateway)->n_used;
    smoe_assert(c->n_workers <= SMOE_COUNTED_WORKERS);
    if (first) {
        const struct smoe_layer_view layer = layer_of(w, gateway);
        (void)read_plan(c, &layer);
        /* Whose gradients an iteration sends is known two before its end. */
        if (layer.shape.staleness && !smoe_counted_next(w, gateway, until_ns, c))
            return false;
        return smoe_counted_next(w, gateway, until_ns, c);
    }
    take_counters(w, gateway, c);
    return true;
}

uint64_t smoe_counted_bytes(const struct smoe_counted *c)
{
    uint64_t sum = 0;
    for (uint32_t j = 0; j < c->n_workers; j++)
        sum += c->counted[j].exchanged.gradient_sent + c->counted[j].exchanged.weight_sent +
               c->counted[j].exchanged.follow_sent;
    return sum;
}
