/* SPDX-License-Identifier: Apache-2.0
 *
 * Two copies of an expert: equal after every step, whatever happens between; and a step that was staged
 * when the connection broke.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/agent/crew.h"

static const uint32_t zero[] = {0}, one[] = {1}, first_two[] = {0, 1};
static struct member host, follower;

/* host serves expert 0 and follower 1; each has the other's copy. */
static void begin(void)
{
    struct smoe_agent_options o = crew_options();
    struct crew_host roles = {
        .experts = zero, .n_experts = 1, .copies = one, .n_copies = 1, .fresh = true};
    member_begin(&host, &o);
    member_begin(&follower, &o);
    cr_assert_eq(member_host(&host, &roles), 0);
    roles.experts = one;
    roles.copies = zero;
    cr_assert_eq(member_host(&follower, &roles), 0);
}

static void end(void)
{
    member_end(&host);
    member_end(&follower);
}

/* The parcel at the expert, forward and backward. */
static void train(struct member *m, uint64_t parcel, uint32_t expert, uint32_t rows)
{
    cr_assert_eq(member_decide(m, parcel, expert, rows, true), 0, "%s", m->why.text);
    member_run(m);
    cr_assert_eq(member_backprop(m, parcel, rows), 0, "%s", m->why.text);
    member_run(m);
}

static void prepare_both(uint64_t step, uint64_t attempt)
{
    cr_assert_eq(member_prepare(&host, step, attempt, zero, 1), 0, "%s", host.why.text);
    cr_assert_eq(member_prepare(&follower, step, attempt, one, 1), 0, "%s", follower.why.text);
    crew_pass_gradient(&host, &follower, 0);
    crew_pass_gradient(&follower, &host, 1);
    member_run(&host);
    member_run(&follower);
}

static void stage_both(uint64_t step, uint64_t attempt)
{
    cr_assert_eq(member_stage(&host, step, attempt, 0.5), 0);
    cr_assert_eq(member_stage(&follower, step, attempt, 0.5), 0);
    member_run(&host);
    member_run(&follower);
    cr_assert_eq(member_last(&host, SMOE_MSG_STEP_STAGED)->m.step_staged.attempt, attempt);
    cr_assert_eq(member_last(&follower, SMOE_MSG_STEP_STAGED)->m.step_staged.attempt, attempt);
}

static void commit_both(uint64_t step, uint64_t attempt)
{
    cr_assert_eq(member_commit(&host, step, attempt), 0);
    cr_assert_eq(member_commit(&follower, step, attempt), 0);
}

static void step_both(uint64_t step, uint64_t attempt)
{
    train(&host, 10 * step, 0, 5);
    train(&follower, 10 * step + 1, 1, 7);
    prepare_both(step, attempt);
    stage_both(step, attempt);
    commit_both(step, attempt);
}

static bool same(const struct crew_state *a, const struct crew_state *b)
{
    return a->step == b->step && memcmp(a->values, b->values, sizeof a->values) == 0;
}

static void expect_equal_copies(uint64_t step)
{
    for (uint32_t e = 0; e < 2; e++) {
        struct crew_state at_host = member_state(&host, e), copy = member_state(&follower, e);
        cr_assert_eq(at_host.step, step);
        cr_assert(same(&at_host, &copy), "expert %u of step %d", e, (int)step);
    }
}

static bool inventory_lists(const struct smoe_inventory_layer *l, uint32_t expert)
{
    for (size_t i = 0; i < l->n_experts; i++)
        if (l->experts[i] == expert)
            return true;
    return false;
}

/* ---- equal ---- */

Test(copies, are_equal_bit_for_bit_after_every_step, .init = begin, .fini = end)
{
    struct crew_state before = member_state(&host, 0);
    expect_equal_copies(0);
    for (uint64_t step = 1; step <= 5; step++) {
        step_both(step, 4);
        expect_equal_copies(step);
        struct crew_state now = member_state(&host, 0);
        cr_assert_not(same(&now, &before), "it has learned");
        before = now;
    }
}

