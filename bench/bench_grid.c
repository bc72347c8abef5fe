/* SPDX-License-Identifier: Apache-2.0
 *
 * Every size of slot. Lanes, all over the same scores in memory (bench/scores.h):
 *
 *     read     the scores once: nothing that looks at them can be faster
 *     scalar   the hot pass as it is defined (daemon/core/route_pick.h)
 *     pass     the hot pass by the kernel that this machine runs
 *     warm     the exact solve as the daemon runs it, from the last slot's prices
 *     torch    torch.topk (peers/torch_topk.py), which only looks for the K largest scores
 *
 * Pass and torch must choose alike where all prices are 0, or the comparison would mean nothing; that is checked
 * before a size is raced. A size at which one solve takes more than WORK_MAX is raced without `warm`: seven
 * solves of it would take longer than everything else.
 */
#include "bench/bench_grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/race.h"
#include "bench/rival.h"
#include "bench/scores.h"
#include "bench/slots.h"
#include "daemon/core/route_pick.h"

#define SCORES_BYTES       ((size_t)96 << 20) /* three times a large cache */
#define SCORES_BYTES_QUICK ((size_t)2 << 20)
#define ROWS_MIN           125000 /* slots of 100,000 begin at different rows */
#define NODES_MAX          1024
#define NODES_MAX_QUICK    64

#define GAP_MAX    1e-6
#define GAP_ENOUGH 1e-6                 /* of K N V mu: what is asked of a solve */
#define WORK_MAX   UINT64_C(4000000000) /* scores and arcs looked at: a few seconds */
#define TOO_SLOW   "a solve exceeds 4e9 units of work"

enum lane { READ, SCALAR, PASS, WARM, TORCH, LANES };

struct grid {
    struct smoe_scores scores;
    struct smoe_rival torch;
    bool has_torch;
};

struct cell {
    struct grid *grid;
    uint32_t tokens, nodes, top_k;
    char size[32];
    struct smoe_slots slots; /* nodes of successive slots; prices, answer */
    struct smoe_route_pick pick;
    double *prices;         /* [J] of the pass: what slot 0 was solved with */
    uint32_t next[LANES];   /* slot that each takes next */
    double gap;             /* the worst certificate so far */
    volatile uint32_t seen; /* so that the reading is not optimised away */
};

/* ---- the lanes ---- */

static const float *next_scores(struct cell *c, enum lane lane)
{
    return smoe_scores_slot(&c->grid->scores, c->next[lane]++, c->tokens);
}

static void read_once(void *context)
{
    struct cell *c = context;
    c->seen = smoe_scores_read(next_scores(c, READ), (size_t)c->tokens * c->nodes);
}

static void scalar(void *context)
{
    struct cell *c = context;
    c->pick.scores = next_scores(c, SCALAR);
    smoe_route_pick_by(SMOE_ROUTE_SCALAR, &c->pick);
}

static void pass(void *context)
{
    struct cell *c = context;
    c->pick.scores = next_scores(c, PASS);
    smoe_route_pick(&c->pick);
}

static void solve(struct cell *c, bool warm)
{
    struct smoe_route_problem *p = &c->slots.problems[c->next[WARM] % SMOE_SLOTS_MAX];
    double scale = (double)c->top_k * c->tokens * p->score_weight;
    struct smoe_route_options options = {.prices = c->slots.prices,
                                         .warm = warm,
                                         .gap_max = GAP_ENOUGH * scale,
                                         .work_max = WORK_MAX};
    struct smoe_route_answer *a = &c->slots.answer;
    p->scores = next_scores(c, WARM);
    smoe_route_exact(p, &options, c->slots.scratch, a);
    double gap = (a->primal - a->bound) / scale;
    c->gap = isfinite(gap) ? fmax(c->gap, gap) : (double)INFINITY;
}

static void warm_solve(void *context)
{
    solve(context, true);
}

static double torch_topk(void *context, uint64_t calls)
{
    struct cell *c = context;
    char job[96];
    snprintf(job, sizeof job, "topk %u %u %u %u %u", c->tokens, c->nodes, c->top_k,
             c->grid->scores.n_rows, c->next[TORCH]);
    c->next[TORCH] += (uint32_t)calls;
    return smoe_rival_ask(&c->grid->torch, job, calls, NULL);
}

/* ---- before the race ---- */

static double sum_chosen(const struct smoe_route_pick *pick)
{
    double sum = 0;
    for (uint32_t i = 0; i < pick->n_tokens; i++)
        for (uint32_t k = 0; k < pick->top_k; k++) {
            uint16_t e = pick->chosen[(size_t)i * pick->top_k + k];
            sum += (double)pick->scores[(size_t)i * pick->n_experts + e];
        }
    return sum;
}

/* At prices of 0 the pass looks for what torch.topk looks for. Of slot 1, which does not begin where the memory
 * does. */
