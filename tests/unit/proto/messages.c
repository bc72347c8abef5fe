/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proto/messages.h"

#include <stdio.h>
#include <string.h>

#define U32_MAX        UINT32_MAX
#define U64_MAX        UINT64_MAX
#define BATCH_MAX      ((UINT64_C(1) << 48) - 1)
#define LAYER_MAX      63
#define EXPERT_MAX     1023
#define SENTENCE_MAX   239
#define PARAMETERS_MAX (UINT64_C(1) << 34)
#define WORKERS_MAX    16384

#define AT(path) offsetof(struct smoe_message, path)
#define FIELD(TYPE, path, KIND, ...)                                             \
    {                                                                            \
        SMOE_MSG_##TYPE, #TYPE "." #path, MESSAGES_##KIND, AT(path), __VA_ARGS__ \
    }
#define U32(TYPE, path, lo, hi)  FIELD(TYPE, path, U32, .from = (lo), .to = (hi))
#define U64(TYPE, path, lo, hi)  FIELD(TYPE, path, U64, .from = (lo), .to = (hi))
#define ENUM(TYPE, path, lo, hi) FIELD(TYPE, path, ENUM, .from = (lo), .to = (hi))
#define F64(TYPE, path, lo, hi)  FIELD(TYPE, path, F64, .real_from = (lo), .real_to = (hi))
#define FRACTION(TYPE, path)     FIELD(TYPE, path, FRACTION, .real_from = 0, .real_to = 1)
#define BOOL(TYPE, path)         FIELD(TYPE, path, BOOL, .from = 0, .to = 1)
#define NAME(TYPE, path)         FIELD(TYPE, path, NAME, .from = 1, .to = 63)
#define TEXT(TYPE, path, hi)     FIELD(TYPE, path, TEXT, .from = 0, .to = (hi))

#define SHAPE(TYPE, path)                                                 \
    U32(TYPE, path.experts, 1, 1024), U32(TYPE, path.d_model, 1, 65536),  \
        U32(TYPE, path.d_ff, 1, 65536), U32(TYPE, path.activation, 1, 3), \
        ENUM(TYPE, path.dtype, 1, 2), U32(TYPE, path.optimizer, 1, 2),    \
        U64(TYPE, path.seed, 0, U64_MAX), BOOL(TYPE, path.zero_output),   \
        ENUM(TYPE, path.wire, 0, 1), U32(TYPE, path.staleness, 0, 1)

#define OPTIMIZER(TYPE, path)                                                                  \
    U32(TYPE, path.kind, 1, 2), F64(TYPE, path.learning_rate, 0, 1e6),                         \
        FRACTION(TYPE, path.momentum), FRACTION(TYPE, path.beta1), FRACTION(TYPE, path.beta2), \
        F64(TYPE, path.epsilon, 1e-300, 1), F64(TYPE, path.weight_decay, 0, 1e6)

#define HEAD(TYPE, path, least)                                          \
    U64(TYPE, path.version, least, U64_MAX), U32(TYPE, path.kind, 1, 2), \
        U32(TYPE, path.inputs, 1, 1u << 20), U64(TYPE, path.digest, 0, U64_MAX)

#define STATE(TYPE, path)                                                     \
    U64(TYPE, path.request, 0, U64_MAX), U32(TYPE, path.layer, 0, LAYER_MAX), \
        U32(TYPE, path.expert, 0, EXPERT_MAX)

#define VISITS(TYPE, path)                                                    \
    U64(TYPE, path.batch, 1, BATCH_MAX), U64(TYPE, path.attempt, 0, U64_MAX), \
        U32(TYPE, path.expert, 0, EXPERT_MAX), U32(TYPE, path.rows, 1, 4096)

#define STEP(TYPE, path)                                                   \
    U64(TYPE, path.step, 0, U64_MAX), U64(TYPE, path.attempt, 0, U64_MAX), \
        U32(TYPE, path.owner, 0, U32_MAX)

#define KEY(TYPE, path)                                                         \
    U64(TYPE, path.words[0], 0, U64_MAX), U64(TYPE, path.words[1], 0, U64_MAX), \
        U64(TYPE, path.words[2], 0, U64_MAX), U64(TYPE, path.words[3], 0, U64_MAX)

#define SHARD(TYPE, path)                                                                         \
    U64(TYPE, path.number, 0, U64_MAX), ENUM(TYPE, path.kind, 1, 3),                              \
        U32(TYPE, path.layer, 0, LAYER_MAX), U32(TYPE, path.expert, 0, EXPERT_MAX),               \
        U64(TYPE, path.offset, 0, PARAMETERS_MAX - 1), U64(TYPE, path.length, 1, PARAMETERS_MAX), \
        U32(TYPE, path.rank, 0, EXPERT_MAX), U64(TYPE, path.step, 0, U64_MAX),                    \
        U64(TYPE, path.attempt, 0, U64_MAX), U64(TYPE, path.fill, 0, U64_MAX)

