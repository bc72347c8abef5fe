/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/flat.h"

#include "proto/flat_kind.h"

static const uint8_t kinds[] = {
    [PROTOBUF_C_TYPE_INT32] = SMOE_FLAT_SIGNED_32,
    [PROTOBUF_C_TYPE_UINT32] = SMOE_FLAT_NUMBER_32,
    [PROTOBUF_C_TYPE_ENUM] = SMOE_FLAT_SIGNED_32,
    [PROTOBUF_C_TYPE_INT64] = SMOE_FLAT_NUMBER_64,
    [PROTOBUF_C_TYPE_UINT64] = SMOE_FLAT_NUMBER_64,
    [PROTOBUF_C_TYPE_BOOL] = SMOE_FLAT_TRUTH,
    [PROTOBUF_C_TYPE_FIXED32] = SMOE_FLAT_FIXED_32,
    [PROTOBUF_C_TYPE_FLOAT] = SMOE_FLAT_REAL_32,
    [PROTOBUF_C_TYPE_FIXED64] = SMOE_FLAT_FIXED_64,
    [PROTOBUF_C_TYPE_DOUBLE] = SMOE_FLAT_REAL_64,
    [PROTOBUF_C_TYPE_STRING] = SMOE_FLAT_TEXT,
    [PROTOBUF_C_TYPE_MESSAGE] = SMOE_FLAT_PART, /* the last one */
};

static enum smoe_flat_kind kind_of(const ProtobufCFieldDescriptor *field)
{
    bool packed =
        field->label == PROTOBUF_C_LABEL_REPEATED && field->flags & PROTOBUF_C_FIELD_FLAG_PACKED;
    if (packed && field->type == PROTOBUF_C_TYPE_UINT32)
        return SMOE_FLAT_LIST;
    bool one =
        field->label == PROTOBUF_C_LABEL_NONE && !(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF);
    return one ? kinds[field->type] : SMOE_FLAT_NOT;
}

/* Its fields from number `first` on; the descriptor of its submessage, which is described next. */
static bool describe(const ProtobufCMessageDescriptor *descriptor, uint32_t first,
                     struct smoe_flat *flat, struct smoe_flat_message *ret,
                     const ProtobufCMessageDescriptor **ret_part)
{
    if (first + descriptor->n_fields > SMOE_FLAT_FIELDS_MAX ||
        descriptor->sizeof_message > UINT16_MAX)
        return false;
    *ret = (struct smoe_flat_message){descriptor, first, descriptor->n_fields};
    *ret_part = NULL;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        enum smoe_flat_kind kind = kind_of(field);
        if (kind == SMOE_FLAT_NOT || (kind == SMOE_FLAT_PART && *ret_part))
            return false;
        if (kind == SMOE_FLAT_PART)
            *ret_part = field->descriptor;
        flat->fields[first + i] = (struct smoe_flat_field){
            field->id, (uint16_t)field->offset, (uint16_t)field->quantifier_offset, (uint8_t)kind};
    }
    return true;
}

bool smoe_flat_describe(const ProtobufCMessageDescriptor *descriptor, struct smoe_flat *ret)
{
    struct smoe_flat flat = {0};
    const ProtobufCMessageDescriptor *part, *none = NULL;
    if (!describe(descriptor, 0, &flat, &flat.whole, &part) ||
        (part && !describe(part, flat.whole.n_fields, &flat, &flat.part, &none)) || none)
        return false;
    *ret = flat;
    return true;
}

static void *arena_alloc(void *arena, size_t size)
{
    return smoe_arena_alloc(arena, size);
}

static void arena_keep(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

void *smoe_unpack_any(const ProtobufCMessageDescriptor *descriptor, struct smoe_arena *arena,
                      const uint8_t *body, size_t bytes)
{
    ProtobufCAllocator allocator = {arena_alloc, arena_keep, arena};
    return protobuf_c_message_unpack(descriptor, &allocator, bytes, body);
}
