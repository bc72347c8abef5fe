/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/core/policy.h"
#include "oracle.h"

enum { TOKENS = 3000, WIDTH = 6 };

/* Six experts, one a node, and three thousand tokens. */
struct bench {
    struct smoe_route_problem problem;
    struct smoe_route_answer answer;
    struct smoe_route_scratch *scratch;
    struct smoe_rng rng;
    struct smoe_node nodes[WIDTH];
    uint32_t first[WIDTH + 1], replica[WIDTH * WIDTH], node[TOKENS * WIDTH], arrivals[WIDTH];
    float scores[TOKENS * WIDTH];
    uint16_t expert[TOKENS * WIDTH];
    double debts[WIDTH];
};

static struct bench *bench_new(uint32_t top_k)
{
    struct bench *b = calloc(1, sizeof *b);
    cr_assert_not_null(b);
    for (uint32_t e = 0; e <= WIDTH; e++)
        b->first[e] = e;
    for (uint32_t j = 0; j < WIDTH; j++) {
        b->replica[j] = j;
        b->nodes[j] =
            (struct smoe_node){.penalty = 50, .service_max = 100, .arrivals_max = UINT32_MAX};
    }
    b->problem = (struct smoe_route_problem){.n_tokens = TOKENS,
                                             .n_experts = WIDTH,
                                             .n_nodes = WIDTH,
                                             .top_k = top_k,
                                             .scores = b->scores,
                                             .score_weight = 50,
                                             .replica_first = b->first,
                                             .replica_node = b->replica,
                                             .nodes = b->nodes};
    b->answer =
        (struct smoe_route_answer){.expert = b->expert, .node = b->node, .arrivals = b->arrivals};
    cr_assert_eq(smoe_route_scratch_new(TOKENS, WIDTH, WIDTH, &b->scratch), 0);
    smoe_rng_init(&b->rng, 61, 0);
    return b;
}

static void bench_free(struct bench *b)
{
    smoe_route_scratch_free(b->scratch);
    free(b);
}

static void bench_route(struct bench *b, enum smoe_policy policy)
{
    smoe_policy_route(policy, &b->problem, b->debts, &b->rng, b->scratch, &b->answer);
    struct instance view = {.problem = b->problem, .answer = b->answer};
    instance_check(&view, smoe_policy_name(policy));
}

Test(policy, names_lead_to_policies_and_back)
{
    for (int p = 0; p < SMOE_POLICY_COUNT; p++) {
        enum smoe_policy found = SMOE_POLICY_COUNT;
        cr_assert(smoe_policy_parse(smoe_policy_name((enum smoe_policy)p), &found));
        cr_assert_eq(found, (enum smoe_policy)p);
        cr_assert_gt(strlen(smoe_policy_help((enum smoe_policy)p)), 10);
    }
    enum smoe_policy found = SMOE_POLICY_TOPK;
    cr_assert_not(smoe_policy_parse("Lyapunov", &found));
    cr_assert_not(smoe_policy_parse("", &found));
    cr_assert_eq(found, SMOE_POLICY_TOPK);
}

Test(policy, topk_takes_the_largest_scores_whatever_the_load)
{
    struct bench *b = bench_new(2);
    b->nodes[5].backlog = 1e6;
    for (uint32_t v = 0; v < TOKENS * WIDTH; v++)
        b->scores[v] = (float)(v % WIDTH);
    bench_route(b, SMOE_POLICY_TOPK);
    cr_assert_eq(b->arrivals[5], TOKENS);
    cr_assert_eq(b->arrivals[4], TOKENS);
    bench_free(b);
}

/* 5 sigma around the fair share of each expert. */
static void check_even(const uint32_t *arrivals, uint32_t first, uint32_t last, uint32_t total)
{
    double share = 1.0 / (last - first + 1), sigma = sqrt(total * share * (1 - share));
    for (uint32_t j = first; j <= last; j++)
        cr_assert_float_eq(arrivals[j], total * share, 5 * sigma, "node %u: %u", j, arrivals[j]);
}

Test(policy, ties_are_broken_evenly_and_by_the_stream)
{
    struct bench *b = bench_new(1);
    for (uint32_t v = 0; v < TOKENS * WIDTH; v++)
        b->scores[v] = v % WIDTH >= 3 ? 0.25F : 0.1F; /* experts 3, 4, 5 are equal */
    bench_route(b, SMOE_POLICY_TOPK);
    check_even(b->arrivals, 3, 5, TOKENS);

    uint16_t before[TOKENS];
    memcpy(before, b->expert, sizeof before);
    bench_route(b, SMOE_POLICY_TOPK); /* the stream has moved on */
    cr_assert_arr_neq(before, b->expert, sizeof before);
    smoe_rng_init(&b->rng, 61, 0);
    bench_route(b, SMOE_POLICY_TOPK);
    cr_assert_arr_eq(before, b->expert, sizeof before);
    bench_free(b);
}

