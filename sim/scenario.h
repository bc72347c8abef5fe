/* SPDX-License-Identifier: Apache-2.0
 *
 * A fleet and what is asked of it, for `stablemoe-sim run`. A specification is what a person writes (an
 * INI file, read by main.c through the same struct, or one of the built-in ones); a scenario is that
 * with all its lists written out.
 *
 * A list is a text: `1 0.5 0.25` (repeated as often as needed), or `1.5..9.5` (evenly spaced over all).
 */
#ifndef SMOE_SIM_SCENARIO_H
#define SMOE_SIM_SCENARIO_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

#define SMOE_SCENARIO_LIST_MAX    150
#define SMOE_SCENARIO_WORKERS_MAX 16384
#define SMOE_SCENARIO_TOKENS_MAX  262144

/* Where tokens come from. */
enum smoe_sim_source {
    SMOE_SOURCE_OPEN,   /* a Poisson number each slot, whatever the backlog: the paper's */
    SMOE_SOURCE_CLOSED, /* a trainer that submits a batch when the last is done: slots close early */
};

struct smoe_scenario_spec {
    char name[64];
    uint64_t workers;                     /* 1..SMOE_SCENARIO_WORKERS_MAX */
    char speeds[SMOE_SCENARIO_LIST_MAX];  /* of each, of freq_hz */
    char budgets[SMOE_SCENARIO_LIST_MAX]; /* Eavg / slot of each [W]; "": none */
    char caps[SMOE_SCENARIO_LIST_MAX];    /* Emax / slot of each [W]; "": none */
    double freq_hz;                       /* fmax of a worker of speed 1 */
    double cycles;                        /* c, of a visit */
    double kappa;                         /* [J s^2 / cycle^3]; 0: energy has no model */
    unsigned source;                      /* enum smoe_sim_source */
    double tokens;                        /* mean of a slot, or of a batch */
    uint64_t experts;                     /* expert e stands on worker e mod `workers` */
    uint64_t top_k;
    double skew;                        /* g = softmax(skew * rank + N(0,1)) */
    char ranks[SMOE_SCENARIO_LIST_MAX]; /* of each expert; "": 0, 1, 2, .. */
    uint64_t slot_ns;
    double v, mu;
};

struct smoe_scenario {
    struct smoe_scenario_spec spec;
    double *freq_max_hz, *budget_w, *cap_w; /* [workers], owned */
    double *rank;                           /* [experts], owned */
};

extern const struct smoe_scenario_spec smoe_scenarios[];
extern const uint32_t smoe_scenarios_len;

/* NULL if there is none of that name. */
const struct smoe_scenario_spec *smoe_scenario_find(const char *name);

/* SMOE_ECONFIG and a sentence that names the key if the lists or numbers do not fit. */
int smoe_scenario_init(struct smoe_scenario *scenario, const struct smoe_scenario_spec *spec,
                       struct smoe_why *why);
void smoe_scenario_release(struct smoe_scenario *scenario);

#endif
