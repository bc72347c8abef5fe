/* SPDX-License-Identifier: Apache-2.0
 *
 * Training from end to end: Fashion-MNIST, an encoder 784 -> 64, eight experts 64-256-64 on two
 * workers, top-2, against peers/torch_gloo.py, the same model as an expert-parallel layer in torch on
 * two ranks of one thread each that exchange tokens by gloo's all-to-all. The batch is that of one
 * optimizer step in both. Runs take turns; each is told to train on the same number of images.
 *
 * And what a slow worker costs: two workers of half speed against one of half and one of an eighth, with
 * experts that keep them busy. The second fleet has 0.625 of the capacity of the first.
 */
#include <stdio.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/child.h"
#include "bench/trainer.h"

/* ---- one run of either ---- */

static int run_ours(const struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                    const struct smoe_trainer_job *job, unsigned run, double *ret,
                    struct smoe_why *why)
{
    struct smoe_trainer_result result;
    int rc = smoe_trainer_run(bench, fleet, job, run, &result, why);
    if (rc == 0)
        *ret = result.samples_per_second;
    return rc;
}

/* *ret_status: 0, or SMOE_BENCH_NOT_INSTALLED and no value. */
static int run_peer(const struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                    const char *batch, const char *images, double *ret, int *ret_status,
                    struct smoe_why *why)
{
    char program[320], log[160];
    const char *argv[] = {SMOE_BENCH_PYTHON, "-B",   program, "--batch", batch,
                          "--images",        images, NULL};
    pid_t pid;
    snprintf(program, sizeof program, "%s/torch_gloo.py", bench->peers);
    snprintf(log, sizeof log, "%s/peer.log", fleet->dir);
    *ret_status = SMOE_BENCH_NOT_INSTALLED;
    if (access(SMOE_BENCH_PYTHON, X_OK))
        return 0;
    int rc = smoe_child_start(argv, log, &pid, why);
    if (rc)
        return rc;
    *ret_status = smoe_child_wait(pid);
    if (*ret_status == SMOE_BENCH_NOT_INSTALLED)
        return 0;
    if (*ret_status || !smoe_read_json_number(log, "samples_per_second", ret))
        return smoe_fail(why, SMOE_EDATA, "%s: failed with exit status %d", program, *ret_status);
    return 0;
}

/* ---- the comparison ---- */

static int bench_batch(struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                       const char *batch, unsigned *runs, bool *skip_peer, struct smoe_why *why)
{
    const char *images = bench->quick ? "3000" : "20000";
    const struct smoe_trainer_job job = {
        .batch = batch, .images = images, .d_model = "64", .d_ff = "256", .balance = "0.01"};
    struct smoe_sample ours = {.n = 0}, peer = {.n = 0};
    int status = 0, rc = 0;
    for (int round = 0; round < (bench->quick ? 1 : 5) && !rc; round++) {
        double rate = 0;
        rc = run_ours(bench, fleet, &job, (*runs)++, &rate, why);
        smoe_sample_add(&ours, rate);
        if (rc || *skip_peer)
            continue;
        rc = run_peer(bench, fleet, batch, images, &rate, &status, why);
        *skip_peer = status == SMOE_BENCH_NOT_INSTALLED;
        if (rc == 0 && status == 0)
            smoe_sample_add(&peer, rate);
    }
    if (rc)
        return rc;
    smoe_report_add(bench->report, "1/s", &ours, "train.b%s", batch);
    if (*skip_peer)
        return 0;
    struct smoe_sample ratio = smoe_sample_ratio(&ours, &peer);
    smoe_report_add(bench->report, "1/s", &peer, "train.b%s.torch", batch);
    smoe_report_add(bench->report, "x", &ratio, "train.b%s.to_torch", batch);
    return 0;
}

/* ---- a slow worker ---- */

#define CAPACITY 0.625 /* of 0.5 + 0.125 to 0.5 + 0.5 */

/* Both fleets are there all the time, and one trains at a time. */
static int bench_slow(struct smoe_bench *bench, const char *policy, struct smoe_why *why)
{
    char setting[64];
    snprintf(setting, sizeof setting, "routing.policy=%s", policy);
    const char *const settings[] = {"fleet.workers_min=2", setting, NULL};
    static const char *const speeds[2][2] = {{"0.5", "0.5"}, {"0.5", "0.125"}};
    const struct smoe_trainer_job job = {.batch = "512",
                                         .images = bench->quick ? "2048" : "30720",
                                         .d_model = "128",
                                         .d_ff = "1024",
                                         .balance = "0.05"};
    struct smoe_bench_fleet fleets[2] = {{.gateway = 0}, {.gateway = 0}};
    struct smoe_sample rates[2] = {{.n = 0}, {.n = 0}}, expected = {.n = 0};
    int rc = 0;
    for (int f = 0; f < 2 && !rc; f++) {
        rc = smoe_fleet_start(bench, settings, 0, &fleets[f], why);
        for (int w = 0; w < 2 && !rc; w++)
            rc = smoe_fleet_add_worker(bench, (const char *const[]){"--speed", speeds[f][w], NULL},
                                       &fleets[f], why);
    }
    for (int round = 0; round < (bench->quick ? 1 : 3) && !rc; round++)
        for (int f = 0; f < 2 && !rc; f++) {
            double rate = 0;
            rc = run_ours(bench, &fleets[f], &job, (unsigned)round, &rate, why);
            smoe_sample_add(&rates[f], f ? rate : rate * CAPACITY);
            if (f == 0)
                smoe_sample_add(&expected, rate);
        }
    smoe_fleet_stop(&fleets[0]);
    smoe_fleet_stop(&fleets[1]);
    if (rc)
        return rc;
    struct smoe_sample ratio = smoe_sample_ratio(&rates[1], &rates[0]);
    smoe_report_add(bench->report, "1/s", &expected, "train.%s.equal", policy);
    smoe_report_add(bench->report, "1/s", &rates[1], "train.%s.slow", policy);
    smoe_report_add(bench->report, "x", &ratio, "train.%s.slow.to_capacity", policy);
    return 0;
}

int smoe_bench_train(struct smoe_bench *bench, struct smoe_why *why)
{
    static const char *const settings[] = {"fleet.workers_min=2", NULL};
    static const char *const batches[] = {"64", "256"};
    struct smoe_bench_fleet fleet;
    bool skip_peer = false;
    unsigned runs = 0;
    if (access(SMOE_TRAINER_DATA, R_OK)) {
        smoe_report_note(bench->report, "skipped: dataset-fashion-mnist is not installed");
        return 0;
    }
    int rc = smoe_fleet_start(bench, settings, 2, &fleet, why);
    for (size_t i = 0; i < sizeof batches / sizeof *batches && !rc; i++)
        rc = bench_batch(bench, &fleet, batches[i], &runs, &skip_peer, why);
    if (rc == 0 && skip_peer)
        smoe_report_note(bench->report, "torch skipped: torch is not installed");
    smoe_fleet_stop(&fleet);
    if (rc == 0)
        rc = bench_slow(bench, "lyapunov", why);
    if (rc == 0)
        rc = bench_slow(bench, "topk", why);
    return rc;
}
