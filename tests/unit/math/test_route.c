/* SPDX-License-Identifier: Apache-2.0
 *
 * The exact solver against two oracles, and its certificate against nothing but arithmetic.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/core/freq.h"
#include "daemon/core/route.h"
#include "oracle.h"

static struct smoe_route_scratch *scratch_for(uint32_t tokens, uint32_t experts, uint32_t nodes)
{
    struct smoe_route_scratch *scratch = NULL;
    cr_assert_eq(smoe_route_scratch_new(tokens, experts, nodes, &scratch), 0);
    return scratch;
}

/* The proof that comes with an exact answer: a bound that leaves nothing but rounding. */
static void check_certificate(const struct instance *it)
{
    double gap = it->answer.primal - it->answer.bound, scale = instance_scale(it);
    cr_assert(it->answer.exact);
    cr_assert_leq(fabs(gap), 1e-9 * scale, "gap %g of %g", gap, scale);
}

static const struct instance_kind SMALL[] = {
    {.tokens_max = 6, .experts_max = 5, .top_k_max = 3, .one_to_one = true},
    {.tokens_max = 6, .experts_max = 5, .nodes_max = 4, .top_k_max = 3},
    {.tokens_max = 6, .experts_max = 4, .nodes_max = 4, .top_k_max = 2, .caps = true},
    {.tokens_max = 6, .experts_max = 4, .nodes_max = 3, .top_k_max = 3, .alike = true},
    {.tokens_max = 6,
     .experts_max = 4,
     .nodes_max = 4,
     .top_k_max = 3,
     .caps = true,
     .alike = true},
};
enum { N_SMALL = sizeof SMALL / sizeof *SMALL };

Test(route, ten_thousand_small_problems_equal_brute_force)
{
    struct smoe_route_scratch *scratch = scratch_for(8, 8, 8);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 31, 0);
    int solved = 0, waiting = 0;
    for (int round = 0; solved < 10000; round++) {
        struct instance it;
        instance_draw(&it, &SMALL[round % N_SMALL], &rng);
        if (brute_force_steps(&it) < 5000) {
            uint32_t routed;
            double best = brute_force(&it, &routed);
            smoe_route_exact(&it.problem, NULL, scratch, &it.answer);
            instance_check(&it, "exact");
            cr_assert(it.answer.exact);
            cr_assert_eq(it.answer.n_routed, routed, "round %d: %u, not %u", round,
                         it.answer.n_routed, routed);
            cr_assert_float_eq(it.answer.primal, best, 1e-9 * (1 + fabs(best)),
                               "round %d: %.12g, not %.12g", round, it.answer.primal, best);
            check_certificate(&it);
            solved++;
            waiting += routed < it.problem.n_tokens;
        }
        instance_release(&it);
    }
    cr_assert_gt(waiting, 300, "only %d problems with tokens that must wait", waiting);
    smoe_route_scratch_free(scratch);
}

static const struct instance_kind MIDDLE[] = {
    {.tokens_max = 40, .experts_max = 10, .top_k_max = 4, .one_to_one = true},
    {.tokens_max = 40, .experts_max = 12, .nodes_max = 8, .top_k_max = 4},
    {.tokens_max = 40, .experts_max = 8, .nodes_max = 12, .top_k_max = 4, .caps = true},
    {.tokens_max = 40, .experts_max = 8, .nodes_max = 4, .top_k_max = 8, .alike = true},
    {.tokens_max = 30,
     .experts_max = 10,
     .nodes_max = 10,
     .top_k_max = 4,
     .caps = true,
     .alike = true},
};
enum { N_MIDDLE = sizeof MIDDLE / sizeof *MIDDLE };

