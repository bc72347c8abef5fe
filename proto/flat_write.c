/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/base/err.h"
#include "proto/flat.h"
#include "proto/flat_kind.h"

struct writer {
    uint8_t *at, *end;
};

static bool write_varint(struct writer *w, uint64_t value)
{
    uint8_t *at = w->at;
    for (; at < w->end && value >= 0x80; value >>= 7)
        *at++ = (uint8_t)(value | 0x80);
    if (at == w->end)
        return false;
    *at++ = (uint8_t)value;
    w->at = at;
    return true;
}

static bool write_bytes(struct writer *w, const void *from, size_t bytes)
{
    if ((size_t)(w->end - w->at) < bytes)
        return false;
    memcpy(w->at, from, bytes);
    w->at += bytes;
    return true;
}

/* A number as a varint has it: what is signed is 64 bits wide there. */
static uint64_t number_of(enum smoe_flat_kind kind, const void *member)
{
    uint64_t wide;
    uint32_t narrow;
    if (kind == SMOE_FLAT_NUMBER_64) {
        memcpy(&wide, member, sizeof wide);
        return wide;
    }
    memcpy(&narrow, member, sizeof narrow);
    return kind == SMOE_FLAT_SIGNED_32 ? (uint64_t)(int64_t)(int32_t)narrow : narrow;
}

SMOE_FLAT_INLINE bool write_number(struct writer *w, uint64_t tag, enum smoe_flat_kind kind,
                                   const void *member)
{
    uint64_t value = number_of(kind, member);
    return !value || (write_varint(w, tag | PROTOBUF_C_WIRE_TYPE_VARINT) && write_varint(w, value));
}

static bool write_truth(struct writer *w, uint64_t tag, const void *member)
{
    protobuf_c_boolean truth;
    memcpy(&truth, member, sizeof truth);
    return !truth || (write_varint(w, tag | PROTOBUF_C_WIRE_TYPE_VARINT) && write_varint(w, 1));
}

/* Zero is left out, minus zero too where the field is a real number. */
static bool is_zero(enum smoe_flat_kind kind, const void *member)
{
    uint64_t bits = 0, sign = smoe_flat_is_wide(kind) ? UINT64_C(1) << 63 : UINT64_C(1) << 31;
    memcpy(&bits, member, smoe_flat_is_wide(kind) ? 8 : 4);
    return !bits || ((kind == SMOE_FLAT_REAL_32 || kind == SMOE_FLAT_REAL_64) && bits == sign);
}

SMOE_FLAT_INLINE bool write_fixed(struct writer *w, uint64_t tag, enum smoe_flat_kind kind,
                                  const void *member)
{
    unsigned wire_type =
        smoe_flat_is_wide(kind) ? PROTOBUF_C_WIRE_TYPE_64BIT : PROTOBUF_C_WIRE_TYPE_32BIT;
    return is_zero(kind, member) || (write_varint(w, tag | wire_type) &&
                                     write_bytes(w, member, smoe_flat_is_wide(kind) ? 8 : 4));
}

static bool write_string(struct writer *w, uint64_t tag, const void *member)
{
    const char *text;
    memcpy(&text, member, sizeof text);
    size_t bytes = text ? strlen(text) : 0;
    return !bytes || (write_varint(w, tag | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) &&
                      write_varint(w, bytes) && write_bytes(w, text, bytes));
}

static size_t varint_bytes(uint64_t value)
{
    size_t bytes = 1;
    for (; value >= 0x80; value >>= 7)
        bytes++;
    return bytes;
}

static bool write_list(struct writer *w, uint64_t tag, const uint8_t *n_member, const void *member)
{
    const uint32_t *list;
    size_t n, bytes = 0;
    memcpy(&n, n_member, sizeof n);
    memcpy(&list, member, sizeof list);
    for (size_t i = 0; i < n; i++)
        bytes += varint_bytes(list[i]);
    bool fits = !n || (write_varint(w, tag | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) &&
                       write_varint(w, bytes));
    for (size_t i = 0; fits && i < n; i++)
        fits = write_varint(w, list[i]);
    return fits;
}

SMOE_FLAT_INLINE bool write_plain(struct writer *w, const struct smoe_flat_field *field,
                                  const uint8_t *message)
{
    const void *member = message + field->offset;
    enum smoe_flat_kind kind = field->kind;
    uint64_t tag = (uint64_t)field->id << 3;
    if (kind <= SMOE_FLAT_NUMBER_64)
        return write_number(w, tag, kind, member);
    if (kind == SMOE_FLAT_TRUTH)
        return write_truth(w, tag, member);
    if (kind <= SMOE_FLAT_REAL_64)
        return write_fixed(w, tag, kind, member);
    if (kind == SMOE_FLAT_LIST)
        return write_list(w, tag, message + field->n_offset, member);
    return write_string(w, tag, member);
}

/* ---- messages ---- */

static bool write_part(struct writer *w, const struct smoe_flat *flat,
                       const struct smoe_flat_field *field, const uint8_t *message);

/* A whole one, or the part of one. */
SMOE_FLAT_INLINE bool write_message(struct writer *w, const struct smoe_flat *flat,
                                    const uint8_t *message, bool whole)
{
    const struct smoe_flat_message *m = whole ? &flat->whole : &flat->part;
    for (unsigned i = 0; i < m->n_fields; i++) {
        const struct smoe_flat_field *field = &flat->fields[m->first + i];
        if (!(whole && field->kind == SMOE_FLAT_PART ? write_part(w, flat, field, message)
                                                     : write_plain(w, field, message)))
            return false;
    }
    return true;
}

/* Where its length needs more than the byte that is left for it, it moves. */
static bool write_part(struct writer *w, const struct smoe_flat *flat,
                       const struct smoe_flat_field *field, const uint8_t *message)
{
    const uint8_t *part;
    uint64_t tag = (uint64_t)field->id << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    memcpy(&part, message + field->offset, sizeof part);
    if (!part)
        return true;
    if (!write_varint(w, tag) || !write_varint(w, 0))
        return false;
    uint8_t *begin = w->at;
    if (!write_message(w, flat, part, false))
        return false;
    size_t bytes = (size_t)(w->at - begin), more = varint_bytes(bytes) - 1;
    if ((size_t)(w->end - w->at) < more)
        return false;
    memmove(begin + more, begin, bytes);
    struct writer length = {begin - 1, begin + more};
    w->at += more;
    return write_varint(&length, bytes);
}

int smoe_flat_pack(const struct smoe_flat *flat, const void *message, uint8_t *ret, size_t room,
                   size_t *ret_bytes)
{
    struct writer w = {ret, ret + room};
    if (!write_message(&w, flat, message, true))
        return SMOE_ETOOBIG;
    *ret_bytes = (size_t)(w.at - ret);
    return 0;
}
