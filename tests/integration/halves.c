/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/integration/halves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/kernels/gemm.h"

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void must(struct half *half, int rc, const char *what)
{
    if (rc)
        die(what, smoe_client_error(half->client));
}

static void *room(size_t n, size_t size)
{
    void *memory = calloc(n + 1, size);
    if (!memory)
        die("halves", "out of memory");
    return memory;
}

/* ---- beginning and end ---- */

static void start_fleet(struct half *half, const char *gateway, const char *layer)
{
    const struct halves_setup *s = half->setup;
    struct smoe_client_options client = {
        .gateway = gateway, .name = "halves", .key_file = s->key_file};
    struct smoe_layer_options options = {
        .name = layer,
        .experts = s->model.experts,
        .d_model = s->expert.d_model,
        .d_ff = s->expert.d_ff,
        .activation = (enum smoe_layer_activation)s->expert.activation,
        .optimizer = s->step.kind,
        .seed = s->seed,
        .zero_output = s->zero_output,
    };
    must(half, smoe_client_open(&client, &half->client), "open");
    must(half, smoe_layer_declare(half->client, &options, &half->layer), "declare");
}

void half_start(struct half *half, const struct halves_setup *setup, const char *gateway,
                const char *layer)
{
    const struct smoe_model_shape *m = &setup->model;
    size_t visits = setup->rows * m->top_k, d = m->d_model;
    *half = (struct half){.setup = setup, .vectors = setup->step.kind == SMOE_LAYER_ADAMW ? 3 : 2};
    (void)smoe_gemm_setup();
    if (smoe_model_init(&half->model, m, setup->seed) ||
        smoe_pass_init(&half->pass, m, setup->rows) ||
        smoe_local_moe_init(&half->moe, &setup->expert, m->experts, m->top_k, setup->rows,
                            setup->seed, setup->zero_output))
        die("halves", "out of memory");
    half->n_params = half->moe.n_params;
    half->experts = room(visits, sizeof *half->experts);
    half->y = room(visits * d, sizeof *half->y);
    half->dy = room(visits * d, sizeof *half->dy);
    half->dx_visits = room(visits * d, sizeof *half->dx_visits);
    half->dx = room(setup->rows * d, sizeof *half->dx);
    half->dense_grads = room(half->model.n_params, sizeof *half->dense_grads);
    half->expert_grads = room(m->experts * half->n_params, sizeof *half->expert_grads);
    half->expert_states =
        room(m->experts * half->vectors * half->n_params, sizeof *half->expert_states);
    if (gateway)
        start_fleet(half, gateway, layer);
}

void half_release(struct half *half)
{
    void *arrays[] = {half->experts, half->y,           half->dy,           half->dx_visits,
                      half->dx,      half->dense_grads, half->expert_grads, half->expert_states};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    smoe_client_close(half->client);
    smoe_local_moe_release(&half->moe);
    smoe_pass_release(&half->pass);
    smoe_model_release(&half->model);
    *half = (struct half){0};
}

/* ---- a step ---- */

static struct smoe_optimizer optimizer(const struct half *half, uint64_t t, double clip_scale)
{
    const struct smoe_step_options *s = &half->setup->step;
    return (struct smoe_optimizer){
        .kind = (enum smoe_optimizer_kind)s->kind,
        .learning_rate = s->learning_rate,
        .momentum = s->momentum,
        .beta1 = s->beta1,
        .beta2 = s->beta2,
        .epsilon = s->epsilon,
        .weight_decay = s->weight_decay,
        .gradient_scale = clip_scale / s->gradient_divisor,
        .t = t,
    };
}

/* Square norm of gradients that are still to be divided. */
static double divided_norm(const struct half *half, double square_norm)
{
    double divisor = half->setup->step.gradient_divisor;
    return square_norm / (divisor * divisor);
}

static void keep_dense_grads(struct half *half)
{
    memcpy(half->dense_grads, half->model.grads, half->model.n_params * sizeof *half->dense_grads);
}

/* Forward and backward through the fleet, up to the gradients. */
static void pass_fleet(struct half *half, const struct half_batch *batch)
{
    struct smoe_model *model = &half->model;
    size_t n = batch->n, visits = n * model->shape.top_k, d = model->shape.d_model;
    struct smoe_model_result result;
    struct smoe_ticket *ticket = NULL;
    const smoe_real *dx = NULL;
    smoe_model_forward_gate(model, &half->pass, n, batch->x);
    struct smoe_submit_options submit = {.tokens = (uint32_t)n,
                                         .top_k = model->shape.top_k,
                                         .scores = half->pass.scores,
                                         .x = half->pass.h};
    must(half, smoe_submit(half->layer, &submit, &ticket), "submit");
    must(half, smoe_wait(ticket), "wait");
    memcpy(half->experts, smoe_ticket_experts(ticket), visits * sizeof *half->experts);
    memcpy(half->y, smoe_ticket_outputs(ticket), visits * d * sizeof *half->y);
    smoe_model_forward_head(model, &half->pass, half->experts, half->y, batch->labels, &result);
    half->loss = result.cross_entropy;
    smoe_model_backward_head(model, &half->pass, half->y, half->dy);
    must(half, smoe_gradient(ticket, half->dy), "gradient");
    must(half, smoe_wait_gradient(ticket, &dx), "wait for the gradient");
    memcpy(half->dx, dx, n * d * sizeof *dx);
    smoe_ticket_release(ticket);
    smoe_model_backward_gate(model, &half->pass, half->dx);
}

