/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/hist.h"

static unsigned bucket_of(uint64_t v)
{
    if (v < 8)
        return (unsigned)v;
    unsigned shift = 60u - (unsigned)__builtin_clzll(v); /* v >> shift lies in 8..15 */
    return 8 * shift + (unsigned)(v >> shift);
}

static uint64_t upper_edge(unsigned bucket)
{
    if (bucket < 16)
        return bucket;
    unsigned shift = bucket / 8 - 1;
    return ((uint64_t)(bucket % 8 + 9) << shift) - 1;
}

void smoe_hist_add(struct smoe_hist *hist, uint64_t value_ns)
{
    hist->count++;
    hist->buckets[bucket_of(value_ns)]++;
    if (value_ns > hist->max_ns)
        hist->max_ns = value_ns;
}

uint64_t smoe_hist_quantile_ns(const struct smoe_hist *hist, double q)
{
    if (!hist->count)
        return 0;
    uint64_t rank = (uint64_t)(q * (double)(hist->count - 1)) + 1;
    uint64_t seen = 0;
    for (unsigned b = 0; b < SMOE_HIST_BUCKETS; b++) {
        seen += hist->buckets[b];
        if (seen >= rank)
            return upper_edge(b) < hist->max_ns ? upper_edge(b) : hist->max_ns;
    }
    return hist->max_ns;
}
