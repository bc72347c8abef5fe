/* SPDX-License-Identifier: Apache-2.0
 *
 * The backward half of a batch: its gradient goes to the workers that have its parcels, as each has room.
 *
 * A worker's room for gradients is as large as its inbox, and is separate from it: a gradient never waits
 * for forward work, so credit cannot deadlock, and a worker that keeps more than its memory holds gives
 * up rows of x (Evicted) rather than refuse anything. Those rows the trainer sends once more, when the
 * gradient is there and they can be used at once; they count against the same room. One parcel may
 * always be sent, whatever its size.
 *
 *     FORWARD_DONE --Gradient--> due --room--> GRADIENT_QUEUED --ParcelGradient--> SETTLED
 */
#include "common/base/assert.h"
#include "daemon/core/core_state.h"

/* ---- Gradient ---- */

/* The batch a gradient may be for, or why not. */
static int gradient_batch(const struct smoe_core *c, uint32_t trainer,
                          const struct smoe_msg_gradient *m, uint32_t *ret_batch,
                          struct smoe_why *why)
{
    unsigned long long id = m->batch;
    if (!smoe_batch_find(c, trainer, m->batch, ret_batch))
        return smoe_fail(why, SMOE_EUNKNOWN, "GRADIENT.batch %llu: no such batch", id);
    const struct smoe_batch *b = &c->batches[*ret_batch];
    if (!b->training)
        return smoe_fail(why, SMOE_ESTATE, "GRADIENT.batch %llu: was submitted for evaluation", id);
    if (b->has_gradient)
        return smoe_fail(why, SMOE_ESTATE, "GRADIENT.batch %llu: has its gradient already", id);
    if (b->visits_forward_done < b->tokens * b->top_k)
        return smoe_fail(why, SMOE_ESTATE,
                         "GRADIENT.batch %llu: only %u of its %u visits have results", id,
                         b->visits_forward_done, b->tokens * b->top_k);
    return 0;
}

struct smoe_verdict smoe_batch_expect_gradient(const struct smoe_core *c, uint32_t trainer,
                                               const struct smoe_msg_gradient *m,
                                               struct smoe_why *why)
{
    uint32_t batch;
    if (m->attempt < c->trainers[trainer].attempt)
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    int rc = gradient_batch(c, trainer, m, &batch, why);
    if (rc)
        return smoe_verdict_fail(SMOE_REFUSE, rc, m->batch, 0);
    const struct smoe_batch *b = &c->batches[batch];
    uint64_t bytes = (uint64_t)b->tokens * b->top_k * smoe_row_bytes(&c->layers[b->layer]);
    return (struct smoe_verdict){.kind = SMOE_TAKE, .bytes = bytes};
}

/* ---- to the workers ---- */

static uint64_t bytes_of(const struct smoe_core *c, const struct smoe_parcel *p)
{
    return p->rows * smoe_row_bytes(&c->layers[p->layer]) * (p->evicted ? 2 : 1);
}

static bool has_room(const struct smoe_worker *w, uint64_t bytes)
{
    return w->session != SMOE_NO_SESSION &&
           (!w->gradient_bytes || w->gradient_bytes + bytes <= w->inbox_bytes_max);
}

/* Most parcels of one Backprop: so many rows as one raw part may have. */
struct collected {
    uint64_t *ids;
    uint32_t *parcels;
    uint32_t n;
    uint64_t rows;
};