Test(copies, are_equal_after_an_attempt_that_was_thrown_away, .init = begin, .fini = end)
{
    step_both(1, 4);
    train(&host, 1, 0, 5);
    train(&follower, 2, 1, 7);
    prepare_both(2, 4);
    stage_both(2, 4);
    struct crew_state committed = member_state(&host, 0);
    member_reset(&host, 5);
    member_reset(&follower, 5);
    expect_equal_copies(1);
    step_both(2, 5); /* other batches */
    expect_equal_copies(2);
    struct crew_state now = member_state(&host, 0);
    cr_assert_not(same(&now, &committed));
    struct member alone; /* that never knew of the first try makes the same step */
    struct smoe_agent_options o = crew_options();
    member_begin(&alone, &o);
    member_host(&alone, &(struct crew_host){.experts = zero, .n_experts = 1, .fresh = true});
    for (uint64_t step = 1; step <= 2; step++) {
        train(&alone, 10 * step, 0, 5);
        member_prepare(&alone, step, 4, NULL, 0);
        member_run(&alone);
        member_stage(&alone, step, 4, 0.5);
        member_run(&alone);
        member_commit(&alone, step, 4);
    }
    struct crew_state undisturbed = member_state(&alone, 0);
    cr_assert(same(&now, &undisturbed));
    member_end(&alone);
}

Test(copies, serve_from_the_state_of_the_last_step_when_roles_change, .init = begin, .fini = end)
{
    step_both(1, 4);
    struct crew_state state = member_state(&host, 0);
    cr_assert_eq(member_host(&follower,
                             &(struct crew_host){
                                 .experts = first_two, .n_experts = 2, .step = 1, .attempt = 4}),
                 0);
    struct crew_state served = member_state(&follower, 0);
    cr_assert(same(&state, &served));
    cr_assert_eq(member_decide(&follower, 9, 0, 3, true), 0);
    member_run(&follower);
    struct member *m = &host; /* what it would have answered */
    cr_assert_eq(member_decide(m, 9, 0, 3, true), 0);
    member_run(m);
    cr_assert_arr_eq(member_last(&follower, SMOE_MSG_OUTPUT)->raw,
                     member_last(m, SMOE_MSG_OUTPUT)->raw, 3 * CREW_D * sizeof(smoe_real));
}

/* ---- what a copy does not do ---- */

Test(copies, take_no_visits, .init = begin, .fini = end)
{
    cr_assert_eq(member_decide(&follower, 1, 0, 3, true), SMOE_EUNKNOWN);
    cr_assert_str_eq(follower.why.text, "DECISION: layer 2 expert 0 is not hosted here");
}

/* The connection ends by it, but not at once: what is walked over until then must be whole. */
Test(copies, that_are_not_there_are_no_reason_for_half_a_step, .init = begin, .fini = end)
{
    static const uint32_t elsewhere[] = {2};
    cr_assert_eq(member_prepare(&host, 1, 4, elsewhere, 1), SMOE_EUNKNOWN);
    cr_assert_str_eq(host.why.text, "STEP_PREPARE.gradients: layer 2 expert 2 is not hosted here");
}

Test(copies, tell_no_norms, .init = begin, .fini = end)
{
    train(&host, 1, 0, 5);
    prepare_both(1, 4);
    const struct smoe_msg_step_norm norm = member_last(&follower, SMOE_MSG_STEP_NORM)->m.step_norm;
    cr_assert_eq(norm.layers[0].n, 1);
    cr_assert_eq(norm.layers[0].experts[0], 1);
}

Test(copies, of_a_worker_that_serves_nothing_answer_at_once, .fini = end)
{
    struct smoe_agent_options o = crew_options();
    member_begin(&host, &o);
    member_begin(&follower, &o);
    member_host(&host, &(struct crew_host){.experts = zero, .n_experts = 1, .fresh = true});
    member_host(&follower, &(struct crew_host){.copies = zero, .n_copies = 1, .fresh = true});
    train(&host, 1, 0, 5);
    member_prepare(&host, 1, 4, zero, 1);
    member_run(&host);
    member_prepare(&follower, 1, 4, NULL, 0);
    cr_assert_eq(member_last(&follower, SMOE_MSG_STEP_NORM)->m.step_norm.layers[0].n, 0);
    crew_pass_gradient(&host, &follower, 0);
    stage_both(1, 4);
    commit_both(1, 4);
    struct crew_state at_host = member_state(&host, 0), copy = member_state(&follower, 0);
    cr_assert(same(&at_host, &copy));
}

/* Its sum did not come: it stays behind, and says so. */
Test(copies, without_a_sum_do_not_pass_for_current, .init = begin, .fini = end)
{
    train(&host, 1, 0, 5);
    member_prepare(&host, 1, 4, NULL, 0);
    member_prepare(&follower, 1, 4, NULL, 0);
    member_run(&host);
    member_run(&follower);
    stage_both(1, 4);
    commit_both(1, 4);
    cr_assert_eq(member_state(&follower, 0).step, 0);
    cr_assert_eq(member_state(&follower, 1).step, 1);
    member_disconnect(&follower);
    member_connect(&follower);
    const struct smoe_inventory_layer *l =
        &member_last(&follower, SMOE_MSG_INVENTORY)->m.inventory.layers[0];
    cr_assert_eq(l->step, 1);
    cr_assert_not(inventory_lists(l, 0));
    cr_assert(inventory_lists(l, 1));
}

