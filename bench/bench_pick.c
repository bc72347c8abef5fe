/* SPDX-License-Identifier: Apache-2.0
 *
 * The hot pass of the slot's solve. Lanes, on the same scores: reading them once (nothing that looks at
 * them can be faster), the scalar pass that defines the result, and the kernel that this machine runs.
 */
#include "bench/bench_pick.h"

#include <stdlib.h>
#include <string.h>

#include "bench/race.h"
#include "common/base/rng.h"
#include "daemon/core/route_pick.h"
#include "stablemoe/error.h"

#define SCORES_MAX ((size_t)64 << 20) /* 256 MiB: sizes beyond it are left out */

struct pass {
    struct smoe_route_pick pick;
    float *scores;
    double *prices, *row, *cutoff, *margin;
    uint16_t *chosen, *runner_up;
    uint32_t *loads;
    volatile uint32_t seen; /* so that the reading is not optimised away */
};

static void read_once(void *context)
{
    struct pass *p = context;
    size_t n = (size_t)p->pick.n_tokens * p->pick.n_experts;
    uint32_t sum[16] = {0}, value[16];
    for (size_t i = 0; i + 16 <= n; i += 16) {
        memcpy(value, p->scores + i, sizeof value);
        for (int k = 0; k < 16; k++)
            sum[k] ^= value[k];
    }
    for (int k = 1; k < 16; k++)
        sum[0] ^= sum[k];
    p->seen = sum[0];
}

static void scalar(void *context)
{
    struct pass *p = context;
    smoe_route_pick_by(SMOE_ROUTE_SCALAR, &p->pick);
}

static void best(void *context)
{
    struct pass *p = context;
    smoe_route_pick(&p->pick);
}

static void pass_release(struct pass *p)
{
    free(p->scores);
    free(p->prices);
    free(p->row);
    free(p->cutoff);
    free(p->margin);
    free(p->chosen);
    free(p->runner_up);
    free(p->loads);
    *p = (struct pass){.scores = NULL};
}

/* Scores as a gate gives them: a few large, most small; prices that matter as much. */
static void fill(struct pass *p)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, p->pick.n_experts);
    size_t n = (size_t)p->pick.n_tokens * p->pick.n_experts;
    for (size_t v = 0; v < n; v++) {
        double unit = smoe_rng_unit(&rng);
        p->scores[v] = (float)(unit * unit * unit * 4 / p->pick.n_experts);
    }
    for (uint32_t e = 0; e < p->pick.n_experts; e++)
        p->prices[e] = smoe_rng_unit(&rng) * p->pick.weight * 4 / p->pick.n_experts;
}

static int pass_init(struct pass *p, uint32_t tokens, uint32_t experts, uint32_t top_k)
{
    *p = (struct pass){.scores = malloc((size_t)tokens * experts * sizeof *p->scores),
                       .prices = malloc(experts * sizeof *p->prices),
                       .row = malloc(experts * sizeof *p->row),
                       .cutoff = malloc(tokens * sizeof *p->cutoff),
                       .margin = malloc(tokens * sizeof *p->margin),
                       .chosen = malloc((size_t)tokens * top_k * sizeof *p->chosen),
                       .runner_up = malloc(tokens * sizeof *p->runner_up),
                       .loads = malloc(experts * sizeof *p->loads)};
    if (!p->scores || !p->prices || !p->row || !p->cutoff || !p->margin || !p->chosen ||
        !p->runner_up || !p->loads)
        return SMOE_ENOMEMORY;
    p->pick = (struct smoe_route_pick){.n_tokens = tokens,
                                       .n_experts = experts,
                                       .top_k = top_k,
                                       .scores = p->scores,
                                       .weight = 50,
                                       .prices = p->prices,
                                       .row = p->row,
                                       .chosen = p->chosen,
                                       .runner_up = p->runner_up,
                                       .cutoff = p->cutoff,
                                       .margin = p->margin,
                                       .loads = p->loads};
    fill(p);
    return 0;
}

static int bench_size(struct smoe_bench *bench, uint32_t tokens, uint32_t experts, uint32_t top_k)
{
    static const char *const names[] = {"read", "scalar", "pass"};
    struct pass p;
    int rc = pass_init(&p, tokens, experts, top_k);
    if (rc == 0) {
        struct smoe_lane lanes[] = {{.run = read_once, .context = &p},
                                    {.run = scalar, .context = &p},
                                    {.run = best, .context = &p}};
        char size[48];
        snprintf(size, sizeof size, "%ux%ux%u", tokens, experts, top_k);
        smoe_race(lanes, 3, bench->quick);
        for (int l = 0; l < 3; l++) {
            struct smoe_sample ns = lanes[l].ns;
            for (unsigned i = 0; i < ns.n; i++)
                ns.values[i] /= tokens;
            smoe_report_add(bench->report, "ns/token", &ns, "route.pass.%s.%s", size, names[l]);
        }
        struct smoe_sample to_read = smoe_sample_ratio(&lanes[2].ns, &lanes[0].ns);
        smoe_report_add(bench->report, "x", &to_read, "route.pass.%s.to_read", size);
    }
    pass_release(&p);
    return rc;
}

int smoe_bench_pick(struct smoe_bench *bench)
{
    static const uint32_t tokens[] = {1000, 10000, 100000}, experts[] = {8, 64, 256, 1024},
                          top_k[] = {1, 2, 8};
    int rc = 0;
    for (size_t e = 0; e < 4; e++)
        for (size_t k = 0; k < 3; k++)
            for (size_t n = 0; n < (bench->quick ? 1 : 3) && !rc; n++)
                if ((size_t)tokens[n] * experts[e] <= SCORES_MAX)
                    rc = bench_size(bench, tokens[n], experts[e], top_k[k]);
    return rc;
}