Test(route, a_thousand_middle_problems_equal_the_min_cost_flow)
{
    struct smoe_route_scratch *scratch = scratch_for(64, 16, 16);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 32, 0);
    for (int round = 0; round < 1000; round++) {
        struct instance it;
        instance_draw(&it, &MIDDLE[round % N_MIDDLE], &rng);
        uint32_t routed;
        double best = min_cost_flow(&it, &routed);
        smoe_route_exact(&it.problem, NULL, scratch, &it.answer);
        instance_check(&it, "exact");
        cr_assert_eq(it.answer.n_routed, routed, "round %d", round);
        cr_assert_float_eq(it.answer.primal, best, 1e-9 * (1 + fabs(best)),
                           "round %d: %.12g, not %.12g", round, it.answer.primal, best);
        check_certificate(&it);
        instance_release(&it);
    }
    smoe_route_scratch_free(scratch);
}

/* Sizes the daemon meets; no oracle, but the certificate needs none. */
static const struct instance_kind LARGE[] = {
    {.tokens_max = 2000, .experts_max = 32, .top_k_max = 3, .one_to_one = true},
    {.tokens_max = 2000, .experts_max = 64, .nodes_max = 16, .top_k_max = 4},
    {.tokens_max = 1000, .experts_max = 16, .nodes_max = 48, .top_k_max = 2, .caps = true},
    {.tokens_max = 2000, .experts_max = 32, .nodes_max = 32, .top_k_max = 8, .alike = true},
    {.tokens_max = 700, .experts_max = 64, .top_k_max = 3, .one_to_one = true},
    {.tokens_max = 700, .experts_max = 64, .top_k_max = 3, .one_to_one = true, .alike = true},
};
enum { N_LARGE = sizeof LARGE / sizeof *LARGE };

/* So many nodes and visits that what sweeps leave is left to the tide, if a gap is allowed. */
static const struct instance_kind WIDE[] = {
    {.tokens_min = 3400,
     .tokens_max = 4096,
     .experts_min = 128,
     .experts_max = 140,
     .top_k_max = 4,
     .one_to_one = true},
    {.tokens_min = 3400,
     .tokens_max = 4096,
     .experts_min = 128,
     .experts_max = 140,
     .top_k_max = 4,
     .one_to_one = true,
     .alike = true},
};
enum { N_WIDE = sizeof WIDE / sizeof *WIDE, NODES_MOST = 140 };

Test(route, large_problems_come_with_their_proof_and_beat_the_greedy)
{
    struct smoe_route_scratch *scratch = scratch_for(2000, 64, 48);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 33, 0);
    int better = 0;
    for (int round = 0; round < 80; round++) {
        struct instance it;
        instance_draw(&it, &LARGE[round % N_LARGE], &rng);
        smoe_route_greedy(&it.problem, scratch, &it.answer);
        instance_check(&it, "greedy");
        struct smoe_route_answer greedy = it.answer;
        smoe_route_exact(&it.problem, NULL, scratch, &it.answer);
        instance_check(&it, "exact");
        check_certificate(&it);
        cr_assert_geq(it.answer.n_routed, greedy.n_routed);
        if (greedy.n_routed == it.problem.n_tokens) {
            double slack = 1e-12 * (1 + fabs(greedy.primal));
            cr_assert_leq(it.answer.primal, greedy.primal + slack);
            better += it.answer.primal < greedy.primal - slack;
        }
        instance_release(&it);
    }
    cr_assert_gt(better, 20);
    smoe_route_scratch_free(scratch);
}

Test(route, any_prices_bound_the_objective_from_below)
{
    struct smoe_route_scratch *scratch = scratch_for(64, 16, 16);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 34, 0);
    for (int round = 0; round < 2000; round++) {
        struct instance it;
        double prices[16];
        instance_draw(&it, &MIDDLE[round % N_MIDDLE], &rng);
        smoe_route_exact(&it.problem, NULL, scratch, &it.answer);
        for (uint32_t j = 0; j < it.problem.n_nodes; j++)
            prices[j] = (smoe_rng_unit(&rng) - 0.3) * 300;
        double bound = smoe_route_dual(&it.problem, it.answer.n_routed, prices, scratch);
        cr_assert_leq(bound, it.answer.primal + 1e-9 * (instance_scale(&it) + fabs(bound)));
        instance_release(&it);
    }
    smoe_route_scratch_free(scratch);
}

