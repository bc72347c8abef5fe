/* SPDX-License-Identifier: Apache-2.0
 *
 * The hot pass against a sort, and every kernel that this machine runs against every other, bit for bit.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "daemon/core/route.h"
#include "daemon/core/route_pick.h"

enum { TOKENS = 40, EXPERTS = 258 };

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

/* One problem's arrays. */
struct drawn {
    float scores[TOKENS * EXPERTS];
    double prices[EXPERTS], row[EXPERTS], cutoff[TOKENS], margin[TOKENS];
    uint16_t chosen[TOKENS * 8], runner_up[TOKENS];
    uint32_t loads[EXPERTS];
};

/* What makes a pass hard: ties, prices that outweigh the scores, scores and weights of any size. */
enum kind { SPREAD, COARSE, WEIGHTLESS, ONE_DEAR, VAST, TINY, NEARLY_EQUAL, KINDS };

static float draw_score(enum kind kind, struct smoe_rng *rng)
{
    float unit = (float)smoe_rng_unit(rng) - 0.5F;
    if (kind == COARSE)
        return (float)smoe_rng_below(rng, 3);
    if (kind == NEARLY_EQUAL)
        return 1 + unit * 3e-7F;
    return unit * (kind == VAST ? FLT_MAX : kind == TINY ? 1e-43F : 1);
}

static double draw_price(enum kind kind, struct smoe_rng *rng)
{
    if (kind == COARSE)
        return (double)smoe_rng_below(rng, 3);
    if (kind == ONE_DEAR && smoe_rng_below(rng, 9) == 0)
        return 1e9;
    if (kind == NEARLY_EQUAL)
        return 1e6 + smoe_rng_unit(rng) * 1e-9;
    return smoe_rng_unit(rng) * (kind == VAST && smoe_rng_below(rng, 5) ? 1e40 : 10);
}

/* Every width up to 70, and those around multiples of what kernels take at once. */
static uint32_t draw_width(struct smoe_rng *rng)
{
    static const uint32_t around[] = {64, 128, 256};
    if (smoe_rng_below(rng, 3) > 0)
        return 1 + (uint32_t)smoe_rng_below(rng, 70);
    return around[smoe_rng_below(rng, 3)] - 1 + (uint32_t)smoe_rng_below(rng, 4);
}

/* Half of the time 1 or 2, which go another way. */
static uint32_t draw_top_k(uint32_t offered, struct smoe_rng *rng)
{
    uint32_t most = smoe_rng_below(rng, 2) ? 2 : 8;
    return 1 + (uint32_t)smoe_rng_below(rng, offered < most ? offered : most);
}

static struct smoe_route_pick of_drawn(struct drawn *d, uint32_t n_tokens, uint32_t n_experts,
                                       uint32_t top_k, double weight)
{
    return (struct smoe_route_pick){
        .n_tokens = n_tokens,
        .n_experts = n_experts,
        .top_k = top_k,
        .scores = d->scores,
        .weight = weight,
        .prices = d->prices,
        .row = d->row,
        .chosen = d->chosen,
        .runner_up = d->runner_up,
        .cutoff = d->cutoff,
        .margin = d->margin,
        .loads = d->loads,
    };
}

static struct smoe_route_pick draw(struct drawn *d, enum kind kind, struct smoe_rng *rng)
{
    uint32_t n_experts = draw_width(rng), offered = n_experts;
    uint32_t n_tokens = 1 + (uint32_t)smoe_rng_below(rng, TOKENS);
    for (uint32_t v = 0; v < n_tokens * n_experts; v++)
        d->scores[v] = draw_score(kind, rng);
    for (uint32_t e = 0; e < n_experts; e++) {
        d->prices[e] = draw_price(kind, rng);
        if (offered > 1 && smoe_rng_below(rng, 10) == 0) {
            d->prices[e] = (double)INFINITY;
            offered--;
        }
    }
    uint32_t top_k = draw_top_k(offered, rng);
    return of_drawn(d, n_tokens, n_experts, top_k, kind == WEIGHTLESS ? 0 : 20);
}

Test(pick, it_is_a_sort_cut_off_after_k_and_one)
{
    static struct drawn d;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 51, 0);
    for (int round = 0; round < 3000; round++) {
        struct smoe_route_pick pick = draw(&d, (enum kind)(round % VAST), &rng);
        smoe_route_pick(&pick);
        uint32_t count[EXPERTS] = {0};
        for (uint32_t i = 0; i < pick.n_tokens; i++)
            check_token(&pick, i);
        for (uint32_t v = 0; v < pick.n_tokens * pick.top_k; v++)
            count[d.chosen[v]]++;
        cr_assert_arr_eq(count, d.loads, pick.n_experts * sizeof *count);
    }
}

static void check_equal(const struct smoe_route_pick *pick, const struct drawn *a,
                        const struct drawn *b, int kernel, int round)
{
    size_t n = pick->n_tokens;
    cr_assert_arr_eq(a->chosen, b->chosen, n * pick->top_k * sizeof *a->chosen,
                     "kernel %d, round %d", kernel, round);
    cr_assert_arr_eq(a->runner_up, b->runner_up, n * sizeof *a->runner_up);
    cr_assert_arr_eq(a->cutoff, b->cutoff, n * sizeof *a->cutoff);
    cr_assert_arr_eq(a->margin, b->margin, n * sizeof *a->margin);
    cr_assert_arr_eq(a->loads, b->loads, pick->n_experts * sizeof *a->loads);
}

