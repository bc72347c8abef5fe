/* SPDX-License-Identifier: Apache-2.0
 *
 * Scoring tokens by a frozen router's table (daemon/core/router_table.h). Lanes, all over the same table and the
 * same tokens in memory, one core:
 *
 *     unknown  are all codes in the table? asked once of whatever comes from a network
 *     top      the K best experts of every token, with their scores
 *     rows     all scores of every token, for a solve that trades experts
 *     torch    the table's rows gathered, then torch.topk (peers/torch_router.py): what a trainer would write
 *     gather   lists made beforehand, gathered by torch: our own way, in torch
 *
 * Codes are drawn as words are: Zipf's law, the r-th with weight 1/r. torch and we must choose alike before a size
 * is raced.
 */
#include <math.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "bench/race.h"
#include "bench/rival.h"
#include "bench/shared.h"
#include "common/base/rng.h"
#include "daemon/core/router_table.h"

#define TOKENS       65536
#define TOKENS_QUICK 4096
#define CODES_MAX    32768
#define EXPERTS      64
#define TOP_K_MAX    2

enum lane { UNKNOWN, TOP, ROWS, TORCH, GATHER, LANES };

struct router_race {
    struct smoe_shared shared; /* float scores [CODES_MAX, EXPERTS], then uint32_t codes [TOKENS] */
    struct smoe_rival torch;
    bool has_torch;
    struct smoe_router_table table;
    const uint32_t *codes;
    size_t n;
    uint32_t top_k;
    uint16_t *expert;     /* [TOKENS, TOP_K_MAX] */
    float *best, *rows;   /* [TOKENS, TOP_K_MAX], [TOKENS, EXPERTS] */
    volatile size_t seen; /* so that the asking is not optimised away */
};

/* ---- the lanes ---- */

static void unknown(void *context)
{
    struct router_race *r = context;
    r->seen = smoe_router_table_unknown(&r->table, r->n, r->codes);
}

static void top(void *context)
{
    struct router_race *r = context;
    smoe_router_table_top(&r->table, r->n, r->codes, r->top_k, r->expert, r->best);
}

static void rows(void *context)
{
    struct router_race *r = context;
    smoe_router_table_scores(&r->table, r->n, r->codes, r->rows);
}

static double ask(struct router_race *r, const char *job, uint64_t calls, double *ret_value)
{
    char line[96];
    snprintf(line, sizeof line, "%s %u %u %u %zu %u", job, r->table.codes, EXPERTS, r->top_k, r->n,
             CODES_MAX);
    return smoe_rival_ask(&r->torch, line, calls, ret_value);
}

static double torch_topk(void *context, uint64_t calls)
{
    return ask(context, "topk", calls, NULL);
}

static double torch_gather(void *context, uint64_t calls)
{
    return ask(context, "gather", calls, NULL);
}

/* ---- the problem ---- */

static void draw(struct router_race *r, uint32_t codes)
{
    float *scores = r->shared.bytes;
    uint32_t *words = (uint32_t *)(void *)(scores + (size_t)CODES_MAX * EXPERTS);
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, codes);
    for (size_t i = 0; i < (size_t)codes * EXPERTS; i++)
        scores[i] = (float)smoe_rng_unit(&rng);
    for (size_t i = 0; i < r->n; i++) /* the inverse of Zipf's distribution, nearly */
        words[i] = (uint32_t)(exp(smoe_rng_unit(&rng) * log((double)codes)) - 1);
    r->codes = words;
}

static int check_alike(struct router_race *r, struct smoe_why *why)
{
    static const char *const jobs[] = {"topk", "gather"};
    double ours = 0, theirs = 0;
    top(r);
    for (size_t v = 0; v < r->n * r->top_k; v++)
        ours += (double)r->best[v] * (1 + r->expert[v]);
    for (size_t i = 0; i < 2; i++) {
        ask(r, jobs[i], 1, &theirs);
        if (r->torch.failed)
            return smoe_fail(why, SMOE_EDATA, "torch: %s", r->torch.why.text);
        if (!(fabs(ours - theirs) <= 1e-9 * fabs(ours)))
            return smoe_fail(why, SMOE_EDATA, "torch: %s: chose %.17g, the table %.17g", jobs[i],
                             theirs, ours);
    }
    return 0;
}

/* ---- what is told ---- */

