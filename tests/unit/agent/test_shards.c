/* SPDX-License-Identifier: Apache-2.0
 *
 * Sharded layers: how a worker lays out its pieces; and three workers that share the experts' visits and their
 * optimizer state, beside one that has every expert whole and is what they must equal.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/kernels/bf16.h"
#include "tests/unit/agent/crew.h"

enum { MEMBERS = 3 };
#define BOUND (sizeof(smoe_real) == 8 ? 1e-12 : 1e-5)

/* ---- layouts ---- */

static int make(const uint64_t *offsets, const uint64_t *lengths, size_t n, uint32_t owned,
                uint32_t followed, struct smoe_shard_layout *ret, struct smoe_why *why)
{
    struct smoe_msg_host host = {
        .pieces = {offsets, lengths, n}, .pieces_owned = owned, .pieces_followed = followed};
    return smoe_shard_layout_make(&host, 100, ret, why);
}

Test(shard_layout, has_owned_pieces_first_and_finds_each_where_it_lies)
{
    static const uint64_t offsets[] = {50, 90, 0}, lengths[] = {20, 10, 5};
    struct smoe_shard_layout layout;
    struct smoe_why why;
    cr_assert_eq(make(offsets, lengths, 3, 1, 1, &layout, &why), 0);
    cr_assert_eq(layout.elements, 35);
    cr_assert_eq(layout.elements_owned, 20);
    cr_assert_eq(smoe_shard_find(&layout, 50, 20), 0);
    cr_assert_eq(smoe_shard_find(&layout, 60, 10), 10);
    cr_assert_eq(smoe_shard_find(&layout, 95, 5), 25);
    cr_assert_eq(smoe_shard_find(&layout, 0, 5), 30);
    cr_assert_eq(smoe_shard_find(&layout, 60, 11), SMOE_SHARD_NOWHERE, "one beyond");
    cr_assert_eq(smoe_shard_find(&layout, 5, 1), SMOE_SHARD_NOWHERE);
    smoe_shard_layout_release(&layout);
}

Test(shard_layout, takes_neighbours_of_one_role_for_one_range)
{
    static const uint64_t offsets[] = {0, 10, 30, 20, 40}, lengths[] = {10, 10, 10, 10, 10};
    struct smoe_shard_layout layout;
    struct smoe_why why;
    cr_assert_eq(make(offsets, lengths, 5, 3, 1, &layout, &why), 0);
    cr_assert(layout.n == 4 && layout.n_owned == 2 && layout.n_held == 3);
    cr_assert_eq(smoe_shard_find(&layout, 5, 15), 5);
    cr_assert_eq(smoe_shard_find(&layout, 15, 10), SMOE_SHARD_NOWHERE,
                 "the second half is followed");
    cr_assert_eq(smoe_shard_find(&layout, 20, 10), 30);
    smoe_shard_layout_release(&layout);
    cr_assert_eq(make(offsets, lengths, 2, 0, 2, &layout, &why), 0);
    cr_assert(layout.n == 1 && layout.n_owned == 0 && layout.n_held == 1);
    smoe_shard_layout_release(&layout);
    cr_assert_eq(make(offsets, lengths, 2, 2, 0, &layout, &why), 0);
    cr_assert(layout.n == 1 && layout.n_owned == 1 && layout.n_held == 1);
    smoe_shard_layout_release(&layout);
    cr_assert_eq(make(offsets, lengths, 2, 0, 0, &layout, &why), 0);
    cr_assert(layout.n == 1 && layout.n_owned == 0 && layout.n_held == 0);
    smoe_shard_layout_release(&layout);
}

Test(shard_layout, of_pieces_that_overlap_or_reach_beyond_the_end_is_refused)
{
    static const uint64_t offsets[] = {0, 10, 99}, lengths[] = {10, 10, 1};
    static const uint64_t too_long[] = {10, 10, 2}, overlapping[] = {11, 10, 1};
    static const uint64_t beyond[] = {0, 10, 101};
    struct smoe_shard_layout layout = {0};
    struct smoe_why why;
    cr_assert_eq(make(offsets, lengths, 3, 3, 0, &layout, &why), 0);
    smoe_shard_layout_release(&layout);
    cr_assert_eq(make(offsets, too_long, 3, 3, 0, &layout, &why), SMOE_EFIELD);
    cr_assert_eq(make(offsets, overlapping, 3, 1, 1, &layout, &why), SMOE_EFIELD);
    cr_assert_eq(make(beyond, lengths, 3, 3, 0, &layout, &why), SMOE_EFIELD);
    cr_assert_null(layout.ranges);
}

