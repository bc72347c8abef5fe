/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/frame.h"

#include <string.h>
#include <zlib.h>

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

static uint32_t checksum(const uint8_t *bytes)
{
    return (uint32_t)crc32(0, bytes, SMOE_FRAME_HEADER_BYTES - 4);
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
