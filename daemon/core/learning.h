/* SPDX-License-Identifier: Apache-2.0
 *
 * What the daemon learns of one worker from the differences between its reports: what a flop costs, which
 * share of a frequency it achieves, what it draws. Estimates of estimate.h, and which observation goes to
 * which of them (MODEL.md, "What the daemon learns"). Pure.
 */
#ifndef SMOE_CORE_LEARNING_H
#define SMOE_CORE_LEARNING_H

#include <stdbool.h>

#include "common/base/limits.h"
#include "daemon/core/cost_power.h"
#include "daemon/core/estimate.h"

enum smoe_phase { SMOE_FORWARD, SMOE_BACKWARD, SMOE_PHASES };

/* What an operator believes of a worker before it has worked; 0: nothing. */
struct smoe_priors {
    double cycles_per_flop;
    double busy_w;   /* drawn while computing at its highest frequency */
    double static_w; /* of that, drawn whatever it does */
};

#define SMOE_COST_PRIOR 0.125 /* cycles a flop, if nobody knows better */

/* How the energy of a cycle depends on the frequency. */
enum smoe_power_law {
    SMOE_POWER_LINE, /* not: a duty cycle rests for the remaining time. [J/cycle] */
    SMOE_POWER_CUBE, /* by its square: the voltage follows. kappa [J s^2 / cycle^3] */
};

/* Between two reports. Frequencies are of all lanes together. */
struct smoe_observed {
    double flops[SMOE_PHASES], cycles[SMOE_PHASES];
    double row_flops[SMOE_PHASES]; /* of one row of each parcel */
    double all_cycles;             /* steps included */
    double offered_cycles; /* those that the frequency in force had for the time with work */
    double wall_s;
    double joules; /* metered; 0 while the meter has not moved */
    bool unread;   /* the meter cannot be read now */
    double hz;     /* in force throughout */
};

/* A ratio of bursts, as two sums that forget: there is no noise about it that could be tested. (A duty cycle
 * does a small parcel at full speed, and the next one waits for its rest.) */
struct smoe_ratio {
    double of, per;
};

/* What was metered while a worker ran at about one frequency; sums that forget. */
struct smoe_power_state {
    double cycles, joules; /* of the time with work, static power included */
    double part;           /* sum of cycles times the frequency in force over the highest */
    uint32_t seen;
};

/* Equal parts of 0..fmax: as many frequencies are told apart where the driver takes any. */
#define SMOE_POWER_STATES 16

struct smoe_learned {
    struct smoe_priors priors;
    /* [cycle/flop]: of a row more; and of a parcel, as if it had so many cycles for each flop of a row */
    struct smoe_estimate cost[SMOE_PHASES];
    struct smoe_estimate share; /* cycles done of those offered, (0, 1] */
    struct smoe_estimate power; /* static [W], and that of work by `law`; n = 0: nothing metered */
    enum smoe_power_law law;
    struct smoe_ratio shared;     /* cycles done, offered: what `share` is the quotient of */
    double full[SMOE_PHASES + 1]; /* cycles of a full observation: the largest of late */
    double table_hz[SMOE_FREQ_STATES_MAX]; /* [n_table] P-states, of all lanes as set, rising */
    uint32_t n_table;                      /* 0: any frequency can be had */
    /* [n_table], or [SMOE_POWER_STATES]: fmax times k/16..(k+1)/16 */
    struct smoe_power_state states[SMOE_FREQ_STATES_MAX];
    struct {
        double s, active_s;  /* time; with work */
        double cycles, work; /* work: cycles, or cycles f^2 */
        double part;         /* cycles times the frequency in force over the highest */
    } unmetered;             /* since the meter moved */
    bool unread;             /* the meter could not be read the last time, and since then, [J] */
    double modelled_j;       /* more than it has told since was said to have been drawn */
    double watts;            /* mean power of late */
};

/* Nothing is learned yet. */
void smoe_learned_init(struct smoe_learned *learned, const struct smoe_priors *priors,
                       enum smoe_power_law law);

/* A connection begins: the law of the driver that it has now, and its own word for busy power, if any. What
 * was learned of another law's power is forgotten. */
void smoe_learned_resume(struct smoe_learned *learned, enum smoe_power_law law, double busy_w);

/* The P-states that the driver has, of all lanes as set, rising; n = 0: it takes any frequency. What was
 * metered of the same states is kept. */
void smoe_learned_table(struct smoe_learned *learned, const double *hz, uint32_t n);

/* `top_hz`: the highest frequency of all lanes, which is what the prior of busy power belongs to. Returns the joules of
 * that time: those metered or, while the meter cannot be read, what is modelled of the time since it moved last, with
 * what was learned of power or the priors (0 where there is neither): a dead meter would pay off every debt. When it
 * can be read again it tells what it counted meanwhile, perhaps without what it did not see: the larger of the two
 * stands, and nothing is taken back. Of power nothing is learned from such a time. */
double smoe_learned_observe(struct smoe_learned *learned, const struct smoe_observed *observed,
                            double top_hz);

/* Cost of a phase: its own, that of the other while that is all that is known, or the prior. Its two terms are
 * as above. [cycle/flop] */
const struct smoe_estimate *smoe_learned_cost(const struct smoe_learned *learned,
                                              enum smoe_phase phase);

/* Cost of a flop in a parcel of so many rows (INFINITY: of a row more), and its standard error. [cycle/flop]
 * Here and below `ret_error` may be NULL: errors are dearer than values. */
double smoe_learned_cost_at(const struct smoe_learned *learned, enum smoe_phase phase, double rows,
                            double *ret_error);

/* kappa, and its standard error: of the cube that meets the machine's power at hz, where the law is a line.
 * 0 while nothing is metered. [J s^2 / cycle^3] */
double smoe_learned_kappa(const struct smoe_learned *learned, double hz, double *ret_error);

/* What the machine draws at each frequency up to top_hz, of all lanes together as achieved: the lower hull of
 * what was metered, and of the estimated law where nothing was; of its P-states alone, if it has such. False
 * where kappa and static power describe it as well, or nothing is metered. */
bool smoe_learned_curve(const struct smoe_learned *learned, double top_hz,
                        struct smoe_power_curve *ret);

/* Static power; 0 while nothing is metered. [W] */
double smoe_learned_static_w(const struct smoe_learned *learned, double *ret_error);

#endif
