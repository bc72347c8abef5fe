/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS 1.3 between a connection and its owner. A connection (conn.h) knows an owner that takes bytes in and gives
 * bytes out; smoe_tls_wrap makes such an owner of another one, so that whatever moves the bytes, epoll or
 * io_uring, moves ciphertext, and neither end of the seam knows:
 *
 *     socket <-> conn <-> tls <-> gateway, agent or uplink
 *
 * Who the other side is, is known from its key: a pre-shared one of 32 bytes (key.h), with an ephemeral
 * Diffie-Hellman exchange. Or from its certificate, if certificates have been chosen (certificate.h): then both
 * sides have one, and there are no keys. There are no tickets, no early data, no renegotiation, no
 * version but 1.3 and no protocol but `stablemoe/1`, for administrators `stablemoe-admin/1` and between workers
 * `stablemoe-link/1`: which of them is the role's, so that none is ever taken for another. No clock is asked.
 *
 * Nothing is buffered beyond what the kernel has been offered and one record that is half there. To
 * somebody who speaks no TLS nothing is answered.
 */
#ifndef SMOE_IO_TLS_H
#define SMOE_IO_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/list.h"
#include "common/io/certificate.h"
#include "common/io/conn.h"
#include "common/io/keyring.h"

#define SMOE_TLS_PROTOCOL       "stablemoe/1"
#define SMOE_TLS_ADMIN_PROTOCOL "stablemoe-admin/1"
#define SMOE_TLS_LINK_PROTOCOL  "stablemoe-link/1"
/* Bytes that a peer may send before its handshake is done; a real one sends less than 1 KiB. */
#define SMOE_TLS_HANDSHAKE_BYTES_MAX 16384
#define SMOE_TLS_HELLO_BYTES_MAX     4096 /* of these, in its ClientHello */
#define SMOE_TLS_HEAD_BYTES          9    /* of a record and the message in it */
/* Records under one key; AES-GCM is good for 2^24.5 (RFC 8446, 5.5). */
#define SMOE_TLS_RECORDS_MAX (UINT64_C(1) << 23)

/* What the connections of one program and one thread have in common. */
struct smoe_tls_context;

struct smoe_tls_options {
    /* A gateway's keys; borrowed, and may change their contents between two calls. NULL: a client, */
    const struct smoe_keyring *keys;
    const struct smoe_key *key; /* with this key, which is copied */
    /* NULL: keys. Else `keys` is empty, or `key` says who this is. What is in it is taken a share in. */
    const struct smoe_certificate *certificate;
    /* The handshake is done and the peer is who its key says. Gets the owner's context; may be NULL. */
    void (*established)(void *context, const struct smoe_key *peer);
    uint64_t records_max;     /* for tests; 0: SMOE_TLS_RECORDS_MAX */
    uint64_t (*now_ns)(void); /* for tests; NULL: smoe_clock_monotonic_ns */
    /* A gateway's: steps of handshakes in one turn of its event loop, at most; 0: any number. */
    unsigned shakes_a_turn;
    void (*shaking)(void *loop); /* a turn has one in it: say smoe_tls_context_turn in the next */
    void *loop;                  /* for that; borrowed */
};

int smoe_tls_context_new(const struct smoe_tls_options *options, struct smoe_tls_context **ret,
                         struct smoe_why *why);
/* A node, and the file with its key or certificate. */
struct smoe_tls_node {
    const char *option; /* that named the file, for error messages */
    const char *path;
    enum smoe_role role; /* that the file must be for */
    const char *name;    /* and whom, unless it is NULL or "" */
};

/* A node's context. `ret_name` is whom the file is for, also after errors of what is in it. SMOE_ECONFIG: it is for
 * somebody else; else the errors of smoe_credential_read, or no memory. */
int smoe_tls_context_of(const struct smoe_tls_node *node, struct smoe_tls_context **ret,
                        smoe_name ret_name, struct smoe_why *why);

/* Frees it, after all its connections are closed. NULL is fine. */
void smoe_tls_context_free(struct smoe_tls_context *context);

/* In a turn of the loop after one with `shaking`: makes the steps that waited, as many as one turn may have.
 * False: there were none, and this need not be said again until `shaking` is. */
bool smoe_tls_context_turn(struct smoe_tls_context *context);

/* A gateway's other certificate, with others to trust; open connections stay. SMOE_ENOMEMORY changes nothing. */
int smoe_tls_context_renew(struct smoe_tls_context *context,
                           const struct smoe_certificate *certificate);

/* One connection, in its owner's memory; private, but for reading. */
struct smoe_tls {
    struct smoe_tls_context *context;             /* borrowed */
    struct smoe_conn *conn;                       /* borrowed; NULL in tests that have none */
    struct smoe_conn_owner owner;                 /* of the plaintext */
    void (*connected)(void *context, int status); /* the owner's, set by it after wrapping */
    const struct smoe_key *key; /* a client's, borrowed, set likewise; NULL: the context's */
    struct ssl_st *ssl;         /* owned until it is closed */
    const uint8_t *in;          /* ciphertext in hand, [n_in], while it is being received */
    size_t n_in;
    uint8_t *out; /* owned; ciphertext that waits for the kernel, [out_begin, out_end) of cap_out */
    size_t out_begin, out_end, cap_out;
    struct smoe_list keeper; /* linked iff `keeps`: OpenSSL's buffers stay, for it hears much. */
    bool keeps;
    unsigned heard_soon;   /* messages, each soon after another */
    uint64_t heard_ns;     /* when it last heard something; 0: never */
    struct smoe_list turn; /* linked: its handshake waits for another turn of the loop, with */
    uint8_t *held;         /* owned; the ciphertext that it is to go on with, [n_held] */
    size_t n_held;
    uint64_t received;                 /* bytes, before the handshake was done, */
    uint8_t head[SMOE_TLS_HEAD_BYTES]; /* of which these were the first */
    uint64_t records;                  /* written under the present key */
    enum { SMOE_TLS_SHAKING, SMOE_TLS_OPEN, SMOE_TLS_OVER } state;
    bool understood;     /* it speaks TLS: it may be told what is wrong */
    struct smoe_key who; /* SHAKING: the key that it says it has. Without the secret */
    struct smoe_why why; /* OVER: the reason, "" if the peer said goodbye */
};

/* Makes the owner that `conn` is to be begun with, of the owner of the plaintext. `closed` is called there as
 * ever, and may read `why`; `peek` there is asked for bytes as they fit into records. */
int smoe_tls_wrap(struct smoe_tls *tls, struct smoe_tls_context *context, struct smoe_conn *conn,
                  const struct smoe_conn_owner *owner, struct smoe_conn_owner *ret);

/* Whether the gateway would let the other side of an open connection in again, as its keys or certificates are now. */
bool smoe_tls_is_welcome(const struct smoe_tls *tls);

/* For smoe_conn_connect, where the owner is one that was wrapped: calls `connected`. */
void smoe_tls_connected(void *tls, int status);

/* For one whose connection was never begun; `closed` does it otherwise. */
void smoe_tls_release(struct smoe_tls *tls);

#endif
