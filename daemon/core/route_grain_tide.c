/* SPDX-License-Identifier: Apache-2.0
 *
 * The tide (route_tide.c) in whole grains. Slacks are exact, so that a path that was found holds as long as nobody on
 * it has moved, and rows have all visits.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_grain_solve.h"

static const double WIDTH = 0.04; /* of a wave, of the mean margin */

static int64_t excess_of(const struct smoe_grain_solve *g, uint32_t v)
{
    return v == g->n_experts ? g->sink_excess
                             : (int64_t)g->s->expert_load[v] - (int64_t)g->s->accepted[v];
}

static int16_t clamp(int32_t x)
{
    return (int16_t)(x > INT16_MAX ? INT16_MAX : x < -INT16_MAX ? -INT16_MAX : x);
}

/* At its limit a node takes no more: that might cost less than its price, and ways would come round to where they
 * began. */
static void accept(struct smoe_grain_solve *g, uint32_t e, uint32_t n)
{
    struct smoe_route_scratch *s = g->s;
    bool more = n < smoe_route_limit(g->run, smoe_route_node_of(g->run, e));
    s->accepted[e] = n;
    s->grain_up[e] = more ? clamp(smoe_grain_marginal(g, e, n)) : SMOE_GRAIN_FAR;
    s->grain_down[e] = n > 0 ? clamp(-smoe_grain_marginal(g, e, n - 1)) : SMOE_GRAIN_FAR;
}

/* As many as marginals allow, or as few, whatever is nearer to what it carries. */
uint32_t smoe_grain_accepted(const struct smoe_grain_solve *g, uint32_t e)
{
    uint32_t n = g->s->expert_load[e],
             limit = smoe_route_limit(g->run, smoe_route_node_of(g->run, e));
    int32_t price = g->s->grain_lift[e] - g->sink_lift;
    while (n < limit && smoe_grain_marginal(g, e, n) < price)
        n++;
    while (n > 0 && smoe_grain_marginal(g, e, n - 1) > price)
        n--;
    return n;
}

static void begin(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    g->risen = g->sink_lift;
    for (uint32_t e = 0; e < g->stride; e++) {
        s->grain_down[e] = s->grain_up[e] = SMOE_GRAIN_FAR;
        if (e >= g->n_experts)
            continue;
        s->row_made[e] = 0;
        s->accepted[e] = 0;
        if (isinf(s->expert_price[e]))
            continue;
        accept(g, e, smoe_grain_accepted(g, e));
        g->sink_excess -= excess_of(g, e);
        g->risen = s->grain_lift[e] > g->risen ? s->grain_lift[e] : g->risen;
    }
}

/* What the answer may lose against the bound of these prices, for the nodes' part. */
static double gap_of(const struct smoe_grain_solve *g)
{
    const struct smoe_route_scratch *s = g->s;
    double gap = 0;
    for (uint32_t e = 0; e < g->n_experts; e++) {
        uint32_t has = s->expert_load[e], n = s->accepted[e];
        if (n == has)
            continue;
        uint32_t node = smoe_route_node_of(g->run, e);
        double price = s->expert_price[e] + (s->grain_lift[e] - g->sink_lift) * g->grain;
        for (; n < has; n++)
            gap += smoe_route_marginal_at(g->run, node, n) - price;
        for (; n > has; n--)
            gap += price - smoe_route_marginal_at(g->run, node, n - 1);
    }
    return gap;
}

/* ---- rows ---- */

static int16_t *row_of(const struct smoe_grain_solve *g, uint32_t e)
{
    return g->s->grain_row + (size_t)e * g->stride;
}

