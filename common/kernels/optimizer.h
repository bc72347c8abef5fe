/* SPDX-License-Identifier: Apache-2.0
 *
 * Optimizers on flat parameter vectors: SGD with momentum and AdamW (Loshchilov and Hutter, 2019).
 * Each reads one set of state and writes another, so that a step can be staged beside the state it
 * replaces and thrown away (DESIGN: Step is a two-phase commit). Element-wise and in index order:
 * owner and follower of a state get the same bits.
 */
#ifndef SMOE_KERNELS_OPTIMIZER_H
#define SMOE_KERNELS_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kernels/real.h"

enum smoe_optimizer_kind {
    SMOE_SGD = 1,
    SMOE_ADAMW = 2,
};

/* Hyper-parameters of one step, all from the trainer. */
struct smoe_optimizer {
    enum smoe_optimizer_kind kind;
    double learning_rate;  /* >= 0 */
    double momentum;       /* SGD: 0..1 (excluded) */
    double beta1, beta2;   /* AdamW: 0..1 (excluded) */
    double epsilon;        /* AdamW: > 0 */
    double weight_decay;   /* decoupled (AdamW) or added to the gradient (SGD); >= 0 */
    double gradient_scale; /* every gradient is multiplied by this first: clip scale / divisor */
    uint64_t t;            /* 1 for the first step: bias correction of AdamW */
};

/* Vectors of state beside the weights: 1 for SGD (momentum), 2 for AdamW (m, v). */
unsigned smoe_optimizer_moments(enum smoe_optimizer_kind kind);

/* One step over n elements: reads w, m, v, g; writes new_w, new_m, new_v (which may be the same arrays
 * as w, m, v). SGD ignores v and new_v (may be NULL). */
void smoe_optimizer_step(const struct smoe_optimizer *o, size_t n, const smoe_real *w,
                         const smoe_real *m, const smoe_real *v, const smoe_real *g,
                         smoe_real *new_w, smoe_real *new_m, smoe_real *new_v);

/* Sum of squares in double: eight interleaved sums, then their sum, in that order everywhere. */
double smoe_square_norm(size_t n, const smoe_real *g);

#endif
