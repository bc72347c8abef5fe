/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf-c's unpack for flat messages: those without lists, submessages, oneofs and presence, which
 * is most of them, and all that come by the hundred thousand. The schema is protobuf-c's own descriptor
 * and the answer its own struct, field for field, so that nobody who reads a message can tell; what is
 * left out is the machinery for the rest (it costs a Report 4,250 instructions, this one about a quarter).
 * tests/unit/proto/test_flat.c and the fuzzer fuzz_flat hold the two against each other.
 */
#ifndef SMOE_PROTO_FLAT_H
#define SMOE_PROTO_FLAT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "proto/arena.h"

/* Whether messages of this description are flat. */
bool smoe_is_flat(const ProtobufCMessageDescriptor *descriptor);

/* The message in `arena`, or NULL: it is malformed, or the arena full. `descriptor` must be flat. Accepts
 * what protobuf_c_message_unpack accepts and gives the same fields; unknown ones are passed over. */
void *smoe_flat_unpack(const ProtobufCMessageDescriptor *descriptor, struct smoe_arena *arena,
                       const uint8_t *body, size_t bytes);

#endif
