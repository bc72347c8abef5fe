/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/router/frozen.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/rng.h"

/* In place and in double until the last rounding: the same bits everywhere. */
static void softmax(size_t n, double *logits, float *ret)
{
    double most = logits[0], sum = 0;
    for (size_t e = 1; e < n; e++)
        most = logits[e] > most ? logits[e] : most;
    for (size_t e = 0; e < n; e++)
        sum += logits[e] = smoe_exp(logits[e] - most);
    for (size_t e = 0; e < n; e++)
        ret[e] = (float)(logits[e] / sum);
}

/* One code: shat_e = Ehat_e . D[code] */
static void score_code(const struct smoe_distilled *d, size_t code, float *ret)
{
    const smoe_real *feature = d->params + code * d->shape.dim;
    const smoe_real *centroids = d->params + d->n_features;
    double logits[SMOE_EXPERTS_MAX];
    for (size_t e = 0; e < d->shape.experts; e++) {
        logits[e] = 0;
        for (size_t j = 0; j < d->shape.dim; j++)
            logits[e] += (double)centroids[e * d->shape.dim + j] * (double)feature[j];
    }
    softmax(d->shape.experts, logits, ret);
}

/* One expert: Ehat_e D */
static void join_linear(const struct smoe_distilled *d, size_t expert, float *ret)
{
    const smoe_real *centroid = d->params + d->n_features + expert * d->shape.dim;
    for (size_t i = 0; i < d->shape.inputs; i++) {
        double sum = 0;
        for (size_t j = 0; j < d->shape.dim; j++)
            sum += (double)centroid[j] * (double)d->params[j * d->shape.inputs + i];
        ret[i] = (float)sum;
    }
}

int smoe_frozen_blank(struct smoe_frozen *frozen, const struct smoe_distilled_shape *shape)
{
    smoe_assert(shape->experts >= 1 && shape->experts <= SMOE_EXPERTS_MAX);
    *frozen = (struct smoe_frozen){
        .feature = shape->feature, .inputs = shape->inputs, .experts = shape->experts};
    frozen->values = calloc((size_t)shape->inputs * shape->experts, sizeof *frozen->values);
    return frozen->values ? 0 : SMOE_ENOMEMORY;
}

int smoe_frozen_init(struct smoe_frozen *frozen, const struct smoe_distilled *d)
{
    int rc = smoe_frozen_blank(frozen, &d->shape);
    if (rc)
        return rc;
    if (d->shape.feature == SMOE_FEATURE_TABLE)
        for (size_t code = 0; code < d->shape.inputs; code++)
            score_code(d, code, frozen->values + code * d->shape.experts);
    else
        for (size_t e = 0; e < d->shape.experts; e++)
            join_linear(d, e, frozen->values + e * d->shape.inputs);
    return 0;
}

void smoe_frozen_release(struct smoe_frozen *frozen)
{
    free(frozen->values);
    *frozen = (struct smoe_frozen){0};
}

static void score_values(const struct smoe_frozen *f, const smoe_real *x, float *ret)
{
    double logits[SMOE_EXPERTS_MAX];
    for (size_t e = 0; e < f->experts; e++) {
        const float *weight = f->values + e * f->inputs;
        logits[e] = 0;
        for (size_t i = 0; i < f->inputs; i++)
            logits[e] += (double)weight[i] * (double)x[i];
    }
    softmax(f->experts, logits, ret);
}

void smoe_frozen_scores(const struct smoe_frozen *f, const struct smoe_tokens *tokens,
                        float *ret_scores)
{
    for (size_t i = 0; i < tokens->n; i++, ret_scores += f->experts)
        if (f->feature == SMOE_FEATURE_LINEAR) {
            score_values(f, tokens->x + i * f->inputs, ret_scores);
        } else {
            smoe_assert(tokens->codes[i] < f->inputs);
            memcpy(ret_scores, f->values + (size_t)tokens->codes[i] * f->experts,
                   f->experts * sizeof *ret_scores);
        }
}

uint64_t smoe_frozen_digest(const struct smoe_frozen *f)
{
    uint64_t digest = smoe_mix64(((uint64_t)f->feature << 62) ^ ((uint64_t)f->inputs << 16) ^
                                 (uint64_t)f->experts);
    for (size_t i = 0; i < (size_t)f->inputs * f->experts; i++) {
        uint32_t bits;
        memcpy(&bits, &f->values[i], sizeof bits);
        digest = smoe_mix64(digest ^ bits);
    }
    return digest;
}
