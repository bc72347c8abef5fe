/* SPDX-License-Identifier: Apache-2.0
 *
 *     SHAKING --done--> OPEN --goodbye, or something wrong--> OVER
 *         \_______________something wrong_____________________^
 *
 * OpenSSL moves its bytes through a BIO of ours. What it reads is the ciphertext that the connection has just
 * received, where that lies; it takes all of it, and keeps what is left of a record by itself. What it
 * writes is appended to `out`, which the connection offers to the kernel and which is filled again, by up to
 * SMOE_TLS_OUT_BYTES, only when the kernel has taken it: so a peer that does not read is still the
 * owner's business, whose queue is bounded. Plaintext is decrypted straight into its place where the
 * owner names one, and encrypted from where it lies; only pieces smaller than a record are gathered first.
 *
 * An idle session keeps no buffers (tls_buffers.c).
 *
 * The end of the stream needs no goodbye of TLS (close_notify): the protocol's frames have lengths and its
 * sessions end with Bye, so a stream that was cut off is a loss like any other.
 *
 * What can fail. A wrong record, a wrong key, no memory: OVER. What is left in `out` is an alert; it is sent to
 * somebody who has shown a ClientHello that OpenSSL could read, and thrown away otherwise. Where encrypting
 * fails the socket is shut down, so that its end comes by reading: a connection cannot be closed from
 * within `peek`.
 */
#include "common/io/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/assert.h"
#include "common/io/tls_internal.h"

#define IOVECS_MAX 64

/* ---- bytes: the BIO ---- */

static int bio_read(BIO *bio, char *to, size_t room, size_t *ret)
{
    struct smoe_tls *tls = BIO_get_data(bio);
    size_t n = tls->n_in < room ? tls->n_in : room;
    BIO_clear_retry_flags(bio);
    if (!n) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(to, tls->in, n);
    tls->in += n;
    tls->n_in -= n;
    *ret = n;
    return 1;
}

static int bio_write(BIO *bio, const char *from, size_t n, size_t *ret)
{
    struct smoe_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    /* More than we ever gather: answers that the peer makes OpenSSL give, and does not read. */
    if (tls->out_end + n > 2 * SMOE_TLS_OUT_CAP)
        return 0;
    if (!smoe_tls_make_room(tls, n))
        return 0;
    memcpy(tls->out + tls->out_end, from, n);
    tls->out_end += n;
    tls->records++;
    *ret = n;
    return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static int bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

BIO_METHOD *smoe_tls_bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "stablemoe");
    if (!m)
        return NULL;
    BIO_meth_set_read_ex(m, bio_read);
    BIO_meth_set_write_ex(m, bio_write);
    BIO_meth_set_ctrl(m, bio_ctrl);
    BIO_meth_set_create(m, bio_create);
    return m;
}

/* ---- the end ---- */

static bool over(struct smoe_tls *tls)
{
    return tls->state == SMOE_TLS_OVER || (tls->conn && tls->conn->closing);
}

void smoe_tls_end(struct smoe_tls *tls)
{
    if (!tls->understood)
        tls->out_begin = tls->out_end = 0;
    tls->state = SMOE_TLS_OVER;
}

void smoe_tls_end_because(struct smoe_tls *tls, const char *sentence)
{
    smoe_fail(&tls->why, 0, "TLS: %s", sentence);
    smoe_tls_end(tls);
}

void smoe_tls_fail(struct smoe_tls *tls)
{
    if (!*tls->why.text)
        smoe_tls_say_why(tls);
    ERR_clear_error();
    smoe_tls_end(tls);
}

/* ---- reading ---- */

/* False when there is nothing more to be read now. */
static bool read_record(struct smoe_tls *tls)
{
    size_t room = 0, n = 0;
    uint8_t *to = tls->owner.direct(tls->owner.context, &room);
    if (!to) {
        to = tls->context->scratch;
        room = sizeof tls->context->scratch;
    }
    if (SSL_read_ex(tls->ssl, to, room, &n) == 1) {
        tls->owner.received(tls->owner.context, to, n);
        return true;
    }
    /* Asked first, so that what somebody else left in OpenSSL's queue does not end it: emptying that before each
     * record, mostly in vain, costs as much as a tenth of a small one. */
    if (SSL_want_read(tls->ssl))
        return false;
    if (SSL_get_error(tls->ssl, 0) == SSL_ERROR_ZERO_RETURN)
        smoe_tls_end(tls);
    else
        smoe_tls_fail(tls);
    return false;
}

void smoe_tls_take(struct smoe_tls *tls, const uint8_t *data, size_t n)
{
    tls->in = data;
    tls->n_in = n;
    if (tls->state == SMOE_TLS_SHAKING)
        smoe_tls_shake(tls);
    else if (tls->state == SMOE_TLS_OPEN)
        smoe_tls_keep_buffers(tls);
    /* asked only where there may be something, for asking in vain costs OpenSSL a buffer */
    while (tls->state == SMOE_TLS_OPEN && !over(tls) && (tls->n_in || SSL_has_pending(tls->ssl)) &&
           read_record(tls))
        ;
    tls->in = NULL;
    tls->n_in = 0;
    if (!tls->conn)
        return;
    if (tls->state == SMOE_TLS_OVER)
        smoe_conn_close_flushed(tls->conn);
    else
        smoe_conn_flush(tls->conn);
}

