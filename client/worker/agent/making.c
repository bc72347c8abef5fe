/* SPDX-License-Identifier: Apache-2.0
 *
 * Making: weights of the seed, an expert at a time, by tasks like all other work. A layer's experts may take
 * minutes to make, and who makes them in the loop is silent for as long and declared lost; a lane has the
 * time, and the loop goes on to answer and to report.
 *
 *     Host --room taken--> [make_due] --a task for each--> all there: Hosted
 *
 * The gateway sends visits and asks for parts after Hosted. What meets an expert that is still to be made
 * (another Host; a step, in which a new copy takes part at once) finds it as if a task ran on it, and waits,
 * but for the gradient sum, which making does not touch. Making comes before visits and steps: a layer waits
 * for all of it.
 *
 * It outlives the connection, as what it makes does; Hosted does not: the next Host asks again. Of several Hosts the
 * last is answered.
 */
#include "client/worker/agent/agent_state.h"

bool smoe_agent_start_making(struct smoe_agent *a, struct smoe_task *task)
{
    struct smoe_experts *store = &a->experts;
    uint32_t i = 0;
    if (!store->n_to_make)
        return false;
    while (i < store->n_experts && (!store->experts[i].make_due || store->experts[i].busy))
        i++;
    if (i == store->n_experts)
        return false;
    const struct smoe_held_expert *e = &store->experts[i];
    const struct smoe_held_layer *layer = &store->layers[e->layer];
    task->kind = SMOE_TASK_MAKE;
    task->expert = i;
    task->shape = layer->ffn;
    task->now = e->now;
    task->n_params = e->n_params;
    task->n_seed = layer->n_params;
    smoe_ffn_seed_begin(&task->seed, &layer->ffn, layer->shape.seed, e->index,
                        layer->shape.zero_output);
    if (e->reads) {
        task->ranges = (const struct smoe_shard_range *)(const void *)e->reads->data;
        task->n_ranges = e->reads->bytes / sizeof *task->ranges;
    }
    /* A slot has what its owners would send. */
    task->rounded = e->kind == SMOE_HELD_SLOT && layer->shape.wire == SMOE_WIRE_BF16;
    return true;
}

void smoe_agent_say_hosted(struct smoe_agent *a, struct smoe_held_layer *layer)
{
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    m.hosted.layer = layer->wire;
    m.hosted.number = layer->host_number;
    m.hosted.staleness = layer->shape.staleness;
    bool later = smoe_experts_to_make(&a->experts, layer);
    smoe_experts_owe(&a->experts, layer, later);
    if (!later)
        smoe_agent_send(a, &m, NULL, 0);
}

void smoe_agent_finish_making(struct smoe_agent *a, const struct smoe_task *task)
{
    struct smoe_held_layer *layer = &a->experts.layers[a->experts.experts[task->expert].layer];
    smoe_experts_made(&a->experts, task->expert);
    if (smoe_experts_owed(&a->experts, layer))
        smoe_agent_say_hosted(a, layer);
}

uint64_t smoe_agent_making_flops(const struct smoe_agent *a)
{
    uint64_t flops = 0;
    for (uint32_t i = 0; a->experts.n_to_make && i < a->experts.n_experts; i++) {
        const struct smoe_held_expert *e = &a->experts.experts[i];
        if (e->make_due && !e->busy)
            flops += a->experts.layers[e->layer].n_params * SMOE_MAKE_FLOPS;
    }
    return flops;
}