static void fetch_gradient(struct half *half, uint32_t expert)
{
    int rc = smoe_expert_fetch(half->layer, expert, SMOE_EXPERT_GRADIENT,
                               half->expert_grads + expert * half->n_params);
    half->cut = rc == SMOE_ESTATE;
    must(half, half->cut ? 0 : rc, "fetch a gradient");
}

static void step_fleet(struct half *half, const struct half_batch *batch)
{
    struct smoe_model *model = &half->model;
    struct smoe_step_result done;
    pass_fleet(half, batch);
    keep_dense_grads(half);
    for (uint32_t e = 0; half->record && !half->cut && e < model->shape.experts; e++)
        fetch_gradient(half, e);
    struct smoe_step_options step = half->setup->step;
    step.dense_square_norm = divided_norm(half, smoe_square_norm(model->n_params, model->grads));
    must(half, smoe_step(half->client, &step, &done), "step");
    half->clip_scale = done.clip_scale;
    half->square_norm = done.square_norm;
    struct smoe_optimizer o = optimizer(half, done.step, done.clip_scale);
    smoe_model_step(model, &o);
}

static void pass_local(struct half *half, const struct half_batch *batch, const uint16_t *routes)
{
    struct smoe_model *model = &half->model;
    size_t n = batch->n, k = model->shape.top_k, d = model->shape.d_model;
    struct smoe_model_result result;
    smoe_model_forward_gate(model, &half->pass, n, batch->x);
    memcpy(half->experts, routes ? routes : half->pass.top, n * k * sizeof *half->experts);
    smoe_local_moe_forward(&half->moe, n, half->pass.h, half->experts, half->y);
    smoe_model_forward_head(model, &half->pass, half->experts, half->y, batch->labels, &result);
    half->loss = result.cross_entropy;
    smoe_model_backward_head(model, &half->pass, half->y, half->dy);
    smoe_local_moe_backward(&half->moe, half->dy, half->dx_visits);
    smoe_visits_sum(n, k, d, half->dx_visits, half->dx);
    smoe_model_backward_gate(model, &half->pass, half->dx);
}

static void step_local(struct half *half, const struct half_batch *batch, const uint16_t *routes,
                       uint64_t t)
{
    struct smoe_model *model = &half->model;
    pass_local(half, batch, routes);
    keep_dense_grads(half);
    memcpy(half->expert_grads, half->moe.grads,
           model->shape.experts * half->n_params * sizeof *half->expert_grads);
    half->square_norm = divided_norm(half, smoe_square_norm(model->n_params, model->grads) +
                                               smoe_local_moe_square_norm(&half->moe));
    double clip = half->setup->step.clip_norm, norm = sqrt(half->square_norm);
    half->clip_scale = clip > 0 && norm > clip ? clip / norm : 1;
    struct smoe_optimizer o = optimizer(half, t, half->clip_scale);
    smoe_model_step(model, &o);
    smoe_local_moe_step(&half->moe, &o);
}

void half_step(struct half *half, const struct half_batch *batch, const uint16_t *routes,
               uint64_t t)
{
    if (half->client)
        step_fleet(half, batch);
    else
        step_local(half, batch, routes, t);
}

/* ---- states ---- */

static void fetch_expert(struct half *half, uint32_t expert, smoe_real *state)
{
    const struct timespec pause = {0, 2000000};
    const unsigned parts = SMOE_EXPERT_WEIGHTS | SMOE_EXPERT_MOMENTS;
    int rc = smoe_expert_fetch(half->layer, expert, parts, state);
    while (half->setup->patient && (rc == SMOE_ECLOSED || rc == SMOE_ESTATE)) {
        (void)nanosleep(&pause, NULL);
        rc = smoe_expert_fetch(half->layer, expert, parts, state);
    }
    must(half, rc, "fetch an expert");
}

void half_read_experts(struct half *half)
{
    size_t n = half->n_params;
    smoe_real *local[] = {half->moe.params, half->moe.moments_m, half->moe.moments_v};
    for (uint32_t e = 0; e < half->model.shape.experts; e++) {
        smoe_real *state = half->expert_states + e * half->vectors * n;
        if (half->client)
            fetch_expert(half, e, state);
        else
            for (unsigned v = 0; v < half->vectors; v++)
                memcpy(state + v * n, local[v] + e * n, n * sizeof *state);
    }
}

void halves_equalize(struct half *local, struct half *fleet)
{
    size_t n = local->n_params, dense = local->model.n_params * sizeof(smoe_real);
    smoe_real *vectors[] = {local->moe.params, local->moe.moments_m, local->moe.moments_v};
    half_read_experts(fleet);
    for (uint32_t e = 0; e < local->model.shape.experts; e++)
        for (unsigned v = 0; v < local->vectors; v++)
            memcpy(vectors[v] + e * n, fleet->expert_states + (e * fleet->vectors + v) * n,
                   n * sizeof(smoe_real));
    memcpy(local->model.params, fleet->model.params, dense);
    memcpy(local->model.moments_m, fleet->model.moments_m, dense);
    memcpy(local->model.moments_v, fleet->model.moments_v, dense);
}

double tensor_distance(size_t n, const smoe_real *got, const smoe_real *want)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        difference += d * d;
        size += (double)want[i] * (double)want[i];
    }
    if (!isfinite(difference) || !isfinite(size))
        return (double)INFINITY;
    return difference > 0 ? sqrt(difference / size) : 0;
}
