/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/assert.h"
#include "common/base/rng.h"
#include "common/io/addr.h"
#include "common/io/clock.h"

#define PATIENCE_S 10

/* ---- the socket ---- */

int smoe_peer_connect(struct smoe_peer *peer, const char *address, struct smoe_why *why)
{
    struct smoe_addr to;
    struct timeval patience = {PATIENCE_S, 0};
    int one = 1;
    *peer = (struct smoe_peer){.fd = -1};
    int rc = smoe_addr_parse(address, &to, why);
    if (rc)
        return rc;
    peer->body = malloc(SMOE_PEER_BODY_MAX);
    peer->fd = socket(to.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!peer->body || peer->fd < 0 || connect(peer->fd, &to.sa, smoe_addr_len(&to))) {
        rc = errno ? -errno : SMOE_ENOMEMORY;
        smoe_peer_release(peer);
        return smoe_fail(why, rc, "connect %s: %s", address, smoe_strerror(rc));
    }
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(peer->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return 0;
}

int smoe_peer_cutter(struct smoe_peer *peer)
{
    *peer = (struct smoe_peer){.fd = -1, .body = malloc(SMOE_PEER_BODY_MAX)};
    return peer->body ? 0 : SMOE_ENOMEMORY;
}

void smoe_peer_release(struct smoe_peer *peer)
{
    if (peer->fd >= 0)
        close(peer->fd);
    free(peer->body);
    *peer = (struct smoe_peer){.fd = -1};
}

void smoe_peer_unblock(struct smoe_peer *peer)
{
    fcntl(peer->fd, F_SETFL, fcntl(peer->fd, F_GETFL) | O_NONBLOCK);
}

/* ---- frames ---- */

/* Takes bytes into the part of the frame that ends at `end`; how many. */
static size_t take(struct smoe_peer *peer, const uint8_t *data, size_t n, size_t end, uint8_t *to)
{
    size_t piece = end - peer->have < n ? end - peer->have : n;
    if (to)
        memcpy(to, data, piece);
    peer->have += piece;
    return piece;
}

static bool begin_frame(struct smoe_peer *peer)
{
    struct smoe_why why;
    if (smoe_frame_decode(peer->header, &peer->frame, &why) ||
        peer->frame.body_bytes > SMOE_PEER_BODY_MAX)
        return false;
    peer->frame_bytes = sizeof peer->header + peer->frame.body_bytes + peer->frame.tensor_bytes;
    return true;
}

bool smoe_peer_feed(struct smoe_peer *peer, const uint8_t *data, size_t n, smoe_peer_fn on_frame,
                    void *context)
{
    const size_t head = sizeof peer->header;
    while (n) {
        size_t used;
        if (peer->have < head) {
            used = take(peer, data, n, head, peer->header + peer->have);
            if (peer->have == head && !begin_frame(peer))
                return false;
        } else if (peer->have < head + peer->frame.body_bytes) {
            used = take(peer, data, n, head + peer->frame.body_bytes,
                        peer->body + (peer->have - head));
        } else {
            used = take(peer, data, n, peer->frame_bytes, NULL);
        }
        data += used;
        n -= used;
        if (peer->have >= head && peer->have == peer->frame_bytes) {
            peer->have = peer->frame_bytes = 0;
            on_frame(context, peer, &peer->frame, peer->body);
        }
    }
    return true;
}

size_t smoe_peer_encode(struct smoe_wire *wire, const struct smoe_message *message,
                        size_t raw_bytes, uint8_t *ret, size_t size)
{
    const uint8_t *body;
    size_t bytes;
    smoe_assert(smoe_wire_encode(wire, message, &body, &bytes) == 0);
    smoe_assert(SMOE_FRAME_HEADER_BYTES + bytes <= size);
    struct smoe_frame_header header = {(uint16_t)message->type, (uint32_t)bytes,
                                       (uint32_t)raw_bytes};
    smoe_frame_encode(&header, ret);
    memcpy(ret + SMOE_FRAME_HEADER_BYTES, body, bytes);
    return SMOE_FRAME_HEADER_BYTES + bytes;
}

/* ---- blocking ---- */

int smoe_peer_send(struct smoe_peer *peer, struct smoe_wire *wire,
                   const struct smoe_message *message, struct smoe_why *why)
{
    uint8_t bytes[SMOE_PEER_BODY_MAX + SMOE_FRAME_HEADER_BYTES];
    size_t n = smoe_peer_encode(wire, message, 0, bytes, sizeof bytes);
    ssize_t sent = send(peer->fd, bytes, n, MSG_NOSIGNAL);
    return sent == (ssize_t)n ? 0 : smoe_fail(why, SMOE_ECLOSED, "gateway: does not take messages");
}

static void note_frame(void *context, struct smoe_peer *peer, const struct smoe_frame_header *frame,
                       const uint8_t *body)
{
    bool *complete = context;
    (void)peer, (void)frame, (void)body;
    *complete = true;
}

/* One frame, byte for byte what belongs to it, so that what follows stays in the socket. */
static bool read_frame(struct smoe_peer *peer)
{
    uint8_t bytes[SMOE_PEER_BODY_MAX];
    bool complete = false;
    while (!complete) {
        size_t end = peer->have < sizeof peer->header ? sizeof peer->header : peer->frame_bytes;
        size_t want = end - peer->have < sizeof bytes ? end - peer->have : sizeof bytes;
        ssize_t n = recv(peer->fd, bytes, want, 0);
        if (n <= 0 || !smoe_peer_feed(peer, bytes, (size_t)n, note_frame, &complete))
            return false;
    }
    return true;
}

int smoe_peer_await(struct smoe_peer *peer, struct smoe_wire *wire, enum smoe_message_type type,
                    struct smoe_message *ret, struct smoe_why *why)
{
    for (;;) {
        if (!read_frame(peer))
            return smoe_fail(why, SMOE_ECLOSED, "gateway: no %s came",
                             smoe_message_name((uint16_t)type));
        if (peer->frame.type != type && peer->frame.type != SMOE_MSG_ERROR)
            continue;
        int rc =
            smoe_wire_decode(wire, peer->frame.type, peer->body, peer->frame.body_bytes, ret, why);
        if (rc == 0 && ret->type == SMOE_MSG_ERROR && type != SMOE_MSG_ERROR)
            rc = smoe_fail(why, ret->error.code, "gateway: %.200s", ret->error.message);
        return rc;
    }
}

void smoe_peer_introduce(enum smoe_role role, const char *name, struct smoe_message *ret)
{
    *ret = (struct smoe_message){.type = SMOE_MSG_HELLO};
    ret->hello = (struct smoe_msg_hello){
        .protocol_min = SMOE_PROTOCOL_MIN,
        .protocol_max = SMOE_PROTOCOL_MAX,
        .role = role,
        .incarnation = smoe_mix64(smoe_clock_monotonic_ns()) | 1,
        .software = "stablemoe-bench",
        .freq_max_hz = 2e9,
        .inbox_bytes_max = 1u << 30,
        .lanes = 1,
        .freq_driver = "none",
    };
    snprintf(ret->hello.name, sizeof ret->hello.name, "%s", name);
}

int smoe_peer_hello(struct smoe_peer *peer, struct smoe_wire *wire, enum smoe_role role,
                    const char *name, struct smoe_why *why)
{
    struct smoe_message m;
    smoe_peer_introduce(role, name, &m);
    int rc = smoe_peer_send(peer, wire, &m, why);
    if (rc == 0)
        rc = smoe_peer_await(peer, wire, SMOE_MSG_WELCOME, &m, why);
    peer->attempt = m.welcome.attempt;
    if (rc || role == SMOE_ROLE_TRAINER)
        return rc;
    m = (struct smoe_message){.type = SMOE_MSG_INVENTORY};
    rc = smoe_peer_send(peer, wire, &m, why);
    m = (struct smoe_message){.type = SMOE_MSG_PING};
    rc = rc ? rc : smoe_peer_send(peer, wire, &m, why);
    return rc ? rc : smoe_peer_await(peer, wire, SMOE_MSG_PONG, &m, why);
}
