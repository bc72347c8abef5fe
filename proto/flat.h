/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf-c's pack and unpack for flat messages: those without oneofs, presence, lists of anything but packed
 * uint32, and submessages but one that has none itself. That is most of them, and nearly all that come by the hundred
 * thousand. The schema is protobuf-c's own descriptor, put into a table of a few cache lines, and the answer its own
 * struct, field for field, so that nobody who reads a message can tell; what is left out is the machinery for the rest.
 * What is packed is the same to the byte, in one walk where protobuf-c measures first.
 * tests/unit/proto/test_flat.c and the fuzzer fuzz_flat hold the two against each other.
 */
#ifndef SMOE_PROTO_FLAT_H
#define SMOE_PROTO_FLAT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/arena.h"

#define SMOE_FLAT_FIELDS_MAX 24

struct smoe_flat_field {
    uint32_t id;
    uint16_t offset;   /* in protobuf-c's struct */
    uint16_t n_offset; /* of a list's length */
    uint8_t kind;      /* flat.c's own */
};

struct smoe_flat_message {
    const ProtobufCMessageDescriptor *descriptor; /* borrowed; NULL: there is none */
    uint32_t first, n_fields;
};

struct smoe_flat {
    struct smoe_flat_message whole, part; /* `part`: its submessage */
    struct smoe_flat_field fields[SMOE_FLAT_FIELDS_MAX];
};

/* False if messages of this description are not flat, or have too many fields. */
bool smoe_flat_describe(const ProtobufCMessageDescriptor *descriptor, struct smoe_flat *ret);

/* The message in `arena`, or NULL: it is malformed, or the arena full. */
void *smoe_unpack_any(const ProtobufCMessageDescriptor *descriptor, struct smoe_arena *arena,
                      const uint8_t *body, size_t bytes);

/* The same, faster, of a flat message; unknown fields are passed over. */
void *smoe_flat_unpack(const struct smoe_flat *flat, struct smoe_arena *arena, const uint8_t *body,
                       size_t bytes);

/* The bytes of a message of this description, which has no unknown fields, as protobuf_c_message_pack makes them.
 * SMOE_ETOOBIG if `room` bytes do not hold them: then what `ret` points to means nothing. */
int smoe_flat_pack(const struct smoe_flat *flat, const void *message, uint8_t *ret, size_t room,
                   size_t *ret_bytes);

#endif
