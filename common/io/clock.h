/* SPDX-License-Identifier: Apache-2.0
 *
 * The clocks. Every program reads the time here and nowhere else (tests/lint/arrows.py keeps it so),
 * then passes it down: rooms below the shell are told what time it is.
 */
#ifndef SMOE_IO_CLOCK_H
#define SMOE_IO_CLOCK_H

#include <stdint.h>

/* Nanoseconds since an arbitrary point, never going back, CLOCK_MONOTONIC: the clock of libuv's
 * uv_hrtime() and of systemd's MONOTONIC_USEC. */
uint64_t smoe_clock_monotonic_ns(void);

/* Milliseconds since 1970 UTC. May jump: for people and file names, never for intervals. */
uint64_t smoe_clock_wall_ms(void);

/* CPU time of the calling thread in ns; what a compute thread charges to a visit. */
uint64_t smoe_clock_thread_cpu_ns(void);

#endif