Test(route, out_of_work_the_answer_is_feasible_and_its_gap_is_proven)
{
    struct smoe_route_scratch *scratch = scratch_for(2000, 64, 48);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 35, 0);
    int cut_short = 0;
    for (int round = 0; round < 60; round++) {
        struct instance it;
        instance_draw(&it, &LARGE[round % N_LARGE], &rng);
        smoe_route_exact(&it.problem, NULL, scratch, &it.answer);
        double best = it.answer.primal, slack = 1e-9 * instance_scale(&it) + 1e-12 * fabs(best);
        uint64_t enough = it.answer.work;
        uint32_t routed = it.answer.n_routed;
        for (uint64_t work_max = 1; work_max < 2 * enough; work_max *= 4) {
            struct smoe_route_options options = {.work_max = work_max};
            smoe_route_exact(&it.problem, &options, scratch, &it.answer);
            instance_check(&it, "limited");
            cr_assert_eq(it.answer.n_routed, routed);
            cr_assert_leq(it.answer.bound, best + slack, "round %d", round);
            cr_assert_geq(it.answer.primal, best - slack, "round %d", round);
            cr_assert(!it.answer.exact || it.answer.primal <= best + slack);
            cut_short += !it.answer.exact;
        }
        instance_release(&it);
    }
    cr_assert_gt(cut_short, 100);
    smoe_route_scratch_free(scratch);
}

/* Successive slots of one fleet: backlogs and tokens change, prices are taken over. What is set aside as
 * far from a tie must not be missed by the certificate, which any full pass can check. */
static void check_slots(const struct instance_kind *kind, struct smoe_route_scratch *scratch,
                        struct smoe_rng *rng, double gap_max)
{
    struct instance it;
    double prices[NODES_MOST];
    instance_draw(&it, kind, rng);
    size_t scores = (size_t)it.problem.n_tokens * it.problem.n_experts;
    float *changed = malloc(scores * sizeof *changed);
    struct smoe_route_options options = {.prices = prices,
                                         .gap_max = gap_max * instance_scale(&it)};
    for (int slot = 0; slot < 5; slot++) {
        for (size_t v = 0; v < scores; v++)
            changed[v] = it.problem.scores[(v * 7 + (size_t)slot) % scores];
        struct smoe_route_problem problem = it.problem;
        problem.scores = changed;
        smoe_route_exact(&problem, &options, scratch, &it.answer);
        double slack = 1e-9 * instance_scale(&it), gap = it.answer.primal - it.answer.bound;
        cr_assert_leq(gap, options.gap_max + slack);
        cr_assert(it.answer.exact || gap_max > 0);
        if (it.answer.n_routed > 0)
            cr_assert_float_eq(smoe_route_dual(&problem, it.answer.n_routed, prices, scratch),
                               it.answer.bound, slack);
        options.warm = it.answer.n_routed > 0;
    }
    free(changed);
    instance_release(&it);
}

Test(route, over_many_slots_the_bound_is_that_of_a_full_pass)
{
    struct smoe_route_scratch *scratch = scratch_for(2000, 64, 48);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 40, 0);
    for (int round = 0; round < 40; round++)
        check_slots(&LARGE[round % N_LARGE], scratch, &rng, 0);
    smoe_route_scratch_free(scratch);
}

Test(route, a_gap_that_is_good_enough_is_proven)
{
    struct smoe_route_scratch *scratch = scratch_for(2000, 64, 48);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 41, 0);
    for (int round = 0; round < 40; round++)
        check_slots(&LARGE[round % N_LARGE], scratch, &rng, round % 2 ? 1e-6 : 1e-4);
    smoe_route_scratch_free(scratch);
}

Test(route, what_sweeps_over_many_nodes_leave_is_repaired_to_the_gap)
{
    struct smoe_route_scratch *scratch = scratch_for(4096, NODES_MOST, NODES_MOST);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 42, 0);
    for (int round = 0; round < 8; round++)
        check_slots(&WIDE[round % N_WIDE], scratch, &rng, round % 4 < 2 ? 1e-6 : 1e-9);
    smoe_route_scratch_free(scratch);
}

