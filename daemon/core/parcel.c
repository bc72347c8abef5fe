/* SPDX-License-Identifier: Apache-2.0
 *
 * Parcels: the visits of one batch to one expert that travel to one worker together. A parcel stays
 * until its batch is committed or dropped, because the gradient sums of its worker contain it; so the
 * list of a worker's parcels is exactly what is lost with the worker.
 *
 * smoe_parcel_move is the only place where a parcel changes state. It books the move on the four
 * accounts and keeps the worker's work books:
 *
 *     -> ROUTED           (slot.c assigned it: forward work pending, training visits owe a backward)
 *     ROUTED ->           forward work no longer pending, inbox bytes free
 *     -> GRADIENT_QUEUED  (assigned: backward work pending, room for gradients taken)
 *     GRADIENT_QUEUED ->  backward work neither pending nor owed, room free
 *     FORWARD_DONE -> FAILED  owed no more
 */
#include "common/base/assert.h"
#include "daemon/core/core_state.h"

uint64_t smoe_parcel_wire_id(const struct smoe_core *core, uint32_t parcel)
{
    return (uint64_t)core->parcels[parcel].generation << 32 | (parcel + 1);
}

struct smoe_parcel_head smoe_parcel_head_of(const struct smoe_core *core, uint32_t parcel)
{
    const struct smoe_parcel *p = &core->parcels[parcel];
    const struct smoe_batch *b = &core->batches[p->batch];
    const struct smoe_layer *layer = &core->layers[p->layer];
    bool may_be_ahead = b->training && layer->shape.staleness;
    return (struct smoe_parcel_head){
        .id = smoe_parcel_wire_id(core, parcel),
        .layer = p->layer,
        .expert = p->expert,
        .rows = p->rows,
        .keep = b->training,
        .older = b->ahead && layer->step == b->base + 1,
        .step = may_be_ahead ? b->step : 0,
    };
}

bool smoe_parcel_by_id(const struct smoe_core *core, uint32_t worker, uint64_t id,
                       uint32_t *ret_parcel)
{
    uint32_t index = (uint32_t)id - 1;
    if ((uint32_t)id == 0 || index >= core->options.limits.parcels_max)
        return false;
    const struct smoe_parcel *p = &core->parcels[index];
    if (!p->used || p->generation != id >> 32 || p->worker != worker)
        return false;
    *ret_parcel = index;
    return true;
}

uint32_t smoe_parcel_new(struct smoe_core *core, uint32_t batch, uint32_t worker, uint32_t expert,
                         uint32_t first, uint32_t rows)
{
    smoe_assert(core->n_parcel_free > 0 && rows > 0 && rows <= SMOE_PARCEL_ROWS_MAX);
    uint32_t index = core->parcel_free[--core->n_parcel_free];
    struct smoe_parcel *p = &core->parcels[index];
    struct smoe_batch *b = &core->batches[batch];
    uint32_t generation = p->generation + 1;
    *p = (struct smoe_parcel){
        .used = true,
        .state = SMOE_VISIT_WAITING,
        .generation = generation,
        .batch = batch,
        .worker = worker,
        .layer = b->layer,
        .expert = expert,
        .first = first,
        .rows = rows,
    };
    smoe_list_push_back(&b->parcels, &p->batch_link);
    smoe_list_push_back(&core->worker_parcels[worker], &p->worker_link);
    smoe_list_init(&p->new_link);
    return index;
}

void smoe_parcel_free(struct smoe_core *core, uint32_t parcel)
{
    struct smoe_parcel *p = &core->parcels[parcel];
    smoe_list_remove(&p->batch_link);
    smoe_list_remove(&p->worker_link);
    smoe_list_remove(&p->new_link);
    p->used = false;
    core->parcel_zombie[core->n_parcel_zombie++] = parcel;
}

static void take(uint64_t *from, uint64_t amount)
{
    smoe_assert(*from >= amount);
    *from -= amount;
}

/* What leaving a state and entering the next means for the worker's books. */
static void book_work(struct smoe_core *core, const struct smoe_parcel *p, enum smoe_visit_state to)
{
    struct smoe_worker *w = &core->fleet.workers[p->worker];
    const struct smoe_layer *layer = &core->layers[p->layer];
    bool training = core->batches[p->batch].training;
    uint64_t forward = p->rows * layer->forward_flops;
    uint64_t backward = 2 * forward;
    if (p->state == SMOE_VISIT_ROUTED) {
        take(&w->pending_flops[SMOE_FORWARD], forward);
        take(&w->inbox_bytes, p->rows * smoe_row_bytes(layer));
    } else if (p->state == SMOE_VISIT_GRADIENT_QUEUED) {
        take(&w->pending_flops[SMOE_BACKWARD], backward);
        take(&w->gradient_bytes, p->backward_bytes);
    }
    if (p->backward_due) {
        smoe_assert(w->backward_due && core->batches[p->batch].n_backward_due);
        w->backward_due--;
        core->batches[p->batch].n_backward_due--;
    }
    if (to == SMOE_VISIT_GRADIENT_QUEUED)
        w->gradient_bytes += p->backward_bytes;
    if (to == SMOE_VISIT_ROUTED) { /* pending forward work: smoe_worker_assign */
        w->inbox_bytes += p->rows * smoe_row_bytes(layer);
        w->owed_flops += training ? backward : 0;
    } else if (training && p->state != SMOE_VISIT_SETTLED &&
               (to == SMOE_VISIT_SETTLED || to == SMOE_VISIT_FAILED)) {
        take(&w->owed_flops, backward);
    }
}