Test(shard_layout, keeps_what_both_have_when_it_changes)
{
    static const uint64_t before_at[] = {0, 40}, before_n[] = {30, 20};
    static const uint64_t after_at[] = {20, 50, 90}, after_n[] = {30, 10, 10};
    struct smoe_shard_layout before, after, all;
    struct smoe_why why;
    smoe_real whole[100], old[50], new[50] = {0};
    static const uint64_t zero[] = {0}, hundred[] = {100};
    for (int i = 0; i < 100; i++)
        whole[i] = (smoe_real)(i + 1);
    cr_assert_eq(make(before_at, before_n, 2, 1, 1, &before, &why), 0);
    cr_assert_eq(make(after_at, after_n, 3, 2, 0, &after, &why), 0);
    cr_assert_eq(make(zero, hundred, 1, 1, 0, &all, &why), 0);
    smoe_shard_cut_out(before.ranges, before.n, 0, 33, whole, old); /* in two parts */
    smoe_shard_cut_out(before.ranges, before.n, 33, 67, whole + 33, old);
    smoe_shard_carry(&before, old, &after, new);
    for (int i = 0; i < 30; i++)
        cr_assert_eq(new[i], i < 10 || i >= 20 ? whole[20 + i] : 0, "element %d", 20 + i);
    for (int i = 0; i < 10; i++)
        cr_assert(new[30 + i] == whole[50 + i] && new[40 + i] == 0);
    cr_assert(smoe_shard_covers(&all, &after) && !smoe_shard_covers(&before, &after));
    smoe_shard_layout_release(&before);
    smoe_shard_layout_release(&after);
    smoe_shard_layout_release(&all);
}

/* ---- a layer that three workers share ---- */

static struct member members[MEMBERS], lone;
static const uint64_t cuts[MEMBERS + 1] = {0, 20, 41, CREW_PARAMS};
static uint64_t numbers;
static enum smoe_wire_format wire; /* of the layer that is shared */

/* Who has slots of which experts: bit e. */
struct placement {
    unsigned slots[MEMBERS];
};
static const struct placement first = {{3, 5, 7}}, second = {{4, 3, 1}};

static bool hosts(const struct placement *p, uint32_t member, uint32_t expert)
{
    return p->slots[member] >> expert & 1;
}

static uint32_t count_hosts(const struct placement *p, uint32_t expert)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < MEMBERS; i++)
        n += hosts(p, i, expert);
    return n;
}

/* Member i owns piece i and follows piece i - 1. */
static int host_shared(uint32_t i, const struct placement *p, uint64_t step, uint64_t attempt)
{
    uint32_t other = (i + MEMBERS - 1) % MEMBERS, experts[CREW_EXPERTS];
    uint64_t offsets[] = {cuts[i], cuts[other]};
    uint64_t lengths[] = {cuts[i + 1] - cuts[i], cuts[other + 1] - cuts[other]};
    struct smoe_layer_shape shape = crew_shape();
    struct smoe_message m = {.type = SMOE_MSG_HOST};
    shape.wire = wire;
    m.host = (struct smoe_msg_host){.layer = CREW_LAYER,
                                    .name = "moe",
                                    .run = 9,
                                    .shape = shape,
                                    .experts = experts,
                                    .step = step,
                                    .attempt = attempt,
                                    .fresh = step == 0,
                                    .sharded = true,
                                    .pieces = {offsets, lengths, 2},
                                    .pieces_owned = 1,
                                    .pieces_followed = 1};
    for (uint32_t e = 0; e < CREW_EXPERTS; e++) {
        if (hosts(p, i, e))
            experts[m.host.n_experts++] = e;
        m.host.replicas += count_hosts(p, e);
    }
    cr_assert_eq(member_say(&members[i], &m, NULL, 0), 0, "%s", members[i].why.text);
    member_make(&members[i]);
    return member_last(&members[i], SMOE_MSG_HOSTED)->m.hosted.code;
}

static void begin(void)
{
    static const uint32_t all[] = {0, 1, 2};
    struct smoe_agent_options o = crew_options();
    member_begin(&lone, &o);
    cr_assert_eq(
        member_host(&lone,
                    &(struct crew_host){.experts = all, .n_experts = CREW_EXPERTS, .fresh = true}),
        0);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        member_begin(&members[i], &o);
        cr_assert_eq(host_shared(i, &first, 0, 0), 0);
    }
}

static void end(void)
{
    member_end(&lone);
    for (uint32_t i = 0; i < MEMBERS; i++)
        member_end(&members[i]);
}

