/* SPDX-License-Identifier: Apache-2.0
 *
 * **highest-averages** (MODEL.md (25)): nothing is dropped here, so an iteration is as long as its busiest replica.
 * The next slot goes to the expert with the most visits for the speed that it has already: Adams's divisor rule, which
 * on equal slots makes the busiest replica as idle as it can be. A slot weighs what its worker gives it of its speed.
 *
 *     bag    slots of all workers, fastest first; workers with the same slots are a group
 *            [ group 0 | group 1 | ... ]
 *
 * 1. `allot` fills the bag, highest average first. An expert without a slot counts as if it had one of the E
 *    slowest, and once as many slots are left as experts wait, only those are served. An expert that all
 *    workers of a group hold is set aside until the next group: the distinct-worker rule. It is lifted only
 *    where a group has more slots than experts x workers.
 * 2. `mend` exchanges slots of unlike speed, for the busiest expert.
 * 3. `deal`: workers of a group are alike, so which of them gets which of the group's replicas is free. They are
 *    dealt in rounds, one slot of each worker, the busiest replicas first, never to one that holds the expert. An
 *    expert has at most as many replicas as there are workers, so it meets at most two rounds, and whoever holds it got
 *    it last: no search. In which order a round serves the workers depends on how routing will share visits.
 * 4. `eplb`'s plan is made as well, and kept if it obeys the distinct-worker rule and is better.
 */
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/place_internal.h"

/* Where prices share visits: what eplb's plan must be better by, shared by speed, to be worth a look at what prices
 * make of both. */
#define MIXING (1.0 / 16)
#define MENDS  6 /* exchanges; see mend */

/* What the steps share. */
struct making {
    struct smoe_place_scratch *scratch;
    struct smoe_place_plan *plan;
    enum smoe_place_sharing sharing;
    uint32_t n_live; /* workers with slots */
    uint32_t n_groups;
    uint32_t n_slots;
    uint32_t n_waiting; /* experts without a slot */
    uint32_t n_aside;   /* experts that the group at hand may not have again */
};

static uint32_t slots_of(const struct smoe_place_plan *plan, uint32_t worker)
{
    return plan->slot_first[worker + 1] - plan->slot_first[worker];
}

/* ---- the bag ---- */

/* Workers with slots into scratch->worker: fastest slots first, then most slots, then the lower index. */
static void order_workers(const struct smoe_place_problem *problem, struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    struct smoe_place_key *by_slots = s->sorted, *by_speed = s->line;
    double slowest = 0;
    m->n_live = 0;
    for (uint32_t j = 0; j < problem->n_workers; j++) {
        if (!problem->slots[j])
            continue;
        s->slot_speed[j] = problem->speed[j] / problem->slots[j];
        if (m->n_live == 0 || s->slot_speed[j] < slowest)
            slowest = s->slot_speed[j];
        by_slots[m->n_live++] = (struct smoe_place_key){problem->slots[j], j};
    }
    smoe_place_sort(s, by_slots, m->n_live);
    for (uint32_t i = 0; i < m->n_live; i++) {
        s->slot_speed[by_slots[i].index] /= slowest; /* equal slots have exactly 1 */
        by_speed[i] = (struct smoe_place_key){s->slot_speed[by_slots[i].index], i};
    }
    smoe_place_sort(s, by_speed, m->n_live);
    for (uint32_t i = 0; i < m->n_live; i++)
        s->worker[i] = by_slots[by_speed[i].index].index;
}

static void find_groups(struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    struct smoe_place_group *g = NULL;
    uint32_t bag = 0;
    m->n_groups = 0;
    for (uint32_t i = 0; i < m->n_live; i++) {
        uint32_t j = s->worker[i], slots = slots_of(m->plan, j);
        if (!g || s->slot_speed[j] != g->speed || slots_of(m->plan, s->worker[g->first]) != slots) {
            g = &s->group[m->n_groups++];
            *g = (struct smoe_place_group){.first = i, .bag = bag, .speed = s->slot_speed[j]};
        }
        g->n++;
        g->end = bag += slots;
    }
}

