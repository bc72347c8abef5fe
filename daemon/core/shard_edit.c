/* SPDX-License-Identifier: Apache-2.0
 *
 * Single changes of a map in force: a holder is gone, or one more has what it lacked. Pieces are split where they
 * must be and joined where they may, so that a map has as many as it has different pairs of holders side by side.
 */
#include <string.h>

#include "daemon/core/shard.h"

static bool alike(const struct smoe_shard_piece *a, const struct smoe_shard_piece *b)
{
    return a->owner == b->owner && a->follower == b->follower;
}

void smoe_shard_join(struct smoe_shard_map *map)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < map->n_pieces; i++)
        if (n && alike(&map->pieces[n - 1], &map->pieces[i]))
            map->pieces[n - 1].length += map->pieces[i].length;
        else
            map->pieces[n++] = map->pieces[i];
    map->n_pieces = n;
}

uint64_t smoe_shard_leave(struct smoe_shard_map *map, uint32_t worker)
{
    uint64_t alone = 0;
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        struct smoe_shard_piece *p = &map->pieces[i];
        if (p->owner == worker && p->follower == SMOE_SHARD_NONE) {
            alone += p->length;
        } else if (p->owner == worker || p->follower == worker) {
            p->owner = p->owner == worker ? p->follower : p->owner;
            p->follower = SMOE_SHARD_NONE;
        }
    }
    smoe_shard_join(map);
    return alone;
}

/* A piece begins at the element, unless it is the end. False: there is no room for one more. */
static bool split(struct smoe_shard_map *map, uint64_t at)
{
    uint32_t i = 0;
    while (i < map->n_pieces && map->pieces[i].offset + map->pieces[i].length <= at)
        i++;
    if (i == map->n_pieces || map->pieces[i].offset == at)
        return true;
    if (map->n_pieces == map->pieces_max)
        return false;
    struct smoe_shard_piece *p = &map->pieces[i];
    memmove(p + 1, p, (map->n_pieces - i) * sizeof *p);
    map->n_pieces++;
    p[1].length -= at - p->offset;
    p[1].offset = at;
    p->length = at - p->offset;
    return true;
}

static bool is_bound(const struct smoe_shard_map *map, uint64_t at)
{
    uint64_t grain = at < map->elements ? at * map->grains / map->elements : map->grains;
    return map->elements * grain / map->grains == at ||
           map->elements * (grain + 1) / map->grains == at;
}

void smoe_shard_cut_at(struct smoe_shard_map *map, uint64_t offset, uint64_t length)
{
    if (offset > map->elements || length > map->elements - offset)
        return;
    if (is_bound(map, offset))
        (void)split(map, offset);
    if (is_bound(map, offset + length))
        (void)split(map, offset + length);
}

bool smoe_shard_give(struct smoe_shard_map *map, uint64_t offset, uint64_t length, uint32_t from,
                     uint32_t to)
{
    smoe_shard_join(map);
    if (!split(map, offset) || !split(map, offset + length)) {
        smoe_shard_join(map);
        return false;
    }
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        struct smoe_shard_piece *p = &map->pieces[i];
        if (p->offset < offset || p->offset >= offset + length || p->owner == to ||
            p->follower == to)
            continue;
        if (p->follower == SMOE_SHARD_NONE || p->follower == from)
            p->follower = to;
        else if (p->owner == from)
            p->owner = to;
    }
    smoe_shard_join(map);
    return true;
}

bool smoe_shard_holds(const struct smoe_shard_map *map, uint32_t worker)
{
    for (uint32_t i = 0; i < map->n_pieces; i++)
        if (map->pieces[i].owner == worker || map->pieces[i].follower == worker)
            return true;
    return false;
}

bool smoe_shard_same(const struct smoe_shard_map *a, const struct smoe_shard_map *b)
{
    for (uint32_t i = 0; i < a->n_pieces && a->n_pieces == b->n_pieces; i++)
        if (a->pieces[i].offset != b->pieces[i].offset || !alike(&a->pieces[i], &b->pieces[i]))
            return false;
    return a->n_pieces == b->n_pieces;
}

uint64_t smoe_shard_bound(const struct smoe_shard_map *map, uint64_t offset, uint64_t most)
{
    uint64_t grains = map->grains, grain = offset * grains / map->elements;
    while (map->elements * grain / grains <= offset)
        grain++;
    while (grain < grains && map->elements * (grain + 1) / grains <= offset + most)
        grain++;
    return map->elements * grain / grains;
}
