/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's side of the two-phase step.
 *
 *     NONE --StepPrepare--> [SUMS] --> NORM --all norms: StepNorm--> NORMED --StepStage--> STAGING
 *       ^                                                                                     |
 *       +---- StepCommit: flip ---- STAGED <---- all staged: StepStaged ----------------------+
 *
 * SUMS: shards of sharded layers wait for the local sum of every host of their expert (exchange.c).
 * Norms and stages are tasks, one per expert, before any parcel. Copies have no norms to tell: the
 * gradient sum comes from the worker that serves the expert (StepGradient), and they stage as it does,
 * bit for bit. Reset throws a step away at any point before its commit; after StepStaged only the
 * gateway's word decides, over a lost connection too (experts.h, staged_step).
 */
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"

static struct smoe_agent_step *step_of(struct smoe_agent *a, uint32_t owner)
{
    for (size_t i = 0; i < a->n_steps; i++)
        if (a->steps[i].phase != SMOE_AGENT_STEP_NONE && a->steps[i].owner == owner)
            return &a->steps[i];
    return NULL;
}

static struct smoe_agent_step *free_step(struct smoe_agent *a)
{
    for (size_t i = 0; i < a->n_steps; i++)
        if (a->steps[i].phase == SMOE_AGENT_STEP_NONE)
            return &a->steps[i];
    return a->n_steps < SMOE_AGENT_STEPS_MAX ? &a->steps[a->n_steps++] : NULL;
}

/* The step is of no interest any more, whatever it asked for. */
static void cancel(struct smoe_agent *a, struct smoe_agent_step *s)
{
    s->phase = SMOE_AGENT_STEP_NONE;
    for (uint32_t i = 0; i < a->experts.n_experts; i++) {
        struct smoe_held_expert *e = &a->experts.experts[i];
        if (!e->used || e->step != (uint32_t)(s - a->steps))
            continue;
        e->step_task = 0;
        e->step_runs = false;
    }
}

struct smoe_agent_step *smoe_agent_step_with_layer(struct smoe_agent *a, uint32_t layer)
{
    for (size_t i = 0; i < a->n_steps; i++)
        for (size_t l = 0; a->steps[i].phase != SMOE_AGENT_STEP_NONE && l < a->steps[i].n_layers;
             l++)
            if (a->steps[i].layers[l] == layer)
                return &a->steps[i];
    return NULL;
}

void smoe_agent_step_cancel(struct smoe_agent *a, uint32_t layer)
{
    struct smoe_agent_step *s = smoe_agent_step_with_layer(a, layer);
    if (s)
        cancel(a, s);
}

/* Norms are told by those who serve; copies stage if they have the sum. Slots only serve: their shards take part. */
static bool takes_part(const struct smoe_held_expert *e, enum smoe_task_kind kind)
{
    if (e->kind == SMOE_HELD_SLOT)
        return false;
    return !e->copy || (kind == SMOE_TASK_STAGE && e->summed);
}

/* Calls for a task of this kind on the experts of the step's layers. */
static void call_tasks(struct smoe_agent *a, struct smoe_agent_step *s, enum smoe_task_kind kind)
{
    s->n_tasks = 0;
    for (size_t i = 0; i < s->n_layers; i++) {
        const struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, s->layers[i]);
        for (uint32_t e = 0; layer && e < layer->n_entries; e++) {
            if (layer->expert_at[e] == SMOE_NO_EXPERT)
                continue;
            struct smoe_held_expert *expert = &a->experts.experts[layer->expert_at[e]];
            if (!takes_part(expert, kind))
                continue;
            expert->step_task = (uint8_t)(1 + kind);
            expert->step = (uint32_t)(s - a->steps);
            s->n_tasks++;
        }
    }
}

/* ---- NORM ---- */

static void send_norms(struct smoe_agent *a, struct smoe_agent_step *s);