/* ---- who gets how many ---- */

/* Until an expert has a slot it counts as if it had one of the E slowest, the better the more popular it is. */
static void begin_averages(struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    uint32_t n_experts = m->plan->n_experts, open = m->n_slots - n_experts;
    for (uint32_t e = 0; e < n_experts; e++)
        s->sorted[e] = (struct smoe_place_key){s->demand[e], e};
    smoe_place_sort(s, s->sorted, n_experts);
    for (const struct smoe_place_group *g = s->group; g < s->group + m->n_groups; g++)
        for (uint32_t b = g->bag > open ? g->bag : open; b < g->end; b++)
            s->speed[s->sorted[b - open].index] = g->speed;
    smoe_place_contest_open(&s->contest, n_experts);
    for (uint32_t e = 0; e < n_experts; e++)
        smoe_place_contest_enter(&s->contest, e, s->demand[e] / s->speed[e]);
    smoe_place_contest_begin(&s->contest);
    memset(s->count, 0, n_experts * sizeof *s->count);
    memset(s->served, 0, n_experts * sizeof *s->served);
    m->n_waiting = n_experts;
    m->n_aside = 0;
}

/* Those who were set aside take part again. */
static void bring_back(struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    while (m->n_aside) {
        struct smoe_place_key back = s->aside[--m->n_aside];
        smoe_place_contest_change(&s->contest, back.index, back.key);
    }
}

/* The expert of the highest average, of those that the group may have once more; only of those that wait, where
 * as many slots are left. */
static uint32_t take(struct making *m, const struct smoe_place_group *g, uint32_t n_left,
                     uint32_t *limit)
{
    struct smoe_place_scratch *s = m->scratch;
    uint32_t e;
    for (;;) {
        double key = smoe_place_winning_key(&s->contest);
        e = smoe_place_winner(&s->contest);
        bool nobody = key < 0, done = s->served[e] && n_left == m->n_waiting;
        if (nobody) {
            *limit += g->n;
            bring_back(m);
            continue;
        }
        if (!done && s->count[e] != *limit)
            break;
        if (!done)
            s->aside[m->n_aside++] = (struct smoe_place_key){key, e};
        smoe_place_contest_change(&s->contest, e, SMOE_PLACE_OUT);
    }
    s->count[e]++;
    s->speed[e] = s->served[e] ? s->speed[e] + g->speed : g->speed;
    m->n_waiting -= !s->served[e];
    s->served[e] = true;
    smoe_place_contest_change(&s->contest, e, s->demand[e] / s->speed[e]);
    return e;
}

/* Slots that are all equal: much of the bag is known beforehand. Returns how much. */
static uint32_t head_start(struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    uint32_t b = 0;
    (void)smoe_place_head_start(s, m->plan->n_experts, m->n_slots, s->group->n);
    for (uint32_t e = 0; e < m->plan->n_experts; e++) {
        for (uint32_t r = 0; r < s->count[e]; r++)
            s->bag[b++] = (uint16_t)e;
        s->speed[e] = s->count[e];
        s->served[e] = true;
        smoe_place_contest_enter(&s->contest, e, s->demand[e] / s->speed[e]);
    }
    smoe_place_contest_begin(&s->contest);
    m->n_waiting = 0;
    return b;
}

static void allot(struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    begin_averages(m);
    uint32_t given = m->n_groups == 1 ? head_start(m) : 0;
    for (const struct smoe_place_group *g = s->group; g < s->group + m->n_groups; g++) {
        uint32_t limit = g->n;
        for (uint32_t b = g->bag + given; b < g->end; b++)
            s->bag[b] = (uint16_t)take(m, g, m->n_slots - b, &limit);
        bring_back(m);
        for (uint32_t b = g->bag; b < g->end; b++)
            s->count[s->bag[b]] = 0;
    }
}

/* ---- mending ---- */

/* Place `b` of the bag goes to the busiest expert, which gives `from` for it, or nothing (from == b). */
struct exchange {
    uint32_t from, b;
    double speed;   /* what it gains and the other loses */
    double busiest; /* of the two, afterwards */
};

