/* SPDX-License-Identifier: Apache-2.0
 *
 * Which frozen router is in force (StableMoE, stage 2), for people who look at a worker: it serves what it is given,
 * whoever scored it. The gateway is asked when the shell says so, by layer, and its last word is kept with the
 * layer. A layer that is gone by the time of the answer, or was never held here, keeps nothing.
 */
#include "client/worker/agent/agent_state.h"

void smoe_agent_ask_routers(struct smoe_agent *a)
{
    for (uint32_t l = 0; a->link == SMOE_LINK_UP && l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_held_layer *layer = &a->experts.layers[l];
        struct smoe_message m = {.type = SMOE_MSG_ROUTER_QUERY};
        if (!layer->used || layer->wire == SMOE_NO_LAYER)
            continue;
        m.router_query = (struct smoe_msg_router_query){.request = l, .layer = layer->wire};
        smoe_agent_send(a, &m, NULL, 0);
    }
}

void smoe_agent_router_told(struct smoe_agent *a, const struct smoe_msg_router_state *m)
{
    struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, m->layer);
    if (layer)
        layer->router = m->router;
}

const char *smoe_agent_router(const struct smoe_agent *a, uint32_t l, struct smoe_frozen_head *ret)
{
    const struct smoe_held_layer *layer = &a->experts.layers[l];
    if (!layer->used)
        return NULL;
    *ret = layer->router;
    return layer->name;
}
