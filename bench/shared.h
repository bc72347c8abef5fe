/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that a bench shares with the programs it compares with, so that all of them read the same
 * bytes: a memfd, which children inherit.
 */
#ifndef SMOE_BENCH_SHARED_H
#define SMOE_BENCH_SHARED_H

#include <stddef.h>

struct smoe_shared {
    int fd; /* open in children too, under the same number; -1: none */
    void *bytes;
    size_t size;
};

/* Zeroed and resident: nobody's time is to hold page faults. 0 or -errno; release in any case. */
int smoe_shared_init(struct smoe_shared *shared, size_t size);
void smoe_shared_release(struct smoe_shared *shared);

#endif