/* The gradient sums that copies elsewhere need. Copied: staging will clear them. */
static int send_gradients(struct smoe_agent *a, const struct smoe_msg_step_prepare *m,
                          const struct smoe_layer_experts *list, struct smoe_why *why)
{
    for (size_t i = 0; i < list->n; i++) {
        uint32_t number = smoe_experts_find(&a->experts, list->layer, list->experts[i]);
        if (number == SMOE_NO_EXPERT || a->experts.experts[number].copy)
            return smoe_fail(why, SMOE_EUNKNOWN,
                             "STEP_PREPARE.gradients: layer %u expert %u is not hosted here",
                             list->layer, list->experts[i]);
        const struct smoe_held_expert *e = &a->experts.experts[number];
        size_t bytes = smoe_experts_state_bytes(&a->experts.layers[e->layer], SMOE_STATE_GRADIENT);
        struct smoe_blob *blob = smoe_blob_new(NULL, bytes);
        if (!blob)
            return smoe_fail(why, SMOE_ENOMEMORY, "STEP_PREPARE: out of memory");
        if (e->clear_wanted) /* what is there is of an attempt that was reset */
            memset(blob->data, 0, bytes);
        else
            smoe_experts_read_gradient(&a->experts, number, m->step, blob->data);
        struct smoe_message out = {.type = SMOE_MSG_STEP_GRADIENT};
        out.step_gradient = (struct smoe_msg_step_gradient){m->step, m->attempt, list->layer,
                                                            list->experts[i], m->owner};
        struct smoe_segment segment = {blob, blob->data, bytes};
        smoe_agent_send(a, &out, &segment, 1);
        smoe_blob_unref(blob);
    }
    return 0;
}

/* The layer's part of StepPrepare.hosts, or NULL. */
static const struct smoe_layer_hosts *hosts_of(const struct smoe_msg_step_prepare *m,
                                               uint32_t layer)
{
    for (size_t i = 0; i < m->n_hosts; i++)
        if (m->hosts[i].layer == layer)
            return &m->hosts[i];
    return NULL;
}

/* Makes room for the local sums of the sharded layers, and counts them. */
static int await_sums(struct smoe_agent *a, struct smoe_agent_step *s,
                      const struct smoe_msg_step_prepare *m, struct smoe_why *why)
{
    for (size_t i = 0; i < s->n_layers; i++) {
        struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, s->layers[i]);
        const struct smoe_layer_hosts *list = hosts_of(m, s->layers[i]);
        uint64_t n = 0;
        if (!layer || !layer->sharded || !layer->layout.elements)
            continue;
        for (size_t e = 0; list && e < list->n; e++)
            n += list->hosts[e];
        uint32_t most = layer->shape.staleness ? 2 * SMOE_LAYER_REPLICAS_MAX : layer->replicas;
        if (!list || list->n != layer->shape.experts || n > most)
            return smoe_fail(
                why, SMOE_EFIELD,
                "STEP_PREPARE.hosts: of layer %u one number an expert, at most %u together",
                s->layers[i], most);
        int rc = smoe_experts_sums_for(&a->experts, layer, (uint32_t)n, why);
        if (rc)
            return rc;
        for (size_t e = 0; e < list->n; e++)
            layer->first_sum[e + 1] = layer->first_sum[e] + list->hosts[e];
        memset(layer->sum_elements, 0, layer->replicas * sizeof *layer->sum_elements);
        s->n_sums += n;
    }
    return 0;
}

static void begin_norms(struct smoe_agent *a, struct smoe_agent_step *s)
{
    s->phase = SMOE_AGENT_STEP_NORM;
    call_tasks(a, s, SMOE_TASK_NORM);
    if (!s->n_tasks)
        send_norms(a, s); /* copies only */
}

void smoe_agent_step_summed(struct smoe_agent *a, struct smoe_agent_step *s)
{
    smoe_assert(s->phase == SMOE_AGENT_STEP_SUMS && s->n_sums);
    if (--s->n_sums == 0)
        begin_norms(a, s);
}

int smoe_agent_step_prepare(struct smoe_agent *a, const struct smoe_msg_step_prepare *m,
                            struct smoe_why *why)
{
    struct smoe_agent_step *s = step_of(a, m->owner);
    for (size_t i = 0; i < m->n_layers && !s; i++) {
        const struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, m->layers[i]);
        if (!layer)
            return smoe_fail(why, SMOE_EUNKNOWN, "STEP_PREPARE: layer %u is not hosted here",
                             m->layers[i]);
        if (layer->shape.optimizer != m->optimizer.kind)
            return smoe_fail(why, SMOE_EFIELD, "STEP_PREPARE.optimizer.kind %u: layer %s has %u",
                             m->optimizer.kind, layer->name, layer->shape.optimizer);
        s = smoe_agent_step_with_layer(a, m->layers[i]);
    }
    if (s)
        return smoe_fail(why, SMOE_ESTATE, "STEP_PREPARE: step %llu is neither done nor reset",
                         (unsigned long long)s->number);
    s = free_step(a);
    if (!s)
        return smoe_fail(why, SMOE_ELIMIT, "STEP_PREPARE: %d steps are being made already",
                         SMOE_AGENT_STEPS_MAX);
    *s = (struct smoe_agent_step){
        .phase = SMOE_AGENT_STEP_SUMS,
        .owner = m->owner,
        .number = m->step,
        .attempt = m->attempt,
        .n_layers = m->n_layers,
        .divisor = m->gradient_divisor,
        .optimizer = m->optimizer,
    };
    for (size_t i = 0; i < m->n_layers; i++)
        s->layers[i] = m->layers[i];
    int rc = await_sums(a, s, m, why);
    for (size_t i = 0; i < m->n_gradients && !rc; i++)
        rc = send_gradients(a, m, &m->gradients[i], why);
    if (rc)
        s->phase = SMOE_AGENT_STEP_NONE; /* the connection ends, but not at once */
    else if (s->n_sums == 0)
        begin_norms(a, s);
    return rc;
}