void smoe_parcel_move(struct smoe_core *core, uint32_t parcel, enum smoe_visit_state to)
{
    struct smoe_parcel *p = &core->parcels[parcel];
    struct smoe_account *trainer = &core->trainers[core->batches[p->batch].trainer].account;
    struct smoe_account *worker = &core->fleet.workers[p->worker].account;
    struct smoe_account *expert = &core->layers[p->layer].experts[p->expert].account;
    /* Worker and expert first hear of a visit when it is routed. */
    enum smoe_visit_state theirs = p->state == SMOE_VISIT_WAITING ? SMOE_VISIT_NONE : p->state;
    smoe_account_move(&core->total, p->state, to, p->rows);
    smoe_account_move(trainer, p->state, to, p->rows);
    smoe_account_move(worker, theirs, to, p->rows);
    smoe_account_move(expert, theirs, to, p->rows);
    book_work(core, p, to);
    p->backward_due = false;
    p->state = to;
}

/* The action that relays what just came from a worker to the parcel's trainer. */
static struct smoe_message *relay_to_trainer(struct smoe_core *core, uint32_t parcel,
                                             enum smoe_message_type type,
                                             enum smoe_tensor_plan tensor)
{
    const struct smoe_parcel *p = &core->parcels[parcel];
    const struct smoe_trainer *t = &core->trainers[core->batches[p->batch].trainer];
    struct smoe_message *m = smoe_core_send(core, t->session, type);
    uint32_t *list = smoe_core_list(core, sizeof *list);
    *list = parcel;
    smoe_core_attach(core, tensor, p->batch, list, 1);
    return m;
}

/* All visits of the batch have their results: its input and its credit are free. */
static void batch_forward_done(struct smoe_core *core, uint32_t batch)
{
    struct smoe_batch *b = &core->batches[batch];
    uint32_t trainer = b->trainer;
    b->input_freed = true;
    smoe_core_act(core, SMOE_ACT_INPUT_FREED, SMOE_NONE)->batch = batch;
    if (!b->training)
        smoe_batch_free(core, batch);
    smoe_trainer_grant(core, trainer);
}

void smoe_parcel_output(struct smoe_core *core, uint32_t worker, uint64_t id)
{
    uint32_t parcel;
    if (!smoe_parcel_by_id(core, worker, id, &parcel) ||
        core->parcels[parcel].state != SMOE_VISIT_ROUTED)
        return; /* forgotten between its header and its end */
    struct smoe_parcel *p = &core->parcels[parcel];
    struct smoe_batch *b = &core->batches[p->batch];
    struct smoe_message *m = relay_to_trainer(core, parcel, SMOE_MSG_RESULT, SMOE_TENSOR_Y);
    m->result =
        (struct smoe_msg_result){b->id, core->trainers[b->trainer].attempt, p->expert, p->rows};
    smoe_parcel_move(core, parcel, b->training ? SMOE_VISIT_FORWARD_DONE : SMOE_VISIT_SETTLED);
    smoe_worker_progressed(&core->fleet.workers[worker], core->now_ns);
    core->solve_useful = true;
    b->visits_forward_done += p->rows;
    if (b->visits_forward_done == b->tokens * b->top_k)
        batch_forward_done(core, p->batch);
}

void smoe_parcel_gradient(struct smoe_core *core, uint32_t worker, uint64_t id)
{
    uint32_t parcel;
    if (!smoe_parcel_by_id(core, worker, id, &parcel) ||
        core->parcels[parcel].state != SMOE_VISIT_GRADIENT_QUEUED)
        return;
    struct smoe_parcel *p = &core->parcels[parcel];
    struct smoe_batch *b = &core->batches[p->batch];
    struct smoe_message *m =
        relay_to_trainer(core, parcel, SMOE_MSG_INPUT_GRADIENT, SMOE_TENSOR_DX);
    m->input_gradient = (struct smoe_msg_input_gradient){b->id, core->trainers[b->trainer].attempt,
                                                         p->expert, p->rows};
    smoe_parcel_move(core, parcel, SMOE_VISIT_SETTLED);
    smoe_worker_progressed(&core->fleet.workers[worker], core->now_ns);
    core->solve_useful = true;
    b->visits_settled += p->rows;
    if (b->visits_settled == b->tokens * b->top_k) {
        smoe_backward_settled(core, p->batch);
        smoe_step_advance(core, b->trainer);
    }
    smoe_backward_pump(core, worker);
}

struct smoe_parcel_view smoe_core_parcel(const struct smoe_core *core, uint32_t parcel)
{
    const struct smoe_parcel *p = &core->parcels[parcel];
    return (struct smoe_parcel_view){
        .id = smoe_parcel_wire_id(core, parcel),
        .batch = p->batch,
        .expert = p->expert,
        .visits = core->batches[p->batch].visits + p->first,
        .rows = p->rows,
    };
}
