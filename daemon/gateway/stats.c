/* SPDX-License-Identifier: Apache-2.0
 *
 * What the gateway tells of its sessions, what it has counted, and the invariants that are its own:
 * sessions in use, memory within the budget, nobody whose end the core has still to hear of between two
 * calls.
 */
#include "common/base/assert.h"
#include "daemon/gateway/gateway_state.h"

bool smoe_gateway_closing(const struct smoe_gateway *gw, uint32_t session)
{
    return gw->sessions[session].state == SMOE_GATE_CLOSING;
}

bool smoe_gateway_drained(const struct smoe_gateway *gw)
{
    return gw->drained;
}

const char *smoe_gateway_close_reason(const struct smoe_gateway *gw, uint32_t session)
{
    return gw->sessions[session].reason;
}

const char *smoe_gateway_peer_name(const struct smoe_gateway *gw, uint32_t session)
{
    return gw->sessions[session].peer;
}

const struct smoe_core *smoe_gateway_core(const struct smoe_gateway *gw)
{
    return gw->core;
}

void smoe_gateway_stats(const struct smoe_gateway *gw, struct smoe_gateway_stats *ret)
{
    *ret = (struct smoe_gateway_stats){
        .tensor_bytes = gw->budget.used_bytes - gw->routers.bytes,
        .router_bytes = gw->routers.bytes,
        .tensor_bytes_peak = gw->budget.peak_bytes,
        .frames_in = gw->frames_in,
        .frames_out = gw->frames_out,
        .bytes_in = gw->bytes_in,
        .bytes_out = gw->bytes_out,
        .crowded_out = gw->crowded_out,
        .hello_timeouts = gw->hello_timeouts,
        .slow_peers = gw->slow_peers,
        .sessions = gw->in_use,
    };
    for (uint32_t i = 0; i < gw->reached; i++) {
        const struct smoe_gate_session *s = &gw->sessions[i];
        if (s->state == SMOE_GATE_FREE)
            continue;
        ret->frames_in += s->channel.frames_in;
        ret->frames_out += s->channel.frames_out;
        ret->bytes_in += s->channel.bytes_in;
        ret->bytes_out += s->channel.bytes_out;
    }
}

void smoe_gateway_check(struct smoe_gateway *gw)
{
    uint32_t in_use = 0, hellos = 0, admins = 0;
    for (uint32_t i = 0; i < gw->reached; i++) {
        in_use += gw->sessions[i].state != SMOE_GATE_FREE;
        hellos += gw->sessions[i].state == SMOE_GATE_HELLO;
        admins += gw->sessions[i].state == SMOE_GATE_ADMIN;
    }
    smoe_assert(hellos == gw->n_hellos && hellos <= SMOE_GATE_STRANGERS_MAX);
    smoe_assert(admins == gw->n_admins && admins <= SMOE_GATE_ADMINS_MAX);
    smoe_assert(in_use == gw->in_use && smoe_list_empty(&gw->unburied));
    smoe_assert(gw->budget.used_bytes <= gw->budget.max_bytes);
    if (gw->core_moved)
        smoe_core_check(gw->core);
    gw->core_moved = false;
}
