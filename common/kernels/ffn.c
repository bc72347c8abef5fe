/* SPDX-License-Identifier: Apache-2.0
 *
 * An expert's forward and backward pass: three (SwiGLU: the same three, one of double height) and five
 * matrix products on BLAS with one element-wise pass between them.
 *
 * W_in and W_gate stand one after the other, so both pre-activations of SwiGLU are one product with
 * the matrix W1 [s,d] (s = h or 2h). Rows are taken in panels of PANEL_ROWS: the hidden activations of
 * a panel stay in the second-level cache between the products, and scratch is bounded whatever n is.
 *
 *     forward                             backward
 *     pre[p,s]  = x W1^T                  da[p,h]      = dy W_out^T
 *     a[p,h]    = act(pre + b_in)         a, dpre[p,s] = act'(pre, da), db_in += column sums
 *     y[p,d]    = b_out + a W_out         dW_out[h,d] += a^T dy         db_out += column sums of dy
 *                                         dW1[s,d]    += dpre^T x
 *                                         dx[p,d]      = dpre W1
 *
 * Nothing is allocated and nothing fails; shapes were checked where they entered the process.
 */
#include "common/kernels/ffn.h"

#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/rng.h"
#include "common/kernels/activation.h"
#include "common/kernels/gemm.h"

enum { PANEL_ROWS = 128 };

static const struct {
    enum smoe_activation activation;
    const char *name;
} names[] = {{SMOE_RELU, "relu"}, {SMOE_GELU, "gelu"}, {SMOE_SWIGLU, "swiglu"}};

enum { N_NAMES = sizeof names / sizeof *names };

const char *smoe_activation_name(enum smoe_activation activation)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (names[i].activation == activation)
            return names[i].name;
    return "unknown";
}

bool smoe_activation_parse(const char *name, enum smoe_activation *ret)
{
    for (size_t i = 0; i < N_NAMES; i++) {
        if (strcmp(names[i].name, name) == 0) {
            *ret = names[i].activation;
            return true;
        }
    }
    return false;
}

struct smoe_ffn_layout smoe_ffn_layout(const struct smoe_ffn_shape *shape)
{
    size_t d = shape->d_model, h = shape->d_ff;
    struct smoe_ffn_layout at = {.w_in = 0, .w_gate = h * d};
    at.w_out = shape->activation == SMOE_SWIGLU ? 2 * h * d : h * d;
    at.b_in = at.w_out + h * d;
    at.b_out = at.b_in + h;
    at.n_params = at.b_out + d;
    return at;
}

size_t smoe_ffn_saved_per_row(const struct smoe_ffn_shape *shape)
{
    return shape->activation == SMOE_SWIGLU ? 2 * (size_t)shape->d_ff : shape->d_ff;
}

/* Forward without saving: pre[p,s] and a[p,h]. Backward: a[p,h], dpre[p,s], and for SwiGLU da[p,h],
 * which ReLU and GELU keep in dpre. */
size_t smoe_ffn_scratch(const struct smoe_ffn_shape *shape, size_t n)
{
    size_t rows = n < PANEL_ROWS ? n : PANEL_ROWS;
    size_t per_row = shape->activation == SMOE_SWIGLU ? 4 : 2;
    return rows * per_row * shape->d_ff;
}

void smoe_ffn_seed_begin(struct smoe_ffn_seed *s, const struct smoe_ffn_shape *shape, uint64_t seed,
                         uint32_t index, bool zero_out)
{
    *s = (struct smoe_ffn_seed){.shape = *shape, .zero_out = zero_out};
    smoe_rng_init(&s->rng, seed, index);
}

void smoe_ffn_seed_next(struct smoe_ffn_seed *s, size_t n, smoe_real *ret)
{
    struct smoe_ffn_layout at = smoe_ffn_layout(&s->shape);
    double std_in = sqrt(2.0 / s->shape.d_model), std_out = sqrt(1.0 / s->shape.d_ff);
    size_t first = s->at, end = first + n;
    size_t in = end < at.w_out ? end : at.w_out, out = end < at.b_in ? end : at.b_in;
    for (; s->at < in; s->at++)
        ret[s->at - first] = (smoe_real)(smoe_rng_normal(&s->rng) * std_in);
    for (; s->at < out; s->at++)
        ret[s->at - first] = s->zero_out ? 0 : (smoe_real)(smoe_rng_normal(&s->rng) * std_out);
    for (; s->at < end; s->at++)
        ret[s->at - first] = 0;
}

