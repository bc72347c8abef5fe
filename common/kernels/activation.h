/* SPDX-License-Identifier: Apache-2.0
 *
 * The element-wise half of an expert (ffn.h), row by row: bias, activation and their gradients in one
 * pass over memory. Internal to common/kernels.
 *
 * s is smoe_ffn_saved_per_row: a row of pre-activations is u[h] for ReLU and GELU and u[h], g[h] for
 * SwiGLU, where u = W_in x + b_in and g = W_gate x.
 */
#ifndef SMOE_KERNELS_ACTIVATION_H
#define SMOE_KERNELS_ACTIVATION_H

#include "common/kernels/ffn.h"

/* Adds b_in[h] to the u part of pre[n,s] and writes a[n,h], the hidden activations. */
void smoe_activation_forward(enum smoe_activation activation, size_t n, size_t h,
                             const smoe_real *b_in, smoe_real *pre, smoe_real *ret_a);

/* From pre[n,s] (bias included) and da[n,h]: a[n,h] again, dpre[n,s], and db_in[h] is added to.
 * SwiGLU: dpre is another array than da; ReLU and GELU turn da in place, dpre is da. */
void smoe_activation_backward(enum smoe_activation activation, size_t n, size_t h,
                              const smoe_real *pre, const smoe_real *da, smoe_real *ret_a,
                              smoe_real *ret_dpre, smoe_real *db_in);

#endif