/* The range as asked of `from`, to all of the members whose bit is set: one frame, passed on. */
static void transfer(struct smoe_msg_shard_ask ask, uint32_t from, unsigned to)
{
    struct smoe_message m = {.type = SMOE_MSG_SHARD_ASK};
    to &= ~(1u << from);
    ask.number = ++numbers;
    ask.layer = CREW_LAYER;
    ask.send = to != 0;
    m.shard_ask = ask;
    cr_assert_eq(member_say(&members[from], &m, NULL, 0), 0, "%s", members[from].why.text);
    if (!to) {
        cr_assert_eq(member_last(&members[from], SMOE_MSG_SHARD_TAKEN)->m.shard_taken.number,
                     numbers);
        return;
    }
    const struct letter *part = member_last(&members[from], SMOE_MSG_SHARD_PART);
    cr_assert_eq(part->m.shard_part.number, numbers);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (!(to >> i & 1))
            continue;
        cr_assert_eq(member_say(&members[i], &part->m, part->raw, part->raw_bytes), 0, "%s",
                     members[i].why.text);
        cr_assert_eq(member_last(&members[i], SMOE_MSG_SHARD_TAKEN)->m.shard_taken.number, numbers);
    }
}

static struct smoe_msg_shard_ask piece_of(enum smoe_shard_kind kind, uint32_t expert,
                                          uint32_t piece, uint64_t step, uint64_t attempt)
{
    return (struct smoe_msg_shard_ask){.kind = kind,
                                       .expert = expert,
                                       .offset = cuts[piece],
                                       .length = cuts[piece + 1] - cuts[piece],
                                       .step = step,
                                       .attempt = attempt};
}

/* Visits of this expert, to the n-th of its hosts and to the lone one. */
static void train(const struct placement *p, uint64_t parcel, uint32_t expert, uint32_t n,
                  uint32_t rows)
{
    uint32_t i = 0;
    for (; !hosts(p, i, expert) || n > 0; i++)
        n -= hosts(p, i, expert);
    struct member *both[] = {&members[i], &lone};
    for (int b = 0; b < 2; b++) {
        cr_assert_eq(member_decide(both[b], parcel, expert, rows, true), 0, "%s",
                     both[b]->why.text);
        member_run(both[b]);
        cr_assert_eq(member_backprop(both[b], parcel, rows), 0, "%s", both[b]->why.text);
        member_run(both[b]);
    }
}

static void prepare(const struct placement *p, uint64_t step, uint64_t attempt)
{
    uint32_t counts[CREW_EXPERTS];
    struct smoe_layer_hosts list = {CREW_LAYER, counts, CREW_EXPERTS};
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        counts[e] = count_hosts(p, e);
    cr_assert_eq(member_prepare(&lone, step, attempt, NULL, 0), 0);
    for (uint32_t i = 0; i < MEMBERS; i++)
        cr_assert_eq(member_prepare_shared(&members[i], step, attempt, &list), 0, "%s",
                     members[i].why.text);
}

/* All local sums, the last hosts' first: what comes first must not matter. */
static void sum(const struct placement *p, uint64_t step, uint64_t attempt)
{
    for (uint32_t e = 0; e < CREW_EXPERTS; e++) {
        uint32_t rank = count_hosts(p, e);
        for (uint32_t i = MEMBERS; i-- > 0;) {
            if (!hosts(p, i, e))
                continue;
            rank--;
            for (uint32_t piece = 0; piece < MEMBERS; piece++) {
                struct smoe_msg_shard_ask ask =
                    piece_of(SMOE_SHARD_GRADIENT, e, piece, step, attempt);
                ask.rank = rank;
                transfer(ask, i, 1u << piece | 1u << (piece + 1) % MEMBERS);
            }
        }
    }
}

static void run_all(void)
{
    member_run(&lone);
    for (uint32_t i = 0; i < MEMBERS; i++)
        member_run(&members[i]);
}

/* Every slot of the placement gets its weights from the owners, under one number. */
static void fill(const struct placement *p, uint64_t step, uint64_t attempt)
{
    uint64_t number = ++numbers;
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        for (uint32_t piece = 0; piece < MEMBERS; piece++) {
            struct smoe_msg_shard_ask ask = piece_of(SMOE_SHARD_WEIGHTS, e, piece, step, attempt);
            unsigned to = 0;
            for (uint32_t i = 0; i < MEMBERS; i++)
                to |= (unsigned)hosts(p, i, e) << i;
            ask.fill = number;
            transfer(ask, piece, to);
        }
}

static double norm_of_lone(void)
{
    const struct smoe_msg_step_norm *m = &member_last(&lone, SMOE_MSG_STEP_NORM)->m.step_norm;
    double norm = 0;
    for (size_t e = 0; e < m->layers[0].n; e++)
        norm += m->layers[0].square_norms[e];
    return norm;
}

