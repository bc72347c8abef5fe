/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward and backward in four pieces, cut where the experts work. Gradients, with dL/dlogits = (softmax -
 * onehot) / n from smoe_cross_entropy:
 *
 *     dz = dlogits W_head / T                 dW_head += dlogits^T mean z  db_head += column sums
 *     dy_k = w_k dz                           dw_k = dz . y_k
 *     ds                                      from dw and the balance loss: gate.c
 *     dh = dz + dx + ds W_gate                dW_gate += ds^T h
 *     dpre = [relu > 0] dh                     dW_enc += dpre^T x           db_enc, dp_t += sums
 *     dx = dpre W_enc                         to the embeddings of its words, where x are words;
 *                                             to the last one's also dh, since h has it added
 *
 * Otherwise the gradient by x is not needed: nothing lies below the encoder.
 */
#include <stdlib.h>
#include <string.h>

#include "client/train/model/layout.h"
#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/kernels/gemm.h"
#include "common/kernels/score.h"

int smoe_pass_init(struct smoe_pass *pass, const struct smoe_model_shape *shape, size_t rows_max)
{
    *pass = (struct smoe_pass){.shape = *shape, .rows_max = rows_max};
    size_t n = rows_max ? rows_max : 1, d = shape->d_model, experts = shape->experts;
    const struct {
        smoe_real **array;
        size_t per_row;
    } reals[] = {{&pass->embedded, shape->vocabulary ? shape->pixels : 1},
                 {&pass->hidden, shape->vocabulary ? d : 1},
                 {&pass->pooled, d},
                 {&pass->h, d},
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
    void *arrays[] = {pass->embedded, pass->hidden, pass->pooled,     pass->h,    pass->gate,
                      pass->scores,   pass->top,    pass->popularity, pass->used, pass->weights,
                      pass->z,        pass->logits, pass->dlogits,    pass->dz,   pass->dgate};
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

void smoe_pass_choose(struct smoe_pass *pass)
{
    size_t experts = pass->shape.experts, k = pass->shape.top_k;
    memset(pass->popularity, 0, experts * sizeof *pass->popularity);
    for (size_t row = 0; row < pass->n; row++) {
        uint16_t *top = pass->top + row * k;
        smoe_topk(experts, pass->scores + row * experts, k, top);
        for (size_t j = 0; j < k; j++)
            pass->popularity[top[j]]++;
    }
}

const smoe_real *smoe_model_embed(const struct smoe_model *model, struct smoe_pass *pass, size_t n,
                                  const uint16_t *words)
{
    size_t word = model->shape.d_model, n_words = n * model->shape.context;
    const smoe_real *table = model->params + smoe_model_layout(&model->shape).embedding;
    smoe_assert(n <= pass->rows_max && model->shape.vocabulary);
    pass->words = words;
    for (size_t i = 0; i < n_words; i++) {
        smoe_assert(words[i] < model->shape.vocabulary);
        memcpy(pass->embedded + i * word, table + words[i] * word, word * sizeof *table);
    }
    return pass->embedded;
}

/* Adds p_t to the rows h[n,d]. */
static void add_positions(size_t n, size_t tokens, size_t d, const smoe_real *position,
                          smoe_real *h)
{
    for (size_t row = 0; row < n; row++)
        for (size_t i = 0; i < d; i++)
            h[row * d + i] += position[row % tokens * d + i];
}

/* h = relu(..) + the last word's embedding, which is the last d of the row's P values. */
static void add_last_words(struct smoe_pass *pass)
{
    size_t d = pass->shape.d_model, values = pass->shape.pixels;
    memcpy(pass->hidden, pass->h, pass->n * d * sizeof *pass->h);
    for (size_t row = 0; row < pass->n; row++)
        for (size_t i = 0; i < d; i++)
            pass->h[row * d + i] += pass->x[(row + 1) * values - d + i];
}

void smoe_model_forward_gate(const struct smoe_model *model, struct smoe_pass *pass, size_t n,
                             const smoe_real *x)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t d = shape->d_model;
    smoe_assert(n <= pass->rows_max && n % smoe_model_tokens(shape) == 0);
    pass->n = n;
    pass->x = x;
    fill_rows(n, d, model->params + at.encoder_bias, pass->h);
    if (shape->tokens > 1)
        add_positions(n, shape->tokens, d, model->params + at.position, pass->h);
    smoe_gemm_nt(n, d, shape->pixels, x, model->params + at.encoder_weight, true, pass->h);
    for (size_t i = 0; i < n * d; i++)
        pass->h[i] = pass->h[i] < 0 ? 0 : pass->h[i];
    if (shape->vocabulary)
        add_last_words(pass);
    smoe_gemm_nt(n, shape->experts, d, pass->h, model->params + at.gate_weight, false, pass->gate);
    smoe_gate_forward(pass);
    smoe_pass_choose(pass);
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

/* What the head reads: z, or for T > 1 the samples' means of it. */
static const smoe_real *pool(struct smoe_pass *pass)
{
    size_t tokens = smoe_model_tokens(&pass->shape), d = pass->shape.d_model;
    if (tokens == 1)
        return pass->z;
    smoe_real share = 1 / (smoe_real)tokens;
    memset(pass->pooled, 0, pass->n / tokens * d * sizeof *pass->pooled);
    for (size_t row = 0; row < pass->n; row++)
        for (size_t i = 0; i < d; i++)
            pass->pooled[row / tokens * d + i] += share * pass->z[row * d + i];
    return pass->pooled;
}

void smoe_model_forward_head(const struct smoe_model *model, struct smoe_pass *pass,
                             const uint16_t *experts, const smoe_real *y, const uint16_t *labels,
                             struct smoe_model_result *ret)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t n = pass->n, d = shape->d_model, k = shape->top_k, classes = shape->classes;
    size_t samples = n / smoe_model_tokens(shape);
    memcpy(pass->used, experts, n * k * sizeof *experts);
    smoe_gate_mix(pass);
    for (size_t row = 0; row < n; row++)
        combine(pass, row, y + row * k * d);
    fill_rows(samples, classes, model->params + at.head_bias, pass->logits);
    smoe_gemm_nt(samples, classes, d, pool(pass), model->params + at.head_weight, true,
                 pass->logits);
    ret->cross_entropy =
        smoe_cross_entropy(samples, classes, pass->logits, labels, pass->dlogits, &ret->correct);
    ret->balance = smoe_gate_balance(pass, shape->balance_weight);
}

/* dy[K,d] and the gates' gradient of one row, from dz[d] and y[K,d] */
static void split(struct smoe_pass *pass, size_t row, const smoe_real *y, smoe_real *ret_dy)
{
    size_t d = pass->shape.d_model, k = pass->shape.top_k;
    const smoe_real *dz = pass->dz + row * d, *w = pass->weights + row * k;
    smoe_real dw[SMOE_TOP_K_MAX];
    for (size_t j = 0; j < k; j++) {
        dw[j] = 0;
        for (size_t i = 0; i < d; i++) {
            ret_dy[j * d + i] = w[j] * dz[i];
            dw[j] += dz[i] * y[j * d + i];
        }
    }
    smoe_gate_unmix(pass, row, dw);
}

/* dz[n,d] from the gradient of what the head read. */
static void head_backward(const struct smoe_model *model, struct smoe_pass *pass)
{
    const struct smoe_model_shape *shape = &model->shape;
    const smoe_real *weight = model->params + smoe_model_layout(shape).head_weight;
    size_t tokens = smoe_model_tokens(shape), d = shape->d_model, samples = pass->n / tokens;
    smoe_real *dpooled = tokens == 1 ? pass->dz : pass->pooled, share = 1 / (smoe_real)tokens;
    smoe_gemm_nn(samples, d, shape->classes, pass->dlogits, weight, false, dpooled);
    for (size_t row = 0; row < pass->n && tokens > 1; row++)
        for (size_t i = 0; i < d; i++)
            pass->dz[row * d + i] = share * dpooled[row / tokens * d + i];
}

void smoe_model_backward_head(struct smoe_model *model, struct smoe_pass *pass, const smoe_real *y,
                              smoe_real *ret_dy)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t n = pass->n, d = shape->d_model, classes = shape->classes;
    size_t visits = (size_t)shape->top_k * d;
    size_t samples = n / smoe_model_tokens(shape);
    const smoe_real *read = smoe_model_tokens(shape) == 1 ? pass->z : pass->pooled;
    smoe_gemm_tn(classes, d, samples, pass->dlogits, read, true, model->grads + at.head_weight);
    add_column_sums(samples, classes, pass->dlogits, model->grads + at.head_bias);
    head_backward(model, pass);
    smoe_gate_start_backward(pass, shape->balance_weight);
    for (size_t row = 0; row < n; row++)
        split(pass, row, y + row * visits, ret_dy + row * visits);
}

