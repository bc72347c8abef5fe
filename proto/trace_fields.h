/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the trace format: frames (trace_frame.c), structs to protobuf (trace_encode.c) and back
 * (trace_decode.c).
 */
#ifndef SMOE_PROTO_TRACE_FIELDS_H
#define SMOE_PROTO_TRACE_FIELDS_H

#include "proto/arena.h"
#include "proto/trace.h"
#include "proto/trace.pb-c.h"

struct smoe_trace_codec {
    struct smoe_arena arena;
    size_t payload_max;
};

/* Puts the frame of the payload that stands behind it at the beginning of the record. */
void smoe_trace_write_frame(uint32_t type, size_t bytes, uint8_t *record);

/* The columns of Workers that are doubles, with what one that is left out means. */
#define SMOE_TRACE_COLUMN_MAP(X)          \
    X(backlog, backlog, 0)                \
    X(executable, executable, 0)          \
    X(debt, debt_j, 0)                    \
    X(carry, carry, 0)                    \
    X(cycles, cycles, 0)                  \
    X(freq_max, freq_max_hz, 0)           \
    X(kappa, kappa, 0)                    \
    X(cap, cap_w, (double)INFINITY)       \
    X(budget, budget_w, (double)INFINITY) \
    X(units, units, 1)                    \
    X(owed, owed, 0)

/* ... and those that are counts; 0 where they are left out. */
#define SMOE_TRACE_COUNT_MAP(X) \
    X(arrivals_max) X(freq_khz) X(arrivals) X(before_khz) X(curve_points) X(stepless)

#endif
