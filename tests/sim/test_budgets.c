/* SPDX-License-Identifier: Apache-2.0
 *
 * Four equal nodes that may draw 100, 60, 40 and 20 % of what they draw at full speed, by duty cycles, under the
 * whole daemon: what it must learn and keep to. Their meters are models with noise, whose parameters it is not
 * told; what it is told before is wrong by four times.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "sim/whole.h"

#define NODES   4
#define FMAX_HZ 3e9
#define FULL_W  54.0 /* kappa fmax^3 */
#define SHARES  2.2  /* of SHARE */
#define SLOTS   400
#define SETTLED 200 /* slots until everything must be known */

static const double SHARE[NODES] = {1, 0.6, 0.4, 0.2};

#define CYCLES 2e5 /* of a visit */
#define SLOT_S 0.1

/* What the core knew of a node at the end of a slot. */
struct known {
    double joules, cost, error, static_w;
    bool curved; /* the solve has its curve */
    uint64_t visits;
};

struct seen {
    struct known node[SLOTS][NODES];
    uint64_t slow_at; /* node 1 is slowed to a quarter then; 0: never */
};

static void watch(void *context, uint64_t slot, const struct smoe_core *core,
                  struct smoe_world *world)
{
    struct seen *seen = context;
    uint64_t flops = smoe_core_layer(core, 0).forward_flops;
    if (slot == seen->slow_at && slot)
        smoe_world_slow_worker(world, smoe_whole_process(1), 4);
    for (uint32_t j = 0; j < NODES; j++) {
        const struct smoe_worker *w = &smoe_core_fleet(core)->workers[smoe_whole_worker(core, j)];
        seen->node[slot][j] = (struct known){
            .joules = w->joules,
            .cost = smoe_worker_cycles_per_visit(w, flops, false),
            .error = smoe_worker_doubts(w, flops, false).cycles_per_visit,
            .static_w = smoe_learned_static_w(&w->learned, NULL),
            .curved = w->curved,
            .visits = w->account.settled,
        };
    }
}

/* `load` of what the budgets sustain, where what the daemon is told before is `off` times the truth. 0: no
 * budgets, and more work than full speed can do. */
static struct smoe_slotted_result run(struct seen *seen, double load, double off, uint64_t seed)
{
    struct smoe_scenario_spec spec = *smoe_scenario_find("paper");
    struct smoe_scenario s;
    struct smoe_slotted_result r;
    struct smoe_why why = {""};
    spec.workers = spec.experts = NODES;
    *spec.budgets = 0;
    snprintf(spec.speeds, sizeof spec.speeds, "1");
    if (load > 0)
        snprintf(spec.budgets, sizeof spec.budgets, "%g %g %g %g", FULL_W * SHARE[0],
                 FULL_W * SHARE[1], FULL_W * SHARE[2], FULL_W * SHARE[3]);
    *spec.caps = 0;
    snprintf(spec.ranks, sizeof spec.ranks, "0 1 2 3");
    spec.cycles = CYCLES;
    spec.power = SMOE_SIM_LINE;
    spec.meter_noise = 0.05;
    spec.freq_hz = FMAX_HZ;
    spec.slot_ns = (uint64_t)(SLOT_S * 1e9);
    spec.top_k = 1;
    spec.tokens = (load > 0 ? load * SHARES : 1.15 * NODES) * SLOT_S * FMAX_HZ / CYCLES;
    cr_assert_eq(smoe_scenario_init(&s, &spec, &why), 0, "%s", why.text);
    struct smoe_whole_fleet fleet = {.prior_off = off, .watch = watch, .context = seen};
    struct smoe_slotted_options o = {
        .policy = SMOE_POLICY_LYAPUNOV, .slots = SLOTS, .seed = seed, .whole = &fleet};
    cr_assert_eq(smoe_whole_run(&s, &o, &r, &why), 0, "%s", why.text);
    smoe_scenario_release(&s);
    return r;
}

/* Mean power of node j from one slot to another, over its budget. */
static double spent(const struct seen *seen, uint32_t j, uint64_t from, uint64_t to)
{
    double joules = seen->node[to][j].joules - seen->node[from][j].joules;
    return joules / (SLOT_S * (double)(to - from)) / (FULL_W * SHARE[j]);
}

/* Visits a second of all nodes, over what they do in a second at full speed together. */
static double speed(const struct seen *seen, uint64_t from, uint64_t to)
{
    double visits = 0;
    for (uint32_t j = 0; j < NODES; j++)
        visits += (double)(seen->node[to][j].visits - seen->node[from][j].visits);
    return visits / (SLOT_S * (double)(to - from)) * CYCLES / FMAX_HZ;
}

