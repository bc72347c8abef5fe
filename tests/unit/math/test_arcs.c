/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops over rows of arcs, by every width of vectors that this machine runs, against the plain loop.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/route_arcs.h"

enum { EXPERTS = 70 };

struct drawn {
    uint32_t n;
    float scores[EXPERTS];
    double row[EXPERTS], label[EXPERTS], distance[EXPERTS];
    double weight, held, base, radius;
};

static uint32_t below(struct smoe_rng *rng, uint32_t n)
{
    return (uint32_t)smoe_rng_below(rng, n);
}

/* Coarse, so that there are ties; some experts are not on offer, some not reached. */
static void draw(struct drawn *drawn, struct smoe_rng *rng)
{
    drawn->n = 1 + below(rng, EXPERTS);
    drawn->weight = 1 + (double)below(rng, 50);
    drawn->held = (double)below(rng, 8) / 8 * drawn->weight;
    drawn->base = (double)below(rng, 8) - 4;
    drawn->radius = (double)below(rng, 8);
    for (uint32_t f = 0; f < drawn->n; f++) {
        drawn->scores[f] = (float)below(rng, 8) / 8;
        uint32_t kind = below(rng, 4);
        drawn->row[f] = kind == 0   ? (double)INFINITY
                        : kind == 1 ? -(double)INFINITY
                                    : drawn->held - drawn->weight * below(rng, 8) / 8;
        drawn->label[f] = below(rng, 9) ? below(rng, 8) : (double)INFINITY;
        drawn->distance[f] = below(rng, 2) ? below(rng, 8) : (double)INFINITY;
        if (isinf(drawn->label[f]) && drawn->row[f] < 0) /* nobody offers what is not on offer */
            drawn->row[f] = (double)INFINITY;
    }
}

static void check_offer(const struct drawn *drawn, const struct smoe_route_arcs *arcs)
{
    double row[EXPERTS];
    memcpy(row, drawn->row, sizeof row);
    arcs->offer(row, drawn->n, drawn->scores, drawn->weight, drawn->held);
    for (uint32_t f = 0; f < drawn->n; f++)
        cr_assert_eq(row[f],
                     fmin(drawn->row[f], drawn->held - drawn->weight * (double)drawn->scores[f]));
}

static void check_lists(const struct drawn *drawn, const struct smoe_route_arcs *arcs)
{
    uint16_t owned[EXPERTS], nearer[EXPERTS];
    uint32_t n_owned = arcs->owned(drawn->row, drawn->n, drawn->scores, drawn->weight, drawn->held,
                                   owned),
             n_nearer = arcs->nearer(drawn->row, drawn->label, drawn->distance, drawn->n,
                                     drawn->base, drawn->radius, nearer),
             o = 0, m = 0;
    for (uint32_t f = 0; f < drawn->n; f++) {
        if (drawn->held - drawn->weight * (double)drawn->scores[f] == drawn->row[f])
            cr_assert(o < n_owned && owned[o++] == f);
        if (drawn->base + (drawn->label[f] + drawn->row[f]) <
            fmin(drawn->distance[f], drawn->radius))
            cr_assert(m < n_nearer && nearer[m++] == f);
    }
    cr_assert_eq(o, n_owned);
    cr_assert_eq(m, n_nearer);
}

/* Prices are the labels: some are not on offer. */
static void check_cheapest(const struct drawn *drawn, const struct smoe_route_arcs *arcs)
{
    struct smoe_route_two want = {UINT32_MAX, (double)INFINITY, (double)INFINITY};
    for (uint32_t f = 0; f < drawn->n; f++) {
        double cost = drawn->label[f] - drawn->weight * (double)drawn->scores[f];
        if (cost < want.least) {
            want.second = want.least;
            want.least = cost;
            want.expert = f;
        } else if (cost < want.second) {
            want.second = cost;
        }
    }
    struct smoe_route_two two = arcs->two(drawn->label, drawn->n, drawn->scores, drawn->weight);
    cr_assert_eq(two.expert, want.expert);
    cr_assert_eq(two.least, want.least);
    cr_assert_eq(two.second, want.second);
    cr_assert_eq(arcs->cheapest(drawn->label, drawn->n, drawn->scores, drawn->weight), want.least);
}

static void to_floats(const double *from, float *ret)
{
    for (uint32_t f = 0; f < EXPERTS; f++)
        ret[f] = (float)from[f];
}

static void check_offers(const struct drawn *drawn, const struct smoe_route_arcs *arcs)
{
    float row[EXPERTS], was[EXPERTS], prices[EXPERTS];
    struct smoe_route_offers offers = {.count = 1 + drawn->n % SMOE_ROUTE_OFFERS};
    to_floats(drawn->distance, prices);
    for (uint32_t i = 0; i < offers.count; i++) {
        offers.scores[i] = drawn->scores;
        offers.held[i] = (float)(drawn->held + i);
    }
    offers.held[offers.count / 2] += 9; /* the dearest place offers most */
    for (int more = 0; more < 2; more++) {
        offers.more = more;
        to_floats(drawn->row, row);
        to_floats(drawn->row, was);
        arcs->offers(row, drawn->n, &offers, (float)drawn->weight, prices);
        for (uint32_t f = 0; f < drawn->n; f++) {
            float least = more ? was[f] : INFINITY;
            for (uint32_t i = 0; i < offers.count; i++)
                least = fminf(least, (prices[f] - (float)drawn->weight * drawn->scores[f]) -
                                         offers.held[i]);
            cr_assert_eq(row[f], least);
        }
    }
}

static void check_spread(const struct drawn *drawn, const struct smoe_route_arcs *arcs)
{
    float row[EXPERTS], open[EXPERTS], key[EXPERTS], was[EXPERTS];
    int32_t came[EXPERTS];
    to_floats(drawn->row, row);
    to_floats(drawn->label, open);
    to_floats(drawn->distance, key);
    to_floats(drawn->distance, was);
    for (uint32_t f = 0; f < drawn->n; f++) {
        came[f] = -1;
        row[f] = fabsf(row[f]);
    }
    struct smoe_route_front front = {.n = drawn->n, .open = open, .key = key, .came = came};
    uint32_t nearest = arcs->spread(&front, row, 77, (float)drawn->radius, (float)drawn->base),
             first = drawn->n;
    for (uint32_t f = 0; f < drawn->n; f++) {
        float to = fmaxf((float)drawn->base + (open[f] + row[f]), (float)drawn->radius);
        cr_assert_eq(key[f], fminf(to, was[f]));
        cr_assert_eq(came[f], to < was[f] ? 77 : -1);
        if (!isinf(key[f]) && (first == drawn->n || key[f] < key[first]))
            first = f;
    }
    cr_assert_eq(nearest, first);
}

Test(arcs, every_width_does_what_the_plain_loop_does)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 61, 0);
    for (int round = 0; round < 5000; round++) {
        struct drawn drawn = {.n = 0};
        draw(&drawn, &rng);
        for (uint32_t width = 0; width < smoe_route_arcs_widths(); width++) {
            const struct smoe_route_arcs *arcs = smoe_route_arcs_by(width);
            check_offer(&drawn, arcs);
            check_lists(&drawn, arcs);
            check_cheapest(&drawn, arcs);
            check_offers(&drawn, arcs);
            check_spread(&drawn, arcs);
        }
    }
}
