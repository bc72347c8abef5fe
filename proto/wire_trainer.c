/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages between trainer and daemon, and the expert-state messages that travel both hops.
 */
#include "proto/wire_fields.h"

#define PARTS_ALL      15 /* of enum smoe_state_part */
#define BATCH_OK(r, p) smoe_check_range(r, "batch", (p)->batch, 1, SMOE_BATCH_ID_MAX)

void smoe_fill_shape(const struct smoe_layer_shape *m, Stablemoe__V1__LayerShape *p)
{
    p->experts = m->experts;
    p->d_model = m->d_model;
    p->d_ff = m->d_ff;
    p->activation = (Stablemoe__V1__Activation)m->activation;
    p->dtype = (Stablemoe__V1__Dtype)m->dtype;
    p->optimizer = (Stablemoe__V1__OptimizerKind)m->optimizer;
    p->seed = m->seed;
    p->zero_output = m->zero_output;
    p->wire = (Stablemoe__V1__WireFormat)m->wire;
    p->staleness = m->staleness;
}

int smoe_read_shape(struct smoe_reader *r, const Stablemoe__V1__LayerShape *p,
                    struct smoe_layer_shape *m)
{
    int rc;
    if (!p)
        return smoe_fail(r->why, SMOE_EFIELD, "%s.shape: missing", r->message);
    if ((rc = smoe_check_range(r, "shape.experts", p->experts, 1, SMOE_EXPERTS_MAX)) ||
        (rc = smoe_check_range(r, "shape.d_model", p->d_model, 1, SMOE_DIM_MAX)) ||
        (rc = smoe_check_range(r, "shape.d_ff", p->d_ff, 1, SMOE_DIM_MAX)) ||
        (rc = smoe_check_range(r, "shape.activation", (uint64_t)p->activation, 1, 3)) ||
        (rc = smoe_check_range(r, "shape.dtype", (uint64_t)p->dtype, 1, 2)) ||
        (rc = smoe_check_range(r, "shape.optimizer", (uint64_t)p->optimizer, 1, 2)) ||
        (rc = smoe_check_range(r, "shape.wire", (uint64_t)p->wire, 0, SMOE_WIRE_BF16)) ||
        (rc = smoe_check_range(r, "shape.staleness", p->staleness, 0, SMOE_STALENESS_MAX)))
        return rc;
    *m = (struct smoe_layer_shape){
        .experts = p->experts,
        .d_model = p->d_model,
        .d_ff = p->d_ff,
        .activation = (uint32_t)p->activation,
        .dtype = (enum smoe_dtype)p->dtype,
        .optimizer = (uint32_t)p->optimizer,
        .seed = p->seed,
        .zero_output = p->zero_output,
        .wire = (enum smoe_wire_format)p->wire,
        .staleness = p->staleness,
    };
    return 0;
}

static Stablemoe__V1__LayerShape *new_shape(struct smoe_arena *arena,
                                            const struct smoe_layer_shape *m)
{
    Stablemoe__V1__LayerShape *p = smoe_arena_alloc(arena, sizeof *p);
    if (!p)
        return NULL;
    stablemoe__v1__layer_shape__init(p);
    smoe_fill_shape(m, p);
    return p;
}

int smoe_fill_layer_declare(struct smoe_arena *arena, const struct smoe_msg_layer_declare *m,
                            Stablemoe__V1__LayerDeclare *p)
{
    p->request = m->request;
    p->name = smoe_unconst(m->name);
    p->run = m->run;
    p->evaluate_only = m->evaluate_only;
    p->step = m->step;
    if (m->evaluate_only)
        return 0;
    p->shape = new_shape(arena, &m->shape);
    return p->shape ? 0 : SMOE_ETOOBIG;
}

int smoe_read_layer_declare(struct smoe_reader *r, const Stablemoe__V1__LayerDeclare *p,
                            struct smoe_msg_layer_declare *m)
{
    m->request = p->request;
    m->run = p->run;
    m->evaluate_only = p->evaluate_only;
    m->step = p->step;
    int rc = smoe_read_name(r, "name", p->name, m->name);
    if (rc || m->evaluate_only)
        return rc;
    if ((rc = smoe_check_range(r, "run", p->run, 1, UINT64_MAX)))
        return rc;
    return smoe_read_shape(r, p->shape, &m->shape);
}

