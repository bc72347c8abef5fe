/* SPDX-License-Identifier: Apache-2.0
 *
 * Least squares in information form (MODEL.md (20) to (22)): R, 2 x 2, is the sum of what the observations
 * say, each scaled by what was expected so that errors are relative. One term is two of which the second
 * is held at 0.
 *
 *  forgetting   is directional: an observation makes the old information fade along itself only. A node
 *               that runs at one frequency for a day says nothing of how static and dynamic power divide,
 *               and must not forget it.
 *  bounds       a coefficient that would leave them is set on its bound and the other to the best that
 *               goes with it.
 *  the test     compares |log(y / expected)| with four times its standard deviation: the logarithm, so
 *               that a machine four times as fast is as surprising as one four times as slow.
 *  noise        is learned from the same distances, cut at 2.5 standard deviations so that what is
 *               rejected hardly counts; where much is, the noise grows until it is not. What comes while
 *               nothing is known yet says nothing of the noise.
 *  a change     SMOE_ESTIMATE_ASIDE rejections in a row: all coefficients are scaled by the median of
 *               y / expected, and trusted little.
 */
#include "daemon/core/estimate.h"

#include <math.h> /* sqrt, fmin, fmax, isfinite: correctly rounded or exact everywhere */
#include <stdbool.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"

static const double MEMORY = 0.99; /* of a full observation's information, kept at the next one */
static const double GATE = 4;      /* standard deviations */
static const double GATE_NOISE = 2.5;
static const double NOISE_FIRST = 0.3 * 0.3;
static const double NOISE_MIN = 0.01 * 0.01; /* no model is truer than that */
static const double NOISE_MAX = 1;
static const double NOISE_GAIN = 0.02;
/* Observations that what is known after a change counts for: the median of five where it is the
 * coefficient itself, little where the two may have changed apart. */
static const double RESTART_WORTH[SMOE_ESTIMATE_TERMS + 1] = {0, 3, 0.1};

/* An observation as the estimate sees it. */
struct scaled {
    double u[SMOE_ESTIMATE_TERMS]; /* over the scale */
    double surprise;               /* y less what was expected, over the scale */
    double weight;
    double ratio;    /* y over what was expected */
    double distance; /* its logarithm */
    double variance; /* of the distance, times noise */
    bool ignorant;   /* less is known of what to expect than this observation says */
};

/* ---- 2 x 2 ---- */

static double determinant(const double r[3])
{
    return r[0] * r[2] - r[1] * r[1];
}

/* x = R^-1 b */
static void solve(const double r[3], const double b[2], double ret[2])
{
    double d = determinant(r);
    ret[0] = (r[2] * b[0] - r[1] * b[1]) / d;
    ret[1] = (r[0] * b[1] - r[1] * b[0]) / d;
}

/* What is not known of u x. */
static double ignorance(const double r[3], const double u[2])
{
    double x[2];
    solve(r, u, x);
    return u[0] * x[0] + u[1] * x[1];
}

/* ---- beginning ---- */

static double clamp(double x, double low, double high)
{
    return fmin(fmax(x, low), high);
}

void smoe_estimate_init(struct smoe_estimate *e, const struct smoe_estimate_term *terms, uint32_t n)
{
    smoe_assert(n == 1 || n == SMOE_ESTIMATE_TERMS);
    *e = (struct smoe_estimate){.n = n, .noise = NOISE_FIRST, .information = {1, 0, 1}};
    for (uint32_t i = 0; i < n; i++) {
        smoe_assert(terms[i].spread > 0 && terms[i].low >= 0 && terms[i].low <= terms[i].high);
        e->terms[i] = terms[i];
        e->value[i] = clamp(terms[i].prior, terms[i].low, terms[i].high);
        e->information[2 * i] = NOISE_FIRST / (terms[i].spread * terms[i].spread);
    }
}

/* ---- one observation ---- */

static double expected(const struct smoe_estimate *e, const double u[2])
{
    return u[0] * e->value[0] + u[1] * e->value[1];
}

static void forget(double r[3], const struct scaled *o)
{
    double v[2] = {r[0] * o->u[0] + r[1] * o->u[1], r[1] * o->u[0] + r[2] * o->u[1]};
    double fade = (1 - MEMORY) * o->weight / (o->u[0] * v[0] + o->u[1] * v[1]);
    r[0] -= fade * v[0] * v[0];
    r[1] -= fade * v[0] * v[1];
    r[2] -= fade * v[1] * v[1];
}

/* Term i leaves its bounds at x: onto the nearer one, and the other to the least of the quadratic there. */
static void project(const struct smoe_estimate *e, uint32_t i, double x[2])
{
    uint32_t other = 1 - i;
    double bound = clamp(x[i], e->terms[i].low, e->terms[i].high);
    x[other] -= e->information[1] / e->information[2 * other] * (bound - x[i]);
    x[i] = bound;
}

static void keep_bounds(struct smoe_estimate *e, double x[2])
{
    for (uint32_t i = 0; i < e->n; i++)
        if (x[i] < e->terms[i].low || x[i] > e->terms[i].high)
            project(e, i, x);
    for (uint32_t i = 0; i < e->n; i++)
        e->value[i] = clamp(x[i], e->terms[i].low, e->terms[i].high);
}

static void take(struct smoe_estimate *e, const struct scaled *o)
{
    double *r = e->information, moved[2];
    forget(r, o);
    r[0] += o->weight * o->u[0] * o->u[0];
    r[1] += o->weight * o->u[0] * o->u[1];
    r[2] += o->weight * o->u[1] * o->u[1];
    double b[2] = {o->weight * o->u[0] * o->surprise, o->weight * o->u[1] * o->surprise};
    solve(r, b, moved);
    double x[2] = {e->value[0] + moved[0], e->value[1] + moved[1]};
    keep_bounds(e, x);
    e->taken++;
    e->n_aside = 0;
}

