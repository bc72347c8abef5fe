/* SPDX-License-Identifier: Apache-2.0
 *
 * A blob begins at the first multiple of 64 in a block of malloc: aligned_alloc looks for such a place every
 * time and takes three times as long for the small ones that most messages bring.
 */
#include "proto/blob.h"

#include <stdlib.h>

#include "common/base/assert.h"

#define ALIGNMENT _Alignof(struct smoe_blob)

bool smoe_budget_take(struct smoe_budget *budget, size_t bytes)
{
    if (bytes > budget->max_bytes - budget->used_bytes)
        return false;
    budget->used_bytes += bytes;
    if (budget->used_bytes > budget->peak_bytes)
        budget->peak_bytes = budget->used_bytes;
    return true;
}

void smoe_budget_give(struct smoe_budget *budget, size_t bytes)
{
    smoe_assert(bytes <= budget->used_bytes);
    budget->used_bytes -= bytes;
}

struct smoe_blob *smoe_blob_new(struct smoe_budget *budget, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    if (budget && !smoe_budget_take(budget, bytes))
        return NULL;
    char *block = malloc(sizeof(struct smoe_blob) + bytes + ALIGNMENT - 1);
    if (!block) {
        if (budget)
            smoe_budget_give(budget, bytes);
        return NULL;
    }
    size_t over = (uintptr_t)block % ALIGNMENT;
    void *start = block + (over ? ALIGNMENT - over : 0);
    struct smoe_blob *blob = start;
    blob->block = block;
    blob->budget = budget;
    blob->bytes = bytes;
    blob->refs = 1;
    return blob;
}

struct smoe_blob *smoe_blob_ref(struct smoe_blob *blob)
{
    smoe_assert(blob->refs > 0 && blob->refs < UINT32_MAX);
    blob->refs++;
    return blob;
}

void smoe_blob_unref(struct smoe_blob *blob)
{
    if (!blob)
        return;
    smoe_assert(blob->refs > 0);
    if (--blob->refs)
        return;
    if (blob->budget)
        smoe_budget_give(blob->budget, blob->bytes);
    free(blob->block);
}
