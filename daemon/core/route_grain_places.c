/* SPDX-License-Identifier: Apache-2.0
 *
 * Places of the solve in grains: the visits of an expert one after another, each with its bid, so that the lowest is
 * found and a row is made without following a list. An expert has room for half as many again as the pass brought it;
 * where that is not enough it moves to a larger room behind all others.
 */
#include <string.h>

#include "daemon/core/route_grain_solve.h"

enum { SPARE = 8, NONE = SMOE_GRAIN_FAR };

/* A room ends with a whole step: bids behind the last visit are FAR. */
static void give_room(struct smoe_grain_solve *g, uint32_t expert, uint32_t visits)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t room = smoe_grain_steps(visits);
    if (g->rooms_end + room > s->grain_places) {
        g->failed = true;
        return;
    }
    for (uint32_t n = 0; n < room; n++)
        s->grain_bid[g->rooms_end + n] = SMOE_GRAIN_FAR;
    s->grain_first[expert] = g->rooms_end;
    s->grain_room[expert] = room;
    g->rooms_end += room;
}

static void move_out(struct smoe_grain_solve *g, uint32_t expert)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t was = s->grain_first[expert], count = s->expert_load[expert];
    give_room(g, expert, 2 * s->grain_room[expert]);
    if (g->failed)
        return;
    memcpy(s->grain_bid + s->grain_first[expert], s->grain_bid + was, count * sizeof *s->grain_bid);
    memcpy(s->grain_visit + s->grain_first[expert], s->grain_visit + was,
           count * sizeof *s->grain_visit);
}

static void set_lowest(struct smoe_grain_solve *g, uint32_t expert, uint32_t place)
{
    g->s->lowest[expert] = place == SMOE_GRAIN_FAR ? SMOE_ROUTE_NO_VISIT : place;
}

static void put(struct smoe_grain_solve *g, uint32_t visit, uint32_t expert, int32_t bid)
{
    struct smoe_route_scratch *s = g->s;
    if (s->expert_load[expert] == s->grain_room[expert])
        move_out(g, expert);
    if (g->failed)
        return;
    uint32_t place = s->expert_load[expert]++;
    s->grain_place[visit] = (uint16_t)place;
    s->grain_visit[s->grain_first[expert] + place] = (uint16_t)visit;
    g->run->answer->expert[visit] = (uint16_t)expert;
    smoe_grain_set_bid(g, visit, bid);
}

void smoe_grain_open(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    g->rooms_end = 0;
    for (uint32_t e = 0; e < g->n_experts; e++) {
        give_room(g, e, s->expert_load[e] + s->expert_load[e] / 2 + SPARE);
        s->expert_load[e] = 0;
    }
    for (uint32_t v = 0; v < g->run->n_visits && !g->failed; v++) {
        uint32_t expert = g->run->answer->expert[v], place = s->expert_load[expert]++;
        s->grain_place[v] = (uint16_t)place;
        s->grain_visit[s->grain_first[expert] + place] = (uint16_t)v;
        s->grain_bid[s->grain_first[expert] + place] = s->grain_worth[v];
    }
    for (uint32_t e = 0; e < g->n_experts; e++)
        set_lowest(g, e,
                   g->kernel->lowest(s->grain_bid + s->grain_first[e], s->expert_load[e], NONE));
}

void smoe_grain_take(struct smoe_grain_solve *g, uint32_t visit, uint32_t expert, int32_t bid)
{
    int16_t *cost = &smoe_grain_costs(g, smoe_grain_token(g, visit))[expert];
    g->failed |= *cost == SMOE_GRAIN_FAR;
    g->s->grain_own[visit] = *cost;
    *cost = SMOE_GRAIN_FAR;
    put(g, visit, expert, bid);
}

/* The last takes its place. Bids are looked at before any changes, as what was just written is slow to read. */
void smoe_grain_leave(struct smoe_grain_solve *g, uint32_t visit)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t expert = g->run->answer->expert[visit], first = s->grain_first[expert];
    uint32_t place = s->grain_place[visit], last = --s->expert_load[expert];
    uint32_t lowest = g->kernel->lowest(s->grain_bid + first, last + 1, place);
    smoe_grain_costs(g, smoe_grain_token(g, visit))[expert] = s->grain_own[visit];
    s->grain_visit[first + place] = s->grain_visit[first + last];
    s->grain_bid[first + place] = s->grain_bid[first + last];
    s->grain_bid[first + last] = SMOE_GRAIN_FAR;
    s->grain_place[s->grain_visit[first + place]] = (uint16_t)place;
    set_lowest(g, expert, lowest == last ? place : lowest);
    g->run->answer->expert[visit] = SMOE_ROUTE_NONE;
}
