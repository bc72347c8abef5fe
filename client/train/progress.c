/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "common/io/clock.h"

#define TERMINAL_NS UINT64_C(100000000)  /* between changes of the line */
#define PLAIN_NS    UINT64_C(5000000000) /* between lines where there is no terminal */

static void clear_line(struct smoe_progress *p)
{
    if (p->line_open)
        fprintf(stderr, "\r\033[K");
    p->line_open = false;
}

void smoe_progress_start(struct smoe_progress *p, const struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    *p = (struct smoe_progress){.quiet = o->quiet,
                                .terminal = isatty(2),
                                .first_step = run->step,
                                .shown_ns = smoe_clock_monotonic_ns()};
    if (p->quiet)
        return;
    fprintf(stderr,
            "%s: %zu training and %zu test %s; %llu experts %llu-%llu, top-%llu; router %s, policy "
            "%s\n",
            run->feed.name, run->feed.train.n, run->feed.test.n,
            run->feed.vocabulary ? "words" : "images", (unsigned long long)o->experts,
            (unsigned long long)o->d_model, (unsigned long long)o->d_ff,
            (unsigned long long)o->top_k, smoe_train_routers[o->router], run->result.policy);
    if (run->step)
        fprintf(stderr, "resumed at step %llu, epoch %llu\n", (unsigned long long)run->step,
                (unsigned long long)run->epoch + 1);
}

void smoe_progress_step(struct smoe_progress *p, const struct smoe_train_run *run, double loss,
                        double seconds)
{
    uint64_t now = smoe_clock_monotonic_ns();
    if (p->quiet || now - p->shown_ns < (p->terminal ? TERMINAL_NS : PLAIN_NS))
        return;
    p->shown_ns = now;
    double done = (double)(run->step - p->first_step);
    uint64_t all = smoe_train_steps_in_all(run); /* resumed with fewer, it may be past them */
    double left = all > run->step ? (double)(all - run->step) * seconds / done : 0;
    clear_line(p);
    fprintf(stderr, "epoch %llu/%llu  step %llu/%llu  loss %.3f  %.0f samples/s  %.0f s left%s",
            (unsigned long long)run->epoch + 1, (unsigned long long)run->options->epochs,
            (unsigned long long)run->next + 1, (unsigned long long)smoe_train_batches(run), loss,
            (double)run->result.samples / seconds, left, p->terminal ? "" : "\n");
    p->line_open = p->terminal;
}

void smoe_progress_epoch(struct smoe_progress *p, const struct smoe_train_run *run)
{
    const struct smoe_train_result *r = &run->result;
    if (p->quiet)
        return;
    clear_line(p);
    fprintf(stderr, "epoch %llu/%llu  loss %.4f  test accuracy %.4f  %.0f samples/s  %.1f s\n",
            (unsigned long long)run->epoch, (unsigned long long)run->options->epochs, r->train_loss,
            r->test_accuracy, (double)r->samples / r->seconds, r->seconds);
}

void smoe_progress_end(struct smoe_progress *p)
{
    clear_line(p);
}
