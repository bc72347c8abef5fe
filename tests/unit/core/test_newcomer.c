/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker that joins is given its share of a sharded layer's state range by range, between steps: two workers with
 * four experts of 17 MB of state each, of which the third takes several ranges.
 */
#include <criterion/criterion.h>

#include "tests/unit/core/linked.h"

enum { WORKERS = 2, EXPERTS = 4, D_MODEL = 512, D_FF = 2048, HELD_MAX = 512 };

#define MIB         (UINT64_C(1) << 20)
#define RANGE_BYTES (16 * MIB)          /* a step waits for so many at worst */
#define STATE_BYTES (2 * sizeof(float)) /* of an element: its weight and SGD's moment */

static struct linked l;
static uint64_t state_bytes; /* asked for so far, */
static uint64_t before_step; /* and when the first gradient was */

static bool holds_back; /* workers do not yet give the state they are asked for: */
static struct {
    uint32_t from;
    struct smoe_msg_shard_ask ask;
} held[HELD_MAX];
static size_t n_held;

static void begin(void)
{
    struct smoe_core_options options = linked_options(WORKERS);
    options.tensor_bytes_max = 64 * MIB;
    linked_begin(&l, &options, WORKERS, NULL);
    linked_layer(&l, EXPERTS, D_MODEL, D_FF);
}

static void end(void)
{
    linked_end(&l);
}

static void give(uint32_t from, const struct smoe_msg_shard_ask *ask)
{
    if (ask->kind == SMOE_SHARD_STATE && holds_back) {
        cr_assert_lt(n_held, HELD_MAX);
        held[n_held].from = from;
        held[n_held++].ask = *ask;
        return;
    }
    if (ask->kind == SMOE_SHARD_STATE)
        state_bytes += ask->length * STATE_BYTES;
    if (ask->kind == SMOE_SHARD_GRADIENT && state_bytes && !before_step)
        before_step = state_bytes;
    linked_send(&l, from, ask);
}

/* All that workers are told, asked for and given, until there is no more. */
static void carry_out(void)
{
    scene_work_all(&l.scene);
    while (l.heard < l.scene.mail.n) {
        struct letter letter = l.scene.mail.letters[l.heard++]; /* they move when there are more */
        if (letter.m.type == SMOE_MSG_SHARD_ASK)
            give(linked_number(&l, letter.session), &letter.m.shard_ask);
        else if (letter.m.type == SMOE_MSG_SHARD_PART)
            linked_taken(&l, linked_number(&l, letter.session), letter.m.shard_part.number);
        scene_work_all(&l.scene);
    }
}

static void let_go(void)
{
    holds_back = false;
    for (size_t i = 0; i < n_held; i++)
        give(held[i].from, &held[i].ask);
    n_held = 0;
    carry_out();
}

Test(newcomer, is_given_a_range_before_a_step_and_not_its_whole_share, .init = begin, .fini = end)
{
    linked_step(&l, 1);
    carry_out();
    cr_assert_eq(smoe_core_layer(l.scene.core, l.layer).step, 1);
    holds_back = true;
    l.sessions[l.n++] = linked_worker(&l, "w2", NULL);
    carry_out();
    cr_assert_gt(n_held, 0, "a first range is on its way");
    linked_step(&l, 2);
    let_go();
    cr_assert_eq(smoe_core_layer(l.scene.core, l.layer).step, 2);
    cr_expect_leq(before_step, RANGE_BYTES, "%llu bytes of state before the step",
                  (unsigned long long)before_step);
    cr_expect_gt(state_bytes, 2 * RANGE_BYTES, "%llu bytes are no more than its share",
                 (unsigned long long)state_bytes);
}
