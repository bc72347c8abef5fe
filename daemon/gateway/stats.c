/* SPDX-License-Identifier: Apache-2.0
 *
 * What the gateway has counted, and the invariants that are its own: sessions in use, memory within
 * the budget, nobody whose end the core has still to hear of between two calls.
 */
#include "common/base/assert.h"
#include "daemon/gateway/gateway_state.h"

void smoe_gateway_stats(const struct smoe_gateway *gw, struct smoe_gateway_stats *ret)
{
    *ret = (struct smoe_gateway_stats){
        .tensor_bytes = gw->budget.used_bytes,
        .tensor_bytes_peak = gw->budget.peak_bytes,
        .frames_in = gw->frames_in,
        .frames_out = gw->frames_out,
        .bytes_in = gw->bytes_in,
        .bytes_out = gw->bytes_out,
        .refused_connections = gw->refused_connections,
        .hello_timeouts = gw->hello_timeouts,
        .slow_peers = gw->slow_peers,
        .sessions = gw->in_use,
    };
    for (uint32_t i = 0; i < gw->n_sessions; i++) {
        const struct smoe_gate_session *s = &gw->sessions[i];
        if (s->state == SMOE_GATE_FREE)
            continue;
        ret->frames_in += s->channel.frames_in;
        ret->frames_out += s->channel.frames_out;
        ret->bytes_in += s->channel.bytes_in;
        ret->bytes_out += s->channel.bytes_out;
    }
}

void smoe_gateway_check(const struct smoe_gateway *gw)
{
    uint32_t in_use = 0;
    for (uint32_t i = 0; i < gw->n_sessions; i++)
        in_use += gw->sessions[i].state != SMOE_GATE_FREE;
    smoe_assert(in_use == gw->in_use && smoe_list_empty(&gw->unburied));
    smoe_assert(gw->budget.used_bytes <= gw->budget.max_bytes);
    smoe_core_check(gw->core);
}
