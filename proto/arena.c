/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/arena.h"

#include <stdlib.h>

#include "common/base/err.h"

#define ALIGNMENT 16

int smoe_arena_init(struct smoe_arena *arena, size_t cap)
{
    *arena = (struct smoe_arena){0};
    arena->block = malloc(cap);
    if (!arena->block)
        return SMOE_ENOMEMORY;
    arena->cap = cap;
    return 0;
}

void smoe_arena_release(struct smoe_arena *arena)
{
    free(arena->block);
    *arena = (struct smoe_arena){0};
}

void smoe_arena_reset(struct smoe_arena *arena)
{
    arena->used = 0;
}

void *smoe_arena_alloc(struct smoe_arena *arena, size_t size)
{
    size_t start = (arena->used + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (start > arena->cap || size > arena->cap - start)
        return NULL;
    arena->used = start + size;
    return arena->block + start;
}
