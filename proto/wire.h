/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages as plain structs, and the way between them and the protobuf part of a frame. The only
 * room that knows protobuf-c. Decoding is total: every field is checked against its limits after
 * unpacking (a string may hold NUL or bad UTF-8, a double NaN), and the refusal names the field and
 * the limit. What a message means, and its raw part, is written in stablemoe.proto and
 * docs/protocol.md.
 */
#ifndef SMOE_PROTO_WIRE_H
#define SMOE_PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "proto/wire_link.h"
#include "proto/wire_map.h"
#include "proto/wire_shard.h"
#include "stablemoe/frozen.h"

#define SMOE_PROTOCOL_MIN 1
#define SMOE_PROTOCOL_MAX 1

enum smoe_message_type {
#define X(symbol, number, field, pb, senders, raw) SMOE_MSG_##symbol = number,
    SMOE_MESSAGE_MAP(X)
#undef X
};

/* Of a key or certificate. An administrator sends no messages: it has a protocol of its own
 * (daemon/shell/peers_admin.h), and no Hello says this role, nor that of a direct link between workers. */
enum smoe_role {
    SMOE_ROLE_WORKER = 1,
    SMOE_ROLE_TRAINER = 2,
    SMOE_ROLE_ADMIN = 3,
    SMOE_ROLE_PEER = 4
};
enum smoe_dtype { SMOE_DTYPE_F32 = 1, SMOE_DTYPE_F64 = 2 };
enum smoe_state_part {
    SMOE_STATE_WEIGHTS = 1,
    SMOE_STATE_MOMENTS = 2,
    SMOE_STATE_GRADIENT = 4,
    SMOE_STATE_OLDER = 8, /* weights of the step before: layers with staleness, between workers */
};

/* Strings are NUL-terminated and valid UTF-8 without control characters. */
typedef char smoe_name[SMOE_NAME_MAX + 1];
typedef char smoe_sentence[240];

struct smoe_msg_hello {
    uint32_t protocol_min, protocol_max;
    enum smoe_role role;
    smoe_name name;
    uint64_t incarnation; /* never 0 */
    smoe_name software;
    /* role worker only */
    double freq_max_hz; /* > 0 */
    uint64_t inbox_bytes_max;
    uint32_t lanes; /* 1..256 */
    double busy_watts;
    double budget_watts, cap_watts; /* mean and highest power it may draw; 0: any */
    smoe_name freq_driver;
    const uint64_t *freq_states_khz; /* [n_freq_states] > 0, rising; none: any frequency is taken */
    size_t n_freq_states;            /* 0..SMOE_FREQ_STATES_MAX */
    uint64_t memory_bytes;     /* for experts and shards; 0: it takes no part in sharded layers */
    uint32_t expert_slots;     /* of a sharded layer; 0: as memory allows */
    smoe_address peer_address; /* where it takes direct links; "": it has none */
};

struct smoe_msg_credit {
    uint64_t bytes_total, visits_total;
};

struct smoe_msg_welcome {
    uint32_t protocol;
    uint64_t epoch;
    uint32_t slot_us;
    uint64_t tensor_bytes_max;
    uint32_t silence_ms_max;
    uint64_t attempt;
    struct smoe_msg_credit credit;
    uint64_t iteration_bytes_max;
    smoe_name software;
    smoe_name policy;
};

struct smoe_msg_error {
    int32_t code; /* negative */
    smoe_sentence message;
    bool fatal;
    uint64_t batch, request;
};

struct smoe_msg_ping {
    uint64_t nonce;
};
struct smoe_msg_pong {
    uint64_t nonce;
};
struct smoe_msg_bye {
    smoe_sentence reason;
};

enum smoe_wire_format { SMOE_WIRE_REAL = 0, SMOE_WIRE_BF16 = 1 };

/* The shape of an expert layer; checked against common/base/limits.h. Enumerations have the values
 * of common/kernels (activation, optimizer). */
