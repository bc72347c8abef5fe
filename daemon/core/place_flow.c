/* SPDX-License-Identifier: Apache-2.0
 *
 * What an iteration takes where routing shares visits by price: the least T for which       MODEL.md (28)
 *
 *     visits of e  =  sum over its slots q of flow_q,     sum over the slots q of j of flow_q  <=  T speed_j
 *
 * For a given T that is a maximum flow. It begins with shares in proportion to speed, as far as they fit; what is
 * left goes along shortest augmenting paths: from an expert with visits left, over workers that are full to experts
 * that could leave them, to a worker with room. Where no path is left, the experts X that were reached stand on
 * full workers alone, so T is at least visits(X) / speed(workers of X); it is raised to that, and the flow so far
 * stays feasible. Each raise proves another set of experts to be the bottleneck, so they come to an end.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/place_internal.h"

#define NONE UINT32_MAX

/* Amounts below this share of all visits are rounding. */
static const double TOLERANCE = 1e-12;

struct flow {
    const struct smoe_place_problem *problem;
    const struct smoe_place_plan *plan;
    struct smoe_place_scratch *s;
    double least; /* visits up to this are nothing */
};

/* ---- the beginning ---- */

/* Slots of each expert: s->held_slot[s->held_first[e] ..]. Counting sort. */
static void list_slots(struct flow *f)
{
    struct smoe_place_scratch *s = f->s;
    uint32_t n_experts = f->plan->n_experts, n_slots = f->plan->slot_first[f->plan->n_workers];
    memset(s->held_first, 0, (n_experts + 1) * sizeof *s->held_first);
    for (uint32_t q = 0; q < n_slots; q++)
        s->held_first[f->plan->expert[q] + 1]++;
    for (uint32_t e = 0; e < n_experts; e++)
        s->held_first[e + 1] += s->held_first[e];
    for (uint32_t q = 0; q < n_slots; q++)
        s->held_slot[s->held_first[f->plan->expert[q]]++] = q;
    memmove(s->held_first + 1, s->held_first, n_experts * sizeof *s->held_first);
    s->held_first[0] = 0;
}

/* What the first shares left over goes wherever the expert stands and there is room: most of it, at no search. */
static void top_up(struct flow *f)
{
    struct smoe_place_scratch *s = f->s;
    for (uint32_t e = 0; e < f->plan->n_experts; e++)
        for (uint32_t h = s->held_first[e]; h < s->held_first[e + 1] && s->left[e] > 0; h++) {
            uint32_t q = s->held_slot[h], j = s->worker_of[q];
            double more = fmin(s->room[j], s->left[e]);
            s->flow[q] += more;
            s->left[e] -= more;
            s->room[j] -= more;
        }
}

/* Shares in proportion to speed, as far as a worker has room. */
static void share_out(struct flow *f)
{
    struct smoe_place_scratch *s = f->s;
    for (uint32_t e = 0; e < f->plan->n_experts; e++)
        s->left[e] = f->problem->demand[e];
    for (uint32_t j = 0; j < f->plan->n_workers; j++)
        for (uint32_t q = f->plan->slot_first[j]; q < f->plan->slot_first[j + 1]; q++) {
            uint32_t e = f->plan->expert[q];
            double share = f->problem->demand[e] * s->slot_speed[j] / s->speed[e];
            share = fmin(share, fmin(s->room[j], s->left[e]));
            s->flow[q] = share;
            s->left[e] -= share;
            s->room[j] -= share;
        }
}

static double begin(struct flow *f)
{
    struct smoe_place_scratch *s = f->s;
    double visits = 0, speed = 0;
    list_slots(f);
    memset(s->speed, 0, f->plan->n_experts * sizeof *s->speed);
    for (uint32_t j = 0; j < f->plan->n_workers; j++) {
        if (!f->problem->slots[j])
            continue;
        speed += f->problem->speed[j];
        s->slot_speed[j] = f->problem->speed[j] / f->problem->slots[j];
        for (uint32_t q = f->plan->slot_first[j]; q < f->plan->slot_first[j + 1]; q++) {
            s->speed[f->plan->expert[q]] += s->slot_speed[j];
            s->worker_of[q] = j;
        }
    }
    for (uint32_t e = 0; e < f->plan->n_experts; e++)
        visits += f->problem->demand[e];
    double time = visits / speed;
    f->least = visits * TOLERANCE;
    for (uint32_t j = 0; j < f->plan->n_workers; j++)
        s->room[j] = time * f->problem->speed[j];
    share_out(f);
    top_up(f);
    return time;
}

