/* SPDX-License-Identifier: Apache-2.0
 *
 * From an assignment in which every token holds its K cheapest to one that nodes agree with: the same shortest
 * paths as route_cancel.c's, for the crowd that the auction leaves, or sweeps (MODEL.md section 4, step 2).
 *
 * A node at its price accepts what its marginals say; it may carry more than that (excess) or less (deficit). The
 * sink is out of balance by what is accepted in all, more or less than there are visits. One search starts from
 * everything with an excess at once and goes on until it has met enough deficits; each comes with the shortest
 * path to it. Then labels rise as after any such search, all those paths are without slack, and a unit is
 * carried along each whose arcs nobody has used up meanwhile. What is left starts the next search: a dozen for a
 * hundred units.
 *
 *     row      of an expert: the least slack to each other, of all visits on it, at the prices it began with. A row
 *              and the front of a search are vectors, and settling a vertex is one look at both
 *     lift     of a label: by how much it has risen since. Slack now = slack of the row + lift there - lift here
 *     came     whence a search reached an expert; itself where it started
 *
 * Rows are in single precision, so that slacks err by 1e-7 of the prices' spread; answers are proven in double
 * precision, and where exactness is asked for and this is not enough, experts are marked for route_cancel.c.
 * With many visits a node most of them have margins that labels will not rise by against each other, and a row has the
 * visits of no greater margin than its sight. After bids that is at first the same for all rows, and should a search
 * come farther it sees all. After sweeps a search goes no farther than a radius, which widens when nothing is found
 * within it, and a row sees as far as this needs: the way that is left, and the lift of its own label against the
 * least. Lists have the visits within the horizon; no row sees farther.
 * When a token has moved, entries that were its own stay as they are in a long row: they are too low, which no label
 * minds. A path that needs one fails, and the entry is looked up.
 *
 * It ends when all is in balance, or when the gap is good enough, or when rounding is in the way: searches
 * without a gain are counted. What is left is left to route_cancel.c.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_tide.h"

enum {
    VAIN_MOST = 4,     /* searches in succession that carry nothing */
    MANY_VISITS = 24,  /* a node: from here on rows begin with some */
    LEAST_NODES = 128, /* after sweeps: below, repairing them one by one costs no more */
    TOKENS_PART = 4,   /* nor with more tokens than such a part of the arcs */
};

static const double SIGHT = 0.5, RADIUS = 0.05; /* at first, of the mean margin */
static const float WIDEN = 2;

bool smoe_route_tide_pays(const struct smoe_route_run *run)
{
    uint64_t arcs = (uint64_t)run->n_offered * run->n_offered;
    return run->n_offered >= LEAST_NODES && run->n_tokens <= arcs / TOKENS_PART;
}

static int64_t excess_of(const struct smoe_tide *t, uint32_t v)
{
    return v == t->sink ? t->sink_excess
                        : (int64_t)t->s->expert_load[v] - (int64_t)t->s->accepted[v];
}

static double price_of(const struct smoe_tide *t, uint32_t e)
{
    return t->s->expert_price[e] + (t->s->lifted[e] - t->sink_lifted);
}

/* ---- at first ---- */

static void accept(struct smoe_tide *t, uint32_t e, uint32_t n)
{
    struct smoe_route_scratch *s = t->s;
    uint32_t node = smoe_route_node_of(t->run, e);
    double price = s->expert_price[e];
    s->accepted[e] = n;
    s->up[e] = (float)(smoe_route_marginal_at(t->run, node, n) - price);
    s->down[e] = n > 0 ? (float)(price - smoe_route_marginal_at(t->run, node, n - 1)) : INFINITY;
}

/* As many as marginals allow, or as few, whatever is nearer to what it carries. */
static void accept_at_price(struct smoe_tide *t, uint32_t e)
{
    uint32_t node = smoe_route_node_of(t->run, e), n = t->s->expert_load[e];
    uint32_t limit = smoe_route_limit(t->run, node);
    double price = t->s->expert_price[e];
    while (n < limit && smoe_route_marginal_at(t->run, node, n) < price)
        n++;
    while (n > 0 && smoe_route_marginal_at(t->run, node, n - 1) > price)
        n--;
    accept(t, e, n);
}

