/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/flat.h"

#include <limits.h>
#include <string.h>

#include "common/base/err.h"

#define TAG_BYTES_MAX    5
#define LENGTH_BYTES_MAX 5
#define VARINT_BYTES_MAX 10

/* In this order: numbers, truth, what is fixed (narrow, wide), text. */
enum kind {
    NOT_FLAT,
    NUMBER_32,
    SIGNED_32,
    NUMBER_64,
    TRUTH,
    FIXED_32,
    REAL_32,
    FIXED_64,
    REAL_64,
    TEXT,
    LIST /* of NUMBER_32, packed */
};

static const uint8_t kinds[] = {
    [PROTOBUF_C_TYPE_INT32] = SIGNED_32,  [PROTOBUF_C_TYPE_UINT32] = NUMBER_32,
    [PROTOBUF_C_TYPE_ENUM] = SIGNED_32,   [PROTOBUF_C_TYPE_INT64] = NUMBER_64,
    [PROTOBUF_C_TYPE_UINT64] = NUMBER_64, [PROTOBUF_C_TYPE_BOOL] = TRUTH,
    [PROTOBUF_C_TYPE_FIXED32] = FIXED_32, [PROTOBUF_C_TYPE_FLOAT] = REAL_32,
    [PROTOBUF_C_TYPE_FIXED64] = FIXED_64, [PROTOBUF_C_TYPE_DOUBLE] = REAL_64,
    [PROTOBUF_C_TYPE_STRING] = TEXT,      [PROTOBUF_C_TYPE_MESSAGE] = NOT_FLAT, /* the last one */
};

static bool is_wide(enum kind kind)
{
    return kind >= FIXED_64;
}

static enum kind kind_of(const ProtobufCFieldDescriptor *field)
{
    bool packed =
        field->label == PROTOBUF_C_LABEL_REPEATED && field->flags & PROTOBUF_C_FIELD_FLAG_PACKED;
    if (packed && field->type == PROTOBUF_C_TYPE_UINT32)
        return LIST;
    bool one =
        field->label == PROTOBUF_C_LABEL_NONE && !(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF);
    return one ? kinds[field->type] : NOT_FLAT;
}

bool smoe_flat_describe(const ProtobufCMessageDescriptor *descriptor, struct smoe_flat *ret)
{
    struct smoe_flat flat = {.descriptor = descriptor, .n_fields = descriptor->n_fields};
    if (descriptor->n_fields > SMOE_FLAT_FIELDS_MAX || descriptor->sizeof_message > UINT16_MAX)
        return false;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        enum kind kind = kind_of(field);
        if (kind == NOT_FLAT)
            return false;
        flat.fields[i] = (struct smoe_flat_field){
            field->id, (uint16_t)field->offset, (uint16_t)field->quantifier_offset, (uint8_t)kind};
    }
    *ret = flat;
    return true;
}

/* ---- the wire format ---- */

struct reader {
    const uint8_t *at, *end;
};

/* Eight groups of seven bits, each in a byte of its own, as one number. */
static inline uint64_t join_groups(uint64_t x)
{
    x = (x & UINT64_C(0x007f007f007f007f)) | (x & UINT64_C(0x7f007f007f007f00)) >> 1;
    x = (x & UINT64_C(0x00003fff00003fff)) | (x & UINT64_C(0x3fff00003fff0000)) >> 2;
    return (x & UINT64_C(0x000000000fffffff)) | (x & UINT64_C(0x0fffffff00000000)) >> 4;
}

/* A varint that ends within eight bytes, where there are as many: without a branch for each. False: it is to
 * be read another way. */
static inline bool read_short_varint(struct reader *r, uint64_t *ret)
{
    uint64_t word;
    if (r->end - r->at < (ptrdiff_t)sizeof word)
        return false;
    memcpy(&word, r->at, sizeof word);
    uint64_t last = ~word & UINT64_C(0x8080808080808080);
    if (!last)
        return false;
    uint64_t upto = last ^ (last - 1); /* all bits up to that of the last byte's sign */
    r->at += (size_t)(__builtin_ctzll(last) + 1) / 8;
    *ret = join_groups(word & upto & UINT64_C(0x7f7f7f7f7f7f7f7f));
    return true;
}

/* A varint of at most `max` bytes; what does not fit 64 bits is cut off. */
static bool read_varint(struct reader *r, size_t max, uint64_t *ret)
{
    const uint8_t *at = r->at;
    const uint8_t *stop = (size_t)(r->end - at) < max ? r->end : at + max;
    uint64_t value = 0;
    for (unsigned shift = 0; at < stop; shift += 7) {
        uint8_t byte = *at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            r->at = at;
            *ret = value;
            return true;
        }
    }
    return false;
}

