/* SPDX-License-Identifier: Apache-2.0
 *
 * A bump allocator over one block of fixed size: what a message may cost, at most. When the block is
 * full an allocation fails, and with it the message; the process never grows because of what a
 * peer claims.
 */
#ifndef SMOE_PROTO_ARENA_H
#define SMOE_PROTO_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct smoe_arena {
    uint8_t *block; /* owned */
    size_t cap;
    size_t used;
};

int smoe_arena_init(struct smoe_arena *arena, size_t cap);
void smoe_arena_release(struct smoe_arena *arena);

/* Forgets everything allocated. */
void smoe_arena_reset(struct smoe_arena *arena);

/* `size` bytes aligned to 16, uninitialised, or NULL when they do not fit. */
void *smoe_arena_alloc(struct smoe_arena *arena, size_t size);

#endif
