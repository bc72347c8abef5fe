/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops over rows of grains, by every width of vectors that this machine runs, against plain loops.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/route_grain.h"

enum { EXPERTS = 160, WAVE = 9, UNTOLD = 177 };

struct drawn {
    uint32_t n, stride, count;
    float scores[EXPERTS], prices[EXPERTS];
    int16_t row[WAVE][EXPERTS], lift[EXPERTS], key[EXPERTS], open[EXPERTS];
    int16_t held[WAVE], base[WAVE];
};

static int16_t draw_below(struct smoe_rng *rng, uint32_t n)
{
    return (int16_t)smoe_rng_below(rng, n);
}

static int16_t clamp(int32_t x)
{
    return (int16_t)(x > INT16_MAX ? INT16_MAX : x < INT16_MIN ? INT16_MIN : x);
}

/* Coarse, so that there are ties; some far, some not on offer, and nothing behind the last. */
static void draw(struct drawn *d, struct smoe_rng *rng)
{
    uint32_t range = smoe_rng_below(rng, 2) ? 12 : 20000;
    d->n = 1 + (uint32_t)draw_below(rng, EXPERTS);
    d->stride = (d->n + SMOE_GRAIN_STEP - 1) / SMOE_GRAIN_STEP * SMOE_GRAIN_STEP;
    d->count = 1 + (uint32_t)draw_below(rng, WAVE);
    for (uint32_t f = 0; f < d->stride; f++) {
        bool offered = f < d->n && draw_below(rng, 9);
        d->scores[f] = (float)draw_below(rng, 64) / 64;
        d->prices[f] = offered ? (float)draw_below(rng, 8) : INFINITY;
        d->lift[f] = offered ? draw_below(rng, range) : SMOE_GRAIN_FAR;
        d->key[f] = draw_below(rng, 2) ? draw_below(rng, range) : SMOE_GRAIN_FAR;
        d->open[f] = draw_below(rng, 2) ? d->key[f] : SMOE_GRAIN_FAR;
        for (uint32_t i = 0; i < WAVE; i++)
            d->row[i][f] = offered && draw_below(rng, 5) ? draw_below(rng, range) : SMOE_GRAIN_FAR;
    }
    for (uint32_t i = 0; i < WAVE; i++) {
        d->held[i] = draw_below(rng, range);
        d->base[i] = (int16_t)(draw_below(rng, range) - draw_below(rng, range));
    }
}

static void check_costs(const struct drawn *d, const struct smoe_grain_kernel *kernel)
{
    float scores[2 * EXPERTS], prices[EXPERTS], least = INFINITY;
    int16_t rows[2 * EXPERTS], *row = rows + d->stride; /* of the second of two */
    struct smoe_grain_scale scale = {.prices = prices, .weight = 15000};
    for (uint32_t f = 0; f < d->n; f++) {
        scores[f] = 1 - d->scores[f];
        prices[f] = 3000 * d->prices[f];
        scores[d->n + f] = d->scores[f];
        least = fminf(least, prices[f] - 15000 * d->scores[f]);
    }
    if (isinf(least)) /* nothing on offer */
        return;
    kernel->costs(&scale, scores, d->n, 2, rows);
    for (uint32_t f = 0; f < d->stride; f++) {
        float grains = f < d->n ? (prices[f] - 15000 * d->scores[f]) - least : INFINITY;
        int16_t expected = SMOE_GRAIN_FAR;
        if (grains < (float)SMOE_GRAIN_FAR)
            expected = (int16_t)grains;
        cr_assert_eq(row[f], expected, "%u: %d, not %d", f, row[f], expected);
    }
}

static void check_two(const struct drawn *d, const struct smoe_grain_kernel *kernel)
{
    int32_t least = SMOE_GRAIN_FAR, second = SMOE_GRAIN_FAR;
    uint32_t at = UNTOLD;
    for (uint32_t f = 0; f < d->stride; f++) {
        int32_t cost = clamp(d->row[0][f] + d->lift[f]);
        if (cost < least) {
            second = least;
            least = cost;
            at = f;
        } else if (cost < second) {
            second = cost;
        }
    }
    int16_t rows[2 * EXPERTS];
    struct smoe_grain_two both[2], two;
    memcpy(rows, d->row[1], d->stride * sizeof *rows);
    memcpy(rows + d->stride, d->row[0], d->stride * sizeof *rows);
    kernel->two(rows, 2, d->lift, d->stride, NULL, both);
    two = both[1];
    cr_assert_eq(kernel->least(d->row[0], d->lift, d->stride), least);
    cr_assert_eq(two.least, least);
    cr_assert_eq(two.second, second);
    if (at != UNTOLD)
        cr_assert_eq(two.expert, at, "%u, not %u", two.expert, at);
}

