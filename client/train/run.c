/* SPDX-License-Identifier: Apache-2.0
 *
 * A step:
 *
 *     for each part of the batch   gate here, submit (workers begin)
 *     for each part                wait for the experts, head and loss here, hand the gradient back
 *     for each part                wait for dx, gate and encoder backward here
 *     step: experts' and own gradients share one clip scale; both optimizers step
 *
 * With two parts the workers compute one while the trainer computes the other. The gradients of the
 * parts are means over equally many images, so both sides divide their sum by the number of parts.
 */
#include "client/train/run.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/checkpoint.h"
#include "client/train/progress.h"
#include "common/io/clock.h"
#include "common/kernels/gemm.h"

#define EVALUATION_ROWS 500
#define PI              3.14159265358979323846

/* ---- beginning and end ---- */

static struct smoe_model_shape model_shape(const struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    return (struct smoe_model_shape){
        .pixels = (uint32_t)run->dataset.pixels,
        .d_model = (uint32_t)o->d_model,
        .experts = (uint32_t)o->experts,
        .top_k = (uint32_t)o->top_k,
        .classes = run->dataset.classes,
        .balance_weight = o->balance,
    };
}

static int start_parts(struct smoe_train_run *run)
{
    struct smoe_model_shape shape = model_shape(run);
    size_t rows = run->rows_max, visits = rows * shape.top_k * shape.d_model;
    run->parts = calloc(run->n_parts, sizeof *run->parts);
    run->x = malloc(rows * run->n_parts * shape.pixels * sizeof *run->x);
    run->labels = malloc(rows * run->n_parts * sizeof *run->labels);
    if (!run->parts || !run->x || !run->labels)
        return SMOE_ENOMEMORY;
    for (size_t i = 0; i < run->n_parts; i++) {
        struct smoe_train_part *p = &run->parts[i];
        p->dy = malloc(visits * sizeof *p->dy);
        if (!p->dy || smoe_pass_init(&p->pass, &shape, rows))
            return SMOE_ENOMEMORY;
    }
    return 0;
}

static int load(struct smoe_train_run *run, struct smoe_why *why)
{
    const struct smoe_train_options *o = run->options;
    int rc = smoe_dataset_load(o->dataset, *o->data_dir ? o->data_dir : NULL, &run->dataset, why);
    if (rc)
        return rc;
    if (o->limit && o->limit < run->dataset.train.n)
        run->dataset.train.n = o->limit;
    smoe_normalizer_init(&run->normalizer, &run->dataset);
    run->n_parts = o->parts;
    run->rows_max = (o->batch + o->parts - 1) / o->parts;
    if (run->rows_max < EVALUATION_ROWS)
        run->rows_max = EVALUATION_ROWS;
    struct smoe_model_shape shape = model_shape(run);
    if (smoe_batches_init(&run->train, &run->dataset, &run->dataset.train, &run->normalizer,
                          o->batch) ||
        smoe_batches_init(&run->test, &run->dataset, &run->dataset.test, &run->normalizer,
                          run->rows_max) ||
        smoe_model_init(&run->model, &shape, o->seed) || start_parts(run))
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    return 0;
}

static int client_fail(const struct smoe_train_run *run, int rc, struct smoe_why *why)
{
    return smoe_fail(why, rc, "%s", smoe_client_error(run->client));
}

static int join(struct smoe_train_run *run, struct smoe_why *why)
{
    const struct smoe_train_options *o = run->options;
    struct smoe_client_options client = {.gateway = o->gateway,
                                         .name = *o->name ? o->name : NULL,
                                         .patience_ms = (uint32_t)(o->patience_ns / 1000000)};
    struct smoe_layer_options layer = {
        .name = o->layer,
        .experts = (uint32_t)o->experts,
        .d_model = (uint32_t)o->d_model,
        .d_ff = (uint32_t)o->d_ff,
        .activation = (enum smoe_layer_activation)(o->activation + 1),
        .optimizer = o->optimizer == 0 ? SMOE_LAYER_ADAMW : SMOE_LAYER_SGD,
        .seed = o->seed,
        .zero_output = true,
    };
    int rc = smoe_client_open(&client, &run->client);
    if (rc == 0)
        rc = smoe_layer_declare(run->client, &layer, &run->layer);
    if (rc)
        return client_fail(run, rc, why);
    snprintf(run->result.policy, sizeof run->result.policy, "%s", smoe_client_policy(run->client));
    return 0;
}

int smoe_train_start(struct smoe_train_run *run, const struct smoe_train_options *options,
                     struct smoe_why *why)
{
    *run = (struct smoe_train_run){.options = options};
    (void)smoe_gemm_setup();
    int rc = load(run, why);
    if (rc == 0)
        rc = join(run, why);
    if (rc == 0 && *options->resume)
        rc = smoe_checkpoint_resume(run, options->resume, why);
    return rc;
}

