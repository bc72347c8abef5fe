/* SPDX-License-Identifier: Apache-2.0
 *
 * The layer in this process (model/local_moe.h), routed by the largest scores. Submitting does nothing yet:
 * the work is done when it is waited for, so that forward and backward of a part follow each other, as
 * local_moe wants them.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/experts.h"
#include "client/train/model/local_moe.h"
#include "client/train/model/model.h"
#include "common/kernels/score.h"

struct local_part {
    struct smoe_experts_batch batch;
    uint16_t *experts; /* owned, as all below; [rows_max, K] */
    smoe_real *y;      /* [rows_max, K, d], then dx of the visits */
    smoe_real *dx;     /* [rows_max, d] */
};

struct local {
    struct smoe_experts base; /* the first member */
    struct smoe_local_moe moe;
    unsigned moments; /* of the optimizer: 1 or 2 */
    uint64_t step;
    struct smoe_step_options stepping; /* of the step that was begun */
    smoe_real *grads; /* [E, n_params] its gradients, or zeros; NULL without staleness */
    size_t n_parts;
    struct local_part *parts; /* [n_parts] */
};

static struct local *self_of(struct smoe_experts *e)
{
    return (struct local *)(void *)e;
}

static int submit(struct smoe_experts *e, size_t part, const struct smoe_experts_batch *batch,
                  struct smoe_why *why)
{
    (void)why;
    self_of(e)->parts[part].batch = *batch;
    return 0;
}

static int wait_forward(struct smoe_experts *e, size_t part, const uint16_t **ret_experts,
                        const smoe_real **ret_y, struct smoe_why *why)
{
    struct local *l = self_of(e);
    struct local_part *p = &l->parts[part];
    size_t experts = l->moe.experts, k = l->moe.top_k;
    (void)why;
    for (size_t i = 0; i < p->batch.n; i++)
        smoe_topk(experts, p->batch.scores + i * experts, k, p->experts + i * k);
    smoe_local_moe_forward(&l->moe, p->batch.n, p->batch.x, p->experts, p->y);
    *ret_experts = p->experts;
    *ret_y = p->y;
    return 0;
}

static int backward(struct smoe_experts *e, size_t part, const smoe_real *dy, struct smoe_why *why)
{
    struct local *l = self_of(e);
    struct local_part *p = &l->parts[part];
    (void)why;
    smoe_local_moe_backward(&l->moe, dy, p->y);
    smoe_visits_sum(p->batch.n, l->moe.top_k, l->moe.shape.d_model, p->y, p->dx);
    return 0;
}

static int wait_backward(struct smoe_experts *e, size_t part, const smoe_real **ret_dx,
                         struct smoe_why *why)
{
    (void)why;
    *ret_dx = self_of(e)->parts[part].dx;
    return 0;
}

static void done(struct smoe_experts *e, size_t part)
{
    self_of(e)->parts[part].batch = (struct smoe_experts_batch){.n = 0};
}

/* Gradients of the step wait, others gather. */
static void swap_gradients(struct local *l)
{
    smoe_real *gathered = l->moe.grads;
    if (!l->grads)
        return;
    l->moe.grads = l->grads;
    l->grads = gathered;
}

static int step_begin(struct smoe_experts *e, const struct smoe_step_options *o,
                      struct smoe_why *why)
{
    struct local *l = self_of(e);
    (void)why;
    l->stepping = *o;
    swap_gradients(l);
    return 0;
}

#define SQUARE_NORM_MAX 1e36 /* beyond it a gateway refuses the step, too */

/* One clip scale for everything, as the gateway answers it; of gradients that are not finite there is no step. */
static int step_wait(struct smoe_experts *e, struct smoe_step_result *ret, struct smoe_why *why)
{
    struct local *l = self_of(e);
    const struct smoe_step_options *o = &l->stepping;
    swap_gradients(l);
    double divisor = o->gradient_divisor;
    double square =
        o->dense_square_norm + smoe_local_moe_square_norm(&l->moe) / (divisor * divisor);
    if (!(square <= SQUARE_NORM_MAX)) /* NaN too */
        return smoe_fail(why, SMOE_ENOTFINITE, "STEP %" PRIu64 ": a gradient is not finite",
                         l->step + 1);
    double norm = sqrt(square);
    double scale = o->clip_norm > 0 && norm > o->clip_norm ? o->clip_norm / norm : 1;
    struct smoe_optimizer optimizer = {
        .kind = (enum smoe_optimizer_kind)o->kind,
        .learning_rate = o->learning_rate,
        .momentum = o->momentum,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .epsilon = o->epsilon,
        .weight_decay = o->weight_decay,
        .gradient_scale = scale / divisor,
        .t = ++l->step,
    };
    smoe_local_moe_step(&l->moe, &optimizer);
    swap_gradients(l);
    *ret = (struct smoe_step_result){l->step, scale, square};
    return 0;
}

