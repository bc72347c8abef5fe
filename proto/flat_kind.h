/* SPDX-License-Identifier: Apache-2.0
 *
 * What kinds of fields flat messages have: between flat.c, which describes them, flat_read.c and flat_write.c.
 */
#ifndef SMOE_PROTO_FLAT_KIND_H
#define SMOE_PROTO_FLAT_KIND_H

#include <stdbool.h>

/* What is made twice, once for whole messages and once for their parts. */
#define SMOE_FLAT_INLINE static inline __attribute__((always_inline))

/* In this order: numbers, truth, what is fixed (narrow, wide), text. */
enum smoe_flat_kind {
    SMOE_FLAT_NOT,
    SMOE_FLAT_NUMBER_32,
    SMOE_FLAT_SIGNED_32,
    SMOE_FLAT_NUMBER_64,
    SMOE_FLAT_TRUTH,
    SMOE_FLAT_FIXED_32,
    SMOE_FLAT_REAL_32,
    SMOE_FLAT_FIXED_64,
    SMOE_FLAT_REAL_64,
    SMOE_FLAT_TEXT,
    SMOE_FLAT_LIST, /* of SMOE_FLAT_NUMBER_32, packed */
    SMOE_FLAT_PART  /* the message's one submessage */
};

static inline bool smoe_flat_is_wide(enum smoe_flat_kind kind)
{
    return kind >= SMOE_FLAT_FIXED_64;
}

#endif
