/* SPDX-License-Identifier: Apache-2.0
 *
 * StableMoE's first stage (Dai et al., ACL 2022, section 3) as functions of arrays, for trainers of any kind: the
 * centroid gate, the balance loss, the distillation loss. They keep no state and call nobody; matrices are
 * row-major, n tokens, E experts, width d, K experts a token.
 *
 *     s_te = E_e . h_t        g_te = sigma(s_te)       out_t = h_t + sum_{e in a_t} g_te FFN_e(h_t)
 *     a_t: the K largest s_te, which the softmax of s is submitted for
 *     L_bal = alpha / n  sum_e c_e sum_{t: e in a_t} g_te          c_e = (|A_e| - nbar) / nbar,  nbar = n K / E
 *     L_dis = - weight / (n K)  sum_t sum_{e in a_t} log softmax(shat_t)_e
 *
 * **Who gets a gradient.** Of the task's loss and L_bal: the centroids E, and h through g. The coefficient c_e is a
 * number; the choice a_t is one, too. Of L_dis: shat alone, that is D and Ehat of the distilled router shat = Ehat .
 * D(X), and nothing of the backbone: it comes into no other function here. Both are means, so that parts of a
 * batch may be added up. The scores that are submitted carry no gradient; the gates do.
 *
 * Stage 2: smoe_freeze (stablemoe.h), then submit codes or features; g still weighs; both losses are gone. The frozen
 * values are a copy: no optimizer may ever see them (in the authors' code Adam's old momentum moves them on).
 *
 *     stage 1                                            stage 2
 *     smoe_centroid_gate(h, E) -> gates, scores          smoe_centroid_gate(h, E) -> gates
 *     smoe_submit {.scores}                              smoe_submit {.codes}
 *     dgates = dL/dg of the experts used                 dgates = dL/dg of the experts used
 *     smoe_balance_loss(top, gates) += dgates
 *     smoe_centroid_gate_backward(dgates) += dE, dh      smoe_centroid_gate_backward(dgates) += dE, dh
 *     smoe_distil_loss(top, shat) -> dshat
 */
#ifndef STABLEMOE_TWOSTAGE_H
#define STABLEMOE_TWOSTAGE_H

#include "stablemoe/stablemoe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* h [n, d], centroids [E, d] -> gates [n, E] = sigma(s), and if it is not NULL scores [n, E] = softmax(s), what a
 * gateway is given. Sums run in index order. */
SMOE_API void smoe_centroid_gate(size_t n, size_t experts, size_t d, const smoe_real *h,
                                 const smoe_real *centroids, smoe_real *ret_gates,
                                 float *ret_scores);

/* dgates [n, E] = dL/dg -> dcentroids [E, d] += , dh [n, d] += ; either may be NULL. */
SMOE_API void smoe_centroid_gate_backward(size_t n, size_t experts, size_t d, const smoe_real *h,
                                          const smoe_real *centroids, const smoe_real *gates,
                                          const smoe_real *dgates, smoe_real *dcentroids,
                                          smoe_real *dh);

/* top [n, K] the gate's own choices, each below E -> L_bal; dgates [n, E] += its gradient, or NULL. E at most
 * 1024. */
SMOE_API double smoe_balance_loss(size_t n, size_t experts, size_t top_k, const uint16_t *top,
                                  const smoe_real *gates, double alpha, smoe_real *dgates);

/* logits [n, E] shat -> L_dis for the gate's choices top [n, K]; dlogits [n, E], if it is not NULL, is its gradient
 * and may be `logits`. */
SMOE_API double smoe_distil_loss(size_t n, size_t experts, size_t top_k, const uint16_t *top,
                                 const smoe_real *logits, double weight, smoe_real *ret_dlogits);

#ifdef __cplusplus
}
#endif

#endif
