/* SPDX-License-Identifier: Apache-2.0
 *
 * The dense part of the classifier that stablemoe-train trains: everything but the experts. An encoder
 * makes each token a vector of d values, an MoE layer with a residual adds what K of E experts say about
 * it, and a linear head classifies the sample, which is T tokens (an image: itself or its patches; a word
 * to be guessed: the c words before it, as one token):
 *
 *     h = relu(W_enc x + b_enc + p_t)         s = W_gate h                       [n,d], [n,E]
 *     y_k = expert e_k of h                   (elsewhere: a daemon and its workers, or local_moe.h)
 *     z = h + sum_k w_k y_k                   logits = W_head mean_t z + b_head  [n,d], [n/T,C]
 *
 * p_t is a learned vector for each of the T places (none for T = 1). Where tokens are words, x is the
 * embeddings [c, d] of the c words one after another, which are learned too (smoe_model_embed), and the last
 * one's is added to h, as a residual stream carries a token's own embedding to the experts of a
 * Transformer: the neural probabilistic language model of Bengio et al. (2003) with experts in it, and no
 * attention.
 *
 * The gate, of which each router wants its own kind:
 *
 *     SOFTMAX   g = softmax(s). w are the gates of the experts that were really used (the gateway may
 *               trade the gate's favourites for idle ones), renormalised: w_k = (g_ek + eps) / sum_j
 *               (g_ej + eps). For K = 1 that would be the constant 1 and the gate would learn nothing from
 *               the task, so w_1 = g_e1 there, as in Switch Transformer.
 *     SIGMOID   g = sigma(s), w_k = g_ek: the centroids of BASE layers and StableMoE. A token's weight for
 *               one expert does not depend on the others.
 *     NONE      w_k = 1/K: Hash layers.
 *
 *     loss = mean cross entropy over samples + balance loss
 *
 *     SOFTMAX   alpha E sum_e f_e P_e                                (Fedus et al., 2022, section 2.2)
 *     SIGMOID   alpha / n sum_e c_e sum_{t in A_e} g_te,  c_e = (|A_e| - nbar) / nbar   (StableMoE)
 *
 * A_e: the tokens that have e among their own top-K, nbar = n K / E, f_e = |A_e| / (n K), P_e the mean gate
 * probability. f and c carry no gradient.
 *
 * A step is forward_gate, [experts forward], forward_head, backward_head, [experts backward],
 * backward_gate, on one `struct smoe_pass`; several passes of one model may be under way at once,
 * their gradients add up. Nothing is allocated after init.
 */
#ifndef SMOE_TRAIN_MODEL_MODEL_H
#define SMOE_TRAIN_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kernels/optimizer.h"
#include "common/kernels/real.h"

enum smoe_gate { SMOE_GATE_SOFTMAX, SMOE_GATE_SIGMOID, SMOE_GATE_NONE };

#define SMOE_MODEL_CLASSES_MAX    UINT32_C(65536) /* a label has 16 bits */
#define SMOE_MODEL_VOCABULARY_MAX UINT32_C(65536) /* so has a word */

struct smoe_model_shape {
    uint32_t pixels;       /* P: values of one token, > 0 */
    uint32_t d_model;      /* d > 0 */
    uint32_t experts;      /* E, 1..SMOE_EXPERTS_MAX */
    uint32_t top_k;        /* K, 1..min(E, SMOE_TOP_K_MAX) */
    uint32_t classes;      /* C, 1..SMOE_MODEL_CLASSES_MAX */
    double balance_weight; /* alpha >= 0; may change from step to step */
    enum smoe_gate gate;
    bool
        orthogonal; /* the gate's matrix starts orthogonal with gain 0.1, as StableMoE's centroids */
    uint32_t tokens;     /* T of one sample; 0: 1 */
    uint32_t vocabulary; /* V; 0: x is given and not embedded */
    uint32_t context;    /* c: words of a token, where there is a vocabulary; P is c d then */
};

