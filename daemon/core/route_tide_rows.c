/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows of the tide: of each expert, the least slack to each other of all visits on it that are in sight, at the
 * prices the tide began with. They are kept up as tokens move; only long rows keep entries whose visit has left,
 * until somebody asks for its mover.
 */
#include "daemon/core/route_tide.h"

#include <math.h>
#include <string.h>

#include "common/base/limits.h"

/* A row sees so much farther than asked for, lists than that. */
static const float AHEAD = 1.5F, WIDEN = 2;

enum {
    CHUNK = 32,    /* tokens whose scores are fetched together: they lie anywhere */
    SHORT_ROW = 8, /* visits: such a row is made anew when one leaves */
};

float *smoe_tide_row(const struct smoe_tide *t, uint32_t e)
{
    return t->s->slack_row + (size_t)e * t->n_experts;
}

static float cost_of(const struct smoe_tide *t, uint32_t token, uint32_t e)
{
    return t->s->first_price[e] -
           t->weight * t->run->problem->scores[(size_t)token * t->n_experts + e];
}

/* ---- what is in sight ---- */

/* A token prefers what it holds to all else by its margin, and its cheaper choices by more. */
static void set_visit_margins(const struct smoe_tide *t, uint32_t token)
{
    const uint16_t *held = t->run->answer->expert + (size_t)token * t->top_k;
    float cost[SMOE_TOP_K_MAX], dearest = -INFINITY;
    for (uint32_t k = 0; k < t->top_k; k++) {
        cost[k] = cost_of(t, token, held[k]);
        dearest = cost[k] > dearest ? cost[k] : dearest;
    }
    for (uint32_t k = 0; k < t->top_k; k++)
        t->s->visit_margin[token * t->top_k + k] = (float)t->s->margin[token] + (dearest - cost[k]);
}

/* Lists the visits of these tokens that were beyond the horizon before, and are not now. */
static void list_near(struct smoe_tide *t, const uint32_t *tokens, uint32_t count, float before)
{
    struct smoe_route_scratch *s = t->s;
    for (uint32_t n = 0; n < count; n++) {
        uint32_t i = tokens[n];
        if (!(s->margin[i] <= (double)before))
            set_visit_margins(t, i);
        for (uint32_t v = i * t->top_k; v < (i + 1) * t->top_k; v++)
            if (s->visit_margin[v] > before && s->visit_margin[v] <= t->horizon)
                smoe_route_list(t->run, v);
    }
}

/* Lists the visits of the tokens that have come within the horizon. */
static void look_out(struct smoe_tide *t, float horizon)
{
    struct smoe_route_scratch *s = t->s;
    float before = t->horizon;
    if (horizon <= before)
        return;
    t->horizon = WIDEN * horizon;
    uint32_t near[CHUNK], count = 0;
    for (uint32_t i = 0; i < t->run->n_tokens; i++) {
        near[count] = i;
        if (s->margin[i] <= (double)t->horizon) {
            count++;
            for (uint32_t k = 0; t->top_k > 1 && k < t->top_k; k++)
                __builtin_prefetch(t->run->problem->scores + (size_t)i * t->n_experts +
                                   t->run->answer->expert[i * t->top_k + k]);
        }
        if (count == CHUNK || i + 1 == t->run->n_tokens) {
            list_near(t, near, count, before);
            count = 0;
        }
    }
    t->run->answer->work += t->run->n_tokens;
}

/* Some visits of one expert. */
struct group {
    uint32_t count, visit[SMOE_ROUTE_OFFERS];
};

/* Enters a group into the row of e; `more`: there are others in it. What a token holds already is not left out. */
static void enter(struct smoe_tide *t, uint32_t e, const struct group *group, bool more)
{
    struct smoe_route_offers offers = {.count = group->count, .more = more};
    float *row = smoe_tide_row(t, e);
    for (uint32_t i = 0; i < group->count; i++) {
        uint32_t token = group->visit[i] / t->top_k;
        offers.scores[i] = t->run->problem->scores + (size_t)token * t->n_experts;
        offers.held[i] = cost_of(t, token, e);
    }
    t->arcs->offers(row, t->n_experts, &offers, t->weight, t->s->first_price);
    row[e] = INFINITY;
    t->run->answer->work += (uint64_t)group->count * t->n_experts;
}

/* The same for one visit; what its token holds is left out. */
static void enter_one(struct smoe_tide *t, uint32_t e, uint32_t visit, bool more)
{
    const uint16_t *held = t->run->answer->expert + (size_t)(visit / t->top_k) * t->top_k;
    float *row = smoe_tide_row(t, e), before[SMOE_TOP_K_MAX];
    for (uint32_t k = 0; k < t->top_k; k++)
        before[k] = more ? row[held[k]] : INFINITY;
    enter(t, e, &(struct group){.count = 1, .visit = {visit}}, more);
    for (uint32_t k = 0; k < t->top_k; k++)
        row[held[k]] = before[k];
}

