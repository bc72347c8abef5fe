/* SPDX-License-Identifier: Apache-2.0
 *
 * Routers that are frozen (StableMoE, stage 2; DESIGN section 6): from Freeze to force.
 *
 *     Freeze --journal--> durable --> in force, RouterState        the same again: RouterState again
 *
 * A trainer that has heard RouterState may count on that router whatever happens to the daemon, so it is in
 * force only when it is durable. Versions rise: while a router is in force no other can have its number, and
 * a Submit names the one it means, by number and digest, so that tokens are never scored by another one than
 * their trainer knows. Invariant: `next` is set exactly while its record is on its way to the disk.
 */
#include "daemon/core/freezing.h"

#include <string.h>

#include "daemon/core/core_state.h"

static bool same_head(const struct smoe_frozen_head *a, const struct smoe_frozen_head *b)
{
    return a->version == b->version && a->kind == b->kind && a->inputs == b->inputs &&
           a->digest == b->digest;
}

int smoe_freezing_check(const struct smoe_core *c, const struct smoe_msg_submit *m,
                        struct smoe_why *why)
{
    const struct smoe_layer *layer = &c->layers[m->layer];
    const struct smoe_frozen_head *head = &layer->router.in_force;
    uint32_t experts = layer->shape.experts;
    if (m->router_version == head->version && m->router_digest == head->digest)
        return smoe_frozen_bearable(head, experts, m->tokens)
                   ? 0
                   : smoe_fail(why, SMOE_ELIMIT,
                               "SUBMIT: %u tokens of %u features for %u experts are more than %llu "
                               "products: submit fewer tokens at a time",
                               m->tokens, head->inputs, experts,
                               (unsigned long long)SMOE_FROZEN_WORK_MAX);
    if (!head->version)
        return smoe_fail(
            why, SMOE_EUNKNOWN,
            "SUBMIT.router_version %llu (digest %016llx): layer %s has no frozen router",
            (unsigned long long)m->router_version, (unsigned long long)m->router_digest,
            layer->name);
    return smoe_fail(why, SMOE_EUNKNOWN,
                     "SUBMIT.router_version %llu (digest %016llx): layer %s has version %llu "
                     "(digest %016llx) in force",
                     (unsigned long long)m->router_version, (unsigned long long)m->router_digest,
                     layer->name, (unsigned long long)head->version,
                     (unsigned long long)head->digest);
}

/* ---- Freeze ---- */

/* May this router follow those the layer has? */
static int check_succession(const struct smoe_layer *layer, const struct smoe_frozen_head *head,
                            struct smoe_why *why)
{
    const struct smoe_freezing *f = &layer->router;
    if (same_head(head, &f->in_force) || same_head(head, &f->next))
        return 0;
    if (f->next.version)
        return smoe_fail(
            why, SMOE_ESTATE, "FREEZE.router version %llu: layer %s: version %llu is being written",
            (unsigned long long)head->version, layer->name, (unsigned long long)f->next.version);
    if (head->version > f->in_force.version)
        return 0;
    return smoe_fail(why, SMOE_EEXIST,
                     "FREEZE.router version %llu (digest %016llx): layer %s has version %llu "
                     "(digest %016llx) in force, the next must have a higher one",
                     (unsigned long long)head->version, (unsigned long long)head->digest,
                     layer->name, (unsigned long long)f->in_force.version,
                     (unsigned long long)f->in_force.digest);
}

struct smoe_verdict smoe_freezing_expect(const struct smoe_core *c, uint32_t trainer,
                                         const struct smoe_msg_freeze *m, struct smoe_why *why)
{
    const struct smoe_layer *layer = &c->layers[m->layer];
    uint32_t experts = layer->shape.experts, inputs = m->router.inputs;
    int rc = 0;
    if (c->draining)
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    if (!(c->trainers[trainer].attached >> m->layer & 1))
        rc = smoe_fail(why, SMOE_EUNKNOWN, "FREEZE.layer %u: not declared by you", m->layer);
    else if (layer->owner != trainer)
        rc = smoe_fail(why, SMOE_EROLE, "FREEZE: layer %s is attached for evaluation only",
                       layer->name);
    else if (smoe_frozen_shape(m->router.kind, inputs, experts))
        rc = smoe_fail(why, SMOE_EFIELD, "FREEZE.router.inputs %u: with %u experts at most %u",
                       inputs, experts, SMOE_FROZEN_VALUES_MAX / experts);
    else
        rc = check_succession(layer, &m->router, why);
    if (rc)
        return smoe_verdict_fail(SMOE_REFUSE, rc, 0, m->request);
    return (struct smoe_verdict){.kind = SMOE_TAKE,
                                 .bytes = (uint64_t)inputs * experts * sizeof(float)};
}