/* One named piece of the flat parameter vector, as checkpoints store it. */
struct smoe_model_tensor {
    const char *name;     /* static */
    size_t offset;        /* elements from the vector's start */
    size_t rows, columns; /* columns 0: a vector of `rows`; rows 0: this shape has none */
};

enum { SMOE_MODEL_TENSORS = 7 };

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

/* One batch on its way through the model: what forward keeps for backward. Sizes for `rows_max` tokens;
 * the first n rows of each array hold the batch of the last forward_gate. */
struct smoe_pass {
    struct smoe_model_shape shape;
    size_t rows_max, n;
    const smoe_real *x;    /* borrowed from forward_gate until backward_gate; [n,P] */
    const uint16_t *words; /* borrowed from _embed until backward_gate; [n,c] */
    smoe_real *
        embedded; /* owned, as all below; [n,P] where there is a vocabulary: x, then its gradient */
    smoe_real *hidden; /* [n,d] where there is a vocabulary: h before the last word's embedding */
    smoe_real *h;      /* [n,d] the experts' input */
    smoe_real *gate;   /* [n,E] g */
    float *scores;     /* [n,E] softmax(s), for the wire; a router may put its own in their place */
    uint16_t *top;     /* [n,K] the K largest scores, best first */
    uint64_t *popularity; /* [E] how often `top` names each expert: demand before any re-routing */
    uint16_t *used;       /* [n,K] the experts of forward_head */
    smoe_real *weights;   /* [n,K] w */
    smoe_real *z;         /* [n,d] */
    smoe_real *pooled;    /* [n/T,d] means of z, then their gradients; unused for T = 1 */
    smoe_real *logits;    /* [n/T,C] */
    smoe_real *dlogits;   /* [n/T,C] */
    smoe_real *dz;        /* [n,d], then dh */
    smoe_real *dgate;     /* [n,E] */
};

/* 0 or SMOE_ENOMEMORY. */
int smoe_pass_init(struct smoe_pass *pass, const struct smoe_model_shape *shape, size_t rows_max);
void smoe_pass_release(struct smoe_pass *pass);

struct smoe_model_result {
    double cross_entropy; /* mean over the samples */
    double balance;       /* the balance loss */
    size_t correct;       /* samples whose largest logit is the label */
};

/* words[n,c], each below V, to their embeddings [n,P], which forward_gate then takes as x: the pass's own
 * memory. n <= rows_max. */
const smoe_real *smoe_model_embed(const struct smoe_model *model, struct smoe_pass *pass, size_t n,
                                  const uint16_t *words);

/* x[n,P] to pass->h, gate, scores, top and popularity. n <= rows_max, a multiple of T. */
void smoe_model_forward_gate(const struct smoe_model *model, struct smoe_pass *pass, size_t n,
                             const smoe_real *x);

/* Chooses again, after a router has written pass->scores: top and popularity are theirs. */
void smoe_pass_choose(struct smoe_pass *pass);

/* experts[n,K] (distinct within a row) with their outputs y[n,K,d], labels[n/T]. */
void smoe_model_forward_head(const struct smoe_model *model, struct smoe_pass *pass,
                             const uint16_t *experts, const smoe_real *y, const uint16_t *labels,
                             struct smoe_model_result *ret);

/* The same y; ret_dy[n,K,d] is the loss's gradient by y. Adds to the head's gradients. */
void smoe_model_backward_head(struct smoe_model *model, struct smoe_pass *pass, const smoe_real *y,
                              smoe_real *ret_dy);

/* dx[n,d] is the gradient by h that came back from the experts, summed over K (smoe_visits_sum). Adds to
 * the gate's, the encoder's and the embeddings' gradients. */
void smoe_model_backward_gate(struct smoe_model *model, struct smoe_pass *pass,
                              const smoe_real *dx);

/* ret[n,d] = sum over k of visits[n,k,d], in the order of k. */
void smoe_visits_sum(size_t n, size_t k, size_t d, const smoe_real *visits, smoe_real *ret);

#endif
