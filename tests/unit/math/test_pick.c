/* SPDX-License-Identifier: Apache-2.0
 *
 * The hot pass against a sort. Any kernel that replaces it must pass this.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "common/base/rng.h"
#include "daemon/core/route.h"
#include "daemon/core/route_pick.h"

enum { TOKENS = 40, EXPERTS = 70 };

struct priced {
    double cost;
    uint16_t expert;
};

static int by_cost_then_index(const void *a, const void *b)
{
    const struct priced *x = a, *y = b;
    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    return x->expert - y->expert;
}

static void check_token(const struct smoe_route_pick *pick, uint32_t i)
{
    struct priced sorted[EXPERTS];
    for (uint32_t e = 0; e < pick->n_experts; e++)
        sorted[e] = (struct priced){
            .cost = pick->prices[e] - pick->weight * (double)pick->scores[i * pick->n_experts + e],
            .expert = (uint16_t)e};
    qsort(sorted, pick->n_experts, sizeof *sorted, by_cost_then_index);
    uint32_t k = pick->top_k;
    for (uint32_t m = 0; m < k; m++)
        cr_assert_eq(pick->chosen[i * k + m], sorted[m].expert);
    cr_assert_eq(pick->cutoff[i], sorted[k - 1].cost);
    if (k < pick->n_experts && !isinf(sorted[k].cost)) {
        cr_assert_eq(pick->runner_up[i], sorted[k].expert);
        cr_assert_eq(pick->margin[i], sorted[k].cost - sorted[k - 1].cost);
    } else {
        cr_assert_eq(pick->runner_up[i], SMOE_ROUTE_NONE);
        cr_assert_eq(pick->margin[i], (double)INFINITY);
    }
}

Test(pick, it_is_a_sort_cut_off_after_k_and_one)
{
    static float scores[TOKENS * EXPERTS];
    static uint16_t chosen[TOKENS * 8], runner_up[TOKENS];
    static double prices[EXPERTS], row[EXPERTS], cutoff[TOKENS], margin[TOKENS];
    static uint32_t loads[EXPERTS];
    struct smoe_rng rng;
    smoe_rng_init(&rng, 51, 0);
    for (int round = 0; round < 3000; round++) {
        uint32_t n_experts = 1 + (uint32_t)smoe_rng_below(&rng, EXPERTS), offered = n_experts;
        bool coarse = round % 2; /* ties */
        for (uint32_t v = 0; v < TOKENS * n_experts; v++)
            scores[v] =
                coarse ? (float)smoe_rng_below(&rng, 3) : (float)(smoe_rng_unit(&rng) - 0.5);
        for (uint32_t e = 0; e < n_experts; e++) {
            prices[e] = coarse ? (double)smoe_rng_below(&rng, 3) : smoe_rng_unit(&rng) * 10;
            if (offered > 1 && smoe_rng_below(&rng, 10) == 0) {
                prices[e] = (double)INFINITY;
                offered--;
            }
        }
        struct smoe_route_pick pick = {
            .n_tokens = TOKENS,
            .n_experts = n_experts,
            .top_k = 1 + (uint32_t)smoe_rng_below(&rng, offered < 8 ? offered : 8),
            .scores = scores,
            .weight = round % 5 ? 20 : 0,
            .prices = prices,
            .row = row,
            .chosen = chosen,
            .runner_up = runner_up,
            .cutoff = cutoff,
            .margin = margin,
            .loads = loads,
        };
        smoe_route_pick(&pick);
        uint32_t count[EXPERTS] = {0};
        for (uint32_t i = 0; i < TOKENS; i++)
            check_token(&pick, i);
        for (uint32_t v = 0; v < TOKENS * pick.top_k; v++)
            count[chosen[v]]++;
        cr_assert_arr_eq(count, loads, n_experts * sizeof *loads);
    }
}
