/* SPDX-License-Identifier: Apache-2.0
 *
 * Parcels at the worker.
 *
 *     FORWARD_QUEUED -> FORWARD_RUNS -> KEPT -> BACKWARD_QUEUED -> BACKWARD_RUNS -> gone
 *                            |            \-> STARVED -/ (x was given up, and comes again)
 *                            \-> gone, if no gradient will follow
 *
 * Order: within an expert first come, first served; backward before forward, since a backward pass
 * frees memory and a trainer waits for it. x lies in the Decision's blob, which lives as long as any
 * of its parcels needs it. What a forward pass saves for its backward is kept if memory allows; if
 * not, the backward pass computes it again. What is kept gives way when memory is short (memory.c).
 *
 * Of a layer with staleness a parcel names the step that will commit it, which decides in which sum its gradient is
 * gathered, and belongs to the weights that were in force when its trainer submitted it, or that replaced them: by
 * those it is computed forward and backward, though a step be committed in between (experts.h).
 *
 * A parcel that is forgotten while its task runs is only marked; its result is thrown away when the
 * task ends. What it then added to the gradient sum is thrown away too, since the Reset that makes
 * training parcels forgotten also clears the sums (experts.c).
 */
#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"

static struct smoe_held_layer *layer_of(const struct smoe_agent *a, uint32_t expert)
{
    return &a->experts.layers[a->experts.experts[expert].layer];
}

size_t smoe_agent_row_bytes(const struct smoe_agent *a, uint32_t expert)
{
    return layer_of(a, expert)->ffn.d_model * sizeof(smoe_real);
}

struct smoe_agent_parcel *smoe_agent_parcel(struct smoe_agent *a, uint64_t id)
{
    uint32_t i;
    return smoe_map_get(&a->parcel_by_id, id, &i) ? &a->parcels[i] : NULL;
}

static void release(struct smoe_agent *a, struct smoe_agent_parcel *p)
{
    if (!p->forgotten)
        smoe_map_remove(&a->parcel_by_id, p->id);
    smoe_list_remove(&p->link);
    struct smoe_blob *blobs[] = {p->x_blob, p->dy_blob, p->saved, p->out};
    for (size_t i = 0; i < sizeof blobs / sizeof *blobs; i++)
        smoe_blob_unref(blobs[i]);
    *p = (struct smoe_agent_parcel){.state = SMOE_PARCEL_FREE};
    a->parcel_free[a->n_parcel_free++] = (uint32_t)(p - a->parcels);
}

/* ---- Decision ---- */

/* Not a copy, nor a slot whose weights have not come. */
static bool serves(const struct smoe_agent *a, uint32_t expert, bool older)
{
    const struct smoe_held_expert *e = &a->experts.experts[expert];
    if (e->kind == SMOE_HELD_SLOT)
        return smoe_experts_slot_has(&a->experts, expert, older);
    return !e->copy;
}

int smoe_agent_decision_bytes(struct smoe_agent *a, const struct smoe_msg_decision *m,
                              uint64_t *ret_bytes, struct smoe_why *why)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->n_parcels; i++) {
        const struct smoe_parcel_head *head = &m->parcels[i];
        uint32_t expert = smoe_experts_find(&a->experts, head->layer, head->expert);
        if (expert == SMOE_NO_EXPERT || !serves(a, expert, head->older))
            return smoe_fail(why, SMOE_EUNKNOWN, "DECISION: layer %u expert %u is not hosted here",
                             head->layer, head->expert);
        bytes += head->rows * smoe_agent_row_bytes(a, expert);
    }
    *ret_bytes = bytes;
    return 0;
}

