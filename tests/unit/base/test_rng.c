/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/rng.h"

Test(rng, a_seed_gives_the_same_stream_and_another_stream_differs)
{
    struct smoe_rng a, b, c;
    smoe_rng_init(&a, 42, 1);
    smoe_rng_init(&b, 42, 1);
    smoe_rng_init(&c, 42, 2);
    int same = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t x = smoe_rng_u64(&a);
        cr_assert_eq(x, smoe_rng_u64(&b));
        same += x == smoe_rng_u64(&c);
    }
    cr_assert_eq(same, 0);
}

static void moments(double (*draw)(struct smoe_rng *), double *mean, double *variance)
{
    enum { N = 400000 };
    struct smoe_rng rng;
    smoe_rng_init(&rng, 5, 0);
    double s = 0, s2 = 0;
    for (int i = 0; i < N; i++) {
        double x = draw(&rng);
        s += x;
        s2 += x * x;
    }
    *mean = s / N;
    *variance = s2 / N - *mean * *mean;
}

Test(rng, the_distributions_have_their_moments)
{
    double mean, variance;
    moments(smoe_rng_unit, &mean, &variance);
    cr_assert_float_eq(mean, 0.5, 0.003);
    cr_assert_float_eq(variance, 1.0 / 12, 0.001);
    moments(smoe_rng_normal, &mean, &variance);
    cr_assert_float_eq(mean, 0, 0.01);
    cr_assert_float_eq(variance, 1, 0.01);
    moments(smoe_rng_exponential, &mean, &variance);
    cr_assert_float_eq(mean, 1, 0.01);
    cr_assert_float_eq(variance, 1, 0.03);
}

static void poisson_moments(double lambda)
{
    enum { N = 20000 };
    struct smoe_rng rng;
    smoe_rng_init(&rng, 6, 0);
    double s = 0, s2 = 0;
    for (int i = 0; i < N; i++) {
        double x = smoe_rng_poisson(&rng, lambda);
        s += x;
        s2 += x * x;
    }
    double mean = s / N;
    double sigma = sqrt(lambda / N);
    cr_assert_float_eq(mean, lambda, 5 * sigma + 1e-12);
    cr_assert_float_eq(s2 / N - mean * mean, lambda, 0.06 * lambda + 1e-12);
}

Test(rng, poisson_has_equal_mean_and_variance)
{
    poisson_moments(0);
    poisson_moments(0.3);
    poisson_moments(15.9);
    poisson_moments(390);
}

Test(rng, below_is_uniform_and_in_range)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 7, 0);
    int count[7] = {0};
    for (int i = 0; i < 70000; i++) {
        uint64_t x = smoe_rng_below(&rng, 7);
        cr_assert_lt(x, 7);
        count[x]++;
    }
    for (int i = 0; i < 7; i++)
        cr_assert_float_eq(count[i], 10000, 500);
}
