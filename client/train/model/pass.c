/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward and backward in four pieces, cut where the experts work. Gradients, with dL/dlogits = (softmax -
 * onehot) / n from smoe_cross_entropy:
 *
 *     dz = dlogits W_head                     dW_head += dlogits^T z      db_head += column sums
 *     dy_k = w_k dz                           dw_k = dz . y_k
 *     dg_ek = (dw_k - sum_j w_j dw_j) / S     S = sum_j (g_ej + eps);     K = 1: dg = dw
 *     dg_e += alpha E f_e / n                 for every e: the balance loss
 *     dh = dz + dx + dgate_logits W_gate      dW_gate += dgate_logits^T h
 *     dpre = [h > 0] dh                       dW_enc += dpre^T x          db_enc += column sums
 *
 * The gradient by x is not needed: nothing lies below the encoder.
 */
#include <stdlib.h>
#include <string.h>

#include "client/train/model/layout.h"
#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/kernels/gemm.h"
#include "common/kernels/score.h"

/* Keeps w finite where the router used only experts whose gates underflow. */
#define GATE_EPSILON ((smoe_real)1e-6)

int smoe_pass_init(struct smoe_pass *pass, const struct smoe_model_shape *shape, size_t rows_max)
{
    *pass = (struct smoe_pass){.shape = *shape, .rows_max = rows_max};
    size_t n = rows_max ? rows_max : 1, d = shape->d_model, experts = shape->experts;
    const struct {
        smoe_real **array;
        size_t per_row;
    } reals[] = {{&pass->h, d},
                 {&pass->gate, experts},
                 {&pass->z, d},
                 {&pass->dz, d},
                 {&pass->weights, shape->top_k},
                 {&pass->dgate, experts},
                 {&pass->logits, shape->classes},
                 {&pass->dlogits, shape->classes}};
    bool complete = true;
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        *reals[i].array = calloc(n * reals[i].per_row, sizeof(smoe_real));
        complete = complete && *reals[i].array;
    }
    pass->scores = calloc(n * experts, sizeof *pass->scores);
    pass->top = calloc(n * shape->top_k, sizeof *pass->top);
    pass->used = calloc(n * shape->top_k, sizeof *pass->used);
    pass->popularity = calloc(experts, sizeof *pass->popularity);
    if (complete && pass->scores && pass->top && pass->used && pass->popularity)
        return 0;
    smoe_pass_release(pass);
    return SMOE_ENOMEMORY;
}

void smoe_pass_release(struct smoe_pass *pass)
{
    void *arrays[] = {pass->h,          pass->gate,    pass->scores,  pass->top,
                      pass->popularity, pass->used,    pass->weights, pass->z,
                      pass->logits,     pass->dlogits, pass->dz,      pass->dgate};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    *pass = (struct smoe_pass){0};
}

/* ret[n,width] = bias in every row */
static void fill_rows(size_t n, size_t width, const smoe_real *bias, smoe_real *ret)
{
    for (size_t row = 0; row < n; row++)
        memcpy(ret + row * width, bias, width * sizeof *ret);
}

/* to[width] += the sum of n rows */
static void add_column_sums(size_t n, size_t width, const smoe_real *rows, smoe_real *to)
{
    for (size_t row = 0; row < n; row++)
        for (size_t i = 0; i < width; i++)
            to[i] += rows[row * width + i];
}

/* The gate's own top-K of every row, counted per expert. */
static void choose(struct smoe_pass *pass)
{
    size_t experts = pass->shape.experts, k = pass->shape.top_k;
    memset(pass->popularity, 0, experts * sizeof *pass->popularity);
    for (size_t i = 0; i < pass->n * experts; i++)
        pass->scores[i] = (float)pass->gate[i];
    for (size_t row = 0; row < pass->n; row++) {
        uint16_t *top = pass->top + row * k;
        smoe_topk(experts, pass->scores + row * experts, k, top);
        for (size_t j = 0; j < k; j++)
            pass->popularity[top[j]]++;
    }
}

void smoe_model_forward_gate(const struct smoe_model *model, struct smoe_pass *pass, size_t n,
                             const smoe_real *x)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t d = shape->d_model;
    smoe_assert(n <= pass->rows_max);
    pass->n = n;
    pass->x = x;
    fill_rows(n, d, model->params + at.encoder_bias, pass->h);
    smoe_gemm_nt(n, d, shape->pixels, x, model->params + at.encoder_weight, true, pass->h);
    for (size_t i = 0; i < n * d; i++)
        pass->h[i] = pass->h[i] < 0 ? 0 : pass->h[i];
    smoe_gemm_nt(n, shape->experts, d, pass->h, model->params + at.gate_weight, false, pass->gate);
    smoe_softmax_rows(n, shape->experts, pass->gate);
    choose(pass);
}

/* S of one row. */
static smoe_real gate_sum(size_t k, const smoe_real *gate, const uint16_t *experts)
{
    smoe_real sum = 0;
    for (size_t j = 0; j < k; j++)
        sum += gate[experts[j]] + GATE_EPSILON;
    return sum;
}

/* w of one row */
static void mix_weights(size_t k, const smoe_real *gate, const uint16_t *experts, smoe_real *ret_w)
{
    smoe_real sum = gate_sum(k, gate, experts);
    for (size_t j = 0; j < k; j++)
        ret_w[j] = k == 1 ? gate[experts[j]] : (gate[experts[j]] + GATE_EPSILON) / sum;
}

/* z = h + sum_k w_k y_k for one row; y[K,d] */
static void combine(const struct smoe_pass *pass, size_t row, const smoe_real *y)
{
    size_t d = pass->shape.d_model, k = pass->shape.top_k;
    const smoe_real *w = pass->weights + row * k;
    smoe_real *z = pass->z + row * d;
    memcpy(z, pass->h + row * d, d * sizeof *z);
    for (size_t j = 0; j < k; j++)
        for (size_t i = 0; i < d; i++)
            z[i] += w[j] * y[j * d + i];
}