/* Takes the parcels of the batch that are due at this worker, as far as they fit. */
static struct collected collect_due(struct smoe_core *c, uint32_t batch, uint32_t worker)
{
    const struct smoe_batch *b = &c->batches[batch];
    struct smoe_worker *w = &c->fleet.workers[worker];
    uint32_t most = smoe_list_count(&b->parcels, SMOE_DECISION_PARCELS_MAX);
    struct collected got = {smoe_core_list(c, most * sizeof *got.ids), NULL, 0, 0};
    got.parcels = smoe_core_list(c, most * sizeof *got.parcels);
    smoe_list_for_each (it, &b->parcels) {
        struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, batch_link);
        uint32_t index = (uint32_t)(p - c->parcels);
        if (p->worker != worker || !p->backward_due)
            continue;
        if (got.n == most || !has_room(w, bytes_of(c, p)))
            break;
        p->backward_bytes = bytes_of(c, p);
        smoe_parcel_move(c, index, SMOE_VISIT_GRADIENT_QUEUED);
        got.parcels[got.n] = index;
        got.ids[got.n++] = smoe_parcel_wire_id(c, index);
        got.rows += p->rows;
    }
    smoe_core_list_trim(c, got.parcels, got.n * sizeof *got.parcels);
    return got;
}

static void refill(struct smoe_core *c, uint32_t batch);

/* One Backprop for the parcels of the batch that are due at this worker; false if none fits now. */
static bool send_backprop(struct smoe_core *c, uint32_t batch, uint32_t worker)
{
    struct smoe_batch *b = &c->batches[batch];
    struct smoe_worker *w = &c->fleet.workers[worker];
    struct collected got = collect_due(c, batch, worker);
    if (!got.n)
        return false;
    uint64_t flops[SMOE_PHASES] = {0, 2 * got.rows * c->layers[b->layer].forward_flops};
    struct smoe_message *m = smoe_core_send(c, w->session, SMOE_MSG_BACKPROP);
    m->backprop =
        (struct smoe_msg_backprop){got.ids, got.n, smoe_worker_assign(w, flops, c->now_ns)};
    smoe_core_attach(c, SMOE_TENSOR_DY, batch, got.parcels, got.n);
    if (!b->n_backward_due)
        smoe_core_act(c, SMOE_ACT_GRADIENT_FREED, SMOE_NONE)->batch = batch;
    refill(c, batch);
    return true;
}

void smoe_backward_pump(struct smoe_core *c, uint32_t worker)
{
    struct smoe_worker *w = &c->fleet.workers[worker];
    while (w->backward_due && w->session != SMOE_NO_SESSION) {
        uint32_t batch = SMOE_NONE;
        smoe_list_for_each (it, &c->worker_parcels[worker]) {
            const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, worker_link);
            if (!p->backward_due)
                continue;
            batch = p->batch;
            break;
        }
        smoe_assert(batch != SMOE_NONE);
        if (!send_backprop(c, batch, worker))
            return;
    }
}

void smoe_batch_gradient(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_gradient *m)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_why why;
    uint32_t batch;
    if (m->attempt < t->attempt)
        return;
    int rc = gradient_batch(c, trainer, m, &batch, &why);
    if (rc) {
        smoe_core_refuse(c, t->session, rc, why.text, false, m->batch, 0);
        return;
    }
    struct smoe_batch *b = &c->batches[batch];
    b->has_gradient = true;
    smoe_core_act(c, SMOE_ACT_GRADIENT_TAKEN, SMOE_NONE)->batch = batch;
    smoe_list_for_each (it, &b->parcels) {
        struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, batch_link);
        p->backward_due = true;
        c->fleet.workers[p->worker].backward_due++;
        b->n_backward_due++;
    }
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        smoe_backward_pump(c, w);
}

/* ---- rows of x that workers gave up ---- */

static bool starves(const struct smoe_parcel *p)
{
    return p->evicted && p->state == SMOE_VISIT_GRADIENT_QUEUED;
}

