/* SPDX-License-Identifier: Apache-2.0
 *
 * Who serves a layer's experts in this slot, and how much each can be given.
 *
 * A worker that drains is given nothing, except where tokens were left over in the middle of an iteration that cannot
 * end without it: roles change between steps only, and the step may wait for a visit that nobody else can compute.
 */
#include "daemon/core/sharded.h"
#include "daemon/core/slot_state.h"

void smoe_slot_fill_replicas(struct smoe_core *c, const struct smoe_batch *b)
{
    const struct smoe_layer *layer = &c->layers[b->layer];
    uint32_t n = 0;
    if (layer->sharded) {
        smoe_sharded_fill_replicas(c, b->layer, smoe_sharded_is_before(c, b));
        return;
    }
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        c->replica_first[e] = n;
        uint32_t host = layer->experts[e].worker;
        if (host != SMOE_NONE && smoe_worker_live(&c->fleet.workers[host]))
            c->replica_node[n++] = host;
    }
    c->replica_first[layer->shape.experts] = n;
}

static bool is_open(const struct smoe_worker *w)
{
    return w->state == SMOE_WORKER_READY && w->session != SMOE_NO_SESSION;
}

/* Does it serve some expert that no one serves who stays? */
static bool is_alone(const struct smoe_core *c, uint32_t l, uint32_t worker)
{
    for (uint32_t e = 0; e < c->layers[l].shape.experts; e++) {
        bool serves = false, others = false;
        for (uint32_t r = c->replica_first[e]; r < c->replica_first[e + 1]; r++) {
            serves |= c->replica_node[r] == worker;
            others |= is_open(&c->fleet.workers[c->replica_node[r]]);
        }
        if (serves && !others)
            return true;
    }
    return false;
}

static bool may_be_given(const struct smoe_core *c, uint32_t l, uint32_t worker)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    if (w->session == SMOE_NO_SESSION)
        return false; /* about to be lost */
    return w->state == SMOE_WORKER_READY ||
           (w->state == SMOE_WORKER_DRAINING && c->layers[l].left_over && is_alone(c, l, worker) &&
            !(c->layers[l].sharded ? smoe_sharded_at_rest(c, l)
                                   : smoe_standing_between_steps(c, l)));
}

uint32_t smoe_slot_room(const struct smoe_core *c, uint32_t l, uint32_t worker)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    if (!may_be_given(c, l, worker))
        return 0;
    uint64_t bytes = w->inbox_bytes_max - w->inbox_bytes;
    uint64_t frame = c->options.tensor_bytes_max - c->new_bytes[worker];
    uint64_t rows = (bytes < frame ? bytes : frame) / smoe_row_bytes(&c->layers[l]);
    return rows > UINT32_MAX ? UINT32_MAX : (uint32_t)rows;
}

bool smoe_slot_hosts_open(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        const struct smoe_worker *w = &c->fleet.workers[layer->experts[e].worker];
        if (w->state != SMOE_WORKER_READY || w->session == SMOE_NO_SESSION)
            return false;
    }
    return true;
}
