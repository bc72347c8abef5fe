/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <string.h>

#include "proto/flat.h"
#include "proto/flat_kind.h"

#define TAG_BYTES_MAX    5
#define LENGTH_BYTES_MAX 5
#define VARINT_BYTES_MAX 10

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

SMOE_FLAT_INLINE bool read_number(struct reader *r, enum smoe_flat_kind kind, unsigned wire_type,
                                  void *member)
{
    uint64_t value;
    if (wire_type != PROTOBUF_C_WIRE_TYPE_VARINT)
        return false;
    if (!read_short_varint(r, &value) && !read_varint(r, VARINT_BYTES_MAX, &value))
        return false;
    uint32_t low = (uint32_t)value;
    if (kind == SMOE_FLAT_NUMBER_64)
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

SMOE_FLAT_INLINE bool read_fixed(struct reader *r, enum smoe_flat_kind kind, unsigned wire_type,
                                 void *member)
{
    size_t size = smoe_flat_is_wide(kind) ? 8 : 4;
    const uint8_t *bytes = NULL;
    if (wire_type ==
        (smoe_flat_is_wide(kind) ? PROTOBUF_C_WIRE_TYPE_64BIT : PROTOBUF_C_WIRE_TYPE_32BIT))
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

SMOE_FLAT_INLINE bool read_plain(struct reader *r, const struct smoe_flat_field *field,
                                 struct smoe_arena *arena, unsigned wire_type, uint8_t *message)
{
    void *member = message + field->offset;
    enum smoe_flat_kind kind = field->kind;
    if (kind <= SMOE_FLAT_NUMBER_64)
        return read_number(r, kind, wire_type, member);
    if (kind == SMOE_FLAT_TRUTH)
        return read_truth(r, wire_type, member);
    if (kind <= SMOE_FLAT_REAL_64)
        return read_fixed(r, kind, wire_type, member);
    if (kind == SMOE_FLAT_LIST)
        return read_list(r, arena, wire_type, message + field->n_offset, member);
    return read_string(r, arena, wire_type, member);
}

/* Fields are mostly sent in the order of their ids: the search begins behind the last one. */
static const struct smoe_flat_field *find(const struct smoe_flat_field *fields, unsigned n,
                                          uint32_t id, unsigned *next)
{
    for (unsigned tried = 0; tried < n; tried++) {
        unsigned i = *next < n ? *next : 0;
        *next = i + 1;
        if (fields[i].id == id)
            return &fields[i];
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

/* ---- messages ---- */

/* One that is being read. A part that comes twice is for protobuf-c, which joins the two. */
struct unpacking {
    const struct smoe_flat *flat;
    struct smoe_arena *arena;
    bool part_twice;
};

static bool read_part(struct reader *r, struct unpacking *u, unsigned wire_type, void *member);

/* All that the reader has, as a whole message, or as the part of one. */
SMOE_FLAT_INLINE uint8_t *read_message(struct reader r, struct unpacking *u, bool whole)
{
    const struct smoe_flat_message *m = whole ? &u->flat->whole : &u->flat->part;
    const struct smoe_flat_field *fields = &u->flat->fields[m->first];
    uint8_t *message = smoe_arena_alloc(u->arena, m->descriptor->sizeof_message);
    unsigned next = 0;
    uint64_t tag;
    if (!message)
        return NULL;
    m->descriptor->message_init((ProtobufCMessage *)message);
    while (r.at < r.end) {
        if (*r.at < 1 << 3 || !read_tag(&r, &tag))
            return NULL; /* no field has the id 0 */
        const struct smoe_flat_field *field =
            find(fields, m->n_fields, (uint32_t)(tag >> 3), &next);
        bool part = whole && field && field->kind == SMOE_FLAT_PART;
        if (!(part    ? read_part(&r, u, tag & 7, message + field->offset)
              : field ? read_plain(&r, field, u->arena, tag & 7, message)
                      : pass_over(&r, tag & 7)))
            return NULL;
    }
    return message;
}

static bool read_part(struct reader *r, struct unpacking *u, unsigned wire_type, void *member)
{
    size_t bytes;
    uint8_t *part;
    memcpy(&part, member, sizeof part);
    u->part_twice = part != NULL;
    const uint8_t *from = NULL;
    if (wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED && !u->part_twice)
        from = read_prefixed(r, &bytes);
    part = from ? read_message((struct reader){from, r->at}, u, false) : NULL;
    memcpy(member, &part, sizeof part);
    return part != NULL;
}

void *smoe_flat_unpack(const struct smoe_flat *flat, struct smoe_arena *arena, const uint8_t *body,
                       size_t bytes)
{
    struct reader r = {body, bytes ? body + bytes : body};
    struct unpacking u = {.flat = flat, .arena = arena};
    size_t used = arena->used;
    uint8_t *message = read_message(r, &u, true);
    if (!u.part_twice)
        return message;
    arena->used = used;
    return smoe_unpack_any(flat->whole.descriptor, arena, body, bytes);
}
