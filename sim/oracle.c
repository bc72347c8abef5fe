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

static void serve(struct smoe_oracle *o)
{
    memcpy(o->before, o->served, o->experts * o->n_params * sizeof *o->served);
    memcpy(o->served, o->params, o->experts * o->n_params * sizeof *o->served);
    if (o->wire == SMOE_WIRE_BF16)
        smoe_bf16_through(o->experts * o->n_params, o->served);
}

double smoe_oracle_tolerance(const struct smoe_oracle *o)
{
    if (o->arithmetic == SMOE_SIM_EXACT)
        return 0;
    return o->wire == SMOE_WIRE_BF16 ? SMOE_ORACLE_TOLERANCE_BF16 : SMOE_ORACLE_TOLERANCE;
}

void smoe_oracle_init(struct smoe_oracle *o, enum smoe_sim_arithmetic arithmetic,
                      const struct smoe_layer_shape *shape, uint32_t top_k, uint32_t tokens_max)
{
    *o = (struct smoe_oracle){
        .arithmetic = arithmetic,
        .shape = {shape->d_model, shape->d_ff, (enum smoe_activation)shape->activation},
        .experts = shape->experts,
        .wire = shape->wire,
        .moments = smoe_optimizer_moments((enum smoe_optimizer_kind)shape->optimizer)};
    o->n_params = smoe_ffn_layout(&o->shape).n_params;
    smoe_real **vectors[] = {&o->params,    &o->grads,  &o->moments_m,
                             &o->moments_v, &o->served, &o->before};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        *vectors[i] = smoe_sim_alloc(o->experts * o->n_params, sizeof(smoe_real));
    size_t visits = (size_t)tokens_max * top_k;
    smoe_real **rows[] = {&o->y, &o->dx, &o->rows_x, &o->rows_dy, &o->rows_out};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        *rows[i] = smoe_sim_alloc(visits * shape->d_model, sizeof(smoe_real));
    for (uint32_t e = 0; e < o->experts; e++)
        smoe_ffn_init(&o->shape, shape->seed, e, shape->zero_output, o->params + e * o->n_params);
    serve(o);
}

