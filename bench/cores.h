/* SPDX-License-Identifier: Apache-2.0
 *
 * A processor of its own for each of two processes, so that neither waits for the other nor is moved.
 */
#ifndef SMOE_BENCH_CORES_H
#define SMOE_BENCH_CORES_H

#include <sched.h>
#include <sys/types.h>

#include "common/base/err.h"

struct smoe_cores {
    cpu_set_t allowed;
    unsigned n; /* of these, at least 1 */
};

int smoe_cores_find(struct smoe_cores *ret, struct smoe_why *why);

/* Keeps this process, and what it will start, on the nth of them, counted round from 0. */
void smoe_cores_take(const struct smoe_cores *cores, unsigned nth);

/* Starts a process that gives way to everybody else, does nothing, and keeps the nth of them from falling
 * asleep; end it with smoe_child_stop. 0: it cannot be. */
pid_t smoe_cores_keep_awake(const struct smoe_cores *cores, unsigned nth);

/* Lets it use all of them again. */
void smoe_cores_give(const struct smoe_cores *cores);

#endif
