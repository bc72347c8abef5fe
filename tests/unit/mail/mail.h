/* SPDX-License-Identifier: Apache-2.0
 *
 * What was said, kept for a test to look at: messages with copies of the arrays they point to and
 * of their raw parts, in the order in which they came. And the far end of a machine's connection:
 * turns messages into bytes for it, and its bytes into mail.
 */
#ifndef SMOE_TEST_MAIL_H
#define SMOE_TEST_MAIL_H

#include "proto/channel.h"

struct letter {
    uint32_t session; /* who it is for */
    struct smoe_message m;
    uint8_t *raw; /* [raw_bytes], or NULL */
    size_t raw_bytes;
};

struct mail {
    struct letter *letters;
    size_t n, capacity;
    void **owned; /* arrays that letters point to */
    size_t n_owned, owned_capacity;
};

void mail_add(struct mail *mail, uint32_t session, const struct smoe_message *m, const void *raw,
              size_t raw_bytes);
/* Forgets everything, and is what a test ends with. */
void mail_clear(struct mail *mail);

/* Letters of a type to a session (ANYONE: to all); the last of them, or NULL. */
#define ANYONE UINT32_MAX
size_t mail_count(const struct mail *mail, uint32_t session, enum smoe_message_type type);
const struct letter *mail_last(const struct mail *mail, uint32_t session,
                               enum smoe_message_type type);

/* ---- the far end ---- */

struct far_end {
    struct smoe_wire *wire;
    struct smoe_budget budget;
    struct smoe_channel ear;
    struct mail mail; /* letters have session 0 */
    uint8_t *out;     /* what far_end_say made, for the caller to deliver */
    size_t n_out;
};

/* `hears`: the SMOE_x bits of what the machine under test may say. */
void far_end_open(struct far_end *far, unsigned hears);
void far_end_close(struct far_end *far);

/* The frame of a message, in far->out until the next call. */
void far_end_say(struct far_end *far, const struct smoe_message *m, const void *raw,
                 size_t raw_bytes);
/* What the machine wrote: aborts the test if that is not a sequence of valid frames. */
void far_end_hear(struct far_end *far, const uint8_t *data, size_t n);

#endif
