/* SPDX-License-Identifier: Apache-2.0
 *
 * Are all numbers of a tensor such as one may go on with?
 */
#ifndef SMOE_BASE_WITHIN_H
#define SMOE_BASE_WITHIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True if the magnitude of every one of the n numbers is at most `limit` (finite, not negative); NaN and
 * infinity never are. By the bits, so that no compiler's idea of arithmetic can let them pass; as fast as
 * memory is read. */
bool smoe_within_f32(const float *values, size_t n, float limit);
bool smoe_within_f64(const double *values, size_t n, double limit);
/* ... of bf16s: the upper halves of float32s. */
bool smoe_within_bf16(const uint16_t *values, size_t n, float limit);
/* ... of numbers of 2 (bf16), 4 or 8 bytes each, which fill so many bytes; what is left over is not looked at. */
bool smoe_within(const void *values, size_t bytes, size_t bytes_each, double limit);

#endif
