/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk over all invariants (core.c lists them). What it finds broken ends the process.
 */
#include "common/base/assert.h"
#include "daemon/core/sharded.h"

static void check_batch(const struct smoe_core *c, const struct smoe_batch *b)
{
    uint32_t batch = (uint32_t)(b - c->batches);
    uint64_t visits = (uint64_t)b->n_waiting * b->top_k;
    uint64_t forward_done = 0, settled = 0;
    smoe_list_for_each (it, &b->parcels) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, batch_link);
        smoe_assert(p->used && p->batch == batch && p->layer == b->layer);
        smoe_assert(p->state >= SMOE_VISIT_ROUTED && p->state <= SMOE_VISIT_SETTLED);
        visits += p->rows;
        forward_done += p->state > SMOE_VISIT_ROUTED ? p->rows : 0;
        settled += p->state == SMOE_VISIT_SETTLED && b->training ? p->rows : 0;
    }
    smoe_assert(visits == (uint64_t)b->tokens * b->top_k);
    smoe_assert(forward_done == b->visits_forward_done && settled == b->visits_settled);
    smoe_assert(smoe_list_linked(&b->pending_link) == (b->n_waiting > 0));
    smoe_assert(!b->has_gradient || forward_done == visits);
}

static void check_worker(const struct smoe_core *c, uint32_t worker)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    uint64_t pending[SMOE_PHASES] = {0}, owed = 0, inbox = 0, in_state[SMOE_VISIT_STATES] = {0};
    uint64_t gradients = 0, due = 0;
    smoe_worker_check(w);
    smoe_assert(smoe_list_empty(&c->worker_new[worker]));
    smoe_list_for_each (it, &c->worker_parcels[worker]) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, worker_link);
        const struct smoe_layer *layer = &c->layers[p->layer];
        uint64_t forward = p->rows * layer->forward_flops;
        bool training = c->batches[p->batch].training;
        smoe_assert(p->used && p->worker == worker);
        in_state[p->state] += p->rows;
        if (p->state == SMOE_VISIT_ROUTED) {
            pending[SMOE_FORWARD] += forward;
            inbox += p->rows * smoe_row_bytes(layer);
        }
        pending[SMOE_BACKWARD] += p->state == SMOE_VISIT_GRADIENT_QUEUED ? 2 * forward : 0;
        gradients += p->state == SMOE_VISIT_GRADIENT_QUEUED ? p->backward_bytes : 0;
        due += p->backward_due;
        owed += training && p->state < SMOE_VISIT_SETTLED ? 2 * forward : 0;
    }
    smoe_assert(pending[SMOE_FORWARD] == w->pending_flops[SMOE_FORWARD]);
    smoe_assert(pending[SMOE_BACKWARD] == w->pending_flops[SMOE_BACKWARD]);
    smoe_assert(owed == w->owed_flops && inbox == w->inbox_bytes);
    smoe_assert(gradients == w->gradient_bytes && due == w->backward_due);
    for (int s = SMOE_VISIT_ROUTED; s < SMOE_VISIT_SETTLED; s++)
        smoe_assert(w->state == SMOE_WORKER_FREE || in_state[s] == w->account.now[s]);
}

static void check_trainer(const struct smoe_core *c, uint32_t trainer)
{
    const struct smoe_trainer *t = &c->trainers[trainer];
    uint64_t waiting = 0, bytes = 0, n = 0;
    if (t->state == SMOE_TRAINER_FREE)
        return;
    smoe_assert(smoe_account_balanced(&t->account));
    smoe_list_for_each (it, &t->batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        uint32_t found;
        smoe_assert(b->used && b->trainer == trainer);
        smoe_assert(smoe_batch_find(c, trainer, b->id, &found) && &c->batches[found] == b);
        waiting += (uint64_t)b->n_waiting * b->top_k;
        bytes += b->raw_bytes;
        n++;
    }
    smoe_assert(waiting == t->account.now[SMOE_VISIT_WAITING]);
    smoe_assert(bytes == t->iteration_bytes && n == t->n_batches);
    smoe_assert(t->step.phase == SMOE_STEP_NONE || t->step.phase == SMOE_STEP_COMMITTING ||
                t->state == SMOE_TRAINER_LIVE);
}

/* An expert's roles are on different workers. */
static void check_layer(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    smoe_assert(layer->state != SMOE_LAYER_FREE);
    if (layer->sharded)
        smoe_sharded_check(c, l);
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        const struct smoe_expert_view *x = &layer->experts[e];
        smoe_assert(x->worker == SMOE_NONE ||
                    (x->worker != x->follower && x->worker != x->filling));
        smoe_assert(x->follower == SMOE_NONE || x->follower != x->filling);
    }
}

/* What is in flight in total is in flight with the trainers there are. */
static void check_total(const struct smoe_core *c)
{
    uint64_t in_flight = 0;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (c->trainers[t].state != SMOE_TRAINER_FREE)
            in_flight += c->trainers[t].account.in_flight;
    smoe_assert(smoe_account_balanced(&c->total) && in_flight == c->total.in_flight);
}

void smoe_core_check(const struct smoe_core *c)
{
    uint32_t batches = 0;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        smoe_list_for_each (it, &c->trainers[t].batches) {
            check_batch(c, smoe_container_of(it, struct smoe_batch, trainer_link));
            batches++;
        }
    smoe_assert(batches + c->n_batch_free + c->n_batch_zombie == c->options.limits.batches_max);
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        check_worker(c, w);
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        check_trainer(c, t);
    for (uint64_t left = c->layers_used; left; left &= left - 1)
        check_layer(c, (uint32_t)__builtin_ctzll(left));
    if (c->sharding) {
        smoe_sharding_check(c);
        smoe_links_check(c);
    }
    check_total(c);
}
