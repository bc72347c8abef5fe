/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/scenario.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "sim/events.h"
#include "sim/numbers.h"

/* Workers of `random:N`. */
#define RANDOM_MIN 10
#define RANDOM_MAX 10000
/* 20 a worker up to here; beyond, fewer and heavier ones. */
#define RANDOM_TOKENS_MAX 100000

const struct smoe_scenario_spec smoe_scenarios[] = {
    /* MODEL.md section 5, the reference run: load 0.86. */
    {.name = "paper",
     .workers = 10,
     .speeds = "1",
     .budgets = "1.5..9.5",
     .caps = "3..15",
     .freq_hz = 3e9,
     .cycles = 1e7,
     .kappa = 2e-27,
     .source = SMOE_SOURCE_OPEN,
     .tokens = 390,
     .experts = 10,
     .copies = 1,
     .top_k = 3,
     .skew = 0.12,
     .ranks = "7 2 9 0 5 3 8 1 6 4",
     .slot_ns = 1000 * SMOE_SIM_MS,
     .v = 50,
     .mu = 1},
    /* scripts/demo.sh: a synchronous trainer and four workers. */
    {.name = "demo",
     .workers = 4,
     .speeds = "1 0.5 0.25 0.25",
     .freq_hz = 2e9,
     .cycles = 2e4,
     .source = SMOE_SOURCE_CLOSED,
     .tokens = 256,
     .experts = 8,
     .copies = 1,
     .top_k = 2,
     .skew = 0.12,
     .slot_ns = 20 * SMOE_SIM_MS,
     .v = 20,
     .mu = 1},
    /* A drawer of boards from a fast one to a tenth of it, on little power: load 0.8. */
    {.name = "unlike",
     .workers = 24,
     .speeds = "1 0.8 0.5 0.5 0.25 0.25 0.15 0.1",
     .budgets = "4 3 2 2 0.6 0.6 0.3 0.2",
     .caps = "16 12 6 6 1.5 1.5 0.8 0.5",
     .freq_hz = 2e9,
     .cycles = 4e6,
     .kappa = 1e-27,
     .source = SMOE_SOURCE_OPEN,
     .tokens = 196,
     .experts = 48,
     .copies = 1,
     .top_k = 2,
     .skew = 0.04,
     .slot_ns = 100 * SMOE_SIM_MS,
     .v = 50,
     .mu = 1},
    /* `random:N`: N workers, unlike at random; smoe_scenario_random says how it grows. Load 0.8. */
    {.name = "random",
     .workers = 1000,
     .speeds = "~0.2..1",
     .budgets = "~0.5..8",
     .caps = "16",
     .freq_hz = 3e9,
     .cycles = 1.84e7,
     .kappa = 2e-27,
     .fleet_seed = 1,
     .source = SMOE_SOURCE_OPEN,
     .tokens = 20000,
     .experts = 64,
     .copies = 16,
     .top_k = 2,
     .skew = 0.02,
     .pool = 4096,
     .slot_ns = 1000 * SMOE_SIM_MS,
     .v = 50,
     .mu = 1},
    /* StableMoE's router on Stable-MoE's fleet with SYMI's replicas: a vocabulary of 512 codes, whose scores never
     * change, and 16 experts on the 40 slots of the paper's ten workers. */
    {.name = "frozen",
     .workers = 10,
     .speeds = "1",
     .budgets = "1.5..9.5",
     .caps = "3..15",
     .freq_hz = 3e9,
     .cycles = 1e7,
     .kappa = 2e-27,
     .source = SMOE_SOURCE_OPEN,
     .tokens = 500,
     .experts = 16,
     .copies = 1,
     .slots = 4,
     .top_k = 2,
     .skew = 0.1,
     .pool = 512,
     .slot_ns = 1000 * SMOE_SIM_MS,
     .v = 50,
     .mu = 1},
};
const uint32_t smoe_scenarios_len = sizeof smoe_scenarios / sizeof *smoe_scenarios;

const struct smoe_scenario_spec *smoe_scenario_find(const char *name)
{
    for (uint32_t i = 0; i < smoe_scenarios_len; i++)
        if (strcmp(smoe_scenarios[i].name, name) == 0)
            return &smoe_scenarios[i];
    return NULL;
}

bool smoe_scenario_random(const char *name, struct smoe_scenario_spec *ret)
{
    const struct smoe_scenario_spec *random = smoe_scenario_find("random");
    uint64_t n;
    if (!random || strncmp(name, "random:", 7) || !smoe_parse_u64(name + 7, &n) || n < RANDOM_MIN ||
        n > RANDOM_MAX)
        return false;
    *ret = *random;
    snprintf(ret->name, sizeof ret->name, "%s", name);
    ret->workers = n;
    ret->tokens = fmin(20 * (double)n, RANDOM_TOKENS_MAX);
    ret->cycles *= 20 * (double)n / ret->tokens;
    ret->experts = n < ret->experts ? n : ret->experts;
    ret->copies = (n + ret->experts - 1) / ret->experts;
    return true;
}

