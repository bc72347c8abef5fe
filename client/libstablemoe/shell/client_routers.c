/* SPDX-License-Identifier: Apache-2.0
 *
 * Freezing a layer's router, and asking for it.
 */
#include <string.h>

#include "client/libstablemoe/shell/client.h"
#include "common/base/text.h"

static struct smoe_uplink_router state_of(struct smoe_client *c, uint32_t layer)
{
    return smoe_uplink_layer(c->uplink, layer)->router;
}

static bool is_frozen(struct smoe_client *c, void *what)
{
    struct smoe_uplink_router r = state_of(c, *(const uint32_t *)what);
    return r.state == SMOE_UROUTER_IN_FORCE || r.state == SMOE_UROUTER_FAILED;
}

SMOE_API int smoe_freeze(struct smoe_expert_layer *layer, const struct smoe_freeze_options *o,
                         struct smoe_frozen_head *ret_head)
{
    struct smoe_client *c = layer->client;
    struct smoe_frozen_head head = {
        .version = o->version, .kind = (uint32_t)o->kind, .inputs = o->inputs};
    int rc = smoe_uplink_freeze(c->uplink, layer->number, &head, o->values, &c->why);
    smoe_client_flush(c);
    if (rc == 0)
        rc = smoe_client_wait(c, is_frozen, &layer->number);
    if (rc)
        return rc;
    struct smoe_uplink_router r = state_of(c, layer->number);
    if (r.state == SMOE_UROUTER_FAILED)
        return smoe_fail(&c->why, r.code, "%s", r.why.text);
    if (ret_head)
        *ret_head = r.head;
    return 0;
}

static bool is_answered(struct smoe_client *c, void *what)
{
    return state_of(c, *(const uint32_t *)what).answered;
}

SMOE_API int smoe_router_in_force(struct smoe_expert_layer *layer,
                                  struct smoe_frozen_head *ret_head)
{
    struct smoe_client *c = layer->client;
    int rc = smoe_uplink_query_router(c->uplink, layer->number, &c->why);
    smoe_client_flush(c);
    if (rc == 0)
        rc = smoe_client_wait(c, is_answered, &layer->number);
    if (rc)
        return rc;
    struct smoe_uplink_router r = state_of(c, layer->number);
    if (r.query_code)
        return smoe_fail(&c->why, r.query_code, "%s", r.query_why.text);
    *ret_head = r.found;
    return 0;
}

static bool is_share(double x)
{
    return x >= -1 && x <= 1;
}

SMOE_API int smoe_report_routing(struct smoe_expert_layer *layer,
                                 const struct smoe_routing_report *o)
{
    struct smoe_client *c = layer->client;
    size_t n = strnlen(o->router, SMOE_NAME_MAX + 1);
    const double *f = o->fluctuation;
    bool shares = is_share(o->changed) && is_share(o->agreement) && is_share(f[0]) &&
                  is_share(f[1]) && is_share(f[2]);
    if (!smoe_name_valid(o->router, n) || !o->tokens || !shares)
        return smoe_fail(&c->why, SMOE_EFIELD,
                         "report_routing: a name, at least one token, and shares of -1..1");
    struct smoe_msg_routing_report m = {.step = o->step,
                                        .tokens = o->tokens,
                                        .changed = o->changed,
                                        .agreement = o->agreement,
                                        .fluctuation_20 = f[0],
                                        .fluctuation_50 = f[1],
                                        .fluctuation_80 = f[2]};
    memcpy(m.router, o->router, n + 1);
    smoe_uplink_report_routing(c->uplink, layer->number, &m);
    smoe_client_flush(c);
    return 0;
}
