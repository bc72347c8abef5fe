/* SPDX-License-Identifier: Apache-2.0
 *
 * A fleet and what is asked of it, for `stablemoe-sim run`. A specification is what a person writes (an
 * INI file, read by main.c through the same struct, or one of the built-in ones); a scenario is that
 * with all its lists written out.
 *
 * A list is a text: `1 0.5 0.25` (repeated as often as needed), `1.5..9.5` (evenly spaced over all), or
 * `~0.1..1` (log-uniform at random, from the scenario's own seed: the fleet is the same in all runs).
 */
#ifndef SMOE_SIM_SCENARIO_H
#define SMOE_SIM_SCENARIO_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "daemon/core/freq.h"

#define SMOE_SCENARIO_LIST_MAX    150
#define SMOE_SCENARIO_PATH_MAX    256
#define SMOE_SCENARIO_DELAY_MAX   1000 /* slots */
#define SMOE_SCENARIO_WORKERS_MAX 16384
#define SMOE_SCENARIO_TOKENS_MAX  262144

/* Where tokens come from. */
enum smoe_sim_source {
    SMOE_SOURCE_OPEN,   /* so many each slot, whatever the backlog: the paper's */
    SMOE_SOURCE_CLOSED, /* a trainer that submits a batch when the last is done: slots close early */
};

/* How many tokens an open source has in a slot: a Poisson number (but for a trace) whose mean is */
enum smoe_sim_arrivals {
    SMOE_ARRIVALS_POISSON, /* the same in every slot */
    SMOE_ARRIVALS_BURSTY, /* `burst` times as high in on-slots, 0 in off-slots; both last at random */
    SMOE_ARRIVALS_DIURNAL, /* 1 +- `swing`, a wave of `period` slots */
    SMOE_ARRIVALS_TRACE,   /* recorded: one number a slot, from the start again at its end */
};

/* How the power of a worker depends on its frequency; kappa fmax^3 at the highest. */
enum smoe_sim_power {
    SMOE_SIM_CUBE, /* kappa f^3: the voltage follows */
    SMOE_SIM_LINE, /* kappa fmax^2 f: a duty cycle, which is cheaper per second and not per cycle */
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
    unsigned power;                       /* enum smoe_sim_power */
    double parcel_rows; /* run whole: a parcel costs as much as so many visits beside its own */
    double meter_noise; /* run whole: of the model meters (agent.h) */
    char nodes
        [SMOE_SCENARIO_PATH_MAX]; /* file: speed, budget and cap of a worker a line; "": none */
    uint64_t up, down;   /* churn: mean slots of presence and of absence; up 0: nobody leaves */
    uint64_t fleet_seed; /* of the lists at random */
    unsigned source;     /* enum smoe_sim_source */
    double tokens;       /* mean of a slot, or of a batch; a trace brings its own */
    unsigned arrivals;   /* enum smoe_sim_arrivals, of an open source */
    double burst, swing;
    uint64_t period;                    /* [slot] an on and an off phase on average; a day */
    char trace[SMOE_SCENARIO_PATH_MAX]; /* file of numbers, for SMOE_ARRIVALS_TRACE */
    uint64_t experts, copies; /* each expert stands on so many workers, dealt out in turn, or */
    uint64_t
        slots; /* so many experts on each worker, placed by how often tokens want them; 0: copies */
    uint64_t top_k;
    double skew;                        /* g = softmax(skew * rank + N(0,1)) */
    char ranks[SMOE_SCENARIO_LIST_MAX]; /* of each expert; "": 0, 1, 2, .. */
    uint64_t drift; /* slots after which every rank has moved on to the next expert; 0: never */
    uint64_t pool;  /* so many tokens' noise is drawn and used again and again; 0: always fresh */
    uint64_t slot_ns;
    uint64_t delay; /* reports are so many slots old when they count */
    double work;    /* what a solve may look at a token before it must answer; 0: no limit */
    double v, mu;
    double gap; /* what a slot may be worth less than the best, of K N V mu */
};

struct smoe_scenario {
    struct smoe_scenario_spec spec;
    double *freq_max_hz, *budget_w, *cap_w; /* [workers], owned */
    struct smoe_power_curve *curve;         /* [workers], owned; NULL: all are kappa f^3 */
    double *rank;                           /* [experts], owned */
    double *trace;                          /* [trace_len], owned; NULL: none */
    uint64_t trace_len;
    double trace_mean;
};

extern const struct smoe_scenario_spec smoe_scenarios[];
extern const uint32_t smoe_scenarios_len;

/* NULL if there is none of that name. */
const struct smoe_scenario_spec *smoe_scenario_find(const char *name);

/* `random:N`, N in 10..10000: the built-in scenario `random`, grown to N workers and 20 N tokens a slot
 * (at most 100,000), each of up to 64 experts on N / 64 of them. False if the name is none of these. */
bool smoe_scenario_random(const char *name, struct smoe_scenario_spec *ret);

/* SMOE_ECONFIG (or the errno of a file) and a sentence that names the key if something does not fit. */
int smoe_scenario_init(struct smoe_scenario *scenario, const struct smoe_scenario_spec *spec,
                       struct smoe_why *why);

/* Sets the mean number of tokens (of a trace: its scale) so that rho = K lambda / sum_j s_j is `load`.
 * SMOE_ECONFIG where the source is closed or the number would not fit. */
int smoe_scenario_set_load(struct smoe_scenario *scenario, double load, struct smoe_why *why);

struct smoe_freq_node smoe_scenario_physics(const struct smoe_scenario *scenario, uint64_t worker);

/* What the fleet sustains at its mean budgets: sum_j s_j. [visit/slot] */
double smoe_scenario_sustainable(const struct smoe_scenario *scenario);

void smoe_scenario_release(struct smoe_scenario *scenario);

#endif
