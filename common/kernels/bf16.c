/* SPDX-License-Identifier: Apache-2.0
 *
 * By the bits. What is cut off (16 bits) is added to what rounds it: just below a half, and one more if the bit that
 * stays last is odd; a carry goes up into the exponent, where it belongs, and from the largest number into infinity.
 * NaN alone must not be added to: its significand could carry away to that of infinity, or of nothing.
 */
#include "common/kernels/bf16.h"

#include <string.h>

#define ABSOLUTE UINT32_C(0x7fffffff)
#define INFINITE UINT32_C(0x7f800000)
#define QUIET    UINT32_C(0x00400000)

/* Without a branch, so that the loops below become vector loops. */
static inline uint16_t round_bits(uint32_t bits)
{
    uint32_t rounded = bits + (UINT32_C(0x7fff) + (bits >> 16 & 1));
    return (uint16_t)(((bits & ABSOLUTE) > INFINITE ? bits | QUIET : rounded) >> 16);
}

uint16_t smoe_bf16_round(smoe_real value)
{
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return round_bits(bits);
}

smoe_real smoe_bf16_value(uint16_t upper)
{
    uint32_t bits = (uint32_t)upper << 16;
    float single;
    memcpy(&single, &bits, sizeof single);
    return (smoe_real)single;
}

void smoe_bf16_pack(size_t n, const smoe_real *values, uint16_t *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = smoe_bf16_round(values[i]);
}

void smoe_bf16_unpack(size_t n, const uint16_t *bits, smoe_real *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = smoe_bf16_value(bits[i]);
}

void smoe_bf16_through(size_t n, smoe_real *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = smoe_bf16_value(smoe_bf16_round(values[i]));
}
