/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/slots.h"

#include <math.h>
#include <stdlib.h>

#include "stablemoe/error.h"

#define V     50.0 /* and mu = 1: the paper scenario's */
#define SKEW  0.12
#define DRIFT 0.05
#define SLACK 1.15 /* service over arrivals, all nodes together: load 0.87 */

void smoe_slots_draw_scores(struct smoe_rng *rng, uint32_t n_rows, uint32_t nodes, float *ret)
{
    float *scores = ret;
    for (uint32_t i = 0; i < n_rows; i++, scores += nodes) {
        double sum = 0;
        for (uint32_t j = 0; j < nodes; j++) {
            uint32_t rank = (j * 7 + 3) % (nodes < 10 ? nodes : 10);
            scores[j] = (float)exp(SKEW * rank + smoe_rng_normal(rng));
            sum += (double)scores[j];
        }
        for (uint32_t j = 0; j < nodes; j++)
            scores[j] = (float)((double)scores[j] / sum);
    }
}

/* Unlike nodes, the fastest five times the slowest, with what each has left standing: by `before`, the
 * same nodes a slot ago, give or take a twentieth of a slot's service. */
static void draw_nodes(struct smoe_rng *rng, uint32_t n, double visits,
                       const struct smoe_node *before, struct smoe_node *nodes)
{
    for (uint32_t j = 0; j < n; j++) {
        double speed = 1 + 4.0 * j / n, mean = 3;
        double service = floor(SLACK * visits / n * speed / mean) + 1;
        double drift = service * DRIFT * (2 * smoe_rng_unit(rng) - 1);
        double backlog = before ? before[j].backlog + floor(drift) : floor(service * 0.5);
        backlog = backlog > 0 ? backlog : 0;
        nodes[j] = (struct smoe_node){
            .backlog = backlog,
            .executable = backlog,
            .penalty = V,
            .energy_price = j % 2 ? V / (6 * service * service) : 0,
            .service_max = service,
            .arrivals_max = UINT32_MAX,
        };
    }
}

static void fill(struct smoe_slots *s, uint32_t tokens, uint32_t nodes, uint32_t top_k)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, nodes);
    for (uint32_t j = 0; j <= nodes; j++)
        s->replica_first[j] = j;
    for (uint32_t j = 0; j < nodes; j++)
        s->replica_node[j] = j;
    for (uint32_t k = 0; k < SMOE_SLOTS_MAX; k++) {
        float *scores = s->scores ? s->scores + (size_t)k * tokens * nodes : NULL;
        struct smoe_node *slot_nodes = s->nodes + (size_t)k * nodes;
        if (scores)
            smoe_slots_draw_scores(&rng, tokens, nodes, scores);
        draw_nodes(&rng, nodes, (double)tokens * top_k, k ? slot_nodes - nodes : NULL, slot_nodes);
        s->problems[k] = (struct smoe_route_problem){
            .n_tokens = tokens,
            .n_experts = nodes,
            .n_nodes = nodes,
            .top_k = top_k,
            .scores = scores,
            .score_weight = V,
            .replica_first = s->replica_first,
            .replica_node = s->replica_node,
            .nodes = slot_nodes,
            .mode = SMOE_COST_EXACT,
        };
    }
}

static int make(struct smoe_slots *s, uint32_t tokens, uint32_t nodes, uint32_t top_k)
{
    size_t visits = (size_t)tokens * top_k;
    s->nodes = malloc(SMOE_SLOTS_MAX * (size_t)nodes * sizeof *s->nodes);
    s->replica_first = malloc((nodes + 1) * sizeof *s->replica_first);
    s->replica_node = malloc(nodes * sizeof *s->replica_node);
    s->prices = malloc(nodes * sizeof *s->prices);
    s->answer.expert = malloc(visits * sizeof *s->answer.expert);
    s->answer.node = malloc(visits * sizeof *s->answer.node);
    s->answer.arrivals = malloc(nodes * sizeof *s->answer.arrivals);
    if (!s->nodes || !s->replica_first || !s->replica_node || !s->prices || !s->answer.expert ||
        !s->answer.node || !s->answer.arrivals ||
        smoe_route_scratch_new(tokens, nodes, nodes, &s->scratch))
        return SMOE_ENOMEMORY;
    fill(s, tokens, nodes, top_k);
    return 0;
}

int smoe_slots_init(struct smoe_slots *s, uint32_t tokens, uint32_t nodes, uint32_t top_k)
{
    *s = (struct smoe_slots){.scratch = NULL};
    s->scores = malloc(SMOE_SLOTS_MAX * (size_t)tokens * nodes * sizeof *s->scores);
    return s->scores ? make(s, tokens, nodes, top_k) : SMOE_ENOMEMORY;
}

int smoe_slots_init_bare(struct smoe_slots *s, uint32_t tokens, uint32_t nodes, uint32_t top_k)
{
    *s = (struct smoe_slots){.scratch = NULL};
    return make(s, tokens, nodes, top_k);
}

void smoe_slots_release(struct smoe_slots *s)
{
    smoe_route_scratch_free(s->scratch);
    free(s->scores);
    free(s->nodes);
    free(s->replica_first);
    free(s->replica_node);
    free(s->prices);
    free(s->answer.expert);
    free(s->answer.node);
    free(s->answer.arrivals);
    *s = (struct smoe_slots){.scratch = NULL};
}
