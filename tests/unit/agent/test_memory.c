/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker with little memory for tensors: it gives up what can be had again, and what it computes is
 * what it would have computed.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/agent/crew.h"

enum { ROWS = 20, PARCELS = 12, BYTES = ROWS * CREW_D * (int)sizeof(smoe_real) };

static const uint32_t first_two[] = {0, 1};
static struct member m;

/* Room for so many tensors of one parcel. */
static void begin_with(uint64_t tensors)
{
    struct smoe_agent_options o = crew_options();
    o.tensors_bytes_max = tensors * BYTES;
    member_begin(&m, &o);
    cr_assert_eq(
        member_host(&m, &(struct crew_host){.experts = first_two, .n_experts = 2, .fresh = true}),
        0);
}

static void end(void)
{
    member_end(&m);
}

static void forward(uint64_t parcel)
{
    cr_assert_eq(member_decide(&m, parcel, (uint32_t)(parcel % 2), ROWS, true), 0, "%s",
                 m.why.text);
    member_run(&m);
    cr_assert_eq(member_last(&m, SMOE_MSG_OUTPUT)->m.output.parcel, parcel);
}

static bool was_evicted(uint64_t parcel)
{
    for (size_t i = 0; i < m.far.mail.n; i++) {
        const struct smoe_message *e = &m.far.mail.letters[i].m;
        for (size_t p = 0; e->type == SMOE_MSG_EVICTED && p < e->evicted.n_parcels; p++)
            if (e->evicted.parcels[p] == parcel)
                return true;
    }
    return false;
}

static uint32_t evicted(void)
{
    uint32_t n = 0;
    for (uint64_t parcel = 1; parcel <= PARCELS; parcel++)
        n += was_evicted(parcel);
    return n;
}

/* The gradient of a parcel; what it needs once more is given. Its dx. */
static const smoe_real *backward(uint64_t parcel)
{
    cr_assert_eq(member_backprop(&m, parcel, ROWS), 0, "%s", m.why.text);
    if (was_evicted(parcel)) {
        cr_assert_null(member_start(&m), "it waits for x");
        cr_assert_eq(member_inputs(&m, parcel, ROWS), 0, "%s", m.why.text);
    }
    member_run(&m);
    const struct letter *l = member_last(&m, SMOE_MSG_PARCEL_GRADIENT);
    cr_assert_eq(l->m.parcel_gradient.parcel, parcel);
    return (const smoe_real *)(const void *)l->raw;
}

/* dx of all parcels, and both experts after a step. */
struct pass {
    smoe_real dx[PARCELS][ROWS * CREW_D];
    struct crew_state experts[2];
    uint32_t evicted;
};

static struct pass whole_pass(uint64_t tensors)
{
    static struct pass p;
    begin_with(tensors);
    for (uint64_t i = 1; i <= PARCELS; i++)
        forward(i);
    for (uint64_t i = 1; i <= PARCELS; i++)
        memcpy(p.dx[i - 1], backward(i), sizeof p.dx[0]);
    cr_assert_eq(member_prepare(&m, 1, 1, NULL, 0), 0);
    member_run(&m);
    cr_assert_eq(member_stage(&m, 1, 1, 1), 0);
    member_run(&m);
    cr_assert_eq(member_commit(&m, 1, 1), 0);
    for (uint32_t e = 0; e < 2; e++)
        p.experts[e] = member_state(&m, e);
    p.evicted = evicted();
    end();
    return p;
}

/* With all the memory it wants, and with ever less. */
Test(memory, that_is_short_changes_nothing_of_what_is_computed)
{
    static const uint64_t tensors[] = {40, 20, 10, 6, 4};
    struct pass plenty = whole_pass(1000);
    cr_assert_eq(plenty.evicted, 0);
    uint32_t before = 0;
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        struct pass scarce = whole_pass(tensors[i]);
        cr_assert_arr_eq(scarce.dx, plenty.dx, sizeof plenty.dx, "%d tensors", (int)tensors[i]);
        for (int e = 0; e < 2; e++)
            cr_assert_arr_eq(scarce.experts[e].values, plenty.experts[e].values,
                             sizeof plenty.experts[e].values, "%d tensors", (int)tensors[i]);
        cr_assert_geq(scarce.evicted, before);
        before = scarce.evicted;
    }
    cr_assert_gt(before, PARCELS / 2, "the last had room for next to nothing");
}

