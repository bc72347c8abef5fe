/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops over rows of grains, by every width of vectors that this machine runs, against plain loops.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/route_grain.h"

enum { EXPERTS = 96, WAVE = 9, UNTOLD = 77 };

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
    float scores[2 * EXPERTS], least = INFINITY;
    int16_t rows[2 * EXPERTS], *row = rows + d->stride; /* of the second of two */
    struct smoe_grain_scale scale = {.prices = d->prices, .weight = 5, .per_cost = 3000};
    for (uint32_t f = 0; f < d->n; f++) {
        scores[f] = 1 - d->scores[f];
        scores[d->n + f] = d->scores[f];
        least = fminf(least, d->prices[f] - 5 * d->scores[f]);
    }
    if (isinf(least)) /* nothing on offer */
        return;
    kernel->costs(&scale, scores, d->n, 2, rows);
    for (uint32_t f = 0; f < d->stride; f++) {
        float grains = f < d->n ? ((d->prices[f] - 5 * d->scores[f]) - least) * 3000 : INFINITY;
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
    kernel->two(rows, 2, d->lift, d->stride, both);
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

static void check_offers(const struct drawn *d, const struct smoe_grain_kernel *kernel, int more)
{
    int16_t row[EXPERTS];
    struct smoe_grain_group group = {.count =
                                         d->count < SMOE_GRAIN_GROUP ? d->count : SMOE_GRAIN_GROUP};
    for (uint32_t i = 0; i < group.count; i++) {
        group.costs[i] = d->row[i];
        group.held[i] = d->held[i];
    }
    memcpy(row, d->key, sizeof row);
    kernel->offers(row, d->stride, &group, more);
    for (uint32_t f = 0; f < d->stride; f++) {
        int32_t least = more ? d->key[f] : SMOE_GRAIN_FAR;
        for (uint32_t i = 0; i < group.count; i++) {
            int32_t offer =
                d->row[i][f] == SMOE_GRAIN_FAR ? SMOE_GRAIN_FAR : d->row[i][f] - d->held[i];
            least = offer < least ? offer : least;
        }
        cr_assert_eq(row[f], least);
    }
}

static void check_take(const struct drawn *d, const struct smoe_grain_kernel *kernel)
{
    int16_t open[EXPERTS];
    uint16_t from[SMOE_GRAIN_WAVE];
    memcpy(open, d->open, sizeof open);
    struct smoe_grain_front front = {.stride = d->stride, .open = open};
    int32_t within = d->held[0];
    uint32_t count = kernel->take(&front, within, from), n = 0;
    for (uint32_t step = 0; step < d->stride; step += SMOE_GRAIN_STEP) {
        uint32_t here = 0;
        for (uint32_t f = step; f < step + SMOE_GRAIN_STEP; f++)
            here += d->open[f] <= within;
        bool fits = n + here <= SMOE_GRAIN_WAVE;
        for (uint32_t f = step; fits && f < step + SMOE_GRAIN_STEP; f++) {
            bool taken = d->open[f] <= within;
            cr_assert_eq(open[f], taken ? SMOE_GRAIN_FAR : d->open[f]);
            if (taken)
                cr_assert_eq(from[n++], f);
        }
        if (!fits)
            break;
    }
    cr_assert_eq(count, n);
}

static void check_spread(const struct drawn *d, const struct smoe_grain_kernel *kernel)
{
    int16_t key[EXPERTS], open[EXPERTS], came[EXPERTS], none[EXPERTS];
    struct smoe_grain_wave wave = {.count = d->count};
    struct smoe_grain_front front = {
        .stride = d->stride, .lift = d->lift, .key = key, .open = open, .came = came};
    memcpy(key, d->key, sizeof key);
    memcpy(open, d->open, sizeof open);
    for (uint32_t f = 0; f < EXPERTS; f++) {
        came[f] = -1;
        none[f] = SMOE_GRAIN_FAR;
    }
    for (uint32_t i = 0; i < (d->count + 3) / 4 * 4; i++) {
        wave.from[i] = (uint16_t)(UNTOLD + i);
        wave.row[i] = i < d->count ? d->row[i] : none;
        wave.base[i] = i < d->count ? d->base[i] : 0;
    }
    int32_t nearest = kernel->spread(&front, &wave), expected = SMOE_GRAIN_FAR;
    bool negative = false;
    for (uint32_t f = 0; f < d->stride; f++) {
        int32_t to = SMOE_GRAIN_FAR, from = -1;
        for (uint32_t i = 0; i < d->count; i++)
            if (clamp(d->row[i][f] + d->base[i]) < to) {
                to = clamp(d->row[i][f] + d->base[i]);
                from = (int32_t)(UNTOLD + i);
            }
        to = clamp(to + d->lift[f]);
        bool nearer = to < d->key[f];
        cr_assert_eq(key[f], nearer ? to : d->key[f]);
        cr_assert_eq(open[f], nearer ? to : d->open[f]);
        cr_assert_eq(came[f], nearer ? from : -1);
        expected = open[f] < expected ? open[f] : expected;
        negative |= open[f] < 0;
    }
    if (!negative) /* as where it is used */
        cr_assert_eq(nearest, expected);
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
            check_offers(&drawn, kernel, round % 2);
            check_take(&drawn, kernel);
            check_spread(&drawn, kernel);
            check_raise(&drawn, kernel);
        }
    }
}
