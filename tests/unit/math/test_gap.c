/* SPDX-License-Identifier: Apache-2.0
 *
 * The exact solve where a gap is allowed, at the limits of what rounded numbers tell.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "daemon/core/route.h"
#include "oracle.h"

enum { TOKENS_MOST = 400, EXPERTS_MOST = 140 };

static const struct instance_kind FEW = {.tokens_max = TOKENS_MOST,
                                         .experts_min = 20,
                                         .experts_max = EXPERTS_MOST,
                                         .top_k_max = 8,
                                         .one_to_one = true};

static struct smoe_route_scratch *scratch_new(void)
{
    struct smoe_route_scratch *scratch = NULL;
    cr_assert_eq(smoe_route_scratch_new(TOKENS_MOST, EXPERTS_MOST, EXPERTS_MOST, &scratch), 0);
    return scratch;
}

/* Solves for a gap, and checks it against the optimum; the bound against a full pass at the same prices. */
static void check_gap(struct instance *it, struct smoe_route_scratch *scratch,
                      const struct smoe_route_options *options, int round)
{
    double most = 0;
    for (size_t v = 0; v < (size_t)it->problem.n_tokens * it->problem.n_experts; v++)
        most = fmax(most, fabs((double)it->scores[v]));
    smoe_route_exact(&it->problem, options, scratch, &it->answer);
    instance_check(it, "gap");
    struct smoe_route_answer with_gap = it->answer;
    double dual = smoe_route_dual(&it->problem, with_gap.n_routed, options->prices, scratch);
    smoe_route_exact(&it->problem, NULL, scratch, &it->answer);
    double best = it->answer.primal, visits = (double)it->problem.n_tokens * it->problem.top_k;
    double slack = 1e-9 * instance_scale(it) + 1e-12 * fabs(best) +
                   1e-12 * visits * most * it->problem.score_weight;
    cr_assert_leq(with_gap.bound, dual + slack, "round %d", round);
    cr_assert_leq(with_gap.bound, best + slack, "round %d", round);
    cr_assert_leq(with_gap.primal - with_gap.bound, options->gap_max + slack, "round %d", round);
    cr_assert_leq(with_gap.primal, best + options->gap_max + slack, "round %d", round);
    cr_assert(!with_gap.exact || with_gap.primal <= best + slack, "round %d", round);
}

/* A gap of 2^-from to 2^-(from + over) of the scale, for all tokens of the problem; `prices` is where they go. */
static struct smoe_route_options draw_gap(struct instance *it, struct smoe_rng *rng, double from,
                                          double over, double *prices)
{
    it->answer.n_routed = it->problem.n_tokens;
    double part = exp2(-from - over * smoe_rng_unit(rng));
    return (struct smoe_route_options){.prices = prices, .gap_max = part * instance_scale(it)};
}

/* What all scores have in common says nothing, but takes the room of what they tell in single precision. */
Test(gap, where_scores_are_far_from_zero_the_gap_is_kept)
{
    struct smoe_route_scratch *scratch = scratch_new();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 71, 0);
    for (int round = 0; round < 400; round++) {
        struct instance it;
        instance_draw(&it, &FEW, &rng);
        float common = (float)exp2(6 + 10 * smoe_rng_unit(&rng));
        for (size_t v = 0; v < (size_t)it.problem.n_tokens * it.problem.n_experts; v++)
            it.scores[v] += round % 2 ? common : -common;
        double prices[EXPERTS_MOST];
        struct smoe_route_options options = draw_gap(&it, &rng, 8, 16, prices);
        check_gap(&it, scratch, &options, round);
        instance_release(&it);
    }
    smoe_route_scratch_free(scratch);
}

/* Where the proof of what was rounded fails, what counts as rounding is of this problem. */
Test(gap, what_another_problem_left_behind_does_not_matter)
{
    struct smoe_route_scratch *scratch = scratch_new();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 72, 0);
    struct instance huge;
    struct instance_kind kind = FEW;
    kind.tokens_min = TOKENS_MOST;
    instance_draw(&huge, &kind, &rng);
    huge.problem.score_weight = 1e25;
    for (int round = 0; round < 300; round++) {
        struct instance it;
        kind.tokens_min = 0;
        kind.alike = round % 2;
        instance_draw(&it, &kind, &rng);
        double prices[EXPERTS_MOST];
        struct smoe_route_options options = draw_gap(&it, &rng, 8, 16, prices);
        smoe_route_exact(&huge.problem, NULL, scratch, &huge.answer);
        check_gap(&it, scratch, &options, round);
        instance_release(&it);
    }
    instance_release(&huge);
    smoe_route_scratch_free(scratch);
}

/* A node that would take more visits than there are tokens: one more there costs less than its price, and nobody can
 * bring it. Prices are those of other slots. */
Test(gap, a_node_that_every_token_may_visit_wants_no_more)
{
    struct smoe_route_scratch *scratch = scratch_new();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 73, 0);
    for (int round = 0; round < 1500; round++) {
        struct instance it;
        double prices[EXPERTS_MOST];
        instance_draw(&it, &FEW, &rng);
        uint32_t n_tokens = it.problem.n_tokens;
        it.problem.mode = round % 2 ? SMOE_COST_LINEAR : SMOE_COST_EXACT;
        struct smoe_route_options options = draw_gap(&it, &rng, 5, 8, prices);
        for (int slot = 0; slot < 4; slot++) {
            check_gap(&it, scratch, &options, round);
            options.warm = true;
            it.problem.n_tokens = 1 + (uint32_t)smoe_rng_below(&rng, n_tokens);
            for (uint32_t j = 0; j < it.problem.n_nodes; j++)
                it.nodes[j].executable = it.nodes[j].backlog =
                    floor(it.nodes[j].backlog * 2 * smoe_rng_unit(&rng));
        }
        instance_release(&it);
    }
    smoe_route_scratch_free(scratch);
}