static int accept_parcel(struct smoe_agent *a, const struct smoe_parcel_head *head,
                         struct smoe_blob *blob, size_t *offset, struct smoe_why *why)
{
    uint32_t expert = smoe_experts_find(&a->experts, head->layer, head->expert);
    if (expert == SMOE_NO_EXPERT)
        return smoe_fail(why, SMOE_EUNKNOWN, "DECISION: layer %u expert %u is not hosted here",
                         head->layer, head->expert);
    if (smoe_agent_parcel(a, head->id))
        return smoe_fail(why, SMOE_EEXIST, "DECISION: parcel %llu came twice",
                         (unsigned long long)head->id);
    if (!a->n_parcel_free)
        return smoe_fail(why, SMOE_ELIMIT, "DECISION: %u parcels are held already", a->parcels_max);
    uint32_t index = a->parcel_free[--a->n_parcel_free];
    struct smoe_agent_parcel *p = &a->parcels[index];
    *p = (struct smoe_agent_parcel){
        .state = SMOE_PARCEL_FORWARD_QUEUED,
        .keep = head->keep,
        .id = head->id,
        .expert = expert,
        .serial = a->experts.experts[expert].serial,
        .rows = head->rows,
        .step = head->keep ? head->step : 0,
        .base = layer_of(a, expert)->step - (head->older ? 1 : 0),
        .forward_flops = head->rows * layer_of(a, expert)->forward_flops,
        .x_blob = smoe_blob_ref(blob),
        .x = (const smoe_real *)(const void *)(blob->data + *offset),
    };
    *offset += head->rows * smoe_agent_row_bytes(a, expert);
    smoe_assert(smoe_map_put(&a->parcel_by_id, p->id, index));
    smoe_list_push_back(&a->forward_queue, &p->link);
    return 0;
}

int smoe_agent_decision(struct smoe_agent *a, const struct smoe_msg_decision *m,
                        struct smoe_blob *blob, struct smoe_why *why)
{
    if (m->epoch < a->epoch)
        return smoe_fail(why, SMOE_ESTATE, "DECISION: epoch %llu is older than %llu",
                         (unsigned long long)m->epoch, (unsigned long long)a->epoch);
    if (m->n_parcels && !blob)
        return smoe_fail(why, SMOE_EMALFORMED, "DECISION: %zu parcels without a raw part",
                         m->n_parcels);
    a->epoch = m->epoch;
    a->counters.sequence = m->sequence;
    if (m->freq_khz)
        a->freq_wanted_khz = m->freq_khz;
    size_t offset = 0;
    for (size_t i = 0; i < m->n_parcels; i++) {
        int rc = accept_parcel(a, &m->parcels[i], blob, &offset, why);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- Backprop ---- */

/* The parcel may be at any point of its forward pass only as KEPT: the gateway has its result. */
static int check_backprop(struct smoe_agent *a, uint64_t id, struct smoe_agent_parcel **ret,
                          struct smoe_why *why)
{
    struct smoe_agent_parcel *p = smoe_agent_parcel(a, id);
    if (!p || p->state != SMOE_PARCEL_KEPT)
        return smoe_fail(why, SMOE_EUNKNOWN, "BACKPROP: parcel %llu does not wait for a gradient",
                         (unsigned long long)id);
    *ret = p;
    return 0;
}

int smoe_agent_backprop_bytes(struct smoe_agent *a, const struct smoe_msg_backprop *m,
                              uint64_t *ret_bytes, struct smoe_why *why)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->n_parcels; i++) {
        struct smoe_agent_parcel *p = NULL;
        int rc = check_backprop(a, m->parcels[i], &p, why);
        if (rc)
            return rc;
        bytes += p->rows * smoe_agent_row_bytes(a, p->expert);
    }
    *ret_bytes = bytes;
    return 0;
}

int smoe_agent_backprop(struct smoe_agent *a, const struct smoe_msg_backprop *m,
                        struct smoe_blob *blob, struct smoe_why *why)
{
    size_t offset = 0;
    a->counters.sequence = m->sequence;
    for (size_t i = 0; i < m->n_parcels; i++) {
        struct smoe_agent_parcel *p = NULL;
        int rc = check_backprop(a, m->parcels[i], &p, why);
        if (rc)
            return rc;
        p->dy_blob = smoe_blob_ref(blob);
        p->dy = (const smoe_real *)(const void *)(blob->data + offset);
        offset += p->rows * smoe_agent_row_bytes(a, p->expert);
        p->state = p->x ? SMOE_PARCEL_BACKWARD_QUEUED : SMOE_PARCEL_STARVED;
        smoe_list_remove(&p->link);
        smoe_list_push_back(p->x ? &a->backward_queue : &a->starved, &p->link);
    }
    return 0;
}

/* ---- forgetting ---- */

static void forget_parcel(struct smoe_agent *a, struct smoe_agent_parcel *p)
{
    bool runs = p->state == SMOE_PARCEL_FORWARD_RUNS || p->state == SMOE_PARCEL_BACKWARD_RUNS;
    if (!runs) {
        release(a, p);
    } else if (!p->forgotten) {
        p->forgotten = true;
        smoe_map_remove(&a->parcel_by_id, p->id);
    }
}

