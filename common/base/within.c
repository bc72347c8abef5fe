/* SPDX-License-Identifier: Apache-2.0
 *
 * The bits of numbers without their sign rise as their magnitudes do; those of infinity and NaN are larger
 * than all others. Blocks of a fixed length are what compilers make vector loops of.
 */
#include "common/base/within.h"

#include <stdint.h>
#include <string.h>

#define BLOCK 64

static int32_t magnitude_f32(const float *value)
{
    int32_t bits;
    memcpy(&bits, value, sizeof bits);
    return bits & INT32_MAX;
}

static int64_t magnitude_f64(const double *value)
{
    int64_t bits;
    memcpy(&bits, value, sizeof bits);
    return bits & INT64_MAX;
}

bool smoe_within_f32(const float *values, size_t n, float limit)
{
    int32_t most = magnitude_f32(&limit), beyond = 0;
    size_t i = 0;
    for (; n - i >= BLOCK && !beyond; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            beyond |= magnitude_f32(&values[i + j]) > most;
    for (; i < n && !beyond; i++)
        beyond |= magnitude_f32(&values[i]) > most;
    return !beyond;
}

bool smoe_within_f64(const double *values, size_t n, double limit)
{
    int64_t most = magnitude_f64(&limit), beyond = 0;
    size_t i = 0;
    for (; n - i >= BLOCK && !beyond; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            beyond |= magnitude_f64(&values[i + j]) > most;
    for (; i < n && !beyond; i++)
        beyond |= magnitude_f64(&values[i]) > most;
    return !beyond;
}