int smoe_fill_layer_ready(struct smoe_arena *arena, const struct smoe_msg_layer_ready *m,
                          Stablemoe__V1__LayerReady *p)
{
    p->request = m->request;
    p->layer = m->layer;
    p->run = m->run;
    p->step = m->step;
    p->shape = new_shape(arena, &m->shape);
    int rc = smoe_fill_head(arena, &m->router, &p->router);
    return p->shape ? rc : SMOE_ETOOBIG;
}

int smoe_read_layer_ready(struct smoe_reader *r, const Stablemoe__V1__LayerReady *p,
                          struct smoe_msg_layer_ready *m)
{
    m->request = p->request;
    m->layer = p->layer;
    m->run = p->run;
    m->step = p->step;
    int rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1);
    if (rc == 0)
        rc = smoe_read_head(r, p->router, &m->router);
    return rc ? rc : smoe_read_shape(r, p->shape, &m->shape);
}

int smoe_fill_submit(struct smoe_arena *arena, const struct smoe_msg_submit *m,
                     Stablemoe__V1__Submit *p)
{
    (void)arena;
    p->batch = m->batch;
    p->attempt = m->attempt;
    p->layer = m->layer;
    p->tokens = m->tokens;
    p->top_k = m->top_k;
    p->needs_gradient = m->needs_gradient;
    p->routed = m->routed;
    p->router_version = m->router_version;
    p->router_digest = m->router_digest;
    p->ahead = m->ahead;
    p->base_step = m->base;
    return 0;
}

int smoe_read_submit(struct smoe_reader *r, const Stablemoe__V1__Submit *p,
                     struct smoe_msg_submit *m)
{
    int rc;
    if ((rc = BATCH_OK(r, p)) ||
        (rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "tokens", p->tokens, 1, SMOE_BATCH_TOKENS_MAX)) ||
        (rc = smoe_check_range(r, "top_k", p->top_k, 1, SMOE_TOP_K_MAX)))
        return rc;
    if (p->routed && p->router_version)
        return smoe_fail(r->why, SMOE_EFIELD,
                         "SUBMIT.router_version %llu: not with routed, which brings experts",
                         (unsigned long long)p->router_version);
    if (p->ahead && !p->needs_gradient)
        return smoe_fail(r->why, SMOE_EFIELD, "SUBMIT.ahead: an evaluation waits for the step");
    *m = (struct smoe_msg_submit){
        .batch = p->batch,
        .attempt = p->attempt,
        .layer = p->layer,
        .tokens = p->tokens,
        .top_k = p->top_k,
        .needs_gradient = p->needs_gradient,
        .routed = p->routed,
        .router_version = p->router_version,
        .router_digest = p->router_digest,
        .ahead = p->ahead,
        .base = p->base_step,
    };
    return 0;
}

int smoe_fill_result(struct smoe_arena *arena, const struct smoe_msg_result *m,
                     Stablemoe__V1__Result *p)
{
    (void)arena;
    p->batch = m->batch;
    p->attempt = m->attempt;
    p->expert = m->expert;
    p->rows = m->rows;
    return 0;
}

int smoe_read_result(struct smoe_reader *r, const Stablemoe__V1__Result *p,
                     struct smoe_msg_result *m)
{
    int rc;
    if ((rc = BATCH_OK(r, p)) ||
        (rc = smoe_check_range(r, "expert", p->expert, 0, SMOE_EXPERTS_MAX - 1)) ||
        (rc = smoe_check_range(r, "rows", p->rows, 1, SMOE_PARCEL_ROWS_MAX)))
        return rc;
    *m = (struct smoe_msg_result){p->batch, p->attempt, p->expert, p->rows};
    return 0;
}

int smoe_fill_need_inputs(struct smoe_arena *arena, const struct smoe_msg_need_inputs *m,
                          Stablemoe__V1__NeedInputs *p)
{
    (void)arena;
    p->batch = m->batch;
    p->attempt = m->attempt;
    return 0;
}

