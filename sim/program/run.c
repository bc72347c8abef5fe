/* SPDX-License-Identifier: Apache-2.0
 *
 * `run`: every policy that was asked for on one scenario; with --train, for every seed, with a model that
 * learns; with --trace, on what a daemon recorded.
 */
#include <stdlib.h>
#include <string.h>

#include "common/io/clock.h"
#include "sim/print_training.h"
#include "sim/program/images.h"
#include "sim/program/program.h"
#include "sim/recorded.h"
#include "sim/whole.h"

#define SEEDS_MAX 100

static int fail(int exit_code, const struct smoe_why *why)
{
    return smoe_cli_fail(SMOE_SIM_PROGRAM, exit_code, why, stderr);
}

size_t smoe_sim_read_policies(const char *name, enum smoe_policy ret[SMOE_POLICY_COUNT])
{
    size_t n = 0;
    if (smoe_policy_parse(name, ret))
        return 1;
    for (; strcmp(name, "all") == 0 && n < SMOE_POLICY_COUNT; n++)
        ret[n] = (enum smoe_policy)n;
    return n;
}

int smoe_sim_no_policy(const char *name, struct smoe_why *why)
{
    return smoe_fail(why, SMOE_ECONFIG, "--policy %s: not one of all, %s", name,
                     smoe_policy_list());
}

static struct smoe_slotted_options options_of(const struct smoe_print_job *job,
                                              enum smoe_policy policy)
{
    return (struct smoe_slotted_options){.policy = policy,
                                         .freq_rule = job->freq_rule,
                                         .slots = job->slots,
                                         .seed = job->seed,
                                         .clock_ns = job->timings ? smoe_clock_monotonic_ns : NULL};
}

/* ---- run ---- */

/* What was asked for can be run, all of it: a mistake is found before the first policy has run. */
static int check_whole(const struct smoe_print_job *job, const enum smoe_policy *policies, size_t n,
                       struct smoe_why *why)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        struct smoe_slotted_options o = options_of(job, policies[i]);
        rc = smoe_whole_check(job->scenario, &o, why);
    }
    return rc ? smoe_fail_at(why, rc, "--whole") : 0;
}

static int run_synthetic(const struct smoe_print_job *job, const enum smoe_policy *policies,
                         size_t n, bool json)
{
    struct smoe_print_run runs[SMOE_POLICY_COUNT] = {{0}};
    struct smoe_why why;
    int rc = job->whole ? check_whole(job, policies, n, &why) : 0;
    if (rc)
        return fail(SMOE_EXIT_USAGE, &why);
    for (size_t i = 0; i < n; i++) {
        struct smoe_slotted_options o = options_of(job, policies[i]);
        runs[i].policy = policies[i];
        if (!job->whole)
            smoe_slotted_run(job->scenario, &o, &runs[i].result);
        else if (rc == 0)
            rc = smoe_whole_run(job->scenario, &o, &runs[i].result, &why);
    }
    if (rc == 0)
        (json ? smoe_print_runs_json : smoe_print_runs)(job, runs, n, stdout);
    for (size_t i = 0; i < n; i++)
        smoe_slotted_release(&runs[i].result);
    return rc ? fail(SMOE_EXIT_FAILED, &why) : SMOE_EXIT_OK;
}

/* ---- run --trace ---- */

static int check_recorded(const struct smoe_sim_arguments *a, struct smoe_why *why)
{
    if (a->train)
        return smoe_fail(why, SMOE_ECONFIG, "--trace with --train: its tokens have no images");
    if (a->load > 0)
        return smoe_fail(why, SMOE_ECONFIG, "--trace with --load: its load is what was recorded");
    return 0;
}

/* The same table, of a fleet and tokens that were recorded. */
static int run_recorded(const struct smoe_sim_arguments *a, struct smoe_recorded *recorded,
                        const enum smoe_policy *policies, size_t n, struct smoe_why *why)
{
    struct smoe_print_run runs[SMOE_POLICY_COUNT] = {{0}};
    struct smoe_scenario scenario;
    int rc = smoe_recorded_scenario(recorded, &scenario, why);
    if (rc)
        return rc;
    struct smoe_print_job job = {.scenario = &scenario,
                                 .freq_rule = (enum smoe_sim_freq_rule)a->freq_rule,
                                 .slots = a->slots && a->slots < recorded->slots ? a->slots
                                                                                 : recorded->slots,
                                 .seed = a->seed,
                                 .timings = a->timings};
    for (size_t i = 0; i < n; i++) {
        struct smoe_slotted_options o = options_of(&job, policies[i]);
        o.tape = &recorded->tape;
        runs[i].policy = policies[i];
        smoe_recorded_rewind(recorded);
        smoe_slotted_run(&scenario, &o, &runs[i].result);
    }
    if ((rc = recorded->rc))
        *why = recorded->why;
    else
        (a->json ? smoe_print_runs_json : smoe_print_runs)(&job, runs, n, stdout);
    for (size_t i = 0; i < n; i++)
        smoe_slotted_release(&runs[i].result);
    smoe_scenario_release(&scenario);
    return rc;
}

