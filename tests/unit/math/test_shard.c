/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/shard.h"
#include "stablemoe/error.h"

#define N_MAX      40
#define PIECES_MAX SMOE_SHARD_GRAINS(N_MAX)
#define MOVES_MAX  SMOE_SHARD_MOVES(PIECES_MAX)

struct fixture {
    struct smoe_shard_piece pieces[PIECES_MAX];
    struct smoe_shard_map map;
    struct smoe_shard_move list[MOVES_MAX];
    struct smoe_shard_moves moves;
    uint64_t memory[N_MAX], owned[N_MAX], followed[N_MAX], target[N_MAX];
    bool gone[N_MAX];
    uint32_t n;
};

static struct fixture f;
static struct smoe_shard_scratch *scratch;

static void setup(void)
{
    cr_assert_eq(smoe_shard_scratch_new(N_MAX, PIECES_MAX, &scratch), 0);
    memset(&f, 0, sizeof f);
    f.map = (struct smoe_shard_map){.pieces = f.pieces, .pieces_max = PIECES_MAX};
    f.moves = (struct smoe_shard_moves){.moves = f.list, .max = MOVES_MAX};
}

static void teardown(void)
{
    smoe_shard_scratch_free(scratch);
}

TestSuite(shard, .init = setup, .fini = teardown);

static void cut(uint64_t elements)
{
    cr_assert_eq(smoe_shard_cut(elements, PIECES_MAX, f.n, f.memory, scratch, &f.map), 0);
    cr_assert(smoe_shard_valid(&f.map, f.n));
}

static int change(void)
{
    uint64_t lost;
    return smoe_shard_change(f.n, f.memory, f.gone, scratch, &f.map, &f.moves, &lost);
}

static uint64_t moved(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < f.moves.n; i++)
        sum += f.list[i].length;
    return sum;
}

static uint32_t count_live(void)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < f.n; j++)
        n += f.memory[j] > 0;
    return n;
}

static uint64_t apart(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* Everybody holds a target's worth, half of it as owner, and all pieces have two holders. */
static void check_balance(uint64_t slack)
{
    uint32_t live = count_live();
    cr_assert(smoe_shard_valid(&f.map, f.n));
    smoe_shard_held(&f.map, f.n, f.owned, f.followed);
    smoe_shard_targets(f.map.elements, f.n, f.memory, f.target);
    for (uint32_t j = 0; j < f.n; j++) {
        cr_assert_leq(apart(f.owned[j] + f.followed[j], f.target[j]), slack > 1 ? slack : 0,
                      "worker %u", j);
        cr_assert(live == 1 || apart(f.owned[j], f.followed[j]) <=
                                   f.map.n_pieces * (1 + f.map.elements / f.map.grains),
                  "worker %u owns %llu, follows %llu", j, (unsigned long long)f.owned[j],
                  (unsigned long long)f.followed[j]);
    }
    for (uint32_t i = 0; i < f.map.n_pieces; i++)
        cr_assert_eq(f.pieces[i].follower == SMOE_SHARD_NONE, live == 1);
}

static void draw_memory(struct smoe_rng *rng, uint32_t n)
{
    f.n = n;
    for (uint32_t j = 0; j < n; j++)
        f.memory[j] = UINT64_C(1) << 20 << smoe_rng_below(rng, 5) | smoe_rng_below(rng, 1 << 19);
}

/* ---- a first cut ---- */

Test(shard, shares_are_in_proportion_to_memory)
{
    f.n = 4;
    for (uint32_t j = 0; j < 4; j++)
        f.memory[j] = (j + 1) * UINT64_C(1000000000);
    cut(1000000);
    smoe_shard_held(&f.map, 4, f.owned, f.followed);
    for (uint32_t j = 0; j < 4; j++) {
        cr_assert_eq((f.owned[j] + 500) / 1000, (j + 1) * 100);
        cr_assert_eq((f.followed[j] + 500) / 1000, (j + 1) * 100);
    }
}

Test(shard, every_cut_is_balanced_and_has_two_holders)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, 0);
    for (int round = 0; round < 1000; round++) {
        draw_memory(&rng, 1 + (uint32_t)smoe_rng_below(&rng, N_MAX));
        cut(1 + smoe_rng_below(&rng, round % 2 ? 100 : 10000000));
        check_balance(1 + 4 * (f.map.elements / f.map.grains));
    }
}

Test(shard, who_has_more_than_half_of_the_memory_holds_one_copy_of_all)
{
    f.n = 3;
    f.memory[0] = 1000;
    f.memory[1] = f.memory[2] = 100;
    cut(1001);
    check_balance(1);
    cr_assert_eq(f.target[0], 1001);
}

