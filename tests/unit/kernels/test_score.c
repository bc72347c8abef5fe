/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/kernels/score.h"
#include "tests/unit/kernels/tensors.h"

#ifdef STABLEMOE_FLOAT64
static const double BOUND = 1e-14, DIFFERENCE_BOUND = 1e-8, STEP = 0x1p-17;
#else
static const double BOUND = 1e-6, DIFFERENCE_BOUND = 2e-3, STEP = 0x1p-7;
#endif

Test(score, softmax_is_its_definition)
{
    static const size_t widths[] = {1, 2, 3, 8, 10, 17, 64};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        size_t width = widths[k], n = 5;
        smoe_real *logits = tensor_normal(n * width, k, 3), *p = tensor_copy(n * width, logits);
        smoe_softmax_rows(n, width, p);
        for (size_t r = 0; r < n; r++) {
            double sum = 0;
            for (size_t i = 0; i < width; i++)
                sum += exp((double)logits[r * width + i]);
            for (size_t i = 0; i < width; i++)
                cr_assert_float_eq((double)p[r * width + i],
                                   exp((double)logits[r * width + i]) / sum, BOUND);
        }
        free(logits);
        free(p);
    }
}

Test(score, softmax_survives_extreme_logits)
{
    smoe_real rows[3][3] = {{1e30f, 1e30f, -1e30f},
                            {-1e30f, -1e30f, -1e30f},
                            {(smoe_real)-INFINITY, 0, (smoe_real)-INFINITY}};
    smoe_softmax_rows(3, 3, rows[0]);
    cr_assert_eq(rows[0][0], (smoe_real)0.5);
    cr_assert_eq(rows[0][2], 0);
    cr_assert_float_eq((double)rows[1][1], 1.0 / 3, BOUND);
    cr_assert_eq(rows[2][1], 1);
    cr_assert_eq(rows[2][0], 0);
}

Test(score, softmax_shows_a_nan_in_its_row)
{
    smoe_real rows[2][3] = {{1, (smoe_real)NAN, 2}, {1, 2, 3}};
    smoe_softmax_rows(2, 3, rows[0]);
    for (int i = 0; i < 3; i++) {
        cr_assert(isnan(rows[0][i]));
        cr_assert(isfinite(rows[1][i]));
    }
}

/* sum(c * softmax(logits)) */
static double weighted(size_t width, const smoe_real *logits, const smoe_real *c)
{
    smoe_real *p = tensor_copy(width, logits);
    smoe_softmax_rows(1, width, p);
    double sum = tensor_dot(width, p, c);
    free(p);
    return sum;
}

Test(score, softmax_backward_agrees_with_finite_differences_and_may_alias)
{
    enum { W = 9 };
    smoe_real *logits = tensor_normal(W, 1, 1), *c = tensor_normal(W, 2, 1);
    smoe_real *p = tensor_copy(W, logits), *d = tensor_copy(W, c);
    smoe_softmax_rows(1, W, p);
    smoe_softmax_backward(1, W, p, d, d);
    for (size_t i = 0; i < W; i++) {
        smoe_real centre = logits[i];
        logits[i] = centre + (smoe_real)STEP;
        double up = weighted(W, logits, c);
        logits[i] = centre - (smoe_real)STEP;
        double down = weighted(W, logits, c);
        logits[i] = centre;
        cr_assert_float_eq((double)d[i], (up - down) / (2 * STEP), DIFFERENCE_BOUND);
    }
    free(logits);
    free(c);
    free(p);
    free(d);
}

Test(score, topk_takes_the_largest_first_and_the_lowest_index_of_equals)
{
    const float v[] = {1, 3, 2, 3, 3, -1};
    uint16_t best[6];
    smoe_topk(6, v, 6, best);
    const uint16_t want[] = {1, 3, 4, 2, 0, 5};
    cr_assert_eq(memcmp(best, want, sizeof want), 0);
    smoe_topk(6, v, 2, best);
    cr_assert(best[0] == 1 && best[1] == 3);
    const float equal[] = {7, 7, 7, 7};
    smoe_topk(4, equal, 3, best);
    cr_assert(best[0] == 0 && best[1] == 1 && best[2] == 2);
    smoe_topk(4, equal, 0, best);
}

