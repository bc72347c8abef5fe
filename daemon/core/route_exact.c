/* SPDX-License-Identifier: Apache-2.0
 *
 * The exact solve of one slot (MODEL.md section 4), in four moves:
 *
 *     prices   sweeps until demand and supply nearly agree             route_price.c
 *     flow     tokens take their K cheapest; ties and caps settled     route_flow.c
 *     cycles   what pays is moved until nothing pays                   route_cancel.c
 *     proof    the dual value of the final prices                      route.c
 *
 * From the second move on there is a feasible answer, and any prices give a bound, so the work limit may
 * strike anywhere: the answer then is the flow as it stands with the gap that the prices prove.
 */
#include <math.h>

#include "common/base/assert.h"
#include "daemon/core/route_internal.h"

/* Part of a gap that is allowed; the rest is for rounding, of the sums of the proof too. */
static const double KEPT = 1 - 0x1p-10;

/* One visit in so many may be misplaced after the sweeps: more of them are equal tokens, which go by load. */
enum { CROWD = 16 };

static void hand_out_prices(const struct smoe_route_run *run, double *prices)
{
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        prices[j] = run->problem->nodes[j].arrivals_max > 0 ? run->scratch->node_price[j]
                                                            : (double)INFINITY;
}

/* Prices and flow. True if that is as near to an optimum as was asked for. */
static bool near_enough(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    bool paired = smoe_route_paired(run);
    if (paired && smoe_route_grains_pay(run) && smoe_route_grains(run, options))
        return true; /* or not, by what was rounded: the proof will tell */
    if (paired && smoe_route_bids_pay(run)) {
        smoe_route_auction(run, options);
        return smoe_route_tide(run, true, run->scratch->dirty);
    }
    run->tidal = paired && run->enough > 0 && smoe_route_tide_pays(run);
    smoe_route_settle_prices(run, options);
    if (run->tidal && (run->over + run->under) * CROWD <= run->n_visits) {
        smoe_route_keep_chosen(run);
        return smoe_route_tide(run, false, run->scratch->dirty);
    }
    smoe_route_assign(run, run->scratch->dirty);
    return false;
}

/* What the dearest of a token's experts costs: what rounding is measured by. The solve in grains does not know. */
static void note_cutoffs(struct smoe_route_run *run)
{
    const struct smoe_route_scratch *s = run->scratch;
    uint32_t top_k = run->problem->top_k;
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        const uint16_t *held = run->answer->expert + (size_t)i * top_k;
        s->cutoff[i] = -(double)INFINITY;
        for (uint32_t k = 0; k < top_k; k++) {
            double cost = s->expert_price[held[k]] - smoe_route_weight(run->problem, i, held[k]);
            s->cutoff[i] = cost > s->cutoff[i] ? cost : s->cutoff[i];
        }
    }
}

/* The value of the answer as it is, and its proof. */
static void prove(struct smoe_route_run *run)
{
    smoe_route_finish(run);
    run->answer->bound = run->n_tokens > 0 ? smoe_route_bound(run) : run->answer->primal;
}

void smoe_route_exact(const struct smoe_route_problem *problem,
                      const struct smoe_route_options *options, struct smoe_route_scratch *scratch,
                      struct smoe_route_answer *answer)
{
    static const struct smoe_route_options DEFAULTS = {0};
    struct smoe_route_run run;
    if (!options)
        options = &DEFAULTS;
    smoe_assert(options->prices || !options->warm);
    smoe_route_begin(&run, problem, scratch, answer);
    if (options->work_max)
        run.work_max = options->work_max;
    bool near = false;
    if (run.n_tokens > 0) {
        run.enough = options->gap_max * KEPT;
        near = near_enough(&run, options);
        if (!near && run.n_tokens > 0)
            answer->exact = smoe_route_cancel(&run, scratch->dirty);
    }
    prove(&run);
    if (near && answer->primal - answer->bound > options->gap_max) {
        note_cutoffs(&run);
        smoe_route_list_in_sight(&run);
        smoe_route_mark(&run, scratch->dirty);
        answer->exact = smoe_route_cancel(&run, scratch->dirty);
        prove(&run);
    }
    if (run.n_tokens > 0) {
        smoe_route_deal(&run);
        if (options->prices)
            hand_out_prices(&run, options->prices);
    }
    answer->exact |= run.n_tokens == 0;
}
