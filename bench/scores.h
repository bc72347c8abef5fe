/* SPDX-License-Identifier: Apache-2.0
 *
 * Gate scores of many slots, one after another in one piece of memory that rivals share. It is larger
 * than any cache, and whoever works on slots takes the next one each time, so that scores come from memory
 * and not from where the last call left them; nor can a branch predictor learn them by heart.
 */
#ifndef SMOE_BENCH_SCORES_H
#define SMOE_BENCH_SCORES_H

#include <stdint.h>

#include "bench/shared.h"

struct smoe_scores {
    struct smoe_shared shared;
    uint32_t n_rows, n_nodes; /* scores [n_rows, n_nodes], as drawn last */
};

/* Room for that much. 0 or -errno; release in any case. */
int smoe_scores_init(struct smoe_scores *scores, size_t bytes);
void smoe_scores_release(struct smoe_scores *scores);

/* Fills it anew: n_rows * n_nodes floats, at most what it has room for. */
void smoe_scores_draw(struct smoe_scores *scores, uint32_t n_rows, uint32_t n_nodes);

/* First row of a slot of n_tokens <= n_rows. Slots follow one another and begin again, a little shifted, where
 * the rows end. peers/torch_topk.py computes the same. */
uint32_t smoe_scores_start(const struct smoe_scores *scores, uint32_t slot, uint32_t n_tokens);

/* The slot itself: [n_tokens, n_nodes]. */
const float *smoe_scores_slot(const struct smoe_scores *scores, uint32_t slot, uint32_t n_tokens);

/* Reads n floats (but a last few of fewer than 64) and does nothing else: what no pass over them can beat.
 * Returns what it read, folded. */
uint32_t smoe_scores_read(const float *scores, size_t n);

#endif
