/* SPDX-License-Identifier: Apache-2.0
 *
 * The errors that vecmath.h states, measured against libm in double.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

#include "common/base/rng.h"
#include "common/kernels/activation.h"
#include "common/kernels/vecmath.h"

#ifdef STABLEMOE_FLOAT64
#define REAL_EPSILON DBL_EPSILON
#else
#define REAL_EPSILON ((double)FLT_EPSILON)
#endif

/* Distance in units of the last place of a normal result (of `want`, rounded to the type). */
static double ulps(smoe_real got, double want)
{
    int exponent;
    frexp(want, &exponent);
    return fabs((double)got - want) / ldexp(REAL_EPSILON, exponent - 1);
}

Test(vecmath, exp_is_within_two_ulp)
{
    double worst = 0;
    for (double x = -87.3; x < 88.3; x += 0.000317) {
        smoe_real r = (smoe_real)x;
        worst = fmax(worst, ulps(smoe_vec_exp(r), exp((double)r)));
    }
    cr_assert_leq(worst, 2, "worst %.3f ulp", worst);
}

Test(vecmath, the_logistic_function_is_within_four_ulp)
{
    double worst = 0;
    for (double x = -87; x < 87; x += 0.000317) {
        smoe_real r = (smoe_real)x;
        worst = fmax(worst, ulps(smoe_vec_sigmoid(r), 1 / (1 + exp(-(double)r))));
    }
    cr_assert_leq(worst, 4, "worst %.3f ulp", worst);
    cr_assert_leq(smoe_vec_sigmoid(-88), (smoe_real)1e-38);
    cr_assert_leq(smoe_vec_sigmoid(-1000), (smoe_real)1e-38);
    cr_assert_eq(smoe_vec_sigmoid(1000), 1);
}

Test(vecmath, the_normal_distribution_keeps_its_relative_accuracy_into_the_tail)
{
    double unit = 2e-7 * (REAL_EPSILON / 0x1p-23);
    for (double x = -13; x < 13; x += 0.000117) {
        smoe_real r = (smoe_real)x, density;
        double z = (double)r, steepness = 1 + z * z / 2;
        double want = 0.5 * erfc(-z / sqrt(2)), got = (double)smoe_vec_normal(r, &density);
        double bound = (z >= -1 ? 1 : steepness) * 2 * unit;
        cr_assert_leq(fabs(got - want), bound * want, "Phi(%g) is %.9g, not %.9g", z, got, want);
        want = exp(-z * z / 2) / sqrt(2 * acos(-1));
        cr_assert_leq(fabs((double)density - want), steepness * unit * want, "phi(%g)", z);
    }
}

Test(vecmath, extremes_saturate_and_nan_stays_nan)
{
    smoe_real density, huge = (smoe_real)1e30, nan = (smoe_real)NAN;
    cr_assert_eq(smoe_vec_exp(0), 1);
    cr_assert_eq(smoe_vec_exp(-huge), 0);
    cr_assert_eq(smoe_vec_exp((smoe_real)-INFINITY), 0);
    cr_assert_gt(smoe_vec_exp(huge), (smoe_real)2e38);
    cr_assert_eq(smoe_vec_normal(huge, &density), 1);
    cr_assert_eq(density, 0);
    cr_assert_eq(smoe_vec_normal(-huge, &density), 0);
    cr_assert_eq(smoe_vec_normal(0, &density), (smoe_real)0.5);
    cr_assert(isnan(smoe_vec_exp(nan)));
    cr_assert(isnan(smoe_vec_sigmoid(nan)));
    cr_assert(isnan(smoe_vec_normal(nan, &density)));
    cr_assert(isnan(density));
}

#ifndef STABLEMOE_FLOAT64
static uint64_t digest_of(uint64_t digest, size_t n, const smoe_real *v)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &v[i], sizeof bits);
        digest = smoe_mix64(digest ^ bits);
    }
    return digest;
}

/* Forward and backward of one row of 2 x 513 pre-activations in -16..16: whole vectors and a rest. */
static uint64_t digest_of_activation(enum smoe_activation activation)
{
    enum { H = 513 };
    smoe_real bias[H], pre[2 * H], a[H], da[H], dpre[2 * H], db[H] = {0};
    for (size_t i = 0; i < 2 * (size_t)H; i++) {
        bias[i % H] = (smoe_real)i / 1024;
        pre[i] = (smoe_real)i / 32 - 16;
        da[i % H] = dpre[i] = 3 - (smoe_real)i / 256;
    }
    smoe_activation_forward(activation, 1, H, bias, pre, a);
    uint64_t digest = digest_of(0, H, a);
    smoe_activation_backward(activation, 1, H, pre, activation == SMOE_SWIGLU ? da : dpre, a, dpre,
                             db);
    digest = digest_of(digest, H, a);
    digest = digest_of(digest, activation == SMOE_SWIGLU ? 2 * H : H, dpre);
    return digest_of(digest, H, db);
}

/* The contract: gcc and clang, scalar and any vector width, give these bits. */
Test(vecmath, element_wise_passes_have_the_same_bits_everywhere)
{
    static const uint64_t want[] = {UINT64_C(0xbb00363ad447e89d), UINT64_C(0x5fe574a7498da13e),
                                    UINT64_C(0x2018d9edcb4045c6)};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t got = digest_of_activation(SMOE_RELU + i);
        cr_expect_eq(got, want[i], "%u: 0x%016llx", i, (unsigned long long)got);
    }
}
#endif
