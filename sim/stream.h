/* SPDX-License-Identifier: Apache-2.0
 *
 * What comes: how many tokens a slot, and their gate scores. A function of the scenario and the seed
 * alone, so that all policies of one run see the same stream (MODEL.md, "Words, once").
 */
#ifndef SMOE_SIM_STREAM_H
#define SMOE_SIM_STREAM_H

#include <stdbool.h>

#include "common/base/rng.h"
#include "sim/scenario.h"

struct smoe_sim_stream {
    const struct smoe_scenario *scenario; /* borrowed */
    uint32_t tokens_max;                  /* of a slot; more would be cut */
    uint64_t slot;                        /* of the next _count */
    struct smoe_rng rng, phases;
    bool on;        /* bursty: this slot has tokens */
    double *factor; /* [experts] e^(skew rank) of this slot, owned, as is pool */
    double *pool;   /* [pool, experts] e^noise of a token; NULL: always fresh */
};

void smoe_sim_stream_init(struct smoe_sim_stream *stream, const struct smoe_scenario *scenario,
                          uint64_t seed);
void smoe_sim_stream_release(struct smoe_sim_stream *stream);

/* Begins a slot: how many tokens it has, at most tokens_max. */
uint32_t smoe_sim_stream_count(struct smoe_sim_stream *stream);

/* Their scores, ret[n, experts]: g = softmax over e of (skew rank_e + N(0,1)). */
void smoe_sim_stream_scores(struct smoe_sim_stream *stream, uint32_t n, float *ret);

#endif