struct smoe_layer_shape {
    uint32_t experts, d_model, d_ff;
    uint32_t activation; /* enum smoe_activation */
    enum smoe_dtype dtype;
    uint32_t optimizer; /* enum smoe_optimizer_kind */
    uint64_t seed;
    bool zero_output;
    enum smoe_wire_format wire; /* of a sharded layer's gradients and weights */
    uint32_t staleness;         /* 0, or 1: a batch may be one step ahead (stablemoe.h) */
};

struct smoe_msg_layer_declare {
    uint64_t request;
    smoe_name name;
    uint64_t run; /* 0 only with evaluate_only */
    struct smoe_layer_shape shape;
    bool evaluate_only;
    uint64_t step;
};

struct smoe_msg_layer_ready {
    uint64_t request;
    uint32_t layer;
    struct smoe_layer_shape shape;
    uint64_t run, step;
    struct smoe_frozen_head router; /* version 0: none is frozen */
};

struct smoe_msg_submit {
    uint64_t batch, attempt;
    uint32_t layer, tokens, top_k;
    bool needs_gradient, routed;
    uint64_t router_version, router_digest; /* 0: scores are given; never with `routed` */
    bool ahead;                             /* goes on by the weights of step `base` */
    uint64_t base;
};

struct smoe_msg_result {
    uint64_t batch, attempt;
    uint32_t expert, rows;
};

struct smoe_msg_gradient {
    uint64_t batch, attempt;
};

struct smoe_msg_need_inputs {
    uint64_t batch, attempt;
};
struct smoe_msg_inputs {
    uint64_t batch, attempt;
};

struct smoe_msg_input_gradient {
    uint64_t batch, attempt;
    uint32_t expert, rows;
};

struct smoe_step_optimizer {
    uint32_t kind; /* enum smoe_optimizer_kind */
    double learning_rate, momentum, beta1, beta2, epsilon, weight_decay;
};

struct smoe_msg_step {
    uint64_t step, attempt;
    const uint64_t *batches; /* [n_batches], borrowed until the next decode */
    size_t n_batches;        /* at most SMOE_STEP_BATCHES_MAX */
    struct smoe_step_optimizer optimizer;
    double gradient_divisor, clip_norm, dense_square_norm;
};

struct smoe_msg_step_done {
    uint64_t step, epoch;
    double clip_scale, square_norm;
};

struct smoe_msg_discard {
    uint64_t batch, attempt;
};
struct smoe_msg_need {
    uint64_t attempt;
    smoe_sentence reason;
};
struct smoe_msg_restore {
    uint64_t step, attempt;
};

struct smoe_msg_freeze {
    uint64_t request;
    uint32_t layer;
    struct smoe_frozen_head router; /* version > 0 */
};
struct smoe_msg_router_query {
    uint64_t request;
    uint32_t layer;
};
struct smoe_msg_router_state {
    uint64_t request;
    uint32_t layer;
    struct smoe_frozen_head router; /* version 0: none is frozen */
};

struct smoe_msg_routing_report {
    uint32_t layer;
    smoe_name router;
    uint64_t step, tokens;
    double changed, agreement, fluctuation_20, fluctuation_50, fluctuation_80; /* -1: not known */
};

struct smoe_msg_expert_fetch {
    uint64_t request;
    uint32_t layer, expert, parts;
};
struct smoe_msg_expert_state {
    uint64_t request;
    uint32_t layer, expert, parts;
    uint64_t step;
    uint64_t offset, length; /* elements, of a sharded layer; length 0: all of them */
    uint64_t series;
};
struct smoe_msg_expert_store {
    uint64_t request;
    uint32_t layer, expert, parts;
    uint64_t step;
    uint64_t attempt; /* to a worker */
};
struct smoe_msg_expert_stored {
    uint64_t request;
    uint32_t layer, expert;
};