static void begin(struct smoe_tide *t)
{
    struct smoe_route_scratch *s = t->s;
    double least = (double)INFINITY, most = -(double)INFINITY;
    for (uint32_t e = 0; e < t->n_experts; e++) {
        if (isinf(s->expert_price[e]))
            continue;
        least = s->expert_price[e] < least ? s->expert_price[e] : least;
        most = s->expert_price[e] > most ? s->expert_price[e] : most;
    }
    t->blur = 0x1p-20 * (most - least + t->run->problem->score_weight);
    for (uint32_t e = 0; e < t->n_experts; e++) {
        s->row_made[e] = 0;
        s->lifted[e] = 0;
        s->lift[e] = 0;
        s->first_price[e] = (float)(s->expert_price[e] - least);
        s->accepted[e] = 0;
        s->up[e] = s->down[e] = INFINITY;
        if (!isinf(s->expert_price[e]))
            accept_at_price(t, e);
        t->sink_excess -= excess_of(t, e);
    }
}

static double mean_margin(const struct smoe_route_run *run)
{
    double sum = 0;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        sum += run->scratch->margin[i];
    return sum / run->n_tokens;
}

/* How far to look. After bids searches go as far as they must; rows have all visits, or those near a tie until a
 * search comes farther. After sweeps, which leave little that is far, searches have a radius. */
static void set_sight(struct smoe_tide *t, bool listed)
{
    const struct smoe_route_run *run = t->run;
    bool many = run->n_visits >= MANY_VISITS * run->n_offered;
    double mean = mean_margin(run), radius = RADIUS * mean;
    t->radius = !listed && radius > t->blur ? (float)radius : INFINITY; /* else tokens are equal */
    t->sight = listed && many ? (float)(SIGHT * mean) : INFINITY;
    t->horizon = listed ? INFINITY : -INFINITY;
}

/* What the answer may lose against the bound of these prices. */
static double gap_of(const struct smoe_tide *t)
{
    const struct smoe_route_scratch *s = t->s;
    double gap = 0;
    for (uint32_t e = 0; e < t->n_experts; e++) {
        uint32_t node = smoe_route_node_of(t->run, e), has = s->expert_load[e], n = s->accepted[e];
        for (; n < has; n++)
            gap += smoe_route_marginal_at(t->run, node, n) - price_of(t, e);
        for (; n > has; n--)
            gap += price_of(t, e) - smoe_route_marginal_at(t->run, node, n - 1);
    }
    return gap;
}

/* ---- the search ---- */

/* Every vertex as yet out of reach, but those with an excess. Returns the first of these; n_experts: none. */
static uint32_t start(struct smoe_tide *t, uint64_t *ret_left)
{
    struct smoe_route_scratch *s = t->s;
    uint32_t first = t->n_experts;
    uint64_t left = t->sink_excess > 0 ? (uint64_t)t->sink_excess : 0;
    for (uint32_t e = 0; e < t->n_experts; e++) {
        int64_t excess = excess_of(t, e);
        s->key[e] = excess > 0 ? 0 : INFINITY;
        s->far[e] = INFINITY;
        s->came[e] = (int32_t)e;
        s->open_lift[e] = isinf(s->expert_price[e]) ? INFINITY : s->lift[e];
        left += excess > 0 ? (uint64_t)excess : 0;
        if (excess > 0 && e < first)
            first = e;
    }
    t->sink_key = t->sink_excess > 0 ? 0 : INFINITY;
    t->sink_far = INFINITY;
    t->sink_came = (int32_t)t->sink;
    t->n_targets = 0;
    *ret_left = left;
    return first;
}

static void reach_sink(struct smoe_tide *t, uint32_t e, float distance)
{
    float slack = t->s->up[e] + ((float)t->sink_lifted - t->s->lift[e]);
    float to = distance + (slack > 0 ? slack : 0);
    if (isinf(t->sink_far) && to < t->sink_key) {
        t->sink_key = to;
        t->sink_came = (int32_t)e;
    }
}

/* Goes on from a vertex at its distance. Returns the nearest expert then. */
static uint32_t go_on(struct smoe_tide *t, uint32_t v, float distance)
{
    struct smoe_route_scratch *s = t->s;
    struct smoe_route_front front = {
        .n = t->n_experts, .open = s->open_lift, .key = s->key, .came = s->came};
    t->run->answer->work += t->n_experts;
    if (v == t->sink)
        return t->arcs->spread(&front, s->down, v, distance, distance - (float)t->sink_lifted);
    reach_sink(t, v, distance);
    const float *row = smoe_tide_need_row(t, v, t->radius - distance);
    return t->arcs->spread(&front, row, v, distance, distance - s->lift[v]);
}

/* Settles the nearest vertex that is not settled, if it is within the radius. Returns its distance, +inf:
 * there is none. */
