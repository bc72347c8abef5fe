/* SPDX-License-Identifier: Apache-2.0
 *
 * Single changes of a map in force, popularity by the gate alone, and a planner that is used again.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/place_planner.h"
#include "daemon/core/place_popularity.h"
#include "daemon/core/shard.h"

enum { N = 6, GRAINS = 64, ELEMENTS = 1000 };

static struct smoe_shard_piece pieces[GRAINS];
static struct smoe_shard_scratch *scratch;
static struct smoe_shard_map map;

static void begin(void)
{
    static const uint64_t memory[N] = {1, 2, 1, 1, 3, 1};
    map = (struct smoe_shard_map){.pieces = pieces, .pieces_max = GRAINS};
    cr_assert_eq(smoe_shard_scratch_new(N, GRAINS, &scratch), 0);
    cr_assert_eq(smoe_shard_cut(ELEMENTS, GRAINS, N, memory, scratch, &map), 0);
}

static void end(void)
{
    smoe_shard_scratch_free(scratch);
}

static bool holds_at(uint64_t element, uint32_t worker)
{
    for (uint32_t i = 0; i < map.n_pieces; i++)
        if (element >= pieces[i].offset && element < pieces[i].offset + pieces[i].length)
            return pieces[i].owner == worker || pieces[i].follower == worker;
    return false;
}

Test(shard_edit, whoever_leaves_is_followed_by_the_other_holder, .init = begin, .fini = end)
{
    bool other[ELEMENTS][N];
    for (uint64_t i = 0; i < ELEMENTS; i++)
        for (uint32_t w = 0; w < N; w++)
            other[i][w] = w != 4 && holds_at(i, w);
    cr_assert_eq(smoe_shard_leave(&map, 4), 0);
    cr_assert(smoe_shard_valid(&map, N) && !smoe_shard_holds(&map, 4));
    for (uint64_t i = 0; i < ELEMENTS; i++)
        for (uint32_t w = 0; w < N; w++)
            cr_assert_eq(holds_at(i, w), other[i][w], "element %d, worker %u", (int)i, w);
}

Test(shard_edit, cut_at_a_range_the_same_workers_hold_the_same, .init = begin, .fini = end)
{
    struct smoe_shard_map before = map;
    bool held[ELEMENTS][N];
    for (uint64_t i = 0; i < ELEMENTS; i++)
        for (uint32_t w = 0; w < N; w++)
            held[i][w] = holds_at(i, w);
    for (uint64_t g = 1; g + 1 < GRAINS; g += 3) {
        uint64_t begins = ELEMENTS * g / GRAINS, ends = ELEMENTS * (g + 2) / GRAINS;
        smoe_shard_cut_at(&map, begins, ends - begins);
        smoe_shard_cut_at(&map, begins + 1, ends - begins - 2); /* no bounds of grains */
        smoe_shard_cut_at(&map, ELEMENTS - 1, 2);
        bool cut = false;
        for (uint32_t i = 0; i < map.n_pieces; i++) {
            cut |= pieces[i].offset == begins;
            cr_assert(pieces[i].offset != begins + 1 && pieces[i].offset != ends - 1);
        }
        cr_assert(cut && smoe_shard_valid(&map, N));
    }
    for (uint64_t i = 0; i < ELEMENTS; i++)
        for (uint32_t w = 0; w < N; w++)
            cr_assert_eq(holds_at(i, w), held[i][w]);
    smoe_shard_join(&map);
    cr_assert_eq(map.n_pieces, before.n_pieces);
}

Test(shard_edit, the_last_holder_stays_and_is_counted, .init = begin, .fini = end)
{
    uint64_t alone = 0;
    for (uint32_t w = 0; w < N; w++)
        alone = smoe_shard_leave(&map, w);
    cr_assert(smoe_shard_valid(&map, N));
    for (uint32_t i = 0; i < map.n_pieces; i++)
        cr_assert_eq(pieces[i].follower, SMOE_SHARD_NONE);
    cr_assert_gt(alone, 0);
    uint64_t owned[N], followed[N];
    smoe_shard_held(&map, N, owned, followed);
    cr_assert_eq(alone, owned[N - 1]);
}

/* Loss and repair by the moves of a change, range by range at bounds of grains, on random fleets: the map
 * holds at every moment, and ends as the change said. */