Test(memory, gives_up_what_it_can_compute_again_before_what_must_be_sent_again, .fini = end)
{
    begin_with(40); /* x of all, but not what their forward passes saved */
    for (uint64_t i = 1; i <= PARCELS; i++)
        forward(i);
    for (uint64_t i = 100; i < 120; i++) /* more work than fits beside that, not begun */
        cr_assert_eq(member_decide(&m, i, 0, ROWS, false), 0, "%s", m.why.text);
    cr_assert_eq(evicted(), 0);
    struct smoe_task *task;
    cr_assert_eq(member_backprop(&m, PARCELS, ROWS), 0);
    task = member_start(&m);
    cr_assert_null(task->saved, "the newest has lost it");
    member_finish(&m, task);
    cr_assert_eq(member_backprop(&m, 1, ROWS), 0);
    task = member_start(&m);
    cr_assert_not_null(task->saved, "the oldest, whose gradient comes first, has it");
    member_finish(&m, task);
}

Test(memory, gives_up_the_newest_rows_first_and_says_which, .fini = end)
{
    begin_with(6);
    for (uint64_t i = 1; i <= PARCELS; i++)
        forward(i);
    uint32_t n = evicted();
    cr_assert_gt(n, 0);
    cr_assert_lt(n, PARCELS);
    cr_assert_not(was_evicted(1), "its gradient comes first");
    for (size_t i = 0; i < m.far.mail.n; i++) {
        const struct smoe_message *e = &m.far.mail.letters[i].m;
        for (size_t p = 1; e->type == SMOE_MSG_EVICTED && p < e->evicted.n_parcels; p++)
            cr_assert_lt(e->evicted.parcels[p], e->evicted.parcels[p - 1]);
    }
}

Test(memory, rows_that_do_not_wait_for_x_are_refused, .fini = end)
{
    begin_with(6);
    for (uint64_t i = 1; i <= PARCELS; i++)
        forward(i);
    uint64_t gone = 0;
    for (uint64_t i = 1; i <= PARCELS; i++)
        gone = was_evicted(i) ? i : gone;
    cr_assert_eq(member_inputs(&m, gone, ROWS), SMOE_EUNKNOWN, "its gradient has not come");
    cr_assert(strstr(m.why.text, "does not wait for x"), "%s", m.why.text);
}

Test(memory, a_starved_parcel_that_is_reset_is_forgotten, .fini = end)
{
    begin_with(6);
    for (uint64_t i = 1; i <= PARCELS; i++)
        forward(i);
    uint64_t gone = 0;
    for (uint64_t i = 1; i <= PARCELS; i++)
        gone = was_evicted(i) ? i : gone;
    cr_assert_eq(member_backprop(&m, gone, ROWS), 0);
    member_reset(&m, 2);
    cr_assert_null(member_start(&m));
    forward(gone); /* its number is free */
    member_backprop(&m, gone, ROWS);
    member_run(&m);
    cr_assert_eq(member_last(&m, SMOE_MSG_PARCEL_GRADIENT)->m.parcel_gradient.parcel, gone);
}

/* Evaluation keeps nothing, so nothing of it is ever given up. */
Test(memory, is_not_filled_by_evaluation, .fini = end)
{
    begin_with(4);
    for (uint64_t i = 1; i <= PARCELS; i++) {
        cr_assert_eq(member_decide(&m, i, 0, ROWS, false), 0, "%s", m.why.text);
        member_run(&m);
    }
    cr_assert_eq(member_count(&m, SMOE_MSG_OUTPUT), PARCELS);
    cr_assert_eq(evicted(), 0);
}
