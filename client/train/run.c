/* SPDX-License-Identifier: Apache-2.0
 *
 * A step:
 *
 *     for each part of the batch   gate and router here, submit (workers begin)
 *     for each part                wait for the experts, head and loss here, hand the gradient back
 *     for each part                wait for dx, gate and encoder backward here
 *     step: experts' and own gradients share one clip scale; both optimizers step
 *
 * A StableMoE run is in stage 1 until the step of smoe_train_freeze_step: the distilled router learns from
 * the gate's choices and steps for itself, clipped by its own norm, so that nothing of it reaches the others.
 * Then it is frozen, and the balance loss has no more to say. A gateway is given the frozen router and scores the
 * tokens itself from then on; `--local` scores them here, by the same functions.
 *
 * With staleness 1 the step is only begun at the end of its batch, and waited for at the end of the next one
 * (stepping.c).
 *
 * With two parts the workers compute one while the trainer computes the other. The gradients of the
 * parts are means over equally many samples, so both sides divide their sum by the number of parts.
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

/* ---- how long ---- */

uint64_t smoe_train_batches(const struct smoe_train_run *run)
{
    return (run->feed.train.n + run->options->batch - 1) / run->options->batch;
}

uint64_t smoe_train_steps_in_all(const struct smoe_train_run *run)
{
    return run->options->epochs * smoe_train_batches(run);
}

uint64_t smoe_train_freeze_step(const struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    if (o->router != SMOE_ROUTER_STABLEMOE || o->stage_share >= 1)
        return UINT64_MAX;
    return (uint64_t)llround(o->stage_share * (double)smoe_train_steps_in_all(run));
}

/* ---- parts ---- */

void smoe_train_score(struct smoe_train_run *run, struct smoe_train_part *p, size_t n,
                      bool training)
{
    size_t tokens = n * run->feed.tokens;
    const smoe_real *x = p->in.x;
    struct smoe_tokens seen = {tokens, p->in.codes, p->in.x};
    if (run->feed.vocabulary)
        x = smoe_model_embed(&run->model, &p->pass, tokens, p->in.words);
    smoe_model_forward_gate(&run->model, &p->pass, tokens, x);
    if (training)
        (void)smoe_router_learn(&run->router, &seen, p->pass.top);
    if (smoe_router_scores(&run->router, &seen, training, p->pass.scores))
        smoe_pass_choose(&p->pass);
}

static int submit(struct smoe_train_run *run, size_t part, size_t n, bool evaluate,
                  struct smoe_why *why)
{
    struct smoe_train_part *p = &run->parts[part];
    smoe_train_score(run, p, n, !evaluate);
    bool routes_itself = run->experts->ops->freeze && smoe_router_stage(&run->router) == 2;
    struct smoe_experts_batch batch = {.n = p->pass.n,
                                       .scores = routes_itself ? NULL : p->pass.scores,
                                       .tokens = &run->router.read,
                                       .x = p->pass.h,
                                       .evaluate = evaluate};
    return run->experts->ops->submit(run->experts, part, &batch, why);
}

static int finish_forward(struct smoe_train_run *run, size_t part, const smoe_real **ret_y,
                          struct smoe_model_result *ret, struct smoe_why *why)
{
    struct smoe_train_part *p = &run->parts[part];
    const uint16_t *experts = NULL;
    int rc = run->experts->ops->wait(run->experts, part, &experts, ret_y, why);
    if (rc)
        return rc;
    size_t visits = p->pass.n * run->model.shape.top_k;
    for (size_t v = 0; v < visits; v++)
        run->result.visits_of[experts[v]]++;
    run->result.visits += visits;
    smoe_model_forward_head(&run->model, &p->pass, experts, *ret_y, p->in.labels, ret);
    return 0;
}

static int finish_backward(struct smoe_train_run *run, size_t part, struct smoe_why *why)
{
    const smoe_real *dx = NULL;
    int rc = run->experts->ops->wait_backward(run->experts, part, &dx, why);
    if (rc)
        return rc;
    smoe_model_backward_gate(&run->model, &run->parts[part].pass, dx);
    run->experts->ops->done(run->experts, part);
    return 0;
}

static int train_part(struct smoe_train_run *run, size_t part, double *ret_loss,
                      struct smoe_why *why)
{
    struct smoe_train_part *p = &run->parts[part];
    struct smoe_model_result r = {0};
    const smoe_real *y = NULL;
    int rc = finish_forward(run, part, &y, &r, why);
    if (rc)
        return rc;
    *ret_loss = r.cross_entropy;
    smoe_model_backward_head(&run->model, &p->pass, y, p->dy);
    return run->experts->ops->backward(run->experts, part, p->dy, why);
}

/* ---- batches ---- */

/* Splits n filled samples into equal parts, or leaves them whole: there is room for either (start.c). */
static size_t split(struct smoe_train_run *run, size_t n)
{
    size_t parts = n % run->n_parts == 0 ? run->n_parts : 1;
    const struct smoe_feed *feed = &run->feed;
    for (size_t i = 0; i < parts; i++) {
        size_t sample = i * (n / parts), token = sample * feed->tokens;
        run->parts[i].in = (struct smoe_feed_batch){
            .x = run->batch.x + token * feed->values,
            .words = run->batch.words + sample * feed->context,
            .codes = run->batch.codes + token,
            .labels = run->batch.labels + sample,
        };
    }
    return parts;
}

