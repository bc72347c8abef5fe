/* SPDX-License-Identifier: Apache-2.0
 *
 * A hash map from a 64-bit key to a 32-bit value, open addressing with linear probing. Its capacity
 * is fixed at init, so that it allocates nothing afterwards and a put can fail only when full.
 * Keys are mixed with a per-map salt: a peer that chooses its ids cannot choose the collisions.
 */
#ifndef SMOE_BASE_MAP_H
#define SMOE_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smoe_map_slot {
    uint64_t key;
    uint32_t value;
    bool used;
};

struct smoe_map {
    struct smoe_map_slot *slots; /* owned; `mask + 1` of them, a power of two, at most half full */
    size_t mask;
    size_t used;
    size_t capacity; /* entries that are promised to fit */
    uint64_t salt;
};

/* Room for `capacity` entries. 0 or SMOE_ENOMEMORY. */
int smoe_map_init(struct smoe_map *map, size_t capacity, uint64_t salt);
void smoe_map_release(struct smoe_map *map);

/* False when the map is full; an existing key gets the new value. */
bool smoe_map_put(struct smoe_map *map, uint64_t key, uint32_t value);
bool smoe_map_get(const struct smoe_map *map, uint64_t key, uint32_t *ret_value);
/* False when the key was not there. */
bool smoe_map_remove(struct smoe_map *map, uint64_t key);

#endif