void smoe_tide_enter(struct smoe_tide *t, uint32_t e, uint32_t visit)
{
    enter_one(t, e, visit, true);
}

static void enter_group(struct smoe_tide *t, uint32_t e, const struct group *group, bool more)
{
    if (t->top_k == 1 || group->count == 0)
        enter(t, e, group, more);
    else
        for (uint32_t i = 0; i < group->count; i++)
            enter_one(t, e, group->visit[i], more || i > 0);
}

/* Asks for a visit's row of scores ahead of its use: rows lie anywhere. */
static void fetch(const struct smoe_tide *t, uint32_t visit)
{
    const float *scores = t->run->problem->scores + (size_t)(visit / t->top_k) * t->n_experts;
    for (uint32_t f = 0; f < t->n_experts; f += 16)
        __builtin_prefetch(scores + f);
}

/* Enters the visits of e whose margin is within (after, sight]. */
static void deepen(struct smoe_tide *t, uint32_t e, float after, float sight)
{
    struct smoe_route_scratch *s = t->s;
    struct group group = {.count = 0};
    bool more = s->row_made[e];
    for (uint32_t v = s->visit_head[e]; v != SMOE_ROUTE_NO_VISIT; v = s->visit_next[v]) {
        float margin = s->visit_margin[v];
        if (!(margin <= sight) || (s->row_made[e] && margin <= after))
            continue;
        fetch(t, v);
        group.visit[group.count++] = v;
        if (group.count < SMOE_ROUTE_OFFERS)
            continue;
        enter_group(t, e, &group, more);
        more = true;
        group.count = 0;
    }
    if (group.count > 0 || !more)
        enter_group(t, e, &group, more);
    s->row_made[e] = 1;
    s->sight[e] = sight;
}

const float *smoe_tide_need_row(struct smoe_tide *t, uint32_t e, float way)
{
    struct smoe_route_scratch *s = t->s;
    float depth = way + (s->lift[e] - t->least_lift) + (float)t->blur;
    if (isinf(t->radius))
        depth = t->sight;
    if (s->row_made[e] && s->sight[e] >= depth)
        return smoe_tide_row(t, e);
    if (!isinf(t->radius))
        depth *= AHEAD;
    look_out(t, depth);
    deepen(t, e, s->sight[e], depth);
    return smoe_tide_row(t, e);
}

/* Does the visit offer at most this slack? Its margin says mostly no. */
static bool may_offer(const struct smoe_tide *t, uint32_t visit, float slack)
{
    return t->s->visit_margin[visit] <= slack + (float)t->blur;
}

float smoe_tide_offer(const struct smoe_tide *t, uint32_t visit, uint32_t e, uint32_t to)
{
    uint32_t token = visit / t->top_k;
    return cost_of(t, token, to) - cost_of(t, token, e);
}

/* An entry, looked up, of a row that is made. */
float smoe_tide_least_offer(const struct smoe_tide *t, uint32_t e, uint32_t to)
{
    float least = INFINITY, sight = t->s->sight[e];
    for (uint32_t v = t->s->visit_head[e]; v != SMOE_ROUTE_NO_VISIT; v = t->s->visit_next[v]) {
        if (!may_offer(t, v, least < sight ? least : sight))
            continue;
        float offer = smoe_tide_offer(t, v, e, to);
        if (offer < least && !smoe_route_holds(t->run, v / t->top_k, to))
            least = offer;
    }
    return least;
}

/* The visit of e whose offer the entry is, NO_VISIT if there is none any more. */
uint32_t smoe_tide_find_mover(const struct smoe_tide *t, uint32_t e, uint32_t to, float slack)
{
    uint32_t v = t->s->visit_head[e];
    for (; v != SMOE_ROUTE_NO_VISIT; v = t->s->visit_next[v])
        if (may_offer(t, v, slack) && smoe_tide_offer(t, v, e, to) == slack &&
            !smoe_route_holds(t->run, v / t->top_k, to))
            break;
    return v;
}

bool smoe_tide_row_is_short(const struct smoe_tide *t, uint32_t e)
{
    uint32_t n = 0;
    for (uint32_t v = t->s->visit_head[e]; v != SMOE_ROUTE_NO_VISIT; v = t->s->visit_next[v])
        if (++n > SHORT_ROW)
            return false;
    return true;
}