Test(copies, take_no_sum_of_another_step_or_attempt, .init = begin, .fini = end)
{
    train(&host, 1, 0, 5);
    train(&follower, 2, 1, 5);
    member_prepare(&host, 1, 4, zero, 1);
    member_prepare(&follower, 1, 5, NULL, 0);
    cr_assert_eq(crew_pass_gradient(&host, &follower, 0), 0, "late, not wrong");
    member_run(&follower);
    member_stage(&follower, 1, 5, 1);
    member_run(&follower);
    member_commit(&follower, 1, 5);
    cr_assert_eq(member_state(&follower, 0).step, 0);
}

Test(copies, use_a_sum_that_came_while_a_task_ran_on_them, .init = begin, .fini = end)
{
    struct smoe_task *task;
    train(&host, 1, 0, 5);
    train(&follower, 2, 1, 5);
    /* The follower served the expert a moment ago and still evaluates on it. */
    member_host(&follower,
                &(struct crew_host){.experts = first_two, .n_experts = 2, .fresh = true});
    cr_assert_eq(member_decide(&follower, 3, 0, 6, false), 0);
    task = member_start(&follower);
    cr_assert_eq(task->kind, SMOE_TASK_FORWARD);
    member_host(&follower,
                &(struct crew_host){
                    .experts = one, .n_experts = 1, .copies = zero, .n_copies = 1, .fresh = true});
    member_prepare(&host, 1, 4, zero, 1);
    member_prepare(&follower, 1, 4, one, 1);
    crew_pass_gradient(&host, &follower, 0);
    crew_pass_gradient(&follower, &host, 1);
    member_finish(&follower, task);
    member_run(&host);
    member_run(&follower);
    stage_both(1, 4);
    commit_both(1, 4);
    expect_equal_copies(1);
    cr_assert_eq(member_count(&follower, SMOE_MSG_OUTPUT), 2, "the visit is answered as well");
}

/* ---- filling ---- */

Test(filling, an_empty_copy_counts_for_nothing_until_its_state_has_come, .init = begin, .fini = end)
{
    struct member third;
    struct smoe_agent_options o = crew_options();
    step_both(1, 4);
    member_begin(&third, &o);
    cr_assert_eq(
        member_host(&third,
                    &(struct crew_host){.copies = zero, .n_copies = 1, .step = 1, .attempt = 4}),
        0);
    cr_assert_eq(member_state(&third, 0).step, SMOE_STEP_NEVER);
    member_disconnect(&third);
    member_connect(&third);
    const struct smoe_msg_inventory *inventory =
        &member_last(&third, SMOE_MSG_INVENTORY)->m.inventory;
    cr_assert(inventory->n_layers == 0 || inventory->layers[0].n_experts == 0);
    member_host(&third,
                &(struct crew_host){.copies = zero, .n_copies = 1, .step = 1, .attempt = 4});
    struct crew_state state = member_state(&host, 0);
    cr_assert_eq(member_store(&third, 0, &state, 4), 0, "%s", third.why.text);
    struct crew_state filled = member_state(&third, 0);
    cr_assert(same(&state, &filled));
    member_disconnect(&third);
    member_connect(&third);
    const struct smoe_inventory_layer *l =
        &member_last(&third, SMOE_MSG_INVENTORY)->m.inventory.layers[0];
    cr_assert_eq(l->step, 1);
    cr_assert(inventory_lists(l, 0));
    member_end(&third);
}

Test(filling, that_does_not_fit_is_refused_and_what_is_held_goes_on, .fini = end)
{
    struct smoe_agent_options o = crew_options();
    uint64_t expert_bytes = 7 * CREW_PARAMS * sizeof(smoe_real); /* AdamW: now, staged, gradient */
    o.experts_bytes_max = 2 * expert_bytes;
    member_begin(&host, &o);
    member_begin(&follower, &o);
    cr_assert_eq(
        member_host(&host,
                    &(struct crew_host){.experts = first_two, .n_experts = 2, .fresh = true}),
        0);
    uint32_t two[] = {2};
    cr_assert_eq(member_host(&host, &(struct crew_host){.experts = first_two,
                                                        .n_experts = 2,
                                                        .copies = two,
                                                        .n_copies = 1,
                                                        .fresh = true}),
                 SMOE_ENOMEMORY);
    train(&host, 1, 1, 3);
    cr_assert_eq(member_count(&host, SMOE_MSG_PARCEL_GRADIENT), 1);
}

/* ---- staged when the connection broke ---- */

