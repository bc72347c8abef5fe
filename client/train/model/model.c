/* SPDX-License-Identifier: Apache-2.0
 *
 * Parameters: where they lie, how they start, how they step.
 *
 * The encoder and the head start with the usual spread (He: sqrt(2/P) before a ReLU; sqrt(1/d)). The gate
 * starts a tenth as wide as would make its logits of order one: nearly uniform gates give every expert tokens
 * in the first steps, and the balance loss keeps it so. Embeddings are of order one, as normalised pixels
 * are; the vectors of places start at zero. Each tensor draws from a stream of its own, so that another
 * number of experts leaves the encoder and the head as they are.
 */
#include "client/train/model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/model/layout.h"
#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/kernels/orthogonal.h"

#define ORTHOGONAL_GAIN 0.1 /* StableMoE, section 4 */

enum {
    ENCODER_STREAM = 1u << 20,
    GATE_STREAM,
    HEAD_STREAM,
    EMBEDDING_STREAM
}; /* experts have 0..E-1 */

struct smoe_model_layout smoe_model_layout(const struct smoe_model_shape *shape)
{
    size_t d = shape->d_model;
    struct smoe_model_layout at = {.encoder_weight = 0};
    at.encoder_bias = d * shape->pixels;
    at.gate_weight = at.encoder_bias + d;
    at.head_weight = at.gate_weight + shape->experts * d;
    at.head_bias = at.head_weight + shape->classes * d;
    at.position = at.head_bias + shape->classes;
    at.embedding = at.position + (shape->tokens > 1 ? shape->tokens * d : 0);
    at.n_params = at.embedding + shape->vocabulary * d;
    return at;
}

void smoe_model_tensors(const struct smoe_model_shape *shape,
                        struct smoe_model_tensor ret[SMOE_MODEL_TENSORS])
{
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t d = shape->d_model;
    ret[0] = (struct smoe_model_tensor){"encoder.weight", at.encoder_weight, d, shape->pixels};
    ret[1] = (struct smoe_model_tensor){"encoder.bias", at.encoder_bias, d, 0};
    ret[2] = (struct smoe_model_tensor){"gate.weight", at.gate_weight, shape->experts, d};
    ret[3] = (struct smoe_model_tensor){"head.weight", at.head_weight, shape->classes, d};
    ret[4] = (struct smoe_model_tensor){"head.bias", at.head_bias, shape->classes, 0};
    ret[5] = (struct smoe_model_tensor){"encoder.position", at.position,
                                        shape->tokens > 1 ? shape->tokens : 0, d};
    ret[6] = (struct smoe_model_tensor){"embedding.weight", at.embedding, shape->vocabulary, d};
}

static void draw(smoe_real *to, size_t n, uint64_t seed, uint64_t stream, double deviation)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, seed, stream);
    for (size_t i = 0; i < n; i++)
        to[i] = (smoe_real)(smoe_rng_normal(&rng) * deviation);
}

static int draw_gate(struct smoe_model *model, uint64_t seed)
{
    const struct smoe_model_shape *shape = &model->shape;
    smoe_real *gate = model->params + smoe_model_layout(shape).gate_weight;
    size_t d = shape->d_model;
    if (shape->orthogonal)
        return smoe_orthogonal(shape->experts, d, ORTHOGONAL_GAIN, seed, GATE_STREAM, gate);
    draw(gate, shape->experts * d, seed, GATE_STREAM, 0.1 * sqrt(1.0 / (double)d));
    return 0;
}

static int draw_all(struct smoe_model *model, uint64_t seed)
{
    const struct smoe_model_shape *shape = &model->shape;
    struct smoe_model_layout at = smoe_model_layout(shape);
    size_t d = shape->d_model;
    draw(model->params + at.encoder_weight, d * shape->pixels, seed, ENCODER_STREAM,
         sqrt(2.0 / shape->pixels));
    draw(model->params + at.head_weight, shape->classes * d, seed, HEAD_STREAM,
         sqrt(1.0 / (double)d));
    draw(model->params + at.embedding, shape->vocabulary * d, seed, EMBEDDING_STREAM, 1);
    return draw_gate(model, seed);
}

int smoe_model_init(struct smoe_model *model, const struct smoe_model_shape *shape, uint64_t seed)
{
    smoe_assert(shape->pixels && shape->d_model);
    smoe_assert(shape->classes && shape->classes <= SMOE_MODEL_CLASSES_MAX);
    smoe_assert(shape->vocabulary <= SMOE_MODEL_VOCABULARY_MAX);
    smoe_assert(!shape->vocabulary ||
                (shape->context && shape->pixels == shape->context * shape->d_model));
    smoe_assert(shape->top_k >= 1 && shape->top_k <= SMOE_TOP_K_MAX);
    smoe_assert(shape->top_k <= shape->experts && shape->experts <= SMOE_EXPERTS_MAX);
    *model = (struct smoe_model){.shape = *shape};
    model->n_params = smoe_model_layout(shape).n_params;
    smoe_real **vectors[] = {&model->params, &model->grads, &model->moments_m, &model->moments_v};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        *vectors[i] = calloc(model->n_params, sizeof(smoe_real));
        if (!*vectors[i]) {
            smoe_model_release(model);
            return SMOE_ENOMEMORY;
        }
    }
    int rc = draw_all(model, seed);
    if (rc)
        smoe_model_release(model);
    return rc;
}

void smoe_model_release(struct smoe_model *model)
{
    free(model->params);
    free(model->grads);
    free(model->moments_m);
    free(model->moments_v);
    *model = (struct smoe_model){0};
}

void smoe_model_step(struct smoe_model *model, const struct smoe_optimizer *optimizer)
{
    smoe_optimizer_step(optimizer, model->n_params, model->params, model->moments_m,
                        model->moments_v, model->grads, model->params, model->moments_m,
                        model->moments_v);
    memset(model->grads, 0, model->n_params * sizeof *model->grads);
}
