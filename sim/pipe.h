/* SPDX-License-Identifier: Apache-2.0
 *
 * One direction of a TCP connection: bytes arrive whole, in order, later, and in other portions than
 * they were written; until the connection is reset, and then what is on its way is lost.
 *
 *     writer --write--> [ on the line: segments with an arrival time | arrived, not read ] --> reader
 *                       '---------------- at most profile.buffer_bytes -----------------'
 *
 * The bound is that of both sockets' buffers together: a reader that stops reading makes the writer's
 * writes fall short, and so its own outbox grow.
 */
#ifndef SMOE_SIM_PIPE_H
#define SMOE_SIM_PIPE_H

#include <sys/uio.h>

#include "common/base/rng.h"
#include "sim/events.h"

/* A way through the network. */
struct smoe_sim_profile {
    uint64_t latency_ns;      /* one way */
    uint64_t jitter_ns;       /* uniform, on top of it, per segment; order is kept */
    uint64_t bytes_per_s;     /* 0: no limit */
    uint32_t chunk_bytes_max; /* segments are 1 .. this many bytes; 0: each write is one segment */
    uint32_t buffer_bytes;    /* > 0 */
};

enum smoe_sim_pipe_end {
    SMOE_SIM_PIPE_OPEN,
    SMOE_SIM_PIPE_FIN, /* in order, behind the bytes */
    SMOE_SIM_PIPE_RST, /* what arrives after it is lost, what is unread too */
};

struct smoe_sim_segment {
    uint64_t arrives_ns;
    size_t bytes;
};

struct smoe_sim_pipe {
    struct smoe_sim_clock *clock;
    struct smoe_rng *rng; /* borrowed, as the clock */
    struct smoe_sim_profile profile;
    uint8_t *ring; /* [profile.buffer_bytes], owned; NULL until the first write */
    size_t first, used;
    size_t arrived;                    /* of `used`: the reader may have them */
    struct smoe_sim_segment *segments; /* ring, owned: of the bytes that have not arrived */
    size_t first_segment, n_segments, segments_cap;
    uint64_t line_free_ns, last_arrival_ns;
    enum smoe_sim_pipe_end end;
    uint64_t end_ns;           /* when the reader learns of it */
    uint32_t lost_in;          /* one in so many segments is lost and comes again; 0: none */
    uint64_t lost;             /* so many were */
    bool held;                 /* the way is cut: nothing arrives until it is whole again */
    struct smoe_sim_event due; /* `fire` is the owner's */
};

/* The first byte cannot arrive before `opens_ns`. */
void smoe_sim_pipe_init(struct smoe_sim_pipe *pipe, struct smoe_sim_clock *clock,
                        struct smoe_rng *rng, const struct smoe_sim_profile *profile,
                        uint64_t opens_ns, void (*due)(struct smoe_sim_event *event));
void smoe_sim_pipe_release(struct smoe_sim_pipe *pipe);

/* Takes as much as there is room for, and returns how much that was. */
size_t smoe_sim_pipe_write(struct smoe_sim_pipe *pipe, const struct iovec *iovecs, size_t n);
/* The writer closes (FIN) or its system throws the connection away (RST). */
void smoe_sim_pipe_end(struct smoe_sim_pipe *pipe, enum smoe_sim_pipe_end end);

/* `due` fired: books what has arrived. OPEN: there may be bytes to read; otherwise the connection has
 * ended for the reader, and with RST nothing is left to read. */
enum smoe_sim_pipe_end smoe_sim_pipe_arrive(struct smoe_sim_pipe *pipe);

/* Arrived bytes that lie together; 0 if there are none. */
size_t smoe_sim_pipe_peek(const struct smoe_sim_pipe *pipe, const uint8_t **ret_bytes);
void smoe_sim_pipe_read(struct smoe_sim_pipe *pipe, size_t bytes);

/* The way is cut, or whole again: then what was held up arrives one latency later. */
void smoe_sim_pipe_hold(struct smoe_sim_pipe *pipe, bool held);

/* Everything in it is lost; nothing more comes out. */
void smoe_sim_pipe_drop(struct smoe_sim_pipe *pipe);

#endif
