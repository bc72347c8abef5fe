/* SPDX-License-Identifier: Apache-2.0
 *
 * exp: x = k ln2 + r, |r| <= ln2/2, with ln2 split in two so that k*hi is exact; e^r by its Taylor
 * series to r^13 (the next term is below 2^-57), and the exponent put in by bits.
 * log: x = 2^k m, m in [sqrt(1/2), sqrt(2)); with s = (m-1)/(m+1), log m = 2 atanh(s), an odd series in
 * s with |s| <= 0.172 cut after s^21 (below 2^-58); the result is k ln2 + 2s + 2s^3(...), small terms
 * first.
 */
#include "common/base/detmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static const double LN2_HI = 6.93147180369123816490e-01; /* 32 bits: k*LN2_HI is exact */
static const double LN2_LO = 1.90821492927058770002e-10;

static uint64_t bits_of(double x)
{
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static double from_bits(uint64_t b)
{
    double x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* 2^k for -1022 <= k <= 1023 */
static double pow2(int k)
{
    return from_bits((uint64_t)(k + 1023) << 52);
}

double smoe_exp(double x)
{
    if (x != x)
        return x;
    if (x > 709.78271289338397)
        return (double)INFINITY;
    if (x < -708.39641853226408)
        return 0;
    double scaled = x * 1.4426950408889634;
    int k = (int)(scaled >= 0 ? scaled + 0.5 : scaled - 0.5);
    double r = (x - k * LN2_HI) - k * LN2_LO;
    double p = 1.0 / 6227020800.0;
    static const double inverse_factorial[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
        1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
    for (unsigned i = 0; i < sizeof inverse_factorial / sizeof *inverse_factorial; i++)
        p = p * r + inverse_factorial[i];
    double result = 1 + (r + r * r * p); /* |r + r^2 p| < 0.42: one rounding dominates */
    if (k == 1024)
        return result * 2 * pow2(1023);
    return result * pow2(k);
}

double smoe_log(double x)
{
    if (x != x || x < 0)
        return (double)NAN;
    if (x == 0)
        return (double)-INFINITY;
    if (x > 1.7976931348623157e308)
        return x;
    int k = 0;
    if (x < 2.2250738585072014e-308) { /* subnormal */
        x *= 0x1p54;
        k = -54;
    }
    uint64_t b = bits_of(x);
    k += (int)(b >> 52) - 1023;
    double m = from_bits((b & 0xfffffffffffffu) | ((uint64_t)1023 << 52));
    if (m > 1.4142135623730951) {
        m *= 0.5;
        k++;
    }
    double f = m - 1;
    double s = f / (2 + f);
    double z = s * s;
    double p = 1.0 / 21;
    for (int odd = 19; odd >= 3; odd -= 2)
        p = p * z + 1.0 / odd;
    /* 2 atanh(s) = f - s*(f - 2*z*p'), the form that loses nothing when f is small:
     * 2s = f - s f exactly, and 2 s z p is the rest. */
    double rest = 2 * z * p;
    return k * LN2_HI - ((s * (f - rest) - k * LN2_LO) - f);
}

double smoe_cbrt(double x)
{
    if (x != x || x < 0)
        return (double)NAN;
    if (x == 0 || x > 1.7976931348623157e308)
        return x;
    double y = smoe_exp(smoe_log(x) / 3);
    for (int i = 0; i < 2;
         i++) /* Newton on y^3 = x: the first step already squares a 1e-14 error */
        y = y - (y - x / (y * y)) / 3;
    return y;
}

void smoe_softmax(size_t n, double *logits, float *ret)
{
    double most = logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (size_t i = 0; i < n; i++)
        sum += logits[i] = smoe_exp(logits[i] - most);
    for (size_t i = 0; i < n; i++)
        ret[i] = (float)(logits[i] / sum);
}
