/* SPDX-License-Identifier: Apache-2.0
 *
 * Somebody with one connection of common/io, plain or through TLS, who asks and waits for the answer: what a node does,
 * with the sockets, the TLS and the event loop of a node and nothing else around them.
 */
#ifndef SMOE_BENCH_CALLER_H
#define SMOE_BENCH_CALLER_H

#include "bench/peer.h"
#include "common/io/tls.h"

#define SMOE_CALLER_BYTES_MAX 512 /* of a request */

/* In memory that does not move until it is closed. */
struct smoe_caller {
    struct smoe_conn conn;
    struct smoe_tls tls;
    struct smoe_peer frames; /* cuts what comes in; has no socket */
    uv_loop_t *loop;         /* borrowed */
    uint8_t request[SMOE_CALLER_BYTES_MAX];
    size_t request_bytes, sent; /* of it */
    size_t answer_bytes;        /* an answer is so many bytes; 0: a frame of type `awaited` */
    size_t have;                /* of these */
    enum smoe_message_type awaited;
    uint64_t until_ns, ended_ns; /* of the present turn: asks again until then */
    uint64_t answers;
    bool begun, connected, gone;
};

/* Connects to "HOST:PORT", through TLS unless `tls` is NULL, and waits until that is done as far as a client can see.
 * `scratch` [SMOE_CONN_SCRATCH_BYTES] is shared by all of a loop. */
int smoe_caller_connect(struct smoe_caller *c, uv_loop_t *loop, const char *address,
                        struct smoe_tls_context *tls, uint8_t *scratch, struct smoe_why *why);

/* Joins a gateway; for a worker as smoe_peer_hello. From now on it asks by Ping. */
int smoe_caller_hello(struct smoe_caller *c, struct smoe_wire *wire, enum smoe_role role,
                      const char *name, struct smoe_why *why);

/* From now on a request is `bytes` zeros, and so is an answer. */
void smoe_caller_ask_bytes(struct smoe_caller *c, size_t bytes);

/* Asks and is answered, again and again, for about that long; how long one such round trip takes. [us] 0: it broke. */
double smoe_caller_turn(struct smoe_caller *c, uint64_t ms);

/* May be zeroed, or not have got far. */
void smoe_caller_close(struct smoe_caller *c);

#endif
