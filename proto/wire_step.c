/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of the two-phase step between daemon and worker.
 */
#include "proto/wire_fields.h"

static bool fill_hosts(struct smoe_arena *arena, const struct smoe_msg_step_prepare *m,
                       Stablemoe__V1__StepPrepare *p)
{
    void **hosts = smoe_new_objects(arena, m->n_hosts, sizeof(Stablemoe__V1__LayerHosts));
    for (size_t i = 0; hosts && i < m->n_hosts; i++) {
        Stablemoe__V1__LayerHosts *to = hosts[i];
        stablemoe__v1__layer_hosts__init(to);
        to->layer = m->hosts[i].layer;
        to->hosts = smoe_unconst(m->hosts[i].hosts);
        to->n_hosts = m->hosts[i].n;
    }
    p->hosts = (Stablemoe__V1__LayerHosts **)hosts;
    p->n_hosts = m->n_hosts;
    return hosts != NULL;
}

int smoe_fill_step_prepare(struct smoe_arena *arena, const struct smoe_msg_step_prepare *m,
                           Stablemoe__V1__StepPrepare *p)
{
    Stablemoe__V1__Optimizer *optimizer = smoe_arena_alloc(arena, sizeof *optimizer);
    void **gradients = smoe_new_objects(arena, m->n_gradients, sizeof(Stablemoe__V1__LayerExperts));
    if (!optimizer || !gradients || !fill_hosts(arena, m, p))
        return SMOE_ETOOBIG;
    for (size_t i = 0; i < m->n_gradients; i++) {
        Stablemoe__V1__LayerExperts *to = gradients[i];
        stablemoe__v1__layer_experts__init(to);
        to->layer = m->gradients[i].layer;
        to->experts = smoe_unconst(m->gradients[i].experts);
        to->n_experts = m->gradients[i].n;
    }
    p->gradients = (Stablemoe__V1__LayerExperts **)gradients;
    p->n_gradients = m->n_gradients;
    stablemoe__v1__optimizer__init(optimizer);
    smoe_fill_step_optimizer(&m->optimizer, optimizer);
    p->step = m->step;
    p->attempt = m->attempt;
    p->layers = smoe_unconst(m->layers);
    p->n_layers = m->n_layers;
    p->gradient_divisor = m->gradient_divisor;
    p->optimizer = optimizer;
    p->owner = m->owner;
    return 0;
}

static int read_gradients(struct smoe_reader *r, const Stablemoe__V1__StepPrepare *p,
                          struct smoe_msg_step_prepare *m)
{
    int rc = smoe_check_range(r, "gradients", p->n_gradients, 0, SMOE_LAYERS_MAX);
    if (rc)
        return rc;
    struct smoe_layer_experts *list = smoe_arena_alloc(r->arena, p->n_gradients * sizeof *list);
    if (!list)
        return smoe_fail(r->why, SMOE_ETOOBIG, "%s.gradients: too many to unpack", r->message);
    uint64_t experts = 0;
    for (size_t i = 0; i < p->n_gradients && !rc; i++) {
        const Stablemoe__V1__LayerExperts *from = p->gradients[i];
        list[i] = (struct smoe_layer_experts){from->layer, from->experts, from->n_experts};
        experts += from->n_experts;
        rc = smoe_check_range(r, "gradients.layer", from->layer, 0, SMOE_LAYERS_MAX - 1);
        rc = rc ? rc
                : smoe_check_rising(r, "gradients.experts", from->n_experts, from->experts,
                                    SMOE_EXPERTS_MAX);
        rc = rc ? rc : smoe_check_experts(r, experts);
    }
    m->gradients = list;
    m->n_gradients = p->n_gradients;
    return rc;
}

static int read_hosts(struct smoe_reader *r, const Stablemoe__V1__StepPrepare *p,
                      struct smoe_msg_step_prepare *m)
{
    int rc = smoe_check_range(r, "hosts", p->n_hosts, 0, SMOE_LAYERS_MAX);
    if (rc)
        return rc;
    struct smoe_layer_hosts *list = smoe_arena_alloc(r->arena, p->n_hosts * sizeof *list);
    if (!list)
        return smoe_fail(r->why, SMOE_ETOOBIG, "%s.hosts: too many to unpack", r->message);
    uint64_t experts = 0;
    for (size_t i = 0; i < p->n_hosts && !rc; i++) {
        const Stablemoe__V1__LayerHosts *from = p->hosts[i];
        list[i] = (struct smoe_layer_hosts){from->layer, from->hosts, from->n_hosts};
        experts += from->n_hosts;
        rc = smoe_check_range(r, "hosts.layer", from->layer, 0, SMOE_LAYERS_MAX - 1);
        rc = rc ? rc : smoe_check_experts(r, experts);
        for (size_t e = 0; e < from->n_hosts && !rc; e++)
            rc = smoe_check_range(r, "hosts.hosts", from->hosts[e], 1, SMOE_EXPERTS_MAX);
    }
    m->hosts = list;
    m->n_hosts = p->n_hosts;
    return rc;
}

int smoe_read_step_prepare(struct smoe_reader *r, const Stablemoe__V1__StepPrepare *p,
                           struct smoe_msg_step_prepare *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "layers", p->n_layers, 1, SMOE_LAYERS_MAX)) ||
        (rc = smoe_check_rising(r, "layers", p->n_layers, p->layers, SMOE_LAYERS_MAX)) ||
        (rc = smoe_check_double(r, "gradient_divisor", p->gradient_divisor, 1e-30, 1e30)) ||
        (rc = smoe_read_step_optimizer(r, p->optimizer, &m->optimizer)) ||
        (rc = read_gradients(r, p, m)) || (rc = read_hosts(r, p, m)))
        return rc;
    m->step = p->step;
    m->attempt = p->attempt;
    m->layers = p->layers;
    m->n_layers = p->n_layers;
    m->gradient_divisor = p->gradient_divisor;
    m->owner = p->owner;
    return 0;
}