void smoe_train_release(struct smoe_train_run *run)
{
    for (size_t i = 0; run->parts && i < run->n_parts; i++) {
        smoe_ticket_release(run->parts[i].ticket);
        smoe_pass_release(&run->parts[i].pass);
        free(run->parts[i].dy);
    }
    smoe_client_close(run->client);
    free(run->parts);
    free(run->x);
    free(run->labels);
    smoe_model_release(&run->model);
    smoe_batches_release(&run->train);
    smoe_batches_release(&run->test);
    smoe_dataset_release(&run->dataset);
    *run = (struct smoe_train_run){0};
}

uint64_t smoe_train_steps_in_all(const struct smoe_train_run *run)
{
    return run->options->epochs * smoe_batches_count(&run->train);
}

/* ---- parts ---- */

static int submit(struct smoe_train_run *run, struct smoe_train_part *p, size_t n, bool evaluate,
                  struct smoe_why *why)
{
    smoe_model_forward_gate(&run->model, &p->pass, n, p->x);
    struct smoe_submit_options o = {
        .tokens = (uint32_t)n,
        .top_k = run->model.shape.top_k,
        .scores = p->pass.scores,
        .x = p->pass.h,
        .evaluate = evaluate,
    };
    int rc = smoe_submit(run->layer, &o, &p->ticket);
    return rc ? client_fail(run, rc, why) : 0;
}

static int finish_forward(struct smoe_train_run *run, struct smoe_train_part *p,
                          struct smoe_model_result *ret, struct smoe_why *why)
{
    int rc = smoe_wait(p->ticket);
    if (rc)
        return client_fail(run, rc, why);
    const uint16_t *experts = smoe_ticket_experts(p->ticket);
    size_t visits = p->pass.n * run->model.shape.top_k;
    for (size_t v = 0; v < visits; v++)
        run->result.visits_of[experts[v]]++;
    run->result.visits += visits;
    smoe_model_forward_head(&run->model, &p->pass, experts, smoe_ticket_outputs(p->ticket),
                            p->labels, ret);
    return 0;
}

static int begin_backward(struct smoe_train_run *run, struct smoe_train_part *p,
                          struct smoe_why *why)
{
    smoe_model_backward_head(&run->model, &p->pass, smoe_ticket_outputs(p->ticket), p->dy);
    int rc = smoe_gradient(p->ticket, p->dy);
    return rc ? client_fail(run, rc, why) : 0;
}

static int finish_backward(struct smoe_train_run *run, struct smoe_train_part *p,
                           struct smoe_why *why)
{
    const smoe_real *dx = NULL;
    int rc = smoe_wait_gradient(p->ticket, &dx);
    if (rc)
        return client_fail(run, rc, why);
    smoe_model_backward_gate(&run->model, &p->pass, dx);
    smoe_ticket_release(p->ticket);
    p->ticket = NULL;
    return 0;
}

/* ---- a step ---- */

