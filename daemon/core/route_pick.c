/* SPDX-License-Identifier: Apache-2.0
 *
 * The scalar pass, which defines the result: the vector kernels (route_pick_tile.c) fall back on it and are
 * tested against it. Two loops a token: the costs of a row, which the compiler turns into vector code, and a
 * scan that keeps the K+1 smallest in order. Nearly every candidate loses against the (K+1)-th, so the scan
 * first asks a block of eight whether any of them is below it and skips the block otherwise.
 */
#include "daemon/core/route_pick.h"

#include <math.h>

#include "common/base/limits.h"
#include "daemon/core/route.h"

enum { BLOCK = 8 };

/* The K+1 smallest so far, rising; `last` is the cost to beat. */
struct leaders {
    uint32_t size;
    double cost[SMOE_TOP_K_MAX + 1];
    uint16_t expert[SMOE_TOP_K_MAX + 1];
};

static void leaders_clear(struct leaders *leaders, uint32_t size)
{
    leaders->size = size;
    for (uint32_t k = 0; k < size; k++) {
        leaders->cost[k] = (double)INFINITY;
        leaders->expert[k] = SMOE_ROUTE_NONE;
    }
}

static void leaders_insert(struct leaders *leaders, uint16_t expert, double cost)
{
    uint32_t k = leaders->size - 1;
    for (; k > 0 && cost < leaders->cost[k - 1]; k--) {
        leaders->cost[k] = leaders->cost[k - 1];
        leaders->expert[k] = leaders->expert[k - 1];
    }
    leaders->cost[k] = cost;
    leaders->expert[k] = expert;
}

static void scan(struct leaders *leaders, const double *row, uint32_t n_experts)
{
    const double *last = &leaders->cost[leaders->size - 1];
    uint32_t e = 0;
    for (; e + BLOCK <= n_experts; e += BLOCK) {
        int below = 0;
        for (uint32_t b = 0; b < BLOCK; b++)
            below |= row[e + b] < *last;
        if (!below)
            continue;
        for (uint32_t b = 0; b < BLOCK; b++)
            if (row[e + b] < *last)
                leaders_insert(leaders, (uint16_t)(e + b), row[e + b]);
    }
    for (; e < n_experts; e++)
        if (row[e] < *last)
            leaders_insert(leaders, (uint16_t)e, row[e]);
}

void smoe_route_pick_token(const struct smoe_route_pick *pick, uint32_t token)
{
    uint32_t k = pick->top_k, n_experts = pick->n_experts;
    const float *scores = pick->scores + (size_t)token * n_experts;
    double *restrict row = pick->row;
    for (uint32_t e = 0; e < n_experts; e++)
        row[e] = pick->prices[e] - pick->weight * (double)scores[e];

    struct leaders leaders;
    leaders_clear(&leaders, k + 1);
    scan(&leaders, row, n_experts);
    for (uint32_t m = 0; m < k; m++) {
        pick->chosen[(size_t)token * k + m] = leaders.expert[m];
        pick->loads[leaders.expert[m]]++;
    }
    pick->runner_up[token] = leaders.expert[k];
    pick->cutoff[token] = leaders.cost[k - 1];
    pick->margin[token] = leaders.cost[k] - leaders.cost[k - 1];
}
