/* SPDX-License-Identifier: Apache-2.0
 *
 * The slot's problem as a linear program, given to a general solver: what the structure is worth, and a
 * second opinion of the optimum. Lanes, on one slot: CLP in a process of its own (peers/clp_route.c),
 * the exact solve from nothing, and the exact solve from the prices of the slot before, as the daemon
 * runs it. CLP always starts from nothing: with new tokens no column of the last slot's basis means
 * anything.
 *
 * The program is bench/lp.h. A node's marginal costs end CUT_RANGES ranges of the weights above the level at
 * which the nodes together take all visits: no optimum reaches so far, or `differs` would show it.
 */
#include "bench/bench_lp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lp.h"
#include "bench/race.h"
#include "bench/rival.h"
#include "bench/shared.h"
#include "bench/slots.h"

#define CUT_RANGES  2
#define LEVEL_STEPS 60

struct lp {
    struct smoe_slots slots;
    struct smoe_shared shared; /* a struct smoe_lp */
    struct smoe_rival clp;
    double *before;  /* [J] prices that slot 0 ended with */
    double constant; /* sum_j Phi_j(0): not in the program */
    double value;    /* CLP's last */
};

/* Slot 1: slot 0 has been solved before it. */
static const struct smoe_route_problem *problem_of(const struct lp *lp)
{
    return &lp->slots.problems[1];
}

/* ---- the linear program ---- */

static uint64_t supply(const struct smoe_route_problem *p, double price)
{
    uint64_t sum = 0;
    for (uint32_t j = 0; j < p->n_nodes; j++)
        sum += smoe_cost_supply(&p->nodes[j], p->mode, price, p->n_tokens);
    return sum;
}

/* A price at which the nodes offer as many visits as are wanted, or a little more. */
static double level_of(const struct smoe_route_problem *p)
{
    uint64_t visits = (uint64_t)p->n_tokens * p->top_k;
    double low = -p->nodes[0].penalty, high = -low;
    while (supply(p, high) < visits)
        high *= 2;
    for (int step = 0; step < LEVEL_STEPS; step++) {
        double middle = (low + high) / 2;
        *(supply(p, middle) < visits ? &low : &high) = middle;
    }
    return high;
}

static double cut_of(const struct smoe_route_problem *p)
{
    float least = p->scores[0], most = least;
    for (size_t v = 0; v < (size_t)p->n_tokens * p->n_experts; v++) {
        least = fminf(least, p->scores[v]);
        most = fmaxf(most, p->scores[v]);
    }
    return level_of(p) + CUT_RANGES * p->score_weight * (double)(most - least);
}

/* Runs of equal marginals of all nodes into `ret` (NULL: they are only counted); their number. */
static uint32_t segments(const struct smoe_route_problem *p, double cut,
                         struct smoe_lp_segment *ret)
{
    uint32_t count = 0;
    for (uint32_t j = 0; j < p->n_nodes; j++) {
        struct smoe_lp_segment run = {.length = 0};
        for (uint32_t n = 0; n < p->n_tokens; n++) {
            double cost = smoe_cost_marginal(&p->nodes[j], p->mode, n);
            if (cost > cut)
                break;
            bool same = run.length > 0 && !(cost > run.cost); /* they never fall */
            run = same ? run : (struct smoe_lp_segment){.cost = cost, .node = j};
            run.length++;
            count += !same;
            if (ret)
                ret[count - 1] = run;
        }
    }
    return count;
}

static int write_program(struct lp *lp)
{
    const struct smoe_route_problem *p = problem_of(lp);
    double cut = cut_of(p);
    size_t scores = (size_t)p->n_tokens * p->n_experts * sizeof *p->scores;
    struct smoe_lp head = {p->n_tokens, p->n_nodes, p->top_k, segments(p, cut, NULL),
                           p->score_weight};
    size_t middle = head.n_segments * sizeof(struct smoe_lp_segment);
    int rc = smoe_shared_init(&lp->shared, sizeof head + middle + scores);
    if (rc)
        return rc;
    char *at = lp->shared.bytes;
    memcpy(at, &head, sizeof head);
    segments(p, cut, (struct smoe_lp_segment *)(void *)(at + sizeof head));
    memcpy(at + sizeof head + middle, p->scores, scores);
    for (uint32_t j = 0; j < p->n_nodes; j++)
        lp->constant += smoe_cost(&p->nodes[j], p->mode, 0, NULL);
    return 0;
}

/* ---- the lanes ---- */

static double clp(void *context, uint64_t calls)
{
    struct lp *lp = context;
    return smoe_rival_ask(&lp->clp, "solve", calls, &lp->value);
}

