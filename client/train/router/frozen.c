/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/router/frozen.h"

#include <stdlib.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/err.h"
#include "common/base/limits.h"

enum smoe_frozen_kind smoe_frozen_kind_of(enum smoe_feature feature)
{
    return feature == SMOE_FEATURE_TABLE ? SMOE_FROZEN_TABLE : SMOE_FROZEN_LINEAR;
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
    smoe_softmax(d->shape.experts, logits, ret);
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

int smoe_freeze_distilled(const struct smoe_distilled *d, struct smoe_frozen *ret)
{
    uint32_t inputs = d->shape.inputs, experts = d->shape.experts;
    smoe_assert(experts >= 1 && experts <= SMOE_EXPERTS_MAX);
    float *values = calloc((size_t)inputs * experts + 1, sizeof *values);
    if (!values)
        return SMOE_ENOMEMORY;
    if (d->shape.feature == SMOE_FEATURE_TABLE)
        for (size_t code = 0; code < inputs; code++)
            score_code(d, code, values + code * experts);
    else
        for (size_t e = 0; e < experts; e++)
            join_linear(d, e, values + e * inputs);
    int rc = smoe_frozen_init(ret, smoe_frozen_kind_of(d->shape.feature), inputs, experts, values);
    free(values);
    return rc;
}

int smoe_frozen_tokens_init(struct smoe_frozen_tokens *to, const struct smoe_frozen *f,
                            size_t rows_max)
{
    *to = (struct smoe_frozen_tokens){.codes = NULL};
    if (f->kind == SMOE_FROZEN_TABLE)
        to->codes = calloc(rows_max + 1, sizeof *to->codes);
    else
        to->features = calloc(rows_max * f->inputs + 1, sizeof *to->features);
    return to->codes || to->features ? 0 : SMOE_ENOMEMORY;
}

void smoe_frozen_tokens_release(struct smoe_frozen_tokens *tokens)
{
    free(tokens->codes);
    free(tokens->features);
    *tokens = (struct smoe_frozen_tokens){.codes = NULL};
}

void smoe_frozen_tokens_fill(struct smoe_frozen_tokens *to, const struct smoe_frozen *f,
                             const struct smoe_tokens *from)
{
    for (size_t i = 0; to->codes && i < from->n; i++)
        to->codes[i] = from->codes[i];
    for (size_t i = 0; to->features && i < from->n * f->inputs; i++)
        to->features[i] = (float)from->x[i];
}
