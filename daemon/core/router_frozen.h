/* SPDX-License-Identifier: Apache-2.0
 *
 * A frozen router (StableMoE, stage 2; stablemoe/frozen.h says what it is and how it is named): from a
 * token's code or features to its scores. The daemon, the trainer and the simulator score with these
 * functions, so that the same token has the same scores wherever it is scored, bit for bit:
 *
 *     TABLE    rows are copied (router_table.h)
 *     LINEAR   p_e = sum_i w_ei x_i in double, i rising; softmax with common/base/detmath's exp
 *
 * Products of two floats are exact in a double, so a fused multiply-add rounds as the two operations do: no
 * compiler and no CPU can make a difference. Lanes are experts, whose sums are independent. Pure.
 */
#ifndef SMOE_CORE_ROUTER_FROZEN_H
#define SMOE_CORE_ROUTER_FROZEN_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/core/router_table.h"
#include "stablemoe/frozen.h"

/* Opaque to all but router_frozen.c; zeroed, it is none (experts 0). */
struct smoe_frozen {
    uint32_t kind; /* enum smoe_frozen_kind */
    uint32_t inputs, experts;
    uint64_t digest;
    float *values; /* [inputs * E] as they came; LINEAR: owned, TABLE: of the rows */
    struct smoe_router_table rows; /* TABLE; owned */
    float *tiles; /* LINEAR: owned; [ceil(E/8), inputs, 8] the values, lane = expert */
};

/* Whether a router may have this shape: SMOE_EFIELD if not. */
int smoe_frozen_shape(uint32_t kind, uint32_t inputs, uint32_t experts);

/* Bytes that one of this shape holds. */
size_t smoe_frozen_memory(uint32_t kind, uint32_t inputs, uint32_t experts);

uint64_t smoe_frozen_digest(uint32_t kind, uint32_t inputs, uint32_t experts, const float *values);

/* From values [inputs * experts], copied. 0, SMOE_EFIELD (the shape), SMOE_ENOTFINITE or SMOE_ENOMEMORY. */
int smoe_frozen_init(struct smoe_frozen *frozen, uint32_t kind, uint32_t inputs, uint32_t experts,
                     const float *values);
void smoe_frozen_release(struct smoe_frozen *frozen);

/* The first of n codes that a table does not have, or the first of n tokens [inputs] with a feature that is
 * not finite; n if all are good. Tokens come from outside: ask before scoring. */
size_t smoe_frozen_bad_code(const struct smoe_frozen *frozen, size_t n, const uint32_t *codes);
size_t smoe_frozen_bad_features(const struct smoe_frozen *frozen, size_t n, const float *features);

/* Scores of n tokens, ret [n, E]: by codes [n], all in the table, or by features [n, inputs], all finite. */
void smoe_frozen_score_codes(const struct smoe_frozen *frozen, size_t n, const uint32_t *codes,
                             float *ret);
void smoe_frozen_score_features(const struct smoe_frozen *frozen, size_t n, const float *features,
                                float *ret);

#endif
