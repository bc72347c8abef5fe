/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether two messages are the same is asked of protobuf-c: it packs both, without what was unknown.
 */
#include "tests/unit/proto/flat_twin.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "proto/flat.h"
#include "proto/stablemoe.pb-c.h"

/* What each unpacks into: more than either needs for a body of so many bytes. protobuf-c takes most, some 52 bytes for
 * one where all fields are unknown and of two bytes. */
static size_t room_for(size_t bytes)
{
    return 4096 + 128 * bytes;
}

const ProtobufCMessageDescriptor *const flat_twin_messages[] = {
    &stablemoe__v1__report__descriptor,        &stablemoe__v1__ping__descriptor,
    &stablemoe__v1__bye__descriptor,           &stablemoe__v1__submit__descriptor,
    &stablemoe__v1__credit__descriptor,        &stablemoe__v1__step_done__descriptor,
    &stablemoe__v1__restore__descriptor,       &stablemoe__v1__expert_fetch__descriptor,
    &stablemoe__v1__expert_store__descriptor,  &stablemoe__v1__result__descriptor,
    &stablemoe__v1__step_gradient__descriptor, &stablemoe__v1__layer_shape__descriptor,
    &stablemoe__v1__optimizer__descriptor,     &stablemoe__v1__shard_ask__descriptor,
    &stablemoe__v1__shard_part__descriptor,    &stablemoe__v1__shard_sent__descriptor,
    &stablemoe__v1__shard_due__descriptor,     &stablemoe__v1__layer_declare__descriptor,
    &stablemoe__v1__router_state__descriptor,
};
const size_t flat_twin_n_messages = sizeof flat_twin_messages / sizeof *flat_twin_messages;

static void forget_unknown(ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *d = message->descriptor;
    message->n_unknown_fields = 0;
    message->unknown_fields = NULL;
    for (unsigned i = 0; i < d->n_fields; i++) {
        ProtobufCMessage *part = NULL;
        if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
            memcpy(&part, (uint8_t *)message + d->fields[i].offset, sizeof part);
        if (part)
            forget_unknown(part);
    }
}

static size_t pack(ProtobufCMessage *message, uint8_t *to, size_t room)
{
    forget_unknown(message);
    smoe_assert(protobuf_c_message_get_packed_size(message) <= room);
    return protobuf_c_message_pack(message, to);
}

/* What we pack is what protobuf-c packs, where there is just room for it; and nothing where there is less. */
static const char *compare_packed(const struct smoe_flat *flat, const ProtobufCMessage *message,
                                  const uint8_t *packed, size_t n)
{
    size_t bytes = n + 1;
    uint8_t *exact = malloc(n + (n == 0));
    smoe_assert(exact);
    const char *difference = NULL;
    if (smoe_flat_pack(flat, message, exact, n, &bytes) || bytes != n)
        difference = "packed length";
    else if (n && memcmp(exact, packed, n))
        difference = "packed content";
    else if (n && smoe_flat_pack(flat, message, exact, n - 1, &bytes) != SMOE_ETOOBIG)
        difference = "packed into less room";
    free(exact);
    return difference;
}

static const char *compare(const struct smoe_flat *flat, ProtobufCMessage *theirs,
                           ProtobufCMessage *ours)
{
    static uint8_t packed[2][2 * SMOE_CONTROL_BYTES_MAX];
    size_t n = pack(theirs, packed[0], sizeof packed[0]);
    if (pack(ours, packed[1], sizeof packed[1]) != n)
        return "length";
    return memcmp(packed[0], packed[1], n) ? "content" : compare_packed(flat, ours, packed[0], n);
}

/* From memory of exactly that size, so that a read beyond it is found. */
const char *flat_twin_difference(const ProtobufCMessageDescriptor *descriptor, const uint8_t *body,
                                 size_t bytes, int *ret_taken)
{
    struct smoe_arena arenas[2];
    struct smoe_flat flat;
    const char *difference = NULL;
    uint8_t *exact = malloc(bytes + (bytes == 0));
    smoe_assert(exact && smoe_flat_describe(descriptor, &flat));
    for (int i = 0; i < 2; i++)
        smoe_assert(smoe_arena_init(&arenas[i], room_for(bytes)) == 0);
    if (bytes)
        memcpy(exact, body, bytes);
    ProtobufCMessage *ours = smoe_flat_unpack(&flat, &arenas[0], exact, bytes);
    ProtobufCMessage *theirs = smoe_unpack_any(descriptor, &arenas[1], exact, bytes);
    if (!ours != !theirs)
        difference = ours ? "only protobuf-c refuses" : "only protobuf-c accepts";
    else if (ours)
        difference = compare(&flat, theirs, ours);
    *ret_taken = theirs != NULL;
    for (int i = 0; i < 2; i++)
        smoe_arena_release(&arenas[i]);
    free(exact);
    return difference;
}