static int check_alike(struct cell *c, struct smoe_why *why)
{
    char job[96];
    double theirs = 0;
    memset(c->prices, 0, c->nodes * sizeof *c->prices);
    c->pick.scores = smoe_scores_slot(&c->grid->scores, 1, c->tokens);
    smoe_route_pick(&c->pick);
    double ours = sum_chosen(&c->pick);
    snprintf(job, sizeof job, "topk %u %u %u %u 1", c->tokens, c->nodes, c->top_k,
             c->grid->scores.n_rows);
    smoe_rival_ask(&c->grid->torch, job, 1, &theirs);
    if (c->grid->torch.failed)
        return smoe_fail(why, SMOE_EDATA, "torch: %s", c->grid->torch.why.text);
    if (!(fabs(ours - theirs) <= 1e-9 * fabs(ours)))
        return smoe_fail(why, SMOE_EDATA, "torch.topk: %s: chose %.17g, the pass %.17g", c->size,
                         theirs, ours);
    return 0;
}

/* Prices to pass with and to start warm from; false if a solve is out of reach. */
static bool solve_first(struct cell *c)
{
    c->gap = 0;
    solve(c, false);
    memcpy(c->prices, c->slots.prices, c->nodes * sizeof *c->prices);
    if (c->gap <= GAP_MAX)
        solve(c, true);
    return c->gap <= GAP_MAX;
}

/* ---- what is told ---- */

static void add_per_token(struct smoe_bench *bench, const struct cell *c,
                          const struct smoe_lane *lane, const char *part, const char *name)
{
    struct smoe_sample ns = lane->ns;
    for (unsigned i = 0; i < ns.n; i++)
        ns.values[i] /= c->tokens;
    smoe_report_add(bench->report, "ns/token", &ns, "route.%s.%s.%s", part, c->size, name);
}

/* a over b. */
static void add_ratio(struct smoe_bench *bench, const struct cell *c, const struct smoe_lane *a,
                      const struct smoe_lane *b, const char *part, const char *name)
{
    struct smoe_sample ratio = smoe_sample_ratio(&a->ns, &b->ns);
    smoe_report_add(bench->report, "x", &ratio, "route.%s.%s.%s", part, c->size, name);
}

static void report_pass(struct smoe_bench *bench, const struct cell *c,
                        const struct smoe_lane *lanes)
{
    add_per_token(bench, c, &lanes[READ], "pass", "read");
    add_per_token(bench, c, &lanes[SCALAR], "pass", "scalar");
    add_per_token(bench, c, &lanes[PASS], "pass", "pass");
    add_ratio(bench, c, &lanes[PASS], &lanes[READ], "pass", "to_read");
    if (!c->grid->has_torch)
        return;
    add_per_token(bench, c, &lanes[TORCH], "pass", "torch");
    add_ratio(bench, c, &lanes[TORCH], &lanes[PASS], "pass", "to_torch");
}

static void report_solve(struct smoe_bench *bench, const struct cell *c,
                         const struct smoe_lane *lanes, bool solved)
{
    if (!solved) {
        smoe_report_left_out(bench->report, TOO_SLOW, "route.solve.%s.warm", c->size);
        if (c->grid->has_torch)
            smoe_report_left_out(bench->report, TOO_SLOW, "route.solve.%s.to_torch", c->size);
        return;
    }
    add_per_token(bench, c, &lanes[WARM], "solve", "warm");
    add_ratio(bench, c, &lanes[WARM], &lanes[READ], "solve", "to_read");
    add_ratio(bench, c, &lanes[WARM], &lanes[PASS], "solve", "to_pass");
    if (c->grid->has_torch)
        add_ratio(bench, c, &lanes[TORCH], &lanes[WARM], "solve", "to_torch");
    smoe_report_value(bench->report, "KNVmu", c->gap, "route.solve.%s.gap", c->size);
}

static int race(struct smoe_bench *bench, struct cell *c, struct smoe_why *why)
{
    struct smoe_lane lanes[LANES] = {[READ] = {.run = read_once, .context = c},
                                     [SCALAR] = {.run = scalar, .context = c},
                                     [PASS] = {.run = pass, .context = c},
                                     [WARM] = {.run = warm_solve, .context = c},
                                     [TORCH] = {.time = torch_topk, .context = c}};
    int rc = c->grid->has_torch ? check_alike(c, why) : 0;
    if (rc)
        return rc;
    bool solved = solve_first(c);
    if (!solved) /* out of its place, and told as left out */
        lanes[WARM] = lanes[READ];
    smoe_race(lanes, c->grid->has_torch ? LANES : TORCH, bench->quick);
    if (c->grid->torch.failed)
        return smoe_fail(why, SMOE_EDATA, "torch: %s", c->grid->torch.why.text);
    report_pass(bench, c, lanes);
    report_solve(bench, c, lanes, solved && c->gap <= GAP_MAX);
    return 0;
}

