/* SPDX-License-Identifier: Apache-2.0
 *
 * One function per activation and direction, each a single loop over the hidden units of a row, so
 * that it vectorises. Gradients, with s = sigmoid(u), Phi and phi the normal distribution and density:
 *
 *     ReLU     a = max(u, 0)      da/du = [u > 0]
 *     GELU     a = u Phi(u)       da/du = Phi(u) + u phi(u)
 *     SwiGLU   a = u s g          da/du = s (1 + u (1 - s)) g      da/dg = u s
 *
 * ReLU is written `u < 0 ? 0 : u` and not the other way round: a NaN stays a NaN.
 */
#include "common/kernels/activation.h"

#include "common/base/assert.h"
#include "common/kernels/vecmath.h"

SMOE_SIMD_CLONES static void relu_row(size_t h, const smoe_real *restrict bias,
                                      smoe_real *restrict u, smoe_real *restrict a)
{
    for (size_t i = 0; i < h; i++) {
        smoe_real x = u[i] + bias[i];
        u[i] = x;
        a[i] = x < 0 ? 0 : x;
    }
}

SMOE_SIMD_CLONES static void gelu_row(size_t h, const smoe_real *restrict bias,
                                      smoe_real *restrict u, smoe_real *restrict a)
{
    for (size_t i = 0; i < h; i++) {
        smoe_real density;
        smoe_real x = u[i] + bias[i];
        u[i] = x;
        a[i] = x * smoe_vec_normal(x, &density);
    }
}

SMOE_SIMD_CLONES static void swiglu_row(size_t h, const smoe_real *restrict bias,
                                        smoe_real *restrict u, const smoe_real *restrict g,
                                        smoe_real *restrict a)
{
    for (size_t i = 0; i < h; i++) {
        smoe_real x = u[i] + bias[i];
        u[i] = x;
        a[i] = x * smoe_vec_sigmoid(x) * g[i];
    }
}

void smoe_activation_forward(enum smoe_activation activation, size_t n, size_t h,
                             const smoe_real *b_in, smoe_real *pre, smoe_real *ret_a)
{
    for (size_t row = 0; row < n; row++) {
        smoe_real *a = ret_a + row * h;
        switch (activation) {
        case SMOE_RELU:
            relu_row(h, b_in, pre + row * h, a);
            break;
        case SMOE_GELU:
            gelu_row(h, b_in, pre + row * h, a);
            break;
        case SMOE_SWIGLU:
            swiglu_row(h, b_in, pre + row * 2 * h, pre + row * 2 * h + h, a);
            break;
        }
    }
}

/* d[h] is da on entry and du on return. */
SMOE_SIMD_CLONES static void relu_backward_row(size_t h, const smoe_real *restrict u,
                                               smoe_real *restrict d, smoe_real *restrict a,
                                               smoe_real *restrict db)
{
    for (size_t i = 0; i < h; i++) {
        a[i] = u[i] < 0 ? 0 : u[i];
        d[i] = u[i] > 0 ? d[i] : 0;
        db[i] += d[i];
    }
}

SMOE_SIMD_CLONES static void gelu_backward_row(size_t h, const smoe_real *restrict u,
                                               smoe_real *restrict d, smoe_real *restrict a,
                                               smoe_real *restrict db)
{
    for (size_t i = 0; i < h; i++) {
        smoe_real density;
        smoe_real phi = smoe_vec_normal(u[i], &density);
        a[i] = u[i] * phi;
        d[i] *= phi + u[i] * density;
        db[i] += d[i];
    }
}

SMOE_SIMD_CLONES static void swiglu_backward_row(size_t h, const smoe_real *restrict u,
                                                 const smoe_real *restrict g,
                                                 const smoe_real *restrict da,
                                                 smoe_real *restrict a, smoe_real *restrict du,
                                                 smoe_real *restrict dg, smoe_real *restrict db)
{
    for (size_t i = 0; i < h; i++) {
        smoe_real s = smoe_vec_sigmoid(u[i]);
        smoe_real silu = u[i] * s;
        a[i] = silu * g[i];
        dg[i] = da[i] * silu;
        du[i] = da[i] * g[i] * (s + silu * (1 - s));
        db[i] += du[i];
    }
}

void smoe_activation_backward(enum smoe_activation activation, size_t n, size_t h,
                              const smoe_real *pre, const smoe_real *da, smoe_real *ret_a,
                              smoe_real *ret_dpre, smoe_real *db_in)
{
    smoe_assert(activation == SMOE_SWIGLU || da == ret_dpre);
    for (size_t row = 0; row < n; row++) {
        smoe_real *a = ret_a + row * h;
        switch (activation) {
        case SMOE_RELU:
            relu_backward_row(h, pre + row * h, ret_dpre + row * h, a, db_in);
            break;
        case SMOE_GELU:
            gelu_backward_row(h, pre + row * h, ret_dpre + row * h, a, db_in);
            break;
        case SMOE_SWIGLU:
            swiglu_backward_row(h, pre + row * 2 * h, pre + row * 2 * h + h, da + row * h, a,
                                ret_dpre + row * 2 * h, ret_dpre + row * 2 * h + h, db_in);
            break;
        }
    }
}
