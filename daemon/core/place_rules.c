/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules that others have published, as they published them: workers are equal to them.
 *
 * **symi** (MODEL.md (24)): every expert gets its share of the slots, rounded down and at least one; slots that
 * this leaves over or lacks are given to, or taken from, who is farthest below, or above, its share. Replicas lie
 * one after another, as in the paper, where that saves traffic between machines; two of them may meet on a worker.
 *
 * **eplb** (DeepSeek's expert-parallel load balancer): one replica after another to the expert with the most
 * visits a replica; then the replicas, busiest first, each to the idlest worker with a free slot.
 */
#include <math.h>

#include "daemon/core/place_internal.h"

/* Experts one after another, each in `count` slots. */
static void lay_in_order(const struct smoe_place_scratch *scratch, struct smoe_place_plan *plan)
{
    uint32_t q = 0;
    for (uint32_t e = 0; e < plan->n_experts; e++)
        for (uint32_t r = 0; r < scratch->count[e]; r++)
            plan->expert[q++] = (uint16_t)e;
}

/* ---- symi ---- */

/* The expert with the greatest surplus times `sign`, the lowest of several. */
static uint32_t extreme(const double *surplus, uint32_t n, double sign)
{
    uint32_t best = 0;
    for (uint32_t e = 1; e < n; e++)
        if (surplus[e] * sign > surplus[best] * sign)
            best = e;
    return best;
}

void smoe_place_make_symi(struct smoe_place_scratch *scratch, struct smoe_place_plan *plan)
{
    uint32_t n_slots = plan->slot_first[plan->n_workers], given = 0, *count = scratch->count;
    double sum = 0, *surplus = scratch->speed;
    for (uint32_t e = 0; e < plan->n_experts; e++)
        sum += scratch->demand[e];
    for (uint32_t e = 0; e < plan->n_experts; e++) {
        double goal = scratch->demand[e] / sum * n_slots;
        count[e] = (uint32_t)floor(goal > 1 ? goal : 1);
        surplus[e] = count[e] - goal;
        given += count[e];
    }
    while (given > n_slots) {
        uint32_t e = extreme(surplus, plan->n_experts, 1);
        given -= count[e] > 1;
        count[e] -= count[e] > 1;
        surplus[e] -= 1;
    }
    while (given < n_slots) {
        uint32_t e = extreme(surplus, plan->n_experts, -1);
        given++;
        count[e]++;
        surplus[e] += 1;
    }
    lay_in_order(scratch, plan);
}

/* ---- eplb ---- */

/* Experts have at least demand * (S - E) / all demand replicas in the end, rounded up (MODEL.md (26)): the contest need
 * only begin there. */
uint32_t smoe_place_head_start(struct smoe_place_scratch *scratch, uint32_t n_experts,
                               uint32_t n_slots, uint32_t most)
{
    double sum = 0;
    uint32_t given = 0;
    for (uint32_t e = 0; e < n_experts; e++)
        sum += scratch->demand[e];
    for (uint32_t e = 0; e < n_experts; e++) {
        double least = floor(scratch->demand[e] / sum * (n_slots - n_experts));
        scratch->count[e] = least < 1 ? 1 : least < most ? (uint32_t)least : most;
        given += scratch->count[e];
    }
    return given;
}

static void count_replicas(struct smoe_place_scratch *scratch, uint32_t n_experts, uint32_t n_slots)
{
    struct smoe_place_contest *contest = &scratch->contest;
    uint32_t given = smoe_place_head_start(scratch, n_experts, n_slots, n_slots);
    smoe_place_contest_open(contest, n_experts);
    for (uint32_t e = 0; e < n_experts; e++)
        smoe_place_contest_enter(contest, e, scratch->demand[e] / scratch->count[e]);
    smoe_place_contest_begin(contest);
    for (uint32_t q = given; q < n_slots; q++) {
        uint32_t e = smoe_place_winner(contest);
        smoe_place_contest_change(contest, e, scratch->demand[e] / ++scratch->count[e]);
    }
}

/* Busiest replicas first, each to the idlest worker that has room. */
static void pack(struct smoe_place_scratch *scratch, struct smoe_place_plan *plan)
{
    struct smoe_place_contest *idle = &scratch->contest;
    struct smoe_place_key *by_visits = scratch->sorted;
    for (uint32_t e = 0; e < plan->n_experts; e++)
        by_visits[e] = (struct smoe_place_key){scratch->demand[e] / scratch->count[e], e};
    smoe_place_sort(scratch, by_visits, plan->n_experts);
    smoe_place_contest_open(idle, plan->n_workers);
    for (uint32_t j = 0; j < plan->n_workers; j++) {
        scratch->filled[j] = plan->slot_first[j];
        if (plan->slot_first[j] < plan->slot_first[j + 1])
            smoe_place_contest_enter(idle, j, 0);
    }
    smoe_place_contest_begin(idle);
    for (uint32_t i = 0; i < plan->n_experts; i++)
        for (uint32_t r = 0; r < scratch->count[by_visits[i].index]; r++) {
            uint32_t j = smoe_place_winner(idle);
            double key = smoe_place_winning_key(idle) - by_visits[i].key;
            plan->expert[scratch->filled[j]++] = (uint16_t)by_visits[i].index;
            bool full = scratch->filled[j] == plan->slot_first[j + 1];
            smoe_place_contest_change(idle, j, full ? SMOE_PLACE_OUT : key);
        }
}

void smoe_place_make_eplb(struct smoe_place_scratch *scratch, struct smoe_place_plan *plan)
{
    count_replicas(scratch, plan->n_experts, plan->slot_first[plan->n_workers]);
    pack(scratch, plan);
}
