/* SPDX-License-Identifier: Apache-2.0
 *
 * exp, the logistic function and the normal distribution for element-wise loops: no branches, no
 * calls, only + - * / and integer operations on the bits, so that gcc -O3 and clang turn a loop over
 * them into vector code of whatever width, and every width, compiler and machine gives the same bits
 * (the room is compiled with -ffp-contract=off). Internal to common/kernels.
 *
 * Errors of the float versions, measured over their range by tests/unit/kernels/test_vecmath.c:
 *
 *     exp        2 ulp; below -87.33 the result is 0 (no subnormals), above 88.37 it stays at 2.4e38
 *     sigmoid    4 ulp for x > -87; below that it is at most 1e-38
 *     Phi        4e-7 relative for x >= -1; further left the rounding of x^2/2 dominates and the
 *                relative error grows to (1 + x^2/2) 4e-7, while the value itself falls below 0.16
 *     density    (1 + x^2/2) 2e-7 relative
 *
 * NaN gives NaN everywhere: a poisoned activation must stay visible. The float64 test build takes
 * libm's functions instead; it is about sums, not about speed.
 */
#ifndef SMOE_KERNELS_VECMATH_H
#define SMOE_KERNELS_VECMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common/kernels/real.h"

/* A sanitizer's runtime is not up yet when the loader resolves clones, so its builds have none. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SMOE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SMOE_SANITIZED 1
#endif
#endif

/* A function with this attribute is compiled three times and the loader picks the widest version the
 * CPU can run (GELU experts of 64-256: twice as fast). Static functions only: clang 14 exports a
 * cloned function under another name. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(SMOE_SANITIZED)
#define SMOE_SIMD_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define SMOE_SIMD_CLONES
#endif

#define SMOE_INLINE static inline __attribute__((always_inline))

#ifdef STABLEMOE_FLOAT64

SMOE_INLINE double smoe_vec_exp(double x)
{
    return exp(x);
}

SMOE_INLINE double smoe_vec_normal(double x, double *ret_density)
{
    *ret_density = 0.39894228040143268 * exp(-x * x / 2);
    return 0.5 * erfc(-x * 0.70710678118654752);
}

#else

/* e^x = 2^k e^r, k = round(x / ln 2), |r| <= ln2/2. Adding 1.5*2^23 rounds to an integer and leaves it
 * in the low bits of the sum, where it is shifted into the exponent. e^r = 1 + r + r^2 P(r) with the
 * minimax P of degree 4 (7.5e-9 relative). ln 2 is split so that k * LN2_HI is exact. */
SMOE_INLINE float smoe_vec_exp(float x)
{
    const float lowest = -87.33654f, highest = 88.37626f; /* k stays in -126..127 */
    const float rounder = 0x1.8p23f, ln2_hi = 0x1.62ep-1f, ln2_lo = 0x1.0bfbe8p-15f;
    float c = x < lowest ? lowest : x;
    c = c > highest ? highest : c;
    float biased = c * 1.44269504f + rounder;
    float k = biased - rounder;
    float r = (c - k * ln2_hi) - k * ln2_lo;
    float p = 0.00139412182f;
    p = p * r + 0.00836323508f;
    p = p * r + 0.0416663741f;
    p = p * r + 0.166665766f;
    p = p * r + 0.5f;
    uint32_t bits;
    memcpy(&bits, &biased, sizeof bits);
    bits = (bits + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    float result = (1 + (r + r * r * p)) * power;
    return x < lowest ? 0 : result;
}

/* Phi(-|x|) = exp(-x^2/2) q(|x|), where q(z) = erfcx(z / sqrt 2) / 2 falls slowly and is t P(t) in
 * t = 1 / (1 + 0.35 z), P of degree 8, minimax in relative error (3.2e-8) on 0 <= z <= 14; beyond 13.3
 * the exponential is 0. No cancellation on either side. Returns Phi(x), writes the density phi(x). */
SMOE_INLINE float smoe_vec_normal(float x, float *ret_density)
{
    float z = x < 0 ? -x : x;
    float t = 1 / (1 + 0.35f * z);
    float p = -0.0291459123f;
    p = p * t + 0.143971613f;
    p = p * t - 0.255714086f;
    p = p * t + 0.159173977f;
    p = p * t - 0.0231097147f;
    p = p * t + 0.105507956f;
    p = p * t + 0.119832879f;
    p = p * t + 0.139861868f;
    p = p * t + 0.139621404f;
    float e = smoe_vec_exp(-0.5f * x * x);
    float tail = e * (p * t);
    *ret_density = 0.398942280f * e;
    return x < 0 ? tail : 1 - tail;
}

#endif

SMOE_INLINE smoe_real smoe_vec_sigmoid(smoe_real x)
{
    return 1 / (1 + smoe_vec_exp(-x));
}

#endif
