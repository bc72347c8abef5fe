/* SPDX-License-Identifier: Apache-2.0
 *
 * The dense part of the classifier that stablemoe-train trains: everything but the experts. One image
 * is one token; an encoder makes it a vector of d values, an MoE layer with a residual adds what K of E
 * experts say about it, and a linear head classifies:
 *
 *     h = relu(W_enc x + b_enc)               g = softmax(W_gate h)              [n,d], [n,E]
 *     y_k = expert e_k of h                   (elsewhere: a daemon and its workers, or local_moe.h)
 *     z = h + sum_k w_k y_k                   logits = W_head z + b_head         [n,d], [n,C]
 *
 * w are the gates of the experts that were really used (the router may trade the gate's favourites for
 * idle ones), renormalised: w_k = (g_ek + eps) / sum_j (g_ej + eps). For K = 1 that would be the constant 1
 * and the gate would learn nothing from the task, so w_1 = g_e1 there, as in Switch Transformer.
 *
 *     loss = mean cross entropy + alpha E sum_e f_e P_e
 *
 * with Switch's balance loss (Fedus et al., 2022, section 2.2): f_e the share of the batch's n K choices
 * that the gate's own top-K gives to e, P_e the mean gate probability; the gradient flows through P only.
 *
 * A step is forward_gate, [experts forward], forward_head, backward_head, [experts backward],
 * backward_gate, on one `struct smoe_pass`; several passes of one model may be under way at once,
 * their gradients add up. Nothing is allocated after init.
 */
#ifndef SMOE_TRAIN_MODEL_MODEL_H
#define SMOE_TRAIN_MODEL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "common/kernels/optimizer.h"
#include "common/kernels/real.h"

struct smoe_model_shape {
    uint32_t pixels;       /* P: values of one image, > 0 */
    uint32_t d_model;      /* d > 0 */
    uint32_t experts;      /* E, 1..SMOE_EXPERTS_MAX */
    uint32_t top_k;        /* K, 1..min(E, SMOE_TOP_K_MAX) */
    uint32_t classes;      /* C, 1..256 */
    double balance_weight; /* alpha >= 0 */
};

/* One named piece of the flat parameter vector, as checkpoints store it. */
struct smoe_model_tensor {
    const char *name;     /* static */
    size_t offset;        /* elements from the vector's start */
    size_t rows, columns; /* columns 0: a vector of `rows` */
};

enum { SMOE_MODEL_TENSORS = 5 };

/* Parameters, their gradients and the optimizer's moments; flat vectors in the order of _tensors. */
struct smoe_model {
    struct smoe_model_shape shape;
    size_t n_params;
    smoe_real *params;    /* owned, all four; [n_params] */
    smoe_real *grads;     /* sum over the passes since the last _step */
    smoe_real *moments_m; /* SGD's momentum, Adam's m */
    smoe_real *moments_v; /* Adam's v */
};

/* Initial parameters are a function of (shape, seed), the same bits everywhere. 0 or SMOE_ENOMEMORY. */
int smoe_model_init(struct smoe_model *model, const struct smoe_model_shape *shape, uint64_t seed);
void smoe_model_release(struct smoe_model *model);

void smoe_model_tensors(const struct smoe_model_shape *shape,
                        struct smoe_model_tensor ret[SMOE_MODEL_TENSORS]);

/* Updates the parameters from the gradients and zeroes those. */
void smoe_model_step(struct smoe_model *model, const struct smoe_optimizer *optimizer);

/* One batch on its way through the model: what forward keeps for backward. Sizes for `rows_max` rows;
 * the first n rows of each array hold the batch of the last forward_gate. */
struct smoe_pass {
    struct smoe_model_shape shape;
    size_t rows_max, n;
    const smoe_real *x;   /* borrowed from forward_gate until backward_gate; [n,P] */
    smoe_real *h;         /* owned, as all below; [n,d] the experts' input */
    smoe_real *gate;      /* [n,E] probabilities */
    float *scores;        /* [n,E] the same for the wire */
    uint16_t *top;        /* [n,K] the gate's own choice, best first */
    uint64_t *popularity; /* [E] how often `top` names each expert: demand before any re-routing */
    uint16_t *used;       /* [n,K] the experts of forward_head */
    smoe_real *weights;   /* [n,K] w */
    smoe_real *z;         /* [n,d] */
    smoe_real *logits;    /* [n,C] */
    smoe_real *dlogits;   /* [n,C] */
    smoe_real *dz;        /* [n,d], then dh */
    smoe_real *dgate;     /* [n,E] */
};

/* 0 or SMOE_ENOMEMORY. */
int smoe_pass_init(struct smoe_pass *pass, const struct smoe_model_shape *shape, size_t rows_max);
void smoe_pass_release(struct smoe_pass *pass);

struct smoe_model_result {
    double cross_entropy; /* mean over the rows */
    double balance;       /* alpha E sum f P */
    size_t correct;       /* rows whose largest logit is the label */
};

/* x[n,P] to pass->h, gate, scores, top and popularity. n <= rows_max. */
void smoe_model_forward_gate(const struct smoe_model *model, struct smoe_pass *pass, size_t n,
                             const smoe_real *x);

/* experts[n,K] (distinct within a row) with their outputs y[n,K,d], labels[n]. */
void smoe_model_forward_head(const struct smoe_model *model, struct smoe_pass *pass,
                             const uint16_t *experts, const smoe_real *y, const uint8_t *labels,
                             struct smoe_model_result *ret);

/* The same y; ret_dy[n,K,d] is the loss's gradient by y. Adds to the head's gradients. */
void smoe_model_backward_head(struct smoe_model *model, struct smoe_pass *pass, const smoe_real *y,
                              smoe_real *ret_dy);

/* dx[n,d] is the gradient by h that came back from the experts, summed over K (smoe_visits_sum). Adds to
 * the gate's and the encoder's gradients. */
void smoe_model_backward_gate(struct smoe_model *model, struct smoe_pass *pass,
                              const smoe_real *dx);

/* ret[n,d] = sum over k of visits[n,k,d], in the order of k. */
void smoe_visits_sum(size_t n, size_t k, size_t d, const smoe_real *visits, smoe_real *ret);

#endif