static void tls_received(void *context, const uint8_t *data, size_t n)
{
    struct smoe_tls *tls = context;
    if (tls->state == SMOE_TLS_SHAKING &&
        (!smoe_tls_is_server(tls) || smoe_tls_begins_well(tls, data, n))) {
        tls->received += n;
        if (smoe_tls_waits(tls, data, n))
            return;
    }
    smoe_tls_take(tls, data, n);
}

/* Ciphertext has no place of its own. */
static uint8_t *tls_direct(void *context, size_t *ret_room)
{
    (void)context, (void)ret_room;
    return NULL;
}

/* ---- writing ---- */

/* The beginning of what the owner offers as one piece: as it lies, if that is a record or more, else gathered. */
static const uint8_t *gather(struct smoe_tls *tls, const struct iovec *iovecs, size_t n,
                             size_t *ret_bytes)
{
    uint8_t *scratch = tls->context->scratch;
    size_t bytes = 0;
    if (n == 1 || iovecs->iov_len >= SMOE_TLS_RECORD_BYTES) {
        size_t room = SMOE_TLS_OUT_BYTES - tls->out_end;
        room = room > SMOE_TLS_RECORD_BYTES ? room - room % SMOE_TLS_RECORD_BYTES : room;
        *ret_bytes = iovecs->iov_len < room ? iovecs->iov_len : room;
        return iovecs->iov_base;
    }
    for (size_t i = 0; i < n && bytes < SMOE_TLS_RECORD_BYTES; i++) {
        size_t room = SMOE_TLS_RECORD_BYTES - bytes;
        size_t more = iovecs[i].iov_len < room ? iovecs[i].iov_len : room;
        memcpy(scratch + bytes, iovecs[i].iov_base, more);
        bytes += more;
    }
    *ret_bytes = bytes;
    return scratch;
}

/* New keys for what is written, before the old ones have been used too often. */
static void refresh_key(struct smoe_tls *tls)
{
    if (tls->records < tls->context->options.records_max)
        return;
    tls->records = 0;
    (void)SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
}

static bool seal(struct smoe_tls *tls)
{
    struct iovec iovecs[IOVECS_MAX];
    size_t bytes, written = 0;
    size_t n = tls->owner.peek(tls->owner.context, iovecs, IOVECS_MAX);
    if (!n)
        return false;
    const uint8_t *piece = gather(tls, iovecs, n, &bytes);
    refresh_key(tls);
    if (SSL_write_ex(tls->ssl, piece, bytes, &written) != 1) {
        smoe_tls_fail(tls);
        if (tls->conn)
            (void)shutdown(tls->conn->fd, SHUT_RDWR);
        return false;
    }
    tls->owner.consume(tls->owner.context, written);
    return true;
}

static size_t tls_peek(void *context, struct iovec *iovecs, size_t max)
{
    struct smoe_tls *tls = context;
    smoe_assert(max > 0);
    if (tls->out_begin == tls->out_end) {
        if (tls->state == SMOE_TLS_SHAKING && !smoe_tls_is_server(tls))
            smoe_tls_shake(tls); /* its first words; nothing, once they have been said */
        while (tls->state == SMOE_TLS_OPEN && tls->out_end < SMOE_TLS_OUT_BYTES && seal(tls))
            ;
    }
    if (tls->out_begin == tls->out_end)
        return 0;
    *iovecs = (struct iovec){tls->out + tls->out_begin, tls->out_end - tls->out_begin};
    return 1;
}

static void tls_consume(void *context, size_t bytes)
{
    struct smoe_tls *tls = context;
    smoe_assert(bytes <= tls->out_end - tls->out_begin);
    tls->out_begin += bytes;
    if (tls->out_begin < tls->out_end)
        return;
    tls->out_begin = tls->out_end = 0;
    if (tls->cap_out > SMOE_TLS_OUT_KEPT)
        smoe_tls_drop_out(tls);
}

void smoe_tls_connected(void *context, int status)
{
    const struct smoe_tls *tls = context;
    tls->connected(tls->owner.context, status);
}

void smoe_tls_release(struct smoe_tls *tls)
{
    tls->state = SMOE_TLS_OVER;
    smoe_tls_wait_no_more(tls);
    smoe_tls_drop_buffers(tls);
    SSL_free(tls->ssl);
    tls->ssl = NULL;
}

static void tls_closed(void *context, int status)
{
    struct smoe_tls *tls = context;
    smoe_tls_release(tls);
    tls->owner.closed(tls->owner.context, status);
}

/* ---- beginning ---- */

int smoe_tls_wrap(struct smoe_tls *tls, struct smoe_tls_context *context, struct smoe_conn *conn,
                  const struct smoe_conn_owner *owner, struct smoe_conn_owner *ret)
{
    *tls = (struct smoe_tls){.context = context, .conn = conn, .owner = *owner};
    tls->ssl = smoe_tls_new_ssl(tls);
    BIO *bio = tls->ssl ? BIO_new(context->bio) : NULL;
    if (!bio) {
        SSL_free(tls->ssl);
        tls->ssl = NULL;
        return SMOE_ENOMEMORY;
    }
    BIO_set_data(bio, tls);
    SSL_set_bio(tls->ssl, bio, bio);
    *ret = (struct smoe_conn_owner){
        .context = tls,
        .direct = tls_direct,
        .received = tls_received,
        .peek = tls_peek,
        .consume = tls_consume,
        .closed = tls_closed,
        .piecewise = true,
    };
    return 0;
}
