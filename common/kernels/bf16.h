/* SPDX-License-Identifier: Apache-2.0
 *
 * bf16: the upper half of a float32, which keeps its exponent and 8 bits of its significand (7 of them stored). Only
 * for numbers on their way: nothing is computed in it.
 */
#ifndef SMOE_KERNELS_BF16_H
#define SMOE_KERNELS_BF16_H

#include <stddef.h>
#include <stdint.h>

#include "common/kernels/real.h"

/* Largest relative error of rounding a normal number: half of the distance to the next, 2^-8 of it. */
#define SMOE_BF16_ERROR 0x1p-8

/* The nearest bf16, the even one of two that are as near; as IEEE 754 rounds: what is half a step or more beyond the
 * largest is infinite, subnormal numbers stay subnormal, and NaN stays NaN (quiet). A float64 is rounded to float32
 * first. */
uint16_t smoe_bf16_round(smoe_real value);
smoe_real smoe_bf16_value(uint16_t bits);

/* [n] there and back. `ret_bits` needs no alignment beyond its type's; none of the arrays overlap. */
void smoe_bf16_pack(size_t n, const smoe_real *values, uint16_t *ret_bits);
void smoe_bf16_unpack(size_t n, const uint16_t *bits, smoe_real *ret_values);

/* In place: what a receiver would have of it. */
void smoe_bf16_through(size_t n, smoe_real *values);

#endif