static void stage_all(uint64_t step, uint64_t attempt)
{
    cr_assert_eq(member_stage(&lone, step, attempt, 0.5), 0);
    for (uint32_t i = 0; i < MEMBERS; i++)
        cr_assert_eq(member_stage(&members[i], step, attempt, 0.5), 0);
    run_all();
}

/* Stages and commits; the next placement is in force afterwards. */
static void finish(uint64_t step, uint64_t attempt, const struct placement *next)
{
    double norm = 0;
    run_all();
    for (uint32_t i = 0; i < MEMBERS; i++)
        norm += member_last(&members[i], SMOE_MSG_STEP_NORM)->m.step_norm.shards;
    cr_assert_float_eq(norm, norm_of_lone(), norm * 1e-6);
    stage_all(step, attempt);
    cr_assert_eq(member_commit(&lone, step, attempt), 0);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        cr_assert_eq(member_last(&members[i], SMOE_MSG_STEP_STAGED)->m.step_staged.step, step);
        cr_assert_eq(member_commit(&members[i], step, attempt), 0);
        cr_assert_eq(host_shared(i, next, step, attempt), 0);
    }
    fill(next, step, attempt);
}

static double distance(size_t n, const smoe_real *a, const smoe_real *b)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference) / (sqrt(size) + 1e-30);
}

/* What owner and follower hold of a piece: the same bits, and what the lone worker has. */
static void compare_states(uint64_t step, uint64_t attempt)
{
    for (uint32_t e = 0; e < CREW_EXPERTS; e++) {
        struct crew_state whole = member_state(&lone, e);
        for (uint32_t piece = 0; piece < MEMBERS; piece++) {
            struct smoe_msg_shard_ask ask = piece_of(SMOE_SHARD_STATE, e, piece, step, attempt);
            uint32_t follower = (piece + 1) % MEMBERS;
            size_t n = (size_t)ask.length;
            transfer(ask, follower, 1u << piece); /* and back: what it overwrites is the same */
            const struct letter *theirs = member_last(&members[follower], SMOE_MSG_SHARD_PART);
            transfer(ask, piece, 1u << follower);
            const struct letter *ours = member_last(&members[piece], SMOE_MSG_SHARD_PART);
            cr_assert_eq(ours->raw_bytes, 3 * n * sizeof(smoe_real));
            cr_assert_eq(memcmp(ours->raw, theirs->raw, ours->raw_bytes), 0);
            const smoe_real *values = (const smoe_real *)(const void *)ours->raw;
            for (size_t v = 0; v < 3; v++)
                cr_assert_leq(
                    distance(n, values + v * n, whole.values + v * CREW_PARAMS + cuts[piece]),
                    BOUND);
        }
    }
}

static void compare_outputs(const struct placement *p, uint64_t parcel)
{
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        for (uint32_t i = 0; i < MEMBERS; i++) {
            if (!hosts(p, i, e))
                continue;
            struct member *both[] = {&members[i], &lone};
            const smoe_real *y[2];
            for (int b = 0; b < 2; b++) {
                cr_assert_eq(member_decide(both[b], parcel, e, 40, false), 0, "%s",
                             both[b]->why.text);
                member_run(both[b]);
                y[b] = (const smoe_real *)(const void *)member_last(both[b], SMOE_MSG_OUTPUT)->raw;
            }
            cr_assert_leq(distance(40 * CREW_D, y[0], y[1]), BOUND);
            parcel++;
        }
}

static void train_some(const struct placement *p, uint64_t parcel)
{
    train(p, parcel, 0, 0, 130);
    train(p, parcel + 1, 0, count_hosts(p, 0) - 1, 7);
    train(p, parcel + 2, 1, count_hosts(p, 1) - 1, 64);
    train(p, parcel + 3, 2, 0, 5); /* the last host of expert 2 has none */
}

Test(shards, step_as_one_process_does_whatever_the_placement, .init = begin, .fini = end)
{
    static const struct placement *const placements[] = {&first, &second, &first, &second};
    for (uint64_t step = 1; step < 4; step++) {
        const struct placement *now = placements[step - 1];
        train_some(now, 100 * step);
        prepare(now, step, step);
        sum(now, step, step);
        finish(step, step, placements[step]);
        compare_states(step, step);
        compare_outputs(placements[step], 100 * step + 10);
    }
}

