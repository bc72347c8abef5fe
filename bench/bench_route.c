/* SPDX-License-Identifier: Apache-2.0
 *
 * The slot's solve. Lanes, on the same slots of the same fleet: reading the scores once (nothing that
 * looks at them can be faster), separable, greedy, exact from nothing, and exact as the daemon runs it,
 * starting at the last slot's prices. Beside the times: what the cheaper rules give away of the
 * objective, and the exact solve's certificate. On the paper's own size a textbook min-cost flow
 * agrees about the optimum and shows what the problem costs without its structure.
 */
#include <math.h>

#include "bench/bench.h"
#include "bench/bench_grid.h"
#include "bench/bench_lp.h"
#include "bench/flow.h"
#include "bench/race.h"
#include "bench/rival.h"
#include "bench/scores.h"
#include "bench/slots.h"
#include "common/io/clock.h"
#include "daemon/core/policy.h"

struct solve {
    struct smoe_slots slots;
    unsigned slot;         /* each call takes the next */
    volatile uint32_t sum; /* so that the reading is not optimised away */
};

static const struct smoe_route_problem *next_slot(struct solve *s)
{
    s->slot = (s->slot + 1) % SMOE_SLOTS_MAX;
    return &s->slots.problems[s->slot];
}

/* ---- the lanes ---- */

static void read_once(void *context)
{
    struct solve *s = context;
    const struct smoe_route_problem *p = next_slot(s);
    s->sum = smoe_scores_read(p->scores, (size_t)p->n_tokens * p->n_experts);
}

static void separable(void *context)
{
    struct solve *s = context;
    smoe_route_separable(next_slot(s), s->slots.scratch, &s->slots.answer);
}

static void greedy(void *context)
{
    struct solve *s = context;
    smoe_route_greedy(next_slot(s), s->slots.scratch, &s->slots.answer);
}

static void exact_cold(void *context)
{
    struct solve *s = context;
    struct smoe_route_options options = {.prices = s->slots.prices};
    smoe_route_exact(next_slot(s), &options, s->slots.scratch, &s->slots.answer);
}

static void exact_warm(void *context)
{
    struct solve *s = context;
    struct smoe_route_options options = {.prices = s->slots.prices, .warm = true};
    smoe_route_exact(next_slot(s), &options, s->slots.scratch, &s->slots.answer);
}

/* ---- quality ---- */

/* What gaps are relative to: K N V mu. */
static double scale_of(const struct smoe_route_problem *p)
{
    return (double)p->top_k * p->n_tokens * p->score_weight;
}

/* Worst certificate of the exact solve, and mean loss of the cheaper rules, over all slots. */
static void report_quality(struct smoe_bench *bench, struct solve *s, const char *size)
{
    double gap = 0, lost_greedy = 0, lost_separable = 0;
    for (s->slot = 0; s->slot < SMOE_SLOTS_MAX; s->slot++) {
        const struct smoe_route_problem *p = &s->slots.problems[s->slot];
        struct smoe_route_options options = {.prices = s->slots.prices};
        struct smoe_route_answer *a = &s->slots.answer;
        smoe_route_exact(p, &options, s->slots.scratch, a);
        double best = a->primal;
        gap = fmax(gap, (a->primal - a->bound) / scale_of(p));
        smoe_route_greedy(p, s->slots.scratch, a);
        lost_greedy += (a->primal - best) / scale_of(p) / SMOE_SLOTS_MAX;
        smoe_route_separable(p, s->slots.scratch, a);
        lost_separable += (a->primal - best) / scale_of(p) / SMOE_SLOTS_MAX;
    }
    smoe_report_value(bench->report, "KNVmu", gap, "route.%s.gap", size);
    smoe_report_value(bench->report, "KNVmu", lost_greedy, "route.%s.greedy_loss", size);
    smoe_report_value(bench->report, "KNVmu", lost_separable, "route.%s.separable_loss", size);
}

