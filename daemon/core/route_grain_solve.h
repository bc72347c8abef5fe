/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the solve in grains share: route_grain.c, which says what it is, route_grain_places.c and
 * route_grain_tide.c.
 */
#ifndef SMOE_CORE_ROUTE_GRAIN_SOLVE_H
#define SMOE_CORE_ROUTE_GRAIN_SOLVE_H

#include "daemon/core/route_grain.h"
#include "daemon/core/route_internal.h"

/* Bounds by which no sum of a cost that is far and of what is not can look as if it were near: FAR less what most
 * visits pay and less a label is farther than any search goes. */
enum {
    SMOE_GRAIN_LIFT_MAX = 16000, /* of a label */
    SMOE_GRAIN_OWN_MOST =
        8000,                  /* of what a visit pays; if it pays more, what is far is looked at */
    SMOE_GRAIN_WAY_MAX = 8000, /* of a search */
};

struct smoe_grain_solve {
    struct smoe_route_run *run;
    struct smoe_route_scratch *s;
    const struct smoe_grain_kernel *kernel;
    uint32_t n_experts, stride, top_k;
    uint64_t part;          /* 1 / K, in 2^-32, and no less */
    double grain, per_cost; /* cost of a grain; grains of a cost of 1 */
    bool failed;            /* a number does not fit */
    uint32_t rooms_end;     /* of the places that are given out */

    int64_t worth;       /* what places were worth to visits, all together */
    int32_t sink_lift;   /* prices are at their first where labels have risen by so much */
    int32_t risen;       /* no label has risen by more */
    int64_t sink_excess; /* accepted more than there are visits */
    uint32_t n_targets;  /* deficits met by the last search, in s->touched */
    int32_t width;       /* of a wave */
    int32_t sink_key;
    uint32_t sink_came;

    int32_t least_raise;
    uint64_t bids_left;
    uint32_t n_waiting, n_given_up; /* visits in s->moved, in s->given_up */
};

/* The token of a visit: a division by K. */
static inline uint32_t smoe_grain_token(const struct smoe_grain_solve *g, uint32_t visit)
{
    return (uint32_t)(visit * g->part >> 32);
}

static inline int16_t *smoe_grain_costs(const struct smoe_grain_solve *g, uint32_t token)
{
    return g->s->grain_cost + (size_t)token * g->stride;
}

/* What one more visit after n costs the node of an expert, from the first price, in grains. */
static inline int32_t smoe_grain_marginal(const struct smoe_grain_solve *g, uint32_t e, uint32_t n)
{
    static const double MOST = 1 << 20;
    uint32_t node = smoe_route_node_of(g->run, e);
    double grains = (smoe_route_marginal_at(g->run, node, n) - g->s->expert_price[e]) * g->per_cost;
    return (int32_t)(grains > MOST ? MOST : grains < -MOST ? -MOST : grains);
}

/* What a visit that has a place bids for it, not above what it bid before; FAR: that, or more. */
static inline int16_t *smoe_grain_bid(const struct smoe_grain_solve *g, uint32_t visit)
{
    uint32_t expert = g->run->answer->expert[visit];
    return &g->s->grain_bid[g->s->grain_first[expert] + g->s->grain_place[visit]];
}

/* INT32_MAX: nobody is there, or for less than FAR. */
static inline int32_t smoe_grain_lowest_bid(const struct smoe_grain_solve *g, uint32_t expert)
{
    uint32_t place = g->s->lowest[expert];
    return place == SMOE_ROUTE_NO_VISIT ? INT32_MAX
                                        : g->s->grain_bid[g->s->grain_first[expert] + place];
}

static inline void smoe_grain_set_bid(struct smoe_grain_solve *g, uint32_t visit, int32_t bid)
{
    uint32_t expert = g->run->answer->expert[visit];
    if (bid < smoe_grain_lowest_bid(g, expert))
        g->s->lowest[expert] = g->s->grain_place[visit];
    *smoe_grain_bid(g, visit) = (int16_t)(bid < SMOE_GRAIN_FAR ? bid : SMOE_GRAIN_FAR);
}

/* route_grain_places.c */
/* Opens places for the visits that each expert has (expert_load), and more; gives one to every visit, at the expert
 * that the answer says, at a bid of what that is worth to it. */
void smoe_grain_open(struct smoe_grain_solve *g);
/* The visit takes a place: notes what it pays there. Fails where the token holds the expert already. */
void smoe_grain_take(struct smoe_grain_solve *g, uint32_t visit, uint32_t expert, int32_t bid);
/* It leaves its place. */
void smoe_grain_leave(struct smoe_grain_solve *g, uint32_t visit);

/* Visits that the expert's node accepts at its price, what is nearest to those it has. */
uint32_t smoe_grain_accepted(const struct smoe_grain_solve *g, uint32_t expert);

/* route_grain_tide.c: from tokens that hold their K cheapest to what nodes agree with. False: it does not fit. */
bool smoe_grain_tide(struct smoe_grain_solve *g, double mean);

#endif
