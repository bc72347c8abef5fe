/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "common/base/hist.h"

Test(hist, an_empty_one_has_quantile_zero)
{
    static struct smoe_hist h;
    cr_assert_eq(smoe_hist_quantile_ns(&h, 0.99), 0);
}

Test(hist, quantiles_are_within_an_eighth)
{
    static struct smoe_hist h;
    for (uint64_t v = 1; v <= 100000; v++)
        smoe_hist_add(&h, v * 10);
    double p50 = (double)smoe_hist_quantile_ns(&h, 0.5);
    double p99 = (double)smoe_hist_quantile_ns(&h, 0.99);
    cr_assert(p50 >= 500000 && p50 <= 500000 * 1.125, "p50 %.0f", p50);
    cr_assert(p99 >= 990000 && p99 <= 990000 * 1.125, "p99 %.0f", p99);
    cr_assert_eq(smoe_hist_quantile_ns(&h, 1), 1000000);
}

Test(hist, the_extremes_of_the_range_are_counted)
{
    static struct smoe_hist h;
    smoe_hist_add(&h, 0);
    smoe_hist_add(&h, UINT64_MAX);
    cr_assert_eq(h.count, 2);
    cr_assert_eq(smoe_hist_quantile_ns(&h, 0), 0);
    cr_assert_eq(smoe_hist_quantile_ns(&h, 1), UINT64_MAX);
}
