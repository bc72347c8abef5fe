/* SPDX-License-Identifier: Apache-2.0
 *
 * What workers still hold when they connect. A host that returns gets its experts back if it still has
 * them as they were committed last. What a daemon that was restarted has never heard of is adopted and
 * kept until its trainer declares it again.
 */
#include <string.h>

#include "daemon/core/core_state.h"

/* What a worker holds of a layer the daemon knows is still right, or the layer is lost. */
static bool matches(const struct smoe_layer *layer, uint32_t worker,
                    const struct smoe_inventory_layer *held)
{
    if (!held)
        return layer->step == 0; /* nothing learned yet: the seed gives it back */
    if (held->step != layer->step)
        return false;
    size_t at = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        if (layer->experts[e].worker != worker)
            continue;
        while (at < held->n_experts && held->experts[at] < e)
            at++;
        if ((at == held->n_experts || held->experts[at] != e) && layer->step > 0)
            return false;
    }
    return true;
}

static const struct smoe_inventory_layer *held_of(const struct smoe_layer *layer,
                                                  const struct smoe_msg_inventory *m)
{
    for (size_t i = 0; i < m->n_layers; i++)
        if (m->layers[i].run == layer->run && strcmp(m->layers[i].name, layer->name) == 0)
            return &m->layers[i];
    return NULL;
}

/* A host returned: it gets its experts back if it still has them. */
static void take_back(struct smoe_core *c, uint32_t l, uint32_t worker,
                      const struct smoe_msg_inventory *m)
{
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_worker *w = &c->fleet.workers[worker];
    if (matches(layer, worker, held_of(layer, m))) {
        w->reference_flops = layer->forward_flops;
        smoe_layer_send_host(c, l, worker, false);
        return;
    }
    struct smoe_why why;
    smoe_fail(&why, SMOE_ELOST,
              "layer %s: worker %s came back without the experts of step %llu: "
              "resume from a checkpoint",
              layer->name, w->id, (unsigned long long)layer->step);
    smoe_layer_lose(c, l, SMOE_ELOST, why.text);
}

/* Experts of a layer this daemon has never heard of (it was restarted): keep them for their trainer. */
static void adopt(struct smoe_core *c, uint32_t worker, const struct smoe_inventory_layer *held)
{
    uint32_t l;
    struct smoe_layer fits = {.shape = held->shape};
    if (!smoe_parcel_rows_max(c, &fits))
        return;
    if (!smoe_layer_find(c, held->name, &l)) {
        l = smoe_layer_new(c, held->name, held->run, &held->shape);
        if (l == SMOE_NONE)
            return;
        c->layers[l].adopted = true;
        c->layers[l].step = held->step;
    }
    struct smoe_layer *layer = &c->layers[l];
    if (!layer->adopted || layer->run != held->run || layer->step != held->step ||
        layer->shape.experts != held->shape.experts || layer->state != SMOE_LAYER_WAITING)
        return;
    bool any = false;
    for (size_t i = 0; i < held->n_experts; i++) {
        struct smoe_expert_view *e = &layer->experts[held->experts[i]];
        if (e->worker == SMOE_NONE) {
            e->worker = worker;
            any = true;
        }
    }
    if (any) {
        c->fleet.workers[worker].reference_flops = layer->forward_flops;
        smoe_layer_send_host(c, l, worker, false);
    }
}

void smoe_layer_inventory(struct smoe_core *c, uint32_t worker, const struct smoe_msg_inventory *m)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer *layer = &c->layers[l];
        if ((layer->state == SMOE_LAYER_WAITING || layer->state == SMOE_LAYER_READY) &&
            smoe_layer_on_worker(layer, worker))
            take_back(c, l, worker, m);
    }
    for (size_t i = 0; i < m->n_layers; i++)
        adopt(c, worker, &m->layers[i]);
    smoe_layers_advance(c);
}