/* x for the batch's parcels at this worker that wait for it. */
static void send_inputs(struct smoe_core *c, uint32_t batch, uint32_t worker)
{
    const struct smoe_batch *b = &c->batches[batch];
    uint32_t most = smoe_list_count(&b->parcels, SMOE_DECISION_PARCELS_MAX);
    uint64_t *ids = smoe_core_list(c, most * sizeof *ids);
    uint32_t *parcels = smoe_core_list(c, most * sizeof *parcels);
    uint32_t n = 0;
    smoe_list_for_each (it, &b->parcels) {
        struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, batch_link);
        if (p->worker != worker || !starves(p) || n == most)
            continue;
        p->evicted = false;
        parcels[n] = (uint32_t)(p - c->parcels);
        ids[n++] = smoe_parcel_wire_id(c, (uint32_t)(p - c->parcels));
    }
    smoe_core_list_trim(c, parcels, n * sizeof *parcels);
    struct smoe_message *m =
        smoe_core_send(c, c->fleet.workers[worker].session, SMOE_MSG_PARCEL_INPUTS);
    m->parcel_inputs = (struct smoe_msg_parcel_inputs){ids, n};
    smoe_core_attach(c, SMOE_TENSOR_X, batch, parcels, n);
}

/* Gives the batch's starved parcels their x, or asks the trainer for it first. */
static void refill(struct smoe_core *c, uint32_t batch)
{
    struct smoe_batch *b = &c->batches[batch];
    smoe_list_for_each (it, &b->parcels) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, batch_link);
        if (!starves(p))
            continue;
        if (b->inputs_back) {
            send_inputs(c, batch, p->worker);
        } else if (!b->inputs_asked) {
            b->inputs_asked = true;
            const struct smoe_trainer *t = &c->trainers[b->trainer];
            smoe_core_send(c, t->session, SMOE_MSG_NEED_INPUTS)->need_inputs =
                (struct smoe_msg_need_inputs){b->id, t->attempt};
        }
    }
}

void smoe_backward_evicted(struct smoe_core *c, uint32_t worker, const struct smoe_msg_evicted *m)
{
    for (size_t i = 0; i < m->n_parcels; i++) {
        uint32_t parcel;
        if (!smoe_parcel_by_id(c, worker, m->parcels[i], &parcel))
            continue; /* forgotten meanwhile */
        struct smoe_parcel *p = &c->parcels[parcel];
        bool waits = p->state == SMOE_VISIT_FORWARD_DONE || p->state == SMOE_VISIT_GRADIENT_QUEUED;
        if (!waits || !c->batches[p->batch].training)
            continue;
        p->evicted = true;
        c->totals.evictions++;
        if (p->state == SMOE_VISIT_GRADIENT_QUEUED) /* it crossed the gradient on the way */
            refill(c, p->batch);
    }
}

static bool wants_inputs(const struct smoe_core *c, uint32_t trainer,
                         const struct smoe_msg_inputs *m, uint32_t *ret_batch)
{
    return m->attempt == c->trainers[trainer].attempt &&
           smoe_batch_find(c, trainer, m->batch, ret_batch) &&
           c->batches[*ret_batch].inputs_asked && !c->batches[*ret_batch].inputs_back;
}

struct smoe_verdict smoe_backward_expect_inputs(const struct smoe_core *c, uint32_t trainer,
                                                const struct smoe_msg_inputs *m)
{
    uint32_t batch;
    if (!wants_inputs(c, trainer, m, &batch))
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    const struct smoe_batch *b = &c->batches[batch];
    return (struct smoe_verdict){.kind = SMOE_TAKE,
                                 .bytes = b->tokens * smoe_row_bytes(&c->layers[b->layer])};
}

void smoe_backward_inputs(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_inputs *m)
{
    uint32_t batch;
    if (!wants_inputs(c, trainer, m, &batch))
        return;
    c->batches[batch].inputs_back = true;
    smoe_core_act(c, SMOE_ACT_INPUTS_TAKEN, SMOE_NONE)->batch = batch;
    refill(c, batch);
}

void smoe_backward_settled(struct smoe_core *c, uint32_t batch)
{
    if (c->batches[batch].inputs_back)
        smoe_core_act(c, SMOE_ACT_INPUT_FREED, SMOE_NONE)->batch = batch;
}
