/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/compute.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "sim/events.h"

#define P SMOE_SIM_PRIME

/* Flops of an element in the norm and the optimizer step; they are bound by memory, this is a guess. */
#define NORM_FLOPS  4
#define STAGE_FLOPS 16

uint32_t smoe_sim_residue(smoe_real value)
{
    if (value >= 0 && value < (smoe_real)P) {
        int32_t v = (int32_t)value;
        if (!((smoe_real)v < value))
            return (uint32_t)v;
    }
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return (uint32_t)(smoe_mix64(bits) % P);
}

/* ---- the exact expert ---- */

/* The parameter after k, round and round: a matrix of d x d may be larger than the vector. */
static size_t next_of(size_t k, size_t n_params)
{
    return k + 1 == n_params ? 0 : k + 1;
}

static void add(smoe_real *to, uint64_t value)
{
    *to = (smoe_real)((smoe_sim_residue(*to) + value) % P);
}

static void residues(size_t n, const smoe_real *of, uint32_t *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = smoe_sim_residue(of[i]);
}

void smoe_sim_exact_forward(size_t d, size_t n_params, const smoe_real *w, size_t n,
                            const smoe_real *x, smoe_real *ret_y)
{
    uint32_t *ws = smoe_sim_room((n_params + n * d) * sizeof *ws), *xs = ws + n_params;
    residues(n_params, w, ws);
    residues(n * d, x, xs);
    for (size_t i = 0; i < d; i++) {
        uint64_t bias = 0;
        for (size_t m = i; m < n_params; m += d)
            bias += ws[m];
        for (size_t row = 0; row < n; row++) {
            uint64_t sum = bias;
            size_t k = i * d % n_params;
            for (size_t j = 0; j < d; j++, k = next_of(k, n_params))
                sum += (uint64_t)ws[k] * xs[row * d + j];
            ret_y[row * d + i] = (smoe_real)(sum % P);
        }
    }
    free(ws);
}

static void exact_input_gradient(size_t d, size_t n_params, const uint32_t *ws, size_t n,
                                 const uint32_t *dys, smoe_real *ret_dx)
{
    for (size_t row = 0; row < n; row++, dys += d, ret_dx += d) {
        for (size_t j = 0; j < d; j++) {
            uint64_t sum = 0;
            size_t k = j;
            for (size_t i = 0; i < d; i++, k = k + d < n_params ? k + d : k + d - n_params)
                sum += (uint64_t)ws[k] * dys[i];
            ret_dx[j] = (smoe_real)(sum % P);
        }
    }
}

/* Adds the gradient to sums [n_params]. */
static void exact_gradient(size_t d, size_t n_params, size_t n, const uint32_t *xs,
                           const uint32_t *dys, uint64_t *sums)
{
    for (size_t i = 0; i < d; i++) {
        uint64_t bias = 0;
        size_t k = i * d % n_params;
        for (size_t row = 0; row < n; row++)
            bias += dys[row * d + i];
        for (size_t j = 0; j < d; j++, k = next_of(k, n_params))
            for (size_t row = 0; row < n; row++)
                sums[k] += (uint64_t)dys[row * d + i] * xs[row * d + j];
        for (size_t m = i; m < n_params; m += d)
            sums[m] += bias;
    }
}

/* All rows are added up before a parameter is touched, each once. */
void smoe_sim_exact_backward(size_t d, size_t n_params, const smoe_real *w, size_t n,
                             const smoe_real *x, const smoe_real *dy, smoe_real *gradient,
                             smoe_real *ret_dx)
{
    uint64_t *sums = smoe_sim_alloc(n_params, sizeof *sums);
    uint32_t *ws = smoe_sim_room((n_params + 2 * n * d) * sizeof *ws);
    uint32_t *xs = ws + n_params, *dys = xs + n * d;
    residues(n_params, w, ws);
    residues(n * d, x, xs);
    residues(n * d, dy, dys);
    exact_input_gradient(d, n_params, ws, n, dys, ret_dx);
    exact_gradient(d, n_params, n, xs, dys, sums);
    for (size_t i = 0; i < n_params; i++)
        add(&gradient[i], sums[i]);
    free(ws);
    free(sums);
}

