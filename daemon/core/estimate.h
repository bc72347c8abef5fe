/* SPDX-License-Identifier: Apache-2.0
 *
 * What a machine costs, learned while it works: one or two coefficients of
 *
 *     y = u_0 x_0 + u_1 x_1 + noise        all of it >= 0; the noise relative to y
 *
 * from observations (u, y), by recursive least squares with forgetting (MODEL.md section 7). An observation
 * far from what is expected is put aside. A single one is a measurement gone wrong; several in a row mean
 * that the machine has changed, and the estimate begins anew where they are. Pure; the same bits on every
 * machine.
 */
#ifndef SMOE_CORE_ESTIMATE_H
#define SMOE_CORE_ESTIMATE_H

#include <stdint.h>

#define SMOE_ESTIMATE_TERMS 2
#define SMOE_ESTIMATE_ASIDE 5 /* observations put aside in a row that mean a change */

/* What is known of a coefficient before anything is observed; in its own unit, all finite. */
struct smoe_estimate_term {
    double prior;     /* low..high */
    double spread;    /* standard error of the prior, > 0 */
    double low, high; /* 0 <= low <= high: no estimate leaves them */
};

struct smoe_estimate {
    uint32_t n; /* terms, 1 or 2 */
    struct smoe_estimate_term terms[SMOE_ESTIMATE_TERMS];
    double value[SMOE_ESTIMATE_TERMS]; /* x as estimated */
    double information[3]; /* the symmetric matrix (00, 01, 11): inverse covariance, times noise */
    double noise;          /* variance of the relative error of an observation of weight 1 */
    double aside[SMOE_ESTIMATE_ASIDE]; /* [n_aside] y over what was expected */
    uint32_t n_aside;
    uint64_t taken, rejected, restarts; /* observations; times that it began anew */
};

enum smoe_estimate_verdict {
    SMOE_ESTIMATE_UNUSABLE, /* not finite, or nothing can be learned from it: nothing has changed */
    SMOE_ESTIMATE_TAKEN,
    SMOE_ESTIMATE_REJECTED,
    SMOE_ESTIMATE_RESTARTED, /* the last of several in a row */
};

/* n = 1 or 2 terms; the value is the prior. */
void smoe_estimate_init(struct smoe_estimate *estimate, const struct smoe_estimate_term *terms,
                        uint32_t n);

/* One observation: u[n] >= 0, y > 0. `weight` in (0, 1]: how much of a full one it is; its noise is larger
 * by 1 / weight. */
enum smoe_estimate_verdict smoe_estimate_observe(struct smoe_estimate *estimate, const double *u,
                                                 double y, double weight);

/* Standard error of a coefficient; the spread of the prior while there is nothing better. A steady stream
 * of observations is known a little better than this says, by at most sqrt(2). */
double smoe_estimate_error(const struct smoe_estimate *estimate, uint32_t term);

#endif