void smoe_agent_forget(struct smoe_agent *a, uint64_t id)
{
    struct smoe_agent_parcel *p = smoe_agent_parcel(a, id);
    if (p)
        forget_parcel(a, p);
}

enum { LISTS = 5 };

static void lists_of(struct smoe_agent *a, struct smoe_list *ret[LISTS])
{
    ret[0] = &a->forward_queue;
    ret[1] = &a->backward_queue;
    ret[2] = &a->kept;
    ret[3] = &a->running;
    ret[4] = &a->starved;
}

void smoe_agent_forget_all(struct smoe_agent *a, uint32_t expert, bool kept_only)
{
    struct smoe_list *lists[LISTS];
    lists_of(a, lists);
    for (size_t i = 0; i < LISTS; i++) {
        smoe_list_for_each_safe (it, lists[i]) {
            struct smoe_agent_parcel *p = smoe_container_of(it, struct smoe_agent_parcel, link);
            if ((expert == SMOE_NO_EXPERT || p->expert == expert) && (p->keep || !kept_only))
                forget_parcel(a, p);
        }
    }
}

void smoe_agent_forget_dropped(struct smoe_agent *a)
{
    struct smoe_list *lists[LISTS];
    lists_of(a, lists);
    for (size_t i = 0; i < LISTS; i++) {
        smoe_list_for_each_safe (it, lists[i]) {
            struct smoe_agent_parcel *p = smoe_container_of(it, struct smoe_agent_parcel, link);
            if (!smoe_experts_same(&a->experts, p->expert, p->serial))
                forget_parcel(a, p);
        }
    }
}

void smoe_agent_drop_running(struct smoe_agent *a)
{
    smoe_list_for_each_safe (it, &a->running)
        release(a, smoe_container_of(it, struct smoe_agent_parcel, link));
}

/* ---- tasks ---- */

/* Memory for a task's result (and what it saves); false if the budget does not allow it now. */
static bool take_memory(struct smoe_agent *a, struct smoe_agent_parcel *p, bool forward)
{
    size_t result = p->rows * smoe_agent_row_bytes(a, p->expert);
    smoe_agent_make_room(a, result);
    p->out = smoe_blob_new(&a->budget, result);
    if (!p->out)
        return false;
    if (forward && p->keep) {
        size_t bytes =
            p->rows * sizeof(smoe_real) * smoe_ffn_saved_per_row(&layer_of(a, p->expert)->ffn);
        if (a->budget.used_bytes + bytes <= a->budget.max_bytes / 4 * 3) /* results need room too */
            p->saved = smoe_blob_new(&a->budget, bytes);
    }
    return true;
}

static smoe_real *reals(struct smoe_blob *blob)
{
    return blob ? (smoe_real *)(void *)blob->data : NULL;
}

static void fill_task(struct smoe_agent *a, struct smoe_agent_parcel *p, bool forward,
                      struct smoe_task *task)
{
    const struct smoe_held_expert *e = &a->experts.experts[p->expert];
    task->kind = forward ? SMOE_TASK_FORWARD : SMOE_TASK_BACKWARD;
    task->expert = p->expert;
    task->parcel = (uint32_t)(p - a->parcels);
    task->shape = layer_of(a, p->expert)->ffn;
    task->rows = p->rows;
    task->x = p->x;
    task->dy = p->dy;
    task->out = reals(p->out);
    task->saved = reals(p->saved);
    task->gradient = smoe_experts_gradient(&a->experts, p->expert, p->step);
    task->now = e->now;
    if (p->step)
        task->now.weights = smoe_experts_weights(&a->experts, p->expert, p->base);
}

static bool start_from(struct smoe_agent *a, struct smoe_list *queue, bool forward,
                       struct smoe_task *task)
{
    smoe_list_for_each (it, queue) {
        struct smoe_agent_parcel *p = smoe_container_of(it, struct smoe_agent_parcel, link);
        if (a->experts.experts[p->expert].busy || a->experts.experts[p->expert].make_due)
            continue;
        if (!take_memory(a, p, forward))
            return false; /* results leave, memory comes back */
        fill_task(a, p, forward, task);
        p->state = forward ? SMOE_PARCEL_FORWARD_RUNS : SMOE_PARCEL_BACKWARD_RUNS;
        smoe_list_remove(&p->link);
        smoe_list_push_back(&a->running, &p->link);
        return true;
    }
    return false;
}

