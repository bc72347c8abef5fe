/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <zlib.h>

#include "proto/trace_fields.h"

static const uint8_t MAGIC[8] = {'S', 'M', 'O', 'E', 'T', 'R', 'C', 'E'};

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void smoe_trace_header(uint8_t ret[SMOE_TRACE_HEADER_BYTES])
{
    memcpy(ret, MAGIC, sizeof MAGIC);
    put_u32(ret + 8, SMOE_TRACE_VERSION);
    put_u32(ret + 12, (uint32_t)crc32(0, ret, 12));
}

int smoe_trace_check_header(const uint8_t header[SMOE_TRACE_HEADER_BYTES], struct smoe_why *why)
{
    if (memcmp(header, MAGIC, sizeof MAGIC) != 0)
        return smoe_fail(why, SMOE_EDATA, "not a trace of stablemoed");
    if (get_u32(header + 12) != (uint32_t)crc32(0, header, 12))
        return smoe_fail(why, SMOE_EDATA, "the header is damaged");
    if (get_u32(header + 8) != SMOE_TRACE_VERSION)
        return smoe_fail(why, SMOE_EDATA, "a trace of format %u, this program reads %d",
                         get_u32(header + 8), SMOE_TRACE_VERSION);
    return 0;
}

static uint32_t checksum(const uint8_t *head, const uint8_t *payload, size_t n)
{
    return (uint32_t)crc32_z(crc32_z(0, head, 8), payload, n);
}

void smoe_trace_write_frame(uint32_t type, size_t bytes, uint8_t *record)
{
    put_u32(record, type);
    put_u32(record + 4, (uint32_t)bytes);
    put_u32(record + 8, checksum(record, record + SMOE_TRACE_FRAME_BYTES, bytes));
}

int smoe_trace_read_frame(const uint8_t bytes[SMOE_TRACE_FRAME_BYTES], struct smoe_trace_frame *ret)
{
    struct smoe_trace_frame frame = {get_u32(bytes), get_u32(bytes + 4), get_u32(bytes + 8)};
    if (!frame.type || frame.bytes > SMOE_TRACE_PAYLOAD_MAX)
        return SMOE_EMALFORMED;
    *ret = frame;
    return 0;
}

bool smoe_trace_frame_holds(const struct smoe_trace_frame *frame, const uint8_t *payload)
{
    uint8_t head[8];
    put_u32(head, frame->type);
    put_u32(head + 4, frame->bytes);
    return checksum(head, payload, frame->bytes) == frame->crc;
}