static float settle(struct smoe_tide *t, uint32_t nearest, float radius, uint32_t *ret_vertex)
{
    struct smoe_route_scratch *s = t->s;
    float key = nearest < t->n_experts ? s->key[nearest] : INFINITY;
    uint32_t v = t->sink_key <= key ? t->sink : nearest;
    key = v == t->sink ? t->sink_key : key;
    if (!(key < radius))
        return INFINITY;
    if (v == t->sink) {
        t->sink_far = key;
        t->sink_key = INFINITY;
    } else {
        s->far[v] = key;
        s->key[v] = s->open_lift[v] = INFINITY;
    }
    *ret_vertex = v;
    return key;
}

/* By how much labels have risen against each other, at most. */
static double spread_of(const struct smoe_tide *t, double *ret_least)
{
    const struct smoe_route_scratch *s = t->s;
    double most = 0, least = (double)INFINITY;
    for (uint32_t e = 0; e < t->n_experts; e++) {
        if (isinf(s->expert_price[e]))
            continue;
        most = s->lifted[e] > most ? s->lifted[e] : most;
        least = s->lifted[e] < least ? s->lifted[e] : least;
    }
    *ret_least = least;
    return most - least;
}

/* From all excess to as many deficits as it could fill, or all there are within the radius. Returns how far it
 * went. */
static float search(struct smoe_tide *t)
{
    const float radius = t->radius;
    double least;
    spread_of(t, &least);
    t->least_lift = (float)least;
    uint64_t left, found = 0;
    uint32_t nearest = start(t, &left), v = t->sink;
    float distance = 0;
    for (float key; (key = settle(t, nearest, radius, &v)) < radius;) {
        int64_t excess = excess_of(t, v);
        distance = key;
        if (excess < 0) {
            t->s->touched[t->n_targets++] = v;
            found += (uint64_t)-excess;
            if (found >= left)
                return distance;
        }
        nearest = go_on(t, v, distance);
    }
    return isinf(radius) ? distance : radius;
}

/* A search as far as need be: with a wider radius if it found nothing, again with all visits if without one it came
 * to where there may be some that rows do not have. */
static float search_on(struct smoe_tide *t)
{
    for (;;) {
        double least;
        float distance = search(t);
        if (!isinf(t->radius)) {
            if (t->n_targets > 0 || t->run->answer->work > t->run->work_max)
                return distance;
            t->radius *= WIDEN;
        } else if (spread_of(t, &least) + (double)distance + t->blur > (double)t->sight) {
            t->sight = INFINITY;
        } else {
            return distance;
        }
    }
}

/* Lifts the labels of what is nearer, each by what it is nearer. */
static void lift_labels(struct smoe_tide *t, float distance)
{
    struct smoe_route_scratch *s = t->s;
    for (uint32_t e = 0; e < t->n_experts; e++) {
        if (s->far[e] < distance)
            s->lifted[e] += (double)(distance - s->far[e]);
        s->lift[e] = (float)s->lifted[e];
    }
    if (t->sink_far < distance)
        t->sink_lifted += (double)(distance - t->sink_far);
}

/* ---- carrying ---- */

static uint32_t came(const struct smoe_tide *t, uint32_t v)
{
    return (uint32_t)(v == t->sink ? t->sink_came : t->s->came[v]);
}

static bool tight(const struct smoe_tide *t, uint32_t from, uint32_t to, float slack)
{
    float here = from == t->sink ? (float)t->sink_lifted : t->s->lift[from];
    float there = to == t->sink ? (float)t->sink_lifted : t->s->lift[to];
    return slack + there - here <= 0x1p-20F * (fabsf(slack) + fabsf(here) + fabsf(there));
}

/* Can a unit still go from there to here? Notes which visit moves. */
static bool step_holds(struct smoe_tide *t, uint32_t from, uint32_t to, uint32_t *ret_visit)
{
    struct smoe_route_scratch *s = t->s;
    if (to == t->sink)
        return tight(t, from, to, s->up[from]);
    if (from == t->sink)
        return tight(t, from, to, s->down[to]);
    float slack = smoe_tide_need_row(t, from, 0)[to];
    if (!tight(t, from, to, slack))
        return false;
    uint32_t visit = smoe_tide_find_mover(t, from, to, slack);
    if (visit == SMOE_ROUTE_NO_VISIT) {
        smoe_tide_row(t, from)[to] = smoe_tide_least_offer(t, from, to);
        return false;
    }
    *ret_visit = visit;
    return true;
}

/* Another visit of a token that has moved: it lacks `from` now, and holds `to`. */
static void tell_other(struct smoe_tide *t, uint32_t visit, uint32_t from, uint32_t to)
{
    struct smoe_route_scratch *s = t->s;
    uint32_t e = t->run->answer->expert[visit];
    float margin = s->visit_margin[visit];
    s->visit_margin[visit] = -INFINITY;
    if (margin > t->horizon)
        smoe_route_list(t->run, visit);
    if (!s->row_made[e])
        return;
    if (margin > s->sight[e]) { /* comes into sight */
        smoe_tide_enter(t, e, visit);
        return;
    }
    float *row = smoe_tide_row(t, e), offer = smoe_tide_offer(t, visit, e, from);
    row[to] = smoe_tide_least_offer(t, e, to);
    row[from] = offer < row[from] ? offer : row[from];
}

