/* SPDX-License-Identifier: Apache-2.0
 *
 * Two processes and one TCP connection between them, with nothing around it: one writes, the other reads. What any
 * program pays that moves so many bytes from process to process.
 */
#ifndef SMOE_BENCH_PUMP_H
#define SMOE_BENCH_PUMP_H

#include <stdint.h>
#include <sys/types.h>

#include "common/base/err.h"

struct smoe_pump {
    pid_t pid; /* of the process that writes; this one reads */
    int fd;
    uint8_t *bytes; /* owned */
};

/* `listen`: HOST:PORT of this end, port 0. `far`: the writer's network namespace, or -1 for this one. Stop it in any
 * case. */
int smoe_pump_start(const char *listen, int far, struct smoe_pump *ret, struct smoe_why *why);

/* Moves so many bytes; the wall time, and the CPU time of both ends. */
int smoe_pump_run(struct smoe_pump *pump, uint64_t bytes, uint64_t *ret_wall_ns,
                  uint64_t *ret_cpu_ns, struct smoe_why *why);

/* May be zeroed. */
void smoe_pump_stop(struct smoe_pump *pump);

#endif
