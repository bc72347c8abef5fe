/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/detmath.h"
#include "common/base/rng.h"
#include "daemon/core/place_planner.h"
#include "stablemoe/error.h"

enum { EXPERTS = 16, WORKERS = 16, SLOTS = 4 };

static uint32_t slots[WORKERS];
static double speed[WORKERS];
static struct smoe_place_problem fleet = {
    .n_experts = EXPERTS, .n_workers = WORKERS, .slots = slots, .speed = speed};
static struct smoe_place_scratch *scratch;

struct plan {
    struct smoe_place_plan p;
    uint32_t slot_first[WORKERS + 1];
    uint16_t expert[WORKERS * (SLOTS + 1)];
};

static void setup(void)
{
    cr_assert_eq(smoe_place_scratch_new(EXPERTS, WORKERS, WORKERS * (SLOTS + 1), &scratch), 0);
    for (int j = 0; j < WORKERS; j++) {
        slots[j] = SLOTS;
        speed[j] = 1;
    }
}

static void teardown(void)
{
    smoe_place_scratch_free(scratch);
}

TestSuite(planner, .init = setup, .fini = teardown);

static struct smoe_place_planner *start(const char *rule, double average)
{
    struct smoe_place_rule r;
    struct smoe_place_planner *p;
    cr_assert(smoe_place_parse(rule, &r));
    r.average = average;
    cr_assert_eq(smoe_place_planner_new(&r, EXPERTS, &p), 0);
    return p;
}

static void next(struct smoe_place_planner *p, const struct plan *before, struct plan *ret)
{
    ret->p.slot_first = ret->slot_first;
    ret->p.expert = ret->expert;
    cr_assert_eq(smoe_place_planner_next(p, &fleet, before ? &before->p : NULL, scratch, &ret->p),
                 0);
}

/* Popularity with one expert in front. */
static void lead(uint64_t *popularity, uint32_t expert)
{
    for (uint32_t e = 0; e < EXPERTS; e++)
        popularity[e] = e == expert ? 1000 : 100;
}

Test(planner, knows_nothing_before_it_has_seen_two_iterations)
{
    struct smoe_place_planner *p = start("highest-averages", 0);
    uint64_t popularity[EXPERTS];
    double demand[EXPERTS];
    lead(popularity, 3);
    smoe_place_planner_see(p, popularity);
    cr_assert_eq(smoe_place_planner_trust(p), 0);
    smoe_place_planner_demand(p, demand);
    for (int e = 0; e < EXPERTS; e++)
        cr_assert_eq(demand[e], 1.0 / EXPERTS);
    smoe_place_planner_see(p, popularity);
    cr_assert_float_eq(smoe_place_planner_trust(p), 1, 1e-12);
    smoe_place_planner_demand(p, demand);
    cr_assert_float_eq(demand[3], 0.4, 1e-12);
    smoe_place_planner_free(p);
}

Test(planner, does_not_trust_ranks_that_swap)
{
    struct smoe_place_planner *p = start("highest-averages", 0);
    uint64_t popularity[EXPERTS];
    for (uint32_t t = 0; t < 40; t++) {
        lead(popularity, t % 2);
        smoe_place_planner_see(p, popularity);
        cr_assert_eq(smoe_place_planner_trust(p), 0);
    }
    smoe_place_planner_free(p);
}

Test(planner, trusts_as_much_as_the_past_is_worth)
{
    static const double COEFFICIENTS[] = {1, 0.95, 0.7, 0};
    static const double LEAST[] = {0.999, 0.8, 0.4, 0}, MOST[] = {1, 0.97, 0.8, 0.15};
    for (int c = 0; c < 4; c++) {
        struct smoe_place_planner *p = start("highest-averages", 0);
        struct smoe_rng rng;
        double x[EXPERTS], a = COEFFICIENTS[c];
        uint64_t popularity[EXPERTS];
        smoe_rng_init(&rng, 11, (uint64_t)c);
        for (int e = 0; e < EXPERTS; e++)
            x[e] = 1.25 * smoe_rng_normal(&rng);
        for (int t = 0; t < 400; t++) {
            for (int e = 0; e < EXPERTS; e++) {
                x[e] = a * x[e] + sqrt(1 - a * a) * 1.25 * smoe_rng_normal(&rng);
                popularity[e] = (uint64_t)(1e6 * smoe_exp(x[e]));
            }
            smoe_place_planner_see(p, popularity);
        }
        double trust = smoe_place_planner_trust(p);
        cr_assert(trust >= LEAST[c] && trust <= MOST[c], "%g: %g", a, trust);
        smoe_place_planner_free(p);
    }
}

