/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of messages and the way through it. For every row of SMOE_MESSAGE_MAP a macro makes one
 * encoder and one decoder around the fill/read pair that wire_session.c, wire_trainer.c and
 * wire_worker.c provide, so that adding a message is a row, a pair and nothing else.
 *
 * Memory: each direction has an arena of its own, reset at the start of a call. protobuf-c unpacks
 * through an allocator over the decode arena, so the most a hostile message can cost is that arena;
 * it is never freed piece by piece.
 */
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"
#include "proto/flat.h"
#include "proto/wire_fields.h"

#define ARENA_BYTES (512u << 10) /* 64 KiB of protobuf unpack into at most this, or are refused */

/* As large as the highest number of a type, and one. */
union numbers {
#define X(symbol, number, field, pb, senders, raw) char field[number + 1];
    SMOE_MESSAGE_MAP(X)
#undef X
};

struct smoe_wire {
    struct smoe_arena decode;
    struct smoe_arena encode;
    uint64_t generation;                           /* of the decode arena */
    struct smoe_flat flats[sizeof(union numbers)]; /* by type, of those that are flat */
    struct smoe_message message;                   /* lent by smoe_wire_message */
    uint8_t out[SMOE_CONTROL_BYTES_MAX]; /* what is packed: not cleared, nor is `message` */
};

void smoe_wire_free(struct smoe_wire *wire)
{
    if (!wire)
        return;
    smoe_arena_release(&wire->decode);
    smoe_arena_release(&wire->encode);
    free(wire);
}

uint64_t smoe_wire_generation(const struct smoe_wire *wire)
{
    return wire->generation;
}

struct smoe_message *smoe_wire_message(struct smoe_wire *wire)
{
    return &wire->message;
}

static int pack(struct smoe_wire *wire, uint16_t type, const ProtobufCMessage *message,
                size_t *ret_bytes)
{
    const struct smoe_flat *flat = &wire->flats[type];
    if (flat->whole.descriptor)
        return smoe_flat_pack(flat, message, wire->out, sizeof wire->out, ret_bytes);
    if (protobuf_c_message_get_packed_size(message) > sizeof wire->out)
        return SMOE_ETOOBIG;
    *ret_bytes = protobuf_c_message_pack(message, wire->out);
    return 0;
}

#define X(symbol, number, field, pb, senders, raw)                                          \
    static int encode_##field(struct smoe_wire *wire, const struct smoe_message *message,   \
                              size_t *ret_bytes)                                            \
    {                                                                                       \
        Stablemoe__V1__##pb p;                                                              \
        stablemoe__v1__##field##__init(&p);                                                 \
        int rc = smoe_fill_##field(&wire->encode, &message->field, &p);                     \
        return rc ? rc : pack(wire, number, &p.base, ret_bytes);                            \
    }                                                                                       \
    static int read_##field(struct smoe_reader *r, const void *p, struct smoe_message *ret) \
    {                                                                                       \
        return smoe_read_##field(r, p, &ret->field);                                        \
    }
SMOE_MESSAGE_MAP(X)
#undef X