/* Both have staged step 2 of attempt 7; the host's connection breaks. Its state before and after. */
static void lose_staged(struct crew_state *ret_before, struct crew_state *ret_after)
{
    step_both(1, 4);
    *ret_before = member_state(&host, 0);
    train(&host, 1, 0, 5);
    train(&follower, 2, 1, 7);
    prepare_both(2, 7);
    stage_both(2, 7);
    member_disconnect(&host);
    member_commit(&follower, 2, 7);
    *ret_after = member_state(&follower, 0);
}

static void come_back(uint64_t step, uint64_t attempt)
{
    member_connect(&host);
    const struct smoe_inventory_layer *l =
        &member_last(&host, SMOE_MSG_INVENTORY)->m.inventory.layers[0];
    cr_assert_eq(l->step, 1);
    cr_assert_eq(l->staged_step, 2);
    cr_assert_eq(l->staged_attempt, 7);
    cr_assert(inventory_lists(l, 0) && inventory_lists(l, 1));
    cr_assert_eq(member_host(&host, &(struct crew_host){.experts = zero,
                                                        .n_experts = 1,
                                                        .copies = one,
                                                        .n_copies = 1,
                                                        .step = step,
                                                        .attempt = attempt}),
                 0);
}

Test(staged, step_is_put_in_force_by_a_host_that_names_it, .init = begin, .fini = end)
{
    struct crew_state before, after;
    lose_staged(&before, &after);
    come_back(2, 7);
    struct crew_state now = member_state(&host, 0);
    cr_assert(same(&now, &after));
    expect_equal_copies(2);
    step_both(3, 7);
    expect_equal_copies(3);
}

Test(staged, step_is_thrown_away_by_a_host_that_names_the_one_before, .init = begin, .fini = end)
{
    struct crew_state before, after;
    lose_staged(&before, &after);
    come_back(1, 4);
    struct crew_state now = member_state(&host, 0);
    cr_assert(same(&now, &before));
    member_commit(&host, 2, 7); /* late: means nothing now */
    now = member_state(&host, 0);
    cr_assert(same(&now, &before));
}

/* The step was committed in another attempt, which this worker was no part of: what it has is older. */
Test(staged, step_of_another_attempt_is_thrown_away_and_does_not_pass_for_the_committed_one,
     .init = begin, .fini = end)
{
    struct crew_state before, after;
    lose_staged(&before, &after);
    come_back(2, 8);
    cr_assert_eq(member_state(&host, 0).step, 1);
    member_disconnect(&host);
    member_connect(&host);
    const struct smoe_inventory_layer *l =
        &member_last(&host, SMOE_MSG_INVENTORY)->m.inventory.layers[0];
    cr_assert_eq(l->staged_step, 0);
    cr_assert(l->n_experts == 0 || l->step == 1, "older than what it was told");
}

Test(staged, half_a_step_does_not_outlive_the_connection, .init = begin, .fini = end)
{
    step_both(1, 4);
    train(&host, 1, 0, 5);
    train(&follower, 2, 1, 7);
    prepare_both(2, 7);
    member_stage(&host, 2, 7, 1);
    member_finish(&host, member_start(&host)); /* one of its two experts */
    cr_assert_eq(member_count(&host, SMOE_MSG_STEP_STAGED), 1, "that of step 1");
    member_disconnect(&host);
    member_connect(&host);
    const struct smoe_inventory_layer *l =
        &member_last(&host, SMOE_MSG_INVENTORY)->m.inventory.layers[0];
    cr_assert_eq(l->staged_step, 0);
    cr_assert_eq(l->step, 1);
    cr_assert_eq(l->n_experts, 2);
}

Test(staged, step_survives_several_broken_connections, .init = begin, .fini = end)
{
    struct crew_state before, after;
    lose_staged(&before, &after);
    for (int i = 0; i < 3; i++) {
        member_connect(&host);
        member_disconnect(&host);
    }
    come_back(2, 7);
    struct crew_state now = member_state(&host, 0);
    cr_assert(same(&now, &after));
}

/* An expert that comes with the Host that commits the step is not part of it. */
Test(staged, step_is_not_that_of_experts_that_come_later, .init = begin, .fini = end)
{
    struct crew_state before, after;
    lose_staged(&before, &after);
    member_connect(&host);
    member_host(&host, &(struct crew_host){.experts = zero,
                                           .n_experts = 1,
                                           .copies = (const uint32_t[]){1, 2},
                                           .n_copies = 2,
                                           .step = 2,
                                           .attempt = 7});
    cr_assert_eq(member_state(&host, 0).step, 2);
    cr_assert_eq(member_state(&host, 2).step, SMOE_STEP_NEVER);
}