/* ---- scenarios ---- */

static int check(const struct smoe_scenario_spec *s, struct smoe_why *why)
{
    if (s->workers < 1 || s->workers > SMOE_SCENARIO_WORKERS_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "fleet.workers: not in 1..%d",
                         SMOE_SCENARIO_WORKERS_MAX);
    if (s->experts < 1 || s->experts > SMOE_EXPERTS_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "gate.experts: not in 1..%d", SMOE_EXPERTS_MAX);
    if (s->top_k < 1 || s->top_k > SMOE_TOP_K_MAX || s->top_k > s->experts)
        return smoe_fail(why, SMOE_ECONFIG, "gate.top_k: not in 1..%d, or more than the experts",
                         SMOE_TOP_K_MAX);
    if (s->copies < 1 || s->copies > s->workers)
        return smoe_fail(why, SMOE_ECONFIG, "gate.copies: not in 1..workers");
    if (s->slots > SMOE_EXPERTS_MAX || (s->slots && s->slots * s->workers < s->experts))
        return smoe_fail(why, SMOE_ECONFIG, "gate.slots: not in 0..%d, or fewer than the experts",
                         SMOE_EXPERTS_MAX);
    if (s->up && !s->down)
        return smoe_fail(why, SMOE_ECONFIG, "fleet.down: who leaves is away for a slot or more");
    if (s->delay > SMOE_SCENARIO_DELAY_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "routing.delay: not in 0..%d", SMOE_SCENARIO_DELAY_MAX);
    if (s->arrivals != SMOE_ARRIVALS_POISSON && s->arrivals != SMOE_ARRIVALS_TRACE && !s->period)
        return smoe_fail(why, SMOE_ECONFIG, "tokens.period: above 0 for waves and bursts");
    if (s->arrivals == SMOE_ARRIVALS_BURSTY && !(s->burst > 1 && s->burst <= 100))
        return smoe_fail(why, SMOE_ECONFIG, "tokens.burst: not above 1 and up to 100");
    if (s->arrivals == SMOE_ARRIVALS_DIURNAL && !(s->swing >= 0 && s->swing <= 1))
        return smoe_fail(why, SMOE_ECONFIG, "tokens.swing: not in 0..1");
    if (!(s->tokens >= 1 && s->tokens <= SMOE_SCENARIO_TOKENS_MAX / 2))
        return smoe_fail(why, SMOE_ECONFIG, "tokens.number: not in 1..%d",
                         SMOE_SCENARIO_TOKENS_MAX / 2);
    return 0;
}

static int read_list(const struct smoe_scenario_spec *spec, const char *key, const char *text,
                     double *ret, struct smoe_why *why)
{
    struct smoe_number_list list = {key, text, spec->workers, spec->fleet_seed, 0};
    return smoe_numbers_list(&list, ret, why);
}

static int read_watts(const struct smoe_scenario_spec *spec, const char *key, const char *text,
                      double *ret, struct smoe_why *why)
{
    for (uint64_t i = 0; i < spec->workers; i++)
        ret[i] = HUGE_VAL;
    return *text ? read_list(spec, key, text, ret, why) : 0;
}

/* Rows of speed, budget and cap, in the place of the lists. 0 W: none. */
static int read_nodes(struct smoe_scenario *s, struct smoe_why *why)
{
    double *rows = NULL;
    uint64_t n = 0;
    int rc = smoe_numbers_file("fleet.nodes", s->spec.nodes, 3, &rows, &n, why);
    if (rc == 0 && n != s->spec.workers)
        rc = smoe_fail(why, SMOE_ECONFIG, "fleet.nodes: %s: %llu rows for %llu workers",
                       s->spec.nodes, (unsigned long long)n, (unsigned long long)s->spec.workers);
    for (uint64_t j = 0; rc == 0 && j < n; j++) {
        const double *row = rows + 3 * j;
        if (!(row[0] > 0 && row[1] >= 0 && row[2] >= 0))
            rc = smoe_fail(why, SMOE_ECONFIG,
                           "fleet.nodes: %s: row %llu: a speed above 0, a budget and a cap",
                           s->spec.nodes, (unsigned long long)j + 1);
        s->freq_max_hz[j] = row[0];
        s->budget_w[j] = row[1] > 0 ? row[1] : HUGE_VAL;
        s->cap_w[j] = row[2] > 0 ? row[2] : HUGE_VAL;
    }
    free(rows);
    return rc;
}

