/* SPDX-License-Identifier: Apache-2.0
 *
 * BASE's problem is the daemon's policy `base`, where every expert stands on one node without a limit of
 * its own. BASE layers add up the affinities h . E_e; the scores here are their softmax, whose logarithms
 * differ from them by a number that is the same for all experts of a token, and so change no assignment.
 */
#include "client/train/router/choice.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "daemon/core/policy.h"

#define LEAST 1e-30 /* of a probability, so that its logarithm is finite */

static const uint64_t HASH_STREAM = UINT64_C(4) << 20; /* of the seed; one more for each code */

struct smoe_balancer {
    uint32_t experts, k;
    size_t rows_max;
    struct smoe_route_scratch *scratch;
    struct smoe_node *nodes; /* [E] */
    uint32_t *list;          /* [E+1] 0, 1, 2 .. */
    uint16_t *expert;        /* [rows_max, K] */
    uint32_t *node;          /* [rows_max, K] */
    uint32_t *arrivals;      /* [E] */
    float *affinity;         /* [rows_max, E] */
};

void smoe_hash_scores(uint64_t seed, uint32_t experts, uint32_t k, size_t n, const uint16_t *codes,
                      float *ret_scores)
{
    smoe_assert(k <= experts);
    memset(ret_scores, 0, n * experts * sizeof *ret_scores);
    for (size_t i = 0; i < n; i++, ret_scores += experts) {
        struct smoe_rng rng;
        smoe_rng_init(&rng, seed, HASH_STREAM + codes[i]);
        for (uint32_t chosen = 0; chosen < k;) {
            uint64_t e = smoe_rng_below(&rng, experts);
            chosen += ret_scores[e] == 0;
            ret_scores[e] = 1;
        }
    }
}

int smoe_balancer_new(uint32_t experts, uint32_t k, size_t rows_max, struct smoe_balancer **ret)
{
    struct smoe_balancer *b = calloc(1, sizeof *b);
    if (!b)
        return SMOE_ENOMEMORY;
    *b = (struct smoe_balancer){.experts = experts, .k = k, .rows_max = rows_max};
    b->nodes = calloc(experts, sizeof *b->nodes);
    b->list = calloc(experts + 1, sizeof *b->list);
    b->expert = calloc(rows_max * k + 1, sizeof *b->expert);
    b->node = calloc(rows_max * k + 1, sizeof *b->node);
    b->arrivals = calloc(experts, sizeof *b->arrivals);
    b->affinity = calloc(rows_max * experts + 1, sizeof *b->affinity);
    if (!b->nodes || !b->list || !b->expert || !b->node || !b->arrivals || !b->affinity ||
        smoe_route_scratch_new((uint32_t)rows_max, experts, experts, &b->scratch)) {
        smoe_balancer_free(b);
        return SMOE_ENOMEMORY;
    }
    for (uint32_t e = 0; e < experts; e++) {
        b->nodes[e] = (struct smoe_node){.penalty = 1, .arrivals_max = UINT32_MAX};
        b->list[e + 1] = e + 1;
    }
    *ret = b;
    return 0;
}

void smoe_balancer_free(struct smoe_balancer *b)
{
    if (!b)
        return;
    smoe_route_scratch_free(b->scratch);
    free(b->nodes);
    free(b->list);
    free(b->expert);
    free(b->node);
    free(b->arrivals);
    free(b->affinity);
    free(b);
}

void smoe_balancer_assign(struct smoe_balancer *b, size_t n, float *scores)
{
    smoe_assert(n <= b->rows_max);
    for (size_t i = 0; i < n * b->experts; i++)
        b->affinity[i] = (float)smoe_log(fmax((double)scores[i], LEAST));
    struct smoe_route_problem problem = {.n_tokens = (uint32_t)n,
                                         .n_experts = b->experts,
                                         .n_nodes = b->experts,
                                         .top_k = b->k,
                                         .scores = b->affinity,
                                         .score_weight = 1,
                                         .replica_first = b->list,
                                         .replica_node = b->list,
                                         .nodes = b->nodes,
                                         .mode = SMOE_COST_EXACT};
    struct smoe_route_answer answer = {
        .expert = b->expert, .node = b->node, .arrivals = b->arrivals};
    smoe_policy_route(SMOE_POLICY_BASE, &problem, NULL, NULL, b->scratch, &answer);
    for (size_t v = 0; v < n * b->k; v++)
        scores[v / b->k * b->experts + b->expert[v]] += 1;
}

double smoe_choices_differ(size_t n, uint32_t k, const uint16_t *a, const uint16_t *b)
{
    size_t found = 0;
    for (size_t v = 0; v < n * k; v++)
        for (size_t j = 0; j < k; j++)
            found += a[v] == b[v / k * k + j];
    return n ? 1 - (double)found / ((double)n * k) : 0;
}
