/* SPDX-License-Identifier: Apache-2.0
 *
 * Competitors run side by side: first each is timed alone to learn how many calls fill a turn, then
 * they take turns for a number of rounds, in rotating order, so that whatever disturbs the machine
 * disturbs all of them. Time is CPU time of this thread: others may interrupt it at no one's cost.
 */
#ifndef SMOE_BENCH_RACE_H
#define SMOE_BENCH_RACE_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/sample.h"

struct smoe_lane {
    void (*run)(void *context); /* one call */
    /* Or, for what happens outside this thread: CPU time of that many calls. [ns], > 0 */
    double (*time)(void *context, uint64_t calls);
    void *context;
    struct smoe_sample ns; /* result: CPU time a call, one value a round */
};

/* `quick`: 3 rounds of 1 ms turns instead of 11 rounds of 15 ms. A call that takes longer than a turn
 * is made once a round, and when a round takes more than 400 ms there are 5 of them. */
void smoe_race(struct smoe_lane *lanes, unsigned n_lanes, bool quick);

#endif
