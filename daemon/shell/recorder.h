/* SPDX-License-Identifier: Apache-2.0
 *
 * A trace on disk (proto/trace.h): records are encoded into a buffer of bounded size, which libuv's thread
 * pool writes a quarter of a second later, or sooner when it grows. The loop never waits for the disk:
 * what finds no room, or cannot be written, is counted and left out, and the file says how much is missing
 * as soon as something can be written again. A file never has more than bytes_max.
 */
#ifndef SMOE_DAEMON_RECORDER_H
#define SMOE_DAEMON_RECORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "daemon/gateway/report.h"
#include "proto/trace.h"

#include <uv.h>

struct smoe_recorder;

struct smoe_recorder_options {
    const char *path; /* a file of that name becomes PATH.old, an older one of that name is gone */
    uint64_t bytes_max;   /* of the file */
    size_t buffer_bytes;  /* of each of two buffers: a record may have as much */
    uint32_t scores_top;  /* of each token; 0: all scores */
    const char *software; /* for the first record, */
    uint64_t now_ns;      /* as are the monotonic clock */
    uint64_t wall_ms;     /* and the other one */
    /* Nothing can be written from now on, or (now->trouble is "") it can be again. Called on the loop. */
    void (*trouble)(void *context, const struct smoe_report_trace *now);
    void *context;
};

/* Makes the file, and begins. The sentence is `trace PATH: ...`. */
int smoe_recorder_start(const struct smoe_recorder_options *options, uv_loop_t *loop,
                        struct smoe_recorder **ret, struct smoe_why *why);
/* After `closed`. NULL is nothing. */
void smoe_recorder_free(struct smoe_recorder *recorder);

void smoe_recorder_append(struct smoe_recorder *recorder, const struct smoe_trace_entry *entry);

/* Writes what there is, with an End; `closed` follows. */
void smoe_recorder_stop(struct smoe_recorder *recorder, uint64_t now_ns,
                        void (*closed)(void *context), void *context);

/* How it stands; false if `recorder` is NULL. Texts are the recorder's. */
bool smoe_recorder_tell(const struct smoe_recorder *recorder, struct smoe_report_trace *ret);

#endif
