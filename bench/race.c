/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/race.h"

#include <stdint.h>

#include "common/base/assert.h"
#include "common/io/clock.h"

#define LANES_MAX     8
#define ROUNDS        11
#define ROUNDS_QUICK  3
#define TURN_NS       15000000
#define TURN_NS_QUICK 1000000

static double time_calls(struct smoe_lane *lane, uint64_t calls)
{
    uint64_t began = smoe_clock_thread_cpu_ns();
    for (uint64_t i = 0; i < calls; i++)
        lane->run(lane->context);
    uint64_t ns = smoe_clock_thread_cpu_ns() - began;
    return (double)(ns ? ns : 1) / (double)calls;
}

/* Calls that fill a turn. The first call is not counted: it meets cold caches and lazy set-up. */
static uint64_t calibrate(struct smoe_lane *lane, double turn_ns)
{
    lane->run(lane->context);
    uint64_t calls = 1;
    double ns = time_calls(lane, calls);
    while (ns * (double)calls < turn_ns / 4) {
        calls *= 4;
        ns = time_calls(lane, calls);
    }
    return (uint64_t)(turn_ns / ns) + 1;
}

void smoe_race(struct smoe_lane *lanes, unsigned n_lanes, bool quick)
{
    uint64_t calls[LANES_MAX];
    smoe_assert(n_lanes <= LANES_MAX);
    for (unsigned l = 0; l < n_lanes; l++) {
        lanes[l].ns.n = 0;
        calls[l] = calibrate(&lanes[l], quick ? TURN_NS_QUICK : TURN_NS);
    }
    for (unsigned round = 0; round < (quick ? ROUNDS_QUICK : ROUNDS); round++)
        for (unsigned i = 0; i < n_lanes; i++) {
            unsigned l = (i + round) % n_lanes;
            smoe_sample_add(&lanes[l].ns, time_calls(&lanes[l], calls[l]));
        }
}