Test(shards, make_a_step_again_after_an_attempt_that_was_thrown_away, .init = begin, .fini = end)
{
    train_some(&first, 100);
    prepare(&first, 1, 1);
    struct smoe_msg_shard_ask ask = piece_of(SMOE_SHARD_GRADIENT, 0, 0, 1, 1);
    transfer(ask, 0, 1u << 0 | 1u << 1);
    cr_assert_eq(member_reset(&lone, 2), 0);
    for (uint32_t i = 0; i < MEMBERS; i++)
        cr_assert_eq(member_reset(&members[i], 2), 0);
    train_some(&first, 200);
    prepare(&first, 1, 2);
    size_t said = member_count(&members[1], SMOE_MSG_SHARD_TAKEN);
    struct smoe_message late = {.type = SMOE_MSG_SHARD_PART};
    smoe_real junk[20] = {1};
    late.shard_part = (struct smoe_msg_shard_part){.number = 9999,
                                                   .kind = SMOE_SHARD_GRADIENT,
                                                   .layer = CREW_LAYER,
                                                   .offset = cuts[0],
                                                   .length = cuts[1] - cuts[0],
                                                   .step = 1,
                                                   .attempt = 1};
    cr_assert_eq(member_say(&members[1], &late, junk, sizeof junk), 0, "%s", members[1].why.text);
    cr_assert_eq(member_count(&members[1], SMOE_MSG_SHARD_TAKEN), said, "it was of attempt 1");
    sum(&first, 1, 2);
    finish(1, 2, &second);
    compare_states(1, 2);
    compare_outputs(&second, 300);
}

Test(shards, survive_a_broken_connection_staged_as_they_are, .init = begin, .fini = end)
{
    train_some(&first, 100);
    prepare(&first, 1, 1);
    sum(&first, 1, 1);
    run_all();
    stage_all(1, 1);
    member_disconnect(&members[1]);
    cr_assert_eq(member_commit(&lone, 1, 1), 0);
    cr_assert_eq(member_commit(&members[0], 1, 1), 0);
    cr_assert_eq(member_commit(&members[2], 1, 1), 0);
    member_connect(&members[1]);
    const struct smoe_inventory_layer *held =
        &member_last(&members[1], SMOE_MSG_INVENTORY)->m.inventory.layers[0];
    cr_assert(held->staged_step == 1 && held->staged_attempt == 1 && held->n_experts == 0);
    cr_assert_eq(held->pieces.n, 2);
    for (uint32_t i = 0; i < MEMBERS; i++)
        cr_assert_eq(host_shared(i, &second, 1, 1), 0);
    fill(&second, 1, 1);
    compare_states(1, 1);
    compare_outputs(&second, 300);
}

Test(shards, slots_serve_nothing_before_all_their_weights_have_come, .init = begin, .fini = end)
{
    train_some(&first, 100);
    prepare(&first, 1, 1);
    sum(&first, 1, 1);
    run_all();
    for (uint32_t i = 0; i < MEMBERS; i++)
        cr_assert_eq(member_stage(&members[i], 1, 1, 1), 0);
    run_all();
    for (uint32_t i = 0; i < MEMBERS; i++) {
        cr_assert_eq(member_commit(&members[i], 1, 1), 0);
        cr_assert_eq(host_shared(i, &second, 1, 1), 0);
    }
    /* Two thirds of a fill that was given up, then one third of the next: no slot is whole by that. */
    for (uint32_t piece = 0; piece < MEMBERS; piece++) {
        struct smoe_msg_shard_ask ask = piece_of(SMOE_SHARD_WEIGHTS, 0, piece, 1, 1);
        ask.fill = piece < 2 ? 71 : 72;
        transfer(ask, piece, 1u << 1);
    }
    cr_assert_eq(member_decide(&members[1], 500, 0, 3, false), SMOE_EUNKNOWN);
}

/* Another slot of the expert is filled once more, from here: this one has its weights, which wait for a task. */
Test(shards, a_slot_keeps_the_weights_that_wait_for_a_task, .init = begin, .fini = end)
{
    static const struct placement others = {{4, 2, 1}}; /* all of `second` but expert 0 of 1 */
    train_some(&first, 100);
    prepare(&first, 1, 1);
    sum(&first, 1, 1);
    run_all();
    stage_all(1, 1);
    cr_assert_eq(member_decide(&members[1], 200, 0, 3, false), 0);
    cr_assert_eq(member_commit(&lone, 1, 1), 0);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        cr_assert_eq(member_commit(&members[i], 1, 1), 0);
        cr_assert_eq(host_shared(i, &second, 1, 1), 0);
    }
    fill(&others, 1, 1);
    struct smoe_msg_shard_ask asks[MEMBERS];
    for (uint32_t piece = 0; piece < MEMBERS; piece++) {
        asks[piece] = piece_of(SMOE_SHARD_WEIGHTS, 0, piece, 1, 1);
        asks[piece].fill = 1000;
    }
    transfer(asks[0], 0, 1u << 1);
    transfer(asks[2], 2, 1u << 1);
    struct smoe_task *task = member_start(&members[1]);
    transfer(asks[1], 1, 0); /* it owns the last of it */
    asks[1].fill = 1001;
    asks[1].keep = true;
    transfer(asks[1], 1, 1u << 2);
    member_finish(&members[1], task);
    compare_outputs(&second, 300);
}

