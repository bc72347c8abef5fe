/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/gateway/report_parts.h"

#include <inttypes.h>
#include <stdio.h>

static void add_hex(cJSON *to, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    smoe_json_add_text(to, key, text);
}

static void add_hosts(cJSON *o, const struct smoe_fleet *fleet, const struct smoe_layer_view *layer,
                      uint32_t expert)
{
    cJSON *list = smoe_json_add_array(o, "hosts");
    for (uint32_t r = layer->replica_first[expert]; r < layer->replica_first[expert + 1]; r++)
        smoe_json_append(list, cJSON_CreateString(fleet->workers[layer->replica_worker[r]].id));
}

/* What it exchanged in the last iteration, in bytes. */
static void add_traffic(cJSON *o, const struct smoe_shard_traffic *t)
{
    cJSON *x = smoe_json_add_object(o, "traffic");
    smoe_json_add_u64(x, "gradient_sent", t->exchanged.gradient_sent);
    smoe_json_add_u64(x, "gradient_received", t->exchanged.gradient_received);
    smoe_json_add_u64(x, "follow_sent", t->exchanged.follow_sent);
    smoe_json_add_u64(x, "follow_received", t->exchanged.follow_received);
    smoe_json_add_u64(x, "weight_sent", t->exchanged.weight_sent);
    smoe_json_add_u64(x, "weight_received", t->exchanged.weight_received);
    smoe_json_add_u64(x, "state_sent", t->state_sent);
    smoe_json_add_u64(x, "state_received", t->state_received);
    smoe_json_add_u64(x, "uploaded", t->uploaded);
    smoe_json_add_u64(x, "direct", t->direct);
}

/* How long the parts of its iterations took, in seconds, all together. */
static void add_parts(cJSON *o, const uint64_t *part_ns)
{
    static const char *const names[SMOE_PARTS] = {[SMOE_PART_COMPUTING] = "computing",
                                                  [SMOE_PART_STEPPING] = "stepping",
                                                  [SMOE_PART_PLACING] = "placing",
                                                  [SMOE_PART_WEIGHTS] = "weights"};
    cJSON *x = smoe_json_add_object(o, "parts_s");
    for (int p = 0; p < SMOE_PARTS; p++)
        smoe_json_add_number(x, names[p], 1e-9 * (double)part_ns[p]);
}

/* Elements of every expert's optimizer state: who owns and follows how many, and how many have one copy only. */
static void add_shards(cJSON *o, const struct smoe_fleet *fleet,
                       const struct smoe_layer_view *layer)
{
    cJSON *list = smoe_json_add_array(o, "shards");
    uint64_t single = 0;
    for (uint32_t i = 0; i < layer->map->n_pieces; i++)
        single +=
            layer->map->pieces[i].follower == SMOE_SHARD_NONE ? layer->map->pieces[i].length : 0;
    for (uint32_t w = 0; w < fleet->n_used; w++) {
        uint64_t owned = 0, followed = 0;
        for (uint32_t i = 0; i < layer->map->n_pieces; i++) {
            const struct smoe_shard_piece *p = &layer->map->pieces[i];
            owned += p->owner == w ? p->length : 0;
            followed += p->follower == w ? p->length : 0;
        }
        if (!owned && !followed)
            continue;
        cJSON *x = cJSON_CreateObject();
        smoe_json_add_text(x, "worker", fleet->workers[w].id);
        smoe_json_add_u64(x, "owned", owned);
        smoe_json_add_u64(x, "followed", followed);
        add_traffic(x, &layer->traffic[w]);
        smoe_json_append(list, x);
    }
    smoe_json_add_text(o, "wire",
                       layer->shape.wire == SMOE_WIRE_BF16    ? "bf16"
                       : layer->shape.dtype == SMOE_DTYPE_F64 ? "fp64"
                                                              : "fp32");
    smoe_json_add_u64(o, "elements", layer->map->n_pieces ? layer->map->elements : 0);
    smoe_json_add_u64(o, "iterations", layer->iterations);
    add_parts(o, layer->part_ns);
    smoe_json_add_u64(o, "elements_single", layer->map->n_pieces ? single : 0);
}

