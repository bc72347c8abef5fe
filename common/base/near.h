/* SPDX-License-Identifier: Apache-2.0
 *
 * What will be touched soon, brought into the caches while something else is done. A hint: it changes
 * nothing, also where the memory is not there.
 */
#ifndef SMOE_BASE_NEAR_H
#define SMOE_BASE_NEAR_H

#include <stddef.h>
#include <stdint.h>

static inline void smoe_bring_near(const void *memory, size_t bytes)
{
    const char *end = (const char *)memory + bytes;
    for (const char *line = memory; line < end; line += 64)
        __builtin_prefetch(line, 1);
}

#endif