Test(shard_edit, ranges_given_one_by_one_end_where_the_change_wanted, .init = begin, .fini = end)
{
    static struct smoe_shard_piece target_pieces[GRAINS];
    static struct smoe_shard_move list[SMOE_SHARD_MOVES(GRAINS)];
    struct smoe_rng rng;
    smoe_rng_init(&rng, 7, 0);
    for (int round = 0; round < 200; round++) {
        uint64_t memory[N], lost;
        bool gone[N] = {false};
        uint32_t dies = (uint32_t)smoe_rng_below(&rng, N);
        for (uint32_t w = 0; w < N; w++)
            memory[w] = 1 + smoe_rng_below(&rng, 4);
        memory[dies] = 0;
        gone[dies] = smoe_rng_below(&rng, 2) == 0;
        if (gone[dies])
            cr_assert_eq(smoe_shard_leave(&map, dies), 0);
        for (int steps = 0;; steps++) {
            struct smoe_shard_map target = map;
            struct smoe_shard_moves moves = {list, 0, SMOE_SHARD_MOVES(GRAINS)};
            target.pieces = target_pieces;
            memcpy(target_pieces, pieces, sizeof pieces);
            cr_assert_lt(steps, 20 * GRAINS, "it does not end");
            cr_assert_eq(smoe_shard_change(N, memory, gone, scratch, &target, &moves, &lost), 0);
            if (!moves.n) {
                memcpy(pieces, target_pieces, sizeof pieces);
                map.n_pieces = target.n_pieces;
                break;
            }
            struct smoe_shard_move m = list[0];
            uint64_t to = smoe_shard_bound(&map, m.offset, 1 + smoe_rng_below(&rng, 60));
            uint64_t length = to - m.offset < m.length ? to - m.offset : m.length;
            cr_assert(holds_at(m.offset, m.from) && !holds_at(m.offset, m.to));
            cr_assert(smoe_shard_give(&map, m.offset, length, m.from, m.to));
            cr_assert(smoe_shard_valid(&map, N) && map.n_pieces <= GRAINS);
            cr_assert(holds_at(m.offset, m.to) && holds_at(m.offset + length - 1, m.to));
        }
        cr_assert(!smoe_shard_holds(&map, dies));
    }
}

Test(shard_edit, bounds_are_those_of_grains, .init = begin, .fini = end)
{
    for (uint64_t offset = 0; offset < ELEMENTS; offset += 7)
        for (uint64_t most = 0; most < 100; most += 3) {
            uint64_t to = smoe_shard_bound(&map, offset, most), grain = 0;
            while (ELEMENTS * grain / GRAINS < to)
                grain++;
            cr_assert_eq(ELEMENTS * grain / GRAINS, to);
            cr_assert_gt(to, offset);
            cr_assert(to <= offset + most || ELEMENTS * (grain - 1) / GRAINS <= offset);
            cr_assert(grain == GRAINS || ELEMENTS * (grain + 1) / GRAINS > offset + most);
        }
}

/* ---- popularity ---- */

Test(popularity, counts_the_gates_own_choice_with_ties_to_the_lowest)
{
    static const float row[] = {0.1f, 0.3f, 0.2f, 0.3f, 0.0f, 0.1f};
    uint64_t counts[6] = {0};
    smoe_place_count(row, 6, 3, counts);
    smoe_place_count(row, 6, 1, counts);
    smoe_place_count(row, 6, 6, counts);
    smoe_place_count(row, 6, 4, counts);
    static const uint64_t expected[] = {2, 4, 3, 3, 1, 1};
    cr_assert_arr_eq(counts, expected, sizeof expected);
}

Test(popularity, agrees_with_sorting)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 3, 0);
    for (int round = 0; round < 500; round++) {
        float row[40];
        uint32_t n = 1 + (uint32_t)smoe_rng_below(&rng, 40);
        uint32_t k = 1 + (uint32_t)smoe_rng_below(&rng, n < 8 ? n : 8);
        uint64_t counts[40] = {0};
        for (uint32_t e = 0; e < n; e++)
            row[e] = (float)smoe_rng_below(&rng, 12);
        smoe_place_count(row, n, k, counts);
        for (uint32_t e = 0; e < n; e++) {
            uint32_t better = 0;
            for (uint32_t f = 0; f < n; f++)
                better += row[f] > row[e] || (row[f] == row[e] && f < e);
            cr_assert_eq(counts[e], better < k);
        }
    }
}

Test(popularity, a_planner_that_begins_again_knows_nothing)
{
    static const struct smoe_place_rule rule = {.kind = SMOE_PLACE_SYMI};
    static const uint64_t seen[] = {9, 1, 0, 0};
    struct smoe_place_planner *p;
    double demand[4];
    cr_assert_eq(smoe_place_planner_new(&rule, 8, &p), 0);
    smoe_place_planner_reset(p, &rule, 4);
    smoe_place_planner_see(p, seen);
    smoe_place_planner_demand(p, demand);
    cr_assert_float_eq(demand[0], 0.9, 1e-12);
    smoe_place_planner_reset(p, &rule, 3);
    smoe_place_planner_demand(p, demand);
    cr_assert_float_eq(demand[0], 1.0 / 3, 1e-12);
    cr_assert_eq(smoe_place_planner_trust(p), 0);
    smoe_place_planner_free(p);
}