Test(shards, that_were_never_held_are_refused_and_do_not_begin_as_zeros, .init = begin, .fini = end)
{
    static const uint64_t offsets[] = {41}, lengths[] = {CREW_PARAMS - 41};
    static const uint32_t zero[] = {0};
    struct smoe_message m = {.type = SMOE_MSG_HOST};
    m.host = (struct smoe_msg_host){.layer = CREW_LAYER,
                                    .name = "moe",
                                    .run = 9,
                                    .shape = crew_shape(),
                                    .experts = zero,
                                    .n_experts = 1,
                                    .sharded = true,
                                    .pieces = {offsets, lengths, 1},
                                    .pieces_owned = 1,
                                    .replicas = 3};
    cr_assert_eq(member_say(&members[1], &m, NULL, 0), 0);
    cr_assert_eq(member_last(&members[1], SMOE_MSG_HOSTED)->m.hosted.code, SMOE_EUNKNOWN);
    m.host.pieces_owned = 0; /* to be filled: it may be empty */
    cr_assert_eq(member_say(&members[1], &m, NULL, 0), 0);
    cr_assert_eq(member_last(&members[1], SMOE_MSG_HOSTED)->m.hosted.code, 0);
}

/* ---- making ---- */

static void begin_unmade(void)
{
    struct smoe_agent_options o = crew_options();
    member_begin(&members[0], &o);
}

/* As host_shared, but what it must make stays to be made. */
static void host_unmade_as(const char *name, const struct placement *p, bool fresh)
{
    uint64_t offset = 0, length = CREW_PARAMS;
    uint32_t experts[CREW_EXPERTS];
    struct smoe_message m = {.type = SMOE_MSG_HOST};
    m.host = (struct smoe_msg_host){.layer = CREW_LAYER,
                                    .run = 9,
                                    .shape = crew_shape(),
                                    .experts = experts,
                                    .fresh = fresh,
                                    .sharded = true,
                                    .pieces = {&offset, &length, 1},
                                    .pieces_owned = 1,
                                    .replicas = 3};
    snprintf(m.host.name, sizeof m.host.name, "%s", name);
    if (!fresh) /* cut otherwise */
        length = CREW_PARAMS - 7;
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        if (hosts(p, 0, e))
            experts[m.host.n_experts++] = e;
    cr_assert_eq(member_say(&members[0], &m, NULL, 0), 0, "%s", members[0].why.text);
}

static void host_unmade(const struct placement *p, bool fresh)
{
    host_unmade_as("moe", p, fresh);
}

static void end_one(void)
{
    member_end(&members[0]);
}

static void assert_of_seed(uint32_t expert, bool shard, size_t n)
{
    const struct smoe_layer_shape shape = crew_shape();
    const struct smoe_ffn_shape ffn = {shape.d_model, shape.d_ff, SMOE_GELU};
    const struct smoe_experts *store = smoe_agent_experts(members[0].agent);
    uint32_t number = store->layers[0].expert_at[expert + (shard ? CREW_EXPERTS : 0)];
    smoe_real seeded[CREW_PARAMS];
    smoe_ffn_init(&ffn, shape.seed, expert, shape.zero_output, seeded);
    cr_assert_eq(store->experts[number].n_params, n);
    cr_assert_eq(memcmp(store->experts[number].now.weights, seeded, n * sizeof *seeded), 0);
}

Test(making, leaves_the_worker_free_to_answer_and_to_report, .init = begin_unmade, .fini = end_one)
{
    struct member *m = &members[0];
    struct smoe_message ping = {.type = SMOE_MSG_PING};
    ping.ping.nonce = 5;
    host_unmade(&first, true);
    struct smoe_task *task = member_start(m);
    for (size_t n = 1; task; n++, task = member_start(m)) {
        cr_assert_eq(task->kind, SMOE_TASK_MAKE);
        cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), 0, "not all is made");
        cr_assert_leq(smoe_agent_wake_ns(m->agent), m->now_ns + 250000000, "a quarter of 1 s");
        m->now_ns += 300000000;
        smoe_agent_tick(m->agent, m->now_ns);
        cr_assert_eq(member_say(m, &ping, NULL, 0), 0);
        cr_assert_eq(member_count(m, SMOE_MSG_REPORT), n);
        cr_assert_eq(member_count(m, SMOE_MSG_PONG), n);
        member_finish(m, task);
    }
    cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), 1);
    cr_assert_eq(member_last(m, SMOE_MSG_HOSTED)->m.hosted.code, 0);
    for (uint32_t e = 0; e < CREW_EXPERTS; e++) {
        if (hosts(&first, 0, e))
            assert_of_seed(e, false, CREW_PARAMS);
        assert_of_seed(e, true, CREW_PARAMS);
    }
}

