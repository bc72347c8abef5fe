/* SPDX-License-Identifier: Apache-2.0
 *
 * The compute threads. Each lane runs one task of the agent at a time, slice by slice, and rests
 * between slices so that it computes only its duty's share of the time. Only the loop's thread
 * touches the agent: lanes get a task and give it back.
 */
#ifndef SMOE_WORKER_LANES_H
#define SMOE_WORKER_LANES_H

#include "client/worker/agent/agent.h"

#include <uv.h>

struct smoe_lanes;

/* Starts n threads. `done` is called on the loop's thread for every finished task with the CPU time it
 * took. Negative libuv error on failure. */
int smoe_lanes_start(uv_loop_t *loop, uint32_t n,
                     void (*done)(void *context, struct smoe_task *task, uint64_t cpu_ns),
                     void *context, struct smoe_lanes **ret);

/* Gives waiting tasks of the agent to idle lanes. */
void smoe_lanes_feed(struct smoe_lanes *lanes, struct smoe_agent *agent);

/* Share of the time a lane may compute, (0, 1]; takes effect with the next slice. */
void smoe_lanes_set_duty(struct smoe_lanes *lanes, double duty);

/* Ends the threads, after their present slice; unfinished tasks are given back to nobody. `closed`
 * follows when everything is freed. */
void smoe_lanes_close(struct smoe_lanes *lanes, void (*closed)(void *context), void *context);

#endif
