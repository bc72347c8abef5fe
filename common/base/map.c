/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/map.h"

#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/rng.h"

int smoe_map_init(struct smoe_map *map, size_t capacity, uint64_t salt)
{
    *map = (struct smoe_map){0};
    size_t n = 8;
    while (n < capacity * 2)
        n *= 2;
    map->slots = calloc(n, sizeof *map->slots);
    if (!map->slots)
        return SMOE_ENOMEMORY;
    map->mask = n - 1;
    map->capacity = capacity;
    map->salt = salt;
    return 0;
}

void smoe_map_release(struct smoe_map *map)
{
    free(map->slots);
    *map = (struct smoe_map){0};
}

static size_t home_of(const struct smoe_map *map, uint64_t key)
{
    return (size_t)smoe_mix64(key ^ map->salt) & map->mask;
}

/* The slot that holds the key, or the free one where it would go. */
static size_t find(const struct smoe_map *map, uint64_t key)
{
    size_t i = home_of(map, key);
    while (map->slots[i].used && map->slots[i].key != key)
        i = (i + 1) & map->mask;
    return i;
}

bool smoe_map_put(struct smoe_map *map, uint64_t key, uint32_t value)
{
    struct smoe_map_slot *slot = &map->slots[find(map, key)];
    if (!slot->used) {
        if (map->used == map->capacity)
            return false;
        map->used++;
    }
    *slot = (struct smoe_map_slot){.key = key, .value = value, .used = true};
    return true;
}

bool smoe_map_get(const struct smoe_map *map, uint64_t key, uint32_t *ret_value)
{
    const struct smoe_map_slot *slot = &map->slots[find(map, key)];
    if (!slot->used)
        return false;
    *ret_value = slot->value;
    return true;
}

bool smoe_map_remove(struct smoe_map *map, uint64_t key)
{
    size_t hole = find(map, key);
    if (!map->slots[hole].used)
        return false;
    /* Close the gap: move back each follower whose home does not lie after the hole. */
    for (size_t i = (hole + 1) & map->mask; map->slots[i].used; i = (i + 1) & map->mask) {
        size_t home = home_of(map, map->slots[i].key);
        if (((i - home) & map->mask) >= ((i - hole) & map->mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole].used = false;
    map->used--;
    return true;
}