const struct messages_field messages_fields[] = {
    U32(HELLO, hello.protocol_min, 1, U32_MAX),
    U32(HELLO, hello.protocol_max, 1, U32_MAX),
    ENUM(HELLO, hello.role, 1, 2),
    NAME(HELLO, hello.name),
    U64(HELLO, hello.incarnation, 1, U64_MAX),
    TEXT(HELLO, hello.software, 63),
    F64(HELLO, hello.freq_max_hz, 1, 1e12),
    U64(HELLO, hello.inbox_bytes_max, 1u << 20, UINT64_C(1) << 50),
    U32(HELLO, hello.lanes, 1, 256),
    F64(HELLO, hello.busy_watts, 0, 1e6),
    F64(HELLO, hello.budget_watts, 0, 1e6),
    F64(HELLO, hello.cap_watts, 0, 1e6),
    NAME(HELLO, hello.freq_driver),
    U64(HELLO, hello.memory_bytes, 0, UINT64_C(1) << 50),
    U32(HELLO, hello.expert_slots, 0, 1024),
    TEXT(HELLO, hello.peer_address, 63),

    U32(WELCOME, welcome.protocol, 1, 1),
    U64(WELCOME, welcome.epoch, 0, U64_MAX),
    U32(WELCOME, welcome.slot_us, 1, 60000000),
    U64(WELCOME, welcome.tensor_bytes_max, 1, 1u << 30),
    U32(WELCOME, welcome.silence_ms_max, 4, 3600000),
    U64(WELCOME, welcome.attempt, 0, U64_MAX),
    U64(WELCOME, welcome.credit.bytes_total, 0, U64_MAX),
    U64(WELCOME, welcome.credit.visits_total, 0, U64_MAX),
    U64(WELCOME, welcome.iteration_bytes_max, 0, U64_MAX),
    TEXT(WELCOME, welcome.software, 63),
    TEXT(WELCOME, welcome.policy, 63),

    FIELD(ERROR, error.code, I32, .from = 0, .to = 0),
    TEXT(ERROR, error.message, SENTENCE_MAX),
    BOOL(ERROR, error.fatal),
    U64(ERROR, error.batch, 0, U64_MAX),
    U64(ERROR, error.request, 0, U64_MAX),

    U64(PING, ping.nonce, 0, U64_MAX),
    U64(PONG, pong.nonce, 0, U64_MAX),
    TEXT(BYE, bye.reason, SENTENCE_MAX),

    U64(LAYER_DECLARE, layer_declare.request, 0, U64_MAX),
    NAME(LAYER_DECLARE, layer_declare.name),
    U64(LAYER_DECLARE, layer_declare.run, 1, U64_MAX),
    BOOL(LAYER_DECLARE, layer_declare.evaluate_only),
    U64(LAYER_DECLARE, layer_declare.step, 0, U64_MAX),
    SHAPE(LAYER_DECLARE, layer_declare.shape),

    U64(LAYER_READY, layer_ready.request, 0, U64_MAX),
    U32(LAYER_READY, layer_ready.layer, 0, LAYER_MAX),
    U64(LAYER_READY, layer_ready.run, 0, U64_MAX),
    U64(LAYER_READY, layer_ready.step, 0, U64_MAX),
    SHAPE(LAYER_READY, layer_ready.shape),
    HEAD(LAYER_READY, layer_ready.router, 0),

    U64(SUBMIT, submit.batch, 1, BATCH_MAX),
    U64(SUBMIT, submit.attempt, 0, U64_MAX),
    U32(SUBMIT, submit.layer, 0, LAYER_MAX),
    U32(SUBMIT, submit.tokens, 1, 262144),
    U32(SUBMIT, submit.top_k, 1, 8),
    BOOL(SUBMIT, submit.needs_gradient),
    BOOL(SUBMIT, submit.routed),
    U64(SUBMIT, submit.router_version, 0, U64_MAX),
    U64(SUBMIT, submit.router_digest, 0, U64_MAX),
    BOOL(SUBMIT, submit.ahead),
    U64(SUBMIT, submit.base, 0, U64_MAX),

    VISITS(RESULT, result),
    VISITS(INPUT_GRADIENT, input_gradient),
    U64(GRADIENT, gradient.batch, 1, BATCH_MAX),
    U64(GRADIENT, gradient.attempt, 0, U64_MAX),
    U64(NEED_INPUTS, need_inputs.batch, 1, BATCH_MAX),
    U64(NEED_INPUTS, need_inputs.attempt, 0, U64_MAX),
    U64(INPUTS, inputs.batch, 1, BATCH_MAX),
    U64(INPUTS, inputs.attempt, 0, U64_MAX),

    U64(STEP, step.step, 1, U64_MAX),
    U64(STEP, step.attempt, 0, U64_MAX),
    OPTIMIZER(STEP, step.optimizer),
    F64(STEP, step.gradient_divisor, 1e-30, 1e30),
    F64(STEP, step.clip_norm, 0, 1e30),
    F64(STEP, step.dense_square_norm, 0, 1e60),

    U64(STEP_DONE, step_done.step, 1, U64_MAX),
    U64(STEP_DONE, step_done.epoch, 0, U64_MAX),
    F64(STEP_DONE, step_done.clip_scale, 0, 1),
    F64(STEP_DONE, step_done.square_norm, 0, 1e300),

    U64(DISCARD, discard.batch, 1, BATCH_MAX),
    U64(DISCARD, discard.attempt, 0, U64_MAX),
    U64(CREDIT, credit.bytes_total, 0, U64_MAX),
    U64(CREDIT, credit.visits_total, 0, U64_MAX),
    U64(NEED, need.attempt, 0, U64_MAX),
    TEXT(NEED, need.reason, SENTENCE_MAX),
    U64(RESTORE, restore.step, 0, U64_MAX),
    U64(RESTORE, restore.attempt, 0, U64_MAX),

    U64(FREEZE, freeze.request, 0, U64_MAX),
    U32(FREEZE, freeze.layer, 0, LAYER_MAX),
    HEAD(FREEZE, freeze.router, 1),
    U64(ROUTER_QUERY, router_query.request, 0, U64_MAX),
    U32(ROUTER_QUERY, router_query.layer, 0, LAYER_MAX),
    U64(ROUTER_STATE, router_state.request, 0, U64_MAX),
    U32(ROUTER_STATE, router_state.layer, 0, LAYER_MAX),
    HEAD(ROUTER_STATE, router_state.router, 0),
    U32(ROUTING_REPORT, routing_report.layer, 0, LAYER_MAX),
    NAME(ROUTING_REPORT, routing_report.router),
    U64(ROUTING_REPORT, routing_report.step, 0, U64_MAX),
    U64(ROUTING_REPORT, routing_report.tokens, 1, U64_MAX),
    F64(ROUTING_REPORT, routing_report.changed, -1, 1),
    F64(ROUTING_REPORT, routing_report.agreement, -1, 1),
    F64(ROUTING_REPORT, routing_report.fluctuation_20, -1, 1),
    F64(ROUTING_REPORT, routing_report.fluctuation_50, -1, 1),
    F64(ROUTING_REPORT, routing_report.fluctuation_80, -1, 1),

    U64(PLACEMENT_FETCH, placement_fetch.request, 0, U64_MAX),
    U32(PLACEMENT_FETCH, placement_fetch.layer, 0, LAYER_MAX),
    U64(PLACEMENT, placement.request, 0, U64_MAX),
    U32(PLACEMENT, placement.layer, 0, LAYER_MAX),
    U32(PLACEMENT, placement.placement.interval, 0, 1000000),
    F64(PLACEMENT, placement.placement.covariance, -1e4, 1e4),
    F64(PLACEMENT, placement.placement.variance, 0, 1e4),

    STATE(EXPERT_FETCH, expert_fetch),
    U32(EXPERT_FETCH, expert_fetch.parts, 1, 15),
    STATE(EXPERT_STATE, expert_state),
    U32(EXPERT_STATE, expert_state.parts, 1, 15),
    U64(EXPERT_STATE, expert_state.step, 0, U64_MAX),
    U64(EXPERT_STATE, expert_state.offset, 0, PARAMETERS_MAX - 1),
    U64(EXPERT_STATE, expert_state.length, 0, PARAMETERS_MAX),
    U64(EXPERT_STATE, expert_state.series, 0, U64_MAX),
    STATE(EXPERT_STORE, expert_store),
    U32(EXPERT_STORE, expert_store.parts, 3, 3),
    U64(EXPERT_STORE, expert_store.step, 0, U64_MAX),
    U64(EXPERT_STORE, expert_store.attempt, 0, U64_MAX),
    STATE(EXPERT_STORED, expert_stored),

    U32(HOST, host.layer, 0, LAYER_MAX),
    NAME(HOST, host.name),
    U64(HOST, host.run, 1, U64_MAX),
    SHAPE(HOST, host.shape),
    U64(HOST, host.step, 0, U64_MAX),
    U64(HOST, host.attempt, 0, U64_MAX),
    BOOL(HOST, host.fresh),
    U32(HOST, host.number, 0, U32_MAX),
    BOOL(HOST, host.sharded),
    U32(HOSTED, hosted.layer, 0, LAYER_MAX),
    FIELD(HOSTED, hosted.code, I32, .from = 0, .to = 1),
    TEXT(HOSTED, hosted.message, SENTENCE_MAX),
    U32(HOSTED, hosted.number, 0, U32_MAX),
    U32(HOSTED, hosted.staleness, 0, 1),

    U64(DECISION, decision.sequence, 1, U64_MAX),
    U64(DECISION, decision.epoch, 0, U64_MAX),
    U64(DECISION, decision.freq_khz, 0, 1000000000),
    U64(OUTPUT, output.parcel, 1, U64_MAX),
    U64(BACKPROP, backprop.sequence, 0, U64_MAX),
    U64(PARCEL_GRADIENT, parcel_gradient.parcel, 1, U64_MAX),
    U64(RESET, reset.attempt, 0, U64_MAX),

    U64(REPORT, report.sequence, 0, U64_MAX),
    U64(REPORT, report.queue_forward_flops, 0, U64_MAX),
    U64(REPORT, report.queue_backward_flops, 0, U64_MAX),
    U64(REPORT, report.forward_visits, 0, U64_MAX),
    U64(REPORT, report.backward_visits, 0, U64_MAX),
    U64(REPORT, report.forward_flops, 0, U64_MAX),
    U64(REPORT, report.backward_flops, 0, U64_MAX),
    U64(REPORT, report.forward_cycles, 0, U64_MAX),
    U64(REPORT, report.backward_cycles, 0, U64_MAX),
    U64(REPORT, report.busy_ns, 0, U64_MAX),
    U64(REPORT, report.active_ns, 0, U64_MAX),
    F64(REPORT, report.joules, 0, 1e15),
    TEXT(REPORT, report.energy_source, 15),
    U64(REPORT, report.freq_khz, 0, 1000000000),
    F64(REPORT, report.freq_max_hz, 1, 1e12),
    F64(REPORT, report.temperature_c, -273.15, 1000),
    U64(REPORT, report.kept_bytes, 0, U64_MAX),
    U64(REPORT, report.cycles, 0, U64_MAX),
    U64(REPORT, report.freq_requested_khz, 0, 1000000000),
    U64(REPORT, report.freq_achieved_khz, 0, 1000000000),
    TEXT(REPORT, report.driver_note, 159),
    U64(REPORT, report.forward_row_flops, 0, U64_MAX),
    U64(REPORT, report.backward_row_flops, 0, U64_MAX),

    STEP(STEP_PREPARE, step_prepare),
    OPTIMIZER(STEP_PREPARE, step_prepare.optimizer),
    F64(STEP_PREPARE, step_prepare.gradient_divisor, 1e-30, 1e30),
    STEP(STEP_GRADIENT, step_gradient),
    U32(STEP_GRADIENT, step_gradient.layer, 0, LAYER_MAX),
    U32(STEP_GRADIENT, step_gradient.expert, 0, EXPERT_MAX),
    STEP(STEP_NORM, step_norm),
    F64(STEP_NORM, step_norm.shards, -1, 1e300),
    STEP(STEP_STAGE, step_stage),
    F64(STEP_STAGE, step_stage.clip_scale, 0, 1),
    STEP(STEP_STAGED, step_staged),
    STEP(STEP_COMMIT, step_commit),
    U64(STEP_COMMIT, step_commit.epoch, 0, U64_MAX),

    SHARD(SHARD_ASK, shard_ask),
    BOOL(SHARD_ASK, shard_ask.send),
    BOOL(SHARD_ASK, shard_ask.others),
    BOOL(SHARD_ASK, shard_ask.keep),
    BOOL(SHARD_ASK, shard_ask.older),
    SHARD(SHARD_PART, shard_part),
    U32(SHARD_PART, shard_part.again, 0, WORKERS_MAX),
    BOOL(SHARD_PART, shard_part.older),
    U64(SHARD_TAKEN, shard_taken.number, 0, U64_MAX),

    U32(PEER, peer.peer, 0, WORKERS_MAX - 1),
    NAME(PEER, peer.name),
    TEXT(PEER, peer.address, 63),
    U64(PEER, peer.link, 0, U64_MAX),
    KEY(PEER, peer.key),
    BOOL(PEER, peer.dial),
    U32(LINK_STATE, link_state.peer, 0, WORKERS_MAX - 1),
    U64(LINK_STATE, link_state.link, 0, U64_MAX),
    BOOL(LINK_STATE, link_state.up),
    U32(SHARD_DUE, shard_due.from, 0, WORKERS_MAX - 1),
    SHARD(SHARD_DUE, shard_due.part),
    U64(SHARD_SENT, shard_sent.number, 0, U64_MAX),
    U64(LINK_HELLO, link_hello.link, 1, U64_MAX),
    KEY(LINK_HELLO, link_hello.key),
    U64(LINK_PART, link_part.number, 0, U64_MAX),
    U64(LINK_TAKEN, link_taken.number, 0, U64_MAX),
};
const size_t messages_n_fields = sizeof messages_fields / sizeof *messages_fields;