/* The least slack to each other expert of all visits on e, but for labels. */
static void make_row(struct smoe_grain_solve *g, uint32_t e)
{
    struct smoe_route_scratch *s = g->s;
    struct smoe_grain_group group;
    const uint16_t *visit = s->grain_visit + s->grain_first[e];
    uint32_t load = s->expert_load[e], first = 0;
    do {
        int16_t most = 0;
        uint32_t count = load - first < SMOE_GRAIN_GROUP ? load - first : SMOE_GRAIN_GROUP;
        for (uint32_t n = 0; n < count; n++) {
            uint32_t v = visit[first + n];
            group.costs[n] = smoe_grain_costs(g, smoe_grain_token(g, v));
            group.held[n] = s->grain_own[v];
            most = group.held[n] > most ? group.held[n] : most;
        }
        group.count = count;
        g->kernel->offers(row_of(g, e), g->stride, &group, first > 0, most > SMOE_GRAIN_OWN_MOST);
        first += count;
    } while (first < load);
    g->run->answer->work += (uint64_t)load * g->n_experts;
    s->row_made[e] = 1;
}

/* ---- the search ---- */

/* Every vertex as yet out of reach, but those with an excess. Returns how much there is. */
static uint64_t start(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    uint64_t left = g->sink_excess > 0 ? (uint64_t)g->sink_excess : 0;
    memcpy(s->grain_key, s->grain_none, g->stride * sizeof *s->grain_key);
    memcpy(s->grain_open, s->grain_none, g->stride * sizeof *s->grain_open);
    g->n_targets = 0;
    for (uint32_t e = 0; e < g->n_experts; e++) {
        int64_t excess = excess_of(g, e);
        if (excess > 0) {
            s->grain_key[e] = s->grain_open[e] = 0;
            s->grain_came[e] = (int16_t)e;
            left += (uint64_t)excess;
        } else if (excess < 0) {
            s->touched[g->n_targets++] = e;
        }
    }
    if (g->sink_excess < 0)
        s->touched[g->n_targets++] = g->n_experts;
    g->sink_key = g->sink_excess > 0 ? 0 : SMOE_GRAIN_FAR;
    return left;
}

static int32_t key_of(const struct smoe_grain_solve *g, uint32_t v)
{
    return v == g->n_experts ? g->sink_key : g->s->grain_key[v];
}

/* The nearest deficits, up to what all excess could fill, in order. Returns how far the last is. */
static int32_t choose_targets(struct smoe_grain_solve *g, uint64_t left)
{
    uint32_t *target = g->s->touched, n = 0;
    uint64_t found = 0;
    for (uint32_t m = 0; m < g->n_targets; m++) {
        uint32_t v = target[m], k = n;
        if (key_of(g, v) > SMOE_GRAIN_WAY_MAX)
            continue;
        for (; k > 0 && key_of(g, target[k - 1]) > key_of(g, v); k--)
            target[k] = target[k - 1];
        target[k] = v;
        n++;
    }
    for (g->n_targets = 0; g->n_targets < n && found < left; g->n_targets++)
        found += (uint64_t)-excess_of(g, target[g->n_targets]);
    return g->n_targets > 0 ? key_of(g, target[g->n_targets - 1]) : 0;
}

/* Shortest ways from all excess to everything. Returns how far deficits are that could take it. Nearly every vertex
 * will be met, so all rows are made first. */
static int32_t search(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    for (uint32_t e = 0; e < g->n_experts; e++)
        if (!s->row_made[e])
            make_row(g, e);
    uint64_t left = start(g);
    struct smoe_grain_front front = {.stride = g->stride,
                                     .lift = s->grain_lift,
                                     .rows = s->grain_row,
                                     .up = s->grain_up,
                                     .down = s->grain_down,
                                     .key = s->grain_key,
                                     .open = s->grain_open,
                                     .came = s->grain_came,
                                     .base = s->grain_base,
                                     .sink = g->n_experts,
                                     .sink_lift = g->sink_lift,
                                     .sink_key = g->sink_key,
                                     .sink_open = g->sink_key,
                                     .sink_came = g->n_experts};
    uint32_t expanded = g->kernel->search(&front, g->width, SMOE_GRAIN_WAY_MAX);
    g->sink_key = front.sink_key;
    g->sink_came = front.sink_came;
    g->run->answer->work += (uint64_t)expanded * g->n_experts;
    return choose_targets(g, left);
}