int smoe_read_need_inputs(struct smoe_reader *r, const Stablemoe__V1__NeedInputs *p,
                          struct smoe_msg_need_inputs *m)
{
    *m = (struct smoe_msg_need_inputs){p->batch, p->attempt};
    return BATCH_OK(r, p);
}

int smoe_fill_inputs(struct smoe_arena *arena, const struct smoe_msg_inputs *m,
                     Stablemoe__V1__Inputs *p)
{
    (void)arena;
    p->batch = m->batch;
    p->attempt = m->attempt;
    return 0;
}

int smoe_read_inputs(struct smoe_reader *r, const Stablemoe__V1__Inputs *p,
                     struct smoe_msg_inputs *m)
{
    *m = (struct smoe_msg_inputs){p->batch, p->attempt};
    return BATCH_OK(r, p);
}

int smoe_fill_gradient(struct smoe_arena *arena, const struct smoe_msg_gradient *m,
                       Stablemoe__V1__Gradient *p)
{
    (void)arena;
    p->batch = m->batch;
    p->attempt = m->attempt;
    return 0;
}

int smoe_read_gradient(struct smoe_reader *r, const Stablemoe__V1__Gradient *p,
                       struct smoe_msg_gradient *m)
{
    *m = (struct smoe_msg_gradient){p->batch, p->attempt};
    return BATCH_OK(r, p);
}

int smoe_fill_input_gradient(struct smoe_arena *arena, const struct smoe_msg_input_gradient *m,
                             Stablemoe__V1__InputGradient *p)
{
    (void)arena;
    p->batch = m->batch;
    p->attempt = m->attempt;
    p->expert = m->expert;
    p->rows = m->rows;
    return 0;
}

int smoe_read_input_gradient(struct smoe_reader *r, const Stablemoe__V1__InputGradient *p,
                             struct smoe_msg_input_gradient *m)
{
    int rc;
    if ((rc = BATCH_OK(r, p)) ||
        (rc = smoe_check_range(r, "expert", p->expert, 0, SMOE_EXPERTS_MAX - 1)) ||
        (rc = smoe_check_range(r, "rows", p->rows, 1, SMOE_PARCEL_ROWS_MAX)))
        return rc;
    *m = (struct smoe_msg_input_gradient){p->batch, p->attempt, p->expert, p->rows};
    return 0;
}

void smoe_fill_step_optimizer(const struct smoe_step_optimizer *m, Stablemoe__V1__Optimizer *p)
{
    p->kind = (Stablemoe__V1__OptimizerKind)m->kind;
    p->learning_rate = m->learning_rate;
    p->momentum = m->momentum;
    p->beta1 = m->beta1;
    p->beta2 = m->beta2;
    p->epsilon = m->epsilon;
    p->weight_decay = m->weight_decay;
}

int smoe_read_step_optimizer(struct smoe_reader *r, const Stablemoe__V1__Optimizer *p,
                             struct smoe_step_optimizer *m)
{
    int rc;
    if (!p)
        return smoe_fail(r->why, SMOE_EFIELD, "%s.optimizer: missing", r->message);
    if ((rc = smoe_check_range(r, "optimizer.kind", (uint64_t)p->kind, 1, 2)) ||
        (rc = smoe_check_double(r, "optimizer.learning_rate", p->learning_rate, 0, 1e6)) ||
        (rc = smoe_check_fraction(r, "optimizer.momentum", p->momentum)) ||
        (rc = smoe_check_fraction(r, "optimizer.beta1", p->beta1)) ||
        (rc = smoe_check_fraction(r, "optimizer.beta2", p->beta2)) ||
        (rc =
             smoe_check_double(r, "optimizer.epsilon", p->epsilon, p->kind == 2 ? 1e-300 : 0, 1)) ||
        (rc = smoe_check_double(r, "optimizer.weight_decay", p->weight_decay, 0, 1e6)))
        return rc;
    *m = (struct smoe_step_optimizer){(uint32_t)p->kind, p->learning_rate, p->momentum,    p->beta1,
                                      p->beta2,          p->epsilon,       p->weight_decay};
    return 0;
}

