/* SPDX-License-Identifier: Apache-2.0
 *
 * Our unpack of flat messages takes and refuses what protobuf-c's does, and gives the same fields: for
 * random fields written by hand, right and wrong, and for all that random damage makes of them.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/rng.h"
#include "proto/flat.h"
#include "proto/stablemoe.pb-c.h"
#include "tests/unit/proto/flat_twin.h"

enum { BODIES = 40000, BODY_BYTES = 512 };

struct body {
    uint8_t bytes[BODY_BYTES];
    size_t n;
};

static void put(struct body *b, uint8_t byte)
{
    if (b->n < sizeof b->bytes)
        b->bytes[b->n++] = byte;
}

/* Now and then longer than it must be, or endless. */
static void put_varint(struct body *b, struct smoe_rng *rng, uint64_t value)
{
    for (; value >= 128; value >>= 7)
        put(b, (uint8_t)(value | 128));
    uint64_t padding = smoe_rng_below(rng, 16) ? 0 : smoe_rng_below(rng, 12);
    put(b, (uint8_t)(value | (padding ? 128 : 0)));
    while (padding--)
        put(b, padding ? 128 : 0);
}

/* As many bits as it happens to have. */
static uint64_t any_number(struct smoe_rng *rng)
{
    return smoe_rng_u64(rng) >> smoe_rng_below(rng, 64);
}

/* Numbers in one packed part. */
static void put_list(struct body *b, struct smoe_rng *rng)
{
    struct body list = {.n = 0};
    for (uint64_t n = smoe_rng_below(rng, 6); n; n--)
        put_varint(&list, rng, any_number(rng));
    put_varint(b, rng, list.n);
    for (size_t i = 0; i < list.n; i++)
        put(b, list.bytes[i]);
}

static unsigned wire_type_of(ProtobufCType type)
{
    if (type == PROTOBUF_C_TYPE_DOUBLE)
        return PROTOBUF_C_WIRE_TYPE_64BIT;
    if (type == PROTOBUF_C_TYPE_FLOAT)
        return PROTOBUF_C_WIRE_TYPE_32BIT;
    return type == PROTOBUF_C_TYPE_STRING || type == PROTOBUF_C_TYPE_MESSAGE
               ? PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED
               : PROTOBUF_C_WIRE_TYPE_VARINT;
}

static void put_field(struct body *b, struct smoe_rng *rng, const ProtobufCMessageDescriptor *d);

