/* SPDX-License-Identifier: Apache-2.0
 *
 * An MoE layer in this process: E experts with their gradients and moments, driven with the same routes
 * and the same kernels as the workers. It is what the distributed layer is compared with, so the
 * order of everything is part of the contract: an expert's visits are one batch, in the order of their
 * tokens; its gradient is the sum smoe_ffn_backward makes over that batch, added to what is there; experts
 * step one by one, also those nobody visited.
 */
#ifndef SMOE_TRAIN_MODEL_LOCAL_MOE_H
#define SMOE_TRAIN_MODEL_LOCAL_MOE_H

#include "common/kernels/ffn.h"
#include "common/kernels/optimizer.h"

/* One batch at a time is under way: backward belongs to the last forward that kept its rows. */
struct smoe_local_moe {
    struct smoe_ffn_shape shape;
    uint32_t experts, top_k;
    size_t n_params; /* of one expert */
    size_t visits_max;
    smoe_real *params;                        /* owned, as all below; [E, n_params] */
    smoe_real *grads, *moments_m, *moments_v; /* [E, n_params] */
    size_t *first;    /* [E+1] expert e has the gathered rows first[e]..first[e+1] */
    size_t *next;     /* [E] where the next row of each expert goes, while gathering */
    size_t *visit;    /* [visits] the visit (token * K + k) of each gathered row */
    smoe_real *x;     /* [visits, d] gathered, as all below */
    smoe_real *y;     /* [visits, d]: y, then dy */
    smoe_real *dx;    /* [visits, d] */
    smoe_real *saved; /* [visits, saved_per_row] */
    smoe_real *scratch;
};

/* Experts 0..E-1 as smoe_ffn_init(shape, seed, index, zero_out) makes them; batches of at most rows_max
 * tokens. 0 or SMOE_ENOMEMORY. */
int smoe_local_moe_init(struct smoe_local_moe *moe, const struct smoe_ffn_shape *shape,
                        uint32_t experts, uint32_t top_k, size_t rows_max, uint64_t seed,
                        bool zero_out);
void smoe_local_moe_release(struct smoe_local_moe *moe);

/* ret_y[n,K,d] from x[n,d] and experts[n,K], distinct within a row. */
void smoe_local_moe_forward(struct smoe_local_moe *moe, size_t n, const smoe_real *x,
                            const uint16_t *experts, smoe_real *ret_y);

/* For the batch of the last forward: dy[n,K,d] to ret_dx[n,K,d]; gradients are added to. */
void smoe_local_moe_backward(struct smoe_local_moe *moe, const smoe_real *dy, smoe_real *ret_dx);

/* Sum of squares of all gradients, for clipping. */
double smoe_local_moe_square_norm(const struct smoe_local_moe *moe);

/* Every expert steps; gradients are zeroed. */
void smoe_local_moe_step(struct smoe_local_moe *moe, const struct smoe_optimizer *optimizer);

#endif
