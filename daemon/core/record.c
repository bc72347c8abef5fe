/* SPDX-License-Identifier: Apache-2.0
 *
 * What must survive the daemon, as records for its journal: every layer with where its experts stand,
 * and every commit. Standings are hints about whom to wait for after a restart; what decides is the step
 * (and attempt) that a worker's own inventory names, so they may be journalled late. A commit may not:
 * nobody hears of it before its record is durable (step.c).
 */
#include <stdio.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/sharded.h"

static struct smoe_record *emit(struct smoe_core *c, enum smoe_record_type type)
{
    smoe_assert(c->n_records < c->records_max);
    struct smoe_record *r = &c->records[c->n_records++];
    *r = (struct smoe_record){.type = type, .sequence = ++c->journal_sequence};
    smoe_core_act(c, SMOE_ACT_JOURNAL, SMOE_NO_SESSION)->record = r;
    return r;
}

void smoe_journal_name(const struct smoe_core *c, uint32_t worker, smoe_name ret)
{
    snprintf(ret, sizeof(smoe_name), "%s", worker == SMOE_NONE ? "" : c->fleet.workers[worker].id);
}

/* A record behind that of a commit must not take the layer back before it. */
static void fill(const struct smoe_core *c, const struct smoe_layer *layer,
                 struct smoe_journal_layer *to)
{
    const struct smoe_step *next = smoe_step_committing(c, layer);
    memcpy(to->name, layer->name, sizeof to->name);
    memcpy(to->owner, layer->owner_name, sizeof to->owner);
    to->run = layer->run;
    to->shape = layer->shape;
    to->learned = layer->learned || next;
    to->copies = layer->copies;
    to->step = next ? next->number : layer->step;
    to->attempt = next ? next->attempt : layer->attempt;
    to->done = next ? next->done : layer->done;
}

void smoe_journal_flush(struct smoe_core *c)
{
    for (uint32_t l = 0; c->options.journal && c->journal_due && l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_layer *layer = &c->layers[l];
        if (!(c->journal_due >> l & 1))
            continue;
        smoe_assert(layer->state != SMOE_LAYER_FREE); /* smoe_journal_drop takes its bit */
        c->journal_due &= ~(UINT64_C(1) << l);
        struct smoe_record *r = emit(c, SMOE_RECORD_LAYER);
        struct smoe_standing *standings = &c->standings[(size_t)l * SMOE_EXPERTS_MAX];
        fill(c, layer, &r->layer);
        if (layer->sharded) {
            smoe_sharded_record(c, l, r);
            continue;
        }
        for (uint32_t e = 0; e < layer->shape.experts; e++) {
            const struct smoe_expert_view *x = &layer->experts[e];
            smoe_journal_name(c, x->worker, standings[e].host);
            smoe_journal_name(c, x->follower, standings[e].follower);
        }
        r->standings = standings;
    }
}

void smoe_journal_drop(struct smoe_core *c, uint32_t l)
{
    c->journal_due &= ~(UINT64_C(1) << l);
    if (!c->options.journal)
        return;
    struct smoe_record *r = emit(c, SMOE_RECORD_DROP);
    memcpy(r->layer.name, c->layers[l].name, sizeof r->layer.name);
}

uint64_t smoe_journal_router(struct smoe_core *c, uint32_t l, const struct smoe_frozen_head *head,
                             const float *values)
{
    if (!c->options.journal)
        return 0;
    smoe_journal_flush(c); /* a layer must be there before its router */
    struct smoe_record *r = emit(c, SMOE_RECORD_ROUTER);
    fill(c, &c->layers[l], &r->layer);
    r->router = *head;
    r->values = values;
    return r->sequence;
}

uint64_t smoe_journal_commit(struct smoe_core *c, uint32_t trainer)
{
    const struct smoe_trainer *t = &c->trainers[trainer];
    smoe_journal_flush(c); /* a layer must be there before its commit */
    struct smoe_record *r = emit(c, SMOE_RECORD_COMMIT);
    r->layer.step = t->step.number;
    r->layer.attempt = t->step.attempt;
    r->layer.done = t->step.done;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (t->step.layers >> l & 1)
            memcpy(r->layers[r->n_layers++], c->layers[l].name, sizeof(smoe_name));
    return r->sequence;
}

/* ---- after a restart ---- */

int smoe_journal_expect(struct smoe_core *c, const smoe_name name, uint32_t *ret,
                        struct smoe_why *why)
{
    *ret = *name ? smoe_fleet_expect(&c->fleet, name, c->now_ns) : SMOE_NONE;
    if (*name && *ret == SMOE_NO_WORKER)
        return smoe_fail(why, SMOE_ECONFIG,
                         "workers_max %u: the journal names more workers, %s among them",
                         c->options.limits.workers_max, name);
    return 0;
}

static int restore_layer(struct smoe_core *c, const struct smoe_restored_layer *from,
                         struct smoe_why *why)
{
    const struct smoe_journal_layer *j = &from->layer;
    int rc = 0;
    uint32_t l = smoe_layer_new(c, j->name, j->run, &j->shape);
    if (l == SMOE_NONE)
        return smoe_fail(why, SMOE_EDATA, "the journal holds more than %d layers", SMOE_LAYERS_MAX);
    struct smoe_layer *layer = &c->layers[l];
    layer->sharded = NULL; /* it is as it was, whatever new ones are */
    if (j->sharded)
        smoe_sharded_begin(c, l);
    layer->learned = j->learned;
    layer->copies = j->copies;
    layer->step = j->step;
    layer->attempt = j->attempt;
    layer->done = j->done;
    layer->router.in_force = from->router;
    memcpy(layer->owner_name, j->owner, sizeof layer->owner_name);
    layer->owner_until_ns = c->now_ns + c->options.settings.trainer_lease_ns;
    if (j->sharded)
        return smoe_sharded_restore(c, l, from, why);
    for (uint32_t e = 0; e < j->shape.experts && !rc; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        rc = smoe_journal_expect(c, from->standings[e].host, &x->worker, why);
        if (rc == 0)
            rc = smoe_journal_expect(c, from->standings[e].follower, &x->follower, why);
    }
    return rc;
}

int smoe_journal_restore(struct smoe_core *c, const struct smoe_restored *restored,
                         struct smoe_why *why)
{
    int rc = 0;
    for (size_t i = 0; i < restored->n_layers && !rc; i++)
        rc = restore_layer(c, &restored->layers[i], why);
    if (restored->n_layers)
        c->settle_ns = c->now_ns + c->options.settings.silence_ns;
    return rc;
}