struct smoe_inventory_layer {
    smoe_name name;
    uint64_t run, step;
    struct smoe_layer_shape shape;
    const uint32_t *experts; /* [n_experts], rising */
    size_t n_experts;
    uint64_t staged_step, staged_attempt;
    uint64_t attempt;          /* in which `step` was committed or restored */
    struct smoe_pieces pieces; /* of a sharded layer */
};
struct smoe_msg_inventory {
    const struct smoe_inventory_layer *layers; /* borrowed until the next decode */
    size_t n_layers;
};

struct smoe_msg_host {
    uint32_t layer;
    smoe_name name;
    uint64_t run;
    struct smoe_layer_shape shape;
    const uint32_t *experts; /* [n_experts], rising; borrowed until the next decode */
    size_t n_experts;
    const uint32_t *copies; /* [n_copies], rising, none of `experts`; as above */
    size_t n_copies;
    uint64_t step, attempt;
    bool fresh;
    uint32_t number; /* that Hosted names */
    /* Sharded layers: `experts` are slots, `copies` those that stay as they are: none without staleness. */
    bool sharded;
    struct smoe_pieces pieces; /* owned, then followed, then to be filled: each rises */
    uint32_t pieces_owned, pieces_followed;
    uint32_t replicas; /* hosts of all experts together, 0..SMOE_LAYER_REPLICAS_MAX */
};
struct smoe_msg_hosted {
    uint32_t layer;
    int32_t code;
    smoe_sentence message;
    uint32_t number; /* of the Host; 0: of the latest */
    uint32_t staleness;
};

struct smoe_parcel_head {
    uint64_t id;
    uint32_t layer, expert, rows;
    bool keep;
    bool older;    /* by the weights before those of the layer's step */
    uint64_t step; /* that will commit it; 0: it is of an evaluation */
};
struct smoe_msg_decision {
    uint64_t sequence, epoch, freq_khz;
    const struct smoe_parcel_head *parcels; /* borrowed until the next decode */
    size_t n_parcels;
};

struct smoe_msg_output {
    uint64_t parcel;
};
struct smoe_msg_backprop {
    const uint64_t *parcels; /* borrowed until the next decode */
    size_t n_parcels;
    uint64_t sequence;
};
struct smoe_msg_parcel_gradient {
    uint64_t parcel;
};
struct smoe_msg_reset {
    const uint32_t *layers; /* [n_layers], rising; borrowed until the next decode */
    size_t n_layers;
    uint64_t attempt;
};

struct smoe_msg_forget {
    const uint64_t *parcels; /* borrowed until the next decode */
    size_t n_parcels;
};

struct smoe_msg_evicted {
    const uint64_t *parcels; /* borrowed until the next decode */
    size_t n_parcels;
};
struct smoe_msg_parcel_inputs {
    const uint64_t *parcels; /* borrowed until the next decode */
    size_t n_parcels;
};

#define SMOE_METER_LOST \
    "lost" /* energy_source: the meter cannot be read now, and joules stand still */

struct smoe_msg_report {
    uint64_t sequence;
    uint64_t queue_forward_flops, queue_backward_flops;
    uint64_t forward_visits, backward_visits;
    uint64_t forward_flops, backward_flops;
    uint64_t forward_cycles, backward_cycles;
    uint64_t busy_ns, active_ns;
    double joules;
    char energy_source[16];
    uint64_t freq_khz;
    double freq_max_hz, temperature_c;
    uint64_t kept_bytes, cycles;
    uint64_t freq_requested_khz, freq_achieved_khz;
    char driver_note[160];
    uint64_t forward_row_flops, backward_row_flops;
};