/* `bytes` of them, as they lie; NULL when there are fewer. */
static const uint8_t *read_bytes(struct reader *r, size_t bytes)
{
    if ((size_t)(r->end - r->at) < bytes)
        return NULL;
    r->at += bytes;
    return r->at - bytes;
}

static const uint8_t *read_prefixed(struct reader *r, size_t *ret_bytes)
{
    uint64_t bytes;
    if (!read_varint(r, LENGTH_BYTES_MAX, &bytes))
        return NULL;
    *ret_bytes = (uint32_t)bytes;
    return *ret_bytes > INT_MAX ? NULL : read_bytes(r, *ret_bytes);
}

static bool pass_over(struct reader *r, unsigned wire_type)
{
    uint64_t unused;
    size_t bytes;
    switch (wire_type) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        return read_varint(r, VARINT_BYTES_MAX, &unused);
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        return read_bytes(r, 8) != NULL;
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
        return read_prefixed(r, &bytes) != NULL;
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        return read_bytes(r, 4) != NULL;
    default:
        return false;
    }
}

/* ---- fields ---- */

static bool read_number(struct reader *r, enum kind kind, unsigned wire_type, void *member)
{
    uint64_t value;
    if (wire_type != PROTOBUF_C_WIRE_TYPE_VARINT)
        return false;
    if (!read_short_varint(r, &value) && !read_varint(r, VARINT_BYTES_MAX, &value))
        return false;
    uint32_t low = (uint32_t)value;
    if (kind == NUMBER_64)
        memcpy(member, &value, sizeof value);
    else
        memcpy(member, &low, sizeof low);
    return true;
}

/* Of any wire type, true where a bit is set: protobuf-c looks no closer. */
static bool read_truth(struct reader *r, unsigned wire_type, void *member)
{
    const uint8_t *at = r->at;
    protobuf_c_boolean truth = 0;
    if (!pass_over(r, wire_type))
        return false;
    for (; at < r->at; at++)
        truth |= (*at & 0x7f) != 0;
    memcpy(member, &truth, sizeof truth);
    return true;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "what is fixed is on the wire as in memory");

static bool read_fixed(struct reader *r, enum kind kind, unsigned wire_type, void *member)
{
    size_t size = is_wide(kind) ? 8 : 4;
    const uint8_t *bytes = NULL;
    if (wire_type == (is_wide(kind) ? PROTOBUF_C_WIRE_TYPE_64BIT : PROTOBUF_C_WIRE_TYPE_32BIT))
        bytes = read_bytes(r, size);
    if (bytes)
        memcpy(member, bytes, size);
    return bytes != NULL;
}

static bool read_string(struct reader *r, struct smoe_arena *arena, unsigned wire_type,
                        void *member)
{
    size_t bytes;
    const uint8_t *from = NULL;
    if (wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED)
        from = read_prefixed(r, &bytes);
    char *text = from ? smoe_arena_alloc(arena, bytes + 1) : NULL;
    if (!text)
        return false;
    memcpy(text, from, bytes);
    text[bytes] = 0;
    memcpy(member, &text, sizeof text);
    return true;
}

/* Elements that a list of n has room for: it doubles. */
static size_t room_of(size_t n)
{
    size_t room = n ? 1 : 0;
    while (room < n)
        room *= 2;
    return room;
}

/* `more` elements at its end, or NULL. */
static uint32_t *lengthen(struct smoe_arena *arena, uint32_t *list, size_t n, size_t more)
{
    if (n + more <= room_of(n))
        return list;
    uint32_t *longer = smoe_arena_alloc(arena, room_of(n + more) * sizeof *list);
    if (longer && n)
        memcpy(longer, list, n * sizeof *list);
    return longer;
}

/* Packed, or one element, as protobuf-c takes both. */
static bool read_list(struct reader *r, struct smoe_arena *arena, unsigned wire_type,
                      uint8_t *n_member, void *member)
{
    uint32_t *list;
    size_t n, bytes = 0, more = 0;
    const uint8_t *from = r->at;
    if (wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED)
        from = read_prefixed(r, &bytes);
    else if (wire_type != PROTOBUF_C_WIRE_TYPE_VARINT || !pass_over(r, wire_type))
        return false;
    if (!from)
        return false;
    struct reader elements = {from, r->at};
    for (; from < r->at; from++)
        more += *from < 0x80;
    memcpy(&n, n_member, sizeof n);
    memcpy(&list, member, sizeof list);
    if (more && !(list = lengthen(arena, list, n, more)))
        return false;
    for (uint64_t value; elements.at < elements.end; list[n++] = (uint32_t)value)
        if (!read_varint(&elements, VARINT_BYTES_MAX, &value))
            return false;
    memcpy(n_member, &n, sizeof n);
    memcpy(member, &list, sizeof list);
    return true;
}

