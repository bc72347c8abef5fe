/* SPDX-License-Identifier: Apache-2.0
 *
 * What a machine draws at a frequency, when kappa f^3 does not describe it: the lower convex hull of
 * measured points, with static power and a finite table of P-states (MODEL.md section 1). Between two
 * states of the hull a slot's work is shared out in time, so the hull is what can be had, and the energy
 * of a slot's work D is tau P(c D / tau): convex in D, which is all that the solve asks. Pure.
 */
#ifndef SMOE_CORE_COST_POWER_H
#define SMOE_CORE_COST_POWER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/limits.h"

#define SMOE_POWER_POINTS_MAX (SMOE_FREQ_STATES_MAX + 1)

/* P(f), linear between points; hz rises from 0, slopes do not fall. Made by smoe_power_hull. */
struct smoe_power_curve {
    bool
        stepless; /* every frequency can be had, not only those of points; smoe_power_hull: false */
    uint32_t n;   /* points, 2.. */
    double hz[SMOE_POWER_POINTS_MAX];    /* [n] */
    double watts[SMOE_POWER_POINTS_MAX]; /* [n] watts[0]: static power */
    double
        slope[SMOE_POWER_POINTS_MAX]; /* [n-1] W/Hz of the segment that begins at point k; >= 0 */
};

/* The curve of a machine that idles at `static_w` >= 0 and was measured drawing watts[k] >= 0 while it ran
 * at hz[k] > 0, rising. Points above a chord of others are no use and are dropped. False, and nothing
 * done, if the points do not rise, are not finite, or are none or more than SMOE_POWER_POINTS_MAX - 1. */
bool smoe_power_hull(double static_w, const double *hz, const double *watts, uint32_t n,
                     struct smoe_power_curve *ret);

/* P(hz) in W; beyond the last point as steep as before it. */
double smoe_power_at(const struct smoe_power_curve *curve, double hz);

/* P((d+1) visit_hz) - P(d visit_hz): what the (d+1)-th visit adds. Nondecreasing in d also as rounded. */
double smoe_power_step(const struct smoe_power_curve *curve, double visit_hz, double d);

/* The frequency at which `watts` are drawn, at most the last point's; 0 if static power is more. */
double smoe_power_frequency(const struct smoe_power_curve *curve, double watts);

/* The states of the hull around hz, which share the time between them: ret_low <= hz <= ret_high. Below the
 * slowest and beyond the fastest both are that one. */
void smoe_power_states(const struct smoe_power_curve *curve, double hz, double *ret_low,
                       double *ret_high);

#endif
