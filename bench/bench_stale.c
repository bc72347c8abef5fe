/* SPDX-License-Identifier: Apache-2.0
 *
 * What is gained by computing a batch while the step before it is made (stablemoe-train --staleness 1): milliseconds
 * of a step with and without, in turns, on the same fleet of four workers; and the test accuracy after as many steps,
 * which is the price. Small experts and large ones, on loopback and at a switch where each has a link of 1 Gbit/s
 * (star.h, with keys). Whole experts, and sharded ones if the gateway takes them with staleness.
 *
 * On loopback all share the machine's cores: what is gained there is only what would have stood idle.
 */
#include <stdio.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/site.h"
#include "bench/trainer.h"

#define WORKERS SMOE_FLEET_WORKERS_MAX

struct shape {
    const char *name, *d_model, *d_ff, *batch;
    const char *images[2]; /* on loopback, at the switch */
};

static const struct shape shapes[] = {
    {"64x256.b64", "64", "256", "64", {"6400", "3200"}},
    {"64x256.b512", "64", "256", "512", {"10240", "7680"}},
    {"256x1024.b512", "256", "1024", "512", {"4096", "4096"}},
};

struct place {
    const char *name, *rule; /* loopback.whole; placement.rule */
    const struct smoe_star *star;
    struct smoe_site site;
    unsigned runs;
};

struct measured {
    struct smoe_sample step_ms, accuracy;
};

static int run(const struct smoe_bench *bench, struct place *p, const struct shape *shape,
               const char *staleness, struct measured *m, struct smoe_why *why)
{
    const struct smoe_trainer_job job = {
        .batch = shape->batch,
        .images = bench->quick ? "640" : shape->images[p->star != NULL],
        .d_model = shape->d_model,
        .d_ff = shape->d_ff,
        .balance = "0.01",
        .staleness = staleness,
        .key_file = *p->site.trainer_key ? p->site.trainer_key : NULL,
    };
    struct smoe_trainer_result result;
    int rc = p->star ? smoe_star_enter(p->star, 0, why) : 0;
    rc = rc ? rc : smoe_trainer_run(bench, &p->site.fleet, &job, p->runs++, &result, why);
    if (p->star)
        smoe_star_leave(p->star);
    if (rc)
        return rc;
    smoe_sample_add(&m->step_ms, 1e3 * result.seconds / result.steps);
    smoe_sample_add(&m->accuracy, result.test_accuracy);
    return 0;
}

static int bench_shape(struct smoe_bench *bench, struct place *p, const struct shape *shape,
                       struct smoe_why *why)
{
    static const char *const staleness[2] = {"0", "1"};
    struct measured m[2] = {{.step_ms = {.n = 0}}, {.step_ms = {.n = 0}}};
    int rc = 0;
    for (int round = 0; round < (bench->quick ? 1 : 3) && !rc; round++)
        for (int s = 0; s < 2 && !rc; s++)
            rc = run(bench, p, shape, staleness[s], &m[s], why);
    if (rc)
        return rc;
    struct smoe_sample gain = smoe_sample_ratio(&m[0].step_ms, &m[1].step_ms);
    struct smoe_report *r = bench->report;
    for (int s = 0; s < 2; s++) {
        smoe_report_add(r, "ms", &m[s].step_ms, "staleness.%s.%s.%d.step", p->name, shape->name, s);
        smoe_report_add(r, "", &m[s].accuracy, "staleness.%s.%s.%d.accuracy", p->name, shape->name,
                        s);
    }
    smoe_report_add(r, "x", &gain, "staleness.%s.%s.gain", p->name, shape->name);
    return 0;
}

static int bench_place(struct smoe_bench *bench, struct place *p, struct smoe_why *why)
{
    char rule[64];
    const char *const settings[] = {rule, "fleet.workers_min=4", "fleet.silence=30s", NULL};
    static const char *const worker[] = {"--slots", "4", NULL};
    const struct smoe_site_options o = {settings, worker, WORKERS, p->star, p->star != NULL};
    snprintf(rule, sizeof rule, "placement.rule=%s", p->rule);
    int rc = smoe_site_start(bench, &o, &p->site, why);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !rc; i++)
        rc = bench_shape(bench, p, &shapes[i], why);
    smoe_site_stop(&p->site);
    return rc;
}

/* Whole, and sharded. */
static int bench_both(struct smoe_bench *bench, const char *where, const struct smoe_star *star,
                      struct smoe_why *why)
{
    char names[2][32];
    struct smoe_why refused;
    struct place whole = {names[0], "pinned", star, {.trainer_key = ""}, 0};
    struct place sharded = {names[1], "static", star, {.trainer_key = ""}, 0};
    snprintf(names[0], sizeof names[0], "%s.whole", where);
    snprintf(names[1], sizeof names[1], "%s.sharded", where);
    int rc = bench_place(bench, &whole, why);
    if (rc == 0 && bench_place(bench, &sharded, &refused))
        smoe_report_note(bench->report, "staleness.%s is left out: %.120s", sharded.name,
                         refused.text);
    return rc;
}

int smoe_bench_staleness(struct smoe_bench *bench, struct smoe_why *why)
{
    struct smoe_star star;
    struct smoe_why missing;
    if (access(SMOE_TRAINER_DATA, R_OK)) {
        smoe_report_note(bench->report, "skipped: dataset-fashion-mnist is not installed");
        return 0;
    }
    int rc = bench_both(bench, "loopback", NULL, why);
    if (rc)
        return rc;
    if (smoe_star_make(WORKERS + 1, "1gbit", &star, &missing)) {
        smoe_report_note(bench->report, "staleness.1gbit is left out: %s", missing.text);
        return 0;
    }
    rc = bench_both(bench, "1gbit", &star, why);
    smoe_star_release(&star);
    return rc;
}
