/* SPDX-License-Identifier: Apache-2.0
 *
 * Two ends of TLS in memory: what one offers is handed to the other, in pieces of any size, as two
 * connections would do it.
 */
#ifndef SMOE_TEST_TLS_PAIR_H
#define SMOE_TEST_TLS_PAIR_H

#include "common/io/tls.h"

/* An owner of plaintext: it offers [out_begin, out_end) of `out` in two pieces, and takes in everything. */
struct tls_end {
    struct smoe_tls tls;
    struct smoe_conn_owner wire; /* its ciphertext side */
    const uint8_t *out;
    size_t out_begin, out_end, first_piece;
    uint8_t *in; /* owned, [cap] */
    size_t n_in, cap;
    size_t direct_from, direct_to,
        n_direct;                     /* bytes of `in` that are to be read into place, and were */
    struct smoe_key who;              /* of the last `established`, */
    unsigned n_established, n_closed; /* and how often */
};

/* `in_bytes`: how much it can take in. */
int tls_end_init(struct tls_end *end, struct smoe_tls_context *context, size_t in_bytes);
void tls_end_release(struct tls_end *end);

void tls_end_established(void *context, const struct smoe_key *peer);

/* Hands bytes to an end, `piece` at a time; 0: all at once. */
void tls_feed(struct tls_end *end, const uint8_t *data, size_t n, size_t piece);
/* Moves what `from` offers now to `to`, or away if that is NULL; how many bytes. */
size_t tls_move(struct tls_end *from, struct tls_end *to, size_t piece);
/* Moves until neither has more to say. */
void tls_pump(struct tls_end *a, struct tls_end *b, size_t piece);

#endif
