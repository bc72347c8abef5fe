/* SPDX-License-Identifier: Apache-2.0
 *
 * Names, the dispatch over rules, and what can be said of any plan: is it valid, what is it worth, what must
 * move for it. The rules are in place_rules.c and place_highest.c.
 *
 * The scratch is one allocation, cut by the same walk that measured it; every call initialises what its own
 * E, N and S need.
 */
#include "daemon/core/place.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/cutter.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "daemon/core/place_internal.h"
#include "stablemoe/error.h"

/* ---- names ---- */

static const struct {
    const char *name, *help;
} RULES[SMOE_PLACE_KINDS] = {
#define X(symbol, name, help) [SMOE_PLACE_##symbol] = {name, help},
    SMOE_PLACE_MAP(X)
#undef X
};

const char *smoe_place_name(enum smoe_place_kind kind)
{
    return RULES[kind].name;
}

const char *smoe_place_help(enum smoe_place_kind kind)
{
    return RULES[kind].help;
}

bool smoe_place_parse(const char *text, struct smoe_place_rule *ret)
{
    size_t len = strcspn(text, "=");
    uint64_t interval = 0;
    for (int k = 0; k < SMOE_PLACE_KINDS; k++) {
        if (strlen(RULES[k].name) != len || memcmp(RULES[k].name, text, len) != 0)
            continue;
        bool counts = k == SMOE_PLACE_INTERVAL;
        if (counts != (text[len] == '=') ||
            (counts && (!smoe_parse_u64(text + len + 1, &interval) || interval < 1 ||
                        interval > SMOE_PLACE_INTERVAL_MAX)))
            return false;
        *ret = (struct smoe_place_rule){.kind = (enum smoe_place_kind)k,
                                        .interval = (uint32_t)interval};
        return true;
    }
    return false;
}

/* ---- scratch ---- */

static void lay_out(void *head, struct smoe_cutter *cutter)
{
    struct smoe_place_scratch *s = head;
    size_t e = s->experts_max, n = s->workers_max, slots = s->slots_max;
    size_t either = e > n ? e : n, any = either > slots ? either : slots;
#define CUT(field, count) s->field = smoe_cut(cutter, count, sizeof *s->field)
    CUT(contest.order, 4 * either); /* twice the next power of two */
    CUT(contest.index, 4 * either);
    CUT(aside, e);
    CUT(sorted, any);
    CUT(spare, any);
    CUT(line, n);
    CUT(in_turn, n);
    CUT(expected, e);
    CUT(demand, e);
    CUT(speed, e);
    CUT(load, n);
    CUT(slot_speed, n);
    CUT(worker, n);
    CUT(group, n);
    CUT(count, e);
    CUT(filled, n);
    CUT(served, e);
    CUT(held_first, e + 1);
    CUT(held_slot, slots);
    CUT(worker_of, slots);
    CUT(flow, slots);
    CUT(left, e);
    CUT(room, n);
    CUT(worker_by, n);
    CUT(expert_by, e);
    CUT(reached, e);
    CUT(queue, e);
    CUT(bag, slots);
    CUT(rival, slots);
#undef CUT
}

int smoe_place_scratch_new(uint32_t experts_max, uint32_t workers_max, uint32_t slots_max,
                           struct smoe_place_scratch **ret)
{
    struct smoe_place_scratch head = {
        .experts_max = experts_max, .workers_max = workers_max, .slots_max = slots_max};
    *ret = smoe_cut_block(&head, sizeof head, lay_out);
    return *ret ? 0 : SMOE_ENOMEMORY;
}

void smoe_place_scratch_free(struct smoe_place_scratch *scratch)
{
    free(scratch);
}

/* ---- making a plan ---- */

uint32_t smoe_place_slots(const struct smoe_place_problem *problem)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < problem->n_workers; j++)
        n += problem->slots[j];
    return n;
}

static void make_static(struct smoe_place_plan *plan)
{
    uint32_t n_slots = plan->slot_first[plan->n_workers];
    for (uint32_t q = 0; q < n_slots; q++)
        plan->expert[q] = (uint16_t)(q % plan->n_experts);
}

