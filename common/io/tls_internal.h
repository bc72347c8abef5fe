/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of tls.h: bytes (tls.c) and where they lie (tls_buffers.c), who is who (tls_shake.c), and whose turn it is
 * to say so (tls_turn.c).
 */
#ifndef SMOE_IO_TLS_INTERNAL_H
#define SMOE_IO_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "common/io/tls.h"

#define SMOE_TLS_RECORD_BYTES ((size_t)SSL3_RT_MAX_PLAIN_LENGTH)
/* Plaintext that is encrypted ahead of the kernel: so much that whoever reads it is woken seldom. */
#define SMOE_TLS_OUT_BYTES (16 * SMOE_TLS_RECORD_BYTES)
#define SMOE_TLS_OUT_CAP   (SMOE_TLS_OUT_BYTES + 4096) /* of `out`, for these and what records add */
#define SMOE_TLS_OUT_KEPT  ((size_t)2048)              /* of `out`, while it is empty */

struct smoe_tls_context {
    SSL_CTX *ssl;
    BIO_METHOD *bio;
    struct smoe_tls_options options;
    struct smoe_key key;                 /* a client's */
    struct smoe_certificate certificate; /* shared; zeroed: keys */
    char identity[SMOE_KEY_IDENTITY_MAX];
    struct smoe_list waiting; /* of smoe_tls.turn: handshakes, in order of arrival */
    unsigned shakes;          /* steps of handshakes in this turn of the loop */
    struct smoe_list
        keepers; /* of smoe_tls.keeper: who keeps OpenSSL's buffers, longest unheard first */
    unsigned n_keepers;
    uint8_t *spare; /* owned; a buffer for `out` of some connection, or NULL */
    uint8_t scratch[SMOE_TLS_RECORD_BYTES]; /* plaintext on its way, within a call */
};

static inline bool smoe_tls_is_server(const struct smoe_tls *tls)
{
    return tls->context->options.keys != NULL;
}

/* ---- tls.c ---- */

BIO_METHOD *smoe_tls_bio_method(void);

/* What has come in goes to whom it concerns: a handshake whose turn it is, or the owner. */
void smoe_tls_take(struct smoe_tls *tls, const uint8_t *data, size_t n);

/* It is over; an alert stays in `out` for somebody who can read it. */
void smoe_tls_end(struct smoe_tls *tls);
void smoe_tls_end_because(struct smoe_tls *tls, const char *sentence);
/* It is over, because OpenSSL says so. */
void smoe_tls_fail(struct smoe_tls *tls);

/* ---- tls_buffers.c ---- */

/* It has heard something: whether OpenSSL's buffers of it stay. */
void smoe_tls_keep_buffers(struct smoe_tls *tls);
/* It is over: they, and `out`, go. */
void smoe_tls_drop_buffers(struct smoe_tls *tls);

/* Room in `out` for so many more bytes; false: no memory. */
bool smoe_tls_make_room(struct smoe_tls *tls, size_t bytes);
/* Gives `out` up, which is empty, or has been copied. */
void smoe_tls_drop_out(struct smoe_tls *tls);

/* ---- tls_turn.c ---- */

/* Whether a handshake's next step must wait for another turn; then its bytes were kept. False: now, or it is over. */
bool smoe_tls_waits(struct smoe_tls *tls, const uint8_t *data, size_t n);
/* It has no next step. */
void smoe_tls_wait_no_more(struct smoe_tls *tls);

/* ---- tls_shake.c ---- */

/* The state of a new connection's OpenSSL, or NULL: no memory. */
SSL *smoe_tls_new_ssl(struct smoe_tls *tls);
/* Whether what a client begins with can be a ClientHello: asked before OpenSSL is. False: it is over. */
bool smoe_tls_begins_well(struct smoe_tls *tls, const uint8_t *data, size_t n);
/* Goes on with the handshake as far as it goes. */
void smoe_tls_shake(struct smoe_tls *tls);
/* What OpenSSL complains of, as a sentence in `why`. */
void smoe_tls_say_why(struct smoe_tls *tls);

#endif
