/* SPDX-License-Identifier: Apache-2.0
 *
 * Replicas where they are wanted (gate.slots): the demand for each expert is how often it is among the K largest
 * scores of tokens drawn from the same stream, and the product's rule (daemon/core/place.h) makes one plan of it.
 * Where a router is frozen popularity stays what it is, and so may the plan.
 */
#include <stdlib.h>

#include "common/base/assert.h"
#include "common/kernels/score.h"
#include "daemon/core/place.h"
#include "sim/events.h"
#include "sim/slotted_state.h"

enum { SAMPLE = 8192 }; /* tokens that demand is estimated from */

/* ret [E]: visits of the sample. */
static void estimate_demand(const struct smoe_sim_fleet *f, double *ret)
{
    struct smoe_sim_stream stream; /* of its own: the run's is not touched */
    uint16_t top[SMOE_TOP_K_MAX];
    float *scores = smoe_sim_alloc((size_t)SAMPLE * f->experts, sizeof *scores);
    smoe_sim_stream_init(&stream, f->s, f->o->seed);
    (void)smoe_sim_stream_count(&stream);
    smoe_sim_stream_scores(&stream, SAMPLE, scores);
    for (uint32_t i = 0; i < SAMPLE; i++) {
        smoe_topk(f->experts, scores + (size_t)i * f->experts, f->top_k, top);
        for (uint32_t k = 0; k < f->top_k; k++)
            ret[top[k]]++;
    }
    smoe_sim_stream_release(&stream);
    free(scores);
}

void smoe_slotted_place(struct smoe_sim_fleet *f)
{
    uint32_t n = f->n_workers, all = n * (uint32_t)f->s->spec.slots;
    uint32_t *slots = smoe_sim_alloc(n, sizeof *slots);
    double *speed = smoe_sim_alloc(n, sizeof *speed);
    double *demand = smoe_sim_alloc(f->experts, sizeof *demand);
    struct smoe_place_plan plan = {.slot_first = smoe_sim_alloc(n + 1u, sizeof *plan.slot_first),
                                   .expert = smoe_sim_alloc(all, sizeof *plan.expert)};
    struct smoe_place_scratch *scratch;
    for (uint32_t j = 0; j < n; j++) {
        struct smoe_freq_node physics = smoe_scenario_physics(f->s, j);
        slots[j] = (uint32_t)f->s->spec.slots;
        speed[j] = smoe_freq_sustainable_rate(&physics);
    }
    estimate_demand(f, demand);
    const struct smoe_place_problem problem = {f->experts, n,      slots,
                                               speed,      demand, SMOE_PLACE_BY_PRICE};
    smoe_assert(smoe_place_scratch_new(f->experts, n, all, &scratch) == 0);
    smoe_assert(smoe_place_make(SMOE_PLACE_HIGHEST_AVERAGES, &problem, scratch, &plan) == 0);
    f->replica_first = smoe_sim_alloc(f->experts + 1u, sizeof *f->replica_first);
    f->replica_node = smoe_sim_alloc(all, sizeof *f->replica_node);
    f->live = smoe_sim_alloc(f->experts, sizeof *f->live);
    (void)smoe_place_replicas(&plan, f->replica_first, f->replica_node);
    for (uint32_t e = 0; e < f->experts; e++)
        f->live[e] = f->replica_first[e + 1] - f->replica_first[e];
    smoe_place_scratch_free(scratch);
    free(slots);
    free(speed);
    free(demand);
    free(plan.slot_first);
    free(plan.expert);
}
