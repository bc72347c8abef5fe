/* SPDX-License-Identifier: Apache-2.0
 *
 * How long iterations take under a rule of placement (daemon/core/place.h) while popularity drifts. Many
 * worlds, each an AR(1) of log-popularity:
 *
 *     x_e(t+1) = a x_e(t) + sqrt(1 - a^2) sd normal,   popularity = softmax(x);   a = 1: it stands still, 0: no memory
 *
 * An iteration takes what its busiest worker computes + what its busiest link carries + what re-placing costs. Nothing
 * is dropped, so the time to a given loss is in proportion to the mean; what the paper's system would have dropped is
 * counted beside it. All rules see the same popularity.
 */
#ifndef SMOE_SIM_PLACING_H
#define SMOE_SIM_PLACING_H

#include "daemon/core/place.h"

struct smoe_placing_spec {
    uint32_t experts, workers, slots;     /* slots of each worker */
    bool unlike;                          /* speeds 1, 3/4, 1/2, 1/4 in turn; else 1 */
    enum smoe_place_sharing sharing;      /* how routing shares visits among replicas */
    double coefficient, log_sd;           /* a and sd */
    uint64_t visits;                      /* token visits of an iteration */
    double visit_s;                       /* c / speed of a worker of speed 1 [s] */
    uint64_t parameters;                  /* of an expert */
    double bandwidth;                     /* of each worker, each way [byte/s] */
    double plan_s;                        /* what making a plan takes [s] */
    uint64_t worlds, iterations, warm_up; /* iterations of each world that count, and before */
    uint64_t seed;
};

/* The experiment of the paper's size: 16 experts, 4 slots, 16 workers, experts 256-1024-256. */
void smoe_placing_standard(struct smoe_placing_spec *ret);

/* Means over all iterations of all worlds. */
struct smoe_placing_result {
    double compute_s, link_s, placement_s, time_s; /* the last is the sum of the others */
    double dropped;                                /* share of visits beyond visits/S a slot */
    double moved;                                  /* slots whose worker did not hold the expert */
    double trust; /* in the last popularity, at the end (smoe_place_planner_trust) */
};

/* With `oracle` each plan is made from the popularity of the very iteration it is for: what no rule can have. */
void smoe_placing_run(const struct smoe_placing_spec *spec, const struct smoe_place_rule *rule,
                      bool oracle, struct smoe_placing_result *ret);

#endif