/* So few visits a node that costs are whole grains of the gap that is allowed. */
static const struct instance_kind FEW[] = {
    {.tokens_min = 200,
     .tokens_max = 900,
     .experts_min = 60,
     .experts_max = 140,
     .top_k_max = 2,
     .one_to_one = true},
    {.tokens_min = 100,
     .tokens_max = 700,
     .experts_min = 33,
     .experts_max = 140,
     .top_k_max = 8,
     .one_to_one = true},
    {.tokens_min = 200,
     .tokens_max = 900,
     .experts_min = 60,
     .experts_max = 140,
     .top_k_max = 3,
     .one_to_one = true,
     .alike = true},
};
enum { N_FEW = sizeof FEW / sizeof *FEW };

/* Rounded to grains, answers must be worth what exact ones are, to the gap; and where rounding or a number that does
 * not fit is in the way, too. */
Test(route, with_few_visits_a_node_the_gap_is_kept_whatever_is_rounded)
{
    static const double gaps[] = {1e-6, 1e-5, 1e-4, 1e-8, 1e-3};
    struct smoe_route_scratch *scratch = scratch_for(900, NODES_MOST, NODES_MOST);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 44, 0);
    for (int round = 0; round < 90; round++) {
        struct instance it;
        instance_draw(&it, &FEW[round % N_FEW], &rng);
        smoe_route_exact(&it.problem, NULL, scratch, &it.answer);
        double best = it.answer.primal, slack = 1e-9 * instance_scale(&it) + 1e-12 * fabs(best);
        struct smoe_route_options options = {.gap_max = gaps[round % 5] * instance_scale(&it)};
        smoe_route_exact(&it.problem, &options, scratch, &it.answer);
        instance_check(&it, "in grains");
        cr_assert_geq(it.answer.primal, best - slack, "round %d", round);
        cr_assert_leq(it.answer.primal, best + options.gap_max + slack, "round %d", round);
        cr_assert_leq(it.answer.bound, best + slack, "round %d", round);
        cr_assert_leq(it.answer.primal - it.answer.bound, options.gap_max + slack, "round %d",
                      round);
        instance_release(&it);
    }
    for (int round = 0; round < 30; round++)
        check_slots(&FEW[round % N_FEW], scratch, &rng, gaps[round % 5]);
    smoe_route_scratch_free(scratch);
}

Test(route, out_of_work_after_sweeps_over_many_nodes_the_answer_is_feasible)
{
    struct smoe_route_scratch *scratch = scratch_for(4096, NODES_MOST, NODES_MOST);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 43, 0);
    int cut_short = 0;
    for (int round = 0; round < 4; round++) {
        struct instance it;
        instance_draw(&it, &WIDE[round % N_WIDE], &rng);
        smoe_route_exact(&it.problem, NULL, scratch, &it.answer);
        double best = it.answer.primal, slack = 1e-9 * instance_scale(&it) + 1e-12 * fabs(best);
        for (uint64_t passes = 1; passes < 16; passes++) {
            uint64_t work_max = passes * it.problem.n_tokens * it.problem.n_experts / 2;
            struct smoe_route_options options = {.work_max = work_max, .gap_max = slack};
            smoe_route_exact(&it.problem, &options, scratch, &it.answer);
            instance_check(&it, "limited");
            cr_assert_leq(it.answer.bound, best + slack, "round %d", round);
            cr_assert_geq(it.answer.primal, best - slack, "round %d", round);
            cut_short += it.answer.primal - it.answer.bound > 2 * slack;
        }
        instance_release(&it);
    }
    cr_assert_gt(cut_short, 10);
    smoe_route_scratch_free(scratch);
}

