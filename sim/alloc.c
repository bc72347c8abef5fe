/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulator's own memory, which is there or the program ends. It has a file of its own so that the linker can
 * tell it from the memory of the machines, which a test makes fail (tests/sim/test_memory.c).
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "sim/events.h"

void *smoe_sim_alloc(size_t count, size_t bytes)
{
    void *p = calloc(count ? count : 1, bytes ? bytes : 1);
    smoe_assert(p != NULL);
    return p;
}

void *smoe_sim_room(size_t bytes)
{
    void *p = malloc(bytes);
    smoe_assert(p != NULL);
    return p;
}

void *smoe_sim_grow(void *array, size_t old_count, size_t new_count, size_t bytes)
{
    smoe_assert(new_count <= SIZE_MAX / bytes);
    char *p = realloc(array, new_count * bytes);
    smoe_assert(p != NULL);
    memset(p + old_count * bytes, 0, (new_count - old_count) * bytes);
    return p;
}
