/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists instead of rows, because a vocabulary's rows do not fit a cache near the core (4,096 codes of 64
 * experts are 1 MiB), and its lists of eight do, nearly (192 KiB). Copies of a size that the compiler knows
 * become single moves, hence a loop for each K that is common.
 */
#include "daemon/core/router_table.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/within.h"

/* Insertion into a list of `listed`: ties never overtake, hence go to the lowest index. */
static void list_best(struct smoe_router_table *t, size_t code)
{
    const float *scores = t->scores + code * t->experts;
    uint16_t *expert = t->expert + code * t->listed;
    float *best = t->best + code * t->listed;
    size_t held = 0;
    for (size_t e = 0; e < t->experts; e++) {
        if (held == t->listed && !(scores[e] > best[held - 1]))
            continue;
        size_t at = held < t->listed ? held++ : held - 1;
        for (; at > 0 && scores[e] > best[at - 1]; at--) {
            best[at] = best[at - 1];
            expert[at] = expert[at - 1];
        }
        best[at] = scores[e];
        expert[at] = (uint16_t)e;
    }
}

static uint32_t listed_of(uint32_t experts)
{
    return experts < SMOE_TOP_K_MAX ? experts : SMOE_TOP_K_MAX;
}

size_t smoe_router_table_lists(uint32_t codes, uint32_t experts)
{
    const struct smoe_router_table *t = NULL;
    return (size_t)codes * listed_of(experts) * (sizeof *t->expert + sizeof *t->best);
}

int smoe_router_table_init(struct smoe_router_table *t, uint32_t codes, uint32_t experts,
                           const float *scores)
{
    size_t n = (size_t)codes * experts;
    smoe_assert(codes >= 1 && codes <= SMOE_ROUTER_CODES_MAX);
    smoe_assert(experts >= 1 && experts <= SMOE_EXPERTS_MAX);
    if (!smoe_within_f32(scores, n, FLT_MAX))
        return SMOE_EFIELD;
    struct smoe_router_table table = {
        .codes = codes, .experts = experts, .listed = listed_of(experts)};
    table.scores = malloc(n * sizeof *table.scores);
    table.expert = malloc((size_t)codes * table.listed * sizeof *table.expert);
    table.best = malloc((size_t)codes * table.listed * sizeof *table.best);
    if (!table.scores || !table.expert || !table.best) {
        smoe_router_table_release(&table);
        return SMOE_ENOMEMORY;
    }
    memcpy(table.scores, scores, n * sizeof *scores);
    for (size_t code = 0; code < codes; code++)
        list_best(&table, code);
    *t = table;
    return 0;
}

void smoe_router_table_release(struct smoe_router_table *t)
{
    free(t->scores);
    free(t->expert);
    free(t->best);
    *t = (struct smoe_router_table){.codes = 0};
}

size_t smoe_router_table_unknown(const struct smoe_router_table *t, size_t n, const uint32_t *codes)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = codes[i] > most ? codes[i] : most;
    if (n == 0 || most < t->codes)
        return n;
    size_t i = 0;
    while (codes[i] < t->codes)
        i++;
    return i;
}

/* One loop for each K: `k` is a literal where it is inlined. */
static inline void copy_lists(const struct smoe_router_table *t, size_t n, const uint32_t *codes,
                              size_t k, uint16_t *ret_expert, float *ret_score)
{
    size_t listed = t->listed;
    for (size_t i = 0; i < n; i++) {
        memcpy(ret_expert + i * k, t->expert + (size_t)codes[i] * listed, k * sizeof *ret_expert);
        memcpy(ret_score + i * k, t->best + (size_t)codes[i] * listed, k * sizeof *ret_score);
    }
}

void smoe_router_table_top(const struct smoe_router_table *t, size_t n, const uint32_t *codes,
                           uint32_t top_k, uint16_t *ret_expert, float *ret_score)
{
    smoe_assert(top_k >= 1 && top_k <= t->listed);
    if (top_k == 1)
        copy_lists(t, n, codes, 1, ret_expert, ret_score);
    else if (top_k == 2)
        copy_lists(t, n, codes, 2, ret_expert, ret_score);
    else
        copy_lists(t, n, codes, top_k, ret_expert, ret_score);
}

void smoe_router_table_scores(const struct smoe_router_table *t, size_t n, const uint32_t *codes,
                              float *ret)
{
    for (size_t i = 0; i < n; i++)
        memcpy(ret + i * t->experts, t->scores + (size_t)codes[i] * t->experts,
               t->experts * sizeof *ret);
}
