/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/race.h"

#include <stdint.h>

#include "common/base/assert.h"
#include "common/io/clock.h"

#define LANES_MAX     8
#define ROUNDS        11
#define ROUNDS_LONG   5
#define ROUNDS_QUICK  3
#define LONG_NS       400000000.0
#define TURN_NS       15000000
#define TURN_NS_QUICK 1000000

/* CPU time of a call, the mean of so many. [ns] */
static double time_calls(struct smoe_lane *lane, uint64_t calls)
{
    if (lane->time)
        return lane->time(lane->context, calls) / (double)calls;
    uint64_t began = smoe_clock_thread_cpu_ns();
    for (uint64_t i = 0; i < calls; i++)
        lane->run(lane->context);
    uint64_t ns = smoe_clock_thread_cpu_ns() - began;
    return (double)(ns ? ns : 1) / (double)calls;
}

/* Calls that fill a turn, and how long they take. The first call is not counted: it meets cold caches and
 * lazy set-up. */
static uint64_t calibrate(struct smoe_lane *lane, double turn_ns, double *ret_ns)
{
    (void)time_calls(lane, 1);
    uint64_t calls = 1;
    double ns = time_calls(lane, calls);
    while (ns * (double)calls < turn_ns / 4) {
        calls *= 4;
        ns = time_calls(lane, calls);
    }
    calls = (uint64_t)(turn_ns / ns) + 1;
    *ret_ns = ns * (double)calls;
    return calls;
}

void smoe_race(struct smoe_lane *lanes, unsigned n_lanes, bool quick)
{
    uint64_t calls[LANES_MAX];
    double round_ns = 0, turn_ns = 0;
    smoe_assert(n_lanes <= LANES_MAX);
    for (unsigned l = 0; l < n_lanes; l++) {
        lanes[l].ns.n = 0;
        calls[l] = calibrate(&lanes[l], quick ? TURN_NS_QUICK : TURN_NS, &turn_ns);
        round_ns += turn_ns;
    }
    unsigned rounds = quick ? ROUNDS_QUICK : round_ns > LONG_NS ? ROUNDS_LONG : ROUNDS;
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned i = 0; i < n_lanes; i++) {
            unsigned l = (i + round) % n_lanes;
            smoe_sample_add(&lanes[l].ns, time_calls(&lanes[l], calls[l]));
        }
}