/* `square`: of the distance, for an observation of weight 1. */
static void learn_noise(struct smoe_estimate *e, double square)
{
    double gain = fmax(NOISE_GAIN, 1 / (2 + (double)e->taken));
    square = fmin(square, GATE_NOISE * GATE_NOISE * e->noise);
    e->noise = clamp(e->noise + gain * (square - e->noise), NOISE_MIN, NOISE_MAX);
}

/* ---- a change ---- */

static void sort(double *a, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && a[k] < a[k - 1]; k--) {
            double t = a[k];
            a[k] = a[k - 1];
            a[k - 1] = t;
        }
}

static double median(const double *a)
{
    double sorted[SMOE_ESTIMATE_ASIDE];
    for (int i = 0; i < SMOE_ESTIMATE_ASIDE; i++)
        sorted[i] = a[i];
    sort(sorted, SMOE_ESTIMATE_ASIDE);
    return sorted[SMOE_ESTIMATE_ASIDE / 2];
}

/* Of two coefficients either may be the cause of all that an observation of this u shows. */
static void restart(struct smoe_estimate *e, const double u[2])
{
    double ratio = median(e->aside), off[SMOE_ESTIMATE_ASIDE];
    double all = ratio * expected(e, u);
    for (int i = 0; i < SMOE_ESTIMATE_ASIDE; i++)
        off[i] = fabs(e->aside[i] / ratio - 1);
    double noise = 1.4826 * median(off); /* the standard deviation of normal noise */
    e->noise = clamp(fmax(e->noise, noise * noise), NOISE_MIN, NOISE_MAX);
    e->information[1] = 0;
    for (uint32_t i = 0; i < e->n; i++) {
        const struct smoe_estimate_term *t = &e->terms[i];
        e->value[i] = clamp(e->value[i] * ratio, t->low, t->high);
        double scale = u[i] > 0 ? all / u[i] : e->value[i] > 0 ? e->value[i] : t->spread;
        e->information[2 * i] = RESTART_WORTH[e->n] / (scale * scale);
    }
    e->n_aside = 0;
    e->restarts++;
}

/* The prior was of another size: what is known keeps its relative errors. */
static void rescale(struct smoe_estimate *e, double ratio)
{
    for (uint32_t i = 0; i < e->n; i++) {
        e->value[i] = clamp(e->value[i] * ratio, e->terms[i].low, e->terms[i].high);
        e->information[2 * i] /= ratio * ratio;
    }
}

static enum smoe_estimate_verdict put_aside(struct smoe_estimate *e, const double u[2],
                                            double ratio)
{
    e->rejected++;
    e->aside[e->n_aside++] = ratio;
    if (e->n_aside < SMOE_ESTIMATE_ASIDE)
        return SMOE_ESTIMATE_REJECTED;
    restart(e, u);
    return SMOE_ESTIMATE_RESTARTED;
}

/* ---- the door ---- */

/* False if nothing can be learned from it. */
static bool usable(const double u[2], double y, double weight)
{
    return isfinite(u[0]) && isfinite(u[1]) && isfinite(y) && u[0] >= 0 && u[1] >= 0 &&
           u[0] + u[1] > 0 && y > 0 && weight > 0 && weight <= 1;
}

/* False if it is of a size that doubles have no room for. */
static bool look(const struct smoe_estimate *e, const double u[2], double y, double weight,
                 struct scaled *ret)
{
    double guess = expected(e, u);
    bool ignorant = !(guess > 0) || ignorance(e->information, u) * weight > guess * guess;
    double scale = ignorant ? y : guess; /* a wrong guess would weigh it wrongly */
    *ret = (struct scaled){
        {u[0] / scale, u[1] / scale}, (y - guess) / scale, weight, 1, 0, 0, ignorant};
    if (guess > 0) {
        ret->ratio = y / guess;
        ret->distance = smoe_log(ret->ratio);
    }
    double unknown = ignorance(e->information, ret->u);
    ret->variance = 1 / weight + unknown;
    return unknown > 0 && isfinite(ret->variance) && isfinite(ret->distance);
}

static bool strange(const struct smoe_estimate *e, const struct scaled *o)
{
    return o->distance * o->distance > GATE * GATE * e->noise * o->variance;
}

enum smoe_estimate_verdict smoe_estimate_observe(struct smoe_estimate *e, const double *given,
                                                 double y, double weight)
{
    double u[2] = {given[0], e->n > 1 ? given[1] : 0};
    struct scaled o;
    if (!usable(u, y, weight) || !look(e, u, y, weight, &o))
        return SMOE_ESTIMATE_UNUSABLE;
    bool aside = strange(e, &o);
    if (!o.ignorant)
        learn_noise(e, o.distance * o.distance / o.variance);
    if (aside && e->taken)
        return put_aside(e, u, o.ratio);
    if (aside) { /* a prior is not to be believed rather than the machine */
        rescale(e, o.ratio);
        if (!look(e, u, y, weight, &o))
            return SMOE_ESTIMATE_UNUSABLE;
    }
    take(e, &o);
    return SMOE_ESTIMATE_TAKEN;
}

double smoe_estimate_error(const struct smoe_estimate *e, uint32_t term)
{
    const double *r = e->information;
    double d = determinant(r);
    double error = d > 0 ? sqrt(e->noise * r[2 - 2 * term] / d) : (double)INFINITY;
    return fmin(error, fmax(e->terms[term].spread, e->value[term]));
}
