/* SPDX-License-Identifier: Apache-2.0
 *
 * The policy lyapunov-strict against every way there is to choose replicas, on small problems.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/policy.h"

enum { N = 5, E = 4, J = 4, K = 2, VISITS = N * K, REPLICAS_MAX = E * J };

static struct instance {
    float scores[N * E];
    uint32_t first[E + 1], node[REPLICAS_MAX];
    struct smoe_node nodes[J];
    uint32_t tokens;
} in;

static struct smoe_route_problem problem(void)
{
    return (struct smoe_route_problem){.n_tokens = in.tokens,
                                       .n_experts = E,
                                       .n_nodes = J,
                                       .top_k = K,
                                       .scores = in.scores,
                                       .score_weight = 7,
                                       .replica_first = in.first,
                                       .replica_node = in.node,
                                       .nodes = in.nodes,
                                       .mode = SMOE_COST_EXACT};
}

/* Each expert on one to three of the nodes; queues, speeds and prices of energy unlike. */
static void draw(uint64_t seed, uint32_t cap)
{
    struct smoe_rng rng;
    uint32_t n = 0;
    smoe_rng_init(&rng, seed, 0);
    in.tokens = N;
    for (size_t i = 0; i < N * E; i++)
        in.scores[i] = (float)smoe_rng_below(&rng, 5) / 4; /* many ties */
    for (uint32_t e = 0; e < E; e++) {
        uint64_t holders = 1 + smoe_rng_below(&rng, (1u << J) - 1);
        in.first[e] = n;
        for (uint32_t j = 0; j < J; j++)
            if (holders >> j & 1)
                in.node[n++] = j;
    }
    in.first[E] = n;
    for (uint32_t j = 0; j < J; j++)
        in.nodes[j] = (struct smoe_node){.backlog = (double)smoe_rng_below(&rng, 6),
                                         .penalty = 3,
                                         .energy_price = smoe_rng_unit(&rng),
                                         .service_max = (double)smoe_rng_below(&rng, 5),
                                         .arrivals_max = cap};
    for (uint32_t j = 0; j < J; j++)
        in.nodes[j].executable = in.nodes[j].backlog;
}

static uint16_t experts[VISITS];
static uint32_t nodes[VISITS], arrivals[J];

static struct smoe_route_answer solve(uint64_t work_max)
{
    struct smoe_route_problem p = problem();
    struct smoe_route_answer answer = {.expert = experts, .node = nodes, .arrivals = arrivals};
    struct smoe_route_scratch *scratch;
    cr_assert_eq(smoe_route_scratch_new(N, E, J, &scratch), 0);
    smoe_route_scratch_limit(scratch, work_max, 0);
    smoe_policy_route(SMOE_POLICY_LYAPUNOV_STRICT, &p, NULL, NULL, scratch, &answer);
    smoe_route_scratch_free(scratch);
    return answer;
}

/* Is expert e among the K largest of the token, ties to the lowest index? */
static bool in_top(uint32_t token, uint32_t e)
{
    const float *row = in.scores + token * E;
    uint32_t before = 0;
    for (uint32_t f = 0; f < E; f++)
        before += row[f] > row[e] || (row[f] == row[e] && f < e);
    return before < K;
}

static bool holds(uint32_t e, uint32_t node)
{
    for (uint32_t r = in.first[e]; r < in.first[e + 1]; r++)
        if (in.node[r] == node)
            return true;
    return false;
}

static void check_answer(const struct smoe_route_answer *a)
{
    uint32_t counted[J] = {0}, routed = 0;
    for (uint32_t i = 0; i < in.tokens; i++) {
        if (experts[i * K] == SMOE_ROUTE_NONE)
            continue;
        routed++;
        cr_assert_neq(experts[i * K], experts[i * K + 1]);
        for (uint32_t k = 0; k < K; k++) {
            cr_assert(in_top(i, experts[i * K + k]));
            cr_assert(holds(experts[i * K + k], nodes[i * K + k]));
            counted[nodes[i * K + k]]++;
        }
    }
    cr_assert_eq(routed, a->n_routed);
    for (uint32_t j = 0; j < J; j++) {
        cr_assert_eq(counted[j], arrivals[j]);
        cr_assert_leq(counted[j], in.nodes[j].arrivals_max);
    }
}

/* The least cost of all choices of replicas for the visits from `at` on. */
static double cheapest(const uint16_t *wanted, uint32_t at, uint32_t loads[J])
{
    double best = (double)INFINITY;
    if (at == VISITS) {
        double cost = 0;
        for (uint32_t j = 0; j < J; j++)
            cost += smoe_cost(&in.nodes[j], SMOE_COST_EXACT, loads[j], NULL);
        return cost;
    }
    for (uint32_t r = in.first[wanted[at]]; r < in.first[wanted[at] + 1]; r++) {
        loads[in.node[r]]++;
        best = fmin(best, cheapest(wanted, at + 1, loads));
        loads[in.node[r]]--;
    }
    return best;
}

static double mass(void)
{
    double sum = 0;
    for (uint32_t v = 0; v < VISITS; v++)
        sum += 7 * (double)in.scores[v / K * E + experts[v]];
    return sum;
}

Test(strict, replicas_are_chosen_as_well_as_by_trying_all)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        uint32_t loads[J] = {0};
        draw(seed, 1000);
        struct smoe_route_answer a = solve(0);
        check_answer(&a);
        cr_assert_eq(a.n_routed, N);
        cr_assert(a.exact && a.bound == a.primal);
        cr_assert_float_eq(a.primal + mass(), cheapest(experts, 0, loads), 1e-9, "seed %d",
                           (int)seed);
    }
}

Test(strict, a_token_that_does_not_fit_waits_whole_and_caps_bind)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        draw(seed, 1 + (uint32_t)seed % 3);
        struct smoe_route_answer a = solve(0);
        check_answer(&a);
    }
}

Test(strict, without_work_it_is_still_an_answer_and_says_that_nothing_is_proven)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        draw(seed, 1000);
        double best = solve(0).primal;
        struct smoe_route_answer a = solve(1);
        check_answer(&a);
        cr_assert_eq(a.n_routed, N);
        cr_assert_not(a.exact);
        cr_assert(isinf(a.bound) && a.bound < 0);
        cr_assert_geq(a.primal, best - 1e-9);
    }
}

Test(strict, a_token_whose_expert_is_nowhere_waits)
{
    draw(1, 1000);
    for (uint32_t e = 1; e <= E; e++)
        in.first[e] = e - 1; /* expert 0 has no node, the others one each */
    for (uint32_t r = 0; r < E - 1; r++)
        in.node[r] = r;
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t e = 0; e < E; e++)
            in.scores[i * E + e] = i % 2 ? (float)e : -(float)e;
    struct smoe_route_answer a = solve(0);
    check_answer(&a);
    cr_assert_eq(a.n_routed, N / 2);
}

Test(strict, only_lyapunov_has_a_strict_side_and_only_if_asked)
{
    for (int p = 0; p < SMOE_POLICY_COUNT; p++) {
        enum smoe_policy policy = (enum smoe_policy)p;
        cr_assert_eq(smoe_policy_of_frozen(policy, SMOE_CONSISTENCY_SOFT), policy);
        cr_assert_eq(smoe_policy_of_frozen(policy, SMOE_CONSISTENCY_STRICT),
                     policy == SMOE_POLICY_LYAPUNOV ? SMOE_POLICY_LYAPUNOV_STRICT : policy);
    }
}
