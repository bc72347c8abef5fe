/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/cutter.h"

#include <stdlib.h>
#include <string.h>

#define LINE 64

static size_t lines(size_t bytes)
{
    return (bytes + LINE - 1) / LINE * LINE;
}

void *smoe_cut(struct smoe_cutter *cutter, size_t count, size_t size)
{
    void *piece = cutter->base ? cutter->base + cutter->used : NULL;
    cutter->used += lines(count * size);
    return piece;
}

void *smoe_cut_block(void *head, size_t head_bytes,
                     void (*lay_out)(void *head, struct smoe_cutter *cutter))
{
    struct smoe_cutter measure = {.used = lines(head_bytes)};
    lay_out(head, &measure);
    struct smoe_cutter pieces = {aligned_alloc(LINE, measure.used), lines(head_bytes)};
    if (!pieces.base)
        return NULL;
    lay_out(head, &pieces);
    return memcpy(pieces.base, head, head_bytes);
}