bool smoe_agent_step_wants(struct smoe_agent *a, const struct smoe_msg_step_gradient *m)
{
    const struct smoe_agent_step *s = step_of(a, m->owner);
    uint32_t expert = smoe_experts_find(&a->experts, m->layer, m->expert);
    return s && s->number == m->step && s->attempt == m->attempt &&
           s->phase <= SMOE_AGENT_STEP_NORMED && expert != SMOE_NO_EXPERT &&
           a->experts.experts[expert].copy;
}

/* Square norm of what is owned of the layer, -1 if that of any expert is not finite. */
static double shards_norm(const struct smoe_agent *a, const struct smoe_held_layer *layer)
{
    double sum = 0;
    for (uint32_t e = layer->shape.experts; e < layer->n_entries; e++) {
        if (layer->expert_at[e] == SMOE_NO_EXPERT)
            continue;
        if (a->experts.experts[layer->expert_at[e]].square_norm < 0)
            return -1;
        sum += a->experts.experts[layer->expert_at[e]].square_norm;
    }
    return sum <= SMOE_SQUARE_NORM_MAX ? sum : -1;
}

static void send_norms(struct smoe_agent *a, struct smoe_agent_step *s)
{
    double shards = 0;
    s->phase = SMOE_AGENT_STEP_NORMED;
    struct smoe_layer_norms layers[SMOE_LAYERS_MAX];
    size_t most = s->n_layers * SMOE_EXPERTS_MAX, listed = 0;
    uint32_t *experts = malloc(most * sizeof *experts);
    double *norms = malloc(most * sizeof *norms);
    for (size_t i = 0; experts && norms && i < s->n_layers; i++) {
        const struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, s->layers[i]);
        layers[i] = (struct smoe_layer_norms){s->layers[i], experts + listed, norms + listed, 0};
        double of_layer = layer ? shards_norm(a, layer) : 0;
        shards = of_layer < 0 || shards < 0 ? -1 : shards + of_layer;
        for (uint32_t e = 0; layer && e < layer->shape.experts; e++) {
            if (layer->sharded || layer->expert_at[e] == SMOE_NO_EXPERT ||
                a->experts.experts[layer->expert_at[e]].copy)
                continue;
            experts[listed] = e;
            norms[listed++] = a->experts.experts[layer->expert_at[e]].square_norm;
            layers[i].n++;
        }
    }
    struct smoe_message m = {.type = SMOE_MSG_STEP_NORM};
    m.step_norm = (struct smoe_msg_step_norm){
        s->number,   s->attempt, layers,
        s->n_layers, s->owner,   shards <= SMOE_SQUARE_NORM_MAX ? shards : -1};
    if (experts && norms)
        smoe_agent_send(a, &m, NULL, 0);
    else
        a->speechless = true;
    free(experts);
    free(norms);
}

/* ---- STAGE ---- */

/* All that is held of the step's layers is staged: that outlives the connection. */
static void send_staged(struct smoe_agent *a, struct smoe_agent_step *s)
{
    s->phase = SMOE_AGENT_STEP_STAGED;
    for (size_t i = 0; i < s->n_layers; i++) {
        struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, s->layers[i]);
        if (!layer)
            continue;
        layer->staged_step = s->number;
        layer->staged_attempt = s->attempt;
    }
    struct smoe_message m = {.type = SMOE_MSG_STEP_STAGED};
    m.step_staged = (struct smoe_msg_step_staged){s->number, s->attempt, s->owner};
    smoe_agent_send(a, &m, NULL, 0);
}

int smoe_agent_step_stage(struct smoe_agent *a, const struct smoe_msg_step_stage *m,
                          struct smoe_why *why)
{
    struct smoe_agent_step *s = step_of(a, m->owner);
    if (!s || s->number != m->step || s->attempt != m->attempt)
        return 0; /* of an attempt that was reset */
    if (s->phase != SMOE_AGENT_STEP_NORMED)
        return smoe_fail(why, SMOE_ESTATE, "STEP_STAGE: step %llu has no norms yet",
                         (unsigned long long)m->step);
    s->phase = SMOE_AGENT_STEP_STAGING;
    s->clip_scale = m->clip_scale;
    call_tasks(a, s, SMOE_TASK_STAGE);
    if (!s->n_tasks)
        send_staged(a, s);
    return 0;
}

