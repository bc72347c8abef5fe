/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk over the agent's invariants: parcels and their lists, lanes and what they run, steps and the
 * tasks they wait for, memory within its bounds. What it finds broken ends the process.
 */
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"

/* Each parcel is in the list of its state, its id leads to it unless it is forgotten, and its expert is
 * held unless its task ends soon. Returns how many are in the list. */
static uint32_t check_list(const struct smoe_agent *a, const struct smoe_list *list,
                           enum smoe_agent_parcel_state one, enum smoe_agent_parcel_state other)
{
    uint32_t n = 0, found;
    smoe_list_for_each (it, list) {
        const struct smoe_agent_parcel *p = smoe_container_of(it, struct smoe_agent_parcel, link);
        smoe_assert(p->state == one || p->state == other);
        smoe_assert(p->forgotten || smoe_experts_same(&a->experts, p->expert, p->serial));
        smoe_assert(p->forgotten ||
                    (smoe_map_get(&a->parcel_by_id, p->id, &found) && &a->parcels[found] == p));
        n++;
    }
    return n;
}

static void check_parcels(const struct smoe_agent *a)
{
    const struct {
        const struct smoe_list *list;
        enum smoe_agent_parcel_state one, other;
    } lists[] = {
        {&a->forward_queue, SMOE_PARCEL_FORWARD_QUEUED, SMOE_PARCEL_FORWARD_QUEUED},
        {&a->backward_queue, SMOE_PARCEL_BACKWARD_QUEUED, SMOE_PARCEL_BACKWARD_QUEUED},
        {&a->kept, SMOE_PARCEL_KEPT, SMOE_PARCEL_KEPT},
        {&a->starved, SMOE_PARCEL_STARVED, SMOE_PARCEL_STARVED},
        {&a->running, SMOE_PARCEL_FORWARD_RUNS, SMOE_PARCEL_BACKWARD_RUNS},
    };
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        n += check_list(a, lists[i].list, lists[i].one, lists[i].other);
    smoe_assert(n + a->n_parcel_free == a->parcels_max && a->parcel_by_id.used <= n);
}

static void check_lanes(const struct smoe_agent *a)
{
    uint32_t running = smoe_list_count(&a->running, UINT32_MAX), steps = 0, lanes = 0;
    for (uint32_t i = 0; i < a->options.lanes; i++) {
        lanes += a->lane_used[i];
        steps += a->lane_used[i] && a->tasks[i].kind > SMOE_TASK_BACKWARD;
        if (a->lane_used[i])
            smoe_assert(a->experts.experts[a->tasks[i].expert].busy);
    }
    smoe_assert(lanes == running + steps);
}

/* A step waits for its tasks, as they are counted at the experts. */
static void check_steps(const struct smoe_agent *a, const uint32_t tasks[SMOE_AGENT_STEPS_MAX])
{
    for (uint32_t i = 0; i < a->n_steps; i++) {
        if (a->steps[i].phase == SMOE_AGENT_STEP_NONE) {
            smoe_assert(!tasks[i]);
            continue;
        }
        bool waits = a->steps[i].phase == SMOE_AGENT_STEP_NORM ||
                     a->steps[i].phase == SMOE_AGENT_STEP_STAGING;
        smoe_assert(tasks[i] == (waits ? a->steps[i].n_tasks : 0));
        smoe_assert(!waits || a->steps[i].n_tasks);
        smoe_assert((a->steps[i].phase == SMOE_AGENT_STEP_SUMS) == (a->steps[i].n_sums > 0));
    }
}

/* What is to be made is counted, and whoever is owed a Hosted waits for some of it. */
static void check_making(const struct smoe_experts *store, uint32_t to_make)
{
    smoe_assert(to_make == store->n_to_make);
    for (uint64_t left = store->hosted_due; left; left &= left - 1)
        smoe_assert(smoe_experts_to_make(store, &store->layers[__builtin_ctzll(left)]));
}

/* One walk over them for all that is counted at them: they are large, and this comes after every event
 * of a simulated world. */
static void check_experts(const struct smoe_agent *a)
{
    uint32_t tasks[SMOE_AGENT_STEPS_MAX], to_make = 0;
    memset(tasks, 0, a->n_steps * sizeof *tasks);
    for (uint32_t i = 0, left = a->experts.n_used; left; i++) {
        smoe_assert(i < a->experts.n_experts);
        const struct smoe_held_expert *e = &a->experts.experts[i];
        if (!e->used)
            continue;
        left--;
        to_make += e->make_due;
        if (!(e->step_task || e->step_runs))
            continue;
        smoe_assert(e->step < a->n_steps);
        tasks[e->step]++;
    }
    check_making(&a->experts, to_make);
    check_steps(a, tasks);
}

void smoe_agent_check(const struct smoe_agent *a)
{
    check_experts(a);
    check_parcels(a);
    check_lanes(a);
    smoe_agent_check_peers(a);
    smoe_assert(a->budget.used_bytes <= a->budget.max_bytes);
    smoe_assert(a->experts.bytes <= a->experts.bytes_max);
    smoe_assert(a->experts.n_used <= SMOE_WORKER_EXPERTS_MAX);
}
