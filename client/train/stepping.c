/* SPDX-License-Identifier: Apache-2.0
 *
 * A step of all parameters: experts' and own gradients share one clip scale, which the gateway answers.
 *
 * With staleness 1 it is begun, and the next batch is computed before its answer is waited for, by the parameters
 * before the step: the experts' by the fleet, the trainer's own because they are not touched until then. Its own
 * gradients wait meanwhile beside those that gather. So every batch but the first is trained at parameters that lack
 * one step, all of them the same one, and nothing of it depends on time.
 *
 * The distilled router steps for itself, at once.
 */
#include <math.h>
#include <string.h>

#include "client/train/run.h"

#define PI 3.14159265358979323846

/* Linear warm-up, then a cosine to zero. */
static double learning_rate(const struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    double all = (double)smoe_train_steps_in_all(run), warmup = (double)o->warmup;
    double at = (double)run->step;
    if (at < warmup)
        return o->learning_rate * (at + 1) / warmup;
    double share =
        all > at ? (at - warmup) / (all - warmup) : 1; /* resumed, it may be past the end */
    return o->learning_rate * 0.5 * (1 + cos(PI * share));
}

static struct smoe_optimizer dense_optimizer(const struct smoe_train_run *run, double scale)
{
    const struct smoe_train_options *o = run->options;
    return (struct smoe_optimizer){
        .kind = o->optimizer == 0 ? SMOE_ADAMW : SMOE_SGD,
        .learning_rate = learning_rate(run),
        .momentum = o->momentum,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .epsilon = 1e-8,
        .weight_decay = o->weight_decay,
        .gradient_scale = scale,
        .t = run->step + 1,
    };
}

/* The distilled router's own step, clipped by its own norm. */
static void router_step(struct smoe_train_run *run, const struct smoe_optimizer *dense,
                        double divisor)
{
    if (smoe_router_stage(&run->router) != 1)
        return;
    const struct smoe_distilled *d = &run->router.distilled;
    double clip = run->options->clip_norm;
    double norm = sqrt(smoe_square_norm(d->n_params, d->grads)) / divisor;
    struct smoe_optimizer own = *dense;
    own.gradient_scale = (clip > 0 && norm > clip ? clip / norm : 1) / divisor;
    smoe_router_step(&run->router, &own);
}

/* What is waited for keeps its gradients; the others gather from zero. */
static void swap_gradients(struct smoe_train_run *run)
{
    smoe_real *gathered = run->model.grads;
    if (!run->stepping.grads)
        return;
    run->model.grads = run->stepping.grads;
    run->stepping.grads = gathered;
}

static int begin(struct smoe_train_run *run, size_t parts, struct smoe_why *why)
{
    struct smoe_train_stepping *s = &run->stepping;
    s->dense = dense_optimizer(run, 1);
    s->divisor = (double)parts;
    struct smoe_step_options o = {
        .kind = (enum smoe_layer_optimizer)s->dense.kind,
        .learning_rate = s->dense.learning_rate,
        .momentum = s->dense.momentum,
        .beta1 = s->dense.beta1,
        .beta2 = s->dense.beta2,
        .epsilon = s->dense.epsilon,
        .weight_decay = s->dense.weight_decay,
        .gradient_divisor = s->divisor,
        .clip_norm = run->options->clip_norm,
        .dense_square_norm =
            smoe_square_norm(run->model.n_params, run->model.grads) / (s->divisor * s->divisor),
    };
    int rc = run->experts->ops->step_begin(run->experts, &o, why);
    if (rc)
        return rc;
    router_step(run, &s->dense, s->divisor);
    swap_gradients(run);
    s->under_way = true;
    return 0;
}

int smoe_train_settle(struct smoe_train_run *run, struct smoe_why *why)
{
    struct smoe_train_stepping *s = &run->stepping;
    struct smoe_step_result done;
    if (!s->under_way)
        return 0;
    int rc = run->experts->ops->step_wait(run->experts, &done, why);
    if (rc)
        return rc;
    s->under_way = false;
    s->dense.gradient_scale = done.clip_scale / s->divisor;
    swap_gradients(run);
    smoe_model_step(&run->model, &s->dense);
    swap_gradients(run);
    run->step++;
    run->result.steps++;
    return smoe_watch_step(&run->watch, run, why);
}

int smoe_train_step(struct smoe_train_run *run, size_t parts, struct smoe_why *why)
{
    int rc = smoe_train_settle(run, why);
    rc = rc ? rc : begin(run, parts, why);
    return rc || run->options->staleness ? rc : smoe_train_settle(run, why);
}
