/* SPDX-License-Identifier: Apache-2.0
 *
 * Traces: decisions of the gateway in a file, with all that they are functions of. Each Route and Frequency
 * record stands for itself: it can be made again whatever was lost before it. (sim/trace.h is something
 * else: what happened in a story, for people.)
 *
 *     file    offset size
 *                  0    8  "SMOETRCE"
 *                  8    4  version of the format, 1
 *                 12    4  CRC-32 of bytes 0..11
 *                 16       records
 *     record       0    4  type (enum smoe_trace_type)
 *                  4    4  bytes of the payload, at most SMOE_TRACE_PAYLOAD_MAX
 *                  8    4  CRC-32 of bytes 0..7 and the payload
 *                 12       payload: a message of proto/trace.proto
 *
 * Numbers are little-endian. A file that was torn is whole up to the first record whose frame does not
 * hold. Readers skip records of types they do not know.
 *
 * Pure: memory in, memory out. Everything here is total over all inputs and allocates nothing beyond the
 * codec's arena.
 */
#ifndef SMOE_PROTO_TRACE_H
#define SMOE_PROTO_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "proto/wire.h"

#define SMOE_TRACE_VERSION      1
#define SMOE_TRACE_HEADER_BYTES 16
#define SMOE_TRACE_FRAME_BYTES  12
#define SMOE_TRACE_PAYLOAD_MAX  (64u << 20)
#define SMOE_TRACE_CURVE_MAX    32         /* points of a worker's curve */
#define SMOE_TRACE_WAITS        UINT16_MAX /* in `expert`: the token was not routed */

enum smoe_trace_type {
    SMOE_TRACE_START = 1,
    SMOE_TRACE_ROUTE,
    SMOE_TRACE_FREQUENCY,
    SMOE_TRACE_LOST,
    SMOE_TRACE_END,
};

struct smoe_trace_start {
    char software[64];
    uint64_t monotonic_ns, wall_ms;
    uint32_t scores_top;
};

/* What a decision knew of one worker (struct smoe_plan_worker), and, of a frequency, what it came to. */
struct smoe_trace_worker {
    uint32_t worker;       /* its number */
    uint32_t arrivals_max; /* ROUTE */
    double backlog, executable, debt_j, carry;
    double cycles, freq_max_hz, kappa, cap_w, budget_w;
    /* What it draws, if not kappa f^3: [curve_points] from 0 on, rising; 0 points: the cube. */
    uint32_t curve_points;
    bool stepless; /* every frequency on it can be had */
    const double *curve_hz, *curve_watts;
    double units;        /* FREQUENCY: lanes times what they achieve of a frequency, > 0 */
    uint32_t arrivals;   /* FREQUENCY: visits that leave with it */
    uint64_t before_khz; /* FREQUENCY: decided before, of one lane; 0: never */
    double owed;         /* FREQUENCY: cycles that P-states in turns gave too few */
    uint64_t freq_khz;   /* FREQUENCY: decided, of one lane */
};

struct smoe_trace_batch {
    uint32_t trainer;
    uint32_t tokens; /* of it in this record */
    uint64_t id;
};

struct smoe_trace_route {
    uint64_t monotonic_ns, slot;
    smoe_name layer;
    uint32_t experts, top_k, tokens, nodes;
    bool training, given;
    smoe_name policy, plan;
    uint64_t slot_ns;
    double v, mu;
    uint64_t work_max;
    double gap;      /* allowed, of K N V mu */
    bool draws;      /* the policy draws from: */
    uint64_t rng[4]; /* before the decision */
    uint32_t n_prices, n_batches, n_workers;
    const double *prices;                    /* [n_prices] not NaN */
    const struct smoe_trace_batch *batches;  /* [n_batches] */
    const struct smoe_trace_worker *workers; /* [n_workers] by number, rising, below `nodes` */
    const uint32_t *replica_first;           /* [experts + 1] */
    const uint32_t *replica_node;            /* rising within an expert, below `nodes` */
    uint32_t scores_kept;                    /* M, top_k..experts; 0 if given */
    const uint16_t *score_expert; /* [tokens, M] distinct, by falling score; NULL if M = experts */
    const float *scores;          /* [tokens, M] finite; NULL if given */
    double tau_s;
    const uint16_t
        *expert; /* [tokens, top_k], SMOE_TRACE_WAITS in a token that waits; all, if given */
    const uint32_t *node; /* [tokens, top_k], of routed tokens */
    uint32_t routed;      /* tokens; the first so many, if given */
    double primal, bound;
    bool exact;
};

struct smoe_trace_frequency {
    uint64_t monotonic_ns, slot;
    smoe_name policy;
    double v, tau_s;
    uint32_t n_workers;
    const struct smoe_trace_worker *workers; /* [n_workers] by number, rising */
};

struct smoe_trace_entry {
    enum smoe_trace_type type;
    union {
        struct smoe_trace_start start;
        struct smoe_trace_route route;
        struct smoe_trace_frequency frequency;
        uint64_t lost;   /* records */
        uint64_t end_ns; /* monotonic */
    };
};

/* ---- frames ---- */

void smoe_trace_header(uint8_t ret[SMOE_TRACE_HEADER_BYTES]);
/* SMOE_EDATA and a sentence if it is not the beginning of a trace, or of a newer format. */
int smoe_trace_check_header(const uint8_t header[SMOE_TRACE_HEADER_BYTES], struct smoe_why *why);

struct smoe_trace_frame {
    uint32_t type;
    uint32_t bytes; /* of the payload */
    uint32_t crc;
};
/* SMOE_EMALFORMED if no record can begin so. */
int smoe_trace_read_frame(const uint8_t bytes[SMOE_TRACE_FRAME_BYTES],
                          struct smoe_trace_frame *ret);
/* Is this the payload that the frame speaks of? */
bool smoe_trace_frame_holds(const struct smoe_trace_frame *frame, const uint8_t *payload);

/* ---- records ---- */

/* Memory for records of up to `payload_max` bytes: about eight times that, touched as far as it is needed. */
struct smoe_trace_codec;
int smoe_trace_codec_new(size_t payload_max, struct smoe_trace_codec **ret);
void smoe_trace_codec_free(struct smoe_trace_codec *codec);

/* The record with its frame into to[cap]. Of scores only the `scores_top` largest of a token are written,
 * never fewer than top_k (0: all that there are); ties to the lowest expert. SMOE_ETOOBIG if it does not
 * fit. */
int smoe_trace_encode(struct smoe_trace_codec *codec, const struct smoe_trace_entry *entry,
                      uint32_t scores_top, uint8_t *to, size_t cap, size_t *ret_bytes);

/* The payload of a frame that holds; arrays are the codec's until its next call. SMOE_EUNKNOWN: a type of a
 * later time. Otherwise SMOE_EMALFORMED, SMOE_EFIELD, SMOE_ENOTFINITE and `ROUTE.field ...`. What comes
 * out is a problem that the solver takes. */
int smoe_trace_decode(struct smoe_trace_codec *codec, const struct smoe_trace_frame *frame,
                      const uint8_t *payload, struct smoe_trace_entry *ret, struct smoe_why *why);

#endif
