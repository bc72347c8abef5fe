/* SPDX-License-Identifier: Apache-2.0
 *
 * Frozen routers, the trainer's side.
 *
 *     NONE -> WANTED -> SENT -> IN_FORCE       a lost connection: back to WANTED, until LayerReady says
 *               |         |                    that the gateway has it in force; a gateway that has no
 *               +---------+--> FAILED          room for it now: back to WANTED, a few times
 *
 * The values are kept as long as the layer: a gateway that restarts has them in its journal, but one that
 * lost it, or another one, gets them again before the first token that they are to score. Batches that were
 * submitted with codes or features name their router and wait for it; if it cannot come they fail with it.
 */
#include <stdio.h>
#include <string.h>

#include "client/libstablemoe/core/uplink_state.h"
#include "daemon/core/router_frozen.h"

#define REFUSALS_MAX 16 /* of one router, for want of room beside what is on its way */

static bool same_head(const struct smoe_frozen_head *a, const struct smoe_frozen_head *b)
{
    return a->version == b->version && a->kind == b->kind && a->inputs == b->inputs &&
           a->digest == b->digest;
}

/* ---- what the caller asks for ---- */

int smoe_uplink_freeze(struct smoe_uplink *u, uint32_t l, const struct smoe_frozen_head *head,
                       const float *values, struct smoe_why *why)
{
    struct smoe_uplink_layer *layer = &u->layers[l];
    struct smoe_uplink_router *r = &layer->router;
    uint32_t experts = layer->shape.experts;
    size_t bytes = (size_t)head->inputs * experts * sizeof *values;
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    if (layer->evaluate_only)
        return smoe_fail(why, SMOE_EROLE, "freeze: layer %s is attached for evaluation only",
                         layer->name);
    if (smoe_frozen_shape(head->kind, head->inputs, experts) || !head->version)
        return smoe_fail(why, SMOE_EFIELD,
                         "freeze: version must be at least 1, inputs 1..%u with %u experts",
                         SMOE_FROZEN_VALUES_MAX / experts, experts);
    if (r->state == SMOE_UROUTER_WANTED || r->state == SMOE_UROUTER_SENT)
        return smoe_fail(why, SMOE_ESTATE, "freeze: version %llu is not in force yet",
                         (unsigned long long)r->head.version);
    if (u->tensor_bytes_max && bytes > u->tensor_bytes_max)
        return smoe_fail(why, SMOE_ETOOBIG, "freeze: %zu bytes, the gateway takes %llu a message",
                         bytes, (unsigned long long)u->tensor_bytes_max);
    struct smoe_blob *blob = smoe_blob_new(&u->budget, bytes);
    if (!blob)
        return smoe_fail(why, SMOE_ENOMEMORY, "freeze: out of memory for %zu bytes", bytes);
    memcpy(blob->data, values, bytes);
    smoe_blob_unref(r->values);
    r->values = blob;
    r->head = *head;
    r->head.digest = smoe_frozen_digest(head->kind, head->inputs, experts, values);
    r->state = SMOE_UROUTER_WANTED;
    r->refusals = 0;
    smoe_uplink_pump(u);
    return 0;
}

int smoe_uplink_query_router(struct smoe_uplink *u, uint32_t l, struct smoe_why *why)
{
    struct smoe_uplink_router *r = &u->layers[l].router;
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    r->asking = true;
    r->asked = r->answered = false;
    smoe_uplink_pump(u);
    return 0;
}

void smoe_uplink_report_routing(struct smoe_uplink *u, uint32_t l,
                                const struct smoe_msg_routing_report *report)
{
    u->layers[l].router.report = *report;
    u->layers[l].router.report_due = true;
    smoe_uplink_pump(u);
}

int smoe_routers_check(const struct smoe_uplink *u, const struct smoe_uplink_submit *o,
                       struct smoe_why *why)
{
    const struct smoe_uplink_layer *layer = &u->layers[o->layer];
    const struct smoe_uplink_router *r = &layer->router;
    uint32_t wanted = o->codes ? SMOE_FROZEN_TABLE : SMOE_FROZEN_LINEAR;
    if (r->state == SMOE_UROUTER_FAILED)
        return smoe_fail(why, r->code, "submit: no router is frozen: %s", r->why.text);
    if ((!o->codes && !o->features) || !r->head.version || r->head.kind != wanted)
        return smoe_fail(why, SMOE_ESTATE, "submit: no scores, and layer %s has no frozen %s here",
                         layer->name, o->codes ? "table" : "linear map");
    for (uint32_t t = 0; o->codes && t < o->tokens; t++)
        if (o->codes[t] >= r->head.inputs)
            return smoe_fail(why, SMOE_EFIELD, "submit: token %u has code %u: the router has %u", t,
                             o->codes[t], r->head.inputs);
    if (!smoe_frozen_bearable(&r->head, layer->shape.experts, o->tokens))
        return smoe_fail(
            why, SMOE_ELIMIT,
            "submit: %u tokens of %u features for %u experts are more than %llu products: "
            "submit fewer tokens at a time",
            o->tokens, r->head.inputs, layer->shape.experts,
            (unsigned long long)SMOE_FROZEN_WORK_MAX);
    return 0;
}

