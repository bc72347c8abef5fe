/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common/base/detmath.h"
#include "common/base/rng.h"

static uint64_t bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* Distance in units of the last place of the reference. */
static double ulps(double got, double want)
{
    return fabs(got - want) / (nextafter(fabs(want), (double)INFINITY) - fabs(want));
}

Test(detmath, exp_is_within_an_ulp_of_long_double)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, 0);
    double worst = 0;
    for (int i = 0; i < 200000; i++) {
        double x = (smoe_rng_unit(&rng) - 0.5) * (i % 2 ? 2 : 1400);
        worst = fmax(worst, ulps(smoe_exp(x), (double)expl((long double)x)));
    }
    cr_assert_leq(worst, 1.0, "worst error %.3f ulp", worst);
}

Test(detmath, log_is_within_an_ulp_of_long_double)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 2, 0);
    double worst = 0;
    for (int i = 0; i < 200000; i++) {
        double x = i % 2 ? 0.5 + smoe_rng_unit(&rng) : exp((smoe_rng_unit(&rng) - 0.5) * 1400);
        worst = fmax(worst, ulps(smoe_log(x), (double)logl((long double)x)));
    }
    cr_assert_leq(worst, 1.0, "worst error %.3f ulp", worst);
}

Test(detmath, the_edges_are_what_ieee_says)
{
    cr_assert_eq(smoe_exp(0), 1.0);
    cr_assert_eq(smoe_exp(1000), (double)INFINITY);
    cr_assert_eq(smoe_exp(-1000), 0.0);
    cr_assert(isnan(smoe_exp((double)NAN)));
    cr_assert_eq(smoe_log(1), 0.0);
    cr_assert_eq(smoe_log(0), (double)-INFINITY);
    cr_assert(isnan(smoe_log(-1)));
    cr_assert_eq(smoe_log((double)INFINITY), (double)INFINITY);
    cr_assert_float_eq(smoe_log(5e-324), -744.4400719213812, 1e-12);
    cr_assert(isfinite(smoe_exp(709.78)));
    cr_assert_eq(smoe_cbrt(0), 0.0);
    cr_assert_float_eq(smoe_cbrt(27), 3.0, 1e-15);
    cr_assert(isnan(smoe_cbrt(-1)));
}

/* These constants are the contract: another machine must print the same bits. */
Test(detmath, the_bits_are_the_same_on_every_machine)
{
    uint64_t digest = 0;
    for (int i = -300; i < 300; i++) {
        digest = smoe_mix64(digest ^ bits(smoe_exp(i * 0.37)));
        digest = smoe_mix64(digest ^ bits(smoe_log(1e-3 + (i + 300) * 1.7)));
        digest = smoe_mix64(digest ^ bits(smoe_cbrt((i + 300) * 0.93)));
    }
    cr_assert_eq(digest, UINT64_C(0x2c83d71e6e055618), "digest 0x%016llx",
                 (unsigned long long)digest);
}

Test(detmath, softmax_gives_shares_that_order_as_their_logits_however_large)
{
    double small[] = {0, smoe_log(2), smoe_log(5)}, large[] = {-1e6, 700, 699, 700};
    float share[4];
    smoe_softmax(3, small, share);
    cr_assert(fabsf(share[0] - .125f) < 1e-7f && fabsf(share[1] - .25f) < 1e-7f &&
              fabsf(share[2] - .625f) < 1e-7f);
    smoe_softmax(4, large, share);
    cr_assert_eq(share[0], 0);
    cr_assert(share[1] == share[3] && share[2] < share[1] && share[2] > 0);
    cr_assert(fabsf(share[1] + share[2] + share[3] - 1) < 1e-6f);
}