void smoe_place_begin(const struct smoe_place_problem *problem, struct smoe_place_scratch *scratch,
                      struct smoe_place_plan *plan)
{
    double sum = 0;
    plan->n_experts = problem->n_experts;
    plan->n_workers = problem->n_workers;
    plan->slot_first[0] = 0;
    for (uint32_t j = 0; j < problem->n_workers; j++) {
        smoe_assert(problem->slots[j] == 0 ||
                    (problem->speed[j] > 0 && isfinite(problem->speed[j])));
        plan->slot_first[j + 1] = plan->slot_first[j] + problem->slots[j];
    }
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        smoe_assert(problem->demand[e] >= 0 && isfinite(problem->demand[e]));
        sum += problem->demand[e];
    }
    for (uint32_t e = 0; e < problem->n_experts; e++)
        scratch->demand[e] = sum > 0 ? problem->demand[e] : 1;
}

int smoe_place_make(enum smoe_place_kind kind, const struct smoe_place_problem *problem,
                    struct smoe_place_scratch *scratch, struct smoe_place_plan *ret)
{
    uint32_t n_slots = smoe_place_slots(problem);
    smoe_assert(problem->n_experts >= 1 && problem->n_experts <= scratch->experts_max);
    smoe_assert(problem->n_workers <= scratch->workers_max && n_slots <= scratch->slots_max);
    if (n_slots < problem->n_experts)
        return SMOE_ELIMIT;
    smoe_place_begin(problem, scratch, ret);
    switch (kind) {
    case SMOE_PLACE_STATIC:
        make_static(ret);
        break;
    case SMOE_PLACE_SYMI:
        smoe_place_make_symi(scratch, ret);
        break;
    case SMOE_PLACE_EPLB:
    case SMOE_PLACE_INTERVAL:
        smoe_place_make_eplb(scratch, ret);
        break;
    case SMOE_PLACE_HIGHEST_AVERAGES:
        smoe_place_make_highest(problem, scratch, ret);
        break;
    case SMOE_PLACE_KINDS:
        smoe_assert(kind < SMOE_PLACE_KINDS);
        break;
    }
    return 0;
}

/* ---- from one plan to the next ---- */

static bool holds(const struct smoe_place_plan *plan, uint32_t worker, uint16_t expert)
{
    for (uint32_t q = plan->slot_first[worker]; q < plan->slot_first[worker + 1]; q++)
        if (plan->expert[q] == expert)
            return true;
    return false;
}

void smoe_place_keep(const struct smoe_place_plan *before, struct smoe_place_plan *plan)
{
    for (uint32_t j = 0; j < plan->n_workers && j < before->n_workers; j++) {
        uint32_t n = plan->slot_first[j + 1] - plan->slot_first[j];
        if (before->slot_first[j + 1] - before->slot_first[j] != n)
            continue;
        const uint16_t *had = before->expert + before->slot_first[j];
        uint16_t *has = plan->expert + plan->slot_first[j];
        /* An expert swapped into its old slot never leaves it: a later k finds its own there or swaps two
         * that are both not yet at home. */
        for (uint32_t k = 0; k < n; k++)
            for (uint32_t i = 0; i < n && has[k] != had[k]; i++)
                if (has[i] == had[k] && has[i] != had[i]) {
                    has[i] = has[k];
                    has[k] = had[k];
                }
    }
}

uint32_t smoe_place_moves(const struct smoe_place_plan *before, const struct smoe_place_plan *plan,
                          uint32_t *ret_slots)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < plan->n_workers; j++)
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++) {
            if (j < before->n_workers && holds(before, j, plan->expert[q]))
                continue;
            if (ret_slots)
                ret_slots[n] = q;
            n++;
        }
    return n;
}

/* ---- what a plan is worth ---- */

/* Speed of one slot of a worker [visit/s]. */
static double slot_speed(const struct smoe_place_problem *problem, uint32_t worker)
{
    return problem->speed[worker] / problem->slots[worker];
}