bool smoe_routers_ready(const struct smoe_uplink *u, const struct smoe_uplink_ticket *t)
{
    const struct smoe_uplink_router *r = &u->layers[t->layer].router;
    return !t->router_version || r->state == SMOE_UROUTER_IN_FORCE;
}

/* ---- the link ---- */

static void send_freeze(struct smoe_uplink *u, uint32_t l)
{
    struct smoe_uplink_router *r = &u->layers[l].router;
    struct smoe_message m = {.type = SMOE_MSG_FREEZE};
    m.freeze = (struct smoe_msg_freeze){smoe_request_number(SMOE_REQUEST_FREEZE, l),
                                        u->layers[l].wire, r->head};
    struct smoe_segment segment = {r->values, r->values->data, r->values->bytes};
    if (smoe_uplink_send(u, &m, &segment, 1) == 0)
        r->state = SMOE_UROUTER_SENT;
}

static void send_report(struct smoe_uplink *u, uint32_t l)
{
    struct smoe_message m = {.type = SMOE_MSG_ROUTING_REPORT};
    m.routing_report = u->layers[l].router.report;
    m.routing_report.layer = u->layers[l].wire;
    u->layers[l].router.report_due = smoe_uplink_send(u, &m, NULL, 0) != 0;
}

void smoe_routers_pump(struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++) {
        struct smoe_uplink_router *r = &u->layers[l].router;
        if (u->layers[l].state != SMOE_ULAYER_READY)
            continue;
        if (r->state == SMOE_UROUTER_WANTED)
            send_freeze(u, l);
        if (r->report_due)
            send_report(u, l);
        if (!r->asking || r->asked)
            continue;
        struct smoe_message m = {.type = SMOE_MSG_ROUTER_QUERY};
        m.router_query = (struct smoe_msg_router_query){smoe_request_number(SMOE_REQUEST_QUERY, l),
                                                        u->layers[l].wire};
        r->asked = smoe_uplink_send(u, &m, NULL, 0) == 0;
    }
}

void smoe_routers_start_over(struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++) {
        struct smoe_uplink_router *r = &u->layers[l].router;
        r->asked = false;
        r->report_due = r->report.tokens > 0;
        if (r->values && r->state != SMOE_UROUTER_FAILED)
            r->state = SMOE_UROUTER_WANTED;
    }
}

void smoe_routers_found(struct smoe_uplink *u, uint32_t l, const struct smoe_frozen_head *found)
{
    struct smoe_uplink_router *r = &u->layers[l].router;
    r->found = *found;
    if (r->values) {
        if (same_head(&r->head, found))
            r->state = SMOE_UROUTER_IN_FORCE;
        return;
    }
    r->head = *found; /* another trainer's, or what this one froze in an earlier life */
    r->state = found->version ? SMOE_UROUTER_IN_FORCE : SMOE_UROUTER_NONE;
}

void smoe_routers_answered(struct smoe_uplink *u, const struct smoe_msg_router_state *m)
{
    uint32_t l;
    if (smoe_request_index(m->request, SMOE_REQUEST_QUERY, u->n_layers, &l)) {
        struct smoe_uplink_router *r = &u->layers[l].router;
        r->asking = false;
        r->answered = true;
        r->query_code = 0;
        smoe_routers_found(u, l, &m->router);
    } else if (smoe_request_index(m->request, SMOE_REQUEST_FREEZE, u->n_layers, &l)) {
        smoe_routers_found(u, l, &m->router);
    }
}

/* What waits to be scored by it can wait for ever. What was scored is replayed without it. */
static void fail_freeze(struct smoe_uplink *u, uint32_t l, int code, const char *sentence)
{
    struct smoe_uplink_router *r = &u->layers[l].router;
    smoe_blob_unref(r->values);
    r->values = NULL;
    r->state = SMOE_UROUTER_FAILED;
    r->code = smoe_fail(&r->why, code, "%s", sentence);
    smoe_list_for_each_safe (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (t->layer == l && t->router_version == r->head.version &&
            t->router_digest == r->head.digest && t->state == SMOE_TICKET_QUEUED && !t->has_results)
            smoe_ticket_fail(t, code, sentence);
    }
}

bool smoe_routers_failed(struct smoe_uplink *u, uint64_t request, int code, const char *sentence)
{
    uint32_t l;
    if (smoe_request_index(request, SMOE_REQUEST_FREEZE, u->n_layers, &l)) {
        struct smoe_uplink_router *r = &u->layers[l].router;
        if (code == SMOE_ENOMEMORY && r->values && r->refusals++ < REFUSALS_MAX)
            r->state = SMOE_UROUTER_WANTED;
        else
            fail_freeze(u, l, code, sentence);
        return true;
    }
    if (!smoe_request_index(request, SMOE_REQUEST_QUERY, u->n_layers, &l))
        return false;
    struct smoe_uplink_router *r = &u->layers[l].router;
    r->asking = false;
    r->answered = true;
    r->query_code = smoe_fail(&r->query_why, code, "%s", sentence);
    return true;
}

void smoe_routers_release(struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++)
        smoe_blob_unref(u->layers[l].router.values);
}
