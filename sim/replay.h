/* SPDX-License-Identifier: Apache-2.0
 *
 * Recorded decisions made again, by the functions that made them: smoe_plan_* (daemon/core/policy_plan.h)
 * and smoe_policy_route. Each record alone: what a solve remembers from the last one is recorded with it.
 *
 * The same means bit for bit: experts, nodes, frequencies, tau, objective and bound. Of records with only
 * the largest scores of each token, those of policies that do not look at scores can be made again (all but
 * the objective), and those of `topk` where every choice is among them; no others, since a solve looks
 * at all.
 */
#ifndef SMOE_SIM_REPLAY_H
#define SMOE_SIM_REPLAY_H

#include "daemon/core/policy_plan.h"
#include "proto/trace.h"

/* Memory that grows with the records. All zero is one at the beginning. */
struct smoe_replay {
    struct smoe_route_scratch *scratch; /* owned, as all below */
    uint32_t tokens_max, experts_max, nodes_max;
    size_t visits_max, scores_max;
    struct smoe_plan_worker *known;  /* [nodes_max] */
    struct smoe_power_curve *curves; /* [nodes_max] of them */
    struct smoe_node *nodes;
    double *debts;
    uint32_t *arrivals;
    uint16_t *expert; /* [visits_max] */
    uint32_t *node;
    float *scores; /* [scores_max] of records that do not have them all */
};

void smoe_replay_release(struct smoe_replay *replay);

/* 0: the same. SMOE_EDATA: another decision comes out, the first difference is in `why`. SMOE_EFIELD,
 * SMOE_EUNKNOWN: it cannot be made again, because of the field named. Records that decide nothing are the
 * same. */
int smoe_replay_entry(struct smoe_replay *replay, const struct smoe_trace_entry *entry,
                      struct smoe_why *why);

/* All scores of a record [tokens, experts]: what was not recorded lies below what was, at 0 where that is
 * so. `ret` may be any memory of that size. */
void smoe_replay_scores(const struct smoe_trace_route *route, float *ret);

/* What a record knew of one worker. Its curve, if it has one, is put into `curve`; NULL: kappa stands for it. */
struct smoe_plan_worker smoe_replay_worker(const struct smoe_trace_worker *worker,
                                           struct smoe_power_curve *curve);

#endif
