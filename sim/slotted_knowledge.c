/* SPDX-License-Identifier: Apache-2.0
 *
 * What the daemon believes. Reports count D slots after they were made, so a worker's queue is taken to be
 * what it was D slots ago and all that it was given since, as the daemon does it (DESIGN, "A slot"): never
 * too short, and too long by what was served meanwhile. Debts are simply D slots old.
 *
 * A worker that leaves is noticed at once. Its visits go to the live replica with the shortest queue of
 * their expert, or wait for its return where there is none; nothing is lost. The last experts never leave:
 * a token must find K. While away a worker serves and spends nothing and its budget mounts up.
 */
#include <math.h>

#include "common/base/assert.h"
#include "sim/slotted_state.h"

#define NOBODY UINT32_MAX

void smoe_sim_fleet_look(struct smoe_sim_fleet *f, uint64_t slot)
{
    uint64_t delay = f->s->spec.delay, n = f->n_workers;
    for (uint64_t j = 0; j < n; j++) {
        size_t at = delay ? slot % delay * n + j : 0;
        f->seen_queue[j] = delay ? f->old_queue[at] + f->recent[j] : f->queue[j];
        f->seen_debt[j] = delay ? f->old_debt[at] : f->debt[j];
    }
}

void smoe_sim_fleet_remember(struct smoe_sim_fleet *f, uint64_t slot)
{
    uint64_t delay = f->s->spec.delay, n = f->n_workers;
    for (uint64_t j = 0; delay && j < n; j++) {
        size_t at = slot % delay * n + j;
        f->recent[j] += f->arrivals[j] - f->old_arrivals[at];
        f->old_arrivals[at] = f->arrivals[j];
        f->old_queue[at] = f->queue[j];
        f->old_debt[at] = f->debt[j];
    }
}

/* ---- churn ---- */

/* The daemon knows what it moves: all that it remembers of the worker changes at once. */
static void correct(struct smoe_sim_fleet *f, uint32_t j, double visits)
{
    for (uint64_t d = 0; d < f->s->spec.delay; d++)
        f->old_queue[d * f->n_workers + j] += visits;
}

static void forget(struct smoe_sim_fleet *f, uint32_t j)
{
    for (uint64_t d = 0; d < f->s->spec.delay; d++)
        f->old_queue[d * f->n_workers + j] = f->old_arrivals[d * f->n_workers + j] = 0;
    if (f->s->spec.delay)
        f->recent[j] = 0;
}

static bool holds(const struct smoe_sim_fleet *f, uint32_t e, uint32_t j)
{
    for (uint32_t r = f->replica_first[e]; r < f->replica_first[e + 1]; r++)
        if (f->replica_node[r] == j)
            return true;
    return false;
}

static bool may_leave(const struct smoe_sim_fleet *f, uint32_t j)
{
    uint32_t left = 0;
    for (uint32_t e = 0; e < f->experts; e++)
        left += f->live[e] > holds(f, e, j);
    return left >= f->top_k;
}

static uint32_t shortest_replica(const struct smoe_sim_fleet *f, uint32_t e)
{
    uint32_t best = NOBODY;
    for (uint32_t r = f->replica_first[e]; r < f->replica_first[e + 1]; r++) {
        uint32_t k = f->replica_node[r];
        if (!f->away[k] && (best == NOBODY || f->queue[k] < f->queue[best]))
            best = k;
    }
    return best;
}

void smoe_sim_fleet_hand_over(struct smoe_sim_fleet *f, uint32_t j)
{
    forget(f, j);
    for (size_t n = f->fifos[j].len; n; n--) {
        uint64_t visit = smoe_sim_fifo_pop(&f->fifos[j]);
        uint32_t k = shortest_replica(f, (uint32_t)(visit & UINT16_MAX));
        f->result->moved += k != NOBODY;
        k = k == NOBODY ? j : k;
        smoe_sim_fifo_push(&f->fifos[k], visit);
        correct(f, k, 1);
        f->queue[j]--;
        f->queue[k]++;
    }
}

static void leave(struct smoe_sim_fleet *f, uint32_t j)
{
    f->away[j] = true;
    for (uint32_t e = 0; e < f->experts; e++)
        f->live[e] -= holds(f, e, j);
    smoe_sim_fleet_hand_over(f, j);
}

static void come_back(struct smoe_sim_fleet *f, uint32_t j)
{
    f->away[j] = false;
    for (uint32_t e = 0; e < f->experts; e++)
        f->live[e] += holds(f, e, j);
}

void smoe_sim_fleet_churn(struct smoe_sim_fleet *f)
{
    const struct smoe_scenario_spec *spec = &f->s->spec;
    for (uint32_t j = 0; spec->up && j < f->n_workers; j++) {
        double mean = (double)(f->away[j] ? spec->down : spec->up);
        bool moves = smoe_rng_unit(&f->leaving) * mean < 1;
        if (moves && f->away[j])
            come_back(f, j);
        else if (moves && may_leave(f, j))
            leave(f, j);
    }
}
