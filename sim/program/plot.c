/* SPDX-License-Identifier: Apache-2.0
 *
 * `plot`: the figures of docs/results.md. gnuplot draws; it is asked for before the work begins, and needed
 * for nothing else. The swept figures are also printed, as a table.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim/figure.h"
#include "sim/optimum.h"
#include "sim/program/images.h"
#include "sim/program/program.h"
#include "sim/slotted.h"

struct plot {
    const struct smoe_sim_arguments *a;
    const struct smoe_scenario *scenario;
    enum smoe_policy policies[SMOE_POLICY_COUNT];
    size_t n;
    FILE *gnuplot;
};

static struct smoe_slotted_options options_of(const struct plot *p, enum smoe_policy policy)
{
    return (struct smoe_slotted_options){.policy = policy,
                                         .freq_rule = (enum smoe_sim_freq_rule)p->a->freq_rule,
                                         .slots = p->a->slots,
                                         .seed = p->a->seed,
                                         .keep_series = true};
}

/* ---- by slot ---- */

static void plot_by_slot(const struct plot *p)
{
    const struct smoe_figure figures[] = {
        {.file = "backlog.svg",
         .title = "Visits that wait at the end of a slot",
         .x = "slot",
         .y = "backlog [visits]",
         .log_y = true},
        {.file = "energy_debt.svg",
         .title = "Energy debt, sum over workers",
         .x = "slot",
         .y = "debt [J]"},
        {.file = "throughput.svg",
         .title = "Tokens completed in a slot",
         .x = "slot",
         .y = "tokens"},
    };
    struct smoe_slotted_result results[SMOE_POLICY_COUNT];
    struct smoe_figure_line lines[3][SMOE_POLICY_COUNT];
    for (size_t i = 0; i < p->n; i++) {
        struct smoe_slotted_options o = options_of(p, p->policies[i]);
        smoe_slotted_run(p->scenario, &o, &results[i]);
        const struct smoe_slotted_series *s = &results[i].series;
        const double *of[] = {s->backlog, s->debt, s->complete};
        for (size_t f = 0; f < 3; f++)
            lines[f][i] = (struct smoe_figure_line){smoe_policy_name(p->policies[i]), p->a->slots,
                                                    NULL, of[f], false};
    }
    for (size_t f = 0; f < 3; f++)
        smoe_figure_write(p->a->output, &figures[f], lines[f], p->n, p->gnuplot);
    for (size_t i = 0; i < p->n; i++)
        smoe_slotted_release(&results[i]);
}

/* ---- sweeps ---- */

enum { SWEPT = 11 };

struct swept {
    double backlog[SWEPT], debt[SWEPT], mass[SWEPT], gap[SWEPT];
};

/* One run of the product's policy for each value of V or of mu. */
static void sweep(const struct plot *p, bool mu, const double values[SWEPT], struct swept *ret)
{
    double best = smoe_sim_optimum_gate_mass(p->scenario, p->a->seed, p->a->slots);
    printf("%8s %12s %12s %10s %10s\n", mu ? "mu" : "V", "backlog", "debt [J]", "gate mass", "gap");
    for (size_t i = 0; i < SWEPT; i++) {
        struct smoe_scenario s = *p->scenario; /* borrows the lists */
        struct smoe_slotted_options o = options_of(p, SMOE_POLICY_LYAPUNOV);
        struct smoe_slotted_result r;
        *(mu ? &s.spec.mu : &s.spec.v) = values[i];
        smoe_slotted_run(&s, &o, &r);
        ret->backlog[i] = r.backlog_mean;
        ret->debt[i] = r.debt_mean * (double)s.spec.workers;
        ret->mass[i] = r.gate_mass;
        ret->gap[i] = best >= 0 ? best - r.gate_mass : 0; /* 0 is left out of a log axis */
        printf("%8g %12.1f %12.1f %10.4f ", values[i], ret->backlog[i], ret->debt[i], ret->mass[i]);
        if (best >= 0)
            printf("%10.4f\n", ret->gap[i]);
        else
            printf("%10s\n", "-");
        smoe_slotted_release(&r);
    }
}

