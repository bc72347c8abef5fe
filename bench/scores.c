/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/scores.h"

#include <string.h>

#include "bench/slots.h"
#include "common/base/assert.h"
#include "common/base/rng.h"

int smoe_scores_init(struct smoe_scores *scores, size_t bytes)
{
    *scores = (struct smoe_scores){.n_rows = 0};
    return smoe_shared_init(&scores->shared, bytes);
}

void smoe_scores_release(struct smoe_scores *scores)
{
    smoe_shared_release(&scores->shared);
}

void smoe_scores_draw(struct smoe_scores *scores, uint32_t n_rows, uint32_t n_nodes)
{
    struct smoe_rng rng;
    smoe_assert((size_t)n_rows * n_nodes * sizeof(float) <= scores->shared.size);
    smoe_rng_init(&rng, 1, n_nodes);
    scores->n_rows = n_rows;
    scores->n_nodes = n_nodes;
    smoe_slots_draw_scores(&rng, n_rows, n_nodes, scores->shared.bytes);
}

/* A multiple of 16 rows, so that slots begin on a cache line as malloc's large blocks do. */
uint32_t smoe_scores_start(const struct smoe_scores *scores, uint32_t slot, uint32_t n_tokens)
{
    uint64_t room = scores->n_rows - n_tokens + 1;
    return (uint32_t)((uint64_t)slot * n_tokens % room) & ~UINT32_C(15);
}

const float *smoe_scores_slot(const struct smoe_scores *scores, uint32_t slot, uint32_t n_tokens)
{
    const float *rows = scores->shared.bytes;
    return rows + (size_t)smoe_scores_start(scores, slot, n_tokens) * scores->n_nodes;
}

/* Four lines at a time in vectors that every machine has: one load and one operation each, and nothing waits
 * for anything but memory. */
uint32_t smoe_scores_read(const float *scores, size_t n)
{
    typedef uint32_t line __attribute__((vector_size(64)));
    line sum[4] = {{0}}, value[4];
    uint32_t folded = 0;
    for (size_t i = 0; i + 64 <= n; i += 64) {
        memcpy(value, scores + i, sizeof value);
        for (int l = 0; l < 4; l++)
            sum[l] ^= value[l];
    }
    sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
    for (int k = 0; k < 16; k++)
        folded ^= sum[0][k];
    return folded;
}
