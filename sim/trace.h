/* SPDX-License-Identifier: Apache-2.0
 *
 * What happened, for people and for comparison. One line for every message that was heard, at the
 * moment its last byte was, and for everything that was done to a process or the network:
 *
 *        12.340 gateway  -> pi-1     DECISION 3: 2 parcels, 16 rows
 *        40.000 pi-1 crashes
 *
 * The first column is virtual milliseconds since the beginning. Lines contain nothing that a CPU or a
 * BLAS could change (sizes and counts, no computed numbers), so they are the same on every machine.
 *
 * The digest is over the same happenings and is kept whether or not the text is.
 */
#ifndef SMOE_SIM_TRACE_H
#define SMOE_SIM_TRACE_H

#include "common/base/text.h"
#include "proto/frame.h"
#include "proto/wire.h"
#include "sim/events.h"

struct smoe_sim_trace {
    const struct smoe_sim_clock *clock; /* borrowed */
    uint64_t start_ns;
    bool keeps_text;
    char *text; /* [len], owned, lines end in '\n', NUL-terminated; NULL while empty */
    size_t len, cap;
    uint64_t digest;
    uint64_t messages;
    struct smoe_wire *wire; /* to decode what is to be read by people */
};

/* Follows the frames of one byte stream. All zero is one at the beginning of a stream. */
struct smoe_sim_tap {
    uint8_t header[SMOE_FRAME_HEADER_BYTES];
    struct smoe_frame_header frame;
    size_t have;    /* of the header, while it is incomplete */
    size_t to_come; /* of the frame, after its header */
    uint8_t *body;  /* owned; [body_have] of the protobuf part, if text is kept */
    size_t body_have;
    bool dead; /* not our frames (any more) */
};

void smoe_sim_trace_init(struct smoe_sim_trace *trace, const struct smoe_sim_clock *clock,
                         bool keep_text);
void smoe_sim_trace_release(struct smoe_sim_trace *trace);

/* Something happened that is not a message. */
__attribute__((format(printf, 2, 3))) void smoe_sim_trace_say(struct smoe_sim_trace *trace,
                                                              const char *format, ...);

/* `to` read n more bytes of what `from` sent. Names and numbers of processes. */
struct smoe_sim_way {
    const char *from_name, *to_name;
    uint32_t from, to;
};
void smoe_sim_trace_heard(struct smoe_sim_trace *trace, struct smoe_sim_tap *tap,
                          const struct smoe_sim_way *way, const uint8_t *data, size_t n);
void smoe_sim_tap_release(struct smoe_sim_tap *tap);

/* The text so far; "" if none is kept. */
const char *smoe_sim_trace_text(const struct smoe_sim_trace *trace);

/* The lines that contain one of the words (separated by '|'), as a string to be freed. */
char *smoe_sim_trace_select(const struct smoe_sim_trace *trace, const char *words);

/* What a message says, without numbers that were computed (sim/describe.c). */
void smoe_sim_describe(const struct smoe_message *message, struct smoe_text *ret);

#endif
