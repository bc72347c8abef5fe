/* SPDX-License-Identifier: Apache-2.0
 *
 * The other end of a gateway's session, played from a tape: a worker or a trainer that remembers what
 * it was told, so that it can answer rightly, and answers wrongly when the tape says so. What the
 * gateway tells it must be well-formed and within the limits of Welcome.
 */
#ifndef SMOE_FUZZ_PEER_H
#define SMOE_FUZZ_PEER_H

#include "proto/channel.h"
#include "tests/fuzz/stream.h"

enum { FUZZ_LAYERS = 8, FUZZ_JOBS = 64, FUZZ_BATCHES = 8, FUZZ_ASKED = 8, FUZZ_VISITS = 1024 };

/* A parcel to be answered. */
struct fuzz_job {
    uint64_t id;
    uint32_t rows, layer;
    bool backward;
};

/* A batch as its trainer knows it. */
struct fuzz_batch {
    uint64_t id;
    uint32_t layer, tokens, top_k, n_seen;
    bool live; /* submitted in this attempt and not known to have ended */
    bool training, in_step;
    bool unsure; /* an error named it: it may be dead */
    uint8_t seen[FUZZ_VISITS / 8];
};

struct fuzz_peer {
    bool open, lazy; /* lazy: reads only when told */
    uint32_t session;
    enum smoe_role role;
    struct smoe_channel ear;
    uint64_t attempt;
    struct smoe_layer_shape shapes[FUZZ_LAYERS];
    bool known[FUZZ_LAYERS]; /* worker: hosted here; trainer: ready */
    /* worker */
    struct fuzz_job jobs[FUZZ_JOBS];
    uint32_t n_jobs;
    uint32_t hosts[FUZZ_ASKED], n_hosts;   /* layers of unanswered Hosts */
    struct smoe_message asked[FUZZ_ASKED]; /* unanswered ExpertFetch and ExpertStore */
    uint32_t n_asked;
    struct smoe_msg_step_prepare prepare;
    uint32_t prepare_layers[SMOE_LAYERS_MAX];
    struct smoe_msg_step_stage stage;
    bool prepare_due, stage_due;
    uint64_t sequence;
    /* trainer */
    struct fuzz_batch batches[FUZZ_BATCHES];
    uint64_t step; /* the last one that was done */
};

void fuzz_peer_open(struct fuzz_peer *peer, uint32_t session, enum smoe_role role,
                    struct smoe_wire *wire);
void fuzz_peer_close(struct fuzz_peer *peer);

/* What the gateway wrote to it; asserts that all of it is right. */
void fuzz_peer_hear(struct fuzz_peer *peer, const uint8_t *data, size_t n);

/* Each takes what it needs from the tape and writes a message, with its raw part, into `out`. */
void fuzz_peer_hello(struct fuzz_peer *peer, struct fuzz_input *in, struct fuzz_stream *out);
/* `what` 4..11: see the table in peer.c */
void fuzz_peer_say(struct fuzz_peer *peer, uint8_t what, struct fuzz_input *in,
                   struct fuzz_stream *out);
/* A worker answers all it was asked, rightly. */
void fuzz_peer_answer_all(struct fuzz_peer *peer, struct fuzz_stream *out);

#endif