Test(route, warm_prices_save_sweeps_and_wrong_ones_cost_nothing_but_time)
{
    struct smoe_route_scratch *scratch = scratch_for(2000, 64, 48);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 36, 0);
    uint32_t cold = 0, warm = 0;
    for (int round = 0; round < 60; round++) {
        struct instance it;
        double prices[64];
        instance_draw(&it, &LARGE[round % N_LARGE], &rng);
        struct smoe_route_options options = {.prices = prices};
        smoe_route_exact(&it.problem, &options, scratch, &it.answer);
        double best = it.answer.primal;
        cold += it.answer.sweeps;

        options.warm = true;
        smoe_route_exact(&it.problem, &options, scratch, &it.answer);
        cr_assert_float_eq(it.answer.primal, best, 1e-9 * instance_scale(&it));
        warm += it.answer.sweeps;

        for (uint32_t j = 0; j < it.problem.n_nodes; j++)
            prices[j] = j % 3 ? (smoe_rng_unit(&rng) - 0.5) * 2000 : (double)INFINITY;
        smoe_route_exact(&it.problem, &options, scratch, &it.answer);
        instance_check(&it, "misled");
        check_certificate(&it);
        cr_assert_float_eq(it.answer.primal, best, 1e-9 * instance_scale(&it));
        instance_release(&it);
    }
    cr_assert_lt(3 * warm, 2 * cold, "%u sweeps warm, %u cold", warm, cold);
    smoe_route_scratch_free(scratch);
}

/* --- by hand ----------------------------------------------------------------------------------- */

enum { HAND_TOKENS = 512, HAND_NODES = 8 };

/* A problem on the stack: experts on nodes one to one unless the test says otherwise. */
struct hand {
    struct smoe_route_problem problem;
    struct smoe_route_answer answer;
    struct smoe_route_scratch *scratch;
    struct smoe_node nodes[HAND_NODES];
    uint32_t first[HAND_NODES + 1], replica[HAND_NODES * HAND_NODES];
    float scores[HAND_TOKENS * HAND_NODES];
    uint16_t expert[HAND_TOKENS * HAND_NODES];
    uint32_t node[HAND_TOKENS * HAND_NODES], arrivals[HAND_NODES];
};

static void hand_init(struct hand *hand, uint32_t tokens, uint32_t width, uint32_t top_k)
{
    memset(hand, 0, sizeof *hand);
    for (uint32_t e = 0; e <= width; e++)
        hand->first[e] = e;
    for (uint32_t j = 0; j < width; j++) {
        hand->replica[j] = j;
        hand->nodes[j] =
            (struct smoe_node){.penalty = 1, .service_max = 100, .arrivals_max = UINT32_MAX};
    }
    hand->problem = (struct smoe_route_problem){.n_tokens = tokens,
                                                .n_experts = width,
                                                .n_nodes = width,
                                                .top_k = top_k,
                                                .scores = hand->scores,
                                                .score_weight = 1,
                                                .replica_first = hand->first,
                                                .replica_node = hand->replica,
                                                .nodes = hand->nodes};
    hand->answer = (struct smoe_route_answer){
        .expert = hand->expert, .node = hand->node, .arrivals = hand->arrivals};
    hand->scratch = scratch_for(HAND_TOKENS, HAND_NODES, HAND_NODES);
}

static void hand_solve(struct hand *hand)
{
    smoe_route_exact(&hand->problem, NULL, hand->scratch, &hand->answer);
    struct instance view = {.problem = hand->problem, .answer = hand->answer};
    instance_check(&view, "by hand");
    check_certificate(&view);
}

/* MODEL.md (8): speeds 1, 1/2, 1/4, 1/4 and 512 visits of 10 us take 2.56 ms together, and the slot's
 * plan then divides the work by speed, whatever the gates prefer. */
