/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's side of stablemoe-freqd's socket (freqmsg.h). Blocking, because the helper answers within
 * microseconds, but never for longer than a patience: after that it counts as gone.
 */
#ifndef SMOE_IO_FREQLINK_H
#define SMOE_IO_FREQLINK_H

#include "common/io/freqmsg.h"

#define SMOE_FREQLINK_PATIENCE_MS 200
/* At the beginning, when nothing else waits: connecting may be what makes systemd start the helper. */
#define SMOE_FREQLINK_START_MS 5000

/* A connection to the helper at `path`, or a negative errno. */
int smoe_freqlink_open(const char *path);

/* No later call on it takes longer; SMOE_FREQLINK_PATIENCE_MS until set. */
void smoe_freqlink_patience(int fd, int ms);

/* Asks and waits. 0 if there is an answer, whose own error is in it; a negative errno if there is none:
 * then the connection is of no more use. `ret_descriptor` takes ownership of one that came along, -1 if
 * none did; NULL: it is closed. */
int smoe_freqlink_ask(int fd, struct smoe_freq_request request, struct smoe_freq_answer *ret,
                      int *ret_descriptor);

#endif