static bool read_field(struct reader *r, const struct smoe_flat_field *field,
                       struct smoe_arena *arena, unsigned wire_type, uint8_t *message)
{
    void *member = message + field->offset;
    enum kind kind = field->kind;
    if (kind <= NUMBER_64)
        return read_number(r, kind, wire_type, member);
    if (kind == TRUTH)
        return read_truth(r, wire_type, member);
    if (kind <= REAL_64)
        return read_fixed(r, kind, wire_type, member);
    if (kind == LIST)
        return read_list(r, arena, wire_type, message + field->n_offset, member);
    return read_string(r, arena, wire_type, member);
}

/* Fields are mostly sent in the order of their ids: the search begins behind the last one. */
static const struct smoe_flat_field *find(const struct smoe_flat *flat, uint32_t id, unsigned *next)
{
    unsigned n = flat->n_fields;
    for (unsigned tried = 0; tried < n; tried++) {
        unsigned i = *next < n ? *next : 0;
        *next = i + 1;
        if (flat->fields[i].id == id)
            return &flat->fields[i];
    }
    return NULL;
}

/* Most ids are below 16, and such a tag one byte. */
static inline bool read_tag(struct reader *r, uint64_t *ret)
{
    if (*r->at >= 0x80)
        return read_varint(r, TAG_BYTES_MAX, ret);
    *ret = *r->at++;
    return true;
}

void *smoe_flat_unpack(const struct smoe_flat *flat, struct smoe_arena *arena, const uint8_t *body,
                       size_t bytes)
{
    struct reader r = {body, bytes ? body + bytes : body};
    uint8_t *message = smoe_arena_alloc(arena, flat->descriptor->sizeof_message);
    unsigned next = 0;
    uint64_t tag;
    if (!message)
        return NULL;
    flat->descriptor->message_init((ProtobufCMessage *)message);
    while (r.at < r.end) {
        if (*r.at < 1 << 3 || !read_tag(&r, &tag))
            return NULL; /* no field has the id 0 */
        const struct smoe_flat_field *field = find(flat, (uint32_t)(tag >> 3), &next);
        if (!(field ? read_field(&r, field, arena, tag & 7, message) : pass_over(&r, tag & 7)))
            return NULL;
    }
    return message;
}

/* ---- packing ---- */

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
static uint64_t number_of(enum kind kind, const void *member)
{
    uint64_t wide;
    uint32_t narrow;
    if (kind == NUMBER_64) {
        memcpy(&wide, member, sizeof wide);
        return wide;
    }
    memcpy(&narrow, member, sizeof narrow);
    return kind == SIGNED_32 ? (uint64_t)(int64_t)(int32_t)narrow : narrow;
}

static bool write_number(struct writer *w, uint64_t tag, enum kind kind, const void *member)
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
static bool is_zero(enum kind kind, const void *member)
{
    uint64_t bits = 0, sign = is_wide(kind) ? UINT64_C(1) << 63 : UINT64_C(1) << 31;
    memcpy(&bits, member, is_wide(kind) ? 8 : 4);
    return !bits || ((kind == REAL_32 || kind == REAL_64) && bits == sign);
}

static bool write_fixed(struct writer *w, uint64_t tag, enum kind kind, const void *member)
{
    unsigned wire_type = is_wide(kind) ? PROTOBUF_C_WIRE_TYPE_64BIT : PROTOBUF_C_WIRE_TYPE_32BIT;
    return is_zero(kind, member) ||
           (write_varint(w, tag | wire_type) && write_bytes(w, member, is_wide(kind) ? 8 : 4));
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

static bool write_field(struct writer *w, const struct smoe_flat_field *field,
                        const uint8_t *message)
{
    const void *member = message + field->offset;
    enum kind kind = field->kind;
    uint64_t tag = (uint64_t)field->id << 3;
    if (kind <= NUMBER_64)
        return write_number(w, tag, kind, member);
    if (kind == TRUTH)
        return write_truth(w, tag, member);
    if (kind <= REAL_64)
        return write_fixed(w, tag, kind, member);
    if (kind == LIST)
        return write_list(w, tag, message + field->n_offset, member);
    return write_string(w, tag, member);
}

int smoe_flat_pack(const struct smoe_flat *flat, const void *message, uint8_t *ret, size_t room,
                   size_t *ret_bytes)
{
    struct writer w = {ret, ret + room};
    for (unsigned i = 0; i < flat->n_fields; i++)
        if (!write_field(&w, &flat->fields[i], message))
            return SMOE_ETOOBIG;
    *ret_bytes = (size_t)(w.at - ret);
    return 0;
}