/* The frozen router in force, or null. */
static void add_router(cJSON *o, const struct smoe_frozen_head *router)
{
    if (!router->version) {
        smoe_json_add_null(o, "router");
        return;
    }
    cJSON *r = smoe_json_add_object(o, "router");
    smoe_json_add_u64(r, "version", router->version);
    smoe_json_add_text(r, "kind", router->kind == SMOE_FROZEN_TABLE ? "table" : "linear");
    smoe_json_add_u64(r, "inputs", router->inputs);
    add_hex(r, "digest", router->digest);
}

/* What the layer's owner said last of how its routing changes, or null. Shares that it does not know are null. */
static void add_routing_report(cJSON *o, const struct smoe_msg_routing_report *r)
{
    if (!r->tokens) {
        smoe_json_add_null(o, "routing");
        return;
    }
    cJSON *x = smoe_json_add_object(o, "routing");
    smoe_json_add_text(x, "router", r->router);
    smoe_json_add_u64(x, "step", r->step);
    smoe_json_add_u64(x, "tokens_watched", r->tokens);
    smoe_json_add_known(x, "changed", r->changed >= 0, r->changed);
    smoe_json_add_known(x, "frozen_agreement", r->agreement >= 0, r->agreement);
    cJSON *f = smoe_json_add_object(x, "fluctuation");
    smoe_json_add_known(f, "20", r->fluctuation_20 >= 0, r->fluctuation_20);
    smoe_json_add_known(f, "50", r->fluctuation_50 >= 0, r->fluctuation_50);
    smoe_json_add_known(f, "80", r->fluctuation_80 >= 0, r->fluctuation_80);
}

static cJSON *layer_json(const struct smoe_core *core, const struct smoe_layer_view *layer)
{
    const struct smoe_fleet *fleet = smoe_core_fleet(core);
    cJSON *o = cJSON_CreateObject();
    uint64_t total = 0;
    smoe_json_add_text(o, "layer", layer->name);
    add_hex(o, "run", layer->run);
    smoe_json_add_text(o, "state", smoe_layer_state_name(layer->state));
    smoe_json_add_u64(o, "step", layer->step);
    smoe_json_add_u64(o, "d_model", layer->shape.d_model);
    smoe_json_add_u64(o, "d_ff", layer->shape.d_ff);
    smoe_json_add_u64(o, "staleness", layer->shape.staleness);
    add_router(o, &layer->router);
    add_routing_report(o, layer->routing);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        total += layer->experts[e].account.submitted;
    cJSON *list = smoe_json_add_array(o, "experts");
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        const struct smoe_expert_view *expert = &layer->experts[e];
        cJSON *x = cJSON_CreateObject();
        smoe_json_add_u64(x, "expert", e);
        if (expert->worker != SMOE_NO_SESSION)
            smoe_json_add_text(x, "worker", fleet->workers[expert->worker].id);
        else
            smoe_json_add_null(x, "worker");
        if (expert->follower != SMOE_NO_WORKER && /* not one that is only expected */
            smoe_worker_here(&fleet->workers[expert->follower]))
            smoe_json_add_text(x, "copy", fleet->workers[expert->follower].id);
        else
            smoe_json_add_null(x, "copy");
        smoe_json_add_bool(x, "copying", expert->filling != SMOE_NO_SESSION);
        smoe_json_add_u64(x, "visits", expert->account.submitted);
        smoe_json_add_u64(x, "in_flight", expert->account.in_flight);
        smoe_json_add_number(x, "share",
                             total ? (double)expert->account.submitted / (double)total : 0);
        if (layer->sharded)
            add_hosts(x, fleet, layer, e);
        smoe_json_append(list, x);
    }
    if (layer->sharded)
        add_shards(o, fleet, layer);
    return o;
}

cJSON *smoe_report_layers(const struct smoe_core *core)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer_view layer = smoe_core_layer(core, l);
        if (layer.state != SMOE_LAYER_FREE)
            smoe_json_append(list, layer_json(core, &layer));
    }
    return list;
}