static uint32_t count_in(const struct smoe_place_scratch *s, const struct smoe_place_group *g,
                         uint32_t expert)
{
    uint32_t n = 0;
    for (uint32_t b = g->bag; b < g->end; b++)
        n += s->bag[b] == expert;
    return n;
}

static uint32_t busiest_expert(const struct making *m)
{
    const struct smoe_place_scratch *s = m->scratch;
    uint32_t best = 0;
    for (uint32_t e = 1; e < m->plan->n_experts; e++)
        if (s->demand[e] * s->speed[best] > s->demand[best] * s->speed[e])
            best = e;
    return best;
}

static uint32_t group_of(const struct making *m, uint32_t b)
{
    uint32_t g = 0;
    while (m->scratch->group[g].end <= b)
        g++;
    return g;
}

/* What the expert's place `from` in group `g`, or nothing where g is NULL, could best be exchanged for. */
static void look(const struct making *m, uint32_t expert, const struct smoe_place_group *g,
                 uint32_t from, struct exchange *best)
{
    const struct smoe_place_scratch *s = m->scratch;
    for (const struct smoe_place_group *h = s->group; h < s->group + m->n_groups; h++) {
        double gain = h->speed - (g ? g->speed : 0);
        if (!(gain > 0)) /* groups come fastest first */
            return;
        double after = s->demand[expert] / (s->speed[expert] + gain);
        if (!(after < best->busiest) || count_in(s, h, expert) >= h->n)
            continue;
        for (uint32_t b = h->bag; b < h->end; b++) {
            uint32_t other = s->bag[b];
            double left = s->speed[other] - gain, theirs = s->demand[other] / left;
            double busiest = theirs > after ? theirs : after;
            if (left > 0.5 && busiest < best->busiest && (!g || count_in(s, g, other) < g->n))
                *best = (struct exchange){g ? from : b, b, gain, busiest};
        }
    }
}

/* Slots of many speeds, taken greedily: the busiest expert may do better with another's slot. One exchange after
 * another, as long as they help and not for ever. Equal slots have nothing to mend. */
static void mend(struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    for (unsigned step = 0; m->n_groups > 1 && step < MENDS; step++) {
        uint32_t e = busiest_expert(m);
        double before = s->demand[e] / s->speed[e];
        struct exchange best = {.busiest = before};
        uint32_t slowest = m->n_slots - 1;
        while (s->bag[slowest] != e)
            slowest--;
        look(m, e, NULL, 0, &best);
        look(m, e, &s->group[group_of(m, slowest)], slowest, &best);
        if (!(best.busiest < before))
            return;
        uint32_t other = s->bag[best.b];
        s->bag[best.from] = (uint16_t)other;
        s->bag[best.b] = (uint16_t)e;
        s->speed[e] += best.speed;
        s->speed[other] -= best.speed;
    }
}

/* ---- which worker ---- */

