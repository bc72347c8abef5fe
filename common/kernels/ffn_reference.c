/* SPDX-License-Identifier: Apache-2.0
 *
 * The expert in plain loops: one token, one hidden unit at a time, with libm's functions.
 * This is the definition that ffn.c is held to; it shares no code with it but the layout.
 */
#include <math.h>
#include <string.h>

#include "common/kernels/ffn.h"

/* One hidden unit for one token: its activation and the activation's derivatives. */
struct unit {
    double a;
    double da_du;
    double da_dg; /* SwiGLU only */
};

static struct unit activate(enum smoe_activation activation, double u, double g)
{
    double sigmoid = 1 / (1 + exp(-u));
    double cdf = 0.5 * erfc(-u / sqrt(2)), density = exp(-u * u / 2) / sqrt(2 * acos(-1));
    switch (activation) {
    case SMOE_RELU:
        return (struct unit){.a = u < 0 ? 0 : u, .da_du = u > 0};
    case SMOE_GELU:
        return (struct unit){.a = u * cdf, .da_du = cdf + u * density};
    case SMOE_SWIGLU:
        break;
    }
    return (struct unit){
        .a = u * sigmoid * g, .da_du = sigmoid * (1 + u * (1 - sigmoid)) * g, .da_dg = u * sigmoid};
}

static double dot(size_t n, const smoe_real *a, const smoe_real *b)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Hidden unit k for the token x[d]. */
static struct unit unit_of(const struct smoe_ffn_shape *shape, const smoe_real *params, size_t k,
                           const smoe_real *x)
{
    struct smoe_ffn_layout at = smoe_ffn_layout(shape);
    size_t d = shape->d_model;
    double u = dot(d, params + at.w_in + k * d, x) + (double)params[at.b_in + k];
    double g = shape->activation == SMOE_SWIGLU ? dot(d, params + at.w_gate + k * d, x) : 0;
    return activate(shape->activation, u, g);
}

void smoe_ffn_forward_reference(const struct smoe_ffn_shape *shape, const smoe_real *params,
                                size_t n, const smoe_real *x, smoe_real *ret_y)
{
    struct smoe_ffn_layout at = smoe_ffn_layout(shape);
    size_t d = shape->d_model;
    for (size_t row = 0; row < n; row++) {
        smoe_real *y = ret_y + row * d;
        memcpy(y, params + at.b_out, d * sizeof *y);
        for (size_t k = 0; k < shape->d_ff; k++) {
            struct unit unit = unit_of(shape, params, k, x + row * d);
            for (size_t j = 0; j < d; j++)
                y[j] += (smoe_real)unit.a * params[at.w_out + k * d + j];
        }
    }
}

void smoe_ffn_backward_reference(const struct smoe_ffn_shape *shape, const smoe_real *params,
                                 size_t n, const smoe_real *x, const smoe_real *dy,
                                 smoe_real *dparams, smoe_real *ret_dx)
{
    struct smoe_ffn_layout at = smoe_ffn_layout(shape);
    size_t d = shape->d_model;
    memset(ret_dx, 0, n * d * sizeof *ret_dx);
    for (size_t row = 0; row < n; row++) {
        const smoe_real *x_row = x + row * d, *dy_row = dy + row * d;
        smoe_real *dx = ret_dx + row * d;
        for (size_t j = 0; j < d; j++)
            dparams[at.b_out + j] += dy_row[j];
        for (size_t k = 0; k < shape->d_ff; k++) {
            struct unit unit = unit_of(shape, params, k, x_row);
            double da = dot(d, params + at.w_out + k * d, dy_row);
            smoe_real a = (smoe_real)unit.a, du = (smoe_real)(da * unit.da_du);
            dparams[at.b_in + k] += du;
            for (size_t j = 0; j < d; j++) {
                dparams[at.w_out + k * d + j] += a * dy_row[j];
                dparams[at.w_in + k * d + j] += du * x_row[j];
                dx[j] += du * params[at.w_in + k * d + j];
            }
            if (shape->activation != SMOE_SWIGLU)
                continue;
            smoe_real dg = (smoe_real)(da * unit.da_dg);
            for (size_t j = 0; j < d; j++) {
                dparams[at.w_gate + k * d + j] += dg * x_row[j];
                dx[j] += dg * params[at.w_gate + k * d + j];
            }
        }
    }
}