static void selection_sort(size_t width, float *values, size_t k, uint16_t *ret)
{
    for (size_t j = 0; j < k; j++) {
        size_t best = 0;
        for (size_t i = 1; i < width; i++)
            if (values[i] > values[best])
                best = i;
        values[best] = -INFINITY;
        ret[j] = (uint16_t)best;
    }
}

Test(score, topk_agrees_with_repeated_selection)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 3, 0);
    for (int round = 0; round < 20000; round++) {
        float values[40];
        uint16_t got[8], want[8];
        size_t width = 1 + smoe_rng_below(&rng, 40);
        size_t k = 1 + smoe_rng_below(&rng, width < 8 ? width : 8);
        for (size_t i = 0; i < width; i++)
            values[i] = (float)smoe_rng_below(&rng, 12); /* ties are common */
        smoe_topk(width, values, k, got);
        selection_sort(width, values, k, want);
        cr_assert_eq(memcmp(got, want, k * sizeof *got), 0);
    }
}

Test(score, cross_entropy_is_its_definition_and_counts_the_right_rows)
{
    enum { N = 6, W = 10 };
    smoe_real *logits = tensor_normal(N * W, 4, 2);
    const uint16_t labels[N] = {0, 9, 3, 3, 5, 7};
    double want = 0;
    size_t want_correct = 0, correct = 99;
    for (size_t r = 0; r < N; r++) {
        double sum = 0, label = (double)logits[r * W + labels[r]];
        bool largest = true;
        for (size_t i = 0; i < W; i++) {
            sum += exp((double)logits[r * W + i]);
            largest = largest && (double)logits[r * W + i] <= label;
        }
        want += (log(sum) - label) / N;
        want_correct += largest;
    }
    cr_assert_float_eq(smoe_cross_entropy(N, W, logits, labels, NULL, &correct), want, 5 * BOUND);
    cr_assert_eq(correct, want_correct);
    free(logits);
}

Test(score, the_gradient_of_cross_entropy_agrees_with_finite_differences)
{
    enum { N = 3, W = 5 };
    smoe_real *z = tensor_normal(N * W, 5, 2), *dz = tensor_nan(N * W);
    const uint16_t labels[N] = {4, 0, 2};
    size_t correct;
    smoe_cross_entropy(N, W, z, labels, dz, &correct);
    for (size_t i = 0; i < N * W; i++) {
        smoe_real centre = z[i];
        z[i] = centre + (smoe_real)STEP;
        double up = smoe_cross_entropy(N, W, z, labels, NULL, &correct);
        z[i] = centre - (smoe_real)STEP;
        double down = smoe_cross_entropy(N, W, z, labels, NULL, &correct);
        z[i] = centre;
        cr_assert_float_eq((double)dz[i], (up - down) / (2 * STEP), DIFFERENCE_BOUND);
    }
    free(z);
    free(dz);
}

Test(score, cross_entropy_survives_extreme_logits)
{
    smoe_real z[2][3] = {{1e6f, 0, -1e6f}, {1e6f, 0, -1e6f}}, dz[2][3];
    const uint16_t labels[2] = {0, 2};
    size_t correct;
    double loss = smoe_cross_entropy(2, 3, z[0], labels, dz[0], &correct);
    cr_assert_float_eq(loss, 1e6, 1e-6); /* rows: 0 and 2e6 */
    cr_assert_eq(correct, 1);
    cr_assert_eq(dz[0][0], 0);
    cr_assert_eq(dz[1][0], (smoe_real)0.5);
    cr_assert_eq(dz[1][2], (smoe_real)-0.5);
    cr_assert_eq(smoe_cross_entropy(0, 3, z[0], labels, NULL, &correct), 0);
    cr_assert_eq(correct, 0);
}

Test(score, of_equal_logits_the_first_is_the_answer)
{
    const smoe_real z[3] = {1, 1, 1};
    const uint16_t first = 0, second = 1;
    size_t correct;
    smoe_cross_entropy(1, 3, z, &first, NULL, &correct);
    cr_assert_eq(correct, 1);
    smoe_cross_entropy(1, 3, z, &second, NULL, &correct);
    cr_assert_eq(correct, 0);
}
