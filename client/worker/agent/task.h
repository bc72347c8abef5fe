/* SPDX-License-Identifier: Apache-2.0
 *
 * A task: one piece of an expert's work, run slice by slice by whoever has a thread for it (a compute
 * lane of the worker, or the simulator). It touches only the memory it points to; the agent sees to
 * it that no two tasks of one expert run at a time and that the memory stays until the task is done.
 * A slice is short (SMOE_TASK_ROWS rows), so that a lane can pause between slices to hold a frequency
 * by its duty cycle.
 */
#ifndef SMOE_AGENT_TASK_H
#define SMOE_AGENT_TASK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kernels/ffn.h"
#include "common/kernels/optimizer.h"

#define SMOE_TASK_ROWS       128   /* rows of a forward or backward slice */
#define SMOE_TASK_ELEMENTS   65536 /* parameters of an optimizer slice */
#define SMOE_MAKE_FLOPS      64    /* what making a parameter takes, about */
#define SMOE_SQUARE_NORM_MAX 1e300 /* what a StepNorm may carry */

enum smoe_task_kind {
    SMOE_TASK_FORWARD,
    SMOE_TASK_BACKWARD, /* adds to the gradient sum */
    SMOE_TASK_NORM, /* square norm of gradient / divisor; of a shard, of the sum of what hosts sent */
    SMOE_TASK_STAGE, /* optimizer step into the second buffer; the gradient sum becomes 0 */
    SMOE_TASK_MAKE,  /* weights of the seed */
    SMOE_TASK_KINDS,
};

struct smoe_shard_range; /* shards.h */

/* Vectors of one expert's state, each in the layout of smoe_ffn_layout. */
struct smoe_expert_vectors {
    smoe_real *weights;
    smoe_real *moments[2]; /* the second is NULL for SGD */
};

struct smoe_task {
    enum smoe_task_kind kind;
    uint32_t expert; /* the agent's number of the expert */
    uint32_t parcel; /* the agent's number of the parcel */
    struct smoe_ffn_shape shape;

    /* FORWARD, BACKWARD: rows of x, dy [rows, d] in; y or dx [rows, d] out */
    uint32_t rows;
    const smoe_real *x, *dy;
    smoe_real *out;
    smoe_real
        *saved; /* [rows, saved_per_row], or NULL: nothing is kept, the backward pass recomputes */
    smoe_real *scratch;  /* smoe_task_scratch() elements, the lane's */
    smoe_real *gradient; /* the expert's sum */

    /* NORM, STAGE */
    size_t n_params;
    size_t n_norm; /* elements at the front that the norm is of: what a shard owns */
    const smoe_real *
        sums; /* [n_sums, n_params] NORM of a shard: its gradient becomes their sum, in this order */
    uint32_t n_sums;
    double divisor;
    struct smoe_optimizer optimizer;
    struct smoe_expert_vectors now, staged;
    double square_norm; /* result of NORM; -1 if not finite or beyond SMOE_SQUARE_NORM_MAX */

    /* MAKE: the elements of the seed's vector, all of which come by, to now.weights; of a shard those that it has */
    struct smoe_ffn_seed seed;
    size_t n_seed;
    const struct smoe_shard_range *ranges; /* [n_ranges], or NULL: it has all */
    size_t n_ranges;
    bool rounded; /* through bf16 */

    /* Progress, read by the agent while a lane works */
    _Atomic uint32_t rows_done;
    size_t elements_done;
    _Atomic uint64_t cpu_ns; /* CPU time so far, set by the lane */
};

/* Elements of scratch that any task on an expert of this shape needs. */
size_t smoe_task_scratch(const struct smoe_ffn_shape *shape);

/* Runs the next slice. True when the task is done. */
bool smoe_task_slice(struct smoe_task *task);

/* Flops of one visit: a multiply-add is 2; the backward pass does twice the forward's. */
uint64_t smoe_task_forward_flops(const struct smoe_ffn_shape *shape);

#endif
