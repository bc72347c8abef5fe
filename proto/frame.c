/* SPDX-License-Identifier: Apache-2.0
 *
 * The header's checksum. A CRC is affine: that of a header is that of the header without any bit set beyond its
 * magic and version, plus (XOR) what each further bit makes of it alone. These are eleven bytes, always in the
 * same places, so each half of them has a row of its own: loads that wait for nothing, and none for what is 0, as most
 * of it is, where the general routine goes from byte to byte. 1.4 KiB stay in a cache that 16 KiB of a table of
 * bytes would fill. (tests/unit/proto/test_frame.c holds every bit's part against zlib's crc32.)
 */
#include "proto/frame.h"

#include <string.h>

#define FIXED   5 /* bytes: magic and version, which are looked at before the checksum */
#define CHECKED (SMOE_FRAME_HEADER_BYTES - 4)
#define PLAIN   UINT32_C(0x17f51362) /* the checksum of a header whose other bytes are 0 */
#define ROW(a, b, c, d)                                                                         \
    {                                                                                           \
        0, a, b, (a) ^ (b), c, (a) ^ (c), (b) ^ (c), (a) ^ (b) ^ (c), d, (a) ^ (d), (b) ^ (d),  \
            (a) ^ (b) ^ (d), (c) ^ (d), (a) ^ (c) ^ (d), (b) ^ (c) ^ (d), (a) ^ (b) ^ (c) ^ (d) \
    }

/* Of the low and the high half of each byte after FIXED, what its bits 0 to 3 make of the checksum. */
static const uint32_t PARTS[2 * (CHECKED - FIXED)][16] = {
    ROW(0xc18edfc0, 0x586cb9c1, 0xb0d97382, 0xbac3e145),
    ROW(0xaef6c4cb, 0x869c8fd7, 0xd64819ef, 0x77e1359f),
    ROW(0xefc26b3e, 0x04f5d03d, 0x09eba07a, 0x13d740f4),
    ROW(0x27ae81e8, 0x4f5d03d0, 0x9eba07a0, 0xe6050901),
    ROW(0x177b1443, 0x2ef62886, 0x5dec510c, 0xbbd8a218),
    ROW(0xacc04271, 0x82f182a3, 0xde920307, 0x6655004f),
    ROW(0xccaa009e, 0x4225077d, 0x844a0efa, 0xd3e51bb5),
    ROW(0x7cbb312b, 0xf9766256, 0x299dc2ed, 0x533b85da),
    ROW(0xa6770bb4, 0x979f1129, 0xf44f2413, 0x33ef4e67),
    ROW(0x67de9cce, 0xcfbd399c, 0x440b7579, 0x8816eaf2),
    ROW(0xcb5cd3a5, 0x4dc8a10b, 0x9b914216, 0xec53826d),
    ROW(0x03d6029b, 0x07ac0536, 0x0f580a6c, 0x1eb014d8),
    ROW(0x3d6029b0, 0x7ac05360, 0xf580a6c0, 0x30704bc1),
    ROW(0x60e09782, 0xc1c12f04, 0x58f35849, 0xb1e6b092),
    ROW(0xb8bc6765, 0xaa09c88b, 0x8f629757, 0xc5b428ef),
    ROW(0x5019579f, 0xa032af3e, 0x9b14583d, 0xed59b63b),
    ROW(0x01c26a37, 0x0384d46e, 0x0709a8dc, 0x0e1351b8),
    ROW(0x1c26a370, 0x384d46e0, 0x709a8dc0, 0xe1351b80),
    ROW(0x191b3141, 0x32366282, 0x646cc504, 0xc8d98a08),
    ROW(0x4ac21251, 0x958424a2, 0xf0794f05, 0x3b83984b),
    ROW(0x77073096, 0xee0e612c, 0x076dc419, 0x0edb8832),
    ROW(0x1db71064, 0x3b6e20c8, 0x76dc4190, 0xedb88320),
};

static const uint8_t MAGIC[4] = {'S', 'M', 'O', 'E'};

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* What these bits make of it, the low half of a byte first; most sizes are small, and the rest is zeros. */
static uint32_t parts_of(uint64_t bits, const uint32_t (*row)[16])
{
    uint32_t sum = 0;
    for (; bits; bits >>= 4)
        sum ^= (*row++)[bits & 15];
    return sum;
}

/* Of a header with our magic and version. */
static uint32_t checksum(const uint8_t *bytes)
{
    uint32_t head =
        bytes[FIXED] | (uint32_t)bytes[FIXED + 1] << 8 | (uint32_t)bytes[FIXED + 2] << 16;
    uint64_t sizes = get_u32(bytes + FIXED + 3) | (uint64_t)get_u32(bytes + FIXED + 7) << 32;
    return PLAIN ^ parts_of(head, PARTS) ^ parts_of(sizes, PARTS + 6);
}

void smoe_frame_encode(const struct smoe_frame_header *header,
                       uint8_t ret_bytes[SMOE_FRAME_HEADER_BYTES])
{
    memcpy(ret_bytes, MAGIC, 4);
    ret_bytes[4] = SMOE_FRAME_VERSION;
    ret_bytes[5] = 0;
    ret_bytes[6] = (uint8_t)header->type;
    ret_bytes[7] = (uint8_t)(header->type >> 8);
    put_u32(ret_bytes + 8, header->body_bytes);
    put_u32(ret_bytes + 12, header->tensor_bytes);
    put_u32(ret_bytes + 16, checksum(ret_bytes));
}

int smoe_frame_decode(const uint8_t bytes[SMOE_FRAME_HEADER_BYTES],
                      struct smoe_frame_header *ret_header, struct smoe_why *why)
{
    if (memcmp(bytes, MAGIC, 4) != 0)
        return smoe_fail(why, SMOE_EMALFORMED, "frame: magic %02x%02x%02x%02x is not SMOE",
                         bytes[0], bytes[1], bytes[2], bytes[3]);
    if (bytes[4] != SMOE_FRAME_VERSION)
        return smoe_fail(why, SMOE_EMALFORMED, "frame: framing version %u, expected %u", bytes[4],
                         SMOE_FRAME_VERSION);
    if (get_u32(bytes + 16) != checksum(bytes))
        return smoe_fail(why, SMOE_EMALFORMED, "frame: header checksum does not match");
    if (bytes[5] != 0)
        return smoe_fail(why, SMOE_EMALFORMED, "frame: flags 0x%02x, expected 0", bytes[5]);
    *ret_header = (struct smoe_frame_header){
        .type = (uint16_t)(bytes[6] | bytes[7] << 8),
        .body_bytes = get_u32(bytes + 8),
        .tensor_bytes = get_u32(bytes + 12),
    };
    return 0;
}
