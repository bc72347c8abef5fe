/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>
#include <zlib.h>

#include "common/base/rng.h"
#include "proto/frame.h"

Test(frame, header_has_the_bytes_that_the_protocol_says)
{
    /* The checksum is Python's zlib.crc32 of the sixteen bytes in front of it. */
    static const uint8_t expected[SMOE_FRAME_HEADER_BYTES] = {
        'S',  'M',  'O', 'E', 1,    0,    0x34, 0x12, 0x78, 0x56,
        0x34, 0x12, 9,   0,   0x80, 0x00, 0xe7, 0x5b, 0x2b, 0x08};
    struct smoe_frame_header header = {0x1234, 0x12345678, 0x00800009};
    uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
    smoe_frame_encode(&header, bytes);
    cr_assert_arr_eq(bytes, expected, sizeof bytes);
}

Test(frame, what_was_encoded_is_decoded)
{
    struct smoe_rng rng;
    struct smoe_why why;
    smoe_rng_init(&rng, 11, 0);
    for (int i = 0; i < 10000; i++) {
        struct smoe_frame_header in = {(uint16_t)smoe_rng_u64(&rng), (uint32_t)smoe_rng_u64(&rng),
                                       (uint32_t)smoe_rng_u64(&rng)};
        struct smoe_frame_header out;
        uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
        smoe_frame_encode(&in, bytes);
        cr_assert_eq(smoe_frame_decode(bytes, &out, &why), 0);
        cr_assert(in.type == out.type && in.body_bytes == out.body_bytes &&
                  in.tensor_bytes == out.tensor_bytes);
    }
}

/* It is affine, so that with every bit alone all headers are right. */
Test(frame, every_bit_takes_part_in_the_checksum_as_by_zlib)
{
    for (int bit = -1; bit < 80; bit++) { /* of type and lengths; -1: of none */
        uint64_t lengths = bit >= 16 ? UINT64_C(1) << (bit - 16) : 0;
        struct smoe_frame_header header = {(uint16_t)(bit >= 0 && bit < 16 ? 1 << bit : 0),
                                           (uint32_t)lengths, (uint32_t)(lengths >> 32)};
        uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
        smoe_frame_encode(&header, bytes);
        uint32_t sum = (uint32_t)bytes[16] | (uint32_t)bytes[17] << 8 | (uint32_t)bytes[18] << 16 |
                       (uint32_t)bytes[19] << 24;
        cr_assert_eq(sum, crc32(0, bytes, 16), "bit %d", bit);
    }
}

/* A CRC-32 finds every burst of up to 32 bits, so every change of one byte. */
Test(frame, a_header_with_any_byte_changed_is_refused_with_a_sentence)
{
    struct smoe_frame_header header = {50, 1000, 4096}, out = {7, 7, 7};
    uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
    smoe_frame_encode(&header, bytes);
    for (size_t at = 0; at < sizeof bytes; at++) {
        for (int change = 1; change < 256; change++) {
            struct smoe_why why = {""};
            bytes[at] ^= (uint8_t)change;
            cr_assert_eq(smoe_frame_decode(bytes, &out, &why), SMOE_EMALFORMED);
            cr_assert(strncmp(why.text, "frame: ", 7) == 0 && strlen(why.text) > 7);
            bytes[at] ^= (uint8_t)change;
        }
    }
    cr_assert_eq(out.type, 7, "a refused header leaves the output alone");
}

/* Another framing version or a flag with a right checksum is still not ours. */
Test(frame, unknown_version_and_flags_are_refused_even_with_a_right_checksum)
{
    struct {
        uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
        const char *says;
    } cases[] = {
        {{'S', 'M', 'O', 'E', 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe8, 0x61, 0x80, 0x69},
         "frame: framing version 2, expected 1"},
        {{'S', 'M', 'O', 'E', 1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xd8, 0x6c, 0x90, 0xdf},
         "frame: flags 0x01, expected 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_frame_header out;
        struct smoe_why why = {""};
        cr_assert_eq(smoe_frame_decode(cases[i].bytes, &out, &why), SMOE_EMALFORMED);
        cr_assert_str_eq(why.text, cases[i].says);
    }
}