Test(route, the_horizon_divides_a_batch_by_speed)
{
    static const double speed[] = {1, 0.5, 0.25, 0.25};
    struct hand hand;
    struct smoe_rng rng;
    hand_init(&hand, 256, 4, 2);
    smoe_rng_init(&rng, 37, 0);
    for (int i = 0; i < 256 * 4; i++)
        hand.scores[i] = (float)smoe_rng_unit(&rng);
    double rate = 0;
    for (int j = 0; j < 4; j++)
        rate += speed[j] * 1e5;
    double tau = smoe_freq_horizon(0.02, 512, rate);
    cr_assert_float_eq(tau, 2.56e-3, 1e-12);
    for (int j = 0; j < 4; j++) {
        struct smoe_freq_node physics = {.cycles_per_visit = 1e4,
                                         .freq_max_hz = speed[j] * 1e9,
                                         .energy_max_w = (double)INFINITY,
                                         .energy_mean_w = (double)INFINITY};
        double carry = 0;
        hand.nodes[j].service_max = smoe_freq_service_max(&physics, tau, &carry);
        hand.nodes[j].penalty = 50;
    }
    hand.problem.score_weight = 50;
    hand_solve(&hand);
    cr_assert_eq(hand.arrivals[0], 256);
    cr_assert_eq(hand.arrivals[1], 128);
    cr_assert_eq(hand.arrivals[2], 64);
    cr_assert_eq(hand.arrivals[3], 64);
    smoe_route_scratch_free(hand.scratch);
}

Test(route, a_saturated_worker_receives_nothing)
{
    struct hand hand;
    hand_init(&hand, 20, 3, 1);
    for (int i = 0; i < 20; i++)
        hand.scores[3 * i] = 1; /* all prefer expert 0 */
    hand.nodes[0].backlog = hand.nodes[0].executable = 1000;
    hand_solve(&hand);
    cr_assert_eq(hand.arrivals[0], 0);
    cr_assert_eq(hand.answer.n_routed, 20);
    smoe_route_scratch_free(hand.scratch);
}

Test(route, a_dead_node_receives_nothing_and_its_expert_moves_to_the_replica)
{
    struct hand hand;
    hand_init(&hand, 10, 3, 2);
    uint32_t replicas[] = {0, 1, 1, 2}; /* expert 0 on nodes 0 and 1 */
    memcpy(hand.replica, replicas, sizeof replicas);
    hand.first[1] = 2;
    hand.first[2] = 3;
    hand.first[3] = 4;
    for (int i = 0; i < 10; i++)
        hand.scores[3 * i] = 5;
    hand.nodes[0].arrivals_max = 0;
    hand_solve(&hand);
    cr_assert_eq(hand.arrivals[0], 0);
    cr_assert_geq(hand.arrivals[1], 10);
    cr_assert_eq(hand.answer.n_routed, 10);
    smoe_route_scratch_free(hand.scratch);
}

Test(route, without_k_live_experts_every_token_waits)
{
    struct hand hand;
    hand_init(&hand, 10, 3, 2);
    hand.nodes[0].arrivals_max = hand.nodes[2].arrivals_max = 0;
    hand_solve(&hand);
    cr_assert_eq(hand.answer.n_routed, 0);
    for (int v = 0; v < 20; v++)
        cr_assert_eq(hand.expert[v], SMOE_ROUTE_NONE);
    hand.problem.n_tokens = 0;
    hand_solve(&hand);
    cr_assert_eq(hand.answer.n_routed, 0);
    smoe_route_scratch_free(hand.scratch);
}

/* Room for 3 + 3 + 1 visits holds three tokens of two experts each, not four: first come, first
 * served, although the later tokens value their experts more. */
Test(route, what_does_not_fit_waits_in_order)
{
    struct hand hand;
    hand_init(&hand, 6, 3, 2);
    hand.nodes[0].arrivals_max = hand.nodes[1].arrivals_max = 3;
    hand.nodes[2].arrivals_max = 1;
    for (int i = 0; i < 6; i++)
        hand.scores[3 * i] = (float)i;
    hand_solve(&hand);
    cr_assert_eq(hand.answer.n_routed, 3);
    for (int v = 0; v < 12; v++)
        cr_assert_eq(hand.expert[v] == SMOE_ROUTE_NONE, v >= 6);
    smoe_route_scratch_free(hand.scratch);
}