static void hand_on(struct smoe_tide *t, uint32_t visit, uint32_t to)
{
    struct smoe_route_scratch *s = t->s;
    uint32_t from = t->run->answer->expert[visit], token = visit / t->top_k;
    smoe_route_move(t->run, visit, (uint16_t)to);
    s->margin[token] = -(double)INFINITY; /* at the first prices it may have preferred others */
    s->visit_margin[visit] = -INFINITY;
    if (smoe_tide_row_is_short(t, from))
        s->row_made[from] = 0;
    else if (s->row_made[from])
        smoe_tide_row(t, from)[to] = smoe_tide_least_offer(t, from, to);
    if (s->row_made[to])
        smoe_tide_enter(t, to, visit);
    for (uint32_t v = token * t->top_k; v < (token + 1) * t->top_k; v++)
        if (v != visit)
            tell_other(t, v, from, to);
    t->run->answer->arrivals[smoe_route_node_of(t->run, from)]--;
    t->run->answer->arrivals[smoe_route_node_of(t->run, to)]++;
    s->flow[t->run->problem->replica_first[from]]--;
    s->flow[t->run->problem->replica_first[to]]++;
}

/* Carries a unit from where the search came from to a deficit, if its path still holds. */
static bool carry(struct smoe_tide *t, uint32_t target)
{
    struct smoe_route_scratch *s = t->s;
    uint32_t v = target, n = 0;
    for (; came(t, v) != v; v = came(t, v)) /* all are found before anybody moves */
        if (!step_holds(t, came(t, v), v, &s->moved[n++]))
            return false;
    if (excess_of(t, v) <= 0)
        return false;
    for (v = target, n = 0; came(t, v) != v; v = came(t, v), n++) {
        uint32_t from = came(t, v);
        if (v == t->sink) {
            accept(t, from, s->accepted[from] + 1);
            t->sink_excess++;
        } else if (from == t->sink) {
            accept(t, v, s->accepted[v] - 1);
            t->sink_excess--;
        } else {
            hand_on(t, s->moved[n], v);
        }
    }
    t->run->answer->cycles++;
    return true;
}

/* ---- at last ---- */

/* Prices are what they have become, and margins what is left of them: others have risen as well, at least by what all
 * have. */
static void end(struct smoe_tide *t)
{
    struct smoe_route_run *run = t->run;
    struct smoe_route_scratch *s = t->s;
    double least;
    spread_of(t, &least);
    for (uint32_t v = 0; v < run->n_visits; v += t->top_k) {
        double rise = 0, *margin = &s->margin[v / t->top_k];
        for (uint32_t k = 0; k < t->top_k; k++)
            rise = fmax(rise, s->lifted[run->answer->expert[v + k]] - least);
        *margin = *margin > rise ? *margin - rise : 0;
    }
    for (uint32_t e = 0; e < t->n_experts; e++) {
        if (isinf(s->expert_price[e]))
            continue;
        s->expert_price[e] = price_of(t, e);
        s->node_price[smoe_route_node_of(run, e)] = s->expert_price[e];
    }
    memcpy(s->pass_price, s->expert_price, t->n_experts * sizeof *s->pass_price);
}

bool smoe_route_tide(struct smoe_route_run *run, bool listed, uint8_t *dirty)
{
    struct smoe_tide t = {.run = run,
                          .s = run->scratch,
                          .arcs = smoe_route_arcs(),
                          .n_experts = run->problem->n_experts,
                          .sink = run->problem->n_experts,
                          .top_k = run->problem->top_k,
                          .weight = (float)run->problem->score_weight};
    begin(&t);
    set_sight(&t, listed);
    bool done = false;
    for (uint32_t vain = 0; vain < VAIN_MOST && run->answer->work <= run->work_max; vain++) {
        done = gap_of(&t) <= run->enough / 2;
        if (done)
            break;
        lift_labels(&t, search_on(&t));
        for (uint32_t k = 0; k < t.n_targets; k++)
            if (carry(&t, run->scratch->touched[k]))
                vain = 0;
    }
    end(&t);
    if (run->enough > 0 && done)
        return true;
    smoe_route_mark(run, dirty);
    if (!listed)
        smoe_route_list_in_sight(run);
    return false;
}
