/* SPDX-License-Identifier: Apache-2.0
 *
 * The error of two exact tensors is 0 or infinite; nothing in between would be exact.
 */
#include "sim/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/rng.h"
#include "sim/events.h"

void smoe_oracle_init(struct smoe_oracle *o, enum smoe_sim_arithmetic arithmetic,
                      const struct smoe_layer_shape *shape, uint32_t top_k, uint32_t tokens_max)
{
    struct smoe_ffn_shape ffn = {shape->d_model, shape->d_ff,
                                 (enum smoe_activation)shape->activation};
    *o = (struct smoe_oracle){
        .arithmetic = arithmetic,
        .moments = smoe_optimizer_moments((enum smoe_optimizer_kind)shape->optimizer)};
    smoe_assert(smoe_local_moe_init(&o->moe, &ffn, shape->experts, top_k, tokens_max, shape->seed,
                                    shape->zero_output) == 0);
    size_t visits = (size_t)tokens_max * top_k;
    o->y = smoe_sim_alloc(visits * shape->d_model, sizeof *o->y);
    o->dx = smoe_sim_alloc(visits * shape->d_model, sizeof *o->dx);
}

void smoe_oracle_release(struct smoe_oracle *o)
{
    smoe_local_moe_release(&o->moe);
    free(o->y);
    free(o->dx);
    *o = (struct smoe_oracle){0};
}

static double error_of(const struct smoe_oracle *o, size_t n, const smoe_real *got,
                       const smoe_real *reference)
{
    double difference = 0, size = 0;
    if (memcmp(got, reference, n * sizeof *got) == 0)
        return 0;
    if (o->arithmetic == SMOE_SIM_EXACT)
        return HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)reference[i];
        difference += d * d;
        size += (double)reference[i] * (double)reference[i];
    }
    return sqrt(difference) / (sqrt(size) + 1e-30);
}

/* ---- the exact layer, one visit at a time ---- */

static smoe_real *of_expert(const struct smoe_oracle *o, smoe_real *vectors, uint32_t expert)
{
    return vectors + expert * o->moe.n_params;
}

static void forward_exact(struct smoe_oracle *o, const struct smoe_oracle_batch *b)
{
    size_t d = o->moe.shape.d_model, n_params = o->moe.n_params;
    for (size_t v = 0; v < (size_t)b->n * b->top_k; v++)
        smoe_sim_exact_forward(d, n_params, of_expert(o, o->moe.params, b->experts[v]), 1,
                               b->x + v / b->top_k * d, o->y + v * d);
}

static void backward_exact(struct smoe_oracle *o, const struct smoe_oracle_batch *b)
{
    size_t d = o->moe.shape.d_model, n_params = o->moe.n_params;
    for (size_t v = 0; v < (size_t)b->n * b->top_k; v++)
        smoe_sim_exact_backward(d, n_params, of_expert(o, o->moe.params, b->experts[v]), 1,
                                b->x + v / b->top_k * d, b->dy + v * d,
                                of_expert(o, o->moe.grads, b->experts[v]), o->dx + v * d);
}

static void step_exact(struct smoe_oracle *o)
{
    for (uint32_t e = 0; e < o->moe.experts; e++) {
        struct smoe_expert_vectors state = {
            of_expert(o, o->moe.params, e),
            {of_expert(o, o->moe.moments_m, e),
             o->moments > 1 ? of_expert(o, o->moe.moments_v, e) : NULL}};
        smoe_sim_exact_step(o->moe.n_params, &state, of_expert(o, o->moe.grads, e), &state);
    }
    memset(o->moe.grads, 0, o->moe.experts * o->moe.n_params * sizeof *o->moe.grads);
}

/* ---- both ---- */

static void forward(struct smoe_oracle *o, const struct smoe_oracle_batch *b)
{
    if (o->arithmetic == SMOE_SIM_EXACT)
        forward_exact(o, b);
    else
        smoe_local_moe_forward(&o->moe, b->n, b->x, b->experts, o->y);
}

double smoe_oracle_forward_error(struct smoe_oracle *o, const struct smoe_oracle_batch *b,
                                 const smoe_real *y)
{
    forward(o, b);
    return error_of(o, (size_t)b->n * b->top_k * o->moe.shape.d_model, y, o->y);
}

double smoe_oracle_add(struct smoe_oracle *o, const struct smoe_oracle_batch *b,
                       const smoe_real *dx)
{
    size_t d = o->moe.shape.d_model;
    forward(o, b);
    if (o->arithmetic == SMOE_SIM_EXACT)
        backward_exact(o, b);
    else
        smoe_local_moe_backward(&o->moe, b->dy, o->dx);
    for (size_t i = 0; i < b->n * d; i++) { /* in the order of k, in place: row n lies before n K */
        smoe_real sum = 0;
        for (size_t k = 0; k < b->top_k; k++)
            sum += o->dx[(i / d * b->top_k + k) * d + i % d];
        o->dx[i] = sum;
    }
    return dx ? error_of(o, b->n * d, dx, o->dx) : 0;
}

double smoe_oracle_square_norm(const struct smoe_oracle *o, double divisor)
{
    double sum = 0;
    if (o->arithmetic == SMOE_SIM_FLOAT)
        return smoe_local_moe_square_norm(&o->moe) / (divisor * divisor);
    for (size_t i = 0; i < o->moe.experts * o->moe.n_params; i++)
        sum += (double)smoe_sim_residue(o->moe.grads[i]);
    return sum;
}

void smoe_oracle_step(struct smoe_oracle *o, const struct smoe_optimizer *optimizer)
{
    if (o->arithmetic == SMOE_SIM_EXACT)
        step_exact(o);
    else
        smoe_local_moe_step(&o->moe, optimizer);
}

double smoe_oracle_expert_error(const struct smoe_oracle *o, uint32_t expert,
                                const smoe_real *weights)
{
    return error_of(o, o->moe.n_params, weights, o->moe.params + expert * o->moe.n_params);
}

uint64_t smoe_oracle_digest(const struct smoe_oracle *o)
{
    uint64_t digest = 1;
    for (size_t i = 0; i < o->moe.experts * o->moe.n_params; i++) {
        uint64_t bits = 0;
        memcpy(&bits, &o->moe.params[i], sizeof o->moe.params[i]);
        digest = smoe_mix64(digest + bits);
    }
    return digest;
}
