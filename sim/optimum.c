/* SPDX-License-Identifier: Apache-2.0
 *
 * All tokens of T slots are one batch, worker j takes at most T s_j of their visits, and there are neither
 * queues nor slots: with Q = 0 and Dhat = 0 the linear node cost is 0 up to the cap, so the slot's solver
 * answers the capacity problem, and proves it.
 */
#include "sim/optimum.h"

#include <math.h>
#include <stdlib.h>

#include "daemon/core/route.h"
#include "sim/events.h"
#include "sim/stream.h"

struct batch {
    uint32_t n, slots;
    float *scores;
};

/* One expert a worker is all the scenarios of the figures need. */
static bool has_optimum(const struct smoe_scenario *s)
{
    return s->spec.source == SMOE_SOURCE_OPEN && s->spec.experts == s->spec.workers &&
           s->spec.copies == 1 && !s->spec.slots && !s->spec.up;
}

static void collect(const struct smoe_scenario *s, uint64_t seed, uint64_t slots, struct batch *b)
{
    struct smoe_sim_stream stream;
    size_t experts = s->spec.experts;
    smoe_sim_stream_init(&stream, s, seed);
    b->scores = smoe_sim_alloc((SMOE_OPTIMUM_TOKENS + (size_t)stream.tokens_max) * experts,
                               sizeof *b->scores);
    for (; b->slots < slots && b->n < SMOE_OPTIMUM_TOKENS; b->slots++) {
        uint32_t n = smoe_sim_stream_count(&stream);
        smoe_sim_stream_scores(&stream, n, b->scores + b->n * experts);
        b->n += n;
    }
    smoe_sim_stream_release(&stream);
}

static double solve(const struct smoe_scenario *s, const struct batch *b)
{
    uint32_t workers = (uint32_t)s->spec.workers, k = (uint32_t)s->spec.top_k;
    double slot_s = (double)s->spec.slot_ns * 1e-9 * b->slots;
    struct smoe_node *nodes = smoe_sim_alloc(workers, sizeof *nodes);
    uint32_t *first = smoe_sim_alloc(workers + 1u, sizeof *first);
    struct smoe_route_answer answer = {
        .expert = smoe_sim_alloc((size_t)b->n * k, sizeof *answer.expert),
        .node = smoe_sim_alloc((size_t)b->n * k, sizeof *answer.node),
        .arrivals = smoe_sim_alloc(workers, sizeof *answer.arrivals)};
    struct smoe_route_problem problem = {b->n, workers, workers, k,     b->scores,
                                         1,    first,   first,   nodes, SMOE_COST_LINEAR};
    struct smoe_route_scratch *scratch = NULL;
    double mass = -1;
    for (uint32_t j = 0; j < workers; j++) {
        struct smoe_freq_node physics = smoe_scenario_physics(s, j);
        double most = smoe_freq_sustainable_rate(&physics) * slot_s;
        nodes[j] = (struct smoe_node){.penalty = 1, .arrivals_max = (uint32_t)fmin(most, 4e9)};
        first[j + 1] = j + 1;
    }
    if (smoe_route_scratch_new(b->n, workers, workers, &scratch) == 0)
        smoe_route_exact(&problem, &(struct smoe_route_options){0}, scratch, &answer);
    if (scratch && b->n && answer.n_routed == b->n)
        mass = -answer.bound / b->n;
    smoe_route_scratch_free(scratch);
    void *arrays[] = {nodes, first, answer.expert, answer.node, answer.arrivals};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    return mass;
}

double smoe_sim_optimum_gate_mass(const struct smoe_scenario *s, uint64_t seed, uint64_t slots)
{
    struct batch b = {0};
    if (!has_optimum(s))
        return -1;
    collect(s, seed, slots, &b);
    double mass = solve(s, &b);
    free(b.scores);
    return mass;
}
