/* SPDX-License-Identifier: Apache-2.0
 *
 * Placements on the trainer's side: asked for when a checkpoint is written, brought back after a Restore.
 * What was asked is asked again of every gateway until one has answered. An answer's arrays are the
 * message's; they are copied into one block, which is what callers are given.
 */
#include <stdlib.h>
#include <string.h>

#include "client/libstablemoe/core/uplink_state.h"
#include "common/base/cutter.h"

/* The head of a block that measures itself. */
struct copy {
    struct smoe_placement from;
    const char **workers;
    char *names; /* [n_workers + 1, SMOE_NAME_MAX + 1] the rule's first */
    uint32_t *slots, *experts;
    double *popularity;
};

static void lay_out(void *head, struct smoe_cutter *cutter)
{
    struct copy *c = head;
    const struct smoe_placement *p = &c->from;
    c->popularity = smoe_cut(cutter, p->n_experts, sizeof *c->popularity);
    c->workers = smoe_cut(cutter, p->n_workers, sizeof *c->workers);
    c->slots = smoe_cut(cutter, p->n_workers, sizeof *c->slots);
    c->experts = smoe_cut(cutter, p->n_slots, sizeof *c->experts);
    c->names = smoe_cut(cutter, p->n_workers + 1, SMOE_NAME_MAX + 1);
}

static void copy_some(void *to, const void *from, size_t n, size_t each)
{
    if (n)
        memcpy(to, from, n * each);
}

/* `from` was checked. False: there is no memory, and nothing is changed. */
static bool keep(struct smoe_uplink_placement *to, const struct smoe_placement *from)
{
    struct copy head = {.from = *from}, *c = smoe_cut_block(&head, sizeof head, lay_out);
    if (!c)
        return false;
    copy_some(c->popularity, from->popularity, from->n_experts, sizeof *c->popularity);
    copy_some(c->slots, from->slots, from->n_workers, sizeof *c->slots);
    copy_some(c->experts, from->experts, from->n_slots, sizeof *c->experts);
    memcpy(c->names, from->rule, strlen(from->rule) + 1);
    for (uint32_t w = 0; w < from->n_workers; w++) {
        char *name = c->names + (w + 1) * (SMOE_NAME_MAX + 1);
        memcpy(name, from->workers[w], strlen(from->workers[w]) + 1);
        c->workers[w] = name;
    }
    free(to->block);
    to->block = c;
    to->value = *from;
    to->value.rule = c->names;
    to->value.workers = c->workers;
    to->value.slots = c->slots;
    to->value.experts = c->experts;
    to->value.popularity = c->popularity;
    return true;
}

int smoe_uplink_place(struct smoe_uplink *u, uint32_t layer, const struct smoe_placement *store,
                      struct smoe_why *why)
{
    struct smoe_uplink_placement *p = &u->layers[layer].placement;
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    if (p->state == SMOE_UPLACEMENT_WANTED || p->state == SMOE_UPLACEMENT_SENT)
        return smoe_fail(why, SMOE_ESTATE, "placement: the last request is not answered yet");
    int rc = store ? smoe_placement_check(store, why) : 0;
    if (rc)
        return rc;
    if (store && !keep(p, store))
        return smoe_fail(why, SMOE_ENOMEMORY, "placement: out of memory");
    p->store = store;
    p->code = 0;
    p->state = SMOE_UPLACEMENT_WANTED;
    smoe_uplink_pump(u);
    return 0;
}

static void send(struct smoe_uplink *u, uint32_t l)
{
    struct smoe_uplink_layer *layer = &u->layers[l];
    uint64_t request = smoe_request_number(SMOE_REQUEST_PLACEMENT, l);
    struct smoe_message m = {.type = SMOE_MSG_PLACEMENT_FETCH};
    m.placement_fetch = (struct smoe_msg_placement_fetch){request, layer->wire};
    if (layer->placement.store) {
        m.type = SMOE_MSG_PLACEMENT;
        m.placement = (struct smoe_msg_placement){request, layer->wire, layer->placement.value};
    }
    if (smoe_uplink_send(u, &m, NULL, 0) == 0)
        layer->placement.state = SMOE_UPLACEMENT_SENT;
}

void smoe_placements_pump(struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++)
        if (u->layers[l].state == SMOE_ULAYER_READY &&
            u->layers[l].placement.state == SMOE_UPLACEMENT_WANTED)
            send(u, l);
}

void smoe_placements_start_over(struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++)
        if (u->layers[l].placement.state == SMOE_UPLACEMENT_SENT)
            u->layers[l].placement.state = SMOE_UPLACEMENT_WANTED;
}

/* What it waits for, if it is the request's. */
static struct smoe_uplink_placement *of_request(struct smoe_uplink *u, uint64_t request)
{
    uint32_t l;
    if (!smoe_request_index(request, SMOE_REQUEST_PLACEMENT, u->n_layers, &l) ||
        u->layers[l].placement.state != SMOE_UPLACEMENT_SENT)
        return NULL;
    return &u->layers[l].placement;
}

void smoe_placements_answered(struct smoe_uplink *u, const struct smoe_msg_placement *m)
{
    struct smoe_uplink_placement *p = of_request(u, m->request);
    if (!p)
        return;
    if (!keep(p, &m->placement))
        p->code = smoe_fail(&p->why, SMOE_ENOMEMORY, "placement: out of memory");
    p->state = SMOE_UPLACEMENT_ANSWERED;
}

bool smoe_placements_failed(struct smoe_uplink *u, uint64_t request, int code, const char *sentence)
{
    struct smoe_uplink_placement *p = of_request(u, request);
    if (!p)
        return false;
    p->code = smoe_fail(&p->why, code, "%s", sentence);
    p->state = SMOE_UPLACEMENT_ANSWERED;
    return true;
}

void smoe_placements_release(struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++) {
        free(u->layers[l].placement.block);
        u->layers[l].placement = (struct smoe_uplink_placement){.state = SMOE_UPLACEMENT_NONE};
    }
}