static void check_lowest(const struct drawn *d, const struct smoe_grain_kernel *kernel)
{
    int16_t bids[EXPERTS];
    uint32_t but = d->count % d->n, at = SMOE_GRAIN_FAR;
    for (uint32_t n = 0; n < EXPERTS; n++)
        bids[n] = n < d->n ? d->row[0][n] : SMOE_GRAIN_FAR;
    for (uint32_t n = 0; n < d->n; n++)
        if (n != but && bids[n] < (at == SMOE_GRAIN_FAR ? SMOE_GRAIN_FAR : bids[at]))
            at = n;
    uint32_t lowest = kernel->lowest(bids, d->n, but);
    cr_assert_eq(lowest, at, "%u, not %u", lowest, at);
}

static void check_offers(const struct drawn *d, const struct smoe_grain_kernel *kernel, bool more,
                         bool large)
{
    int16_t row[EXPERTS];
    struct smoe_grain_group group = {.count =
                                         d->count < SMOE_GRAIN_GROUP ? d->count : SMOE_GRAIN_GROUP};
    for (uint32_t i = 0; i < group.count; i++) {
        group.costs[i] = d->row[i];
        group.held[i] = d->held[i];
    }
    memcpy(row, d->key, sizeof row);
    kernel->offers(row, d->stride, &group, more, large);
    for (uint32_t f = 0; f < d->stride; f++) {
        int32_t least = more ? d->key[f] : SMOE_GRAIN_FAR;
        for (uint32_t i = 0; i < group.count; i++) {
            int32_t offer = d->row[i][f] == SMOE_GRAIN_FAR && large ? SMOE_GRAIN_FAR
                                                                    : d->row[i][f] - d->held[i];
            least = offer < least ? offer : least;
        }
        cr_assert_eq(row[f], least);
    }
}

/* Rows, lifts and slacks of a search: from each vertex to each, sink included, no way is shorter than nothing. */
struct graph {
    int16_t rows[EXPERTS * EXPERTS], lift[EXPERTS], up[EXPERTS], down[EXPERTS];
    int16_t key[EXPERTS], open[EXPERTS], came[EXPERTS], base[EXPERTS];
    int32_t sink_lift, sink_key;
};

static int32_t slack(const struct graph *g, uint32_t stride, uint32_t n, uint32_t from, uint32_t to)
{
    int32_t low = from == n ? g->sink_lift : g->lift[from],
            high = to == n ? g->sink_lift : g->lift[to];
    int32_t arc = from == n ? g->down[to] : to == n ? g->up[from] : g->rows[from * stride + to];
    return arc == SMOE_GRAIN_FAR ? INT16_MAX : arc + high - low;
}

static void draw_graph(struct graph *g, const struct drawn *d, struct smoe_rng *rng)
{
    enum { LIFTS = 4000, SLACKS = 900 };
    memset(g, 0, sizeof *g);
    g->sink_lift = draw_below(rng, LIFTS);
    for (uint32_t f = 0; f < d->stride; f++)
        g->lift[f] =
            f < d->n && d->lift[f] != SMOE_GRAIN_FAR ? draw_below(rng, LIFTS) : SMOE_GRAIN_FAR;
    for (uint32_t f = 0; f < d->stride; f++) {
        bool offered = g->lift[f] != SMOE_GRAIN_FAR;
        int16_t coarse = draw_below(rng, 2) ? 1 : 30; /* ties, and none */
        g->key[f] = g->open[f] = g->up[f] = g->down[f] = SMOE_GRAIN_FAR;
        g->came[f] = -1;
        if (offered && draw_below(rng, 3) == 0)
            g->up[f] = (int16_t)(draw_below(rng, SLACKS) / coarse + g->lift[f] - g->sink_lift);
        if (offered && draw_below(rng, 3) == 0)
            g->down[f] = (int16_t)(draw_below(rng, SLACKS) / coarse + g->sink_lift - g->lift[f]);
        if (offered && draw_below(rng, 6) == 0) {
            g->key[f] = g->open[f] = 0;
            g->came[f] = (int16_t)f;
        }
        for (uint32_t e = 0; e < d->stride; e++) {
            int16_t *arc = &g->rows[e * d->stride + f];
            *arc = SMOE_GRAIN_FAR;
            if (offered && g->lift[e] != SMOE_GRAIN_FAR && e != f && draw_below(rng, 4) == 0)
                *arc = (int16_t)(draw_below(rng, SLACKS) / coarse + g->lift[e] - g->lift[f]);
        }
    }
    g->sink_key = draw_below(rng, 4) ? SMOE_GRAIN_FAR : 0;
}

