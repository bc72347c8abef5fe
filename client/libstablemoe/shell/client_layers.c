/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers, and the state of their experts: declared once, read and replaced for checkpoints.
 */
#include <string.h>

#include "client/libstablemoe/shell/client.h"

/* ---- layer ---- */

static bool is_declared(struct smoe_client *c, void *what)
{
    return smoe_uplink_layer(c->uplink, *(const uint32_t *)what)->state != SMOE_ULAYER_WANTED;
}

SMOE_API int smoe_layer_declare(struct smoe_client *c, const struct smoe_layer_options *o,
                                struct smoe_expert_layer **ret_layer)
{
    struct smoe_layer_shape shape = {
        .experts = o->experts,
        .d_model = o->d_model,
        .d_ff = o->d_ff,
        .activation = (uint32_t)o->activation,
        .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
        .optimizer = (uint32_t)o->optimizer,
        .seed = o->seed,
        .zero_output = o->zero_output,
        .wire = (enum smoe_wire_format)o->wire,
        .staleness = o->staleness,
    };
    uint32_t number;
    int rc = smoe_uplink_declare(c->uplink, o->name, o->evaluate_only ? NULL : &shape,
                                 o->evaluate_only, &number, &c->why);
    if (rc == 0)
        rc = smoe_client_wait(c, is_declared, &number);
    if (rc)
        return rc;
    const struct smoe_uplink_layer *layer = smoe_uplink_layer(c->uplink, number);
    if (layer->state == SMOE_ULAYER_FAILED)
        return smoe_fail(&c->why, layer->code, "%s", layer->why.text);
    c->layers[number] = (struct smoe_expert_layer){.client = c, .number = number, .used = true};
    *ret_layer = &c->layers[number];
    return 0;
}

SMOE_API void smoe_layer_shape(const struct smoe_expert_layer *layer,
                               struct smoe_layer_options *ret)
{
    const struct smoe_uplink_layer *l = smoe_uplink_layer(layer->client->uplink, layer->number);
    *ret = (struct smoe_layer_options){
        .name = l->name,
        .experts = l->shape.experts,
        .d_model = l->shape.d_model,
        .d_ff = l->shape.d_ff,
        .activation = (enum smoe_layer_activation)l->shape.activation,
        .optimizer = (enum smoe_layer_optimizer)l->shape.optimizer,
        .seed = l->shape.seed,
        .zero_output = l->shape.zero_output,
        .wire = (enum smoe_layer_wire)l->shape.wire,
        .staleness = l->shape.staleness,
        .evaluate_only = l->evaluate_only,
    };
}

/* ---- expert state ---- */

static const struct smoe_layer_shape *shape_of(const struct smoe_expert_layer *layer)
{
    return &smoe_uplink_layer(layer->client->uplink, layer->number)->shape;
}

SMOE_API size_t smoe_expert_params(const struct smoe_expert_layer *layer)
{
    return smoe_uplink_params(shape_of(layer));
}

SMOE_API size_t smoe_expert_elements(const struct smoe_expert_layer *layer, unsigned parts)
{
    return smoe_uplink_elements(shape_of(layer), parts);
}

static bool is_answered(struct smoe_client *c, void *what)
{
    return smoe_uplink_request(c->uplink, *(const uint32_t *)what)->done;
}

static int exchange_state(struct smoe_expert_layer *layer, uint32_t expert, unsigned parts,
                          const smoe_real *values, smoe_real *ret_values)
{
    struct smoe_client *c = layer->client;
    uint32_t number;
    int rc = smoe_uplink_state(c->uplink, layer->number, expert, parts, values, &number, &c->why);
    if (rc)
        return rc;
    rc = smoe_client_wait(c, is_answered, &number);
    const struct smoe_uplink_request *r = smoe_uplink_request(c->uplink, number);
    if (rc == 0 && r->code)
        rc = smoe_fail(&c->why, r->code, "%s", r->why.text);
    if (rc == 0 && ret_values)
        memcpy(ret_values, r->values->data, r->bytes);
    smoe_uplink_request_release(c->uplink, number);
    return rc;
}

SMOE_API int smoe_expert_fetch(struct smoe_expert_layer *layer, uint32_t expert, unsigned parts,
                               smoe_real *ret_values)
{
    if (!parts || parts > 7)
        return smoe_fail(&layer->client->why, SMOE_EFIELD, "expert_fetch: parts %u: not in 1..7",
                         parts);
    return exchange_state(layer, expert, parts, NULL, ret_values);
}

SMOE_API int smoe_expert_store(struct smoe_expert_layer *layer, uint32_t expert,
                               const smoe_real *values)
{
    return exchange_state(layer, expert, SMOE_EXPERT_WEIGHTS | SMOE_EXPERT_MOMENTS, values, NULL);
}

SMOE_API int smoe_restore(struct smoe_client *c, uint64_t step)
{
    int rc = smoe_client_wait_welcome(c);
    if (rc == 0)
        rc = smoe_uplink_restore(c->uplink, step, &c->why);
    smoe_client_flush(c);
    return rc;
}