/* Linear warm-up, then a cosine to zero. */
static double learning_rate(const struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    double all = (double)smoe_train_steps_in_all(run), warmup = (double)o->warmup;
    double at = (double)run->step;
    if (at < warmup)
        return o->learning_rate * (at + 1) / warmup;
    double share = all > warmup ? (at - warmup) / (all - warmup) : 1;
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

static int optimizer_step(struct smoe_train_run *run, size_t parts, struct smoe_why *why)
{
    struct smoe_optimizer dense = dense_optimizer(run, 1);
    double divisor = (double)parts;
    struct smoe_step_options o = {
        .kind = (enum smoe_layer_optimizer)dense.kind,
        .learning_rate = dense.learning_rate,
        .momentum = dense.momentum,
        .beta1 = dense.beta1,
        .beta2 = dense.beta2,
        .epsilon = dense.epsilon,
        .weight_decay = dense.weight_decay,
        .gradient_divisor = divisor,
        .clip_norm = run->options->clip_norm,
        .dense_square_norm =
            smoe_square_norm(run->model.n_params, run->model.grads) / (divisor * divisor),
    };
    struct smoe_step_result done;
    int rc = smoe_step(run->client, &o, &done);
    if (rc)
        return client_fail(run, rc, why);
    dense.gradient_scale = done.clip_scale / divisor;
    smoe_model_step(&run->model, &dense);
    run->step++;
    run->result.steps++;
    return 0;
}

/* Splits n filled images into equal parts, or leaves them whole. */
static size_t split(struct smoe_train_run *run, size_t n)
{
    size_t parts = n % run->n_parts == 0 ? run->n_parts : 1;
    if (n / parts > run->rows_max)
        parts =
            run->n_parts; /* unreachable: rows_max holds a part rounded up, or all of a small n */
    for (size_t i = 0; i < parts; i++) {
        run->parts[i].x = run->x + i * (n / parts) * run->model.shape.pixels;
        run->parts[i].labels = run->labels + i * (n / parts);
    }
    return parts;
}

static int train_batch(struct smoe_train_run *run, size_t batch, double *ret_loss,
                       struct smoe_why *why)
{
    size_t n = smoe_batches_fill(&run->train, batch, run->x, run->labels);
    size_t parts = split(run, n);
    int rc = 0;
    *ret_loss = 0;
    for (size_t i = 0; i < parts && !rc; i++)
        rc = submit(run, &run->parts[i], n / parts, false, why);
    for (size_t i = 0; i < parts && !rc; i++) {
        struct smoe_model_result r = {0};
        rc = finish_forward(run, &run->parts[i], &r, why);
        *ret_loss += r.cross_entropy / (double)parts;
        if (rc == 0)
            rc = begin_backward(run, &run->parts[i], why);
    }
    for (size_t i = 0; i < parts && !rc; i++)
        rc = finish_backward(run, &run->parts[i], why);
    if (rc == 0)
        rc = optimizer_step(run, parts, why);
    run->result.samples += n;
    return rc;
}

/* ---- evaluation ---- */

static int evaluate(struct smoe_train_run *run, struct smoe_why *why)
{
    size_t correct = 0, seen = 0;
    double loss = 0;
    int rc = 0;
    for (size_t b = 0; b < smoe_batches_count(&run->test) && !rc; b++) {
        struct smoe_train_part *p = &run->parts[0];
        struct smoe_model_result r = {0};
        p->x = run->x;
        p->labels = run->labels;
        size_t n = smoe_batches_fill(&run->test, b, p->x, p->labels);
        rc = submit(run, p, n, true, why);
        if (rc == 0)
            rc = finish_forward(run, p, &r, why);
        smoe_ticket_release(p->ticket);
        p->ticket = NULL;
        correct += r.correct;
        loss += r.cross_entropy * (double)n;
        seen += n;
    }
    run->result.test_accuracy = (double)correct / (double)seen;
    run->result.test_loss = loss / (double)seen;
    return rc;
}

/* ---- epochs ---- */

static volatile sig_atomic_t interrupted;

void smoe_train_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

/* Ends the run where it is: what is committed by now goes into the checkpoint. */
static int give_up(struct smoe_train_run *run, struct smoe_why *why)
{
    const char *file = run->options->checkpoint;
    int rc = *file ? smoe_checkpoint_write(run, file, why) : 0;
    if (rc)
        return smoe_fail_at(why, rc, "interrupted");
    return smoe_fail(why, SMOE_ECANCELED, "interrupted after step %llu%s%s",
                     (unsigned long long)run->step, *file ? ": go on with --resume " : "", file);
}

static int train_epoch(struct smoe_train_run *run, struct smoe_progress *progress,
                       struct smoe_why *why)
{
    size_t batches = smoe_batches_count(&run->train);
    uint64_t began = smoe_clock_monotonic_ns();
    double sum = 0, loss = 0;
    size_t done = 0;
    int rc = 0;
    smoe_batches_shuffle(&run->train, run->options->seed, run->epoch);
    for (; run->batch < batches && !rc; run->batch++) {
        rc = train_batch(run, run->batch, &loss, why);
        sum += loss;
        done++;
        double seconds = run->result.seconds + (double)(smoe_clock_monotonic_ns() - began) * 1e-9;
        smoe_progress_step(progress, run, loss, seconds);
        if (rc == 0 && interrupted && run->batch + 1 < batches) {
            run->batch++;
            return give_up(run, why);
        }
    }
    run->result.seconds += (double)(smoe_clock_monotonic_ns() - began) * 1e-9;
    run->result.train_loss = done ? sum / (double)done : 0;
    run->batch = 0;
    run->epoch++;
    run->result.epochs++;
    return rc;
}

int smoe_train_all(struct smoe_train_run *run, struct smoe_why *why)
{
    struct smoe_progress progress;
    int rc = 0;
    smoe_progress_start(&progress, run);
    while (run->epoch < run->options->epochs && !rc) {
        if (interrupted) {
            rc = give_up(run, why);
            break;
        }
        rc = train_epoch(run, &progress, why);
        if (rc == 0)
            rc = evaluate(run, why);
        if (rc == 0)
            smoe_progress_epoch(&progress, run);
        if (rc == 0 && *run->options->checkpoint)
            rc = smoe_checkpoint_write(run, run->options->checkpoint, why);
    }
    smoe_progress_end(&progress);
    return rc;
}
