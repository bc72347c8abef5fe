/* SPDX-License-Identifier: Apache-2.0
 *
 * Where optimizer state lives: fp32 master weights and Adam's moments of every expert of a layer, cut into
 * pieces at places that do not depend on the placement (MODEL.md section 9; SYMI, section 3). A piece has an
 * owner and a follower on another worker, both of which take every step, so either of them can be lost. All
 * experts of a layer are cut alike: the map is of one expert's elements. Pure; no allocation but the scratch
 * block.
 */
#ifndef SMOE_CORE_SHARD_H
#define SMOE_CORE_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#define SMOE_SHARD_NONE UINT32_MAX

struct smoe_shard_piece {
    uint64_t offset, length; /* elements, length > 0; pieces lie one after another */
    uint32_t owner;          /* worker; SMOE_SHARD_NONE: nobody has it any more */
    uint32_t follower;       /* another worker; SMOE_SHARD_NONE while there is only one */
};

/* The caller's arrays. */
struct smoe_shard_map {
    uint64_t elements; /* of an expert */
    uint32_t grains;   /* pieces begin at multiples of elements / grains, so there never are more */
    struct smoe_shard_piece *pieces;
    uint32_t n_pieces, pieces_max;
};

/* Elements that a worker must be given before it counts as their holder. */
struct smoe_shard_move {
    uint64_t offset, length;
    uint32_t from; /* worker that has them: one that leaves, or the other holder of a lost copy */
    uint32_t to;
};

struct smoe_shard_moves {
    struct smoe_shard_move *moves;
    uint32_t n, max;
};

/* Grains of a map, unless it has fewer elements: shares are in proportion to memory within 1/64 of an equal one's. */
#define SMOE_SHARD_GRAINS(workers) ((workers) < 16 ? 1024 : 64 * (workers))
/* What one change may need at most. */
#define SMOE_SHARD_MOVES(grains) (2 * (grains))

struct smoe_shard_scratch;
/* For so many workers and maps of up to so many grains. 0 or SMOE_ENOMEMORY. */
int smoe_shard_scratch_new(uint32_t workers_max, uint32_t grains_max,
                           struct smoe_shard_scratch **ret);
void smoe_shard_scratch_free(struct smoe_shard_scratch *scratch);

/* Elements that each worker shall own and follow together, [N]: in proportion to the memory it offers (any unit; 0: it
 * takes no part), but at most `elements`, since nobody holds both copies of one. They sum to twice `elements` within
 * rounding by one a worker; to `elements` where one worker alone takes part; all 0 where none does. */
void smoe_shard_targets(uint64_t elements, uint32_t n_workers, const uint64_t *memory,
                        uint64_t *ret);

/* A new map in so many grains, or as many as there are elements. Every worker owns half of its target and follows the
 * other half. SMOE_ENOWORKERS if nobody offers memory, SMOE_ELIMIT if the map has no room; it is then untouched. */
int smoe_shard_cut(uint64_t elements, uint32_t grains, uint32_t n_workers, const uint64_t *memory,
                   struct smoe_shard_scratch *scratch, struct smoe_shard_map *map);

/* The fleet has changed. Workers with memory 0 leave; of these, `gone` [N] can be read no more. What they held is given
 * to others, what is beyond a target is given to workers below theirs (somebody who joins), and nothing else moves. The
 * map is then that of the moment when all moves are made; until then the old one holds. Workers keep their index.
 *
 * SMOE_ELOST: both copies of something are gone; `*ret_lost` is its offset. SMOE_ENOWORKERS: nobody is left.
 * SMOE_ELIMIT: there is no room for pieces or moves. The map is untouched by failure. */
int smoe_shard_change(uint32_t n_workers, const uint64_t *memory, const bool *gone,
                      struct smoe_shard_scratch *scratch, struct smoe_shard_map *map,
                      struct smoe_shard_moves *ret_moves, uint64_t *ret_lost);

/* ---- single changes of a map in force (shard_edit.c) ---- */

/* The worker's copies are gone, wherever somebody else has one; where it owned, the follower does now. Returns the
 * elements of which it has the only copy: they stay its own. */
uint64_t smoe_shard_leave(struct smoe_shard_map *map, uint32_t worker);

/* `to` has these elements now: as the missing follower, or in the place of `from` (SMOE_SHARD_NONE: of nobody). Between
 * bounds of grains there are never more pieces than grains. False if there is no room; no holder has changed then. */
bool smoe_shard_give(struct smoe_shard_map *map, uint64_t offset, uint64_t length, uint32_t from,
                     uint32_t to);

/* Pieces begin where the range does and where it ends, as far as these are bounds of grains; smoe_shard_join takes back
 * what was not needed. */
void smoe_shard_cut_at(struct smoe_shard_map *map, uint64_t offset, uint64_t length);
/* Neighbours with the same holders are one piece. */
void smoe_shard_join(struct smoe_shard_map *map);

/* Has the worker any piece? */
bool smoe_shard_holds(const struct smoe_shard_map *map, uint32_t worker);
/* Equal holders everywhere, in the same roles. */
bool smoe_shard_same(const struct smoe_shard_map *a, const struct smoe_shard_map *b);

/* The last bound of grains at most `most` elements after `offset`, or else the first one after it. */
uint64_t smoe_shard_bound(const struct smoe_shard_map *map, uint64_t offset, uint64_t most);

/* Elements that each worker owns and follows, [N] each. */
void smoe_shard_held(const struct smoe_shard_map *map, uint32_t n_workers, uint64_t *ret_owned,
                     uint64_t *ret_followed);

/* True if pieces cover the elements without gap or overlap and holders are distinct workers below n_workers. What
 * has no owner has no follower. */
bool smoe_shard_valid(const struct smoe_shard_map *map, uint32_t n_workers);

#endif
