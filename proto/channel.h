/* SPDX-License-Identifier: Apache-2.0
 *
 * One end of a connection as a pure machine: bytes in become validated messages, messages become
 * bytes to write. Gateway, worker and client library all stand on it; the shells move the bytes and
 * the simulator moves them over its own network.
 *
 * Admission is in three steps, each before the next costs anything: the header (type, side, sizes),
 * the protobuf part (fields), and, by the owner's `expect`, whether a raw part of that size belongs to
 * it. Only then is memory for the raw part taken.
 */
#ifndef SMOE_PROTO_CHANNEL_H
#define SMOE_PROTO_CHANNEL_H

#include "proto/inbox.h"
#include "proto/outbox.h"
#include "proto/wire.h"

struct smoe_channel {
    struct smoe_wire *wire;     /* borrowed, shared by all channels of a machine */
    struct smoe_budget *budget; /* borrowed; charged with raw parts coming in */
    unsigned peer_side;         /* the SMOE_BY_x and SMOE_TO_x bits that the peer may use */
    bool peer_is_newer;         /* types that we do not know are passed over */
    uint32_t body_bytes_max;    /* protobuf part, at most, now */
    uint64_t tensor_bytes_max;  /* raw part, at most, now */
    struct smoe_inbox in;
    struct smoe_outbox out;
    uint64_t
        pending_generation; /* of the wire's: its message waits for our raw part while unchanged */
    uint64_t frames_in, frames_out, bytes_in, bytes_out;
};

#define SMOE_CHANNEL_SKIP 1

/* What the owner of a channel does with messages. A nonzero return ends the channel with that error;
 * the sentence is in `why`. */
struct smoe_channel_owner {
    void *context;
    /* A message with a raw part was decoded: does `tensor_bytes` fit it, and may it come now? 0: yes.
     * SMOE_CHANNEL_SKIP: no, but the stream goes on: the raw part is thrown away and the message is
     * not delivered (the owner has answered it). */
    int (*expect)(void *context, const struct smoe_message *message, size_t tensor_bytes,
                  struct smoe_why *why);
    /* A complete message. `blob` is its raw part or NULL; take a reference to keep it. */
    int (*deliver)(void *context, const struct smoe_message *message, struct smoe_blob *blob,
                   struct smoe_why *why);
};

void smoe_channel_init(struct smoe_channel *ch, struct smoe_wire *wire, struct smoe_budget *budget,
                       unsigned peer_side, size_t out_bytes_max);
void smoe_channel_release(struct smoe_channel *ch);

/* Takes all n bytes, calling the owner for every message in them. On error the stream is dead; the
 * caller may still send an Error and must close. */
int smoe_channel_receive(struct smoe_channel *ch, const uint8_t *data, size_t n,
                         const struct smoe_channel_owner *owner, struct smoe_why *why);

/* Where to read the next bytes to save a copy, or NULL: smoe_inbox_direct. */
uint8_t *smoe_channel_direct(const struct smoe_channel *ch, size_t *ret_room);

/* Queues a message with its raw part. Errors as smoe_outbox_put and smoe_wire_encode. */
int smoe_channel_send(struct smoe_channel *ch, const struct smoe_message *message,
                      const struct smoe_segment *segments, size_t n_segments);

/* Queues an Error with this code and sentence. */
int smoe_channel_send_error(struct smoe_channel *ch, int code, const char *sentence, bool fatal,
                            uint64_t batch, uint64_t request);

#endif
