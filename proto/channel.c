/* SPDX-License-Identifier: Apache-2.0
 *
 * The only subtle thing is what is pending. A message with a raw part is decoded when its protobuf part is
 * complete, because the owner must judge it before memory is taken; it is delivered when its raw part
 * is. It lies in the wire's one message and arena, where any other channel's overwrites it in between; then
 * the generation has moved on and the message is decoded again from the body, which the inbox keeps. (Of a
 * message for each channel those of a thousand channels would not be in the cache.)
 */
#include "proto/channel.h"

#include <stdio.h>
#include <string.h>

void smoe_channel_init(struct smoe_channel *ch, struct smoe_wire *wire, struct smoe_budget *budget,
                       unsigned peer_side, size_t out_bytes_max)
{
    memset(ch, 0, sizeof *ch);
    ch->wire = wire;
    ch->budget = budget;
    ch->peer_side = peer_side;
    ch->body_bytes_max = SMOE_PREHELLO_BYTES_MAX;
    smoe_outbox_init(&ch->out, out_bytes_max);
}

void smoe_channel_release(struct smoe_channel *ch)
{
    smoe_inbox_release(&ch->in);
    smoe_outbox_release(&ch->out);
}

/* A message of a later version than ours, from a peer that speaks one: within the limits it is passed over. */
static bool is_foreign(const struct smoe_channel *ch)
{
    const struct smoe_frame_header *h = &ch->in.header;
    return ch->peer_is_newer && !smoe_message_name(h->type) &&
           h->body_bytes <= ch->body_bytes_max && h->tensor_bytes <= ch->tensor_bytes_max;
}

static int pass_over(struct smoe_channel *ch)
{
    if (ch->in.header.tensor_bytes)
        smoe_inbox_skip(&ch->in);
    return 0;
}

static int on_body(struct smoe_channel *ch, const struct smoe_channel_owner *owner,
                   struct smoe_why *why)
{
    const struct smoe_frame_header *h = &ch->in.header;
    struct smoe_message *message = smoe_wire_message(ch->wire);
    int rc = smoe_wire_decode(ch->wire, h->type, ch->in.body, h->body_bytes, message, why);
    if (rc)
        return rc;
    if (!h->tensor_bytes) {
        ch->frames_in++;
        return owner->deliver(owner->context, message, NULL, why);
    }
    rc = owner->expect(owner->context, message, h->tensor_bytes, why);
    if (rc == SMOE_CHANNEL_SKIP) {
        smoe_inbox_skip(&ch->in);
        return 0;
    }
    if (rc)
        return rc;
    ch->pending_generation = smoe_wire_generation(ch->wire);
    struct smoe_blob *blob = smoe_blob_new(ch->budget, h->tensor_bytes);
    if (!blob)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: no memory for a raw part of %u bytes",
                         smoe_message_name(h->type), h->tensor_bytes);
    smoe_inbox_expect(&ch->in, blob);
    return 0;
}

static int on_tensor(struct smoe_channel *ch, const struct smoe_channel_owner *owner,
                     struct smoe_why *why)
{
    const struct smoe_frame_header *h = &ch->in.header;
    struct smoe_message *message = smoe_wire_message(ch->wire);
    if (ch->pending_generation != smoe_wire_generation(ch->wire)) {
        int rc = smoe_wire_decode(ch->wire, h->type, ch->in.body, h->body_bytes, message, why);
        if (rc)
            return rc;
    }
    ch->frames_in++;
    int rc = owner->deliver(owner->context, message, ch->in.blob, why);
    smoe_blob_unref(ch->in.blob); /* now: the next frame of an idle peer may never come */
    ch->in.blob = NULL;
    return rc;
}

static int on_event(struct smoe_channel *ch, enum smoe_inbox_event event,
                    const struct smoe_channel_owner *owner, struct smoe_why *why)
{
    const struct smoe_frame_header *h = &ch->in.header;
    switch (event) {
    case SMOE_INBOX_HEADER:
        if (is_foreign(ch))
            return 0;
        return smoe_message_admit(h->type, h->body_bytes, h->tensor_bytes, ch->peer_side,
                                  ch->body_bytes_max, ch->tensor_bytes_max, why);
    case SMOE_INBOX_BODY:
        return is_foreign(ch) ? pass_over(ch) : on_body(ch, owner, why);
    case SMOE_INBOX_TENSOR:
        return on_tensor(ch, owner, why);
    case SMOE_INBOX_MORE:
        break;
    }
    return 0;
}

int smoe_channel_receive(struct smoe_channel *ch, const uint8_t *data, size_t n,
                         const struct smoe_channel_owner *owner, struct smoe_why *why)
{
    ch->bytes_in += n;
    /* A body of zero bytes is complete without further input, hence the second condition. */
    enum smoe_inbox_event event = SMOE_INBOX_MORE;
    while (n || (event == SMOE_INBOX_HEADER && !ch->in.header.body_bytes)) {
        size_t used;
        int rc = smoe_inbox_feed(&ch->in, data, n, &used, &event, why);
        if (rc == 0)
            rc = on_event(ch, event, owner, why);
        if (rc) {
            smoe_inbox_release(&ch->in);
            return rc;
        }
        data += used;
        n -= used;
    }
    return 0;
}

uint8_t *smoe_channel_direct(const struct smoe_channel *ch, size_t *ret_room)
{
    return smoe_inbox_direct(&ch->in, ret_room);
}

int smoe_channel_send(struct smoe_channel *ch, const struct smoe_message *message,
                      const struct smoe_segment *segments, size_t n_segments)
{
    const uint8_t *body;
    size_t body_bytes;
    int rc = smoe_wire_encode(ch->wire, message, &body, &body_bytes);
    if (rc == 0)
        rc = smoe_outbox_put(&ch->out, (uint16_t)message->type, body, body_bytes, segments,
                             n_segments);
    if (rc == 0)
        ch->frames_out++;
    return rc;
}

int smoe_channel_send_error(struct smoe_channel *ch, int code, const char *sentence, bool fatal,
                            uint64_t batch, uint64_t request)
{
    struct smoe_message m = {.type = SMOE_MSG_ERROR};
    m.error =
        (struct smoe_msg_error){.code = code, .fatal = fatal, .batch = batch, .request = request};
    snprintf(m.error.message, sizeof m.error.message, "%s", sentence);
    return smoe_channel_send(ch, &m, NULL, 0);
}