/* The vectors of one expert's state, in the order of a checkpoint. */
static void vectors_of(struct local *l, uint32_t expert, smoe_real *ret[3])
{
    smoe_real *all[] = {l->moe.params, l->moe.moments_m, l->moe.moments_v};
    for (unsigned v = 0; v < 3; v++)
        ret[v] = all[v] + expert * l->base.n_params;
}

static int fetch(struct smoe_experts *e, uint32_t expert, smoe_real *ret_state,
                 struct smoe_why *why)
{
    struct local *l = self_of(e);
    size_t n = l->base.n_params;
    smoe_real *vectors[3];
    (void)why;
    vectors_of(l, expert, vectors);
    for (unsigned v = 0; v <= l->moments; v++)
        memcpy(ret_state + v * n, vectors[v], n * sizeof *ret_state);
    return 0;
}

static int restore(struct smoe_experts *e, uint64_t to, struct smoe_why *why)
{
    (void)why;
    self_of(e)->step = to;
    return 0;
}

static int store(struct smoe_experts *e, uint32_t expert, const smoe_real *state,
                 struct smoe_why *why)
{
    struct local *l = self_of(e);
    size_t n = l->base.n_params;
    smoe_real *vectors[3];
    (void)why;
    vectors_of(l, expert, vectors);
    for (unsigned v = 0; v <= l->moments; v++)
        memcpy(vectors[v], state + v * n, n * sizeof *state);
    return 0;
}

static void close_local(struct smoe_experts *e)
{
    struct local *l = self_of(e);
    for (size_t i = 0; l->parts && i < l->n_parts; i++) {
        free(l->parts[i].experts);
        free(l->parts[i].y);
        free(l->parts[i].dx);
    }
    smoe_local_moe_release(&l->moe);
    free(l->grads);
    free(l->parts);
    free(l);
}

static int start(struct local *l, const struct smoe_train_options *o, size_t rows_max)
{
    struct smoe_ffn_shape shape = {(uint32_t)o->d_model, (uint32_t)o->d_ff,
                                   (enum smoe_activation)(o->activation + 1)};
    size_t visits = rows_max * o->top_k;
    l->n_parts = o->parts;
    l->parts = calloc(o->parts, sizeof *l->parts);
    if (!l->parts)
        return SMOE_ENOMEMORY;
    for (size_t i = 0; i < l->n_parts; i++) {
        struct local_part *p = &l->parts[i];
        p->experts = malloc(visits * sizeof *p->experts);
        p->y = malloc(visits * o->d_model * sizeof *p->y);
        p->dx = malloc(rows_max * o->d_model * sizeof *p->dx);
        if (!p->experts || !p->y || !p->dx)
            return SMOE_ENOMEMORY;
    }
    int rc = smoe_local_moe_init(&l->moe, &shape, (uint32_t)o->experts, (uint32_t)o->top_k,
                                 rows_max, o->seed, true);
    if (rc || !o->staleness)
        return rc;
    l->grads = calloc(l->moe.experts * l->moe.n_params, sizeof *l->grads);
    return l->grads ? 0 : SMOE_ENOMEMORY;
}

int smoe_experts_open_local(const struct smoe_train_options *o, size_t rows_max,
                            struct smoe_experts **ret, struct smoe_why *why)
{
    static const struct smoe_experts_ops ops = {.submit = submit,
                                                .wait = wait_forward,
                                                .backward = backward,
                                                .wait_backward = wait_backward,
                                                .done = done,
                                                .step_begin = step_begin,
                                                .step_wait = step_wait,
                                                .fetch = fetch,
                                                .restore = restore,
                                                .store = store,
                                                .close = close_local};
    struct local *l = calloc(1, sizeof *l);
    if (!l)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    l->base.ops = &ops;
    l->moments = o->optimizer == 0 ? 2 : 1;
    snprintf(l->base.policy, sizeof l->base.policy, "topk");
    int rc = start(l, o, rows_max);
    if (rc) {
        close_local(&l->base);
        return smoe_fail(why, rc, "out of memory");
    }
    l->base.n_params = l->moe.n_params;
    *ret = &l->base;
    return 0;
}

int smoe_experts_open(const struct smoe_train_options *o, size_t rows_max,
                      struct smoe_experts **ret, struct smoe_why *why)
{
    return o->local ? smoe_experts_open_local(o, rows_max, ret, why)
                    : smoe_experts_open_fleet(o, ret, why);
}

void smoe_experts_close(struct smoe_experts *experts)
{
    if (experts)
        experts->ops->close(experts);
}
