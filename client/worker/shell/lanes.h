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

/* Starts n threads that work for the agent. `changed` is called on the loop's thread after tasks came to
 * an end: there may be something to send, and more to do. Negative libuv error on failure. */
int smoe_lanes_start(uv_loop_t *loop, uint32_t n, struct smoe_agent *agent,
                     void (*changed)(void *context), void *context, struct smoe_lanes **ret);

/* Gives waiting tasks of the agent to idle lanes. When all that waits is little, it is done here and
 * now instead: waking a thread and being woken by it would take longer. */
void smoe_lanes_feed(struct smoe_lanes *lanes);

/* Share of the time a lane may compute, (0, 1]; takes effect with the next slice. */
void smoe_lanes_set_duty(struct smoe_lanes *lanes, double duty);

/* Does any lane compute just now? */
bool smoe_lanes_busy(const struct smoe_lanes *lanes);

/* Ends the threads, after their present slice; unfinished tasks are given back to nobody. `closed`
 * follows when everything is freed. */
void smoe_lanes_close(struct smoe_lanes *lanes, void (*closed)(void *context), void *context);

#endif
