/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/inbox.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

void smoe_inbox_release(struct smoe_inbox *in)
{
    free(in->kept_body);
    smoe_blob_unref(in->blob);
    *in = (struct smoe_inbox){.state = SMOE_INBOX_DEAD};
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void next_frame(struct smoe_inbox *in)
{
    free(in->kept_body);
    smoe_blob_unref(in->blob);
    in->kept_body = NULL;
    in->blob = NULL;
    in->body = NULL;
    in->have = 0;
    in->state = SMOE_INBOX_IN_HEADER;
}

/* Between frames the raw header is the last one's, or zeroes. The next is often the same, byte for byte, and
 * then known to be right. */
static bool is_last_header(const struct smoe_inbox *in, const uint8_t *data, size_t n)
{
    return n == SMOE_FRAME_HEADER_BYTES && memcmp(in->raw_header, data, n) == 0;
}

static int feed_header(struct smoe_inbox *in, const uint8_t *data, size_t n, size_t *ret_used,
                       enum smoe_inbox_event *ret_event, struct smoe_why *why)
{
    size_t take = smaller(n, SMOE_FRAME_HEADER_BYTES - in->have);
    bool known = is_last_header(in, data, take);
    memcpy(in->raw_header + in->have, data, take);
    in->have += take;
    *ret_used = take;
    if (in->have < SMOE_FRAME_HEADER_BYTES)
        return 0;
    int rc = known ? 0 : smoe_frame_decode(in->raw_header, &in->header, why);
    if (rc)
        return rc;
    in->state = SMOE_INBOX_IN_BODY;
    in->have = 0;
    *ret_event = SMOE_INBOX_HEADER;
    return 0;
}

/* The body is read in place where it lies whole in `data` and nothing must outlive this call. */
static int feed_body(struct smoe_inbox *in, const uint8_t *data, size_t n, size_t *ret_used,
                     enum smoe_inbox_event *ret_event, struct smoe_why *why)
{
    size_t take = smaller(n, in->header.body_bytes - in->have);
    bool in_place = in->have == 0 && take == in->header.body_bytes && !in->header.tensor_bytes;
    if (in_place) {
        in->body = data;
    } else {
        if (!in->kept_body && !(in->kept_body = malloc(in->header.body_bytes + (size_t)1)))
            return smoe_fail(why, SMOE_ENOMEMORY, "no memory for a message of %u bytes",
                             in->header.body_bytes);
        memcpy(in->kept_body + in->have, data, take);
        in->body = in->kept_body;
    }
    in->have += take;
    *ret_used = take;
    if (in->have < in->header.body_bytes)
        return 0;
    in->state = in->header.tensor_bytes ? SMOE_INBOX_IN_TENSOR : SMOE_INBOX_IN_HEADER;
    in->have = 0;
    *ret_event = SMOE_INBOX_BODY;
    return 0;
}

static void feed_tensor(struct smoe_inbox *in, const uint8_t *data, size_t n, size_t *ret_used,
                        enum smoe_inbox_event *ret_event)
{
    smoe_assert(in->blob); /* the caller must have answered BODY */
    size_t take = smaller(n, in->header.tensor_bytes - in->have);
    uint8_t *to = in->blob->data + in->have;
    if (to != data) /* not read straight into place */
        memcpy(to, data, take);
    in->have += take;
    *ret_used = take;
    if (in->have == in->header.tensor_bytes)
        *ret_event = SMOE_INBOX_TENSOR;
}

static void feed_nowhere(struct smoe_inbox *in, size_t n, size_t *ret_used)
{
    size_t take = smaller(n, in->header.tensor_bytes - in->have);
    in->have += take;
    *ret_used = take;
    if (in->have == in->header.tensor_bytes)
        next_frame(in);
}

int smoe_inbox_feed(struct smoe_inbox *in, const uint8_t *data, size_t n, size_t *ret_used,
                    enum smoe_inbox_event *ret_event, struct smoe_why *why)
{
    int rc = 0;
    *ret_used = 0;
    *ret_event = SMOE_INBOX_MORE;
    if (in->state == SMOE_INBOX_IN_TENSOR && in->have == in->header.tensor_bytes)
        next_frame(in); /* the last call ended a frame */
    else if (in->state == SMOE_INBOX_IN_HEADER && in->have == 0)
        next_frame(in);
    switch (in->state) {
    case SMOE_INBOX_IN_HEADER:
        rc = feed_header(in, data, n, ret_used, ret_event, why);
        break;
    case SMOE_INBOX_IN_BODY:
        rc = feed_body(in, data, n, ret_used, ret_event, why);
        break;
    case SMOE_INBOX_IN_TENSOR:
        feed_tensor(in, data, n, ret_used, ret_event);
        break;
    case SMOE_INBOX_SKIPPING:
        feed_nowhere(in, n, ret_used);
        break;
    case SMOE_INBOX_DEAD:
        rc = smoe_fail(why, SMOE_EMALFORMED, "stream is closed");
        break;
    }
    if (rc)
        in->state = SMOE_INBOX_DEAD;
    return rc;
}

void smoe_inbox_expect(struct smoe_inbox *in, struct smoe_blob *blob)
{
    smoe_assert(in->state == SMOE_INBOX_IN_TENSOR && !in->blob &&
                blob->bytes == in->header.tensor_bytes);
    in->blob = blob;
}

void smoe_inbox_skip(struct smoe_inbox *in)
{
    smoe_assert(in->state == SMOE_INBOX_IN_TENSOR && !in->blob);
    in->state = SMOE_INBOX_SKIPPING;
}

uint8_t *smoe_inbox_direct(const struct smoe_inbox *in, size_t *ret_room)
{
    if (in->state != SMOE_INBOX_IN_TENSOR || !in->blob || in->have == in->header.tensor_bytes)
        return NULL;
    *ret_room = in->header.tensor_bytes - in->have;
    return in->blob->data + in->have;
}