Test(shard, one_worker_holds_the_only_copy)
{
    f.n = 3;
    f.memory[1] = 5;
    cut(77);
    cr_assert_eq(f.map.n_pieces, 1);
    cr_assert(f.pieces[0].owner == 1 && f.pieces[0].follower == SMOE_SHARD_NONE);
    f.memory[2] = 5; /* a second one comes: it copies everything */
    cr_assert_eq(change(), 0);
    cr_assert_eq(moved(), 77);
    check_balance(1);
}

Test(shard, nobody_with_memory_is_refused)
{
    f.n = 3;
    cr_assert_eq(smoe_shard_cut(10, 10, 3, f.memory, scratch, &f.map), SMOE_ENOWORKERS);
}

Test(shard, a_map_without_room_is_untouched)
{
    f.n = 5;
    for (uint32_t j = 0; j < 5; j++)
        f.memory[j] = 1;
    f.map.pieces_max = 3;
    f.map.elements = 123;
    cr_assert_eq(smoe_shard_cut(1000, 1000, 5, f.memory, scratch, &f.map), SMOE_ELIMIT);
    cr_assert(f.map.elements == 123 && f.map.n_pieces == 0);
}

/* ---- changes ---- */

/* Who held an element before: from where a copy may come. */
static bool held(const struct smoe_shard_piece *pieces, uint32_t n, uint64_t element,
                 uint32_t worker)
{
    uint32_t i = 0;
    while (i < n && pieces[i].offset + pieces[i].length <= element)
        i++;
    return i < n && (pieces[i].owner == worker || pieces[i].follower == worker);
}

/* Whoever holds an element now held it before or was sent it, once, by somebody who had it and is there. */
static void check_moves(const struct smoe_shard_piece *before, uint32_t n_before, uint64_t step)
{
    for (uint64_t x = 0; x < f.map.elements; x += step)
        for (uint32_t j = 0; j < f.n; j++) {
            unsigned sent = 0;
            for (uint32_t i = 0; i < f.moves.n; i++) {
                const struct smoe_shard_move *m = &f.list[i];
                if (m->to != j || x < m->offset || x >= m->offset + m->length)
                    continue;
                sent++;
                cr_assert(!f.gone[m->from] && held(before, n_before, x, m->from));
            }
            bool was = held(before, n_before, x, j);
            cr_assert(sent <= 1 && !(sent && was));
            if (held(f.pieces, f.map.n_pieces, x, j))
                cr_assert(was || sent);
        }
}

/* Elements that are on both these workers. */
static uint64_t shared_by(uint32_t a, uint32_t b)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < f.map.n_pieces; i++)
        if ((f.pieces[i].owner == a && f.pieces[i].follower == b) ||
            (f.pieces[i].owner == b && f.pieces[i].follower == a))
            sum += f.pieces[i].length;
    return sum;
}

/* What a change must move at least: all that anybody comes to hold above what it held; and where a worker that shall
 * get more holds the other copy of what is lost, others must make room for it. */
static uint64_t least_moves(uint32_t leaver)
{
    uint64_t sum = 0, strain = 0;
    smoe_shard_targets(f.map.elements, f.n, f.memory, f.target);
    smoe_shard_held(&f.map, f.n, f.owned, f.followed);
    for (uint32_t j = 0; j < f.n; j++) {
        uint64_t has = f.owned[j] + f.followed[j];
        uint64_t lacks = f.target[j] > has ? f.target[j] - has : 0;
        sum += lacks;
        if (lacks && leaver < f.n && lacks + shared_by(j, leaver) > strain)
            strain = lacks + shared_by(j, leaver);
    }
    return strain > sum ? strain : sum;
}

/* `leaver`: who leaves, or N. At most `times` the least may move. */
static void check_change(uint32_t leaver, uint64_t step, uint64_t times)
{
    static struct smoe_shard_piece before[PIECES_MAX];
    uint32_t n_before = f.map.n_pieces;
    memcpy(before, f.pieces, n_before * sizeof *before);
    uint64_t least = least_moves(leaver);
    int rc = change();
    cr_assert_eq(rc, 0, "%d with %u pieces, %u moves", rc, f.map.n_pieces, f.moves.n);
    cr_assert(moved() + f.map.elements / 50 + f.n >= least && moved() <= times * least + f.n,
              "%llu moved, %llu needed", (unsigned long long)moved(), (unsigned long long)least);
    check_moves(before, n_before, step);
    check_balance(f.map.elements / 50 + f.n);
}

