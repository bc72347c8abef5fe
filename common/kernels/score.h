/* SPDX-License-Identifier: Apache-2.0
 *
 * From logits to gate scores and back: softmax rows, top-K picks, cross entropy.
 */
#ifndef SMOE_KERNELS_SCORE_H
#define SMOE_KERNELS_SCORE_H

#include <stddef.h>
#include <stdint.h>

#include "common/kernels/real.h"

/* In place, each of n rows of `width` logits becomes probabilities (shifted by the row's maximum). */
void smoe_softmax_rows(size_t n, size_t width, smoe_real *rows);

/* ret = 1 / (1 + e^-x), element by element; ret may be x. */
void smoe_sigmoid(size_t n, const smoe_real *x, smoe_real *ret);

/* dlogits = p * (dp - sum(p * dp)) per row; dlogits may alias dp. */
void smoe_softmax_backward(size_t n, size_t width, const smoe_real *p, const smoe_real *dp,
                           smoe_real *ret_dlogits);

/* Indices of the k largest of `width` values, largest first; ties to the lowest index. k <= width. */
void smoe_topk(size_t width, const float *values, size_t k, uint16_t *ret_indices);

/* Mean cross entropy of softmax(logits) against labels; writes dlogits = (softmax - onehot) / n and
 * counts rows whose largest logit (of equals, the first) is the label. logits [n, width]; dlogits may
 * be NULL. */
double smoe_cross_entropy(size_t n, size_t width, const smoe_real *logits, const uint16_t *labels,
                          smoe_real *ret_dlogits, size_t *ret_correct);

#endif