void smoe_ffn_init(const struct smoe_ffn_shape *shape, uint64_t seed, uint32_t index, bool zero_out,
                   smoe_real *ret_params)
{
    struct smoe_ffn_seed stream;
    smoe_ffn_seed_begin(&stream, shape, seed, index, zero_out);
    smoe_ffn_seed_next(&stream, smoe_ffn_layout(shape).n_params, ret_params);
}

static void forward_panel(const struct smoe_ffn_shape *shape, const smoe_real *params, size_t n,
                          const smoe_real *x, smoe_real *pre, smoe_real *a, smoe_real *ret_y)
{
    struct smoe_ffn_layout at = smoe_ffn_layout(shape);
    size_t d = shape->d_model, h = shape->d_ff;
    smoe_gemm_nt(n, smoe_ffn_saved_per_row(shape), d, x, params + at.w_in, false, pre);
    smoe_activation_forward(shape->activation, n, h, params + at.b_in, pre, a);
    for (size_t row = 0; row < n; row++)
        memcpy(ret_y + row * d, params + at.b_out, d * sizeof *ret_y);
    smoe_gemm_nn(n, d, h, a, params + at.w_out, true, ret_y);
}

void smoe_ffn_forward(const struct smoe_ffn_shape *shape, const smoe_real *params, size_t n,
                      const smoe_real *x, smoe_real *saved, smoe_real *scratch, smoe_real *ret_y)
{
    size_t d = shape->d_model, s = smoe_ffn_saved_per_row(shape);
    for (size_t first = 0; first < n; first += PANEL_ROWS) {
        size_t rows = n - first < PANEL_ROWS ? n - first : PANEL_ROWS;
        smoe_real *a = scratch;
        smoe_real *pre = saved ? saved + first * s : scratch + rows * shape->d_ff;
        forward_panel(shape, params, rows, x + first * d, pre, a, ret_y + first * d);
    }
}

/* to[width] += the sum of n rows */
static void add_column_sums(size_t n, size_t width, const smoe_real *rows, smoe_real *to)
{
    for (size_t row = 0; row < n; row++)
        for (size_t i = 0; i < width; i++)
            to[i] += rows[row * width + i];
}

static void backward_panel(const struct smoe_ffn_shape *shape, const smoe_real *params, size_t n,
                           const smoe_real *x, const smoe_real *pre, const smoe_real *dy,
                           smoe_real *scratch, smoe_real *dparams, smoe_real *ret_dx)
{
    struct smoe_ffn_layout at = smoe_ffn_layout(shape);
    size_t d = shape->d_model, h = shape->d_ff, s = smoe_ffn_saved_per_row(shape);
    smoe_real *a = scratch, *dpre = a + n * h;
    smoe_real *da = shape->activation == SMOE_SWIGLU ? dpre + n * s : dpre;
    smoe_gemm_nt(n, h, d, dy, params + at.w_out, false, da);
    smoe_activation_backward(shape->activation, n, h, pre, da, a, dpre, dparams + at.b_in);
    smoe_gemm_tn(h, d, n, a, dy, true, dparams + at.w_out);
    add_column_sums(n, d, dy, dparams + at.b_out);
    smoe_gemm_tn(s, d, n, dpre, x, true, dparams + at.w_in);
    smoe_gemm_nn(n, d, s, dpre, params + at.w_in, false, ret_dx);
}

void smoe_ffn_backward(const struct smoe_ffn_shape *shape, const smoe_real *params, size_t n,
                       const smoe_real *x, const smoe_real *saved, const smoe_real *dy,
                       smoe_real *scratch, smoe_real *dparams, smoe_real *ret_dx)
{
    size_t d = shape->d_model, s = smoe_ffn_saved_per_row(shape);
    for (size_t first = 0; first < n; first += PANEL_ROWS) {
        size_t rows = n - first < PANEL_ROWS ? n - first : PANEL_ROWS;
        backward_panel(shape, params, rows, x + first * d, saved + first * s, dy + first * d,
                       scratch, dparams, ret_dx + first * d);
    }
}