/* The cap of node 2 strands the last token after all others chose well: somebody must move over. */
Test(route, a_stranded_token_is_completed_by_moving_others)
{
    struct hand hand;
    hand_init(&hand, 4, 3, 2);
    for (int i = 0; i < 4; i++) {
        hand.scores[3 * i] = 9;
        hand.scores[3 * i + 1] = 8;
    }
    hand.nodes[0].arrivals_max = hand.nodes[1].arrivals_max = 3;
    hand.nodes[2].arrivals_max = 2;
    hand_solve(&hand);
    cr_assert_eq(hand.answer.n_routed, 4);
    cr_assert_eq(hand.arrivals[2], 2);
    smoe_route_scratch_free(hand.scratch);
}

Test(route, with_as_many_experts_as_choices_there_is_nothing_to_choose)
{
    struct hand hand;
    hand_init(&hand, 50, 4, 4);
    hand_solve(&hand);
    for (int j = 0; j < 4; j++)
        cr_assert_eq(hand.arrivals[j], 50);
    smoe_route_scratch_free(hand.scratch);
}

/* A gate that knows nothing yet: all scores equal. Nobody herds, and work goes by queue. */
Test(route, equal_tokens_spread_by_load)
{
    struct hand hand;
    hand_init(&hand, 400, 4, 1);
    for (int j = 0; j < 4; j++) {
        hand.nodes[j].service_max = 0;
        hand.nodes[j].backlog = hand.nodes[j].executable = 40 * j;
    }
    hand_solve(&hand);
    for (uint32_t j = 0; j < 4; j++) /* all end at (400 + 0 + 40 + 80 + 120) / 4 */
        cr_assert_eq(hand.arrivals[j], 160 - 40 * j);
    smoe_route_scratch_free(hand.scratch);
}

Test(route, replicas_share_by_speed)
{
    struct hand hand;
    hand_init(&hand, 400, 2, 1);
    uint32_t replicas[] = {0, 1, 2, 3, 0, 1, 2, 3}; /* two experts, each everywhere */
    memcpy(hand.replica, replicas, sizeof replicas);
    hand.first[1] = 4;
    hand.first[2] = 8;
    hand.problem.n_nodes = 4;
    for (uint32_t j = 0; j < 4; j++)
        hand.nodes[j] = (struct smoe_node){
            .penalty = 10, .service_max = 40 * (j + 1), .arrivals_max = UINT32_MAX};
    for (int i = 0; i < 400; i++)
        hand.scores[2 * i] = i < 300 ? 5 : -5;
    hand_solve(&hand);
    for (uint32_t j = 0; j < 4; j++)
        cr_assert_eq(hand.arrivals[j], 40 * (j + 1), "node %u: %u", j, hand.arrivals[j]);
    for (int i = 0; i < 400; i++)
        cr_assert_eq(hand.expert[i], i < 300 ? 0 : 1);
    smoe_route_scratch_free(hand.scratch);
}

Test(route, the_greedy_pays_moving_prices)
{
    struct hand hand;
    hand_init(&hand, 3, 2, 1);
    hand.nodes[0].service_max = hand.nodes[1].service_max = 0; /* prices 0.5, 1.5, 2.5 .. */
    for (int i = 0; i < 3; i++)
        hand.scores[2 * i] = 1.5F;
    smoe_route_greedy(&hand.problem, hand.scratch, &hand.answer);
    cr_assert_eq(hand.expert[0], 0); /* -1.0 against 0.5 */
    cr_assert_eq(hand.expert[1], 0); /*  0.0 against 0.5 */
    cr_assert_eq(hand.expert[2], 1); /*  1.0 against 0.5 */
    cr_assert(isinf(hand.answer.bound));
    smoe_route_scratch_free(hand.scratch);
}