/* Fields of a submessage, now and then fewer bytes or more than it says. */
static void put_part(struct body *b, struct smoe_rng *rng, const ProtobufCFieldDescriptor *field)
{
    struct body part = {.n = 0};
    for (uint64_t fields = smoe_rng_below(rng, 12); fields; fields--)
        put_field(&part, rng, field->descriptor);
    put_varint(b, rng, (uint64_t)field->id << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
    put_varint(b, rng, smoe_rng_below(rng, 30) ? part.n : smoe_rng_below(rng, 2 * BODY_BYTES));
    for (size_t i = 0; i < part.n; i++)
        put(b, part.bytes[i]);
}

/* A field of the message, or with small chance an unknown one, or one of a wrong wire type. */
static void put_field(struct body *b, struct smoe_rng *rng, const ProtobufCMessageDescriptor *d)
{
    const ProtobufCFieldDescriptor *field = &d->fields[smoe_rng_below(rng, d->n_fields)];
    if (field->type == PROTOBUF_C_TYPE_MESSAGE && smoe_rng_below(rng, 20)) {
        put_part(b, rng, field);
        return;
    }
    uint64_t id = smoe_rng_below(rng, 12) ? field->id : any_number(rng) & 0x1fffffff;
    unsigned wire_type =
        smoe_rng_below(rng, 30) ? wire_type_of(field->type) : (unsigned)smoe_rng_below(rng, 8);
    uint64_t bytes = wire_type == PROTOBUF_C_WIRE_TYPE_64BIT ? 8 : 4;
    bool list = field->label == PROTOBUF_C_LABEL_REPEATED && smoe_rng_below(rng, 4);
    if (list && wire_type == PROTOBUF_C_WIRE_TYPE_VARINT) {
        put_varint(b, rng, id << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
        put_list(b, rng);
        return;
    }
    put_varint(b, rng, id << 3 | wire_type);
    if (wire_type == PROTOBUF_C_WIRE_TYPE_VARINT) {
        put_varint(b, rng, any_number(rng));
        return;
    }
    if (wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
        bytes = smoe_rng_below(rng, 20);
        put_varint(b, rng, smoe_rng_below(rng, 30) ? bytes : any_number(rng));
    }
    bool minus_zero = smoe_rng_below(rng, 8) == 0;
    while (bytes--)
        put(b, minus_zero ? (uint8_t)(bytes ? 0 : 0x80) : (uint8_t)smoe_rng_u64(rng));
}

static void damage(struct body *b, struct smoe_rng *rng)
{
    if (b->n && smoe_rng_below(rng, 4) == 0)
        b->bytes[smoe_rng_below(rng, b->n)] ^= (uint8_t)(1u << smoe_rng_below(rng, 8));
    if (b->n && smoe_rng_below(rng, 8) == 0)
        b->n = smoe_rng_below(rng, b->n); /* torn */
}

Test(flat, is_what_protobuf_c_says)
{
    struct smoe_rng rng;
    int taken, n_taken = 0;
    smoe_rng_init(&rng, 1, 1);
    for (int i = 0; i < BODIES; i++) {
        const ProtobufCMessageDescriptor *d =
            flat_twin_messages[smoe_rng_below(&rng, flat_twin_n_messages)];
        struct body b = {.n = 0};
        for (uint64_t fields = smoe_rng_below(&rng, 24); fields; fields--)
            put_field(&b, &rng, d);
        damage(&b, &rng);
        const char *difference = flat_twin_difference(d, b.bytes, b.n, &taken);
        cr_assert_null(difference, "%s, body %d: %s", d->short_name, i, difference);
        n_taken += taken;
    }
    cr_assert(n_taken > BODIES / 8 && n_taken < BODIES * 7 / 8, "%d were taken", n_taken);
}

Test(flat, two_submessages_deep_ones_and_other_lists_are_not)
{
    struct smoe_flat flat;
    cr_assert(smoe_flat_describe(&stablemoe__v1__shard_due__descriptor, &flat));
    cr_assert_not(smoe_flat_describe(&stablemoe__v1__hello__descriptor, &flat));
    cr_assert_not(smoe_flat_describe(&stablemoe__v1__layer_ready__descriptor, &flat));
    cr_assert(smoe_flat_describe(&stablemoe__v1__report__descriptor, &flat));
    cr_assert(smoe_flat_describe(&stablemoe__v1__shard_ask__descriptor, &flat));
    cr_assert_not(smoe_flat_describe(&stablemoe__v1__backprop__descriptor, &flat));
    cr_assert_not(smoe_flat_describe(&stablemoe__v1__decision__descriptor, &flat));
    cr_assert_not(smoe_flat_describe(&stablemoe__v1__host__descriptor, &flat));
    cr_assert_not(smoe_flat_describe(&stablemoe__v1__step__descriptor, &flat));
}

/* An empty one, and lengths of one byte and of two. */
Test(flat, a_submessage_is_packed_as_protobuf_c_packs_it)
{
    static uint32_t direct[200];
    struct smoe_flat flat;
    uint8_t ours[512], theirs[512];
    cr_assert(smoe_flat_describe(&stablemoe__v1__shard_due__descriptor, &flat));
    for (size_t n = 0; n < sizeof direct / sizeof *direct; n++) {
        Stablemoe__V1__ShardDue m = STABLEMOE__V1__SHARD_DUE__INIT;
        Stablemoe__V1__ShardPart part = STABLEMOE__V1__SHARD_PART__INIT;
        part.direct = direct;
        part.n_direct = n;
        m.part = &part;
        size_t bytes = 0, due = protobuf_c_message_pack(&m.base, theirs);
        cr_assert_eq(smoe_flat_pack(&flat, &m, ours, sizeof ours, &bytes), 0);
        cr_assert(bytes == due && memcmp(ours, theirs, due) == 0, "%zu peers", n);
        for (size_t room = 0; room < due; room++)
            cr_assert_eq(smoe_flat_pack(&flat, &m, ours, room, &bytes), SMOE_ETOOBIG);
    }
}

Test(flat, a_full_arena_refuses)
{
    static const uint8_t text[] = {1 << 3 | 2, 3, 'b', 'y', 'e'};
    struct smoe_arena arena;
    struct smoe_flat flat;
    size_t room = sizeof(Stablemoe__V1__Bye);
    cr_assert(smoe_flat_describe(&stablemoe__v1__bye__descriptor, &flat));
    cr_assert_eq(smoe_arena_init(&arena, room), 0);
    cr_assert_not_null(smoe_flat_unpack(&flat, &arena, text, 0));
    smoe_arena_reset(&arena);
    cr_assert_null(smoe_flat_unpack(&flat, &arena, text, sizeof text));
    cr_assert_null(smoe_flat_unpack(&flat, &arena, text, 0));
    smoe_arena_release(&arena);
}
