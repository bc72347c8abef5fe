/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole daemon in virtual time (sim/whole.c) beside the slotted loop that stands in for it
 * (sim/slotted.c): same scenario, arrivals, scores and policy. They are two models of one thing, and where they
 * may differ, and by how much, is said here:
 *
 *  - Work is served in time, not at once. What is done when a slot ends comes back a latency later, a
 *    thousandth of a slot; a frequency is obeyed as late, in whole kHz, and not at all if it differs by less than
 *    half a per cent from the one in force. At an instant up to half a per cent of a slot's visits (1,170) and a
 *    parcel a node (one or two visits) may so be later here: some 20 visits of backlog. Over a run, tokens that
 *    are complete differ by the backlog at its end; a visit a slot is allowed on top.
 *  - The daemon does not know c before the first report. It routes the first slot by the gate alone, at the
 *    caps' frequencies, and nodes begin their cycles of overspending and paying back out of step, where those of
 *    the slotted loop begin together, exactly equal.
 *  - Meters lag by a parcel, so that a node which spends exactly its budget is now and then a tenth of a joule in
 *    debt. Of the baselines only `energy` looks at it: in the slotted loop no node ever has a debt and `energy`
 *    is `random`; here it is a policy, and a stable one.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "sim/whole.h"

struct both {
    uint64_t slots;
    struct smoe_slotted_result slotted, whole;
};

static void load(const char *name, struct smoe_scenario *ret)
{
    struct smoe_why why;
    cr_assert_eq(smoe_scenario_init(ret, smoe_scenario_find(name), &why), 0, "%s", why.text);
}

static struct smoe_slotted_result run_whole(enum smoe_policy policy, uint64_t slots, uint64_t seed)
{
    struct smoe_scenario s;
    struct smoe_slotted_result r;
    struct smoe_why why = {""};
    struct smoe_slotted_options o = {.policy = policy, .slots = slots, .seed = seed};
    load("paper", &s);
    cr_assert_eq(smoe_whole_check(&s, &o, &why), 0, "%s", why.text);
    cr_assert_eq(smoe_whole_run(&s, &o, &r, &why), 0, "%s", why.text);
    smoe_scenario_release(&s);
    return r;
}

static struct both run(enum smoe_policy policy, uint64_t slots)
{
    struct smoe_scenario s;
    struct both b = {.slots = slots, .whole = run_whole(policy, slots, 1)};
    load("paper", &s);
    smoe_slotted_run(&s,
                     &(struct smoe_slotted_options){.policy = policy, .slots = slots, .seed = 1},
                     &b.slotted);
    smoe_scenario_release(&s);
    return b;
}

static void release(struct both *b)
{
    smoe_slotted_release(&b->slotted);
    smoe_slotted_release(&b->whole);
}

/* Backlog of parcels in service and frequencies not obeyed yet (above), and of luck. [visit] */
#define LATE 25.0

#define NEAR(b, figure, tolerance)                                                        \
    cr_assert_float_eq((double)(b).whole.figure, (double)(b).slotted.figure, (tolerance), \
                       #figure " is %g whole, %g slotted", (double)(b).whole.figure,      \
                       (double)(b).slotted.figure)

/* What every policy has in common. */
static void check_common(const struct both *b, double backlog_tolerance)
{
    cr_assert_eq(b->whole.tokens, b->slotted.tokens, "the same arrivals");
    NEAR(*b, gate_mass_best, 1e-9); /* the same scores, summed batch by batch */
    NEAR(*b, load, 1e-12);
    cr_assert_eq(b->whole.slots_held, 0, "the trainer was held back");
    NEAR(*b, visits, backlog_tolerance + (double)b->slots);
    NEAR(*b, complete, backlog_tolerance + (double)b->slots);
    NEAR(*b, backlog_mean, backlog_tolerance);
    cr_assert_lt(
        fabs((double)b->whole.visits + b->whole.backlog_last - 3.0 * (double)b->whole.tokens), LATE,
        "every visit is done or waits");
    cr_assert_lt(b->whole.overdraft, 0.01, "%g", b->whole.overdraft);
}

Test(whole, lyapunov_is_worth_in_the_daemon_what_it_is_in_the_slotted_loop)
{
    struct both b = run(SMOE_POLICY_LYAPUNOV, 150);
    check_common(&b, 2 * LATE);
    NEAR(b, gate_mass, 0.005);
    NEAR(b, agreement, 0.015);
    NEAR(b, debt_mean, 0.2);
    cr_assert_eq(b.whole.slots_exact, b.slots, "every slot solved to the proof");
    cr_assert_lt(b.whole.gap_max, 1e-9);
    release(&b);
}

