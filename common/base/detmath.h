/* SPDX-License-Identifier: Apache-2.0
 *
 * exp and log that give the same bits on every machine. libm's differ between CPUs (glibc picks an
 * FMA variant at run time) and between libraries, so nothing whose result must be reproducible
 * (routing, simulation, weight initialisation) may call it. Only + - * / and integer operations on
 * the bits are used, and the file is compiled with -ffp-contract=off. Error: below 1 ulp over the
 * whole range (tests/unit/base).
 */
#ifndef SMOE_BASE_DETMATH_H
#define SMOE_BASE_DETMATH_H

#include <stddef.h>

/* e^x. Overflow gives +inf, underflow 0 (no subnormal results below 2^-1022), NaN gives NaN. */
double smoe_exp(double x);

/* Natural logarithm. log(0) = -inf, log(x < 0) = NaN, log(+inf) = +inf. */
double smoe_log(double x);

/* Cube root of x >= 0; NaN or negative gives NaN. */
double smoe_cbrt(double x);

/* ret [n] = softmax of n >= 1 finite logits, in double until the last rounding; the logits are spent. */
void smoe_softmax(size_t n, double *logits, float *ret);

#endif
