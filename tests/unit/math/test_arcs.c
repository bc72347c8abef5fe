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

static void check_offer(const struct drawn *drawn, bool wide)
{
    double row[EXPERTS];
    memcpy(row, drawn->row, sizeof row);
    smoe_route_arcs_offer(wide, row, drawn->n, drawn->scores, drawn->weight, drawn->held);
    for (uint32_t f = 0; f < drawn->n; f++)
        cr_assert_eq(row[f],
                     fmin(drawn->row[f], drawn->held - drawn->weight * (double)drawn->scores[f]));
}

static void check_lists(const struct drawn *drawn, bool wide)
{
    uint16_t owned[EXPERTS], nearer[EXPERTS];
    uint32_t n_owned = smoe_route_arcs_owned(wide, drawn->row, drawn->n, drawn->scores,
                                             drawn->weight, drawn->held, owned),
             n_nearer = smoe_route_arcs_nearer(wide, drawn->row, drawn->label, drawn->distance,
                                               drawn->n, drawn->base, drawn->radius, nearer),
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

Test(arcs, every_width_does_what_the_plain_loop_does)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 61, 0);
    for (int round = 0; round < 5000; round++) {
        struct drawn drawn = {.n = 0};
        draw(&drawn, &rng);
        for (int wide = 0; wide <= smoe_route_arcs_wide(); wide++) {
            check_offer(&drawn, wide);
            check_lists(&drawn, wide);
        }
    }
}
