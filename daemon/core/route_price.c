/* SPDX-License-Identifier: Apache-2.0
 *
 * Prices near the optimum, by passes over the tokens (MODEL.md section 4, step 2).
 *
 * Prices are those of markets (route_market.c). A price is right when the visits that tokens bring are what
 * the market's nodes supply at it: marginal(A-1) <= p <= marginal(A). A sweep is one hot pass over the tokens
 * that prices may still concern (route_near.c) and then, for each market, the solution of its own
 * one-dimensional problem: demand against supply. All move at once from the same pass, hence a damping.
 *
 * What sweeps cannot see is the common level: as every token goes somewhere, moving all prices together
 * changes no demand. So before each sweep all prices are shifted (route_level.c).
 *
 * Sweeps end when repairing what is left (route_cancel.c, route_tide.c) costs less than another sweep or
 * than the last one saved, or when they stop gaining: equal tokens make demand jump, and no price fits.
 * The best prices seen win; as many tokens as are misplaced at them, those nearest to a tie, are then
 * set aside by `window` for route_flow.c to place by load.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_internal.h"

static const double DAMPING_FIRST = 0.6; /* part of the way to its own solution that a node goes */
static const double DAMPING_LEAST = 0.2;
static const double DAMPING_REGAIN = 1.5; /* per sweep that gained */
static const double LAST_STEP =
    1.01; /* when few visits are misplaced: just past the token's margin */

/* Times in units of the hot pass, a score: of repairing one unit, in all and for each expert and visit, and what part
 * of that the tide takes; of clearing the market of one node. */
static const double REPAIR_UNIT = 2500, REPAIR_EXPERT = 300, REPAIR_VISIT = 0.7, TIDE_PART = 0.3,
                    CLEAR_UNIT = 800;

enum {
    IN_SIGHT = 64,   /* one in so many tokens is looked at first when cycles are sought */
    STALLED_MAX = 3, /* sweeps without a gain before giving up */
};

/* Time to repair that many visits one by one, in scores of a hot pass: a search looks at rows of experts, and what it
 * moves changes rows, which are made of visits. */
static double repair_work(const struct smoe_route_run *run, uint64_t visits)
{
    double unit =
        REPAIR_UNIT + REPAIR_EXPERT * run->problem->n_experts + REPAIR_VISIT * run->n_visits;
    return (double)visits * (run->tidal ? TIDE_PART * unit : unit);
}

/* Last slot's prices, or none: the shift then is the water-fill. A node that was dead comes in at the
 * others' mean. */
void smoe_route_start_prices(struct smoe_route_run *run, const struct smoe_route_options *options,
                             bool roughly)
{
    uint32_t n_nodes = run->problem->n_nodes, known = 0;
    double *price = run->scratch->node_price, sum = 0;
    smoe_route_market_begin(run);
    for (uint32_t j = 0; options->warm && j < n_nodes; j++)
        if (isfinite(options->prices[j])) {
            sum += options->prices[j];
            known++;
        }
    for (uint32_t j = 0; j < n_nodes; j++)
        price[j] = known && isfinite(options->prices[j]) ? options->prices[j]
                   : known                               ? sum / known
                                                         : 0;
    smoe_route_market_from_nodes(run);
    if (known && roughly)
        smoe_route_shift_roughly(run);
    else if (!known || !smoe_route_level_fits(run, price))
        smoe_route_shift_prices(run);
}

/* All markets go `damping` of the way to their own solutions; to a plateau all the way. Where a visit or two
 * are misplaced at each, part of the way moves no token, and if seller and buyer both went all of it they
 * would pass each other: then the two sides take turns. */
static void step_prices(struct smoe_route_run *run, double damping, uint64_t now)
{
    struct smoe_route_scratch *s = run->scratch;
    int side = 0; /* of the markets that move: > 0 those with too much, < 0 too little, 0 all */
    if (now <= run->problem->n_experts)
        side = run->answer->sweeps % 2 ? 1 : -1;
    struct smoe_route_view view = smoe_route_view(run);
    smoe_route_market_count(run, &view);
    for (uint32_t m = 0; m < run->problem->n_experts; m++) {
        if (s->market[m] != m || s->market_excess[m] == 0 || side * s->market_excess[m] < 0)
            continue;
        bool plateau;
        double price = smoe_route_market_clear(run, m, &plateau);
        double step = price - s->market_price[m];
        if (plateau)
            s->market_price[m] = price;
        else if (isfinite(step))
            s->market_price[m] += (side ? LAST_STEP : damping) * step;
    }
    smoe_route_market_prices(run);
    uint64_t off = run->over > run->under ? run->over - run->under : run->under - run->over;
    if (off > now / 2 && !smoe_route_level_fits(run, s->node_price))
        smoe_route_shift_prices(run);
}

static uint64_t sweep(struct smoe_route_run *run)
{
    smoe_route_look(run);
    run->answer->sweeps++;
    return smoe_route_market_excess(run);
}

/* Is another sweep worth its time? Not if repairing what is misplaced now costs less than two, nor if
 * the last gain saved less repair than one. */
static bool sweep_pays(const struct smoe_route_run *run, uint64_t now, uint64_t before)
{
    struct smoe_route_view view = smoe_route_view(run);
    double cost = (double)view.n_tokens * run->problem->n_experts;
    cost += CLEAR_UNIT * run->problem->n_nodes;
    return repair_work(run, now) > 2 * cost &&
           (now >= before || repair_work(run, before - now) > cost);
}

void smoe_route_settle_prices(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    struct smoe_route_scratch *s = run->scratch;
    size_t bytes = run->problem->n_experts * sizeof *s->market_price;
    uint32_t sweeps_max = options->sweeps_max ? options->sweeps_max : SMOE_ROUTE_SWEEPS_MAX;
    uint32_t stalled = 0;
    uint64_t now, before = UINT32_MAX, best = UINT32_MAX;
    double damping = DAMPING_FIRST;
    smoe_route_start_prices(run, options, false);
    for (;; before = now) {
        now = sweep(run);
        if (now < best) {
            best = now;
            memcpy(s->best_price, s->market_price, bytes);
        }
        if (now < before) {
            stalled = 0;
            damping =
                damping * DAMPING_REGAIN < DAMPING_FIRST ? damping * DAMPING_REGAIN : DAMPING_FIRST;
        } else {
            stalled++;
            damping = damping / 2 > DAMPING_LEAST ? damping / 2 : DAMPING_LEAST;
        }
        if (!sweep_pays(run, now, before) || run->answer->sweeps >= sweeps_max ||
            run->answer->work >= run->work_max || stalled == STALLED_MAX)
            break;
        step_prices(run, damping, now);
    }
    if (now > best) {
        memcpy(s->market_price, s->best_price, bytes);
        smoe_route_market_prices(run);
        sweep(run);
    }
    smoe_route_look_up(run);
    /* the horizon is no nearer than the window: what is placed in it may violate arcs from the start */
    const uint64_t visits[2] = {best, 4 * best + run->n_tokens / IN_SIGHT};
    double margin[2];
    struct smoe_route_view view = smoe_route_view(run);
    smoe_route_market_windows(&view, visits, margin);
    run->window = margin[0];
    run->horizon = margin[1];
}
