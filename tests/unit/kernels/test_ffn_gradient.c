/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference's gradients against central differences of its own forward pass, element by element:
 * the definition is held to calculus, and test_ffn.c holds the fast kernels to the definition.
 *
 * L = sum(dy * y) is computed in double from outputs of type smoe_real. The step h balances the two
 * errors of (L(+h) - L(-h)) / 2h: h^2 from the third derivative, epsilon/h from rounding.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "common/kernels/ffn.h"
#include "tests/unit/kernels/tensors.h"

#ifdef STABLEMOE_FLOAT64
enum { STEP_EXPONENT = -17 };
static const double BOUND = 1e-8;
#else
enum { STEP_EXPONENT = -7 };
static const double BOUND = 2e-3;
#endif

enum { D = 5, H = 7, N = 3, X = N * D };

static double loss(const struct smoe_ffn_shape *shape, const smoe_real *params, const smoe_real *x,
                   const smoe_real *dy)
{
    smoe_real y[X];
    smoe_ffn_forward_reference(shape, params, N, x, y);
    return tensor_dot(X, dy, y);
}

/* Derivative of the loss by *element, which lies in params or x. */
static double difference(const struct smoe_ffn_shape *shape, const smoe_real *params,
                         const smoe_real *x, const smoe_real *dy, smoe_real *element)
{
    smoe_real centre = *element, step = (smoe_real)ldexp(1, STEP_EXPONENT);
    *element = centre + step;
    smoe_real above = *element;
    double up = loss(shape, params, x, dy);
    *element = centre - step;
    double width = (double)above - (double)*element; /* what was really stepped, after rounding */
    double down = loss(shape, params, x, dy);
    *element = centre;
    return (up - down) / width;
}

/* ReLU has a kink: biases of +-2 keep every pre-activation further from 0 than a step reaches, with
 * units on both sides. */
static void keep_off_the_kink(const struct smoe_ffn_shape *shape, smoe_real *params)
{
    struct smoe_ffn_layout at = smoe_ffn_layout(shape);
    for (size_t k = 0; k < H; k++)
        params[at.b_in + k] = k % 2 ? 2 : -2;
}

static void check(enum smoe_activation activation)
{
    struct smoe_ffn_shape shape = {D, H, activation};
    size_t n_params = smoe_ffn_layout(&shape).n_params;
    smoe_real *params = tensor_normal(n_params, 11, 0.2);
    smoe_real *x = tensor_normal(X, 12, 0.5), *dy = tensor_normal(X, 13, 1);
    smoe_real *dparams = tensor_zero(n_params), *dx = tensor_nan(X);
    if (activation == SMOE_RELU)
        keep_off_the_kink(&shape, params);
    smoe_ffn_backward_reference(&shape, params, N, x, dy, dparams, dx);
    for (size_t i = 0; i < n_params; i++) {
        double want = difference(&shape, params, x, dy, &params[i]);
        cr_assert_float_eq((double)dparams[i], want, BOUND, "%s dparams[%zu]: %.9g, not %.9g",
                           smoe_activation_name(activation), i, (double)dparams[i], want);
    }
    for (size_t i = 0; i < X; i++) {
        double want = difference(&shape, params, x, dy, &x[i]);
        cr_assert_float_eq((double)dx[i], want, BOUND, "%s dx[%zu]: %.9g, not %.9g",
                           smoe_activation_name(activation), i, (double)dx[i], want);
    }
    free(params);
    free(x);
    free(dy);
    free(dparams);
    free(dx);
}

Test(ffn_gradient, relu_agrees_with_finite_differences)
{
    check(SMOE_RELU);
}

Test(ffn_gradient, gelu_agrees_with_finite_differences)
{
    check(SMOE_GELU);
}

Test(ffn_gradient, swiglu_agrees_with_finite_differences)
{
    check(SMOE_SWIGLU);
}

Test(ffn_gradient, relu_has_no_gradient_at_and_below_zero)
{
    struct smoe_ffn_shape shape = {1, 1, SMOE_RELU};
    smoe_real params[4] = {1, 1, 0, 0}, dy = 1;
    for (int sign = -1; sign <= 1; sign++) {
        smoe_real x = (smoe_real)sign, pre = x, scratch[2], dx = 9, dparams[4] = {0};
        smoe_ffn_backward(&shape, params, 1, &x, &pre, &dy, scratch, dparams, &dx);
        cr_assert_eq(dx, sign > 0);
    }
}