struct smoe_layer_experts {
    uint32_t layer;
    const uint32_t *experts; /* [n] rising */
    size_t n;
};
struct smoe_layer_hosts {
    uint32_t layer;
    const uint32_t *hosts; /* [n] of each expert, 1..SMOE_EXPERTS_MAX */
    size_t n;
};
struct smoe_msg_step_prepare {
    uint64_t step, attempt;
    const uint32_t *layers; /* [n_layers], borrowed until the next decode */
    size_t n_layers;
    double gradient_divisor;
    struct smoe_step_optimizer optimizer;
    uint32_t owner;
    const struct smoe_layer_experts *gradients; /* [n_gradients], as layers */
    size_t n_gradients;
    const struct smoe_layer_hosts *hosts; /* [n_hosts] of sharded layers, as layers */
    size_t n_hosts;
};
struct smoe_msg_step_gradient {
    uint64_t step, attempt;
    uint32_t layer, expert, owner;
};

struct smoe_layer_norms {
    uint32_t layer;
    const uint32_t *experts;    /* [n] rising */
    const double *square_norms; /* [n] */
    size_t n;
};
struct smoe_msg_step_norm {
    uint64_t step, attempt;
    const struct smoe_layer_norms *layers; /* borrowed until the next decode */
    size_t n_layers;
    uint32_t owner;
    double shards; /* square norm of what it owns of sharded layers; -1 if not finite */
};
struct smoe_msg_step_stage {
    uint64_t step, attempt;
    double clip_scale;
    uint32_t owner;
};
struct smoe_msg_step_staged {
    uint64_t step, attempt;
    uint32_t owner;
};
struct smoe_msg_step_commit {
    uint64_t step, attempt, epoch;
    uint32_t owner;
};

struct smoe_message {
    enum smoe_message_type type;
    union {
#define X(symbol, number, field, pb, senders, raw) struct smoe_msg_##field field;
        SMOE_MESSAGE_MAP(X)
#undef X
    };
};

enum smoe_raw_part { SMOE_RAW_NONE, SMOE_RAW_OPTIONAL, SMOE_RAW_MUST };

/* Makes it an empty message of the type: what belongs to other types is left as it is, for the largest is
 * ten times as large as what is sent most. */
void smoe_message_clear(struct smoe_message *message, enum smoe_message_type type);

/* Name of a type ("SUBMIT") or NULL. */
const char *smoe_message_name(uint16_t type);

/* Refuses a frame by its header alone, before anything is allocated: unknown type, a sender that may
 * not send it (`side`, one SMOE_* bit), a protobuf part over `body_bytes_max`, a raw part where there is
 * none, none where there must be one, or one over `tensor_bytes_max`. */
int smoe_message_admit(uint16_t type, uint32_t body_bytes, uint32_t tensor_bytes, unsigned side,
                       uint32_t body_bytes_max, uint64_t tensor_bytes_max, struct smoe_why *why);

/* Refuses a placement as decoding one does, in a sentence about `placement`: it comes from a file. */
int smoe_placement_check(const struct smoe_placement *placement, struct smoe_why *why);

/* Scratch memory for coding: one a machine, reused for every message. */
struct smoe_wire;
int smoe_wire_new(struct smoe_wire **ret);
void smoe_wire_free(struct smoe_wire *wire);

/* Changes with every decode: arrays of an earlier message are gone when it differs. */
uint64_t smoe_wire_generation(const struct smoe_wire *wire);

/* A message to decode into, the same at every call: for those that need it no longer than its arrays. */
struct smoe_message *smoe_wire_message(struct smoe_wire *wire);

/* Packs a message. The bytes are valid until the next encode with this wire. Returns SMOE_ETOOBIG if
 * they exceed SMOE_CONTROL_BYTES_MAX. The message is trusted. */
int smoe_wire_encode(struct smoe_wire *wire, const struct smoe_message *message,
                     const uint8_t **ret_body, size_t *ret_bytes);

/* Unpacks and validates. Arrays in *ret_message are valid until the next decode with this wire.
 * SMOE_EMALFORMED, SMOE_EFIELD or SMOE_ENOTFINITE with a sentence that names message and field. */
int smoe_wire_decode(struct smoe_wire *wire, uint16_t type, const uint8_t *body, size_t bytes,
                     struct smoe_message *ret_message, struct smoe_why *why);

#endif
