/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/clock.h"

#include <time.h>

#include "common/base/assert.h"

static uint64_t read_ns(clockid_t id)
{
    struct timespec t;
    int rc = clock_gettime(id, &t);
    smoe_assert(rc == 0); /* the three clocks below exist on every Linux */
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

uint64_t smoe_clock_monotonic_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t smoe_clock_wall_ms(void)
{
    return read_ns(CLOCK_REALTIME) / 1000000;
}

uint64_t smoe_clock_thread_cpu_ns(void)
{
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}