int smoe_fill_step(struct smoe_arena *arena, const struct smoe_msg_step *m, Stablemoe__V1__Step *p)
{
    Stablemoe__V1__Optimizer *optimizer = smoe_arena_alloc(arena, sizeof *optimizer);
    if (!optimizer)
        return SMOE_ETOOBIG;
    stablemoe__v1__optimizer__init(optimizer);
    smoe_fill_step_optimizer(&m->optimizer, optimizer);
    p->step = m->step;
    p->attempt = m->attempt;
    p->batches = smoe_unconst(m->batches);
    p->n_batches = m->n_batches;
    p->optimizer = optimizer;
    p->gradient_divisor = m->gradient_divisor;
    p->clip_norm = m->clip_norm;
    p->dense_square_norm = m->dense_square_norm;
    return 0;
}

int smoe_read_step(struct smoe_reader *r, const Stablemoe__V1__Step *p, struct smoe_msg_step *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "step", p->step, 1, UINT64_MAX)) ||
        (rc = smoe_check_range(r, "batches", p->n_batches, 0, SMOE_STEP_BATCHES_MAX)) ||
        (rc = smoe_read_step_optimizer(r, p->optimizer, &m->optimizer)) ||
        (rc = smoe_check_double(r, "gradient_divisor", p->gradient_divisor, 1e-30, 1e30)) ||
        (rc = smoe_check_double(r, "clip_norm", p->clip_norm, 0, 1e30)) ||
        (rc = smoe_check_double(r, "dense_square_norm", p->dense_square_norm, 0, 1e60)))
        return rc;
    m->step = p->step;
    m->attempt = p->attempt;
    m->batches = p->batches;
    m->n_batches = p->n_batches;
    m->gradient_divisor = p->gradient_divisor;
    m->clip_norm = p->clip_norm;
    m->dense_square_norm = p->dense_square_norm;
    return 0;
}

int smoe_fill_step_done(struct smoe_arena *arena, const struct smoe_msg_step_done *m,
                        Stablemoe__V1__StepDone *p)
{
    (void)arena;
    p->step = m->step;
    p->epoch = m->epoch;
    p->clip_scale = m->clip_scale;
    p->square_norm = m->square_norm;
    return 0;
}

int smoe_read_step_done(struct smoe_reader *r, const Stablemoe__V1__StepDone *p,
                        struct smoe_msg_step_done *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "step", p->step, 1, UINT64_MAX)) ||
        (rc = smoe_check_double(r, "clip_scale", p->clip_scale, 0, 1)) ||
        (rc = smoe_check_double(r, "square_norm", p->square_norm, 0, 1e300)))
        return rc;
    *m = (struct smoe_msg_step_done){p->step, p->epoch, p->clip_scale, p->square_norm};
    return 0;
}

int smoe_fill_discard(struct smoe_arena *arena, const struct smoe_msg_discard *m,
                      Stablemoe__V1__Discard *p)
{
    (void)arena;
    p->batch = m->batch;
    p->attempt = m->attempt;
    return 0;
}

int smoe_read_discard(struct smoe_reader *r, const Stablemoe__V1__Discard *p,
                      struct smoe_msg_discard *m)
{
    *m = (struct smoe_msg_discard){p->batch, p->attempt};
    return BATCH_OK(r, p);
}

int smoe_fill_need(struct smoe_arena *arena, const struct smoe_msg_need *m, Stablemoe__V1__Need *p)
{
    (void)arena;
    p->attempt = m->attempt;
    p->reason = smoe_unconst(m->reason);
    return 0;
}

int smoe_read_need(struct smoe_reader *r, const Stablemoe__V1__Need *p, struct smoe_msg_need *m)
{
    (void)r;
    m->attempt = p->attempt;
    smoe_read_text(p->reason, m->reason, sizeof m->reason);
    return 0;
}

int smoe_fill_restore(struct smoe_arena *arena, const struct smoe_msg_restore *m,
                      Stablemoe__V1__Restore *p)
{
    (void)arena;
    p->step = m->step;
    p->attempt = m->attempt;
    return 0;
}

