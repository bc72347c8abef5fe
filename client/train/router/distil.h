/* SPDX-License-Identifier: Apache-2.0
 *
 * The distilled router while it learns (StableMoE, section 3.1; MODEL.md section 3):
 *
 *     shat_te = Ehat_e . D(X_t)
 *     L_dis   = - weight / (n K) sum_t sum_{e in a_t} log softmax(shat_t)_e
 *
 * a_t are the K experts that the backbone's gate chose; K = 1 is the paper's, the mean over K ours. D is a
 * table [vocabulary, r] or a matrix [r, values] (feature.h), Ehat [E, r] starts orthogonal with gain 0.1.
 * The gradient reaches D and Ehat and nothing else: there is no way from here to a backbone.
 */
#ifndef SMOE_TRAIN_ROUTER_DISTIL_H
#define SMOE_TRAIN_ROUTER_DISTIL_H

#include "client/train/router/feature.h"
#include "common/kernels/optimizer.h"

struct smoe_distilled_shape {
    enum smoe_feature feature;
    uint32_t inputs;  /* > 0: of a table the vocabulary, of a linear map the values of a token */
    uint32_t dim;     /* r > 0; 50 in the paper */
    uint32_t experts; /* E */
};

/* Flat vectors: D, then Ehat. */
struct smoe_distilled {
    struct smoe_distilled_shape shape;
    size_t n_params, n_features; /* all of it; D alone */
    size_t rows_max;
    smoe_real *params; /* owned, as all below; [n_params] */
    smoe_real *grads, *moments_m, *moments_v;
    smoe_real *feature;  /* [rows_max, r] D(X) */
    smoe_real *dfeature; /* [rows_max, r] */
    smoe_real *logits;   /* [rows_max, E] shat, then its gradient */
};

/* A function of (shape, seed), the same bits everywhere. 0 or SMOE_ENOMEMORY. */
int smoe_distilled_init(struct smoe_distilled *distilled, const struct smoe_distilled_shape *shape,
                        size_t rows_max, uint64_t seed);
void smoe_distilled_release(struct smoe_distilled *distilled);

/* shat [n, E] of at most rows_max tokens; the object's memory. */
const smoe_real *smoe_distilled_logits(struct smoe_distilled *distilled,
                                       const struct smoe_tokens *tokens);

/* Adds the gradient of L_dis for the gate's choices top [n, K], and returns the loss. */
double smoe_distilled_learn(struct smoe_distilled *distilled, const struct smoe_tokens *tokens,
                            uint32_t k, const uint16_t *top, double weight);

/* Updates the parameters from the gradients and zeroes those. */
void smoe_distilled_step(struct smoe_distilled *distilled, const struct smoe_optimizer *optimizer);

#endif