static void report(struct smoe_bench *bench, const struct router_race *r,
                   const struct smoe_lane *lanes)
{
    static const char *const names[LANES] = {"unknown", "top", "rows", "torch", "gather"};
    char size[32];
    snprintf(size, sizeof size, "%ux%ux%u", r->table.codes, EXPERTS, r->top_k);
    for (int l = 0; l < (r->has_torch ? LANES : TORCH); l++) {
        struct smoe_sample rate = smoe_sample_inverse(&lanes[l].ns, 1e3 * (double)r->n);
        smoe_report_add(bench->report, "Mtoken/s", &rate, "router.%s.%s", size, names[l]);
    }
    for (int l = TORCH; l < (r->has_torch ? LANES : TORCH); l++) {
        struct smoe_sample ratio = smoe_sample_ratio(&lanes[l].ns, &lanes[TOP].ns);
        smoe_report_add(bench->report, "x", &ratio, "router.%s.to_%s", size, names[l]);
    }
}

static int race(struct smoe_bench *bench, struct router_race *r, struct smoe_why *why)
{
    struct smoe_lane lanes[LANES] = {[UNKNOWN] = {.run = unknown, .context = r},
                                     [TOP] = {.run = top, .context = r},
                                     [ROWS] = {.run = rows, .context = r},
                                     [TORCH] = {.time = torch_topk, .context = r},
                                     [GATHER] = {.time = torch_gather, .context = r}};
    int rc = r->has_torch ? check_alike(r, why) : 0;
    if (rc)
        return rc;
    smoe_race(lanes, r->has_torch ? LANES : TORCH, bench->quick);
    if (r->torch.failed)
        return smoe_fail(why, SMOE_EDATA, "torch: %s", r->torch.why.text);
    report(bench, r, lanes);
    return 0;
}

/* ---- sizes ---- */

static int bench_codes(struct smoe_bench *bench, struct router_race *r, uint32_t codes,
                       struct smoe_why *why)
{
    draw(r, codes);
    int rc = smoe_router_table_init(&r->table, codes, EXPERTS, r->shared.bytes);
    if (rc)
        return smoe_fail(why, rc, "table: %s", smoe_strerror(rc));
    for (r->top_k = 1; r->top_k <= TOP_K_MAX && !rc; r->top_k++)
        rc = race(bench, r, why);
    smoe_router_table_release(&r->table);
    return rc;
}

static int start_torch(struct smoe_bench *bench, struct router_race *r, struct smoe_why *why)
{
    char program[320], descriptor[16];
    const char *const argv[] = {SMOE_BENCH_PYTHON, "-B", program, descriptor, NULL};
    snprintf(program, sizeof program, "%s/torch_router.py", bench->peers);
    snprintf(descriptor, sizeof descriptor, "%d", r->shared.fd);
    int rc = smoe_rival_start(argv, &r->torch, &r->has_torch, why);
    if (rc == 0 && !r->has_torch)
        smoe_report_note(bench->report, "torch skipped: python3-torch is not installed");
    return rc ? smoe_fail_at(why, rc, "torch") : 0;
}

static int start(struct smoe_bench *bench, struct router_race *r, struct smoe_why *why)
{
    r->n = bench->quick ? TOKENS_QUICK : TOKENS;
    r->expert = malloc(r->n * TOP_K_MAX * sizeof *r->expert);
    r->best = malloc(r->n * TOP_K_MAX * sizeof *r->best);
    r->rows = malloc(r->n * EXPERTS * sizeof *r->rows);
    if (!r->expert || !r->best || !r->rows)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    int rc = smoe_shared_init(&r->shared, (size_t)CODES_MAX * EXPERTS * sizeof(float) +
                                              TOKENS * sizeof(uint32_t));
    if (rc == 0)
        rc = smoe_rival_share_core();
    return rc ? smoe_fail(why, rc, "%s", smoe_strerror(rc)) : start_torch(bench, r, why);
}

int smoe_bench_router(struct smoe_bench *bench, struct smoe_why *why)
{
    static const uint32_t codes[] = {256, 4096, CODES_MAX};
    struct router_race r = {.shared = {.fd = -1}};
    int rc = start(bench, &r, why);
    for (size_t i = 0; i < sizeof codes / sizeof *codes && !rc; i++)
        rc = bench_codes(bench, &r, codes[i], why);
    smoe_rival_stop(&r.torch);
    smoe_shared_release(&r.shared);
    free(r.expert);
    free(r.best);
    free(r.rows);
    return rc ? smoe_fail_at(why, rc, "router") : 0;
}
