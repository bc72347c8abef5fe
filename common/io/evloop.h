/* SPDX-License-Identifier: Apache-2.0
 *
 * A libuv loop that has all it will need: libuv 1.44 calls abort() where it cannot enlarge its table of
 * descriptors or start its threads, in the midst of work as well.
 */
#ifndef SMOE_IO_EVLOOP_H
#define SMOE_IO_EVLOOP_H

#include <uv.h>

#include "common/base/err.h"

/* Raises the limit of descriptors as far as is allowed. Makes the loop, its table for descriptors below
 * `descriptors`, and the threads of libuv's pool. Before anything else of libuv. On failure there is no loop;
 * where even libuv's own memory cannot be had the process ends with EXIT_FAILURE and a line that begins with
 * `program`. */
int smoe_evloop_init(uv_loop_t *loop, const char *program, unsigned descriptors,
                     struct smoe_why *why);

#endif
