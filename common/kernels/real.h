/* SPDX-License-Identifier: Apache-2.0
 *
 * The number type of experts and models: float, or double in test builds (STABLEMOE_FLOAT64), where
 * the order of sums stops mattering and two runs can be compared within 1e-9.
 */
#ifndef SMOE_KERNELS_REAL_H
#define SMOE_KERNELS_REAL_H

#ifdef STABLEMOE_FLOAT64
typedef double smoe_real;
#define SMOE_REAL_NAME "float64"
#else
typedef float smoe_real;
#define SMOE_REAL_NAME "float32"
#endif

#endif
