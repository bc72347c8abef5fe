/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/agent/task.h"

#include <string.h>

#include "client/worker/agent/shards.h"
#include "common/kernels/bf16.h"

#define MAKE_PART 1024 /* elements */

size_t smoe_task_scratch(const struct smoe_ffn_shape *shape)
{
    size_t rows = SMOE_TASK_ROWS;
    /* a backward pass that recomputes needs room for y and for what a forward pass saves */
    return smoe_ffn_scratch(shape, rows) + rows * (smoe_ffn_saved_per_row(shape) + shape->d_model);
}

uint64_t smoe_task_forward_flops(const struct smoe_ffn_shape *shape)
{
    uint64_t matrices = shape->activation == SMOE_SWIGLU ? 3 : 2;
    return 2 * matrices * shape->d_model * shape->d_ff;
}

static void forward_slice(struct smoe_task *t, uint32_t at, uint32_t n)
{
    size_t d = t->shape.d_model, kept = smoe_ffn_saved_per_row(&t->shape);
    smoe_ffn_forward(&t->shape, t->now.weights, n, t->x + at * d,
                     t->saved ? t->saved + at * kept : NULL, t->scratch, t->out + at * d);
}

static void backward_slice(struct smoe_task *t, uint32_t at, uint32_t n)
{
    size_t d = t->shape.d_model, kept = smoe_ffn_saved_per_row(&t->shape);
    const smoe_real *x = t->x + at * d;
    const smoe_real *saved = t->saved ? t->saved + at * kept : NULL;
    if (!saved) {
        smoe_real *room = t->scratch + smoe_ffn_scratch(&t->shape, SMOE_TASK_ROWS);
        smoe_ffn_forward(&t->shape, t->now.weights, n, x, room, t->scratch,
                         room + SMOE_TASK_ROWS * kept);
        saved = room;
    }
    smoe_ffn_backward(&t->shape, t->now.weights, n, x, saved, t->dy + at * d, t->scratch,
                      t->gradient, t->out + at * d);
}

static bool rows_slice(struct smoe_task *t)
{
    uint32_t at = atomic_load_explicit(&t->rows_done, memory_order_relaxed);
    uint32_t n = t->rows - at < SMOE_TASK_ROWS ? t->rows - at : SMOE_TASK_ROWS;
    if (t->kind == SMOE_TASK_FORWARD)
        forward_slice(t, at, n);
    else
        backward_slice(t, at, n);
    atomic_store_explicit(&t->rows_done, at + n, memory_order_relaxed);
    return at + n == t->rows;
}

static void sum_slice(struct smoe_task *t, size_t at, size_t n)
{
    memcpy(t->gradient + at, t->sums + at, n * sizeof *t->gradient);
    for (uint32_t r = 1; r < t->n_sums; r++) {
        const smoe_real *from = t->sums + r * t->n_params + at;
        for (size_t i = 0; i < n; i++)
            t->gradient[at + i] += from[i];
    }
}

static void norm_slice(struct smoe_task *t, size_t at, size_t n)
{
    size_t left = at < t->n_norm ? t->n_norm - at : 0;
    if (t->n_sums)
        sum_slice(t, at, n);
    t->square_norm +=
        smoe_square_norm(n < left ? n : left, t->gradient + at) / (t->divisor * t->divisor);
    bool fits = t->square_norm <= SMOE_SQUARE_NORM_MAX; /* false for NaN too */
    if (at + n == t->n_params && !fits)
        t->square_norm = -1;
}

static smoe_real *offset(smoe_real *vector, size_t at)
{
    return vector ? vector + at : NULL;
}

static void stage_slice(struct smoe_task *t, size_t at, size_t n)
{
    smoe_optimizer_step(&t->optimizer, n, t->now.weights + at, t->now.moments[0] + at,
                        offset(t->now.moments[1], at), t->gradient + at, t->staged.weights + at,
                        t->staged.moments[0] + at, offset(t->staged.moments[1], at));
    memset(t->gradient + at, 0, n * sizeof *t->gradient);
}

static bool elements_slice(struct smoe_task *t)
{
    size_t at = t->elements_done;
    size_t n = t->n_params - at < SMOE_TASK_ELEMENTS ? t->n_params - at : SMOE_TASK_ELEMENTS;
    if (t->kind == SMOE_TASK_NORM)
        norm_slice(t, at, n);
    else
        stage_slice(t, at, n);
    t->elements_done += n;
    return t->elements_done == t->n_params;
}

/* The next elements of the seed's vector, to where they belong. They come in small parts, for a shard has no room for
 * the others. */
static bool make_slice(struct smoe_task *t)
{
    smoe_real part[MAKE_PART];
    for (size_t end = t->elements_done + SMOE_TASK_ELEMENTS;
         t->elements_done < end && t->elements_done < t->n_seed;) {
        size_t at = t->elements_done, n = t->n_seed - at < MAKE_PART ? t->n_seed - at : MAKE_PART;
        smoe_ffn_seed_next(&t->seed, n, part);
        if (t->rounded)
            smoe_bf16_through(n, part);
        if (t->ranges)
            smoe_shard_cut_out(t->ranges, t->n_ranges, at, n, part, t->now.weights);
        else
            memcpy(t->now.weights + at, part, n * sizeof *part);
        t->elements_done += n;
    }
    return t->elements_done == t->n_seed;
}

bool smoe_task_slice(struct smoe_task *task)
{
    if (task->kind == SMOE_TASK_MAKE)
        return make_slice(task);
    return task->kind <= SMOE_TASK_BACKWARD ? rows_slice(task) : elements_slice(task);
}
