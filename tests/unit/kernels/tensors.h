/* SPDX-License-Identifier: Apache-2.0
 *
 * Random tensors and their comparison, for the tests of kernels and models. Every array is filled up
 * to its last element and allocated to the byte, so that a sanitizer sees an overrun of one.
 */
#ifndef SMOE_TESTS_TENSORS_H
#define SMOE_TESTS_TENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "common/kernels/real.h"

/* Bound on tensor_error between two ways to sum the same products. */
#ifdef STABLEMOE_FLOAT64
#define SUM_BOUND 1e-13
#else
#define SUM_BOUND 1e-5
#endif

/* n normal values times `scale`, seeded; the caller frees. Never NULL. */
smoe_real *tensor_normal(size_t n, uint64_t seed, double scale);
/* n times NaN: what a kernel must overwrite without reading. */
smoe_real *tensor_nan(size_t n);
smoe_real *tensor_zero(size_t n);
smoe_real *tensor_copy(size_t n, const smoe_real *from);

/* max|got - want| / max(1, max|want|); +inf if anything is not finite. The tests' numbers are of order
 * one: the 1 keeps a sum that happens to cancel from being measured against nothing. */
double tensor_error(size_t n, const smoe_real *got, const smoe_real *want);

double tensor_dot(size_t n, const smoe_real *a, const smoe_real *b);

#endif