void smoe_oracle_release(struct smoe_oracle *o)
{
    smoe_real *arrays[] = {o->params, o->grads, o->moments_m, o->moments_v, o->served,  o->before,
                           o->y,      o->dx,    o->rows_x,    o->rows_dy,   o->rows_out};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
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

/* ---- the layer, one visit at a time ---- */

static smoe_real *of_expert(const struct smoe_oracle *o, smoe_real *vectors, uint32_t expert)
{
    return vectors + expert * o->n_params;
}

/* What served it. A batch that is further behind than a step is nobody's. */
static smoe_real *weights_of(const struct smoe_oracle *o, const struct smoe_oracle_batch *b)
{
    smoe_assert(!b->ahead || b->base == o->steps || b->base + 1 == o->steps);
    return b->ahead && b->base < o->steps ? o->before : o->served;
}

/* Exact sums are the same in any order: all visits of an expert at once. Without `back` the results, with it the
 * gradients. */
static void exact_visits(struct smoe_oracle *o, const struct smoe_oracle_batch *b, uint32_t expert,
                         bool back, smoe_real *ret)
{
    size_t d = o->shape.d_model, visits = (size_t)b->n * b->top_k, n = 0;
    const smoe_real *w = of_expert(o, weights_of(o, b), expert);
    for (size_t v = 0; v < visits; v++) {
        if (b->experts[v] != expert)
            continue;
        memcpy(o->rows_x + n * d, b->x + v / b->top_k * d, d * sizeof *b->x);
        if (back)
            memcpy(o->rows_dy + n * d, b->dy + v * d, d * sizeof *b->dy);
        n++;
    }
    if (!n)
        return;
    if (back)
        smoe_sim_exact_backward(d, o->n_params, w, n, o->rows_x, o->rows_dy,
                                of_expert(o, o->grads, expert), o->rows_out);
    else
        smoe_sim_exact_forward(d, o->n_params, w, n, o->rows_x, o->rows_out);
    n = 0;
    for (size_t v = 0; v < visits; v++)
        if (b->experts[v] == expert)
            memcpy(ret + v * d, o->rows_out + n++ * d, d * sizeof *ret);
}

static void exact(struct smoe_oracle *o, const struct smoe_oracle_batch *b, bool back,
                  smoe_real *ret)
{
    for (uint32_t e = 0; e < o->experts; e++)
        exact_visits(o, b, e, back, ret);
}

static void forward(struct smoe_oracle *o, const struct smoe_oracle_batch *b)
{
    size_t d = o->shape.d_model;
    smoe_real *weights = weights_of(o, b);
    for (size_t v = 0; v < (size_t)b->n * b->top_k; v++) {
        const smoe_real *w = of_expert(o, weights, b->experts[v]), *x = b->x + v / b->top_k * d;
        smoe_ffn_forward_reference(&o->shape, w, 1, x, o->y + v * d);
    }
}

static void backward(struct smoe_oracle *o, const struct smoe_oracle_batch *b)
{
    size_t d = o->shape.d_model;
    smoe_real *weights = weights_of(o, b);
    for (size_t v = 0; v < (size_t)b->n * b->top_k; v++) {
        const smoe_real *w = of_expert(o, weights, b->experts[v]), *x = b->x + v / b->top_k * d;
        smoe_real *gradient = of_expert(o, o->grads, b->experts[v]);
        smoe_ffn_backward_reference(&o->shape, w, 1, x, b->dy + v * d, gradient, o->dx + v * d);
    }
}

double smoe_oracle_forward_error(struct smoe_oracle *o, const struct smoe_oracle_batch *b,
                                 const smoe_real *y)
{
    if (o->arithmetic == SMOE_SIM_EXACT)
        exact(o, b, false, o->y);
    else
        forward(o, b);
    return error_of(o, (size_t)b->n * b->top_k * o->shape.d_model, y, o->y);
}

double smoe_oracle_add(struct smoe_oracle *o, const struct smoe_oracle_batch *b,
                       const smoe_real *dx)
{
    size_t d = o->shape.d_model;
    if (o->arithmetic == SMOE_SIM_EXACT)
        exact(o, b, true, o->dx);
    else
        backward(o, b);
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
    for (uint32_t e = 0; o->arithmetic == SMOE_SIM_FLOAT && e < o->experts; e++)
        sum += smoe_square_norm(o->n_params, of_expert(o, o->grads, e)) / (divisor * divisor);
    for (size_t i = 0; o->arithmetic == SMOE_SIM_EXACT && i < o->experts * o->n_params; i++)
        sum += (double)smoe_sim_residue(o->grads[i]);
    return sum;
}

static void step_expert(struct smoe_oracle *o, uint32_t e, const struct smoe_optimizer *optimizer)
{
    smoe_real *w = of_expert(o, o->params, e), *g = of_expert(o, o->grads, e);
    smoe_real *m = of_expert(o, o->moments_m, e), *v = of_expert(o, o->moments_v, e);
    struct smoe_expert_vectors state = {w, {m, o->moments > 1 ? v : NULL}};
    if (o->arithmetic == SMOE_SIM_EXACT)
        smoe_sim_exact_step(o->n_params, &state, g, &state);
    else
        smoe_optimizer_step(optimizer, o->n_params, w, m, v, g, w, m, v);
    memset(g, 0, o->n_params * sizeof *g);
}

void smoe_oracle_step(struct smoe_oracle *o, const struct smoe_optimizer *optimizer)
{
    for (uint32_t e = 0; e < o->experts; e++)
        step_expert(o, e, optimizer);
    o->steps++;
    serve(o);
}

double smoe_oracle_expert_error(const struct smoe_oracle *o, uint32_t expert,
                                const smoe_real *weights)
{
    return error_of(o, o->n_params, weights, of_expert(o, o->params, expert));
}

uint64_t smoe_oracle_digest(const struct smoe_oracle *o)
{
    uint64_t digest = 1;
    for (size_t i = 0; i < o->experts * o->n_params; i++) {
        uint64_t bits = 0;
        memcpy(&bits, &o->params[i], sizeof o->params[i]);
        digest = smoe_mix64(digest + bits);
    }
    return digest;
}
