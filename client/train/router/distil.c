/* SPDX-License-Identifier: Apache-2.0
 *
 *     shat = D(X) Ehat^T                    dshat = weight / n (softmax(shat) - 1/K [e in a_t])
 *     dEhat += dshat^T D(X)                 dD(X) = dshat Ehat
 *     table: row X_t of D += dD(X_t)        linear: D += dD(X)^T X
 */
#include "client/train/router/distil.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/rng.h"
#include "common/kernels/gemm.h"
#include "common/kernels/orthogonal.h"
#include "common/kernels/score.h"

#define CENTROID_GAIN 0.1 /* StableMoE, section 4 */

/* Streams of the seed; the model has those from 1 << 20 on. */
enum { FEATURE_STREAM = 2u << 20, CENTROID_STREAM };

/* Features of about unit length: a table's rows whatever their token, a linear map's for values of variance
 * one. */
static int draw(struct smoe_distilled *d, uint64_t seed)
{
    const struct smoe_distilled_shape *shape = &d->shape;
    bool linear = shape->feature == SMOE_FEATURE_LINEAR;
    double deviation = sqrt(1.0 / (linear ? (double)shape->dim * shape->inputs : shape->dim));
    struct smoe_rng rng;
    smoe_rng_init(&rng, seed, FEATURE_STREAM);
    for (size_t i = 0; i < d->n_features; i++)
        d->params[i] = (smoe_real)(smoe_rng_normal(&rng) * deviation);
    return smoe_orthogonal(shape->experts, shape->dim, CENTROID_GAIN, seed, CENTROID_STREAM,
                           d->params + d->n_features);
}

int smoe_distilled_init(struct smoe_distilled *d, const struct smoe_distilled_shape *shape,
                        size_t rows_max, uint64_t seed)
{
    *d = (struct smoe_distilled){.shape = *shape, .rows_max = rows_max};
    d->n_features = (size_t)shape->inputs * shape->dim;
    d->n_params = d->n_features + (size_t)shape->experts * shape->dim;
    const struct {
        smoe_real **array;
        size_t n;
    } arrays[] = {{&d->params, d->n_params},
                  {&d->grads, d->n_params},
                  {&d->moments_m, d->n_params},
                  {&d->moments_v, d->n_params},
                  {&d->feature, rows_max * shape->dim},
                  {&d->dfeature, rows_max * shape->dim},
                  {&d->logits, rows_max * shape->experts}};
    bool complete = true;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i].array = calloc(arrays[i].n + 1, sizeof(smoe_real));
        complete = complete && *arrays[i].array;
    }
    if (complete && draw(d, seed) == 0)
        return 0;
    smoe_distilled_release(d);
    return SMOE_ENOMEMORY;
}

void smoe_distilled_release(struct smoe_distilled *d)
{
    void *arrays[] = {d->params,  d->grads,    d->moments_m, d->moments_v,
                      d->feature, d->dfeature, d->logits};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    *d = (struct smoe_distilled){0};
}

static void read_features(struct smoe_distilled *d, const struct smoe_tokens *tokens)
{
    size_t r = d->shape.dim;
    if (d->shape.feature == SMOE_FEATURE_LINEAR) {
        smoe_gemm_nt(tokens->n, r, d->shape.inputs, tokens->x, d->params, false, d->feature);
        return;
    }
    for (size_t i = 0; i < tokens->n; i++) {
        smoe_assert(tokens->codes[i] < d->shape.inputs);
        memcpy(d->feature + i * r, d->params + tokens->codes[i] * r, r * sizeof *d->feature);
    }
}

const smoe_real *smoe_distilled_logits(struct smoe_distilled *d, const struct smoe_tokens *tokens)
{
    smoe_assert(tokens->n <= d->rows_max);
    read_features(d, tokens);
    smoe_gemm_nt(tokens->n, d->shape.experts, d->shape.dim, d->feature, d->params + d->n_features,
                 false, d->logits);
    return d->logits;
}

static void add_feature_gradient(struct smoe_distilled *d, const struct smoe_tokens *tokens)
{
    size_t r = d->shape.dim;
    if (d->shape.feature == SMOE_FEATURE_LINEAR) {
        smoe_gemm_tn(r, d->shape.inputs, tokens->n, d->dfeature, tokens->x, true, d->grads);
        return;
    }
    for (size_t i = 0; i < tokens->n; i++)
        for (size_t j = 0; j < r; j++)
            d->grads[tokens->codes[i] * r + j] += d->dfeature[i * r + j];
}

/* logits, by now probabilities, become dshat; the sum of -log p over the choices. */
static double cross_entropy(struct smoe_distilled *d, size_t n, uint32_t k, const uint16_t *top,
                            double weight)
{
    size_t experts = d->shape.experts;
    double loss = 0;
    for (size_t row = 0; row < n; row++) {
        smoe_real *p = d->logits + row * experts;
        for (size_t j = 0; j < k; j++)
            loss -= log(fmax((double)p[top[row * k + j]], 1e-30));
        for (size_t j = 0; j < k; j++)
            p[top[row * k + j]] -= 1 / (smoe_real)k;
        for (size_t e = 0; e < experts; e++)
            p[e] *= (smoe_real)(weight / (double)n);
    }
    return loss;
}

double smoe_distilled_learn(struct smoe_distilled *d, const struct smoe_tokens *tokens, uint32_t k,
                            const uint16_t *top, double weight)
{
    size_t n = tokens->n, experts = d->shape.experts, r = d->shape.dim;
    if (n == 0)
        return 0;
    (void)smoe_distilled_logits(d, tokens);
    smoe_softmax_rows(n, experts, d->logits);
    double loss = cross_entropy(d, n, k, top, weight);
    smoe_gemm_tn(experts, r, n, d->logits, d->feature, true, d->grads + d->n_features);
    smoe_gemm_nn(n, r, experts, d->logits, d->params + d->n_features, false, d->dfeature);
    add_feature_gradient(d, tokens);
    return weight * loss / ((double)n * k);
}

void smoe_distilled_step(struct smoe_distilled *d, const struct smoe_optimizer *optimizer)
{
    smoe_optimizer_step(optimizer, d->n_params, d->params, d->moments_m, d->moments_v, d->grads,
                        d->params, d->moments_m, d->moments_v);
    memset(d->grads, 0, d->n_params * sizeof *d->grads);
}
