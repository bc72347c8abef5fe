/* SPDX-License-Identifier: Apache-2.0
 *
 * Modified Gram and Schmidt, twice over: the second time takes away what rounding left of the first
 * ("twice is enough", Kahan). A draw that is not independent of those before, which happens with
 * probability zero and with one column and many rows never, would be drawn anew.
 */
#include "common/kernels/orthogonal.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/rng.h"

#define DEPENDENT 1e-6 /* what is left of a vector of length about sqrt(length) */

static double dot(size_t n, const double *a, const double *b)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Vector `at` of vectors [.., length] loses what it has in common with those before; its length. */
static double reject(double *vectors, size_t at, size_t length)
{
    double *v = vectors + at * length;
    for (size_t j = 0; j < at; j++) {
        double share = dot(length, v, vectors + j * length);
        for (size_t i = 0; i < length; i++)
            v[i] -= share * vectors[j * length + i];
    }
    return sqrt(dot(length, v, v));
}

static void draw_orthonormal(double *vectors, size_t n, size_t length, struct smoe_rng *rng)
{
    for (size_t at = 0; at < n; at++) {
        double *v = vectors + at * length, size;
        do {
            for (size_t i = 0; i < length; i++)
                v[i] = smoe_rng_normal(rng);
            (void)reject(vectors, at, length);
            size = reject(vectors, at, length);
        } while (size < DEPENDENT);
        for (size_t i = 0; i < length; i++)
            v[i] /= size;
    }
}

int smoe_orthogonal(size_t rows, size_t columns, double gain, uint64_t seed, uint64_t stream,
                    smoe_real *ret)
{
    size_t n = rows < columns ? rows : columns, length = rows < columns ? columns : rows;
    struct smoe_rng rng;
    double *vectors = malloc(n * length * sizeof *vectors);
    if (!vectors)
        return SMOE_ENOMEMORY;
    smoe_rng_init(&rng, seed, stream);
    draw_orthonormal(vectors, n, length, &rng);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++)
            ret[r * columns + c] = (smoe_real)(gain * (rows < columns ? vectors[r * length + c]
                                                                      : vectors[c * length + r]));
    free(vectors);
    return 0;
}
