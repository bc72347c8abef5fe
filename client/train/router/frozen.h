/* SPDX-License-Identifier: Apache-2.0
 *
 * The frozen router of stage 2: a real copy of the distilled one that no optimizer ever sees. (In the
 * paper's own code parameters that no longer get a gradient are moved on by Adam's old momentum.)
 *
 * It holds what scores a token and nothing of how that was learned: for a table softmax(shat) of every
 * code [vocabulary, E], for a linear map Ehat D [E, values]. Same token, same experts, bit for bit and on
 * every machine: a table is looked up; the products of a linear map are summed in index order, without
 * contraction, and its softmax is common/base/detmath's.
 */
#ifndef SMOE_TRAIN_ROUTER_FROZEN_H
#define SMOE_TRAIN_ROUTER_FROZEN_H

#include "client/train/router/distil.h"

struct smoe_frozen {
    enum smoe_feature feature;
    uint32_t inputs, experts;
    float *values; /* owned; [inputs, E] scores of a table, [E, inputs] weights of a linear map */
};

/* 0 or SMOE_ENOMEMORY. */
int smoe_frozen_init(struct smoe_frozen *frozen, const struct smoe_distilled *distilled);
/* One of the same shape as `distilled` would give, whose values, inputs * E of them, are all zero: to be
 * filled from a checkpoint. 0 or SMOE_ENOMEMORY. */
int smoe_frozen_blank(struct smoe_frozen *frozen, const struct smoe_distilled_shape *shape);
void smoe_frozen_release(struct smoe_frozen *frozen);

/* ret_scores [n, E], each row a softmax. */
void smoe_frozen_scores(const struct smoe_frozen *frozen, const struct smoe_tokens *tokens,
                        float *ret_scores);

/* The name of this router: of its kind, shape and every bit of its values. */
uint64_t smoe_frozen_digest(const struct smoe_frozen *frozen);

#endif