Test(shard, a_loss_is_rebuilt_and_nothing_else_moves)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 2, 0);
    for (int round = 0; round < 400; round++) {
        memset(f.gone, 0, sizeof f.gone);
        draw_memory(&rng, 3 + (uint32_t)smoe_rng_below(&rng, 10));
        cut(500 + smoe_rng_below(&rng, 500));
        uint32_t lost = (uint32_t)smoe_rng_below(&rng, f.n);
        f.gone[lost] = round % 2;
        f.memory[lost] = 0;
        check_change(lost, 1, 1);
    }
}

Test(shard, a_newcomer_gets_its_share_and_nothing_else_moves)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 3, 0);
    for (int round = 0; round < 400; round++) {
        draw_memory(&rng, 2 + (uint32_t)smoe_rng_below(&rng, 10));
        uint32_t newcomer = (uint32_t)smoe_rng_below(&rng, f.n);
        uint64_t memory = f.memory[newcomer];
        f.memory[newcomer] = 0;
        cut(500 + smoe_rng_below(&rng, 500));
        f.memory[newcomer] = memory;
        check_change(f.n, 1, 1);
    }
}

Test(shard, a_fleet_that_changes_for_long_keeps_its_balance)
{
    struct smoe_rng rng;
    uint32_t most = 0;
    smoe_rng_init(&rng, 4, 0);
    draw_memory(&rng, 12);
    cut(1000000);
    for (int round = 0; round < 500; round++) {
        uint32_t j = (uint32_t)smoe_rng_below(&rng, f.n);
        memset(f.gone, 0, sizeof f.gone);
        bool leaves = f.memory[j] && count_live() > 3;
        if (leaves) {
            f.memory[j] = 0;
            f.gone[j] = round % 2;
        } else {
            f.memory[j] = UINT64_C(1) << 20 << smoe_rng_below(&rng, 4);
        }
        check_change(leaves ? j : f.n, 9973, 2);
        most = f.map.n_pieces > most ? f.map.n_pieces : most;
    }
    smoe_shard_held(&f.map, f.n, f.owned, f.followed);
    cr_log_info("at most %u pieces of %u workers", most, f.n);
    cr_assert_leq(most, f.map.grains);
}

Test(shard, two_who_leave_together_hand_over_what_they_share)
{
    f.n = 5;
    for (uint32_t j = 0; j < 5; j++)
        f.memory[j] = 7;
    cut(1000);
    f.memory[0] = f.memory[1] = 0; /* they drain: both can still be read */
    check_change(f.n, 1, 1);
}

Test(shard, both_copies_lost_is_said_with_its_place)
{
    static struct smoe_shard_piece before[PIECES_MAX];
    uint64_t lost = 0;
    f.n = 3;
    for (uint32_t j = 0; j < 3; j++)
        f.memory[j] = 7;
    cut(999);
    memcpy(before, f.pieces, sizeof before);
    uint32_t n_before = f.map.n_pieces;
    f.memory[0] = f.memory[1] = 0;
    f.gone[0] = f.gone[1] = true;
    cr_assert_eq(smoe_shard_change(3, f.memory, f.gone, scratch, &f.map, &f.moves, &lost),
                 SMOE_ELOST);
    cr_assert_arr_eq(before, f.pieces, sizeof before);
    bool found = false;
    for (uint32_t i = 0; i < f.map.n_pieces; i++)
        found |= f.pieces[i].offset == lost && f.pieces[i].owner < 2 && f.pieces[i].follower < 2;
    cr_assert(found);
    f.gone[1] = false; /* one of them can be read after all */
    cr_assert_eq(change(), 0);
    check_moves(before, n_before, 1);
    cr_assert(f.map.n_pieces == 1 && f.pieces[0].owner == 2);
}

Test(shard, nothing_changes_without_a_change)
{
    f.n = 7;
    for (uint32_t j = 0; j < 7; j++)
        f.memory[j] = 5 + j;
    cut(12345);
    cr_assert_eq(change(), 0);
    cr_assert_eq(f.moves.n, 0);
    check_balance(1 + 4 * (f.map.elements / f.map.grains));
}

Test(shard, a_change_without_room_for_its_moves_is_refused)
{
    f.n = 6;
    for (uint32_t j = 0; j < 6; j++)
        f.memory[j] = 1;
    cut(6000);
    f.memory[2] = 0;
    f.moves.max = 1;
    uint32_t n = f.map.n_pieces;
    cr_assert_eq(change(), SMOE_ELIMIT);
    cr_assert_eq(f.map.n_pieces, n);
    f.moves.max = MOVES_MAX;
    check_change(2, 1, 1);
}
