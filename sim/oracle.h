/* SPDX-License-Identifier: Apache-2.0
 *
 * What a layer's experts must have become: what a trainer committed, computed again in process from the
 * recorded routes, visit by visit in one order: by the plain reference kernels or, in a world that
 * computes exactly, by the exact experts.
 *
 * Order of use for a step: for each of its batches smoe_oracle_add, then smoe_oracle_square_norm if it
 * is wanted, then smoe_oracle_step.
 */
#ifndef SMOE_SIM_ORACLE_H
#define SMOE_SIM_ORACLE_H

#include "common/kernels/bf16.h"
#include "common/kernels/ffn.h"
#include "common/kernels/optimizer.h"
#include "proto/wire.h"
#include "sim/compute.h"

/* Largest relative error (L2, per tensor) between a float world and its oracle, over a whole run; and where gradients
 * are rounded to bf16 on their way: a few times the rounding of one number, for they add up over the hosts of an
 * expert and over steps. */
#define SMOE_ORACLE_TOLERANCE      (sizeof(smoe_real) == 8 ? 1e-9 : 1e-4)
#define SMOE_ORACLE_TOLERANCE_BF16 (8 * SMOE_BF16_ERROR)

struct smoe_oracle {
    enum smoe_sim_arithmetic arithmetic;
    struct smoe_ffn_shape shape;
    uint32_t experts;
    unsigned moments; /* vectors of state beside an expert's weights */
    size_t n_params;  /* of one expert */
    enum smoe_wire_format wire;
    smoe_real *params, *grads, *moments_m,
        *moments_v;    /* [experts, n_params], owned, as all below */
    smoe_real *served; /* what slots have of params: these, rounded as the wire does */
    smoe_real *before; /* what they had before the last step */
    uint64_t steps;    /* made */
    smoe_real *y;      /* [visits_max, d] */
    smoe_real *dx;
    smoe_real *rows_x, *rows_dy,
        *rows_out; /* as these, of one expert: scratch of exact arithmetic */
};

/* A batch as it was: x [n, d], experts [n, K], y and dy [n, K, d], dx [n, d] summed over K. */
struct smoe_oracle_batch {
    uint32_t n, top_k;
    const smoe_real *x, *dy;
    const uint16_t *experts;
    bool ahead;    /* by the parameters of step `base`, which may be those before the last one; */
    uint64_t base; /* else by the present ones */
};

void smoe_oracle_init(struct smoe_oracle *oracle, enum smoe_sim_arithmetic arithmetic,
                      const struct smoe_layer_shape *shape, uint32_t top_k, uint32_t tokens_max);
void smoe_oracle_release(struct smoe_oracle *oracle);

/* 0 in a world that computes exactly. */
double smoe_oracle_tolerance(const struct smoe_oracle *oracle);

/* How far the results y are from those of the parameters that the batch belongs to. */
double smoe_oracle_forward_error(struct smoe_oracle *oracle, const struct smoe_oracle_batch *batch,
                                 const smoe_real *y);
/* Adds the batch's gradients; how far `dx` is from them (0 if it is NULL). */
double smoe_oracle_add(struct smoe_oracle *oracle, const struct smoe_oracle_batch *batch,
                       const smoe_real *dx);
/* Of the gradients, as the workers report them: divided by divisor^2 (EXACT: not). */
double smoe_oracle_square_norm(const struct smoe_oracle *oracle, double divisor);
void smoe_oracle_step(struct smoe_oracle *oracle, const struct smoe_optimizer *optimizer);

/* How far an expert's parameters are from the oracle's. */
double smoe_oracle_expert_error(const struct smoe_oracle *oracle, uint32_t expert,
                                const smoe_real *weights);
/* All parameters in one number. */
uint64_t smoe_oracle_digest(const struct smoe_oracle *oracle);

#endif