/* ---- sizes ---- */

static void cell_release(struct cell *c)
{
    smoe_slots_release(&c->slots);
    free(c->prices);
    free(c->pick.row);
    free(c->pick.cutoff);
    free(c->pick.margin);
    free(c->pick.chosen);
    free(c->pick.runner_up);
    free(c->pick.loads);
}

/* 0 or SMOE_ENOMEMORY; release in any case. */
static int cell_init(struct cell *c, struct grid *grid, uint32_t tokens, uint32_t nodes,
                     uint32_t top_k)
{
    *c = (struct cell){.grid = grid, .tokens = tokens, .nodes = nodes, .top_k = top_k};
    snprintf(c->size, sizeof c->size, "%ux%ux%u", tokens, nodes, top_k);
    c->prices = malloc(nodes * sizeof *c->prices);
    c->pick =
        (struct smoe_route_pick){.n_tokens = tokens,
                                 .n_experts = nodes,
                                 .top_k = top_k,
                                 .prices = c->prices,
                                 .row = malloc(nodes * sizeof *c->pick.row),
                                 .cutoff = malloc(tokens * sizeof *c->pick.cutoff),
                                 .margin = malloc(tokens * sizeof *c->pick.margin),
                                 .chosen = malloc((size_t)tokens * top_k * sizeof *c->pick.chosen),
                                 .runner_up = malloc(tokens * sizeof *c->pick.runner_up),
                                 .loads = malloc(nodes * sizeof *c->pick.loads)};
    if (!c->prices || !c->pick.row || !c->pick.cutoff || !c->pick.margin || !c->pick.chosen ||
        !c->pick.runner_up || !c->pick.loads ||
        smoe_slots_init_bare(&c->slots, tokens, nodes, top_k))
        return SMOE_ENOMEMORY;
    c->pick.weight = c->slots.problems[0].score_weight;
    return 0;
}

static int bench_cell(struct smoe_bench *bench, struct grid *grid, uint32_t tokens, uint32_t nodes,
                      uint32_t top_k, struct smoe_why *why)
{
    struct cell c;
    int rc = cell_init(&c, grid, tokens, nodes, top_k);
    rc = rc ? smoe_fail(why, rc, "out of memory") : race(bench, &c, why);
    cell_release(&c);
    return rc;
}

static int bench_nodes(struct smoe_bench *bench, struct grid *grid, uint32_t nodes,
                       struct smoe_why *why)
{
    static const uint32_t tokens[] = {1000, 10000, 100000}, top_k[] = {1, 2, 8};
    size_t rows = (bench->quick ? SCORES_BYTES_QUICK : SCORES_BYTES) / sizeof(float) / nodes;
    if (!bench->quick && rows < ROWS_MIN)
        rows = ROWS_MIN;
    smoe_scores_draw(&grid->scores, (uint32_t)rows, nodes);
    int rc = 0;
    for (size_t n = 0; n < (bench->quick ? 1 : 3); n++)
        for (size_t k = 0; k < 3 && !rc; k++)
            rc = bench_cell(bench, grid, tokens[n], nodes, top_k[k], why);
    return rc;
}

static int start_torch(struct smoe_bench *bench, struct grid *grid, struct smoe_why *why)
{
    char program[320], descriptor[16];
    const char *const argv[] = {SMOE_BENCH_PYTHON, "-B", program, descriptor, NULL};
    snprintf(program, sizeof program, "%s/torch_topk.py", bench->peers);
    snprintf(descriptor, sizeof descriptor, "%d", grid->scores.shared.fd);
    int rc = smoe_rival_start(argv, &grid->torch, &grid->has_torch, why);
    if (rc)
        return smoe_fail_at(why, rc, "torch");
    if (!grid->has_torch)
        smoe_report_note(bench->report, "torch skipped: python3-torch is not installed");
    return 0;
}

int smoe_bench_grid(struct smoe_bench *bench, struct smoe_why *why)
{
    static const uint32_t nodes[] = {8, 64, 256, NODES_MAX};
    struct grid grid = {.has_torch = false};
    size_t bytes = bench->quick ? SCORES_BYTES_QUICK : ROWS_MIN * sizeof(float) * NODES_MAX;
    int rc = smoe_scores_init(&grid.scores, bytes);
    rc = rc ? smoe_fail(why, rc, "shared memory: %s", smoe_strerror(rc))
            : start_torch(bench, &grid, why);
    for (size_t n = 0; n < sizeof nodes / sizeof *nodes && !rc; n++)
        if (!bench->quick || nodes[n] <= NODES_MAX_QUICK)
            rc = bench_nodes(bench, &grid, nodes[n], why);
    smoe_rival_stop(&grid.torch);
    smoe_scores_release(&grid.scores);
    return rc;
}
