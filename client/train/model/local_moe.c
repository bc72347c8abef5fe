/* SPDX-License-Identifier: Apache-2.0
 *
 * A counting sort of the visits by expert, stable in the order of tokens, gathers each expert's rows; the
 * kernels work on the gathered rows, and results go back to the visits they belong to.
 */
#include "client/train/model/local_moe.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/err.h"

int smoe_local_moe_init(struct smoe_local_moe *moe, const struct smoe_ffn_shape *shape,
                        uint32_t experts, uint32_t top_k, size_t rows_max, uint64_t seed,
                        bool zero_out)
{
    size_t visits = rows_max * top_k, d = shape->d_model, saved = smoe_ffn_saved_per_row(shape);
    *moe = (struct smoe_local_moe){.shape = *shape,
                                   .experts = experts,
                                   .top_k = top_k,
                                   .n_params = smoe_ffn_layout(shape).n_params,
                                   .visits_max = visits};
    const struct {
        smoe_real **array;
        size_t n;
    } reals[] = {{&moe->params, experts * moe->n_params},
                 {&moe->grads, experts * moe->n_params},
                 {&moe->moments_m, experts * moe->n_params},
                 {&moe->moments_v, experts * moe->n_params},
                 {&moe->x, visits * d},
                 {&moe->y, visits * d},
                 {&moe->dx, visits * d},
                 {&moe->saved, visits * saved},
                 {&moe->scratch, smoe_ffn_scratch(shape, visits)}};
    bool complete = true;
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        *reals[i].array = calloc(reals[i].n + 1, sizeof(smoe_real));
        complete = complete && *reals[i].array;
    }
    moe->first = calloc(experts + 1, sizeof *moe->first);
    moe->next = calloc(experts, sizeof *moe->next);
    moe->visit = calloc(visits + 1, sizeof *moe->visit);
    if (!complete || !moe->first || !moe->next || !moe->visit) {
        smoe_local_moe_release(moe);
        return SMOE_ENOMEMORY;
    }
    for (uint32_t e = 0; e < experts; e++)
        smoe_ffn_init(shape, seed, e, zero_out, moe->params + e * moe->n_params);
    return 0;
}

void smoe_local_moe_release(struct smoe_local_moe *moe)
{
    void *arrays[] = {moe->params, moe->grads, moe->moments_m, moe->moments_v,
                      moe->first,  moe->next,  moe->visit,     moe->x,
                      moe->y,      moe->dx,    moe->saved,     moe->scratch};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    *moe = (struct smoe_local_moe){0};
}

static void sort_visits(struct smoe_local_moe *moe, size_t n_visits, const uint16_t *experts)
{
    memset(moe->first, 0, (moe->experts + 1) * sizeof *moe->first);
    for (size_t v = 0; v < n_visits; v++) {
        smoe_assert(experts[v] < moe->experts);
        moe->first[experts[v] + 1]++;
    }
    for (size_t e = 0; e < moe->experts; e++)
        moe->first[e + 1] += moe->first[e];
    memcpy(moe->next, moe->first, moe->experts * sizeof *moe->next);
    for (size_t v = 0; v < n_visits; v++)
        moe->visit[moe->next[experts[v]]++] = v;
}

static void gather(const struct smoe_local_moe *moe, const smoe_real *from, size_t per_token,
                   smoe_real *to)
{
    size_t d = moe->shape.d_model, n = moe->first[moe->experts];
    for (size_t row = 0; row < n; row++)
        memcpy(to + row * d, from + moe->visit[row] / per_token * d, d * sizeof *to);
}

static void scatter(const struct smoe_local_moe *moe, const smoe_real *from, smoe_real *to)
{
    size_t d = moe->shape.d_model, n = moe->first[moe->experts];
    for (size_t row = 0; row < n; row++)
        memcpy(to + moe->visit[row] * d, from + row * d, d * sizeof *to);
}

void smoe_local_moe_forward(struct smoe_local_moe *moe, size_t n, const smoe_real *x,
                            const uint16_t *experts, smoe_real *ret_y)
{
    size_t d = moe->shape.d_model, saved = smoe_ffn_saved_per_row(&moe->shape);
    smoe_assert(n * moe->top_k <= moe->visits_max);
    sort_visits(moe, n * moe->top_k, experts);
    gather(moe, x, moe->top_k, moe->x);
    for (size_t e = 0; e < moe->experts; e++) {
        size_t at = moe->first[e], rows = moe->first[e + 1] - at;
        smoe_ffn_forward(&moe->shape, moe->params + e * moe->n_params, rows, moe->x + at * d,
                         moe->saved + at * saved, moe->scratch, moe->y + at * d);
    }
    scatter(moe, moe->y, ret_y);
}

void smoe_local_moe_backward(struct smoe_local_moe *moe, const smoe_real *dy, smoe_real *ret_dx)
{
    size_t d = moe->shape.d_model, saved = smoe_ffn_saved_per_row(&moe->shape);
    gather(moe, dy, 1, moe->y);
    for (size_t e = 0; e < moe->experts; e++) {
        size_t at = moe->first[e], rows = moe->first[e + 1] - at;
        smoe_ffn_backward(&moe->shape, moe->params + e * moe->n_params, rows, moe->x + at * d,
                          moe->saved + at * saved, moe->y + at * d, moe->scratch,
                          moe->grads + e * moe->n_params, moe->dx + at * d);
    }
    scatter(moe, moe->dx, ret_dx);
}

double smoe_local_moe_square_norm(const struct smoe_local_moe *moe)
{
    double sum = 0;
    for (size_t e = 0; e < moe->experts; e++)
        sum += smoe_square_norm(moe->n_params, moe->grads + e * moe->n_params);
    return sum;
}

void smoe_local_moe_step(struct smoe_local_moe *moe, const struct smoe_optimizer *optimizer)
{
    for (size_t e = 0; e < moe->experts; e++) {
        size_t at = e * moe->n_params;
        smoe_optimizer_step(optimizer, moe->n_params, moe->params + at, moe->moments_m + at,
                            moe->moments_v + at, moe->grads + at, moe->params + at,
                            moe->moments_m + at, moe->moments_v + at);
    }
    memset(moe->grads, 0, moe->experts * moe->n_params * sizeof *moe->grads);
}