Test(policy, random_is_even_and_deaf_to_scores_and_queues)
{
    struct bench *b = bench_new(2);
    for (uint32_t v = 0; v < TOKENS * WIDTH; v++)
        b->scores[v] = (float)(v % WIDTH);
    b->nodes[0].backlog = 1e6;
    bench_route(b, SMOE_POLICY_RANDOM);
    check_even(b->arrivals, 0, WIDTH - 1, 2 * TOKENS);
    bench_free(b);
}

Test(policy, queue_herds_onto_the_shortest_and_jsq_counts_on)
{
    struct bench *b = bench_new(1);
    for (uint32_t j = 0; j < WIDTH; j++)
        b->nodes[j].backlog = 100.0 * j;
    bench_route(b, SMOE_POLICY_QUEUE);
    cr_assert_eq(b->arrivals[0], TOKENS);
    bench_route(b, SMOE_POLICY_QUEUE_JSQ);
    for (uint32_t j = 0; j < WIDTH; j++) /* all end at (3000 + 0 + .. + 500) / 6 */
        cr_assert_eq(b->arrivals[j], 750 - 100 * j);
    bench_free(b);
}

Test(policy, energy_goes_by_debt)
{
    struct bench *b = bench_new(2);
    double debts[WIDTH] = {5, 1, 4, 3, 0.5, 9};
    memcpy(b->debts, debts, sizeof debts);
    bench_route(b, SMOE_POLICY_ENERGY);
    cr_assert_eq(b->arrivals[4], TOKENS);
    cr_assert_eq(b->arrivals[1], TOKENS);
    bench_free(b);
}

/* Every expert gets its K N / E; of all ways to do that it is the one of greatest gate mass: the
 * exact solve with these caps finds no better. */
Test(policy, base_balances_the_experts_at_the_greatest_gate_mass)
{
    struct bench *b = bench_new(2);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 65, 0);
    for (uint32_t v = 0; v < TOKENS * WIDTH; v++) /* expert 5 is everybody's friend */
        b->scores[v] = (float)smoe_rng_unit(&rng) + (v % WIDTH == 5 ? 0.8F : 0);
    b->nodes[5].backlog = 1e6;
    b->problem.score_weight = 1;
    double mass = 0;
    for (int round = 0; round < 2; round++) { /* cold, then warm */
        bench_route(b, SMOE_POLICY_BASE);
        for (uint32_t j = 0; j < WIDTH; j++)
            cr_assert_eq(b->arrivals[j], 1000, "%u: %u", j, b->arrivals[j]);
        mass = 0;
        for (uint32_t v = 0; v < 2 * TOKENS; v++)
            mass += (double)b->scores[v / 2 * WIDTH + b->expert[v]];
    }
    for (uint32_t j = 0; j < WIDTH; j++)
        b->nodes[j] = (struct smoe_node){.penalty = 1, .service_max = 1e9, .arrivals_max = 1000};
    bench_route(b, SMOE_POLICY_LYAPUNOV); /* no prices but the caps' */
    cr_assert(b->answer.exact);
    cr_assert_float_eq(b->answer.primal, -2.0 * TOKENS - mass, 1e-6);

    for (uint32_t j = 0; j < WIDTH; j++) /* the others share what it cannot take */
        b->nodes[j].arrivals_max = j == 4 ? 100 : UINT32_MAX;
    bench_route(b, SMOE_POLICY_BASE);
    cr_assert_eq(b->arrivals[4], 100);
    for (uint32_t j = 0; j < WIDTH; j++)
        cr_assert(j == 4 || b->arrivals[j] == 1180);
    bench_free(b);
}

Test(policy, a_visit_goes_to_the_replica_on_the_shortest_queue)
{
    struct bench *b = bench_new(1);
    uint32_t replicas[] = {0, 1, 2, 3,
                           4, 5, 1, 2}; /* expert 0 on nodes 0, 1, 2; expert 5 on 1, 2 */
    memcpy(b->replica, replicas, sizeof replicas);
    uint32_t first[] = {0, 3, 4, 5, 6, 6, 8}; /* expert 4 nowhere */
    memcpy(b->first, first, sizeof first);
    b->nodes[0].backlog = 7;
    b->nodes[1].backlog = b->nodes[2].backlog = 3;
    for (uint32_t i = 0; i < TOKENS; i++) {
        b->scores[i * WIDTH] = 0.9F;
        b->scores[i * WIDTH + 4] = 1; /* the best, and nobody holds it */
    }
    bench_route(b, SMOE_POLICY_TOPK);
    cr_assert_eq(b->arrivals[1] + b->arrivals[2], TOKENS);
    check_even(b->arrivals, 1, 2, TOKENS);
    bench_free(b);
}

