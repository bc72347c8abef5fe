/* SPDX-License-Identifier: Apache-2.0
 *
 * A fleet as it was recorded: who was there, how fast, what a visit cost, who held which expert, and what
 * came. Queues and debts are not taken from the tape: they are what the policy that is tried makes of it.
 *
 * Visits of a worker that the tape no longer shows go to live replicas, as in churn. A worker that is there
 * but no longer holds an expert serves the visits that it has of it.
 */
#include <string.h>

#include "common/base/assert.h"
#include "sim/slotted_state.h"

static void follow_workers(struct smoe_sim_fleet *f, const struct smoe_slotted_recorded *now)
{
    for (uint32_t j = 0; j < f->n_workers; j++) {
        f->away[j] = !now->known[j].serves;
        if (!f->away[j])
            f->physics[j] = now->known[j].physics;
    }
    for (uint32_t j = 0; j < f->n_workers; j++)
        if (f->away[j] && f->fifos[j].len)
            smoe_sim_fleet_hand_over(f, j);
}

static double sustainable(const struct smoe_sim_fleet *f)
{
    double rate = 0;
    for (uint32_t j = 0; j < f->n_workers; j++)
        if (!f->away[j])
            rate += smoe_freq_sustainable_rate(&f->physics[j]);
    return rate * (double)f->s->spec.slot_ns * 1e-9;
}

uint32_t smoe_sim_fleet_follow(struct smoe_sim_fleet *f)
{
    const struct smoe_slotted_tape *tape = f->o->tape;
    struct smoe_slotted_recorded now;
    tape->next(tape->context, &now);
    uint32_t replicas = now.replica_first[f->experts];
    smoe_assert(now.tokens <= tape->tokens_max && replicas <= tape->replicas_max);
    memcpy(f->replica_first, now.replica_first, (f->experts + 1u) * sizeof *f->replica_first);
    memcpy(f->replica_node, now.replica_node, replicas * sizeof *f->replica_node);
    memcpy(f->scores, now.scores, (size_t)now.tokens * f->experts * sizeof *f->scores);
    follow_workers(f, &now);
    f->sustained += sustainable(f);
    return now.tokens;
}