Test(pick, every_kernel_gives_the_bits_of_the_scalar_pass)
{
    static struct drawn d, wanted;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 52, 0);
    cr_assert(smoe_route_kernel_runs(SMOE_ROUTE_PORTABLE));
    for (int round = 0; round < 7000; round++) {
        struct smoe_route_pick pick = draw(&d, (enum kind)(round % KINDS), &rng);
        smoe_route_pick_by(SMOE_ROUTE_SCALAR, &pick);
        wanted = d;
        for (int k = SMOE_ROUTE_PORTABLE; k < SMOE_ROUTE_KERNELS; k++) {
            if (!smoe_route_kernel_runs((enum smoe_route_kernel)k))
                continue;
            memset(d.chosen, 0xee, sizeof d.chosen);
            memset(d.margin, 0xee, sizeof d.margin);
            memset(d.cutoff, 0xee, sizeof d.cutoff);
            smoe_route_pick_by((enum smoe_route_kernel)k, &pick);
            check_equal(&pick, &wanted, &d, k, round);
        }
    }
}

/* Scores far apart prove themselves. Only the scalar pass writes to `row`, so it tells whether a kernel asked for it:
 * one that loses the order of its keys would still give the right bits, but slowly. */
Test(pick, a_token_with_scores_far_apart_is_not_done_again)
{
    static struct drawn d;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 54, 0);
    for (uint32_t n_experts = 16; n_experts <= EXPERTS; n_experts += 16)
        for (uint32_t top_k = 1; top_k <= 8; top_k++) {
            memset(d.prices, 0, sizeof d.prices);
            memset(d.row, 0xee, sizeof d.row);
            for (uint32_t i = 0; i < TOKENS; i++)
                for (uint32_t e = 0; e < n_experts; e++) { /* a permutation, drawn as it grows */
                    uint32_t at = (uint32_t)smoe_rng_below(&rng, e + 1);
                    d.scores[i * n_experts + e] = d.scores[i * n_experts + at];
                    d.scores[i * n_experts + at] = (float)(e + 1) / (float)n_experts;
                }
            struct smoe_route_pick pick = of_drawn(&d, TOKENS, n_experts, top_k, 1);
            for (int k = SMOE_ROUTE_PORTABLE; k < SMOE_ROUTE_KERNELS; k++) {
                if (!smoe_route_kernel_runs((enum smoe_route_kernel)k))
                    continue;
                double untouched = d.row[0];
                smoe_route_pick_by((enum smoe_route_kernel)k, &pick);
                cr_assert_eq(memcmp(d.row, &untouched, sizeof untouched), 0,
                             "kernel %d, %u experts, K = %u", k, n_experts, top_k);
            }
        }
}

/* The widest rows there may be, and that nothing behind the last row is read: a sanitizer sees it. */
Test(pick, a_row_may_have_any_width)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 53, 0);
    for (uint32_t n_experts = 1; n_experts <= SMOE_EXPERTS_MAX;
         n_experts += n_experts < 70 ? 1 : 53) {
        uint32_t n_tokens = 9;
        float *scores = malloc(n_tokens * n_experts * sizeof *scores);
        double *prices = malloc(n_experts * sizeof *prices), *row = malloc(n_experts * sizeof *row);
        uint32_t *loads = malloc(2 * n_experts * sizeof *loads);
        uint16_t chosen[2][9], runner_up[2][9];
        double cutoff[2][9], margin[2][9];
        for (uint32_t v = 0; v < n_tokens * n_experts; v++)
            scores[v] = (float)smoe_rng_unit(&rng);
        for (uint32_t e = 0; e < n_experts; e++)
            prices[e] = smoe_rng_unit(&rng);
        for (int k = 0; k < SMOE_ROUTE_KERNELS; k++) {
            if (!smoe_route_kernel_runs((enum smoe_route_kernel)k))
                continue;
            uint32_t which = k > 0;
            struct smoe_route_pick pick = {.n_tokens = n_tokens,
                                           .n_experts = n_experts,
                                           .top_k = 1,
                                           .scores = scores,
                                           .weight = 1,
                                           .prices = prices,
                                           .row = row,
                                           .chosen = chosen[which],
                                           .runner_up = runner_up[which],
                                           .cutoff = cutoff[which],
                                           .margin = margin[which],
                                           .loads = loads + which * n_experts};
            smoe_route_pick_by((enum smoe_route_kernel)k, &pick);
            cr_assert_arr_eq(chosen[0], chosen[which], sizeof chosen[0], "%u experts", n_experts);
            cr_assert_arr_eq(runner_up[0], runner_up[which], sizeof runner_up[0]);
            cr_assert_arr_eq(cutoff[0], cutoff[which], sizeof cutoff[0]);
            cr_assert_arr_eq(margin[0], margin[which], sizeof margin[0]);
            cr_assert_arr_eq(loads, loads + which * n_experts, n_experts * sizeof *loads);
        }
        free(scores);
        free(prices);
        free(row);
        free(loads);
    }
}