static void answer(struct smoe_core *c, uint32_t session, uint64_t request, uint32_t l)
{
    struct smoe_msg_router_state *m =
        &smoe_core_send(c, session, SMOE_MSG_ROUTER_STATE)->router_state;
    *m = (struct smoe_msg_router_state){request, l, c->layers[l].router.in_force};
}

/* Tells the trainer that waits for it, if it is still there. */
static void put_in_force(struct smoe_core *c, uint32_t l)
{
    struct smoe_freezing *f = &c->layers[l].router;
    f->in_force = f->next;
    f->next = (struct smoe_frozen_head){.version = 0};
    smoe_core_act(c, SMOE_ACT_ROUTER_IN_FORCE, SMOE_NO_SESSION)->layer = l;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (c->trainers[t].state == SMOE_TRAINER_LIVE &&
            c->trainers[t].incarnation == f->incarnation)
            answer(c, c->trainers[t].session, f->request, l);
}

void smoe_freezing_begin(struct smoe_core *c, uint32_t trainer, const struct smoe_event *event)
{
    const struct smoe_msg_freeze *m = &event->message->freeze;
    const struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_freezing *f = &c->layers[m->layer].router;
    struct smoe_why why;
    struct smoe_verdict v = smoe_freezing_expect(c, trainer, m, &why); /* reading took time */
    if (v.kind == SMOE_TAKE && event->refused)
        v = smoe_verdict_fail(SMOE_REFUSE,
                              smoe_fail(&why, event->refused, "FREEZE: %s", event->refused_why), 0,
                              m->request);
    if (v.kind == SMOE_REFUSE)
        smoe_core_refuse(c, t->session, v.code, why.text, false, 0, m->request);
    if (v.kind != SMOE_TAKE)
        return;
    if (same_head(&m->router, &f->in_force)) {
        answer(c, t->session, m->request, m->layer);
        return;
    }
    f->request = m->request;
    f->incarnation = t->incarnation;
    if (same_head(&m->router, &f->next))
        return; /* said again while it is written */
    f->next = m->router;
    smoe_core_act(c, SMOE_ACT_ROUTER_TAKEN, SMOE_NO_SESSION)->layer = m->layer;
    f->record = smoe_journal_router(c, m->layer, &m->router, event->router->values);
    if (!c->options.journal)
        put_in_force(c, m->layer);
}

void smoe_freezing_journalled(struct smoe_core *c, uint64_t sequence)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (c->layers[l].state != SMOE_LAYER_FREE && c->layers[l].router.next.version &&
            c->layers[l].router.record <= sequence)
            put_in_force(c, l);
}

void smoe_freezing_query(struct smoe_core *c, uint32_t session,
                         const struct smoe_msg_router_query *m)
{
    struct smoe_why why;
    if (c->layers[m->layer].state != SMOE_LAYER_FREE) {
        answer(c, session, m->request, m->layer);
        return;
    }
    smoe_fail(&why, SMOE_EUNKNOWN, "ROUTER_QUERY.layer %u: no such layer", m->layer);
    smoe_core_refuse(c, session, SMOE_EUNKNOWN, why.text, false, 0, m->request);
}

void smoe_freezing_reported(struct smoe_core *c, uint32_t trainer,
                            const struct smoe_msg_routing_report *m)
{
    if (c->layers[m->layer].state != SMOE_LAYER_FREE && c->layers[m->layer].owner == trainer)
        c->layers[m->layer].router.report = *m;
}

void smoe_freezing_drop(struct smoe_core *c, uint32_t l)
{
    struct smoe_freezing *f = &c->layers[l].router;
    if (f->in_force.version || f->next.version)
        smoe_core_act(c, SMOE_ACT_ROUTER_FREED, SMOE_NO_SESSION)->layer = l;
    *f = (struct smoe_freezing){.record = 0};
}
