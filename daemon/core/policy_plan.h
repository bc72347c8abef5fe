/* SPDX-License-Identifier: Apache-2.0
 *
 * From what is known of the workers to the terms of a slot's problem, and from its answer to a frequency:
 * the laws between the fleet's books (fleet.h) and the solver (route.h). They see only what stands in these
 * structs, so that a decision that was written down with them can be made again by the same functions
 * (proto/trace.h, sim/replay.h). Pure.
 */
#ifndef SMOE_CORE_POLICY_PLAN_H
#define SMOE_CORE_POLICY_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/core/freq.h"
#include "daemon/core/policy.h"

/* The time tau that a decision is planned for: work beyond what a worker can do in it is backlog and
 * has a price (MODEL.md, "Slot length"). */
#define SMOE_PLAN_MAP(X)                                                            \
    X(WORK, "work")       /* what all workers need together for the work at hand */ \
    X(SHORTER, "shorter") /* that, or the slot if it is shorter */                  \
    X(SLOT, "slot") /* the slot, which then never ends early: for open streams, as in the paper */

enum smoe_plan {
#define X(symbol, name) SMOE_PLAN_##symbol,
    SMOE_PLAN_MAP(X)
#undef X
        SMOE_PLAN_COUNT,
};

const char *smoe_plan_name(enum smoe_plan plan);
/* False if there is no plan of that name. */
bool smoe_plan_parse(const char *name, enum smoe_plan *ret);

/* The settings a decision is made by. */
struct smoe_plan_law {
    enum smoe_policy policy;
    enum smoe_plan plan;
    uint64_t slot_ns; /* > 0 */
    double v, mu;     /* as in smoe_core_settings */
};

/* What a decision knows of one worker. */
struct smoe_plan_worker {
    bool serves; /* it has a part in the layer; if not, the rest is not looked at */
    struct smoe_freq_node physics; /* of all its lanes together, as achieved */
    double backlog;                /* Q [visit] */
    double executable;             /* of it, what could run now [visit] */
    double debt_j;                 /* Z */
    double carry; /* fraction of a visit its last slot left over; smoe_plan_nodes: this one's */
    uint32_t arrivals_max; /* visits it has room for */

    /* Of a frequency alone: */
    uint32_t arrivals;   /* visits that leave with the decision; no part of backlog [visit] */
    double units;        /* lanes times the share of a frequency that they achieve, > 0 */
    uint64_t before_khz; /* decided last, of one lane; 0: never */
    double owed; /* cycles that the states decided so far gave too few (less than 0: too many) */
};

/* tau for `visits` new visits on workers[n]. By default the time that the workers which serve need
 * together for backlog and arrivals, even if it is longer than the slot: capped, what exceeds a slot
 * would be spread over them as equal backlogs, not by their speed. [s] */
double smoe_plan_horizon(const struct smoe_plan_law *law, const struct smoe_plan_worker *workers,
                         uint32_t n, double visits);

/* The solver's nodes[n] and debts[n], MODEL.md (2) and (5); a worker that does not serve has a cap of 0. */
void smoe_plan_nodes(const struct smoe_plan_law *law, double tau_s,
                     struct smoe_plan_worker *workers, uint32_t n, struct smoe_node *nodes,
                     double *debts);

/* Whether energy has no price for it: it runs at its ceiling then, whatever its queue. */
bool smoe_plan_energy_is_free(const struct smoe_plan_worker *worker, double tau_s);

/* f_j for what the worker has to do within tau, its new visits included (MODEL.md (3)), as what one lane is
 * set to. Where nothing is worth serving it is 1 kHz: the lowest that its driver has. Where there is not a
 * visit that it could finish it is what it was: what comes before the next slot is not to crawl. Of a machine
 * with P-states it is one of the two around f_j: the faster while cycles are owed, so that both share
 * the time as f_j lies between them. 0: it has no ceiling to speak of. [kHz]
 *
 * *ret_wanted_hz is f_j itself, of all lanes, where P-states share the time; otherwise 0. */
uint64_t smoe_plan_frequency(const struct smoe_plan_law *law, double tau_s,
                             const struct smoe_plan_worker *worker, double *ret_wanted_hz);

/* Visits whose experts are given, experts[n, top_k]: each goes to the replica with room that is done with it
 * soonest, tokens in order up to the first that finds no room. Books the visits with the nodes, writes
 * ret_nodes[.., top_k] and returns how many tokens have a place. */
uint32_t smoe_plan_given(struct smoe_node *nodes, const uint32_t *replica_first,
                         const uint32_t *replica_node, uint32_t n, uint32_t top_k,
                         const uint16_t *experts, uint32_t *ret_nodes);

#endif