static void cold(void *context)
{
    struct lp *lp = context;
    struct smoe_route_options options = {.prices = lp->slots.prices};
    smoe_route_exact(problem_of(lp), &options, lp->slots.scratch, &lp->slots.answer);
}

static void warm(void *context)
{
    struct lp *lp = context;
    struct smoe_route_options options = {.prices = lp->slots.prices, .warm = true};
    memcpy(lp->slots.prices, lp->before, problem_of(lp)->n_nodes * sizeof *lp->before);
    smoe_route_exact(problem_of(lp), &options, lp->slots.scratch, &lp->slots.answer);
}

static int report(struct smoe_bench *bench, struct lp *lp, const char *size)
{
    static const char *const names[] = {"cold", "warm", "clp"};
    struct smoe_lane lanes[] = {
        {.run = cold, .context = lp}, {.run = warm, .context = lp}, {.time = clp, .context = lp}};
    smoe_race(lanes, 3, bench->quick);
    if (lp->clp.failed)
        return SMOE_EDATA;
    for (int l = 0; l < 3; l++) {
        struct smoe_sample ms = lanes[l].ns;
        for (unsigned i = 0; i < ms.n; i++)
            ms.values[i] /= 1e6;
        smoe_report_add(bench->report, "ms", &ms, "route.clp.%s.%s", size, names[l]);
    }
    struct smoe_sample cold_to_clp = smoe_sample_ratio(&lanes[2].ns, &lanes[0].ns);
    struct smoe_sample to_clp = smoe_sample_ratio(&lanes[2].ns, &lanes[1].ns);
    smoe_report_add(bench->report, "x", &cold_to_clp, "route.clp.%s.cold_to_clp", size);
    smoe_report_add(bench->report, "x", &to_clp, "route.clp.%s.to_clp", size);
    double ours = lp->slots.answer.primal - lp->constant;
    smoe_report_value(bench->report, "relative", fabs(lp->value - ours) / fabs(ours),
                      "route.clp.%s.differs", size);
    return 0;
}

/* ---- sizes ---- */

static int start_clp(struct smoe_bench *bench, struct lp *lp, bool *ret_installed,
                     struct smoe_why *why)
{
    char program[1100], descriptor[16];
    const char *const argv[] = {program, descriptor, NULL};
    snprintf(program, sizeof program, "%s/stablemoe-bench-clp", bench->bin_dir);
    snprintf(descriptor, sizeof descriptor, "%d", lp->shared.fd);
    return smoe_rival_start(argv, &lp->clp, ret_installed, why);
}

static int bench_size(struct smoe_bench *bench, uint32_t tokens, uint32_t nodes, uint32_t top_k,
                      bool *ret_installed, struct smoe_why *why)
{
    struct lp lp = {.shared = {.fd = -1}, .before = malloc(nodes * sizeof(double))};
    char size[32];
    snprintf(size, sizeof size, "%ux%ux%u", tokens, nodes, top_k);
    int rc = lp.before ? smoe_slots_init(&lp.slots, tokens, nodes, top_k) : SMOE_ENOMEMORY;
    rc = rc ? rc : write_program(&lp);
    rc = rc ? smoe_fail(why, rc, "clp: %s", smoe_strerror(rc))
            : start_clp(bench, &lp, ret_installed, why);
    if (rc == 0 && *ret_installed) {
        struct smoe_route_options options = {.prices = lp.before};
        smoe_route_exact(&lp.slots.problems[0], &options, lp.slots.scratch, &lp.slots.answer);
        rc = report(bench, &lp, size);
        rc = rc ? smoe_fail(why, rc, "clp: %s", lp.clp.why.text) : 0;
    }
    smoe_rival_stop(&lp.clp);
    smoe_shared_release(&lp.shared);
    smoe_slots_release(&lp.slots);
    free(lp.before);
    return rc;
}

int smoe_bench_lp(struct smoe_bench *bench, struct smoe_why *why)
{
    static const struct {
        uint32_t tokens, nodes, top_k;
    } sizes[] = {{1000, 8, 2}, {10000, 8, 2}, {10000, 64, 2}};
    bool installed = true;
    int rc = 0;
    for (size_t i = 0; i < (bench->quick ? 1 : sizeof sizes / sizeof *sizes); i++)
        if (installed && !rc)
            rc =
                bench_size(bench, sizes[i].tokens, sizes[i].nodes, sizes[i].top_k, &installed, why);
    if (rc == 0 && !installed)
        smoe_report_note(bench->report,
                         "clp skipped: coinor-libclp-dev was not installed when this was built");
    return rc;
}