Test(making, takes_another_host_for_the_one_to_answer, .init = begin_unmade, .fini = end_one)
{
    struct member *m = &members[0];
    host_unmade(&first, true); /* experts 0 and 1, and three shards */
    struct smoe_task *task = member_start(m);
    host_unmade(&second, false); /* expert 2; what a task makes now is dropped by it */
    member_finish(m, task);
    cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), 0);
    member_run(m);
    cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), 1);
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        assert_of_seed(e, true, CREW_PARAMS - 7);
}

/* What fuzzing found: Hosted of a layer that no longer had a number, which no gateway would have read. */
Test(making, is_not_answered_for_a_layer_whose_number_another_has, .init = begin_unmade,
     .fini = end_one)
{
    struct member *m = &members[0];
    host_unmade(&first, true);
    host_unmade_as("other", &first, true);
    member_run(m);
    cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), 1);
    cr_assert_eq(member_last(m, SMOE_MSG_HOSTED)->m.hosted.layer, CREW_LAYER);
}

Test(making, outlives_the_connection, .init = begin_unmade, .fini = end_one)
{
    struct member *m = &members[0];
    host_unmade(&first, true);
    struct smoe_task *task = member_start(m);
    member_disconnect(m);
    member_finish(m, task);
    member_connect(m);
    cr_assert_eq(member_last(m, SMOE_MSG_INVENTORY)->m.inventory.layers[0].pieces.n, 1);
    member_run(m);
    cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), 0, "nobody has asked on this connection");
    host_unmade(&first, true);
    cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), 1, "all is there");
    assert_of_seed(0, false, CREW_PARAMS);
}

Test(making, comes_before_whatever_asks_for_the_expert, .init = begin_unmade, .fini = end_one)
{
    struct member *m = &members[0];
    struct smoe_msg_shard_ask ask = piece_of(SMOE_SHARD_STATE, 1, 0, 0, 0);
    struct smoe_message message = {.type = SMOE_MSG_SHARD_ASK};
    ask.layer = CREW_LAYER;
    ask.number = 7;
    ask.send = true;
    message.shard_ask = ask;
    host_unmade(&first, true);
    cr_assert_eq(member_say(m, &message, NULL, 0), 0);
    cr_assert_eq(member_decide(m, 900, 0, 3, false), 0, "%s", m->why.text);
    cr_assert_eq(member_count(m, SMOE_MSG_SHARD_PART), 0);
    member_run(m);
    const struct letter *part = member_last(m, SMOE_MSG_SHARD_PART);
    const struct smoe_experts *store = smoe_agent_experts(m->agent);
    uint32_t shard = store->layers[0].expert_at[CREW_EXPERTS + 1];
    cr_assert_eq(memcmp(part->raw, store->experts[shard].now.weights, 20 * sizeof(smoe_real)), 0);
    assert_of_seed(1, true, CREW_PARAMS);
    const smoe_real *y = (const smoe_real *)(const void *)member_last(m, SMOE_MSG_OUTPUT)->raw;
    smoe_real x[3 * CREW_D], want[3 * CREW_D];
    const struct smoe_ffn_shape ffn = {CREW_D, CREW_H, SMOE_GELU};
    crew_rows(900, 3, false, x);
    smoe_ffn_forward_reference(&ffn, store->experts[store->layers[0].expert_at[0]].now.weights, 3,
                               x, want);
    cr_assert_leq(distance(3 * CREW_D, y, want), BOUND);
}

/* ---- bf16 on the wire ---- */

static void begin_bf16(void)
{
    wire = SMOE_WIRE_BF16;
    begin();
}

static const struct smoe_held_layer *held_by(uint32_t member)
{
    return &smoe_agent_experts(members[member].agent)->layers[0];
}

/* What the member has of the expert: its slot, or (`shard`) its shard. */
static const struct smoe_held_expert *has(uint32_t member, uint32_t expert, bool shard)
{
    const struct smoe_held_layer *layer = held_by(member);
    uint32_t number = layer->expert_at[expert + (shard ? CREW_EXPERTS : 0)];
    return &smoe_agent_experts(members[member].agent)->experts[number];
}