static void check_known(const struct seen *seen, uint64_t slot, double truth_of_1, double tolerance)
{
    for (uint32_t j = 0; j < NODES; j++) {
        const struct known *k = &seen->node[slot][j];
        double truth = j == 1 ? truth_of_1 : CYCLES;
        cr_expect_lt(fabs(k->cost / truth - 1), tolerance, "slot %d, node %u: %g cycles", (int)slot,
                     j, k->cost);
    }
}

Test(budgets, at_eight_tenths_of_what_they_sustain_all_keep_to_theirs_and_the_work_is_done)
{
    for (int down = 0; down < 2; down++) {
        static struct seen seen;
        struct smoe_slotted_result r = run(&seen, 0.8, down ? 0.25 : 4, 1);
        check_known(&seen, SETTLED, CYCLES, 0.05);
        for (uint32_t j = 0; j < NODES; j++) {
            double part = spent(&seen, j, SETTLED, SLOTS - 1);
            cr_expect_lt(part, 1.02, "node %u: %g of its budget", j, part);
            cr_expect(seen.node[SETTLED][j].curved, "a line is no cube");
            cr_expect_lt(seen.node[SETTLED][j].static_w, 0.02 * FULL_W, "it has none");
        }
        cr_expect_gt((double)r.visits, 0.99 * (double)r.tokens);
        cr_expect_lt(r.backlog_mean, 0.1 * (double)r.tokens / SLOTS, "%g", r.backlog_mean);
        cr_expect_lt(r.backlog_slope, 0.5, "%g", r.backlog_slope);
        smoe_slotted_release(&r);
    }
}

Test(budgets, close_to_what_they_sustain_each_spends_just_its_own)
{
    static struct seen seen;
    struct smoe_slotted_result r = run(&seen, 0.97, 4, 2);
    for (uint32_t j = 0; j < NODES; j++) {
        double part = spent(&seen, j, SETTLED, SLOTS - 1);
        cr_expect(part < 1.02 && part > 0.85, "node %u: %g of its budget", j, part);
    }
    cr_expect_gt((double)r.visits, 0.99 * (double)r.tokens);
    cr_expect_lt(r.backlog_slope, 2, "%g", r.backlog_slope);
    smoe_slotted_release(&r);
}

/* Four equal nodes, without budgets and with more work than they can do: three and a quarter are left. */
Test(budgets, a_node_slowed_to_a_quarter_is_followed_and_costs_its_share)
{
    static struct seen seen;
    seen.slow_at = 250;
    struct smoe_slotted_result r = run(&seen, 0, 1, 3);
    check_known(&seen, 249, CYCLES, 0.05);
    check_known(&seen, 260, 4 * CYCLES, 0.15);
    check_known(&seen, SLOTS - 1, 4 * CYCLES, 0.05);
    double kept = speed(&seen, 270, SLOTS - 1) / speed(&seen, 100, 250);
    cr_expect_float_eq(kept, 3.25 / 4, 0.02, "%g of the throughput is left", kept);
    smoe_slotted_release(&r);
}

/* Of more work than the budgets pay for the queues take the rest. */
Test(budgets, above_what_they_sustain_each_still_spends_its_own)
{
    static struct seen seen;
    struct smoe_slotted_result r = run(&seen, 1.3, 4, 4);
    for (uint32_t j = 0; j < NODES; j++) {
        double part = spent(&seen, j, SETTLED, SLOTS - 1);
        cr_expect(part < 1.02 && part > 0.97, "node %u: %g of its budget", j, part);
    }
    double done = speed(&seen, SETTLED, SLOTS - 1);
    cr_expect_float_eq(done, SHARES, 0.03 * SHARES, "%g of %g", done, SHARES);
    cr_expect_gt(r.backlog_slope, 0);
    smoe_slotted_release(&r);
}

/* What it may draw now pays for a quarter of its visits: of 1 + .6 + .4 + .2 there are left 1 + .15 + .4 + .2. */
Test(budgets, a_node_slowed_to_a_quarter_costs_its_share_of_what_the_budgets_sustain)
{
    static struct seen seen;
    seen.slow_at = 200;
    struct smoe_slotted_result r = run(&seen, 1.3, 1, 5);
    check_known(&seen, 199, CYCLES, 0.05);
    check_known(&seen, 215, 4 * CYCLES, 0.15);
    check_known(&seen, SLOTS - 1, 4 * CYCLES, 0.05);
    double kept = speed(&seen, 300, SLOTS - 1) / speed(&seen, 100, 199);
    cr_expect_float_eq(kept, 1.75 / SHARES, 0.03, "%g of the throughput is left", kept);
    for (uint32_t j = 0; j < NODES; j++) {
        double part = spent(&seen, j, 230, SLOTS - 1);
        cr_expect_lt(part, 1.02, "node %u: %g of its budget", j, part);
    }
    smoe_slotted_release(&r);
}