Test(planner, an_iteration_without_visits_changes_nothing)
{
    struct smoe_place_planner *p = start("symi", 0);
    uint64_t popularity[EXPERTS], none[EXPERTS] = {0};
    double before[EXPERTS], after[EXPERTS];
    lead(popularity, 1);
    smoe_place_planner_see(p, popularity);
    smoe_place_planner_demand(p, before);
    smoe_place_planner_see(p, none);
    smoe_place_planner_demand(p, after);
    cr_assert_arr_eq(before, after, sizeof before);
    smoe_place_planner_free(p);
}

Test(planner, a_moving_average_remembers)
{
    struct smoe_place_planner *p = start("symi", 0.75);
    uint64_t popularity[EXPERTS];
    double demand[EXPERTS];
    lead(popularity, 0);
    smoe_place_planner_see(p, popularity); /* the first is taken as it is */
    lead(popularity, 1);
    smoe_place_planner_see(p, popularity);
    smoe_place_planner_demand(p, demand);
    cr_assert_float_eq(demand[0], 0.75 * 0.4 + 0.25 * 0.04, 1e-12);
    cr_assert_float_eq(demand[1], 0.75 * 0.04 + 0.25 * 0.4, 1e-12);
    smoe_place_planner_free(p);
}

Test(planner, interval_keeps_its_plan_until_its_turn)
{
    struct smoe_place_planner *p = start("interval=3", 0);
    struct plan plans[2];
    uint64_t popularity[EXPERTS];
    for (uint32_t t = 0; t < 10; t++) {
        struct plan *now = &plans[t % 2], *before = t ? &plans[1 - t % 2] : NULL;
        lead(popularity, t);
        smoe_place_planner_see(p, popularity);
        next(p, before, now);
        bool same = before && memcmp(before->expert, now->expert, 64 * sizeof *now->expert) == 0;
        cr_assert_eq(same, t % 3 != 0, "iteration %u", t);
    }
    smoe_place_planner_free(p);
}

Test(planner, interval_plans_anew_where_the_fleet_has_changed)
{
    struct smoe_place_planner *p = start("interval=100", 0);
    struct plan first, second, third;
    uint64_t popularity[EXPERTS];
    lead(popularity, 0);
    smoe_place_planner_see(p, popularity);
    next(p, NULL, &first);
    slots[5] = 0; /* it leaves */
    next(p, &first, &second);
    cr_assert(smoe_place_valid(&fleet, &second.p, scratch));
    slots[5] = SLOTS + 1;
    next(p, &second, &third);
    cr_assert(smoe_place_valid(&fleet, &third.p, scratch));
    smoe_place_planner_free(p);
}

Test(planner, too_few_slots_are_refused_and_the_next_fleet_is_planned_for)
{
    struct smoe_place_planner *p = start("highest-averages", 0);
    struct plan plan;
    plan.p = (struct smoe_place_plan){0, 0, plan.slot_first, plan.expert};
    for (int j = 0; j < WORKERS; j++)
        slots[j] = j < 15 ? 1 : 0;
    cr_assert_eq(smoe_place_planner_next(p, &fleet, NULL, scratch, &plan.p), SMOE_ELIMIT);
    slots[15] = 1;
    next(p, NULL, &plan);
    cr_assert(smoe_place_valid(&fleet, &plan.p, scratch));
    smoe_place_planner_free(p);
}

Test(planner, what_it_has_learned_can_be_kept_and_brought_back)
{
    static const char *const rules[] = {"highest-averages", "symi", "eplb", "static", "interval=5"};
    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
        struct smoe_place_planner *stays = start(rules[k], 0.5), *comes = start(rules[k], 0.5);
        struct smoe_place_learned learned;
        struct plan a, b, c;
        double shares[EXPERTS];
        uint64_t popularity[EXPERTS];
        struct smoe_rng rng;
        smoe_rng_init(&rng, 1, k);
        for (int t = 0; t < 20; t++) {
            for (int e = 0; e < EXPERTS; e++)
                popularity[e] = smoe_rng_below(&rng, 1000) * (unsigned)(e % 3 + 1);
            smoe_place_planner_see(stays, popularity);
            next(stays, t ? &a : NULL, &b);
            if (t >= 8) { /* in the midst of an interval */
                smoe_place_planner_see(comes, popularity);
                next(comes, &a, &c);
                cr_assert_arr_eq(b.expert, c.expert, WORKERS * SLOTS * sizeof *b.expert);
            }
            memcpy(&a, &b, sizeof a);
            a.p.slot_first = a.slot_first;
            a.p.expert = a.expert;
            smoe_place_planner_save(stays, &learned, shares);
            if (t == 7)
                smoe_place_planner_load(comes, &learned, shares);
        }
        cr_assert(smoe_place_planner_trust(stays) == smoe_place_planner_trust(comes));
        smoe_place_planner_free(stays);
        smoe_place_planner_free(comes);
    }
}
