/* SPDX-License-Identifier: Apache-2.0
 *
 * The hull is made once, by the monotone chain: a point is dropped as soon as the way past it is not
 * steeper than the way to it. Slopes are then stored, and forced not to fall by a last bit; every price
 * is made of them, clamped between the slopes at its two ends, so that prices rise whatever the rounding.
 */
#include "daemon/core/cost_power.h"

#include <math.h>

static double chord(const struct smoe_power_curve *curve, uint32_t from, uint32_t to)
{
    return (curve->watts[to] - curve->watts[from]) / (curve->hz[to] - curve->hz[from]);
}

static void add_point(struct smoe_power_curve *curve, double hz, double watts)
{
    curve->hz[curve->n] = hz;
    curve->watts[curve->n] = watts;
    while (curve->n >= 2 &&
           chord(curve, curve->n - 1, curve->n) <= chord(curve, curve->n - 2, curve->n - 1)) {
        curve->hz[curve->n - 1] = hz; /* the point before is on or above the chord */
        curve->watts[curve->n - 1] = watts;
        curve->n--;
    }
    curve->n++;
}

bool smoe_power_hull(double static_w, const double *hz, const double *watts, uint32_t n,
                     struct smoe_power_curve *ret)
{
    bool sound = n >= 1 && n < SMOE_POWER_POINTS_MAX && static_w >= 0 && isfinite(static_w);
    for (uint32_t k = 0; sound && k < n; k++)
        sound =
            hz[k] > (k ? hz[k - 1] : 0) && isfinite(hz[k]) && watts[k] >= 0 && isfinite(watts[k]);
    if (!sound)
        return false;
    *ret = (struct smoe_power_curve){.n = 0};
    double least = static_w; /* nothing that is running draws less than idling: a meter's error */
    add_point(ret, 0, static_w);
    for (uint32_t k = 0; k < n; k++) {
        least = watts[k] > least ? watts[k] : least;
        add_point(ret, hz[k], least);
    }
    for (uint32_t k = 0; k + 1 < ret->n; k++) {
        ret->slope[k] = chord(ret, k, k + 1);
        if (k > 0 && ret->slope[k] < ret->slope[k - 1])
            ret->slope[k] = ret->slope[k - 1];
    }
    return true;
}

/* The segment that hz lies in. */
static uint32_t segment_of(const struct smoe_power_curve *curve, double hz)
{
    uint32_t k = 0;
    while (k + 2 < curve->n && curve->hz[k + 1] <= hz)
        k++;
    return k;
}

double smoe_power_at(const struct smoe_power_curve *curve, double hz)
{
    uint32_t k = segment_of(curve, hz);
    return curve->watts[k] + curve->slope[k] * (hz - curve->hz[k]);
}

double smoe_power_step(const struct smoe_power_curve *curve, double visit_hz, double d)
{
    double from = d * visit_hz, to = (d + 1) * visit_hz;
    uint32_t first = segment_of(curve, from), last = segment_of(curve, to);
    double least = curve->slope[first] * visit_hz, most = curve->slope[last] * visit_hz;
    if (first == last)
        return least;
    double sum = curve->slope[first] * (curve->hz[first + 1] - from) +
                 curve->slope[last] * (to - curve->hz[last]);
    for (uint32_t k = first + 1; k < last; k++)
        sum += curve->slope[k] * (curve->hz[k + 1] - curve->hz[k]);
    return sum < least ? least : sum > most ? most : sum;
}

double smoe_power_frequency(const struct smoe_power_curve *curve, double watts)
{
    uint32_t k = curve->n - 1;
    if (watts >= curve->watts[k])
        return curve->hz[k];
    if (watts < curve->watts[0])
        return 0;
    while (curve->watts[k] > watts)
        k--;
    return curve->hz[k] + (watts - curve->watts[k]) / curve->slope[k];
}

void smoe_power_states(const struct smoe_power_curve *curve, double hz, double *ret_low,
                       double *ret_high)
{
    uint32_t k = 1;
    while (k + 1 < curve->n && curve->hz[k] < hz)
        k++;
    *ret_high = curve->hz[k];
    *ret_low = k > 1 && curve->hz[k] > hz ? curve->hz[k - 1] : curve->hz[k];
}
