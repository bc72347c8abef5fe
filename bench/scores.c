/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/scores.h"

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

typedef uint32_t chunk __attribute__((vector_size(32)));
typedef uint32_t stored_chunk __attribute__((vector_size(32), aligned(4), may_alias));
#define CHUNK_LEN 8

/* One load and one operation a chunk, eight that do not wait for each other: from the first cache this reads
 * ten times what memory gives, so what is measured is memory. */
static inline __attribute__((always_inline)) uint32_t fold(const float *scores, size_t n)
{
    const stored_chunk *from = (const void *)scores;
    chunk a = {0}, b = {0}, c = {0}, d = {0}, e = {0}, f = {0}, g = {0}, h = {0};
    uint32_t folded = 0;
    for (size_t i = 0; i + 8 <= n / CHUNK_LEN; i += 8) {
        a ^= from[i];
        b ^= from[i + 1];
        c ^= from[i + 2];
        d ^= from[i + 3];
        e ^= from[i + 4];
        f ^= from[i + 5];
        g ^= from[i + 6];
        h ^= from[i + 7];
    }
    a ^= b ^ c ^ d ^ e ^ f ^ g ^ h;
    for (int k = 0; k < CHUNK_LEN; k++)
        folded ^= a[k];
    return folded;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static uint32_t fold_avx2(const float *scores, size_t n)
{
    return fold(scores, n);
}

uint32_t smoe_scores_read(const float *scores, size_t n)
{
    return __builtin_cpu_supports("avx2") ? fold_avx2(scores, n) : fold(scores, n);
}
#else
uint32_t smoe_scores_read(const float *scores, size_t n)
{
    return fold(scores, n);
}
#endif
