/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/scenario.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "sim/events.h"

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
     .top_k = 2,
     .skew = 0.04,
     .slot_ns = 100 * SMOE_SIM_MS,
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

/* ---- lists ---- */

/* `a..b`: evenly spaced over n. */
static bool read_range(const char *text, uint64_t n, double *ret)
{
    char from[SMOE_SCENARIO_LIST_MAX];
    const char *dots = strstr(text, "..");
    double a, b;
    if (!dots)
        return false;
    memcpy(from, text, (size_t)(dots - text));
    from[dots - text] = 0;
    if (!smoe_parse_double(from, &a) || !smoe_parse_double(dots + 2, &b))
        return false;
    for (uint64_t i = 0; i < n; i++)
        ret[i] = n > 1 ? a + (b - a) * (double)i / (double)(n - 1) : a;
    return true;
}

static bool read_words(const char *text, uint64_t n, double *ret)
{
    char word[SMOE_SCENARIO_LIST_MAX];
    uint64_t len = 0;
    while (*text && len < n) {
        size_t w = strcspn(text, " ");
        memcpy(word, text, w);
        word[w] = 0;
        if (w && !smoe_parse_double(word, &ret[len++]))
            return false;
        text += w;
        text += strspn(text, " ");
    }
    for (uint64_t i = len; len && i < n; i++)
        ret[i] = ret[i - len];
    return len > 0;
}

static int read_list(const char *key, const char *text, uint64_t n, double above, double *ret,
                     struct smoe_why *why)
{
    if (!read_range(text, n, ret) && !read_words(text, n, ret))
        return smoe_fail(why, SMOE_ECONFIG, "%s: \"%s\" is neither numbers nor FROM..TO", key,
                         text);
    for (uint64_t i = 0; i < n; i++)
        if (!(ret[i] > above))
            return smoe_fail(why, SMOE_ECONFIG, "%s: \"%s\": all must be above %g", key, text,
                             above);
    return 0;
}

static int read_watts(const char *key, const char *text, uint64_t n, double *ret,
                      struct smoe_why *why)
{
    for (uint64_t i = 0; i < n; i++)
        ret[i] = HUGE_VAL;
    return *text ? read_list(key, text, n, 0, ret, why) : 0;
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
    if (!(s->tokens >= 1 && s->tokens <= SMOE_SCENARIO_TOKENS_MAX / 2))
        return smoe_fail(why, SMOE_ECONFIG, "tokens.number: not in 1..%d",
                         SMOE_SCENARIO_TOKENS_MAX / 2);
    return 0;
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
    rc = read_list("fleet.speeds", spec->speeds, n, 0, s->freq_max_hz, why);
    if (rc == 0)
        rc = read_watts("fleet.budgets", spec->budgets, n, s->budget_w, why);
    if (rc == 0)
        rc = read_watts("fleet.caps", spec->caps, n, s->cap_w, why);
    if (rc == 0 && *spec->ranks)
        rc = read_list("gate.ranks", spec->ranks, spec->experts, -HUGE_VAL, s->rank, why);
    for (uint64_t j = 0; j < n; j++)
        s->freq_max_hz[j] *= spec->freq_hz;
    if (rc)
        smoe_scenario_release(s);
    return rc;
}

void smoe_scenario_release(struct smoe_scenario *s)
{
    free(s->freq_max_hz);
    free(s->budget_w);
    free(s->cap_w);
    free(s->rank);
    *s = (struct smoe_scenario){0};
}
