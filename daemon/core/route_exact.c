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

static void hand_out_prices(const struct smoe_route_run *run, double *prices)
{
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        prices[j] = run->problem->nodes[j].arrivals_max > 0 ? run->scratch->node_price[j]
                                                            : (double)INFINITY;
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
    if (run.n_tokens > 0) {
        run.enough = options->gap_max * KEPT;
        if (smoe_route_paired(&run)) {
            smoe_route_auction(&run, options);
            smoe_route_tide(&run, scratch->dirty);
        } else {
            smoe_route_settle_prices(&run, options);
            smoe_route_assign(&run, scratch->dirty);
        }
    }
    if (run.n_tokens > 0) {
        answer->exact = smoe_route_cancel(&run, scratch->dirty);
        smoe_route_deal(&run);
        if (options->prices)
            hand_out_prices(&run, options->prices);
    }
    smoe_route_finish(&run);
    answer->bound = run.n_tokens > 0 ? smoe_route_bound(&run) : answer->primal;
    answer->exact |= run.n_tokens == 0;
}