/* Distances of all from the open ones, the sink's last: every arc once more until nothing changes. */
static void find_ways(const struct graph *g, const struct drawn *d, int32_t *ret)
{
    for (uint32_t f = 0; f < d->n; f++)
        ret[f] = g->key[f];
    ret[d->n] = g->sink_key;
    for (bool again = true; again;) {
        again = false;
        for (uint32_t from = 0; from <= d->n; from++)
            for (uint32_t to = 0; to <= d->n && ret[from] < SMOE_GRAIN_FAR; to++) {
                if (from == to)
                    continue;
                int32_t way = ret[from] + slack(g, d->stride, d->n, from, to);
                again |= way < ret[to];
                ret[to] = way < ret[to] ? way : ret[to];
            }
    }
}

/* The search finds the shortest ways up to MOST, and for each how it comes there; all widths find the same. */
static void check_search(const struct drawn *d, struct graph drawn, uint32_t width)
{
    enum { MOST = 2500 };
    struct graph g = drawn, first = drawn;
    int32_t ways[EXPERTS + 1];
    struct smoe_grain_front front = {.stride = d->stride,
                                     .lift = g.lift,
                                     .rows = g.rows,
                                     .up = g.up,
                                     .down = g.down,
                                     .key = g.key,
                                     .open = g.open,
                                     .came = g.came,
                                     .base = g.base,
                                     .sink = d->n,
                                     .sink_lift = g.sink_lift,
                                     .sink_key = g.sink_key,
                                     .sink_open = g.sink_key,
                                     .sink_came = d->n};
    struct smoe_grain_front other = front;
    other.key = first.key;
    other.open = first.open;
    other.came = first.came;
    other.base = first.base;
    uint32_t wave = (uint32_t)d->held[0] % 700;
    uint32_t expanded = smoe_grain_kernel_by(width)->search(&front, (int32_t)wave, MOST);
    cr_assert_eq(smoe_grain_kernel_by(0)->search(&other, (int32_t)wave, MOST), expanded);
    cr_assert_eq(memcmp(first.came, g.came, sizeof g.came), 0);
    cr_assert_eq(other.sink_came, front.sink_came);
    find_ways(&drawn, d, ways);
    for (uint32_t f = 0; f <= d->n; f++) {
        int32_t key = f == d->n ? front.sink_key : g.key[f];
        uint32_t from = f == d->n ? front.sink_came : (uint32_t)g.came[f];
        if (ways[f] > MOST) {
            cr_assert_gt(key, MOST); /* what is far may look less far than it is */
            continue;
        }
        cr_assert_eq(key, ways[f], "%u: %d, not %d", f, key, ways[f]);
        if (from != f)
            cr_assert_eq(ways[from] + slack(&drawn, d->stride, d->n, from, f), key);
        else
            cr_assert_eq(key, 0);
    }
}

static void check_raise(const struct drawn *d, const struct smoe_grain_kernel *kernel)
{
    int16_t lift[EXPERTS];
    memcpy(lift, d->lift, sizeof lift);
    kernel->raise(lift, d->key, d->stride, d->held[0]);
    for (uint32_t f = 0; f < d->stride; f++) {
        int32_t rise = d->held[0] - d->key[f];
        cr_assert_eq(lift[f], clamp(d->lift[f] + (rise > 0 ? rise : 0)));
    }
}

Test(grains, every_width_does_what_the_plain_loop_does)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 62, 0);
    for (int round = 0; round < 5000; round++) {
        struct drawn drawn = {.n = 0};
        draw(&drawn, &rng);
        for (uint32_t width = 0; width < smoe_grain_widths(); width++) {
            const struct smoe_grain_kernel *kernel = smoe_grain_kernel_by(width);
            check_costs(&drawn, kernel);
            check_two(&drawn, kernel);
            check_lowest(&drawn, kernel);
            check_offers(&drawn, kernel, round % 2, round / 2 % 2);
            check_raise(&drawn, kernel);
        }
    }
}

Test(grains, a_search_finds_the_shortest_ways_and_every_width_the_same)
{
    static struct graph graph;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 63, 0);
    for (int round = 0; round < 400; round++) {
        struct drawn drawn = {.n = 0};
        draw(&drawn, &rng);
        draw_graph(&graph, &drawn, &rng);
        for (uint32_t width = 0; width < smoe_grain_widths(); width++)
            check_search(&drawn, graph, width);
    }
}