Test(policy, caps_bind_all_and_a_token_is_routed_whole_or_not_at_all)
{
    struct bench *b = bench_new(2);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 62, 0);
    for (uint32_t v = 0; v < TOKENS * WIDTH; v++)
        b->scores[v] = (float)smoe_rng_unit(&rng);
    static const uint32_t caps[WIDTH] = {0, 1000, 200, 300, 1, 400};
    for (uint32_t j = 0; j < WIDTH; j++)
        b->nodes[j].arrivals_max = caps[j];
    for (int p = 0; p < SMOE_POLICY_COUNT; p++) {
        bench_route(b, (enum smoe_policy)p); /* checks caps and wholeness */
        cr_assert_leq(b->answer.n_routed, 901);
        cr_assert_geq(b->answer.n_routed, 500);
    }
    bench_route(b, SMOE_POLICY_LYAPUNOV);
    cr_assert_eq(b->answer.n_routed, 901); /* the other nodes' room, once a token: 200+300+1+400 */
    bench_free(b);
}

/* No policy may find a better objective than the exact solve, with replicas, caps and ties; and each
 * must obey the constraints. */
Test(policy, lyapunov_is_never_beaten_at_its_own_objective)
{
    static const struct instance_kind kinds[] = {
        {.tokens_max = 200, .experts_max = 12, .nodes_max = 8, .top_k_max = 4},
        {.tokens_max = 200, .experts_max = 8, .nodes_max = 12, .top_k_max = 4, .caps = true},
        {.tokens_max = 200, .experts_max = 8, .nodes_max = 8, .top_k_max = 3, .alike = true},
    };
    struct smoe_route_scratch *scratch = NULL;
    cr_assert_eq(smoe_route_scratch_new(200, 16, 16, &scratch), 0);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 63, 0);
    for (int round = 0; round < 600; round++) {
        struct instance it;
        double debts[16];
        instance_draw(&it, &kinds[round % 3], &rng);
        it.problem.mode = SMOE_COST_EXACT;
        for (int j = 0; j < 16; j++)
            debts[j] = smoe_rng_unit(&rng);
        smoe_policy_route(SMOE_POLICY_LYAPUNOV, &it.problem, debts, &rng, scratch, &it.answer);
        instance_check(&it, "lyapunov");
        double best = it.answer.primal, slack = 1e-9 * (instance_scale(&it) + fabs(best));
        uint32_t routed = it.answer.n_routed;
        for (int p = 1; p < SMOE_POLICY_COUNT; p++) {
            const char *name = smoe_policy_name((enum smoe_policy)p);
            smoe_policy_route((enum smoe_policy)p, &it.problem, debts, &rng, scratch, &it.answer);
            instance_check(&it, name);
            cr_assert_leq(it.answer.n_routed, routed, "%s", name);
            if (it.answer.n_routed == it.problem.n_tokens)
                cr_assert_geq(it.answer.primal, best - slack, "round %d: %s", round, name);
        }
        instance_release(&it);
    }
    smoe_route_scratch_free(scratch);
}

Test(policy, a_work_limit_binds_the_live_solve)
{
    struct bench *b = bench_new(2);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 64, 0);
    for (uint32_t v = 0; v < TOKENS * WIDTH; v++)
        b->scores[v] = (float)smoe_rng_unit(&rng);
    smoe_route_scratch_limit(b->scratch, 1, 0);
    bench_route(b, SMOE_POLICY_LYAPUNOV);
    cr_assert_not(b->answer.exact);
    cr_assert_eq(b->answer.sweeps, 1);
    cr_assert_lt(b->answer.bound, b->answer.primal);
    smoe_route_scratch_limit(b->scratch, 0, 0);
    bench_route(b, SMOE_POLICY_LYAPUNOV);
    cr_assert(b->answer.exact);
    bench_free(b);
}

/* The gap is a part of K N score_weight. */
Test(policy, a_gap_that_is_allowed_ends_the_live_solve_and_is_kept)
{
    enum { ROUNDS = 40, TOKENS_MOST = 400, NODES_MOST = 100 };
    static const struct instance_kind KIND = {.tokens_min = 200,
                                              .tokens_max = TOKENS_MOST,
                                              .experts_min = 60,
                                              .experts_max = NODES_MOST,
                                              .top_k_max = 2,
                                              .one_to_one = true};
    static const double GAP = 1e-3;
    struct smoe_route_scratch *scratch;
    struct smoe_rng rng;
    uint32_t ended = 0;
    cr_assert_eq(smoe_route_scratch_new(TOKENS_MOST, NODES_MOST, NODES_MOST, &scratch), 0);
    smoe_rng_init(&rng, 65, 0);
    for (int round = 0; round < ROUNDS; round++) {
        struct instance it;
        instance_draw(&it, &KIND, &rng);
        smoe_route_scratch_limit(scratch, 0, GAP);
        smoe_policy_route(SMOE_POLICY_LYAPUNOV, &it.problem, NULL, NULL, scratch, &it.answer);
        double scale = (double)it.problem.top_k * it.problem.n_tokens * it.problem.score_weight;
        instance_check(&it, "with a gap");
        cr_assert_leq(it.answer.primal - it.answer.bound, (GAP + 1e-9) * scale);
        ended += !it.answer.exact;
        instance_release(&it);
    }
    cr_assert_gt(ended, 0);
    smoe_route_scratch_free(scratch);
}