static int read_trace(struct smoe_scenario *s, struct smoe_why *why)
{
    double sum = 0;
    int rc = smoe_numbers_file("tokens.trace", s->spec.trace, 1, &s->trace, &s->trace_len, why);
    for (uint64_t i = 0; rc == 0 && i < s->trace_len; i++) {
        sum += s->trace[i];
        if (!(s->trace[i] >= 0 && s->trace[i] <= SMOE_SCENARIO_TOKENS_MAX / 2))
            rc = smoe_fail(why, SMOE_ECONFIG, "tokens.trace: %s: %g is not in 0..%d", s->spec.trace,
                           s->trace[i], SMOE_SCENARIO_TOKENS_MAX / 2);
    }
    if (rc == 0 && !(sum > 0))
        rc = smoe_fail(why, SMOE_ECONFIG, "tokens.trace: %s: no tokens at all", s->spec.trace);
    if (rc == 0)
        s->spec.tokens = s->trace_mean = sum / (double)s->trace_len;
    return rc;
}

static int read_all(struct smoe_scenario *s, struct smoe_why *why)
{
    const struct smoe_scenario_spec *spec = &s->spec;
    const struct smoe_number_list ranks = {"gate.ranks", spec->ranks, spec->experts,
                                           spec->fleet_seed, -HUGE_VAL};
    int rc = 0;
    if (*spec->nodes) {
        rc = read_nodes(s, why);
    } else {
        rc = read_list(spec, "fleet.speeds", spec->speeds, s->freq_max_hz, why);
        if (rc == 0)
            rc = read_watts(spec, "fleet.budgets", spec->budgets, s->budget_w, why);
        if (rc == 0)
            rc = read_watts(spec, "fleet.caps", spec->caps, s->cap_w, why);
    }
    if (rc == 0 && *spec->ranks)
        rc = smoe_numbers_list(&ranks, s->rank, why);
    if (rc == 0 && spec->arrivals == SMOE_ARRIVALS_TRACE)
        rc = read_trace(s, why);
    return rc;
}

static void draw_lines(struct smoe_scenario *s)
{
    s->curve = smoe_sim_alloc(s->spec.workers, sizeof *s->curve);
    for (uint64_t j = 0; j < s->spec.workers; j++) {
        double hz = s->freq_max_hz[j], watts = s->spec.kappa * hz * hz * hz;
        smoe_assert(smoe_power_hull(0, &hz, &watts, 1, &s->curve[j]));
        s->curve[j].stepless = true;
    }
}

int smoe_scenario_init(struct smoe_scenario *s, const struct smoe_scenario_spec *spec,
                       struct smoe_why *why)
{
    uint64_t n = spec->workers;
    int rc = check(spec, why);
    if (rc)
        return rc;
    *s = (struct smoe_scenario){.spec = *spec,
                                .freq_max_hz = smoe_sim_alloc(n, sizeof(double)),
                                .budget_w = smoe_sim_alloc(n, sizeof(double)),
                                .cap_w = smoe_sim_alloc(n, sizeof(double)),
                                .rank = smoe_sim_alloc(spec->experts, sizeof(double))};
    for (uint64_t e = 0; e < spec->experts; e++)
        s->rank[e] = (double)e;
    rc = read_all(s, why);
    for (uint64_t j = 0; j < n; j++)
        s->freq_max_hz[j] *= spec->freq_hz;
    if (rc)
        smoe_scenario_release(s);
    else if (spec->power == SMOE_SIM_LINE && spec->kappa > 0)
        draw_lines(s);
    return rc;
}

struct smoe_freq_node smoe_scenario_physics(const struct smoe_scenario *s, uint64_t j)
{
    return (struct smoe_freq_node){.cycles_per_visit = s->spec.cycles,
                                   .freq_max_hz = s->freq_max_hz[j],
                                   .kappa = s->spec.kappa,
                                   .power = s->curve ? &s->curve[j] : NULL,
                                   .energy_max_w = s->cap_w[j],
                                   .energy_mean_w = s->budget_w[j]};
}

double smoe_scenario_sustainable(const struct smoe_scenario *s)
{
    double rate = 0;
    for (uint64_t j = 0; j < s->spec.workers; j++) {
        struct smoe_freq_node node = smoe_scenario_physics(s, j);
        rate += smoe_freq_sustainable_rate(&node);
    }
    return rate * (double)s->spec.slot_ns * 1e-9;
}

int smoe_scenario_set_load(struct smoe_scenario *s, double load, struct smoe_why *why)
{
    double tokens = load * smoe_scenario_sustainable(s) / (double)s->spec.top_k;
    if (s->spec.source != SMOE_SOURCE_OPEN)
        return smoe_fail(why, SMOE_ECONFIG, "a load is of an open source; this one is closed");
    if (!(tokens >= 1 && tokens <= SMOE_SCENARIO_TOKENS_MAX / 2))
        return smoe_fail(why, SMOE_ECONFIG, "a load of %g is %g tokens a slot, not in 1..%d", load,
                         tokens, SMOE_SCENARIO_TOKENS_MAX / 2);
    s->spec.tokens = tokens;
    return 0;
}

void smoe_scenario_release(struct smoe_scenario *s)
{
    free(s->freq_max_hz);
    free(s->budget_w);
    free(s->cap_w);
    free(s->curve);
    free(s->rank);
    free(s->trace);
    *s = (struct smoe_scenario){0};
}