/* ---- paths ---- */

/* Every expert with visits left is a beginning. Returns how many there are. */
static uint32_t begin_search(struct flow *f)
{
    struct smoe_place_scratch *s = f->s;
    uint32_t n = 0;
    memset(s->worker_by, 0xff, f->plan->n_workers * sizeof *s->worker_by);
    memset(s->expert_by, 0xff, f->plan->n_experts * sizeof *s->expert_by);
    memset(s->reached, 0, f->plan->n_experts * sizeof *s->reached);
    for (uint32_t e = 0; e < f->plan->n_experts; e++)
        if (s->left[e] > f->least) {
            s->reached[e] = true;
            s->queue[n++] = e;
        }
    return n;
}

/* Breadth first to a worker with room; NONE if there is none, and all that can be reached is marked. */
static uint32_t find_room(struct flow *f)
{
    struct smoe_place_scratch *s = f->s;
    uint32_t n = begin_search(f);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t e = s->queue[i];
        for (uint32_t h = s->held_first[e]; h < s->held_first[e + 1]; h++) {
            uint32_t j = s->worker_of[s->held_slot[h]];
            if (s->worker_by[j] != NONE)
                continue;
            s->worker_by[j] = s->held_slot[h];
            if (s->room[j] > f->least)
                return j;
            for (uint32_t q = f->plan->slot_first[j]; q < f->plan->slot_first[j + 1]; q++) {
                uint32_t other = f->plan->expert[q];
                if (s->reached[other] || !(s->flow[q] > f->least))
                    continue;
                s->reached[other] = true;
                s->expert_by[other] = q;
                s->queue[n++] = other;
            }
        }
    }
    return NONE;
}

/* Walks the path back from the worker and moves `amount` along it; returns how much could be moved. */
static double walk(struct flow *f, uint32_t worker, double amount)
{
    struct smoe_place_scratch *s = f->s;
    double most = s->room[worker];
    s->room[worker] -= amount;
    for (;;) {
        uint32_t in = s->worker_by[worker], e = f->plan->expert[in], out = s->expert_by[e];
        s->flow[in] += amount;
        if (out == NONE) {
            most = fmin(most, s->left[e]);
            s->left[e] -= amount;
            return most;
        }
        most = fmin(most, s->flow[out]);
        s->flow[out] -= amount;
        worker = s->worker_of[out];
    }
}

/* The time that the experts reached need on the workers reached, which are all that hold them. */
static double bottleneck(const struct flow *f)
{
    double visits = 0, speed = 0;
    for (uint32_t e = 0; e < f->plan->n_experts; e++)
        visits += f->s->reached[e] ? f->problem->demand[e] : 0;
    for (uint32_t j = 0; j < f->plan->n_workers; j++)
        speed += f->s->worker_by[j] != NONE ? f->problem->speed[j] : 0;
    return visits / speed;
}

static bool all_served(const struct flow *f)
{
    for (uint32_t e = 0; e < f->plan->n_experts; e++)
        if (f->s->left[e] > f->least)
            return false;
    return true;
}

double smoe_place_priced_time(const struct smoe_place_problem *problem,
                              const struct smoe_place_plan *plan,
                              struct smoe_place_scratch *scratch)
{
    struct flow f = {.problem = problem, .plan = plan, .s = scratch};
    double time = begin(&f);
    while (!all_served(&f)) {
        for (uint32_t worker; (worker = find_room(&f)) != NONE;)
            (void)walk(&f, worker, walk(&f, worker, 0));
        double more = bottleneck(&f) - time;
        if (!(more > time * TOLERANCE)) /* nothing is left, or rounding */
            break;
        time += more;
        for (uint32_t j = 0; j < plan->n_workers; j++)
            scratch->room[j] += more * problem->speed[j];
    }
    return time;
}
