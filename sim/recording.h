/* SPDX-License-Identifier: Apache-2.0
 *
 * A trace of the daemon (proto/trace.h) as it lies in a file, record by record. What is torn or damaged ends
 * it: everything before is whole.
 */
#ifndef SMOE_SIM_RECORDING_H
#define SMOE_SIM_RECORDING_H

#include <stdio.h>

#include "proto/trace.h"

struct smoe_recording {
    FILE *file;       /* owned, as is all below */
    const char *path; /* borrowed */
    struct smoe_trace_codec *codec;
    uint8_t *payload;
    size_t payload_cap;
    uint64_t records; /* read so far, unknown ones included */
    uint64_t bytes;   /* of these and the header */
    uint64_t missing; /* records that the file says were lost */
    bool torn;        /* what follows is not a whole record */
    bool ended;       /* the last record said so */
};

/* SMOE_EDATA or the errno of the file; `FILE: ...`. `path` is borrowed. */
int smoe_recording_open(struct smoe_recording *recording, const char *path, struct smoe_why *why);
void smoe_recording_close(struct smoe_recording *recording);

/* The next record; *ret_more false at the end. Arrays are the recording's until the next call. A record
 * that is whole and still not valid fails: `FILE: record 12: ROUTE.field ...`. */
int smoe_recording_next(struct smoe_recording *recording, struct smoe_trace_entry *ret,
                        bool *ret_more, struct smoe_why *why);

/* To the first record again. */
void smoe_recording_rewind(struct smoe_recording *recording);

#endif