static int report_flow(struct smoe_bench *bench, struct solve *s, const char *size)
{
    const struct smoe_route_problem *p = &s->slots.problems[0];
    struct smoe_sample over = {.n = 0};
    struct smoe_route_options options = {.prices = s->slots.prices};
    double value = 0;
    for (int round = 0; round < (bench->quick ? 1 : 3); round++) {
        uint64_t began = smoe_clock_monotonic_ns();
        smoe_route_exact(p, &options, s->slots.scratch, &s->slots.answer);
        uint64_t solved = smoe_clock_monotonic_ns();
        if (smoe_flow_solve(p, &value))
            return SMOE_ENOMEMORY;
        uint64_t flowed = smoe_clock_monotonic_ns();
        smoe_sample_add(&over, (double)(flowed - solved) / (double)(solved - began));
    }
    smoe_report_add(bench->report, "x", &over, "route.%s.to_flow", size);
    smoe_report_value(bench->report, "KNVmu", fabs(s->slots.answer.primal - value) / scale_of(p),
                      "route.%s.flow_differs", size);
    return 0;
}

/* ---- sizes ---- */

static void report_times(struct smoe_bench *bench, struct solve *s, const char *size)
{
    struct smoe_lane lanes[] = {{.run = read_once, .context = s},
                                {.run = separable, .context = s},
                                {.run = greedy, .context = s},
                                {.run = exact_cold, .context = s},
                                {.run = exact_warm, .context = s}};
    static const char *const names[] = {"read", "separable", "greedy", "exact_cold", "exact_warm"};
    exact_cold(s); /* prices to start warm from */
    smoe_race(lanes, 5, bench->quick);
    for (int l = 0; l < 5; l++) {
        struct smoe_sample ns = lanes[l].ns;
        for (unsigned i = 0; i < ns.n; i++)
            ns.values[i] /= s->slots.problems[0].n_tokens;
        smoe_report_add(bench->report, "ns/token", &ns, "route.%s.%s", size, names[l]);
    }
    struct smoe_sample to_greedy = smoe_sample_ratio(&lanes[4].ns, &lanes[2].ns);
    struct smoe_sample to_separable = smoe_sample_ratio(&lanes[4].ns, &lanes[1].ns);
    smoe_report_add(bench->report, "x", &to_greedy, "route.%s.warm_to_greedy", size);
    smoe_report_add(bench->report, "x", &to_separable, "route.%s.warm_to_separable", size);
}

static int bench_size(struct smoe_bench *bench, uint32_t tokens, uint32_t nodes, uint32_t top_k)
{
    struct solve s = {.slot = 0};
    char size[32];
    snprintf(size, sizeof size, "%ux%ux%u", tokens, nodes, top_k);
    int rc = smoe_slots_init(&s.slots, tokens, nodes, top_k);
    if (rc == 0) {
        report_times(bench, &s, size);
        report_quality(bench, &s, size);
        if (tokens <= 400)
            rc = report_flow(bench, &s, size);
    }
    smoe_slots_release(&s.slots);
    return rc;
}

int smoe_bench_route(struct smoe_bench *bench, struct smoe_why *why)
{
    static const struct {
        uint32_t tokens, nodes, top_k;
    } sizes[] = {{64, 8, 2},    {390, 10, 3},  {1000, 8, 1},
                 {1000, 64, 2}, {10000, 8, 2}, {10000, 64, 2}};
    int rc = smoe_rival_share_core();
    if (rc)
        return smoe_fail(why, rc, "route: one core: %s", smoe_strerror(rc));
    rc = smoe_bench_grid(bench, why);
    if (rc)
        return smoe_fail_at(why, rc, "route");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !rc; i++)
        if (!bench->quick || sizes[i].tokens <= 1000)
            rc = bench_size(bench, sizes[i].tokens, sizes[i].nodes, sizes[i].top_k);
    if (rc)
        return smoe_fail(why, rc, "route: out of memory");
    rc = smoe_bench_lp(bench, why);
    return rc ? smoe_fail_at(why, rc, "route") : 0;
}