static size_t place_of(uint32_t member, uint32_t piece)
{
    return smoe_shard_find(&held_by(member)->layout, cuts[piece], cuts[piece + 1] - cuts[piece]);
}

/* All slots have the masters, rounded once: of the seed, too. */
static void compare_slots(const struct placement *p)
{
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        for (uint32_t piece = 0; piece < MEMBERS; piece++) {
            smoe_real served[CREW_PARAMS];
            size_t n = (size_t)(cuts[piece + 1] - cuts[piece]);
            memcpy(served, has(piece, e, true)->now.weights + place_of(piece, piece),
                   n * sizeof *served);
            smoe_bf16_through(n, served);
            for (uint32_t i = 0; i < MEMBERS; i++)
                if (hosts(p, i, e))
                    cr_assert_eq(memcmp(has(i, e, false)->now.weights + cuts[piece], served,
                                        n * sizeof *served),
                                 0, "expert %u on %u", e, i);
        }
}

/* The sums that everybody must come to: of what each host has, rounded, in the order of the hosts. */
static void add_rounded(const struct placement *p, smoe_real ret[CREW_EXPERTS][CREW_PARAMS])
{
    for (uint32_t e = 0; e < CREW_EXPERTS; e++) {
        bool any = false;
        for (uint32_t i = 0; i < MEMBERS; i++) {
            smoe_real g[CREW_PARAMS];
            if (!hosts(p, i, e))
                continue;
            memcpy(g, has(i, e, false)->gradients[0], sizeof g);
            smoe_bf16_through(CREW_PARAMS, g);
            for (size_t j = 0; j < CREW_PARAMS; j++)
                ret[e][j] = any ? ret[e][j] + g[j] : g[j];
            any = true;
        }
    }
}

static void compare_sums(smoe_real want[CREW_EXPERTS][CREW_PARAMS])
{
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        for (uint32_t piece = 0; piece < MEMBERS; piece++) {
            uint32_t holders[] = {piece, (piece + 1) % MEMBERS};
            size_t bytes = (size_t)(cuts[piece + 1] - cuts[piece]) * sizeof(smoe_real);
            for (int h = 0; h < 2; h++)
                cr_assert_eq(
                    memcmp(has(holders[h], e, true)->gradients[0] + place_of(holders[h], piece),
                           want[e] + cuts[piece], bytes),
                    0, "piece %u of expert %u on %u", piece, e, holders[h]);
        }
}

Test(shards, of_a_layer_with_bf16_on_the_wire_are_of_the_same_rounded_parts, .init = begin_bf16,
     .fini = end)
{
    static smoe_real sums[CREW_EXPERTS][CREW_PARAMS];
    compare_slots(&first);
    train_some(&first, 100);
    add_rounded(&first, sums);
    prepare(&first, 1, 1);
    sum(&first, 1, 1);
    const struct letter *part = member_last(&members[2], SMOE_MSG_SHARD_PART);
    cr_assert_eq(part->raw_bytes, 2 * part->m.shard_part.length);
    run_all();
    compare_sums(sums);
    for (uint32_t i = 0; i < MEMBERS; i++)
        cr_assert_eq(member_stage(&members[i], 1, 1, 0.5), 0);
    run_all();
    for (uint32_t i = 0; i < MEMBERS; i++) {
        cr_assert_eq(member_commit(&members[i], 1, 1), 0);
        cr_assert_eq(host_shared(i, &second, 1, 1), 0);
    }
    fill(&second, 1, 1);
    compare_slots(&second);
    transfer(piece_of(SMOE_SHARD_STATE, 0, 0, 1, 1), 0, 1u << 1);
    part = member_last(&members[0], SMOE_MSG_SHARD_PART);
    cr_assert_eq(part->raw_bytes, 3 * part->m.shard_part.length * sizeof(smoe_real),
                 "states are exact");
}

Test(shards, of_a_layer_with_bf16_on_the_wire_take_no_other_length, .init = begin_bf16, .fini = end)
{
    static const size_t wrong[MEMBERS] = {20 * sizeof(smoe_real), 2 * 20 - 1, 2 * 20 + 2};
    static const uint8_t junk[20 * sizeof(smoe_real)];
    static const uint32_t expert[MEMBERS] = {0, 0, 1};
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct smoe_message m = {.type = SMOE_MSG_SHARD_PART};
        m.shard_part = (struct smoe_msg_shard_part){.number = 1,
                                                    .kind = SMOE_SHARD_WEIGHTS,
                                                    .layer = CREW_LAYER,
                                                    .expert = expert[i],
                                                    .length = 20};
        cr_assert_eq(member_say(&members[i], &m, junk, wrong[i]), SMOE_ESHAPE, "%zu bytes",
                     wrong[i]);
    }
}
