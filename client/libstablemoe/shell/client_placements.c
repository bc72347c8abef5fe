/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking for a layer's placement, and bringing one back.
 */
#include "client/libstablemoe/shell/client.h"

static const struct smoe_uplink_placement *state_of(struct smoe_client *c, uint32_t layer)
{
    return &smoe_uplink_layer(c->uplink, layer)->placement;
}

static bool is_answered(struct smoe_client *c, void *what)
{
    return state_of(c, *(const uint32_t *)what)->state == SMOE_UPLACEMENT_ANSWERED;
}

static int exchange(struct smoe_expert_layer *layer, const struct smoe_placement *store,
                    const struct smoe_placement **ret)
{
    struct smoe_client *c = layer->client;
    int rc = smoe_uplink_place(c->uplink, layer->number, store, &c->why);
    smoe_client_flush(c);
    if (rc == 0)
        rc = smoe_client_wait(c, is_answered, &layer->number);
    if (rc)
        return rc;
    const struct smoe_uplink_placement *p = state_of(c, layer->number);
    if (p->code)
        return smoe_fail(&c->why, p->code, "%s", p->why.text);
    if (ret)
        *ret = &p->value;
    return 0;
}

SMOE_API int smoe_placement_fetch(struct smoe_expert_layer *layer,
                                  const struct smoe_placement **ret_placement)
{
    return exchange(layer, NULL, ret_placement);
}

SMOE_API int smoe_placement_store(struct smoe_expert_layer *layer,
                                  const struct smoe_placement *placement,
                                  const struct smoe_placement **ret_in_force)
{
    return exchange(layer, placement, ret_in_force);
}
