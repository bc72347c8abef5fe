/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/kernels/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/rng.h"

static smoe_real *allocate(size_t n)
{
    smoe_real *t = malloc(n ? n * sizeof *t : 1);
    smoe_assert(t);
    return t;
}

smoe_real *tensor_normal(size_t n, uint64_t seed, double scale)
{
    smoe_real *t = allocate(n);
    struct smoe_rng rng;
    smoe_rng_init(&rng, seed, 77);
    for (size_t i = 0; i < n; i++)
        t[i] = (smoe_real)(scale * smoe_rng_normal(&rng));
    return t;
}

smoe_real *tensor_nan(size_t n)
{
    smoe_real *t = allocate(n);
    for (size_t i = 0; i < n; i++)
        t[i] = (smoe_real)NAN;
    return t;
}

smoe_real *tensor_zero(size_t n)
{
    smoe_real *t = allocate(n);
    for (size_t i = 0; i < n; i++)
        t[i] = 0;
    return t;
}

smoe_real *tensor_copy(size_t n, const smoe_real *from)
{
    smoe_real *t = allocate(n);
    memcpy(t, from, n * sizeof *t);
    return t;
}

double tensor_error(size_t n, const smoe_real *got, const smoe_real *want)
{
    double worst = 0, largest = 1;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i]))
            return (double)INFINITY;
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    return worst / largest;
}

double tensor_dot(size_t n, const smoe_real *a, const smoe_real *b)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}
