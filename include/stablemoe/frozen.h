/* SPDX-License-Identifier: Apache-2.0
 *
 * What names a frozen router (StableMoE, stage 2; docs/training.md): who scores a layer's tokens once the
 * router that was distilled in stage 1 has been frozen. Scores are a function of the token alone and of
 * `values`, float32, which never change again:
 *
 *     TABLE    values [inputs, E]: row c is the scores of code c, a token's place in a vocabulary
 *     LINEAR   values [E, inputs]: the scores are softmax(values x) of a token's features x [inputs]
 *
 * The digest is XXH3 (64 bits) of the values' bytes, little-endian, with the seed
 * kind * 2^56 + inputs * 2^24 + E: the same values in another shape are another router.
 */
#ifndef STABLEMOE_FROZEN_H
#define STABLEMOE_FROZEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SMOE_FROZEN_INPUTS_MAX (UINT32_C(1) << 20) /* codes of a table, features of a token */
#define SMOE_FROZEN_VALUES_MAX (UINT32_C(1) << 24) /* inputs * E: 64 MiB */
#define SMOE_FROZEN_WORK_MAX \
    (UINT64_C(1) << 28) /* n * inputs * E of one Submit that a linear map scores */

enum smoe_frozen_kind {
    SMOE_FROZEN_TABLE = 1,
    SMOE_FROZEN_LINEAR = 2,
};

struct smoe_frozen_head {
    uint64_t version; /* the trainer's number of it, rising; 0: no router is frozen */
    uint32_t kind;    /* enum smoe_frozen_kind */
    uint32_t inputs;  /* 1..SMOE_FROZEN_INPUTS_MAX */
    uint64_t digest;
};

/* Bytes of n tokens as that router reads them, in front of a Submit's x: codes or features, padded to 8. */
static inline size_t smoe_frozen_bytes(const struct smoe_frozen_head *head, size_t n)
{
    size_t each = head->kind == SMOE_FROZEN_TABLE ? sizeof(uint32_t) : head->inputs * sizeof(float);
    return (n * each + 7) / 8 * 8;
}

/* What a Submit costs in credit beside its raw part if a frozen router scores its n tokens: it becomes scores. */
static inline uint64_t smoe_frozen_credit_bytes(size_t n, uint32_t experts)
{
    return (uint64_t)n * experts * sizeof(float);
}

/* May so many tokens be scored at a time? */
static inline bool smoe_frozen_bearable(const struct smoe_frozen_head *head, uint32_t experts,
                                        size_t n)
{
    return head->kind == SMOE_FROZEN_TABLE ||
           n <= SMOE_FROZEN_WORK_MAX / ((uint64_t)head->inputs * experts);
}

#endif
