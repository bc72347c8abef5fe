/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/kernels/orthogonal.h"

enum { MOST = 64 * 64 };

/* The largest difference between the products of the shorter side's vectors and gain^2 times one. */
static double off_identity(size_t rows, size_t columns, double gain, const smoe_real *m)
{
    size_t n = rows < columns ? rows : columns, length = rows < columns ? columns : rows;
    size_t next = rows < columns ? columns : 1, step = rows < columns ? 1 : columns;
    double worst = 0;
    for (size_t a = 0; a < n; a++)
        for (size_t b = 0; b < n; b++) {
            double sum = a == b ? -gain * gain : 0;
            for (size_t i = 0; i < length; i++)
                sum += (double)m[a * next + i * step] * (double)m[b * next + i * step];
            worst = fmax(worst, fabs(sum));
        }
    return worst;
}

Test(orthogonal, the_shorter_sides_vectors_are_orthonormal_times_the_gain)
{
    static const size_t shapes[][2] = {{1, 1}, {1, 9}, {9, 1}, {8, 50}, {50, 8}, {64, 64}};
    static smoe_real m[MOST];
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        cr_assert_eq(smoe_orthogonal(shapes[i][0], shapes[i][1], 0.1, 7, 3, m), 0);
        cr_assert_lt(off_identity(shapes[i][0], shapes[i][1], 0.1, m), 1e-8, "%zu x %zu",
                     shapes[i][0], shapes[i][1]);
    }
}

Test(orthogonal, seed_and_stream_say_which_and_another_is_another)
{
    smoe_real a[12], b[12];
    cr_assert_eq(smoe_orthogonal(3, 4, 1, 1, 2, a), 0);
    cr_assert_eq(smoe_orthogonal(3, 4, 1, 1, 2, b), 0);
    cr_assert_eq(memcmp(a, b, sizeof a), 0);
    cr_assert_eq(smoe_orthogonal(3, 4, 1, 1, 3, b), 0);
    cr_assert_neq(memcmp(a, b, sizeof a), 0);
}
