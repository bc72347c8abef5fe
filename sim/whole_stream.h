/* SPDX-License-Identifier: Apache-2.0
 *
 * A trainer's program (sim/world.h) that submits an open stream of tokens, slot by slot, for evaluation, and
 * sees which of them come back complete.
 */
#ifndef SMOE_SIM_WHOLE_STREAM_H
#define SMOE_SIM_WHOLE_STREAM_H

#include "common/base/list.h"
#include "sim/stream.h"
#include "sim/world.h"

struct smoe_whole_stream {
    const struct smoe_scenario *scenario; /* borrowed */
    struct smoe_sim_stream stream;
    struct smoe_layer_shape shape;
    struct smoe_uplink *uplink;
    uint32_t layer;
    enum { SMOE_STREAM_DECLARING, SMOE_STREAM_RUNS, SMOE_STREAM_FAILED } state;
    struct smoe_why why;   /* FAILED */
    uint64_t origin_ns;    /* slots end at whole multiples of slot_ns after this */
    uint64_t slots_left;   /* to be drawn */
    uint64_t next_draw_ns; /* RUNS: when */
    uint64_t first_end_ns; /* RUNS: when the first slot's tokens are routed */
    float *scores;         /* [tokens_max, experts], owned */
    float *x;              /* [tokens_max, 1] zeros, owned */
    struct smoe_list held; /* batches that wait for a ticket, oldest first */
    struct smoe_list sent;
    uint32_t n_sent; /* tickets that are out */
    /* So far */
    uint64_t tokens, last_tokens; /* drawn; of these, in the last slot drawn */
    uint64_t complete;
    double mass_best; /* of each token's own top K, summed */
};

extern const struct smoe_sim_program smoe_whole_stream_program;

/* `slots` slots of the scenario; its program's context. */
void smoe_whole_stream_init(struct smoe_whole_stream *stream, const struct smoe_scenario *scenario,
                            uint64_t slots, uint64_t seed);
void smoe_whole_stream_release(struct smoe_whole_stream *stream);

/* Counts into `complete` what has come back since. */
void smoe_whole_stream_count(struct smoe_whole_stream *stream);

#endif