bool smoe_agent_start_parcel(struct smoe_agent *a, struct smoe_task *task)
{
    return start_from(a, &a->backward_queue, false, task) ||
           start_from(a, &a->forward_queue, true, task);
}

static void send_result(struct smoe_agent *a, struct smoe_agent_parcel *p, bool forward)
{
    struct smoe_message m = {.type = forward ? SMOE_MSG_OUTPUT : SMOE_MSG_PARCEL_GRADIENT};
    if (forward)
        m.output.parcel = p->id;
    else
        m.parcel_gradient.parcel = p->id;
    struct smoe_segment segment = {p->out, p->out->data, p->out->bytes};
    smoe_agent_send(a, &m, &segment, 1);
}

void smoe_agent_finish_parcel(struct smoe_agent *a, struct smoe_task *task)
{
    struct smoe_agent_parcel *p = &a->parcels[task->parcel];
    bool forward = task->kind == SMOE_TASK_FORWARD;
    if (forward) {
        a->counters.forward_visits += p->rows;
        a->counters.forward_flops += p->forward_flops;
        a->counters.forward_row_flops += p->forward_flops / p->rows;
    } else {
        a->counters.backward_visits += p->rows;
        a->counters.backward_flops += 2 * p->forward_flops;
        a->counters.backward_row_flops += 2 * p->forward_flops / p->rows;
    }
    if (p->forgotten) {
        release(a, p);
        return;
    }
    send_result(a, p, forward);
    if (!forward || !p->keep) {
        release(a, p);
        return;
    }
    smoe_blob_unref(p->out);
    p->out = NULL;
    p->state = SMOE_PARCEL_KEPT;
    smoe_list_remove(&p->link);
    smoe_list_push_back(&a->kept, &p->link);
}

/* ---- queues ---- */

static uint64_t flops_in(const struct smoe_list *queue, uint64_t times)
{
    uint64_t flops = 0;
    smoe_list_for_each (it, queue)
        flops += smoe_container_of(it, struct smoe_agent_parcel, link)->forward_flops * times;
    return flops;
}

void smoe_agent_queued(const struct smoe_agent *a, uint64_t *ret_forward, uint64_t *ret_backward)
{
    *ret_forward = flops_in(&a->forward_queue, 1);
    *ret_backward = flops_in(&a->backward_queue, 2);
    for (uint32_t i = 0; i < a->options.lanes; i++) {
        struct smoe_task *t = &a->tasks[i];
        if (!a->lane_used[i] || t->kind > SMOE_TASK_BACKWARD || a->parcels[t->parcel].forgotten)
            continue;
        uint64_t left = t->rows - atomic_load_explicit(&t->rows_done, memory_order_relaxed);
        uint64_t per_row = smoe_task_forward_flops(&t->shape);
        *(t->kind == SMOE_TASK_FORWARD ? ret_forward : ret_backward) +=
            left * per_row * (t->kind == SMOE_TASK_FORWARD ? 1 : 2);
    }
}

uint64_t smoe_agent_kept_bytes(const struct smoe_agent *a)
{
    uint64_t bytes = 0;
    smoe_list_for_each (it, &a->kept) {
        const struct smoe_agent_parcel *p = smoe_container_of(it, struct smoe_agent_parcel, link);
        bytes += p->x ? p->rows * smoe_agent_row_bytes(a, p->expert) : 0;
        bytes += p->saved ? p->saved->bytes : 0;
    }
    return bytes;
}

#define STEP_FLOPS 32 /* an optimizer step's, per parameter, about */

uint64_t smoe_agent_waiting_flops(const struct smoe_agent *a)
{
    uint64_t flops = flops_in(&a->forward_queue, 1) + flops_in(&a->backward_queue, 2) +
                     smoe_agent_making_flops(a);
    for (uint32_t i = 0; i < a->experts.n_experts; i++) {
        const struct smoe_held_expert *e = &a->experts.experts[i];
        if (e->used && e->step_task && !e->busy)
            flops += e->n_params * STEP_FLOPS;
    }
    return flops;
}

bool smoe_agent_has_work(const struct smoe_agent *a)
{
    if (a->experts.n_to_make || !smoe_list_empty(&a->forward_queue) ||
        !smoe_list_empty(&a->backward_queue) || smoe_agent_steps_compute(a))
        return true;
    for (uint32_t i = 0; i < a->options.lanes; i++)
        if (a->lane_used[i])
            return true;
    return false;
}