/* A moment of which there is none is 0 and stays so. */
static uint64_t moment(const smoe_real *now, smoe_real *next, size_t i, uint64_t times,
                       uint64_t plus)
{
    if (!now)
        return 0;
    uint64_t value = (smoe_sim_residue(now[i]) * times + plus) % P;
    next[i] = (smoe_real)value;
    return value;
}

void smoe_sim_exact_step(size_t n_params, const struct smoe_expert_vectors *now,
                         const smoe_real *gradient, const struct smoe_expert_vectors *next)
{
    for (size_t i = 0; i < n_params; i++) {
        uint64_t g = smoe_sim_residue(gradient[i]);
        uint64_t m = moment(now->moments[0], next->moments[0], i, 3, g);
        uint64_t v = moment(now->moments[1], next->moments[1], i, 5, g * g);
        next->weights[i] =
            (smoe_real)((smoe_sim_residue(now->weights[i]) + 9 * P - 7 * g - m - v) % P);
    }
}

/* ---- tasks ---- */

static uint32_t rows_left(const struct smoe_task *t)
{
    uint32_t left = t->rows - atomic_load_explicit(&t->rows_done, memory_order_relaxed);
    return left < SMOE_TASK_ROWS ? left : SMOE_TASK_ROWS;
}

static bool exact_rows(struct smoe_task *t)
{
    uint32_t at = atomic_load_explicit(&t->rows_done, memory_order_relaxed), n = rows_left(t);
    size_t d = t->shape.d_model, params = smoe_ffn_layout(&t->shape).n_params;
    if (t->kind == SMOE_TASK_FORWARD)
        smoe_sim_exact_forward(d, params, t->now.weights, n, t->x + at * d, t->out + at * d);
    else
        smoe_sim_exact_backward(d, params, t->now.weights, n, t->x + at * d, t->dy + at * d,
                                t->gradient, t->out + at * d);
    atomic_store_explicit(&t->rows_done, at + n, memory_order_relaxed);
    return at + n == t->rows;
}

static void exact_norm(struct smoe_task *t)
{
    for (size_t i = 0; t->n_sums && i < t->n_params; i++) {
        t->gradient[i] = 0;
        for (uint32_t r = 0; r < t->n_sums; r++)
            add(&t->gradient[i], smoe_sim_residue(t->sums[r * t->n_params + i]));
    }
    for (size_t i = 0; i < t->n_norm; i++)
        t->square_norm += (double)smoe_sim_residue(t->gradient[i]);
}

static bool exact_slice(struct smoe_task *t)
{
    if (t->kind <= SMOE_TASK_BACKWARD)
        return exact_rows(t);
    if (t->kind == SMOE_TASK_NORM)
        exact_norm(t);
    if (t->kind == SMOE_TASK_STAGE) {
        smoe_sim_exact_step(t->n_params, &t->now, t->gradient, &t->staged);
        memset(t->gradient, 0, t->n_params * sizeof *t->gradient);
    }
    if (t->kind == SMOE_TASK_MAKE)
        return smoe_task_slice(t);
    t->elements_done = t->n_params;
    return true;
}

bool smoe_sim_slice(enum smoe_sim_arithmetic arithmetic, struct smoe_task *task)
{
    return arithmetic == SMOE_SIM_EXACT ? exact_slice(task) : smoe_task_slice(task);
}

uint64_t smoe_sim_slice_flops(const struct smoe_task *t)
{
    uint64_t visit = smoe_task_forward_flops(&t->shape);
    size_t left = t->n_params - t->elements_done;
    size_t elements = left < SMOE_TASK_ELEMENTS ? left : SMOE_TASK_ELEMENTS;
    switch (t->kind) {
    case SMOE_TASK_FORWARD:
        return rows_left(t) * visit;
    case SMOE_TASK_BACKWARD: /* without what the forward pass saved, that pass comes again */
        return rows_left(t) * visit * (t->saved ? 2 : 3);
    case SMOE_TASK_NORM:
        return elements * NORM_FLOPS;
    case SMOE_TASK_MAKE:
        left = t->n_seed - t->elements_done;
        return left < SMOE_TASK_ELEMENTS ? left : SMOE_TASK_ELEMENTS;
    case SMOE_TASK_STAGE:
    case SMOE_TASK_KINDS:
        break;
    }
    return elements * STAGE_FLOPS;
}