static int train_batch(struct smoe_train_run *run, size_t first, size_t n, double *ret_loss,
                       struct smoe_why *why)
{
    smoe_feed_fill(&run->feed, &run->feed.train, first, n, &run->batch);
    size_t parts = split(run, n);
    int rc = 0;
    *ret_loss = 0;
    for (size_t i = 0; i < parts && !rc; i++)
        rc = submit(run, i, n / parts, false, why);
    for (size_t i = 0; i < parts && !rc; i++) {
        double loss = 0;
        rc = train_part(run, i, &loss, why);
        *ret_loss += loss / (double)parts;
    }
    for (size_t i = 0; i < parts && !rc; i++)
        rc = finish_backward(run, i, why);
    if (rc == 0)
        rc = smoe_train_step(run, parts, why);
    run->result.samples += n;
    return rc;
}

/* ---- evaluation ---- */

static int evaluate(struct smoe_train_run *run, struct smoe_why *why)
{
    size_t correct = 0, all = run->feed.test.n;
    double loss = 0;
    int rc = 0;
    run->parts[0].in = run->batch;
    for (size_t first = 0; first < all && !rc; first += run->rows_max) {
        size_t left = all - first, n = left < run->rows_max ? left : run->rows_max;
        struct smoe_model_result r = {0};
        const smoe_real *y;
        smoe_feed_fill(&run->feed, &run->feed.test, first, n, &run->batch);
        rc = submit(run, 0, n, true, why);
        if (rc == 0)
            rc = finish_forward(run, 0, &y, &r, why);
        run->experts->ops->done(run->experts, 0);
        correct += r.correct;
        loss += r.cross_entropy * (double)n;
    }
    run->result.test_accuracy = (double)correct / (double)all;
    run->result.test_loss = loss / (double)all;
    return rc;
}

/* ---- epochs ---- */

static volatile sig_atomic_t interrupted;

void smoe_train_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

/* Ends the run where it is: what is committed by now goes into the checkpoint, and what a run took up that was
 * resumed. Before a first step there is nothing to keep, and what an earlier run has left under that name stays. */
static int give_up(struct smoe_train_run *run, struct smoe_why *why)
{
    int rc = smoe_train_settle(run, why);
    const char *file = run->step ? run->options->checkpoint : "";
    if (rc == 0 && *file)
        rc = smoe_checkpoint_write(run, file, why);
    if (rc)
        return smoe_fail_at(why, rc, "interrupted");
    return smoe_fail(why, SMOE_ECANCELED, "interrupted after step %llu%s%s",
                     (unsigned long long)run->step, *file ? ": go on with --resume " : "", file);
}

/* The step to come is the first of stage 2. */
static int freeze(struct smoe_train_run *run, struct smoe_why *why)
{
    int rc = smoe_train_settle(run, why);
    if (rc)
        return rc;
    rc = smoe_watch_freeze(&run->watch, run);
    if (rc)
        return smoe_fail(why, rc, "freeze: %s", smoe_strerror(rc));
    return smoe_train_begin_stage_2(run, why);
}

int smoe_train_begin_stage_2(struct smoe_train_run *run, struct smoe_why *why)
{
    run->model.shape.balance_weight = 0;
    return run->experts->ops->freeze
               ? run->experts->ops->freeze(run->experts, &run->router.frozen, why)
               : 0;
}

static int train_next(struct smoe_train_run *run, double *ret_loss, struct smoe_why *why)
{
    size_t first = run->next * run->options->batch, left = run->feed.train.n - first;
    uint64_t begun = run->step + (run->stepping.under_way ? 1 : 0);
    int rc = 0;
    if (smoe_router_stage(&run->router) == 1 && begun >= smoe_train_freeze_step(run))
        rc = freeze(run, why);
    if (rc == 0)
        rc = train_batch(run, first, left < run->options->batch ? left : run->options->batch,
                         ret_loss, why);
    return rc;
}

static int train_epoch(struct smoe_train_run *run, struct smoe_progress *progress,
                       struct smoe_why *why)
{
    uint64_t began = smoe_clock_monotonic_ns(), batches = smoe_train_batches(run), done = 0;
    double loss = 0, sum = 0;
    int rc = 0;
    smoe_feed_shuffle(&run->feed.train, run->options->seed, run->epoch);
    for (; run->next < batches && !rc; run->next++) {
        rc = train_next(run, &loss, why);
        sum += loss;
        done++;
        double seconds = run->result.seconds + (double)(smoe_clock_monotonic_ns() - began) * 1e-9;
        if (rc == 0)
            smoe_progress_step(progress, run, loss, seconds);
        if (rc == 0 && interrupted && run->next + 1 < batches) {
            run->next++;
            return give_up(run, why);
        }
    }
    rc = rc ? rc : smoe_train_settle(run, why);
    run->result.seconds += (double)(smoe_clock_monotonic_ns() - began) * 1e-9;
    run->result.train_loss = done ? sum / (double)done : 0;
    run->next = 0;
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
    if (rc == 0 && !run->result.epochs) { /* all were made before it was resumed */
        run->result.train_loss = (double)NAN;
        rc = evaluate(run, why);
    }
    if (rc == 0)
        rc = smoe_watch_finish(&run->watch, run, why);
    smoe_progress_end(&progress);
    return rc;
}
