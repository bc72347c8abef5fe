/* SPDX-License-Identifier: Apache-2.0
 *
 * A fleet slot by slot, as MODEL.md section 1 has it: the daemon's own routing policies, node costs and
 * frequency laws (daemon/core), on workers that do just what they are told. No messages: what a policy
 * is worth, and how large a fleet must be. What the messages add is for the stories.
 */
#ifndef SMOE_SIM_SLOTTED_H
#define SMOE_SIM_SLOTTED_H

#include "daemon/core/policy_plan.h"
#include "sim/scenario.h"

/* At what frequency the baselines run; the lyapunov policies decide it with the slot. */
enum smoe_sim_freq_rule {
    SMOE_FREQ_SUSTAINABLE, /* what the mean budget sustains */
    SMOE_FREQ_FULL,        /* fmax, with a slot's joules capped at Emax */
};

/* Tokens with a meaning, in the place of synthetic ones: who gives their scores, and learns from them.
 * Tokens are numbered from 0 in order of arrival. */
struct smoe_slotted_trainer {
    void *context;
    /* ret[n, experts] of the tokens first..first+n-1, which arrive now. */
    void (*score)(void *context, uint64_t first, uint32_t n, float *ret);
    /* Slot `slot` is over: these tokens [n] are complete, on these experts [n, top_k]. */
    void (*learn)(void *context, uint64_t slot, uint32_t n, const uint64_t *tokens,
                  const uint16_t *experts);
};

/* A slot that was recorded: arrivals and fleet in the place of the scenario's. Arrays are borrowed until the
 * next. At least top_k experts have a replica on a worker that serves. */
struct smoe_slotted_recorded {
    uint32_t tokens;
    const float *scores;                  /* [tokens, experts] */
    const struct smoe_plan_worker *known; /* [workers] who serves, and their physics */
    const uint32_t *replica_first;        /* [experts + 1] */
    const uint32_t *replica_node;
};

struct smoe_slotted_tape {
    void *context;
    uint32_t tokens_max, replicas_max; /* of a slot */
    void (*next)(void *context, struct smoe_slotted_recorded *ret);
};

struct smoe_whole_fleet;

struct smoe_slotted_options {
    enum smoe_policy policy;
    enum smoe_sim_freq_rule freq_rule;
    uint64_t slots;                             /* > 0 */
    uint64_t seed;                              /* all policies see the same arrivals and scores */
    uint64_t (*clock_ns)(void);                 /* to time solves; NULL: they are not */
    const struct smoe_slotted_trainer *trainer; /* NULL: tokens as the scenario draws them */
    const struct smoe_slotted_tape *tape;       /* NULL: the scenario's own arrivals and fleet */
    bool keep_series;
    const struct smoe_whole_fleet *whole; /* smoe_whole_run: what a scenario does not say; NULL */
};

/* Slot by slot, with keep_series; owned by the result. */
struct smoe_slotted_series {
    double *backlog;  /* [slots] sum over workers at slot end [visit] */
    double *debt;     /* [slots] sum over workers at slot end [J] */
    double *complete; /* [slots] tokens completed in the slot */
};

/* Words as in MODEL.md, "Words, once". */
struct smoe_slotted_result {
    double seconds;  /* virtual */
    uint64_t tokens; /* arrived */
    uint64_t visits; /* done */
    uint64_t complete;
    uint64_t moved; /* visits whose worker vanished, given to another replica */
    double backlog_mean, backlog_max, backlog_last; /* sum over workers at slot end [visit] */
    double backlog_slope;                           /* over the last half [visit/slot] */
    double debt_mean, debt_max;       /* Z: mean over workers and slots, largest [J] */
    double debt_rest;                 /* max_j Z_j / (T Eavg_j) at the end */
    double joules;                    /* spent by all */
    double overdraft;                 /* max_j max(0, mean E_j / Eavg_j - 1) */
    double gate_mass, gate_mass_best; /* a token: obtained; of its own top K */
    double agreement;                 /* share of choices among the token's top K */
    double load;                      /* rho; 0: the source waits for the fleet */
    uint64_t slots_exact;             /* solved to the proof */
    double gap_max;                   /* of a slot's solve, relative; -1: the policy proves none */
    double *share;                    /* [workers] of visits done, owned */
    struct smoe_slotted_series series;
    uint64_t slots_held;  /* smoe_whole_run: at whose end tokens that had come were not routed */
    uint64_t tokens_held; /* the most of them at the end of a slot */
    uint64_t solve_ns;    /* with a clock, as is run_ns */
    uint64_t run_ns;
};

void smoe_slotted_run(const struct smoe_scenario *scenario,
                      const struct smoe_slotted_options *options, struct smoe_slotted_result *ret);
/* Least squares over the last half of y[n]. [1/slot] */
double smoe_sim_slope(const double *y, uint64_t n);
void smoe_slotted_release(struct smoe_slotted_result *result);

/* True for the policies that decide frequencies with the slot, whatever the rule. */
bool smoe_slotted_decides_frequency(enum smoe_policy policy);

#endif
