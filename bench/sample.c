/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sample.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

void smoe_sample_add(struct smoe_sample *sample, double value)
{
    if (sample->n < SMOE_SAMPLE_MAX)
        sample->values[sample->n++] = value;
}

struct smoe_sample smoe_sample_ratio(const struct smoe_sample *a, const struct smoe_sample *b)
{
    struct smoe_sample ratio = {.n = a->n < b->n ? a->n : b->n};
    for (unsigned i = 0; i < ratio.n; i++)
        ratio.values[i] = a->values[i] / b->values[i];
    return ratio;
}

struct smoe_sample smoe_sample_inverse(const struct smoe_sample *a, double factor)
{
    struct smoe_sample inverse = {.n = a->n};
    for (unsigned i = 0; i < a->n; i++)
        inverse.values[i] = factor / a->values[i];
    return inverse;
}

double smoe_quantile(const double *sorted, unsigned n, double q)
{
    smoe_assert(n > 0);
    double at = q * (n - 1);
    unsigned below = (unsigned)at;
    if (below + 1 >= n)
        return sorted[n - 1];
    return sorted[below] + (at - below) * (sorted[below + 1] - sorted[below]);
}

static int compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

struct smoe_spread smoe_sample_spread(const struct smoe_sample *sample)
{
    struct smoe_sample sorted = *sample;
    qsort(sorted.values, sorted.n, sizeof *sorted.values, compare);
    return (struct smoe_spread){smoe_quantile(sorted.values, sorted.n, 0.5),
                                smoe_quantile(sorted.values, sorted.n, 0.25),
                                smoe_quantile(sorted.values, sorted.n, 0.75)};
}
