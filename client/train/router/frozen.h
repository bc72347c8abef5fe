/* SPDX-License-Identifier: Apache-2.0
 *
 * From the distilled router to the frozen one of stage 2 (daemon/core/router_frozen.h): a real copy that no
 * optimizer ever sees. (In the paper's own code parameters that no longer get a gradient are moved on by
 * Adam's old momentum.)
 *
 * It holds what scores a token and nothing of how that was learned: for a table softmax(shat) of every
 * code [vocabulary, E], for a linear map Ehat D [E, values].
 */
#ifndef SMOE_TRAIN_ROUTER_FROZEN_H
#define SMOE_TRAIN_ROUTER_FROZEN_H

#include "client/train/router/distil.h"
#include "daemon/core/router_frozen.h"

/* The kind that reads such a feature. */
enum smoe_frozen_kind smoe_frozen_kind_of(enum smoe_feature feature);

/* 0, SMOE_ENOMEMORY, or SMOE_ENOTFINITE if the distilled router has diverged. */
int smoe_freeze_distilled(const struct smoe_distilled *distilled, struct smoe_frozen *ret_frozen);

/* Tokens as a frozen router reads them, and as they are sent to a gateway: copied from a trainer's. */
struct smoe_frozen_tokens {
    uint32_t *codes; /* owned; [rows_max] for a table, else NULL */
    float *features; /* owned; [rows_max, inputs] for a linear map, else NULL */
};

/* 0 or SMOE_ENOMEMORY. */
int smoe_frozen_tokens_init(struct smoe_frozen_tokens *to, const struct smoe_frozen *frozen,
                            size_t rows_max);
void smoe_frozen_tokens_release(struct smoe_frozen_tokens *tokens);
void smoe_frozen_tokens_fill(struct smoe_frozen_tokens *to, const struct smoe_frozen *frozen,
                             const struct smoe_tokens *from);

#endif
