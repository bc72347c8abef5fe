/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker or trainer reduced to its socket: it says hello, hosts what it is told to, and reads and
 * writes frames with as little work as possible, so that a load of thousands of them measures the other
 * side. Raw parts that come in are read past. Not a model of how to write a worker (docs/protocol.md is).
 */
#ifndef SMOE_BENCH_PEER_H
#define SMOE_BENCH_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "proto/frame.h"
#include "proto/wire.h"

#define SMOE_PEER_BODY_MAX 4096

struct smoe_peer {
    int fd;
    size_t have;        /* bytes of the present frame so far */
    size_t frame_bytes; /* of the present frame, once its header is there */
    struct smoe_frame_header frame;
    uint8_t header[SMOE_FRAME_HEADER_BYTES];
    uint8_t *body;    /* [SMOE_PEER_BODY_MAX], owned */
    uint64_t attempt; /* that Welcome told */
};

/* Called for each complete frame; `body` is its protobuf part. */
typedef void (*smoe_peer_fn)(void *context, struct smoe_peer *peer,
                             const struct smoe_frame_header *frame, const uint8_t *body);

/* Connects (blocking) to "HOST:PORT" with a numeric host. */
int smoe_peer_connect(struct smoe_peer *peer, const char *address, struct smoe_why *why);
void smoe_peer_release(struct smoe_peer *peer);

/* One without a socket, that only cuts into frames what it is fed; 0 or SMOE_ENOMEMORY. */
int smoe_peer_cutter(struct smoe_peer *peer);

/* From blocking to not: for epoll. */
void smoe_peer_unblock(struct smoe_peer *peer);

/* Cuts n bytes that were read into frames. False if they are no frames. */
bool smoe_peer_feed(struct smoe_peer *peer, const uint8_t *data, size_t n, smoe_peer_fn on_frame,
                    void *context);

/* Encodes header and message, with a raw part of `raw_bytes` to follow, into ret [size]; the bytes
 * written. */
size_t smoe_peer_encode(struct smoe_wire *wire, const struct smoe_message *message,
                        size_t raw_bytes, uint8_t *ret, size_t size);

/* ---- blocking, for the beginning ---- */

/* Sends a message without raw part. */
int smoe_peer_send(struct smoe_peer *peer, struct smoe_wire *wire,
                   const struct smoe_message *message, struct smoe_why *why);

/* Waits for a message of this type, ignoring others but errors. */
int smoe_peer_await(struct smoe_peer *peer, struct smoe_wire *wire, enum smoe_message_type type,
                    struct smoe_message *ret, struct smoe_why *why);

/* The Hello of such a peer. */
void smoe_peer_introduce(enum smoe_role role, const char *name, struct smoe_message *ret);

/* Hello and, for a worker, its empty inventory, which the gateway has heard of at the end: what another
 * connection says then comes after it. */
int smoe_peer_hello(struct smoe_peer *peer, struct smoe_wire *wire, enum smoe_role role,
                    const char *name, struct smoe_why *why);

#endif
