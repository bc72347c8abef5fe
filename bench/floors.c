/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/floors.h"

#include <stddef.h>
#include <string.h>

#define LEAST false
#define MOST  true

static const struct smoe_floor floors[] = {
    {"latency.n1.p50", MOST, 150},
};

const struct smoe_floor *smoe_floor_find(const char *key)
{
    for (size_t i = 0; i < sizeof floors / sizeof *floors; i++)
        if (strcmp(floors[i].key, key) == 0)
            return &floors[i];
    return NULL;
}
