/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages for tests: a table of every field with its limits as docs/protocol.md states them, written
 * down a second time and independently of proto/wire*.c, and what can be made from it: random valid
 * messages, equality, and the next value beyond each limit.
 */
#ifndef SMOE_TEST_MESSAGES_H
#define SMOE_TEST_MESSAGES_H

#include "common/base/rng.h"
#include "proto/wire.h"

enum messages_kind {
    MESSAGES_U32,
    MESSAGES_U64,
    MESSAGES_I32,
    MESSAGES_ENUM, /* as U32 */
    MESSAGES_BOOL,
    MESSAGES_F64,      /* from..to, both allowed */
    MESSAGES_FRACTION, /* [0, 1) */
    MESSAGES_NAME,     /* 1..63 of [A-Za-z0-9._-] */
    MESSAGES_TEXT,     /* up to `to` bytes, anything; not printable becomes '?' */
};

struct messages_field {
    enum smoe_message_type type;
    const char *name;
    enum messages_kind kind;
    size_t offset; /* in struct smoe_message */
    uint64_t from, to;
    double real_from, real_to;
};

extern const struct messages_field messages_fields[];
extern const size_t messages_n_fields;

/* Every type there is, in the order of SMOE_MESSAGE_MAP. */
extern const uint16_t messages_types[];
extern const size_t messages_n_types;

/* Arrays that a random message points to. */
struct messages_room {
    uint64_t numbers[SMOE_STEP_BATCHES_MAX];
    uint32_t indices[SMOE_WORKER_EXPERTS_MAX];
    double norms[SMOE_WORKER_EXPERTS_MAX];
    struct smoe_inventory_layer layers[SMOE_LAYERS_MAX];
    struct smoe_layer_norms layer_norms[SMOE_LAYERS_MAX];
    struct smoe_layer_experts layer_experts[SMOE_LAYERS_MAX];
    struct smoe_layer_hosts layer_hosts[SMOE_LAYERS_MAX];
    uint32_t hosts[SMOE_WORKER_EXPERTS_MAX];
    uint64_t offsets[SMOE_WORKER_PIECES_MAX], lengths[SMOE_WORKER_PIECES_MAX];
    struct smoe_parcel_head parcels[SMOE_DECISION_PARCELS_MAX];
    const char *workers[SMOE_PLACEMENT_WORKERS_MAX];
    smoe_name names[SMOE_PLACEMENT_WORKERS_MAX];
    double shares[SMOE_EXPERTS_MAX];
};

/* A valid message with random field values, limits included. Its arrays lie in `room`. */
void messages_random(struct smoe_rng *rng, uint16_t type, struct messages_room *room,
                     struct smoe_message *ret);

/* Equal in every field that travels; the name of the first that differs, or NULL. (-0 equals 0:
 * proto3 does not send zeros.) */
const char *messages_difference(const struct smoe_message *a, const struct smoe_message *b);

#endif