static int run_trace(const struct smoe_sim_arguments *a, const enum smoe_policy *policies, size_t n)
{
    struct smoe_recorded recorded = {0};
    struct smoe_why why;
    int rc = check_recorded(a, &why);
    if (rc == 0)
        rc = smoe_recorded_open(&recorded, a->trace, a->layer, &why);
    if (rc == 0 && recorded.scores_kept < recorded.experts)
        fprintf(stderr,
                SMOE_SIM_PROGRAM ": %s: only the %u largest of %u scores a token were recorded; "
                                 "the others count as 0\n",
                a->trace, recorded.scores_kept, recorded.experts);
    if (rc == 0)
        rc = run_recorded(a, &recorded, policies, n, &why);
    smoe_recorded_close(&recorded);
    return rc ? fail(SMOE_EXIT_USAGE, &why) : SMOE_EXIT_OK;
}

/* ---- run --train ---- */

static int train_all(const struct smoe_print_job *job, const struct smoe_training_data *data,
                     struct smoe_print_training *runs, size_t n, size_t seeds, struct smoe_why *why)
{
    for (size_t i = 0; i < n; i++)
        for (size_t s = 0; s < seeds; s++) {
            struct smoe_slotted_options o = options_of(job, runs[i].policy);
            o.seed += s;
            if (smoe_training_run(job->scenario, &o, data, &runs[i].results[s]))
                return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
        }
    return 0;
}

static int run_training(struct smoe_print_job *job, const enum smoe_policy *policies, size_t n,
                        const struct smoe_sim_arguments *a)
{
    struct smoe_training_result(*results)[SEEDS_MAX] = calloc(n, sizeof *results);
    struct smoe_print_training runs[SMOE_POLICY_COUNT];
    struct smoe_sim_images images = {0};
    struct smoe_why why;
    uint64_t last;
    int rc = smoe_sim_read_seeds(a->seeds, &job->seed, &last, &why);
    if (rc == 0 && last - job->seed >= SEEDS_MAX)
        rc = smoe_fail(&why, SMOE_ECONFIG, "--seeds: more than %d", SEEDS_MAX);
    if (rc == 0 && !results)
        rc = smoe_fail(&why, SMOE_ENOMEMORY, "out of memory");
    if (rc == 0)
        rc = smoe_sim_images_load(&images, a->dataset, a->data_dir, &why);
    size_t seeds = rc ? 0 : (size_t)(last - job->seed + 1);
    for (size_t i = 0; i < n && !rc; i++)
        runs[i] = (struct smoe_print_training){policies[i], results[i]};
    if (rc == 0)
        rc = train_all(job, &images.data, runs, n, seeds, &why);
    if (rc == 0)
        (a->json ? smoe_print_training_json : smoe_print_training)(job, runs, n, seeds, stdout);
    for (size_t i = 0; i < n && results; i++)
        for (size_t s = 0; s < seeds; s++)
            smoe_training_release(&results[i][s]);
    free(results);
    smoe_sim_images_release(&images);
    return rc ? fail(SMOE_EXIT_USAGE, &why) : SMOE_EXIT_OK;
}

int smoe_sim_run(const struct smoe_sim_arguments *a)
{
    enum smoe_policy policies[SMOE_POLICY_COUNT];
    struct smoe_scenario scenario;
    struct smoe_why why;
    size_t n = smoe_sim_read_policies(a->policy, policies);
    int rc = n ? 0 : smoe_sim_no_policy(a->policy, &why);
    if (rc == 0 && a->whole && (a->train || *a->trace))
        rc = smoe_fail(&why, SMOE_ECONFIG, "--whole: not with --%s", a->train ? "train" : "trace");
    if (rc == 0 && *a->trace)
        return run_trace(a, policies, n);
    if (rc == 0)
        rc = smoe_sim_asked_scenario(a, &scenario, &why);
    if (rc)
        return fail(SMOE_EXIT_USAGE, &why);
    struct smoe_print_job job = {.scenario = &scenario,
                                 .freq_rule = (enum smoe_sim_freq_rule)a->freq_rule,
                                 .slots = a->slots,
                                 .seed = a->seed,
                                 .timings = a->timings,
                                 .whole = a->whole};
    int code =
        a->train ? run_training(&job, policies, n, a) : run_synthetic(&job, policies, n, a->json);
    smoe_scenario_release(&scenario);
    return code;
}