int smoe_read_restore(struct smoe_reader *r, const Stablemoe__V1__Restore *p,
                      struct smoe_msg_restore *m)
{
    (void)r;
    *m = (struct smoe_msg_restore){p->step, p->attempt};
    return 0;
}

static int check_state(struct smoe_reader *r, uint32_t layer, uint32_t expert, uint32_t parts,
                       uint32_t parts_max)
{
    int rc;
    if ((rc = smoe_check_range(r, "layer", layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "expert", expert, 0, SMOE_EXPERTS_MAX - 1)))
        return rc;
    return smoe_check_range(r, "parts", parts, 1, parts_max);
}

int smoe_fill_expert_fetch(struct smoe_arena *arena, const struct smoe_msg_expert_fetch *m,
                           Stablemoe__V1__ExpertFetch *p)
{
    (void)arena;
    p->request = m->request;
    p->layer = m->layer;
    p->expert = m->expert;
    p->parts = m->parts;
    return 0;
}

int smoe_read_expert_fetch(struct smoe_reader *r, const Stablemoe__V1__ExpertFetch *p,
                           struct smoe_msg_expert_fetch *m)
{
    *m = (struct smoe_msg_expert_fetch){p->request, p->layer, p->expert, p->parts};
    return check_state(r, p->layer, p->expert, p->parts, PARTS_ALL);
}

int smoe_fill_expert_state(struct smoe_arena *arena, const struct smoe_msg_expert_state *m,
                           Stablemoe__V1__ExpertState *p)
{
    (void)arena;
    p->request = m->request;
    p->layer = m->layer;
    p->expert = m->expert;
    p->parts = m->parts;
    p->step = m->step;
    p->offset = m->offset;
    p->length = m->length;
    p->series = m->series;
    return 0;
}

int smoe_read_expert_state(struct smoe_reader *r, const Stablemoe__V1__ExpertState *p,
                           struct smoe_msg_expert_state *m)
{
    int rc;
    *m = (struct smoe_msg_expert_state){p->request, p->layer,  p->expert, p->parts,
                                        p->step,    p->offset, p->length, p->series};
    if ((rc = smoe_check_range(r, "offset", p->offset, 0, SMOE_PARAMETERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "length", p->length, 0, SMOE_PARAMETERS_MAX)))
        return rc;
    return check_state(r, p->layer, p->expert, p->parts, PARTS_ALL);
}

int smoe_fill_expert_store(struct smoe_arena *arena, const struct smoe_msg_expert_store *m,
                           Stablemoe__V1__ExpertStore *p)
{
    (void)arena;
    p->request = m->request;
    p->layer = m->layer;
    p->expert = m->expert;
    p->parts = m->parts;
    p->step = m->step;
    p->attempt = m->attempt;
    return 0;
}

int smoe_read_expert_store(struct smoe_reader *r, const Stablemoe__V1__ExpertStore *p,
                           struct smoe_msg_expert_store *m)
{
    *m = (struct smoe_msg_expert_store){p->request, p->layer, p->expert,
                                        p->parts,   p->step,  p->attempt};
    int rc = check_state(r, p->layer, p->expert, p->parts, PARTS_ALL);
    if (rc == 0 &&
        (p->parts & ~(uint32_t)SMOE_STATE_OLDER) != (SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS))
        return smoe_fail(r->why, SMOE_EFIELD,
                         "EXPERT_STORE.parts %u: weights and moments (3) must be given", p->parts);
    return rc;
}

int smoe_fill_expert_stored(struct smoe_arena *arena, const struct smoe_msg_expert_stored *m,
                            Stablemoe__V1__ExpertStored *p)
{
    (void)arena;
    p->request = m->request;
    p->layer = m->layer;
    p->expert = m->expert;
    return 0;
}

int smoe_read_expert_stored(struct smoe_reader *r, const Stablemoe__V1__ExpertStored *p,
                            struct smoe_msg_expert_stored *m)
{
    *m = (struct smoe_msg_expert_stored){p->request, p->layer, p->expert};
    return check_state(r, p->layer, p->expert, 1, 7);
}
