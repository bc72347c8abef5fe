/* SPDX-License-Identifier: Apache-2.0
 *
 * Random routing problems and two independent ways to solve them: every assignment tried (small), and
 * the textbook min-cost flow on the full network, token by token (middle). Neither shares a line with
 * the solver but the node cost, which has a test of its own.
 */
#ifndef SMOE_TESTS_MATH_ORACLE_H
#define SMOE_TESTS_MATH_ORACLE_H

#include "common/base/rng.h"
#include "daemon/core/route.h"

/* What kind of problem to draw. */
struct instance_kind {
    uint32_t tokens_max, experts_max, nodes_max, top_k_max;
    uint32_t tokens_min, experts_min; /* 0: 1 */
    bool one_to_one;                  /* expert j on node j alone, as in the paper */
    bool caps;  /* some nodes capped, some dead, perhaps experts without a live replica */
    bool alike; /* few distinct rows of scores, coarse values: ties everywhere */
};

/* One problem with its arrays; `problem` points into them. */
struct instance {
    struct smoe_route_problem problem;
    struct smoe_route_answer answer;
    float *scores;
    uint32_t *replica_first, *replica_node;
    struct smoe_node *nodes;
};

void instance_draw(struct instance *instance, const struct instance_kind *kind,
                   struct smoe_rng *rng);
void instance_release(struct instance *instance);

/* Fails the test unless the answer obeys every constraint and its primal is its objective. */
void instance_check(const struct instance *instance, const char *what);

/* K N (max w - min w + V) of the routed tokens: what gaps are relative to. */
double instance_scale(const struct instance *instance);

/* The objective's minimum for the largest number of first tokens that fit, and that number.
 * brute_force needs about patterns^tokens steps; see brute_force_steps. */
double brute_force_steps(const struct instance *instance);
double brute_force(const struct instance *instance, uint32_t *ret_routed);
double min_cost_flow(const struct instance *instance, uint32_t *ret_routed);

#endif