/* From dpre[n,d] to the gradients of the words' embeddings, in the order of the rows. */
static void embedding_backward(struct smoe_model *model, struct smoe_pass *pass,
                               const smoe_real *dpre)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t word = shape->d_model, n_words = pass->n * shape->context;
    smoe_real *dx = pass->embedded;
    smoe_gemm_nn(pass->n, shape->pixels, shape->d_model, dpre, model->params + at.encoder_weight,
                 false, dx);
    for (size_t i = 0; i < n_words; i++) {
        smoe_real *grad = model->grads + at.embedding + pass->words[i] * word;
        for (size_t j = 0; j < word; j++)
            grad[j] += dx[i * word + j];
    }
}

/* dh[n,d] also reaches the embedding that was added. */
static void last_words_backward(struct smoe_model *model, const struct smoe_pass *pass,
                                const smoe_real *dh)
{
    size_t d = pass->shape.d_model, context = pass->shape.context;
    smoe_real *grads = model->grads + smoe_model_layout(&model->shape).embedding;
    for (size_t row = 0; row < pass->n; row++)
        for (size_t i = 0; i < d; i++)
            grads[pass->words[(row + 1) * context - 1] * d + i] += dh[row * d + i];
}

/* From dpre[n,d] to what made pre. */
static void encoder_backward(struct smoe_model *model, struct smoe_pass *pass,
                             const smoe_real *dpre)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t n = pass->n, d = shape->d_model;
    smoe_gemm_tn(d, shape->pixels, n, dpre, pass->x, true, model->grads + at.encoder_weight);
    add_column_sums(n, d, dpre, model->grads + at.encoder_bias);
    for (size_t row = 0; row < n && shape->tokens > 1; row++)
        for (size_t i = 0; i < d; i++)
            model->grads[at.position + row % shape->tokens * d + i] += dpre[row * d + i];
    if (shape->vocabulary)
        embedding_backward(model, pass, dpre);
}

void smoe_model_backward_gate(struct smoe_model *model, struct smoe_pass *pass, const smoe_real *dx)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t n = pass->n, d = shape->d_model, experts = shape->experts;
    smoe_real *dh = pass->dz;
    smoe_gate_finish_backward(pass);
    smoe_gemm_tn(experts, d, n, pass->dgate, pass->h, true, model->grads + at.gate_weight);
    for (size_t i = 0; i < n * d; i++)
        dh[i] += dx[i];
    smoe_gemm_nn(n, d, experts, pass->dgate, model->params + at.gate_weight, true, dh);
    const smoe_real *hidden = shape->vocabulary ? pass->hidden : pass->h;
    if (shape->vocabulary)
        last_words_backward(model, pass, dh);
    for (size_t i = 0; i < n * d; i++)
        dh[i] = hidden[i] > 0 ? dh[i] : 0;
    encoder_backward(model, pass, dh);
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