/* Experts of the group with their visits a unit of speed, busiest first; `count` is how many replicas. */
static uint32_t sort_replicas(struct smoe_place_scratch *s, const struct smoe_place_group *g)
{
    uint32_t n = 0;
    for (uint32_t b = g->bag; b < g->end; b++) {
        uint32_t e = s->bag[b];
        if (s->count[e]++ == 0)
            s->sorted[n++] = (struct smoe_place_key){s->demand[e] / s->speed[e], e};
    }
    smoe_place_sort(s, s->sorted, n);
    return n;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* All workers of the group, idlest first. Of those that are equally idle, each round and group begins
 * elsewhere and takes another stride where prices share visits, so that any two workers have few experts in
 * common; else always the same, so that as few workers as possible share an expert's fate. */
static void line_up(const struct making *m, const struct smoe_place_group *g, uint32_t round)
{
    struct smoe_place_scratch *s = m->scratch;
    bool mixed = round + g->first > 0 && m->sharing == SMOE_PLACE_BY_PRICE;
    uint64_t drawn = mixed ? smoe_mix64((uint64_t)g->first << 32 | round) : 0;
    uint32_t stride = 1 + (uint32_t)(drawn % g->n);
    uint64_t at = drawn >> 32;
    while (gcd(stride, g->n) != 1)
        stride++;
    for (uint32_t i = 0; i < g->n; i++, at += stride) {
        uint32_t k = (uint32_t)(at % g->n);
        s->line[i] = (struct smoe_place_key){-s->load[s->worker[g->first + k]], i};
        s->in_turn[i] = s->worker[g->first + k];
    }
    smoe_place_sort(s, s->line, g->n);
    for (uint32_t i = 0; i < g->n; i++)
        s->line[i].index = s->in_turn[s->line[i].index];
}

/* Takes the first from line[at..n) that does not hold the expert, or the first if all do, to line[at]. */
static uint32_t choose(const struct making *m, struct smoe_place_key *line, uint32_t at, uint32_t n,
                       uint32_t expert)
{
    const struct smoe_place_plan *plan = m->plan;
    uint32_t best = at;
    for (; best < n; best++) {
        uint32_t j = line[best].index, filled = m->scratch->filled[j];
        if (filled == plan->slot_first[j] || plan->expert[filled - 1] != expert)
            break;
    }
    if (best == n)
        best = at;
    struct smoe_place_key chosen = line[best];
    memmove(line + at + 1, line + at, (best - at) * sizeof *line);
    line[at] = chosen;
    return chosen.index;
}

/* A worker unlike all others has no choice. */
static void deal_alone(struct making *m, const struct smoe_place_group *g)
{
    const struct smoe_place_scratch *s = m->scratch;
    uint16_t *expert = m->plan->expert + m->plan->slot_first[s->worker[g->first]];
    memcpy(expert, s->bag + g->bag, (g->end - g->bag) * sizeof *expert);
}

static void deal(struct making *m, const struct smoe_place_group *g)
{
    struct smoe_place_scratch *s = m->scratch;
    uint32_t n = sort_replicas(s, g), at = g->n, round = 0;
    for (uint32_t i = 0; i < g->n; i++) {
        uint32_t j = s->worker[g->first + i];
        s->filled[j] = m->plan->slot_first[j];
        s->load[j] = 0;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t e = s->sorted[i].index; s->count[e]; s->count[e]--) {
            if (at == g->n) {
                line_up(m, g, round++);
                at = 0;
            }
            uint32_t j = choose(m, s->line, at++, g->n, e);
            m->plan->expert[s->filled[j]++] = (uint16_t)e;
            if (m->sharing == SMOE_PLACE_EQUALLY || s->speed[e] <= g->speed) /* its only slot */
                s->load[j] += s->sorted[i].key;
        }
}

/* ---- eplb's plan ---- */

static void keep_better(const struct smoe_place_problem *problem, struct making *m)
{
    struct smoe_place_scratch *s = m->scratch;
    struct smoe_place_plan rival = *m->plan;
    rival.expert = s->rival;
    smoe_place_make_eplb(s, &rival);
    if (!smoe_place_distinct(&rival, s))
        return;
    double ours = smoe_place_worth(problem, m->plan, s).time_s;
    double theirs = smoe_place_worth(problem, &rival, s).time_s;
    bool better = theirs < ours;
    if (m->sharing == SMOE_PLACE_BY_PRICE)
        better = theirs < ours * (1 - MIXING) && smoe_place_priced_time(problem, &rival, s) <
                                                     smoe_place_priced_time(problem, m->plan, s);
    if (better)
        memcpy(m->plan->expert, s->rival, m->n_slots * sizeof *s->rival);
}

void smoe_place_make_highest(const struct smoe_place_problem *problem,
                             struct smoe_place_scratch *scratch, struct smoe_place_plan *plan)
{
    struct making m = {.scratch = scratch,
                       .plan = plan,
                       .sharing = problem->sharing,
                       .n_slots = plan->slot_first[plan->n_workers]};
    order_workers(problem, &m);
    find_groups(&m);
    allot(&m);
    mend(&m);
    for (const struct smoe_place_group *g = scratch->group; g < scratch->group + m.n_groups; g++)
        (g->n > 1 ? deal : deal_alone)(&m, g);
    keep_better(problem, &m);
}