struct smoe_place_worth smoe_place_worth(const struct smoe_place_problem *problem,
                                         const struct smoe_place_plan *plan,
                                         struct smoe_place_scratch *scratch)
{
    struct smoe_place_worth worth = {0, 0};
    double *density = scratch->speed; /* of each expert's slots, then visits a unit of it [s] */
    memset(density, 0, plan->n_experts * sizeof *density);
    for (uint32_t j = 0; j < plan->n_workers; j++)
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++)
            density[plan->expert[q]] += slot_speed(problem, j);
    for (uint32_t e = 0; e < plan->n_experts; e++) {
        density[e] = problem->demand[e] / density[e];
        worth.replica = fmax(worth.replica, density[e]);
    }
    for (uint32_t j = 0; j < plan->n_workers; j++) {
        double sum = 0;
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++)
            sum += density[plan->expert[q]];
        if (problem->slots[j])
            worth.time_s = fmax(worth.time_s, sum / problem->slots[j]);
    }
    return worth;
}

/* False if an earlier slot of the worker holds the same expert. */
static bool first_here(const struct smoe_place_plan *plan, uint32_t worker, uint32_t slot)
{
    for (uint32_t q = plan->slot_first[worker]; q < slot; q++)
        if (plan->expert[q] == plan->expert[slot])
            return false;
    return true;
}

uint32_t smoe_place_replicas(const struct smoe_place_plan *plan, uint32_t *ret_first,
                             uint32_t *ret_worker)
{
    uint32_t n_experts = plan->n_experts;
    memset(ret_first, 0, (n_experts + 1) * sizeof *ret_first);
    for (uint32_t j = 0; j < plan->n_workers; j++)
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++)
            ret_first[plan->expert[q] + 1] += first_here(plan, j, q);
    for (uint32_t e = 0; e < n_experts; e++)
        ret_first[e + 1] += ret_first[e];
    for (uint32_t j = 0; j < plan->n_workers; j++)
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++)
            if (first_here(plan, j, q))
                ret_worker[ret_first[plan->expert[q]]++] = j;
    memmove(ret_first + 1, ret_first, n_experts * sizeof *ret_first); /* each is at its end now */
    ret_first[0] = 0;
    return ret_first[n_experts];
}

bool smoe_place_distinct(const struct smoe_place_plan *plan, struct smoe_place_scratch *scratch)
{
    uint32_t *held = scratch->count, n_live = 0; /* workers that hold the expert */
    memset(held, 0, plan->n_experts * sizeof *held);
    for (uint32_t j = 0; j < plan->n_workers; j++) {
        n_live += plan->slot_first[j + 1] > plan->slot_first[j];
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++)
            held[plan->expert[q]] += first_here(plan, j, q);
    }
    for (uint32_t j = 0; j < plan->n_workers; j++) {
        uint32_t n = plan->slot_first[j + 1] - plan->slot_first[j];
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++)
            if (held[plan->expert[q]] < n_live && n <= plan->n_experts && !first_here(plan, j, q))
                return false;
    }
    return true;
}

bool smoe_place_valid(const struct smoe_place_problem *problem, const struct smoe_place_plan *plan,
                      struct smoe_place_scratch *scratch)
{
    uint32_t *held = scratch->count, none = problem->n_experts;
    if (plan->n_experts != problem->n_experts || plan->n_workers != problem->n_workers ||
        plan->slot_first[0] != 0)
        return false;
    memset(held, 0, plan->n_experts * sizeof *held);
    for (uint32_t j = 0; j < plan->n_workers; j++) {
        if (plan->slot_first[j + 1] - plan->slot_first[j] != problem->slots[j])
            return false;
        for (uint32_t q = plan->slot_first[j]; q < plan->slot_first[j + 1]; q++) {
            if (plan->expert[q] >= plan->n_experts)
                return false;
            none -= held[plan->expert[q]]++ == 0;
        }
    }
    return none == 0;
}
