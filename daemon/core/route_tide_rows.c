/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows of the tide: of each expert, the least slack to each other of all visits on it that are in sight, at the
 * prices the tide began with. They are kept up as tokens move; only long rows keep entries whose visit has left,
 * until somebody asks for its mover.
 */
#include "daemon/core/route_tide.h"

#include <math.h>

enum { SHORT_ROW = 8 }; /* visits: such a row is made anew when one leaves */

float *smoe_tide_row(const struct smoe_tide *t, uint32_t e)
{
    return t->s->slack_row + (size_t)e * t->n_experts;
}

static float cost_of(const struct smoe_tide *t, uint32_t token, uint32_t e)
{
    return t->s->first_price[e] -
           t->weight * t->run->problem->scores[(size_t)token * t->n_experts + e];
}

/* Enters some visits of e into its row; `more`: there are some in it. What a token holds already is not left out. */
static void enter(struct smoe_tide *t, uint32_t e, const uint32_t *visits, uint32_t count,
                  bool more)
{
    struct smoe_route_offers offers = {.count = count, .more = more};
    float *row = smoe_tide_row(t, e);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t token = visits[i] / t->top_k;
        offers.scores[i] = t->run->problem->scores + (size_t)token * t->n_experts;
        offers.held[i] = cost_of(t, token, e);
        for (uint32_t f = 0; f < t->n_experts; f += 16) /* rows of scores lie anywhere */
            __builtin_prefetch(offers.scores[i] + f);
    }
    t->arcs->offers(row, t->n_experts, &offers, t->weight, t->s->first_price);
    row[e] = INFINITY;
    t->run->answer->work += (uint64_t)count * t->n_experts;
}

void smoe_tide_enter(struct smoe_tide *t, uint32_t e, uint32_t visit, bool more)
{
    const uint16_t *held = t->run->answer->expert + (size_t)(visit / t->top_k) * t->top_k;
    float *row = smoe_tide_row(t, e), before[SMOE_TOP_K_MAX];
    for (uint32_t k = 0; k < t->top_k; k++)
        before[k] = more ? row[held[k]] : INFINITY;
    enter(t, e, &visit, 1, more);
    for (uint32_t k = 0; k < t->top_k; k++)
        row[held[k]] = before[k];
}

const float *smoe_tide_need_row(struct smoe_tide *t, uint32_t e)
{
    struct smoe_route_scratch *s = t->s;
    uint32_t visits[SMOE_ROUTE_OFFERS], count = 0, most = t->top_k > 1 ? 1 : SMOE_ROUTE_OFFERS;
    bool more = false;
    if (s->row_made[e])
        return smoe_tide_row(t, e);
    for (uint32_t v = s->visit_head[e]; v != SMOE_ROUTE_NO_VISIT; v = s->visit_next[v]) {
        if (s->margin[v / t->top_k] > t->horizon)
            continue;
        visits[count++] = v;
        if (count < most)
            continue;
        if (t->top_k > 1)
            smoe_tide_enter(t, e, v, more);
        else
            enter(t, e, visits, count, more);
        more = true;
        count = 0;
    }
    if (count > 0 || !more)
        enter(t, e, visits, count, more);
    s->row_made[e] = 1;
    return smoe_tide_row(t, e);
}

/* Does the visit offer at most this slack? Its margin says mostly no. */
static bool may_offer(const struct smoe_tide *t, uint32_t visit, float slack)
{
    return t->s->margin[visit / t->top_k] <= (double)slack + t->blur;
}

float smoe_tide_offer(const struct smoe_tide *t, uint32_t visit, uint32_t e, uint32_t to)
{
    uint32_t token = visit / t->top_k;
    return cost_of(t, token, to) - cost_of(t, token, e);
}

/* An entry, looked up. */
float smoe_tide_least_offer(const struct smoe_tide *t, uint32_t e, uint32_t to)
{
    float least = INFINITY;
    for (uint32_t v = t->s->visit_head[e]; v != SMOE_ROUTE_NO_VISIT; v = t->s->visit_next[v]) {
        if (!may_offer(t, v, least))
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