Test(route, the_separable_rule_sees_only_the_queues_of_slot_start)
{
    struct hand hand;
    hand_init(&hand, 30, 2, 1);
    for (int i = 0; i < 30; i++)
        hand.scores[2 * i] = 1;
    smoe_route_separable(&hand.problem, hand.scratch, &hand.answer);
    cr_assert_eq(hand.arrivals[0], 30);
    hand.nodes[0].backlog = 1.5;
    smoe_route_separable(&hand.problem, hand.scratch, &hand.answer);
    cr_assert_eq(hand.arrivals[1], 30);
    smoe_route_scratch_free(hand.scratch);
}

Test(route, a_used_scratch_gives_the_answer_of_a_fresh_one)
{
    struct smoe_route_scratch *used = scratch_for(2000, 64, 48);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 38, 0);
    for (int round = 0; round < 60; round++) {
        struct instance it;
        instance_draw(&it, round % 2 ? &LARGE[round % N_LARGE] : &MIDDLE[round % N_MIDDLE], &rng);
        size_t visits = (size_t)it.problem.n_tokens * it.problem.top_k;
        uint16_t *expert = malloc(visits * sizeof *expert);
        struct smoe_route_scratch *fresh =
            scratch_for(it.problem.n_tokens, it.problem.n_experts, it.problem.n_nodes);
        smoe_route_exact(&it.problem, NULL, fresh, &it.answer);
        memcpy(expert, it.answer.expert, visits * sizeof *expert);
        smoe_route_exact(&it.problem, NULL, used, &it.answer);
        cr_assert_arr_eq(expert, it.answer.expert, visits * sizeof *expert);
        free(expert);
        smoe_route_scratch_free(fresh);
        instance_release(&it);
    }
    smoe_route_scratch_free(used);
}

static uint64_t digest_answer(const struct instance *it)
{
    uint64_t digest = it->answer.n_routed, bits;
    for (size_t v = 0; v < (size_t)it->answer.n_routed * it->problem.top_k; v++)
        digest = smoe_mix64(digest ^ it->answer.expert[v] ^ (uint64_t)it->answer.node[v] << 32);
    memcpy(&bits, &it->answer.primal, sizeof bits);
    digest = smoe_mix64(digest ^ bits);
    memcpy(&bits, &it->answer.bound, sizeof bits);
    return smoe_mix64(digest ^ bits);
}

/* Twenty slots of that many tokens. Integer scores on simple nodes: nothing here comes from libm. */
static uint64_t digest_slots(uint32_t tokens)
{
    struct hand hand;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 39, 0);
    uint64_t digest = 0;
    hand_init(&hand, tokens, HAND_NODES, 3);
    for (int slot = 0; slot < 20; slot++) {
        for (uint32_t v = 0; v < tokens * HAND_NODES; v++)
            hand.scores[v] = (float)smoe_rng_unit(&rng);
        for (int j = 0; j < HAND_NODES; j++) {
            hand.nodes[j].backlog = hand.nodes[j].executable = (double)smoe_rng_below(&rng, 300);
            hand.nodes[j].service_max = (double)smoe_rng_below(&rng, 300);
            hand.nodes[j].energy_price = slot % 2 ? smoe_rng_unit(&rng) * 1e-3 : 0;
            hand.nodes[j].penalty = 50;
        }
        hand.problem.score_weight = 50;
        hand_solve(&hand);
        struct instance view = {.problem = hand.problem, .answer = hand.answer};
        digest = smoe_mix64(digest ^ digest_answer(&view));
    }
    smoe_route_scratch_free(hand.scratch);
    return digest;
}

/* These constants are the contract: another machine and another compiler must find the same answers, to
 * the last bit. */
Test(route, the_answer_is_the_same_on_every_machine)
{
    uint64_t digest = digest_slots(HAND_TOKENS);
    cr_assert_eq(digest, UINT64_C(0x982151f4cc3cedae), "digest 0x%016llx",
                 (unsigned long long)digest);
}

Test(route, the_answer_to_few_tokens_is_the_same_on_every_machine)
{
    uint64_t digest = digest_slots(120);
    cr_assert_eq(digest, UINT64_C(0xf89dcc779db49397), "digest 0x%016llx",
                 (unsigned long long)digest);
}