static void plot_sweep(const struct plot *p, bool mu)
{
    static const double V[SWEPT] = {1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5};
    static const double MU[SWEPT] = {0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000};
    const struct smoe_figure figure = {.file = mu ? "mu_sweep.svg" : "v_sweep.svg",
                                       .title = mu ? "lyapunov: weight mu of the gate"
                                                   : "lyapunov: weight V of utility",
                                       .x = mu ? "mu" : "V",
                                       .y = "backlog [visits], debt [J]",
                                       .right = "gap to the optimum [gate mass]",
                                       .log_x = true,
                                       .log_y = true,
                                       .log_right = true};
    const double *x = mu ? MU : V;
    struct swept all;
    sweep(p, mu, x, &all);
    const struct smoe_figure_line lines[] = {{"mean backlog", SWEPT, x, all.backlog, false},
                                             {"mean energy debt", SWEPT, x, all.debt, false},
                                             {"gap (right)", SWEPT, x, all.gap, true}};
    smoe_figure_write(p->a->output, &figure, lines, 3, p->gnuplot);
}

/* ---- accuracy ---- */

static int plot_accuracy(const struct plot *p, struct smoe_why *why)
{
    const struct smoe_figure figure = {.file = "accuracy.svg",
                                       .title = "Test accuracy by the gate's own top-K",
                                       .x = "slot",
                                       .y = "accuracy"};
    struct smoe_training_result results[SMOE_POLICY_COUNT];
    struct smoe_figure_line lines[SMOE_POLICY_COUNT];
    struct smoe_sim_images images;
    memset(results, 0, sizeof results);
    double *slots = calloc(p->a->slots / SMOE_TRAINING_EVERY + 1, sizeof *slots);
    int rc = smoe_sim_images_load(&images, p->a->dataset, p->a->data_dir, why);
    for (uint64_t i = 0; slots && i < p->a->slots / SMOE_TRAINING_EVERY; i++)
        slots[i] = (double)((i + 1) * SMOE_TRAINING_EVERY);
    for (size_t i = 0; i < p->n && !rc; i++) {
        struct smoe_slotted_options o = options_of(p, p->policies[i]);
        if (!slots || smoe_training_run(p->scenario, &o, &images.data, &results[i]))
            rc = smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
        lines[i] = (struct smoe_figure_line){smoe_policy_name(p->policies[i]), results[i].glances,
                                             slots, results[i].glance, false};
    }
    if (rc == 0)
        smoe_figure_write(p->a->output, &figure, lines, p->n, p->gnuplot);
    for (size_t i = 0; i < p->n; i++)
        smoe_training_release(&results[i]);
    smoe_sim_images_release(&images);
    free(slots);
    return rc;
}

/* ---- gnuplot ---- */

static int start(struct plot *p, struct smoe_why *why)
{
    if (access(p->a->output, W_OK | X_OK))
        return smoe_fail(why, -errno, "--output %s: %s", p->a->output, strerror(errno));
    if (system("command -v gnuplot >/dev/null 2>&1"))
        return smoe_fail(why, SMOE_ECONFIG, "plot: gnuplot is not installed (Debian: gnuplot-nox)");
    (void)signal(SIGPIPE, SIG_IGN); /* a gnuplot that dies is noticed by its exit status */
    p->gnuplot = popen("gnuplot", "w");
    return p->gnuplot ? 0 : smoe_fail(why, -errno, "plot: gnuplot: %s", strerror(errno));
}

static int draw(struct plot *p, struct smoe_why *why)
{
    int rc = start(p, why);
    if (rc)
        return rc;
    if (p->a->train)
        rc = plot_accuracy(p, why);
    else
        plot_by_slot(p);
    if (!p->a->train && p->scenario->spec.source == SMOE_SOURCE_OPEN) {
        plot_sweep(p, false);
        plot_sweep(p, true);
    }
    bool bad = ferror(p->gnuplot);
    if ((pclose(p->gnuplot) || bad) && rc == 0)
        rc = smoe_fail(why, SMOE_ECONFIG, "plot: gnuplot failed");
    return rc;
}

int smoe_sim_plot(const struct smoe_sim_arguments *a)
{
    struct smoe_scenario scenario;
    struct plot p = {.a = a, .scenario = &scenario};
    struct smoe_why why;
    p.n = smoe_sim_read_policies(a->policy, p.policies);
    int rc = p.n ? 0 : smoe_sim_no_policy(a->policy, &why);
    if (rc == 0)
        rc = smoe_sim_asked_scenario(a, &scenario, &why);
    if (rc)
        return smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    rc = draw(&p, &why);
    smoe_scenario_release(&scenario);
    return rc ? smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_FAILED, &why, stderr) : SMOE_EXIT_OK;
}
