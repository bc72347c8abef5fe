/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/within.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum { N = 3 * 64 + 5 }; /* whole blocks and a rest */

static const double bad[] = {(double)NAN, -(double)NAN, HUGE_VAL,
                             -HUGE_VAL,   1.0000001e18, -1.0000001e18};
static const double good[] = {0, -0.0, 1e-320, 1e18, -1e18, 0.999e18, -1};

Test(within, finds_one_bad_number_wherever_it_is)
{
    static float f[N];
    static double d[N];
    for (size_t i = 0; i < N; i++)
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
            f[i] = (float)bad[b];
            d[i] = bad[b];
            cr_assert_not(smoe_within_f32(f, N, 1e18f), "%g at %zu", bad[b], i);
            cr_assert_not(smoe_within_f64(d, N, 1e18), "%g at %zu", bad[b], i);
            cr_assert(smoe_within_f32(f, i, 1e18f), "it does not look beyond the end");
            cr_assert(smoe_within_f64(d, i, 1e18));
            f[i] = 0;
            d[i] = 0;
        }
}

Test(within, passes_what_is_good)
{
    static float f[N];
    static double d[N];
    for (size_t i = 0; i < N; i++) {
        f[i] = (float)good[i % (sizeof good / sizeof *good)];
        d[i] = good[i % (sizeof good / sizeof *good)];
    }
    cr_assert(smoe_within_f32(f, N, 1e18f));
    cr_assert(smoe_within_f64(d, N, 1e18));
    cr_assert(smoe_within_f32(f, 0, 0));
}

Test(within, with_the_largest_number_as_limit_takes_all_that_are_finite)
{
    float f[] = {FLT_MAX, -FLT_MAX, FLT_MIN};
    double d[] = {DBL_MAX, -DBL_MAX, DBL_MIN};
    cr_assert(smoe_within_f32(f, 3, FLT_MAX));
    cr_assert(smoe_within_f64(d, 3, DBL_MAX));
    f[1] = -INFINITY;
    d[1] = (double)-INFINITY;
    cr_assert_not(smoe_within_f32(f, 3, FLT_MAX));
    cr_assert_not(smoe_within_f64(d, 3, DBL_MAX));
}

static uint16_t upper_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

Test(within, tells_bf16s_that_are_finite_and_those_below_a_limit)
{
    static uint16_t values[N];
    static const uint16_t infinite = 0x7f80, nan = 0x7fc0, sign = 0x8000;
    const uint16_t wrong[] = {infinite, (uint16_t)(infinite | sign), nan, (uint16_t)(nan | sign),
                              0x7f81};
    for (size_t i = 0; i < N; i++) {
        for (size_t b = 0; b < sizeof wrong / sizeof *wrong; b++) {
            values[i] = wrong[b];
            cr_assert_not(smoe_within_bf16(values, N, FLT_MAX), "%x at %zu", wrong[b], i);
            cr_assert(smoe_within_bf16(values, i, FLT_MAX), "it does not look beyond the end");
        }
        values[i] = (uint16_t)((infinite - 1) | (i % 2 ? sign : 0));
    }
    cr_assert(smoe_within_bf16(values, N, FLT_MAX), "the largest there is");
    values[0] = upper_half(2);
    cr_assert(smoe_within_bf16(values, 1, 2) && smoe_within_bf16(values, 1, 2.001f));
    cr_assert_not(smoe_within_bf16(values, 1, 1.999f));
    values[0] = (uint16_t)(upper_half(-2) + 1);
    cr_assert_not(smoe_within_bf16(values, 1, 2));
    cr_assert(smoe_within_bf16(values, 0, 0));
}