/* f_e, the share of the gate's choices that fell on expert e. */
static double share_of(const struct smoe_pass *pass, size_t expert)
{
    return (double)pass->popularity[expert] / ((double)pass->n * pass->shape.top_k);
}

static double balance_loss(const struct smoe_pass *pass)
{
    size_t experts = pass->shape.experts;
    double sum = 0;
    for (size_t row = 0; row < pass->n; row++)
        for (size_t e = 0; e < experts; e++)
            sum += share_of(pass, e) * (double)pass->gate[row * experts + e];
    return pass->n ? pass->shape.balance_weight * (double)experts * sum / (double)pass->n : 0;
}

void smoe_model_forward_head(const struct smoe_model *model, struct smoe_pass *pass,
                             const uint16_t *experts, const smoe_real *y, const uint8_t *labels,
                             struct smoe_model_result *ret)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t n = pass->n, d = shape->d_model, k = shape->top_k, classes = shape->classes;
    memcpy(pass->used, experts, n * k * sizeof *experts);
    for (size_t row = 0; row < n; row++) {
        mix_weights(k, pass->gate + row * shape->experts, experts + row * k,
                    pass->weights + row * k);
        combine(pass, row, y + row * k * d);
    }
    fill_rows(n, classes, model->params + at.head_bias, pass->logits);
    smoe_gemm_nt(n, classes, d, pass->z, model->params + at.head_weight, true, pass->logits);
    ret->cross_entropy =
        smoe_cross_entropy(n, classes, pass->logits, labels, pass->dlogits, &ret->correct);
    ret->balance = balance_loss(pass);
}

/* dy[K,d] and the gates' gradient of one row, from dz[d] and y[K,d]; dgate[E] is added to. */
static void split(const struct smoe_pass *pass, size_t row, const smoe_real *y, smoe_real *ret_dy)
{
    size_t d = pass->shape.d_model, k = pass->shape.top_k, experts = pass->shape.experts;
    const smoe_real *dz = pass->dz + row * d, *gate = pass->gate + row * experts;
    const uint16_t *used = pass->used + row * k;
    const smoe_real *w = pass->weights + row * k;
    smoe_real dw[SMOE_TOP_K_MAX], mean = 0, sum = gate_sum(k, gate, used);
    for (size_t j = 0; j < k; j++) {
        dw[j] = 0;
        for (size_t i = 0; i < d; i++) {
            ret_dy[j * d + i] = w[j] * dz[i];
            dw[j] += dz[i] * y[j * d + i];
        }
        mean += w[j] * dw[j];
    }
    for (size_t j = 0; j < k; j++)
        pass->dgate[row * experts + used[j]] += k == 1 ? dw[j] : (dw[j] - mean) / sum;
}

/* dgate[n,E] starts as the balance loss's gradient, the same in every row. */
static void start_dgate(struct smoe_pass *pass)
{
    size_t experts = pass->shape.experts;
    if (!pass->n)
        return;
    double scale = pass->shape.balance_weight * (double)experts / (double)pass->n;
    for (size_t e = 0; e < experts; e++)
        pass->dgate[e] = (smoe_real)(scale * share_of(pass, e));
    for (size_t row = 1; row < pass->n; row++)
        memcpy(pass->dgate + row * experts, pass->dgate, experts * sizeof *pass->dgate);
}

void smoe_model_backward_head(struct smoe_model *model, struct smoe_pass *pass, const smoe_real *y,
                              smoe_real *ret_dy)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t n = pass->n, d = shape->d_model, classes = shape->classes;
    size_t visits = (size_t)shape->top_k * d;
    smoe_gemm_nn(n, d, classes, pass->dlogits, model->params + at.head_weight, false, pass->dz);
    smoe_gemm_tn(classes, d, n, pass->dlogits, pass->z, true, model->grads + at.head_weight);
    add_column_sums(n, classes, pass->dlogits, model->grads + at.head_bias);
    start_dgate(pass);
    for (size_t row = 0; row < n; row++)
        split(pass, row, y + row * visits, ret_dy + row * visits);
}

void smoe_model_backward_gate(struct smoe_model *model, struct smoe_pass *pass, const smoe_real *dx)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t n = pass->n, d = shape->d_model, experts = shape->experts;
    smoe_real *dh = pass->dz;
    smoe_softmax_backward(n, experts, pass->gate, pass->dgate, pass->dgate);
    smoe_gemm_tn(experts, d, n, pass->dgate, pass->h, true, model->grads + at.gate_weight);
    for (size_t i = 0; i < n * d; i++)
        dh[i] += dx[i];
    smoe_gemm_nn(n, d, experts, pass->dgate, model->params + at.gate_weight, true, dh);
    for (size_t i = 0; i < n * d; i++)
        dh[i] = pass->h[i] > 0 ? dh[i] : 0;
    smoe_gemm_tn(d, shape->pixels, n, dh, pass->x, true, model->grads + at.encoder_weight);
    add_column_sums(n, d, dh, model->grads + at.encoder_bias);
}

void smoe_visits_sum(size_t n, size_t k, size_t d, const smoe_real *visits, smoe_real *ret)
{
    for (size_t row = 0; row < n; row++) {
        const smoe_real *visit = visits + row * k * d;
        memcpy(ret + row * d, visit, d * sizeof *ret);
        for (size_t j = 1; j < k; j++)
            for (size_t i = 0; i < d; i++)
                ret[row * d + i] += visit[j * d + i];
    }
}
