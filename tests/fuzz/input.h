/* SPDX-License-Identifier: Apache-2.0
 *
 * A fuzzer's input as a tape of small numbers. Past its end everything is zero, so that a target reads
 * as if the tape were endless and stops when `fuzz_more` says so.
 */
#ifndef SMOE_FUZZ_INPUT_H
#define SMOE_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_input {
    const uint8_t *data;
    size_t left;
};

static inline bool fuzz_more(const struct fuzz_input *in)
{
    return in->left > 0;
}

static inline uint8_t fuzz_u8(struct fuzz_input *in)
{
    if (!in->left)
        return 0;
    in->left--;
    return *in->data++;
}

static inline uint16_t fuzz_u16(struct fuzz_input *in)
{
    uint16_t low = fuzz_u8(in);
    return (uint16_t)(low | fuzz_u8(in) << 8);
}

static inline uint32_t fuzz_u32(struct fuzz_input *in)
{
    uint32_t low = fuzz_u16(in);
    return low | (uint32_t)fuzz_u16(in) << 16;
}

/* 0 .. bound - 1 */
static inline uint32_t fuzz_below(struct fuzz_input *in, uint32_t bound)
{
    return fuzz_u8(in) % bound;
}

/* Up to `most` bytes as they lie on the tape. */
static inline const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t most, size_t *ret_n)
{
    const uint8_t *bytes = in->data;
    size_t n = most < in->left ? most : in->left;
    in->data += n;
    in->left -= n;
    *ret_n = n;
    return bytes;
}

#endif
