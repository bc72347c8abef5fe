/* SPDX-License-Identifier: Apache-2.0
 *
 * What runs a worker's task, slice by slice. FLOAT is the worker's own kernels. EXACT puts arithmetic
 * modulo a prime in their place, on the same vectors: sums are then the same in whatever order and
 * grouping they were made, so after any history of losses and replays the parameters are equal to
 * the undisturbed run's bit by bit, on every machine, exactly if every visit was counted exactly once.
 *
 * An EXACT expert with parameters w[n] is this, all mod SMOE_SIM_PRIME (reals hold such numbers exactly):
 *
 *     y_i   = sum_j w[(i d + j) mod n] x_j  +  sum over m with m mod d = i of w[m]
 *     dx_j  = sum_i w[(i d + j) mod n] dy_i
 *     dw    = the derivative of sum_i dy_i y_i
 *     step:   g' = g mod p;  m' = 3 m + g',  v' = 5 v + g' g',  w' = w - 7 g' - m' - v'
 *
 * Initial parameters, which the agent draws as reals, stand for a hash of their bits until the first step.
 */
#ifndef SMOE_SIM_COMPUTE_H
#define SMOE_SIM_COMPUTE_H

#include "client/worker/agent/task.h"

#define SMOE_SIM_PRIME 4093u

enum smoe_sim_arithmetic { SMOE_SIM_FLOAT, SMOE_SIM_EXACT };

/* Runs the next slice. True when the task is done. */
bool smoe_sim_slice(enum smoe_sim_arithmetic arithmetic, struct smoe_task *task);

/* Work of the next slice: what its virtual duration is made of. [flop] */
uint64_t smoe_sim_slice_flops(const struct smoe_task *task);

/* A real as a number below the prime. */
uint32_t smoe_sim_residue(smoe_real value);

/* The exact expert on n rows; `w` and `gradient` [n_params]. */
void smoe_sim_exact_forward(size_t d, size_t n_params, const smoe_real *w, size_t n,
                            const smoe_real *x, smoe_real *ret_y);
void smoe_sim_exact_backward(size_t d, size_t n_params, const smoe_real *w, size_t n,
                             const smoe_real *x, const smoe_real *dy, smoe_real *gradient,
                             smoe_real *ret_dx);
/* The moments may be NULL. */
void smoe_sim_exact_step(size_t n_params, const struct smoe_expert_vectors *now,
                         const smoe_real *gradient, const struct smoe_expert_vectors *next);

#endif
