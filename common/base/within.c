/* SPDX-License-Identifier: Apache-2.0
 *
 * The bits of numbers without their sign rise as their magnitudes do; those of infinity and NaN are larger
 * than all others. Blocks of a fixed length are what compilers make vector loops of.
 */
#include "common/base/within.h"

#include <string.h>

#define BLOCK 64

/* One text for every instruction set: inlined into functions that are compiled for theirs. */
#define INLINE static inline __attribute__((always_inline))

INLINE int32_t magnitude_f32(const float *value)
{
    int32_t bits;
    memcpy(&bits, value, sizeof bits);
    return bits & INT32_MAX;
}

INLINE int64_t magnitude_f64(const double *value)
{
    int64_t bits;
    memcpy(&bits, value, sizeof bits);
    return bits & INT64_MAX;
}

INLINE bool within_f32(const float *values, size_t n, float limit)
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

INLINE bool within_f64(const double *values, size_t n, double limit)
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

INLINE bool within_bf16(const uint16_t *values, size_t n, float limit)
{
    int32_t most = magnitude_f32(&limit) >> 16, beyond = 0;
    size_t i = 0;
    for (; n - i >= BLOCK && !beyond; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            beyond |= (values[i + j] & INT16_MAX) > most;
    for (; i < n && !beyond; i++)
        beyond |= (values[i] & INT16_MAX) > most;
    return !beyond;
}

#ifdef __x86_64__

__attribute__((target("avx2"))) static bool within_f32_avx2(const float *values, size_t n,
                                                            float limit)
{
    return within_f32(values, n, limit);
}

__attribute__((target("avx2"))) static bool within_f64_avx2(const double *values, size_t n,
                                                            double limit)
{
    return within_f64(values, n, limit);
}

__attribute__((target("avx2"))) static bool within_bf16_avx2(const uint16_t *values, size_t n,
                                                             float limit)
{
    return within_bf16(values, n, limit);
}

bool smoe_within_f32(const float *values, size_t n, float limit)
{
    return __builtin_cpu_supports("avx2") ? within_f32_avx2(values, n, limit)
                                          : within_f32(values, n, limit);
}

bool smoe_within_f64(const double *values, size_t n, double limit)
{
    return __builtin_cpu_supports("avx2") ? within_f64_avx2(values, n, limit)
                                          : within_f64(values, n, limit);
}

bool smoe_within_bf16(const uint16_t *values, size_t n, float limit)
{
    return __builtin_cpu_supports("avx2") ? within_bf16_avx2(values, n, limit)
                                          : within_bf16(values, n, limit);
}

#else

bool smoe_within_f32(const float *values, size_t n, float limit)
{
    return within_f32(values, n, limit);
}

bool smoe_within_f64(const double *values, size_t n, double limit)
{
    return within_f64(values, n, limit);
}

bool smoe_within_bf16(const uint16_t *values, size_t n, float limit)
{
    return within_bf16(values, n, limit);
}

#endif

bool smoe_within(const void *values, size_t bytes, size_t bytes_each, double limit)
{
    size_t n = bytes / bytes_each;
    if (bytes_each == sizeof(uint16_t))
        return smoe_within_bf16(values, n, (float)limit);
    return bytes_each == sizeof(double) ? smoe_within_f64(values, n, limit)
                                        : smoe_within_f32(values, n, (float)limit);
}