const uint16_t messages_types[] = {
#define X(symbol, number, field, pb, senders, raw) number,
    SMOE_MESSAGE_MAP(X)
#undef X
};
const size_t messages_n_types = sizeof messages_types / sizeof *messages_types;

/* ---- random values ---- */

static bool one_in(struct smoe_rng *rng, uint64_t n)
{
    return smoe_rng_below(rng, n) == 0;
}

/* Limits often, small numbers often, else anything between. */
static uint64_t random_u64(struct smoe_rng *rng, uint64_t from, uint64_t to)
{
    if (one_in(rng, 4))
        return one_in(rng, 2) ? from : to;
    uint64_t span = to - from;
    uint64_t any = span == U64_MAX ? smoe_rng_u64(rng) : smoe_rng_below(rng, span + 1);
    return from + (any >> smoe_rng_below(rng, 64));
}

static double random_double(struct smoe_rng *rng, double from, double to)
{
    if (one_in(rng, 4))
        return one_in(rng, 2) ? from : to;
    double unit = smoe_rng_unit(rng);
    for (uint64_t halvings = smoe_rng_below(rng, 64); halvings; halvings--)
        unit /= 2;
    return from + unit * (to - from);
}

static void random_name(struct smoe_rng *rng, char *ret)
{
    static const char legal[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    uint64_t n = random_u64(rng, 1, SMOE_NAME_MAX);
    for (uint64_t i = 0; i < n; i++)
        ret[i] = legal[smoe_rng_below(rng, sizeof legal - (i ? 1 : 3))]; /* no '-', '.' in front */
    ret[n] = 0;
}

static void random_text(struct smoe_rng *rng, char *ret, uint64_t most)
{
    uint64_t n = random_u64(rng, 0, most);
    for (uint64_t i = 0; i < n; i++)
        ret[i] = (char)(0x20 + smoe_rng_below(rng, 0x7f - 0x20));
    ret[n] = 0;
}

static void random_field(struct smoe_rng *rng, const struct messages_field *f,
                         struct smoe_message *ret)
{
    void *at = (uint8_t *)ret + f->offset;
    uint64_t u64 = random_u64(rng, f->from, f->to);
    uint32_t u32 = (uint32_t)u64;
    int32_t i32 =
        (int32_t)f->to - 1 - (int32_t)(smoe_rng_u64(rng) >> 33 >> smoe_rng_below(rng, 32));
    double f64 = random_double(rng, f->real_from, f->real_to);
    bool set = u64 != 0;
    switch (f->kind) {
    case MESSAGES_U32:
    case MESSAGES_ENUM:
        memcpy(at, &u32, sizeof u32);
        break;
    case MESSAGES_U64:
        memcpy(at, &u64, sizeof u64);
        break;
    case MESSAGES_I32:
        memcpy(at, &i32, sizeof i32);
        break;
    case MESSAGES_BOOL:
        memcpy(at, &set, sizeof set);
        break;
    case MESSAGES_FRACTION:
        f64 = f64 < 1 ? f64 : 0x1.fffffffffffffp-1;
        memcpy(at, &f64, sizeof f64);
        break;
    case MESSAGES_F64:
        memcpy(at, &f64, sizeof f64);
        break;
    case MESSAGES_NAME:
        random_name(rng, at);
        break;
    case MESSAGES_TEXT:
        random_text(rng, at, f->to);
        break;
    }
}

/* ---- arrays ---- */

/* Indices below `bound` in rising order, at most `most`. */
static size_t random_rising(struct smoe_rng *rng, uint32_t bound, uint64_t most, uint32_t *ret)
{
    uint64_t wanted = random_u64(rng, 0, most < bound ? most : bound);
    size_t n = 0;
    for (uint32_t i = 0; i < bound && n < wanted; i++)
        if (smoe_rng_below(rng, bound - i) < wanted - n)
            ret[n++] = i;
    return n;
}

static struct smoe_pieces random_pieces(struct smoe_rng *rng, struct messages_room *room,
                                        size_t *used)
{
    struct smoe_pieces p = {room->offsets + *used, room->lengths + *used,
                            random_u64(rng, 0, SMOE_WORKER_PIECES_MAX - *used)};
    for (size_t i = *used; i < *used + p.n; i++) {
        room->offsets[i] = random_u64(rng, 0, PARAMETERS_MAX - 1);
        room->lengths[i] = random_u64(rng, 1, PARAMETERS_MAX);
    }
    *used += p.n;
    return p;
}

static void random_inventory(struct smoe_rng *rng, struct messages_room *room,
                             struct smoe_msg_inventory *m)
{
    size_t used = 0, pieces = 0;
    m->layers = room->layers;
    m->n_layers = random_u64(rng, 0, SMOE_LAYERS_MAX);
    for (size_t i = 0; i < m->n_layers; i++) {
        struct smoe_message host; /* an InventoryLayer has a Host's fields */
        messages_random(rng, SMOE_MSG_HOST, room, &host);
        struct smoe_inventory_layer *l = &room->layers[i];
        *l = (struct smoe_inventory_layer){.run = host.host.run,
                                           .step = smoe_rng_u64(rng),
                                           .shape = host.host.shape,
                                           .staged_step = random_u64(rng, 0, U64_MAX),
                                           .staged_attempt = random_u64(rng, 0, U64_MAX),
                                           .attempt = random_u64(rng, 0, U64_MAX)};
        memcpy(l->name, host.host.name, sizeof l->name);
    }
    for (size_t i = 0; i < m->n_layers; i++) {
        struct smoe_inventory_layer *l = &room->layers[i];
        l->experts = room->indices + used;
        l->n_experts = random_rising(rng, l->shape.experts, SMOE_WORKER_EXPERTS_MAX - used,
                                     room->indices + used);
        used += l->n_experts;
        l->pieces = random_pieces(rng, room, &pieces);
    }
}

static void random_norms(struct smoe_rng *rng, struct messages_room *room,
                         struct smoe_msg_step_norm *m)
{
    size_t used = 0;
    m->layers = room->layer_norms;
    m->n_layers = random_u64(rng, 0, SMOE_LAYERS_MAX);
    for (size_t i = 0; i < m->n_layers; i++) {
        size_t n = random_rising(rng, SMOE_EXPERTS_MAX, SMOE_WORKER_EXPERTS_MAX - used,
                                 room->indices + used);
        for (size_t e = 0; e < n; e++)
            room->norms[used + e] = random_double(rng, -1, 1e300);
        room->layer_norms[i] =
            (struct smoe_layer_norms){(uint32_t)smoe_rng_below(rng, SMOE_LAYERS_MAX),
                                      room->indices + used, room->norms + used, n};
        used += n;
    }
}

static void random_peers(struct smoe_rng *rng, struct smoe_peer_list *list)
{
    uint32_t next = 0;
    list->n = (uint32_t)random_u64(rng, 0, SMOE_TRANSFER_PEERS_MAX);
    for (uint32_t i = 0; i < list->n; i++) {
        uint32_t last = WORKERS_MAX - list->n + i; /* so that those after it have room */
        list->peers[i] = (uint32_t)random_u64(rng, next, last);
        next = list->peers[i] + 1;
    }
}

/* What only sharded layers have. */
static void random_sharded(struct smoe_rng *rng, struct messages_room *room,
                           struct smoe_msg_host *m)
{
    size_t used = 0;
    if (!m->sharded)
        return;
    m->n_copies = m->shape.staleness ? m->n_copies : 0;
    m->pieces = random_pieces(rng, room, &used);
    m->pieces_owned = (uint32_t)random_u64(rng, 0, m->pieces.n);
    m->pieces_followed = (uint32_t)random_u64(rng, 0, m->pieces.n - m->pieces_owned);
    m->replicas = (uint32_t)random_u64(rng, 0, SMOE_LAYER_REPLICAS_MAX);
}

static void random_hosts(struct smoe_rng *rng, struct messages_room *room,
                         struct smoe_msg_step_prepare *m)
{
    size_t used = 0;
    m->hosts = room->layer_hosts;
    m->n_hosts = random_u64(rng, 0, SMOE_LAYERS_MAX);
    for (size_t i = 0; i < m->n_hosts; i++) {
        uint64_t left = SMOE_WORKER_EXPERTS_MAX - used;
        size_t n = random_u64(rng, 0, left < SMOE_EXPERTS_MAX ? left : SMOE_EXPERTS_MAX);
        room->layer_hosts[i] = (struct smoe_layer_hosts){
            (uint32_t)smoe_rng_below(rng, SMOE_LAYERS_MAX), room->hosts + used, n};
        for (size_t e = 0; e < n; e++)
            room->hosts[used++] = (uint32_t)random_u64(rng, 1, SMOE_EXPERTS_MAX);
    }
}

/* Workers with a slot for each of a few experts and more. */
static void random_placement(struct smoe_rng *rng, struct messages_room *room,
                             struct smoe_placement *p)
{
    uint32_t experts = (uint32_t)random_u64(rng, 1, 64), used = 0;
    p->rule = "highest-averages";
    p->n_experts = one_in(rng, 8) ? 0 : experts;
    p->n_workers = p->n_experts ? (uint32_t)random_u64(rng, 0, 40) : 0;
    for (uint32_t e = 0; e < p->n_experts; e++)
        room->shares[e] = 1.0 / experts;
    for (uint32_t w = 0; w < p->n_workers; w++) {
        snprintf(room->names[w], sizeof *room->names, "w%u", w);
        room->workers[w] = room->names[w];
        room->hosts[w] = w ? (uint32_t)random_u64(rng, 1, 8) : experts;
        for (uint32_t q = 0; q < room->hosts[w]; q++, used++)
            room->indices[used] = w ? (uint32_t)random_u64(rng, 0, experts - 1) : experts - 1 - q;
    }
    p->n_slots = used;
    p->workers = room->workers;
    p->slots = room->hosts;
    p->experts = room->indices;
    p->popularity = room->shares;
    p->seen = random_u64(rng, 0, U64_MAX);
    p->planned = random_u64(rng, 0, p->seen < U64_MAX ? p->seen + 1 : p->seen);
}

/* Deals the layer's experts out to its two lists, most of them to neither. */
static void random_host(struct smoe_rng *rng, struct messages_room *room, struct smoe_msg_host *m)
{
    m->experts = room->indices;
    m->copies = room->indices + SMOE_EXPERTS_MAX;
    m->n_experts = m->n_copies = 0;
    uint64_t sides = random_u64(rng, 2, 8);
    for (uint32_t e = 0; e < m->shape.experts; e++) {
        uint64_t side = smoe_rng_below(rng, sides);
        if (side == 0)
            room->indices[m->n_experts++] = e;
        else if (side == 1)
            room->indices[SMOE_EXPERTS_MAX + m->n_copies++] = e;
    }
}

static void random_gradients(struct smoe_rng *rng, struct messages_room *room,
                             struct smoe_msg_step_prepare *m)
{
    size_t used = SMOE_LAYERS_MAX; /* behind the list of layers */
    m->gradients = room->layer_experts;
    m->n_gradients = random_u64(rng, 0, SMOE_LAYERS_MAX);
    for (size_t i = 0; i < m->n_gradients; i++) {
        size_t n = random_rising(rng, SMOE_EXPERTS_MAX, SMOE_WORKER_EXPERTS_MAX - used,
                                 room->indices + used);
        room->layer_experts[i] = (struct smoe_layer_experts){
            (uint32_t)smoe_rng_below(rng, SMOE_LAYERS_MAX), room->indices + used, n};
        used += n;
    }
}

static void random_decision(struct smoe_rng *rng, struct messages_room *room,
                            struct smoe_msg_decision *m)
{
    m->parcels = room->parcels;
    m->n_parcels = random_u64(rng, 0, SMOE_DECISION_PARCELS_MAX);
    for (size_t i = 0; i < m->n_parcels; i++)
        room->parcels[i] = (struct smoe_parcel_head){
            .id = random_u64(rng, 1, U64_MAX),
            .layer = (uint32_t)random_u64(rng, 0, LAYER_MAX),
            .expert = (uint32_t)random_u64(rng, 0, EXPERT_MAX),
            .rows = (uint32_t)random_u64(rng, 1, SMOE_PARCEL_ROWS_MAX),
            .keep = one_in(rng, 2),
            .older = one_in(rng, 2),
            .step = random_u64(rng, 0, U64_MAX),
        };
}

static size_t random_numbers(struct smoe_rng *rng, struct messages_room *room, uint64_t least,
                             uint64_t most)
{
    size_t n = random_u64(rng, least, most);
    for (size_t i = 0; i < n; i++)
        room->numbers[i] = random_u64(rng, 0, U64_MAX);
    return n;
}

static size_t random_layers(struct smoe_rng *rng, struct messages_room *room)
{
    size_t n = random_rising(rng, SMOE_LAYERS_MAX, SMOE_LAYERS_MAX, room->indices);
    if (!n)
        room->indices[n++] = (uint32_t)random_u64(rng, 0, LAYER_MAX);
    return n;
}

static void random_arrays(struct smoe_rng *rng, struct messages_room *room, struct smoe_message *m)
{
    switch ((unsigned)m->type) {
    case SMOE_MSG_HELLO:
        if (m->hello.role != SMOE_ROLE_WORKER)
            break;
        m->hello.n_freq_states = random_u64(rng, 0, SMOE_FREQ_STATES_MAX);
        m->hello.freq_states_khz = room->numbers;
        for (size_t k = 0; k < m->hello.n_freq_states; k++)
            room->numbers[k] = 1000 * (k + 1) + random_u64(rng, 0, 999);
        break;
    case SMOE_MSG_STEP:
        m->step.n_batches = random_numbers(rng, room, 0, SMOE_STEP_BATCHES_MAX);
        m->step.batches = room->numbers;
        break;
    case SMOE_MSG_BACKPROP:
        m->backprop.n_parcels = random_numbers(rng, room, 1, SMOE_DECISION_PARCELS_MAX);
        m->backprop.parcels = room->numbers;
        break;
    case SMOE_MSG_FORGET:
        m->forget.n_parcels = random_numbers(rng, room, 1, SMOE_DECISION_PARCELS_MAX);
        m->forget.parcels = room->numbers;
        break;
    case SMOE_MSG_EVICTED:
        m->evicted.n_parcels = random_numbers(rng, room, 1, SMOE_DECISION_PARCELS_MAX);
        m->evicted.parcels = room->numbers;
        break;
    case SMOE_MSG_PARCEL_INPUTS:
        m->parcel_inputs.n_parcels = random_numbers(rng, room, 1, SMOE_DECISION_PARCELS_MAX);
        m->parcel_inputs.parcels = room->numbers;
        break;
    case SMOE_MSG_RESET:
        m->reset.n_layers = random_layers(rng, room);
        m->reset.layers = room->indices;
        break;
    case SMOE_MSG_STEP_PREPARE:
        m->step_prepare.n_layers = random_layers(rng, room);
        m->step_prepare.layers = room->indices;
        random_gradients(rng, room, &m->step_prepare);
        random_hosts(rng, room, &m->step_prepare);
        break;
    case SMOE_MSG_HOST:
        random_host(rng, room, &m->host);
        random_sharded(rng, room, &m->host);
        break;
    case SMOE_MSG_SHARD_ASK:
        random_peers(rng, &m->shard_ask.peers);
        break;
    case SMOE_MSG_SHARD_PART:
        random_peers(rng, &m->shard_part.direct);
        break;
    case SMOE_MSG_SHARD_SENT:
        random_peers(rng, &m->shard_sent.direct);
        break;
    case SMOE_MSG_INVENTORY:
        random_inventory(rng, room, &m->inventory);
        break;
    case SMOE_MSG_STEP_NORM:
        random_norms(rng, room, &m->step_norm);
        break;
    case SMOE_MSG_DECISION:
        random_decision(rng, room, &m->decision);
        break;
    case SMOE_MSG_PLACEMENT:
        random_placement(rng, room, &m->placement.placement);
        break;
    default:
        break;
    }
}

void messages_random(struct smoe_rng *rng, uint16_t type, struct messages_room *room,
                     struct smoe_message *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->type = (enum smoe_message_type)type;
    for (size_t i = 0; i < messages_n_fields; i++)
        if (messages_fields[i].type == ret->type)
            random_field(rng, &messages_fields[i], ret);
    if (type == SMOE_MSG_HELLO && ret->hello.protocol_max < ret->hello.protocol_min)
        ret->hello.protocol_max = ret->hello.protocol_min;
    if (type == SMOE_MSG_SUBMIT && ret->submit.routed)
        ret->submit.router_version = 0; /* experts are given, or a router chooses them */
    if (type == SMOE_MSG_SUBMIT)
        ret->submit.ahead = ret->submit.ahead && ret->submit.needs_gradient;
    random_arrays(rng, room, ret);
}

/* ---- equality ---- */

/* Parts that do not travel: what a trainer's Hello says of a worker, the shape of a layer that is
 * only attached to, a router where none is frozen. */
static bool travels(const struct smoe_message *m, const struct messages_field *f)
{
    if (m->type == SMOE_MSG_HELLO && m->hello.role != SMOE_ROLE_WORKER)
        return f->offset < AT(hello.freq_max_hz);
    if (m->type == SMOE_MSG_LAYER_DECLARE && m->layer_declare.evaluate_only)
        return f->offset < AT(layer_declare.shape) ||
               f->offset >= AT(layer_declare.shape) + sizeof m->layer_declare.shape;
    if (m->type == SMOE_MSG_LAYER_READY && !m->layer_ready.router.version)
        return f->offset < AT(layer_ready.router);
    if (m->type == SMOE_MSG_ROUTER_STATE && !m->router_state.router.version)
        return f->offset < AT(router_state.router);
    return true;
}

static double real_at(const char *at)
{
    double value;
    memcpy(&value, at, sizeof value);
    return value;
}

static bool same_field(const struct messages_field *f, const struct smoe_message *a,
                       const struct smoe_message *b)
{
    const char *left = (const char *)a + f->offset, *right = (const char *)b + f->offset;
    switch (f->kind) {
    case MESSAGES_U32:
    case MESSAGES_ENUM:
    case MESSAGES_I32:
        return memcmp(left, right, sizeof(uint32_t)) == 0;
    case MESSAGES_U64:
        return memcmp(left, right, sizeof(uint64_t)) == 0;
    case MESSAGES_F64:
    case MESSAGES_FRACTION:
        return real_at(left) == real_at(right);
    case MESSAGES_BOOL:
        return memcmp(left, right, sizeof(bool)) == 0;
    case MESSAGES_NAME:
    case MESSAGES_TEXT:
        return strcmp(left, right) == 0;
    }
    return false;
}

static bool same_array(const void *a, size_t n_a, const void *b, size_t n_b, size_t each)
{
    return n_a == n_b && (n_a == 0 || memcmp(a, b, n_a * each) == 0);
}

static bool same_shape(const struct smoe_layer_shape *a, const struct smoe_layer_shape *b)
{
    return a->experts == b->experts && a->d_model == b->d_model && a->d_ff == b->d_ff &&
           a->activation == b->activation && a->dtype == b->dtype && a->optimizer == b->optimizer &&
           a->seed == b->seed && a->zero_output == b->zero_output && a->wire == b->wire;
}

static bool same_pieces(const struct smoe_pieces *a, const struct smoe_pieces *b)
{
    return same_array(a->offsets, a->n, b->offsets, b->n, sizeof *a->offsets) &&
           same_array(a->lengths, a->n, b->lengths, b->n, sizeof *a->lengths);
}

static bool same_inventory(const struct smoe_msg_inventory *a, const struct smoe_msg_inventory *b)
{
    for (size_t i = 0; i < a->n_layers && a->n_layers == b->n_layers; i++) {
        const struct smoe_inventory_layer *x = &a->layers[i], *y = &b->layers[i];
        if (strcmp(x->name, y->name) != 0 || x->run != y->run || x->step != y->step ||
            x->staged_step != y->staged_step || x->staged_attempt != y->staged_attempt ||
            x->attempt != y->attempt || !same_shape(&x->shape, &y->shape) ||
            !same_array(x->experts, x->n_experts, y->experts, y->n_experts, sizeof *x->experts) ||
            !same_pieces(&x->pieces, &y->pieces))
            return false;
    }
    return a->n_layers == b->n_layers;
}

static bool same_norms(const struct smoe_msg_step_norm *a, const struct smoe_msg_step_norm *b)
{
    for (size_t i = 0; i < a->n_layers && a->n_layers == b->n_layers; i++) {
        const struct smoe_layer_norms *x = &a->layers[i], *y = &b->layers[i];
        if (x->layer != y->layer ||
            !same_array(x->experts, x->n, y->experts, y->n, sizeof *x->experts) ||
            !same_array(x->square_norms, x->n, y->square_norms, y->n, sizeof *x->square_norms))
            return false;
    }
    return a->n_layers == b->n_layers;
}

static bool same_gradients(const struct smoe_msg_step_prepare *a,
                           const struct smoe_msg_step_prepare *b)
{
    for (size_t i = 0; i < a->n_gradients && a->n_gradients == b->n_gradients; i++) {
        const struct smoe_layer_experts *x = &a->gradients[i], *y = &b->gradients[i];
        if (x->layer != y->layer ||
            !same_array(x->experts, x->n, y->experts, y->n, sizeof *x->experts))
            return false;
    }
    return a->n_gradients == b->n_gradients;
}

static bool same_hosts(const struct smoe_msg_step_prepare *a, const struct smoe_msg_step_prepare *b)
{
    for (size_t i = 0; i < a->n_hosts && a->n_hosts == b->n_hosts; i++) {
        const struct smoe_layer_hosts *x = &a->hosts[i], *y = &b->hosts[i];
        if (x->layer != y->layer || !same_array(x->hosts, x->n, y->hosts, y->n, sizeof *x->hosts))
            return false;
    }
    return a->n_hosts == b->n_hosts;
}

static bool same_parcels(const struct smoe_msg_decision *a, const struct smoe_msg_decision *b)
{
    for (size_t i = 0; i < a->n_parcels && a->n_parcels == b->n_parcels; i++) {
        const struct smoe_parcel_head *x = &a->parcels[i], *y = &b->parcels[i];
        if (x->id != y->id || x->layer != y->layer || x->expert != y->expert ||
            x->rows != y->rows || x->keep != y->keep || x->older != y->older || x->step != y->step)
            return false;
    }
    return a->n_parcels == b->n_parcels;
}

static bool same_placement(const struct smoe_placement *a, const struct smoe_placement *b)
{
    for (uint32_t w = 0; w < a->n_workers && a->n_workers == b->n_workers; w++)
        if (strcmp(a->workers[w], b->workers[w]) != 0)
            return false;
    return strcmp(a->rule, b->rule) == 0 && a->seen == b->seen && a->planned == b->planned &&
           same_array(a->slots, a->n_workers, b->slots, b->n_workers, sizeof *a->slots) &&
           same_array(a->experts, a->n_slots, b->experts, b->n_slots, sizeof *a->experts) &&
           same_array(a->popularity, a->n_experts, b->popularity, b->n_experts,
                      sizeof *a->popularity);
}

#define SAME_LIST(a, b, list, n) same_array((a)->list, (a)->n, (b)->list, (b)->n, sizeof *(a)->list)

static bool same_arrays(const struct smoe_message *a, const struct smoe_message *b)
{
    switch ((unsigned)a->type) {
    case SMOE_MSG_HELLO:
        return SAME_LIST(&a->hello, &b->hello, freq_states_khz, n_freq_states);
    case SMOE_MSG_STEP:
        return SAME_LIST(&a->step, &b->step, batches, n_batches);
    case SMOE_MSG_BACKPROP:
        return SAME_LIST(&a->backprop, &b->backprop, parcels, n_parcels);
    case SMOE_MSG_FORGET:
        return SAME_LIST(&a->forget, &b->forget, parcels, n_parcels);
    case SMOE_MSG_EVICTED:
        return SAME_LIST(&a->evicted, &b->evicted, parcels, n_parcels);
    case SMOE_MSG_PARCEL_INPUTS:
        return SAME_LIST(&a->parcel_inputs, &b->parcel_inputs, parcels, n_parcels);
    case SMOE_MSG_RESET:
        return SAME_LIST(&a->reset, &b->reset, layers, n_layers);
    case SMOE_MSG_STEP_PREPARE:
        return SAME_LIST(&a->step_prepare, &b->step_prepare, layers, n_layers) &&
               same_gradients(&a->step_prepare, &b->step_prepare) &&
               same_hosts(&a->step_prepare, &b->step_prepare);
    case SMOE_MSG_HOST:
        return SAME_LIST(&a->host, &b->host, experts, n_experts) &&
               SAME_LIST(&a->host, &b->host, copies, n_copies) &&
               same_pieces(&a->host.pieces, &b->host.pieces) &&
               a->host.pieces_owned == b->host.pieces_owned &&
               a->host.pieces_followed == b->host.pieces_followed &&
               a->host.replicas == b->host.replicas;
    case SMOE_MSG_INVENTORY:
        return same_inventory(&a->inventory, &b->inventory);
    case SMOE_MSG_STEP_NORM:
        return same_norms(&a->step_norm, &b->step_norm);
    case SMOE_MSG_DECISION:
        return same_parcels(&a->decision, &b->decision);
    case SMOE_MSG_PLACEMENT:
        return same_placement(&a->placement.placement, &b->placement.placement);
    default:
        return true;
    }
}

const char *messages_difference(const struct smoe_message *a, const struct smoe_message *b)
{
    if (a->type != b->type)
        return "type";
    for (size_t i = 0; i < messages_n_fields; i++) {
        const struct messages_field *f = &messages_fields[i];
        if (f->type == a->type && travels(a, f) && !same_field(f, a, b))
            return f->name;
    }
    return same_arrays(a, b) ? NULL : "an array";
}
