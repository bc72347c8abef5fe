/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tls/tls_pair.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

static uint8_t *direct(void *context, size_t *ret_room)
{
    struct tls_end *end = context;
    if (end->n_in < end->direct_from || end->n_in >= end->direct_to)
        return NULL;
    *ret_room = end->direct_to - end->n_in;
    return end->in + end->n_in;
}

static void received(void *context, const uint8_t *data, size_t n)
{
    struct tls_end *end = context;
    smoe_assert(n > 0 && n <= end->cap - end->n_in);
    if (data == end->in + end->n_in)
        end->n_direct += n;
    else
        memcpy(end->in + end->n_in, data, n);
    end->n_in += n;
}

static size_t peek(void *context, struct iovec *iovecs, size_t max)
{
    struct tls_end *end = context;
    size_t left = end->out_end - end->out_begin, first = end->first_piece;
    union {
        const uint8_t *from;
        uint8_t *to;
    } out = {.from = end->out + end->out_begin};
    if (!left)
        return 0;
    iovecs[0] = (struct iovec){out.to, first && first < left ? first : left};
    if (max == 1 || iovecs[0].iov_len == left)
        return 1;
    iovecs[1] = (struct iovec){out.to + first, left - first};
    return 2;
}

static void consume(void *context, size_t bytes)
{
    struct tls_end *end = context;
    smoe_assert(bytes <= end->out_end - end->out_begin);
    end->out_begin += bytes;
}

static void closed(void *context, int status)
{
    (void)status;
    ((struct tls_end *)context)->n_closed++;
}

void tls_end_established(void *context, const struct smoe_key *peer)
{
    struct tls_end *end = context;
    end->who = *peer;
    end->n_established++;
}

int tls_end_init(struct tls_end *end, struct smoe_tls_context *context, size_t in_bytes)
{
    const struct smoe_conn_owner owner = {.context = end,
                                          .direct = direct,
                                          .received = received,
                                          .peek = peek,
                                          .consume = consume,
                                          .closed = closed};
    *end = (struct tls_end){.in = malloc(in_bytes), .cap = in_bytes};
    int rc = smoe_tls_wrap(&end->tls, context, NULL, &owner, &end->wire);
    if (rc) {
        free(end->in);
        end->in = NULL;
    }
    return rc;
}

void tls_end_release(struct tls_end *end)
{
    if (!end->in)
        return;
    end->wire.closed(end->wire.context, 0);
    smoe_assert(end->n_closed == 1);
    free(end->in);
    end->in = NULL;
}

void tls_feed(struct tls_end *end, const uint8_t *data, size_t n, size_t piece)
{
    for (size_t at = 0, some; at < n; at += some) {
        some = piece && piece < n - at ? piece : n - at;
        end->wire.received(end->wire.context, data + at, some);
    }
}

size_t tls_move(struct tls_end *from, struct tls_end *to, size_t piece)
{
    struct iovec iovec;
    if (!from->wire.peek(from->wire.context, &iovec, 1))
        return 0;
    size_t n = iovec.iov_len;
    uint8_t *bytes = malloc(n);
    memcpy(bytes, iovec.iov_base, n);
    from->wire.consume(from->wire.context, n);
    if (to)
        tls_feed(to, bytes, n, piece);
    free(bytes);
    return n;
}

void tls_pump(struct tls_end *a, struct tls_end *b, size_t piece)
{
    while (tls_move(a, b, piece) + tls_move(b, a, piece) > 0)
        ;
}