/* The paper's own rule prices a batch at the queues of the slot's beginning, and herds: an error in them shows. */
Test(whole, the_papers_linear_rule_agrees)
{
    struct both b = run(SMOE_POLICY_LYAPUNOV_LINEAR, 150);
    check_common(&b, 2 * LATE);
    NEAR(b, gate_mass, 0.015);
    NEAR(b, agreement, 0.02);
    release(&b);
}

/* No price on gate scores or energy: what differs is only how work is served. Its queues grow. */
Test(whole, topk_overloads_the_same_nodes_as_fast)
{
    struct both b = run(SMOE_POLICY_TOPK, 50);
    check_common(&b, LATE);
    cr_assert_eq(b.whole.agreement, 1);
    NEAR(b, gate_mass, 1e-6);
    NEAR(b, backlog_slope, 0.2);
    release(&b);
}

Test(whole, queue_agrees)
{
    struct both b = run(SMOE_POLICY_QUEUE, 150);
    check_common(&b, 2 * LATE); /* 390 visits at a time to the same three nodes */
    NEAR(b, gate_mass, 0.005);
    NEAR(b, agreement, 0.005);
    release(&b);
}

Test(whole, queue_jsq_agrees)
{
    struct both b = run(SMOE_POLICY_QUEUE_JSQ, 150);
    check_common(&b, 0.2 * LATE);
    NEAR(b, gate_mass, 0.005);
    NEAR(b, agreement, 0.005);
    release(&b);
}

Test(whole, the_same_seed_gives_the_same_result_to_the_last_bit)
{
    struct smoe_slotted_result first = run_whole(SMOE_POLICY_LYAPUNOV, 30, 5);
    struct smoe_slotted_result second = run_whole(SMOE_POLICY_LYAPUNOV, 30, 5);
    struct smoe_slotted_result other = run_whole(SMOE_POLICY_LYAPUNOV, 30, 6);
    cr_assert_eq(first.visits, second.visits);
    cr_assert_eq(first.complete, second.complete);
    cr_assert_eq(first.backlog_mean, second.backlog_mean);
    cr_assert_eq(first.debt_mean, second.debt_mean);
    cr_assert_neq(first.backlog_mean, other.backlog_mean);
    smoe_slotted_release(&first), smoe_slotted_release(&second), smoe_slotted_release(&other);
}

Test(whole, unlike_workers_with_several_experts_each_come_up_and_keep_up)
{
    struct smoe_scenario s;
    struct smoe_slotted_result r;
    struct smoe_why why = {""};
    struct smoe_slotted_options o = {.policy = SMOE_POLICY_LYAPUNOV, .slots = 100, .seed = 1};
    load("unlike", &s);
    cr_assert_eq(smoe_whole_run(&s, &o, &r, &why), 0, "%s", why.text);
    cr_assert_gt((double)r.visits, 0.97 * 2 * (double)r.tokens);
    cr_assert_eq(r.slots_held, 0);
    smoe_slotted_release(&r);
    smoe_scenario_release(&s);
}

static void check_refused(const struct smoe_scenario *s, const struct smoe_slotted_options *o,
                          const char *sentence)
{
    struct smoe_why why = {""};
    cr_assert_eq(smoe_whole_check(s, o, &why), SMOE_ECONFIG);
    cr_assert_str_eq(why.text, sentence);
}

Test(whole, what_only_the_slotted_loop_can_do_is_refused_by_its_key)
{
    struct smoe_slotted_options o = {.policy = SMOE_POLICY_TOPK, .slots = 1, .seed = 1};
    struct smoe_scenario s;
    struct smoe_why why;
    load("paper", &s);
    cr_assert_eq(smoe_whole_check(&s, &o, &why), 0);
    o.freq_rule = SMOE_FREQ_FULL;
    check_refused(&s, &o, "policy topk: the daemon has no frequency rule full: sustainable");
    o.policy = SMOE_POLICY_LYAPUNOV; /* decides them itself */
    cr_assert_eq(smoe_whole_check(&s, &o, &why), 0);
    s.spec.copies = 2;
    check_refused(&s, &o, "gate.copies: the daemon serves an expert on one worker");
    s.spec.copies = 1;
    s.spec.up = 1;
    check_refused(&s, &o, "fleet.up: workers that leave are told as stories, not run whole");
    s.spec.up = 0;
    s.spec.delay = 1;
    check_refused(&s, &o, "routing.delay, routing.work: the daemon has its own: 0 to run whole");
    s.spec.delay = 0;
    s.spec.source = SMOE_SOURCE_CLOSED;
    check_refused(&s, &o, "tokens.source: only an open source runs whole");
    smoe_scenario_release(&s);
}
