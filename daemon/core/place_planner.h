/* SPDX-License-Identifier: Apache-2.0
 *
 * From iteration to iteration: what is expected of each expert, and when a new plan is made (MODEL.md section 8). One
 * planner for each layer. Pure: its state is a function of the rule and of the popularity that it has seen.
 */
#ifndef SMOE_CORE_PLACE_PLANNER_H
#define SMOE_CORE_PLACE_PLANNER_H

#include "daemon/core/place.h"

struct smoe_place_planner;

/* For a layer of so many experts. 0 or SMOE_ENOMEMORY. */
int smoe_place_planner_new(const struct smoe_place_rule *rule, uint32_t n_experts,
                           struct smoe_place_planner **ret);
/* Room for one, of at most so many experts: it begins with smoe_place_planner_reset. 0 or SMOE_ENOMEMORY. */
int smoe_place_planner_room(uint32_t n_experts_max, struct smoe_place_planner **ret);
/* Begins again, for a layer of so many experts: at most as many as it was made for. */
void smoe_place_planner_reset(struct smoe_place_planner *planner,
                              const struct smoe_place_rule *rule, uint32_t n_experts);
void smoe_place_planner_free(struct smoe_place_planner *planner);

/* An iteration has ended: `popularity` [E] token visits as the gate alone would have them, before routing looked at
 * any load; otherwise overload would hide the very demand it comes from. An iteration without visits says nothing. */
void smoe_place_planner_see(struct smoe_place_planner *planner, const uint64_t *popularity);

/* The part of the last popularity that is expected to be there in the next iteration, 0..1; the rest of the demand is
 * taken for uniform. Measured: the slope of one iteration's deviations from uniform on those before, MODEL.md (23).
 * 0 before two iterations were seen. */
double smoe_place_planner_trust(const struct smoe_place_planner *planner);

/* Demand that the rule plans by [E], shares of 1. */
void smoe_place_planner_demand(const struct smoe_place_planner *planner, double *ret);

/* What it has learned beside the shares [n_experts], to be kept and brought back bit for bit. */
struct smoe_place_learned {
    uint64_t seen, planned; /* iterations; the last plan of `interval`: `seen` then, + 1; 0: none */
    double covariance, variance;
};
void smoe_place_planner_save(const struct smoe_place_planner *planner,
                             struct smoe_place_learned *ret, double *ret_shares);
/* Shares sum to 1; planned <= seen + 1. */
void smoe_place_planner_load(struct smoe_place_planner *planner,
                             const struct smoe_place_learned *from, const double *shares);

/* The plan for the next iteration. `problem` gives the fleet; its demand is not looked at. `before` is the plan in
 * force, or NULL: experts that stay on a worker keep their slots, and `interval` keeps the whole of it until its turn
 * comes, unless the fleet has changed. SMOE_ELIMIT if there are fewer slots than experts. */
int smoe_place_planner_next(struct smoe_place_planner *planner,
                            const struct smoe_place_problem *problem,
                            const struct smoe_place_plan *before,
                            struct smoe_place_scratch *scratch, struct smoe_place_plan *ret);

#endif