static const struct row {
    uint16_t type;
    const char *name;
    unsigned senders;
    enum smoe_raw_part raw;
    size_t bytes; /* of the message's struct */
    int (*encode)(struct smoe_wire *, const struct smoe_message *, size_t *);
    int (*read)(struct smoe_reader *, const void *, struct smoe_message *);
    const ProtobufCMessageDescriptor *descriptor;
} rows[] = {
#define X(symbol, number, field, pb, senders, raw) \
    [number] = {number,                            \
                #symbol,                           \
                senders,                           \
                SMOE_RAW_##raw,                    \
                sizeof(struct smoe_msg_##field),   \
                encode_##field,                    \
                read_##field,                      \
                &stablemoe__v1__##field##__descriptor},
    SMOE_MESSAGE_MAP(X)
#undef X
};

static const struct row *row_of(uint16_t type)
{
    return type < sizeof rows / sizeof *rows && rows[type].name ? &rows[type] : NULL;
}

int smoe_wire_new(struct smoe_wire **ret)
{
    struct smoe_wire *wire = malloc(sizeof *wire);
    if (!wire)
        return SMOE_ENOMEMORY;
    memset(wire, 0, offsetof(struct smoe_wire, message));
    if (smoe_arena_init(&wire->decode, ARENA_BYTES) ||
        smoe_arena_init(&wire->encode, ARENA_BYTES)) {
        smoe_wire_free(wire);
        return SMOE_ENOMEMORY;
    }
    for (size_t t = 0; t < sizeof rows / sizeof *rows; t++)
        if (rows[t].name)
            (void)smoe_flat_describe(rows[t].descriptor, &wire->flats[t]);
    *ret = wire;
    return 0;
}

void smoe_message_clear(struct smoe_message *message, enum smoe_message_type type)
{
    const struct row *row = row_of((uint16_t)type);
    memset(message, 0, row ? offsetof(struct smoe_message, hello) + row->bytes : sizeof *message);
    message->type = type;
}

const char *smoe_message_name(uint16_t type)
{
    const struct row *row = row_of(type);
    return row ? row->name : NULL;
}

int smoe_message_admit(uint16_t type, uint32_t body_bytes, uint32_t tensor_bytes, unsigned side,
                       uint32_t body_bytes_max, uint64_t tensor_bytes_max, struct smoe_why *why)
{
    const struct row *row = row_of(type);
    if (!row)
        return smoe_fail(why, SMOE_EMALFORMED, "frame: unknown message type %u", type);
    if (!(row->senders & side))
        return smoe_fail(why, SMOE_EROLE, "%s: this side may not send it", row->name);
    if (body_bytes > body_bytes_max)
        return smoe_fail(why, SMOE_ETOOBIG, "%s: protobuf part of %u bytes, at most %u now",
                         row->name, body_bytes, body_bytes_max);
    if (!tensor_bytes && row->raw == SMOE_RAW_MUST)
        return smoe_fail(why, SMOE_EMALFORMED, "%s: raw part is missing", row->name);
    if (tensor_bytes && row->raw == SMOE_RAW_NONE)
        return smoe_fail(why, SMOE_EMALFORMED, "%s: raw part of %u bytes where there is none",
                         row->name, tensor_bytes);
    if (tensor_bytes > tensor_bytes_max)
        return smoe_fail(why, SMOE_ETOOBIG, "%s: raw part of %u bytes, at most %llu", row->name,
                         tensor_bytes, (unsigned long long)tensor_bytes_max);
    return 0;
}

int smoe_wire_encode(struct smoe_wire *wire, const struct smoe_message *message,
                     const uint8_t **ret_body, size_t *ret_bytes)
{
    const struct row *row = row_of((uint16_t)message->type);
    if (!row)
        return SMOE_EUNKNOWN;
    smoe_arena_reset(&wire->encode);
    int rc = row->encode(wire, message, ret_bytes);
    if (rc == 0)
        *ret_body = wire->out;
    return rc;
}

static const void *unpack(struct smoe_wire *wire, const struct row *row, const uint8_t *body,
                          size_t bytes)
{
    smoe_arena_reset(&wire->decode);
    wire->generation++;
    const struct smoe_flat *flat = &wire->flats[row->type];
    if (flat->whole.descriptor)
        return smoe_flat_unpack(flat, &wire->decode, body, bytes);
    return smoe_unpack_any(row->descriptor, &wire->decode, body, bytes);
}

int smoe_wire_decode(struct smoe_wire *wire, uint16_t type, const uint8_t *body, size_t bytes,
                     struct smoe_message *ret_message, struct smoe_why *why)
{
    const struct row *row = row_of(type);
    if (!row)
        return smoe_fail(why, SMOE_EMALFORMED, "frame: unknown message type %u", type);
    const void *unpacked = unpack(wire, row, body, bytes);
    if (!unpacked)
        return smoe_fail(why, SMOE_EMALFORMED,
                         "%s: protobuf part is malformed or unpacks to more than %u KiB", row->name,
                         ARENA_BYTES >> 10);
    struct smoe_reader reader = {row->name, &wire->decode, why};
    smoe_message_clear(ret_message, (enum smoe_message_type)type);
    return row->read(&reader, unpacked, ret_message);
}

/* ---- field checks ---- */

int smoe_check_range(struct smoe_reader *r, const char *field, uint64_t value, uint64_t min,
                     uint64_t max)
{
    if (value >= min && value <= max)
        return 0;
    return smoe_fail(r->why, SMOE_EFIELD, "%s.%s %llu: not in %llu..%llu", r->message, field,
                     (unsigned long long)value, (unsigned long long)min, (unsigned long long)max);
}

int smoe_check_double(struct smoe_reader *r, const char *field, double value, double min,
                      double max)
{
    if (value != value || value - value != 0)
        return smoe_fail(r->why, SMOE_ENOTFINITE, "%s.%s: not a finite number", r->message, field);
    if (value < min || value > max)
        return smoe_fail(r->why, SMOE_EFIELD, "%s.%s %g: not in %g..%g", r->message, field, value,
                         min, max);
    return 0;
}

int smoe_check_fraction(struct smoe_reader *r, const char *field, double value)
{
    int rc = smoe_check_double(r, field, value, 0, 1);
    if (rc == 0 && value == 1)
        return smoe_fail(r->why, SMOE_EFIELD, "%s.%s 1: must be below 1", r->message, field);
    return rc;
}

int smoe_check_rising(struct smoe_reader *r, const char *field, size_t n, const uint32_t *values,
                      uint32_t bound)
{
    for (size_t i = 0; i < n; i++)
        if (values[i] >= bound || (i && values[i] <= values[i - 1]))
            return smoe_fail(r->why, SMOE_EFIELD, "%s.%s[%zu] = %u: must rise and stay below %u",
                             r->message, field, i, values[i], bound);
    return 0;
}

int smoe_read_name(struct smoe_reader *r, const char *field, const char *text, smoe_name ret)
{
    size_t n = strnlen(text, SMOE_NAME_MAX + 1);
    if (!smoe_name_valid(text, n))
        return smoe_fail(r->why, SMOE_EFIELD, "%s.%s: must be 1..%d of [A-Za-z0-9._-]", r->message,
                         field, SMOE_NAME_MAX);
    memcpy(ret, text, n + 1);
    return 0;
}

void smoe_read_text(const char *text, char *ret, size_t cap)
{
    size_t n = strnlen(text, cap - 1);
    for (size_t i = 0; i < n; i++)
        ret[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    ret[n] = 0;
}

int smoe_check_experts(struct smoe_reader *r, uint64_t experts)
{
    return smoe_check_range(r, "layers.experts", experts, 0, SMOE_WORKER_EXPERTS_MAX);
}

int smoe_check_pieces(struct smoe_reader *r, size_t n_offsets, const uint64_t *offsets,
                      size_t n_lengths, const uint64_t *lengths, uint64_t pieces)
{
    int rc = smoe_check_range(r, "piece_lengths: count", n_lengths, n_offsets, n_offsets);
    if (rc == 0)
        rc = smoe_check_range(r, "piece_offsets: count", pieces, 0, SMOE_WORKER_PIECES_MAX);
    for (size_t i = 0; i < n_offsets && !rc; i++) {
        rc = smoe_check_range(r, "piece_offsets", offsets[i], 0, SMOE_PARAMETERS_MAX - 1);
        rc = rc ? rc : smoe_check_range(r, "piece_lengths", lengths[i], 1, SMOE_PARAMETERS_MAX);
    }
    return rc;
}

void **smoe_new_objects(struct smoe_arena *arena, size_t n, size_t object_bytes)
{
    size_t stride = (object_bytes + 15) & ~(size_t)15;
    void **pointers = smoe_arena_alloc(arena, n * sizeof *pointers);
    uint8_t *objects = smoe_arena_alloc(arena, n * stride);
    if (!pointers || !objects)
        return NULL;
    for (size_t i = 0; i < n; i++)
        pointers[i] = objects + i * stride;
    return pointers;
}

void *smoe_unconst(const void *p)
{
    void *q;
    memcpy(&q, &p, sizeof q);
    return q;
}
