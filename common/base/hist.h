/* SPDX-License-Identifier: Apache-2.0
 *
 * A histogram of durations: buckets grow by an eighth (HdrHistogram's idea with 8 sub-buckets a
 * doubling), so any percentile is known within 12.5 %, from 1 ns to 584 years, in 4 KiB.
 */
#ifndef SMOE_BASE_HIST_H
#define SMOE_BASE_HIST_H

#include <stdint.h>

#define SMOE_HIST_BUCKETS 496

struct smoe_hist {
    uint64_t count;
    uint64_t max_ns;
    uint64_t buckets[SMOE_HIST_BUCKETS];
};

void smoe_hist_add(struct smoe_hist *hist, uint64_t value_ns);

/* The value below which `q` (0..1) of the samples lie, as its bucket's upper edge, never above the
 * largest sample; 0 when there is none. */
uint64_t smoe_hist_quantile_ns(const struct smoe_hist *hist, double q);

#endif