/* Labels rise, so that the paths to all that is no farther than this are without slack. */
static void raise_labels(struct smoe_grain_solve *g, int32_t way)
{
    struct smoe_route_scratch *s = g->s;
    g->kernel->raise(s->grain_lift, s->grain_key, g->stride, (int16_t)way);
    if (g->sink_key < way)
        g->sink_lift += way - g->sink_key;
    g->risen += way;
    if (g->risen <= SMOE_GRAIN_LIFT_MAX)
        return;
    g->risen = g->sink_lift; /* or perhaps not */
    for (uint32_t e = 0; e < g->n_experts; e++)
        if (!isinf(s->expert_price[e]) && s->grain_lift[e] > g->risen)
            g->risen = s->grain_lift[e];
    g->failed |= g->risen > SMOE_GRAIN_LIFT_MAX;
}

/* ---- carrying ---- */

static uint32_t came(const struct smoe_grain_solve *g, uint32_t v)
{
    return v == g->n_experts ? g->sink_came : (uint32_t)g->s->grain_came[v];
}

/* Can a unit still go from there to here? Notes which visit moves. */
static bool step_holds(const struct smoe_grain_solve *g, uint32_t from, uint32_t to,
                       uint32_t *ret_visit)
{
    const struct smoe_route_scratch *s = g->s;
    if (to == g->n_experts)
        return s->grain_up[from] + g->sink_lift == s->grain_lift[from];
    if (from == g->n_experts)
        return s->grain_down[to] + s->grain_lift[to] == g->sink_lift;
    int32_t slack = s->grain_lift[from] - s->grain_lift[to];
    const uint16_t *visit = s->grain_visit + s->grain_first[from];
    for (uint32_t n = 0; n < s->expert_load[from]; n++) {
        int16_t cost = smoe_grain_costs(g, smoe_grain_token(g, visit[n]))[to];
        if (cost - s->grain_own[visit[n]] == slack && cost != SMOE_GRAIN_FAR) {
            *ret_visit = visit[n];
            return true;
        }
    }
    return false;
}

static void hand_on(struct smoe_grain_solve *g, uint32_t visit, uint32_t to)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t token = smoe_grain_token(g, visit);
    for (uint32_t v = token * g->top_k; v < (token + 1) * g->top_k; v++) {
        s->row_made[g->run->answer->expert[v]] = 0;
        smoe_grain_set_bid(g, v, 0); /* nothing is sure of its margin now */
    }
    smoe_grain_leave(g, visit);
    smoe_grain_take(g, visit, to, 0);
    s->row_made[to] = 0;
}

/* Carries a unit from where the search came from to a deficit, if its path still holds. */
static bool carry(struct smoe_grain_solve *g, uint32_t target)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t v = target, n = 0, sink = g->n_experts;
    while (came(g, v) != v)
        v = came(g, v);
    if (excess_of(g, v) <= 0 || excess_of(g, target) >= 0)
        return false;
    for (v = target; came(g, v) != v; v = came(g, v)) /* all are found before anybody moves */
        if (!step_holds(g, came(g, v), v, &s->moved[n++]))
            return false;
    for (v = target, n = 0; came(g, v) != v; v = came(g, v), n++) {
        uint32_t from = came(g, v);
        if (v == sink) {
            accept(g, from, s->accepted[from] + 1);
            g->sink_excess++;
        } else if (from == sink) {
            accept(g, v, s->accepted[v] - 1);
            g->sink_excess--;
        } else {
            hand_on(g, s->moved[n], v);
        }
    }
    g->run->answer->cycles++;
    return true;
}

bool smoe_grain_tide(struct smoe_grain_solve *g, double mean)
{
    begin(g);
    g->width = (int32_t)(WIDTH * mean);
    while (gap_of(g) > g->run->enough / 4) {
        int32_t way = search(g);
        if (g->n_targets == 0 || g->run->answer->work > g->run->work_max)
            return false;
        raise_labels(g, way);
        if (g->failed)
            return false;
        uint32_t before = g->run->answer->cycles;
        for (uint32_t n = 0; n < g->n_targets; n++)
            while (carry(g, g->s->touched[n]))
                ;
        if (g->run->answer->cycles == before) /* the nearest can always be reached */
            return false;
    }
    return true;
}