int smoe_fill_step_norm(struct smoe_arena *arena, const struct smoe_msg_step_norm *m,
                        Stablemoe__V1__StepNorm *p)
{
    void **layers = smoe_new_objects(arena, m->n_layers, sizeof(Stablemoe__V1__LayerNorms));
    if (!layers)
        return SMOE_ETOOBIG;
    for (size_t i = 0; i < m->n_layers; i++) {
        Stablemoe__V1__LayerNorms *to = layers[i];
        stablemoe__v1__layer_norms__init(to);
        to->layer = m->layers[i].layer;
        to->experts = smoe_unconst(m->layers[i].experts);
        to->n_experts = m->layers[i].n;
        to->square_norms = smoe_unconst(m->layers[i].square_norms);
        to->n_square_norms = m->layers[i].n;
    }
    p->step = m->step;
    p->attempt = m->attempt;
    p->layers = (Stablemoe__V1__LayerNorms **)layers;
    p->n_layers = m->n_layers;
    p->owner = m->owner;
    p->shards = m->shards;
    return 0;
}

static int read_layer_norms(struct smoe_reader *r, const Stablemoe__V1__LayerNorms *p,
                            struct smoe_layer_norms *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "layers.layer", p->layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "layers.square_norms", p->n_square_norms, p->n_experts,
                               p->n_experts)) ||
        (rc = smoe_check_rising(r, "layers.experts", p->n_experts, p->experts, SMOE_EXPERTS_MAX)))
        return rc;
    for (size_t i = 0; i < p->n_square_norms; i++)
        if ((rc = smoe_check_double(r, "layers.square_norms", p->square_norms[i], -1, 1e300)))
            return rc;
    *m = (struct smoe_layer_norms){p->layer, p->experts, p->square_norms, p->n_experts};
    return 0;
}

int smoe_read_step_norm(struct smoe_reader *r, const Stablemoe__V1__StepNorm *p,
                        struct smoe_msg_step_norm *m)
{
    int rc = smoe_check_range(r, "layers", p->n_layers, 0, SMOE_LAYERS_MAX);
    if (rc)
        return rc;
    struct smoe_layer_norms *layers = smoe_arena_alloc(r->arena, p->n_layers * sizeof *layers);
    if (!layers)
        return smoe_fail(r->why, SMOE_ETOOBIG, "STEP_NORM.layers: too many to unpack");
    uint64_t experts = 0;
    for (size_t i = 0; i < p->n_layers && !rc; i++) {
        experts += p->layers[i]->n_experts;
        rc = read_layer_norms(r, p->layers[i], &layers[i]);
        rc = rc ? rc : smoe_check_experts(r, experts);
    }
    *m = (struct smoe_msg_step_norm){p->step, p->attempt, layers, p->n_layers, p->owner, p->shards};
    return rc ? rc : smoe_check_double(r, "shards", p->shards, -1, 1e300);
}

int smoe_fill_step_stage(struct smoe_arena *arena, const struct smoe_msg_step_stage *m,
                         Stablemoe__V1__StepStage *p)
{
    (void)arena;
    p->step = m->step;
    p->attempt = m->attempt;
    p->clip_scale = m->clip_scale;
    p->owner = m->owner;
    return 0;
}

int smoe_read_step_stage(struct smoe_reader *r, const Stablemoe__V1__StepStage *p,
                         struct smoe_msg_step_stage *m)
{
    *m = (struct smoe_msg_step_stage){p->step, p->attempt, p->clip_scale, p->owner};
    return smoe_check_double(r, "clip_scale", p->clip_scale, 0, 1);
}

int smoe_fill_step_staged(struct smoe_arena *arena, const struct smoe_msg_step_staged *m,
                          Stablemoe__V1__StepStaged *p)
{
    (void)arena;
    p->step = m->step;
    p->attempt = m->attempt;
    p->owner = m->owner;
    return 0;
}

int smoe_read_step_staged(struct smoe_reader *r, const Stablemoe__V1__StepStaged *p,
                          struct smoe_msg_step_staged *m)
{
    (void)r;
    *m = (struct smoe_msg_step_staged){p->step, p->attempt, p->owner};
    return 0;
}

int smoe_fill_step_commit(struct smoe_arena *arena, const struct smoe_msg_step_commit *m,
                          Stablemoe__V1__StepCommit *p)
{
    (void)arena;
    p->step = m->step;
    p->attempt = m->attempt;
    p->epoch = m->epoch;
    p->owner = m->owner;
    return 0;
}

int smoe_read_step_commit(struct smoe_reader *r, const Stablemoe__V1__StepCommit *p,
                          struct smoe_msg_step_commit *m)
{
    (void)r;
    *m = (struct smoe_msg_step_commit){p->step, p->attempt, p->epoch, p->owner};
    return 0;
}

int smoe_fill_step_gradient(struct smoe_arena *arena, const struct smoe_msg_step_gradient *m,
                            Stablemoe__V1__StepGradient *p)
{
    (void)arena;
    p->step = m->step;
    p->attempt = m->attempt;
    p->layer = m->layer;
    p->expert = m->expert;
    p->owner = m->owner;
    return 0;
}

int smoe_read_step_gradient(struct smoe_reader *r, const Stablemoe__V1__StepGradient *p,
                            struct smoe_msg_step_gradient *m)
{
    *m = (struct smoe_msg_step_gradient){p->step, p->attempt, p->layer, p->expert, p->owner};
    int rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1);
    return rc ? rc : smoe_check_range(r, "expert", p->expert, 0, SMOE_EXPERTS_MAX - 1);
}
