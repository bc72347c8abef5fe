/* SPDX-License-Identifier: Apache-2.0
 *
 * The other end of a gateway's session, played from a tape: a worker or a trainer that remembers what
 * it was told, so that it can answer rightly, and answers wrongly when the tape says so. What the
 * gateway tells it must be well-formed and within the limits of Welcome.
 */
#ifndef SMOE_FUZZ_PEER_H
#define SMOE_FUZZ_PEER_H

#include "daemon/core/router_frozen.h"
#include "proto/channel.h"
#include "tests/fuzz/disk.h"
#include "tests/fuzz/stream.h"

enum {
    FUZZ_LAYERS = 8,
    FUZZ_EXPERTS = 128,
    FUZZ_JOBS = 64,
    FUZZ_BATCHES = 8,
    FUZZ_ASKED = 16,
    FUZZ_VISITS = 1024,
};

/* A parcel to be answered. */
struct fuzz_job {
    uint64_t id;
    uint32_t rows, layer;
    bool backward;
    bool answered; /* its Output was said */
    bool evicted;  /* its x was given up; a backward job waits for it */
};

/* Experts of a layer, as bits. */
struct fuzz_set {
    uint8_t bits[FUZZ_EXPERTS / 8];
};

/* What a worker holds of a layer; the connection may end meanwhile. */
struct fuzz_held {
    bool used;
    smoe_name name;
    uint64_t run, step, attempt, staged_step, staged_attempt;
    struct smoe_layer_shape shape;
    struct fuzz_set hosted, copies;
    struct fuzz_set current; /* whose state is that of `step` */
};

/* A batch as its trainer knows it. */
struct fuzz_batch {
    uint64_t id;
    uint32_t layer, tokens, top_k, n_seen;
    bool live; /* submitted in this attempt and not known to have ended */
    bool training, in_step;
    bool unsure; /* an error named it: it may be dead */
    bool inputs_asked, inputs_due;
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
    /* over all its connections */
    const struct fuzz_disk *disk; /* NULL: the gateway has no journal */
    uint64_t attempt_max;         /* of those that it was told */
    uint64_t epoch_max;
    struct fuzz_held held[FUZZ_LAYERS]; /* by the number it had last */
    /* worker */
    struct fuzz_job jobs[FUZZ_JOBS];
    uint32_t n_jobs;
    uint32_t hosts[FUZZ_ASKED], n_hosts;   /* layers of unanswered Hosts */
    struct smoe_message asked[FUZZ_ASKED]; /* unanswered ExpertFetch and ExpertStore */
    uint32_t n_asked;
    struct smoe_msg_step_prepare prepare;
    uint32_t prepare_layers[SMOE_LAYERS_MAX];
    struct fuzz_set gradients[SMOE_LAYERS_MAX]; /* that were asked for with it */
    struct smoe_msg_step_stage stage;
    bool prepare_due, stage_due;
    uint64_t sequence;
    /* trainer */
    struct fuzz_batch batches[FUZZ_BATCHES];
    uint64_t step;                                /* the last one that was done */
    struct smoe_frozen_head routers[FUZZ_LAYERS]; /* that it froze last, in force or not */
};

/* What it remembers of earlier connections stays. */
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
/* It answers all it was asked, rightly. */
void fuzz_peer_answer_all(struct fuzz_peer *peer, struct fuzz_stream *out);

#endif