/* ---- tasks ---- */

static void fill_task(struct smoe_agent *a, uint32_t number, struct smoe_task *task)
{
    struct smoe_held_expert *e = &a->experts.experts[number];
    const struct smoe_agent_step *s = &a->steps[e->step];
    const struct smoe_step_optimizer *o = &s->optimizer;
    task->kind = (enum smoe_task_kind)(e->step_task - 1);
    task->expert = number;
    task->shape = a->experts.layers[e->layer].ffn;
    task->n_params = task->n_norm = e->n_params;
    task->gradient = smoe_experts_gradient(&a->experts, number, s->number);
    task->divisor = s->divisor;
    task->now = e->now;
    task->staged = e->staged;
    task->optimizer = (struct smoe_optimizer){
        .kind = (enum smoe_optimizer_kind)o->kind,
        .learning_rate = o->learning_rate,
        .momentum = o->momentum,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .epsilon = o->epsilon,
        .weight_decay = o->weight_decay,
        .gradient_scale = s->clip_scale / s->divisor,
        .t = s->number,
    };
    if (e->kind != SMOE_HELD_SHARD)
        return;
    const struct smoe_held_layer *layer = &a->experts.layers[e->layer];
    task->n_norm = layer->layout.elements_owned;
    task->n_sums = layer->first_sum[e->index + 1] - layer->first_sum[e->index];
    task->sums = layer->sums + layer->first_sum[e->index] * e->n_params;
    e->reads = task->n_sums ? smoe_blob_ref(layer->sums_blob) : NULL;
}

bool smoe_agent_start_step(struct smoe_agent *a, struct smoe_task *task)
{
    if (!smoe_agent_steps_compute(a))
        return false;
    for (uint32_t i = 0; i < a->experts.n_experts; i++) {
        struct smoe_held_expert *e = &a->experts.experts[i];
        if (!e->used || !e->step_task || e->busy || e->make_due)
            continue;
        fill_task(a, i, task);
        e->step_task = 0;
        e->step_runs = true;
        return true;
    }
    return false;
}

bool smoe_agent_steps_compute(const struct smoe_agent *a)
{
    for (size_t i = 0; i < a->n_steps; i++)
        if (a->steps[i].phase != SMOE_AGENT_STEP_NONE && a->steps[i].n_tasks)
            return true;
    return false;
}

void smoe_agent_finish_step(struct smoe_agent *a, struct smoe_task *task)
{
    struct smoe_held_expert *e = &a->experts.experts[task->expert];
    if (!e->used || !e->step_runs)
        return; /* reset or dropped meanwhile */
    struct smoe_agent_step *s = &a->steps[e->step];
    e->step_runs = false;
    if (task->kind == SMOE_TASK_NORM)
        e->square_norm = task->square_norm;
    else
        e->has_staged = true;
    if (--s->n_tasks)
        return;
    if (s->phase == SMOE_AGENT_STEP_NORM)
        send_norms(a, s);
    else
        send_staged(a, s);
}

/* ---- the end ---- */

void smoe_agent_step_commit(struct smoe_agent *a, const struct smoe_msg_step_commit *m)
{
    struct smoe_agent_step *s = step_of(a, m->owner);
    if (!s || s->number != m->step || s->attempt != m->attempt ||
        s->phase != SMOE_AGENT_STEP_STAGED)
        return;
    a->epoch = m->epoch > a->epoch ? m->epoch : a->epoch;
    for (size_t i = 0; i < s->n_layers; i++) {
        struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, s->layers[i]);
        if (!layer)
            continue;
        smoe_experts_commit(&a->experts, layer, m->step);
        smoe_experts_begin_again(&a->experts, layer, m->step);
    }
    s->phase = SMOE_AGENT_STEP_NONE;
}

void smoe_agent_reset(struct smoe_agent *a, const struct smoe_msg_reset *m)
{
    for (size_t i = 0; i < m->n_layers; i++) {
        struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, m->layers[i]);
        if (!layer)
            continue;
        smoe_agent_step_cancel(a, m->layers[i]);
        smoe_experts_unstage(&a->experts, layer);
        for (uint32_t e = 0; e < layer->n_entries; e++) {
            if (layer->expert_at[e] == SMOE_NO_EXPERT)
                continue;
            smoe_agent_forget_all(a, layer->expert_at[e], true);
            smoe_experts_clear(&a->experts, layer->expert_at[e]);
        }
    }
}
