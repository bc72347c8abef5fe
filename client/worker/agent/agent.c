/* SPDX-License-Identifier: Apache-2.0
 *
 * The link.
 *
 *     DOWN --connected: Hello--> HELLO --Welcome: Inventory--> UP --leave: Bye--> LEAVING
 *       ^__________________________|____________________________|___________________|
 *                                        disconnected
 *
 * The gateway is trusted to decide, not to be well-formed: each message is checked against what is held
 * here, and a message that does not fit ends the connection with an Error that says why. After a
 * reconnection the gateway learns from Inventory what survived here and hosts it again.
 */
#include "client/worker/agent/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"

#define SQRT_3           1.7320508075688772 /* of uniform noise: its width over its deviation */
#define MODEL_STREAM     3
#define OUTBOX_BYTES_MAX (UINT64_C(1) << 40) /* results are bounded by the tensor budget */

/* ---- memory ---- */

int smoe_agent_new(const struct smoe_agent_options *options, struct smoe_agent **ret,
                   struct smoe_why *why)
{
    smoe_assert(options->lanes >= 1 && options->lanes <= SMOE_LANES_MAX && options->incarnation);
    struct smoe_agent *a = calloc(1, sizeof *a);
    if (!a)
        return smoe_fail(why, SMOE_ENOMEMORY, "agent: out of memory");
    struct smoe_list *lists[] = {&a->forward_queue, &a->backward_queue, &a->kept,  &a->starved,
                                 &a->running,       &a->deferred,       &a->peers, &a->links};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        smoe_list_init(lists[i]);
    a->options = *options;
    a->budget.max_bytes = options->tensors_bytes_max;
    a->parcels_max = options->parcels_max ? options->parcels_max : SMOE_AGENT_PARCELS_MAX;
    a->parcels = malloc(a->parcels_max * sizeof *a->parcels); /* each is written as it is taken */
    a->parcel_free = malloc(a->parcels_max * sizeof *a->parcel_free);
    a->tasks = calloc(options->lanes, sizeof *a->tasks);
    a->lane_used = calloc(options->lanes, sizeof *a->lane_used);
    a->dues = calloc(SMOE_TRANSFERS_MAX, sizeof *a->dues);
    if (!a->parcels || !a->parcel_free || !a->tasks || !a->lane_used || !a->dues ||
        smoe_wire_new(&a->wire) || smoe_experts_init(&a->experts, options->experts_bytes_max) ||
        smoe_map_init(&a->parcel_by_id, a->parcels_max, options->incarnation)) {
        smoe_agent_free(a);
        return smoe_fail(why, SMOE_ENOMEMORY, "agent: out of memory");
    }
    for (uint32_t i = 0; i < a->parcels_max; i++)
        a->parcel_free[i] = a->parcels_max - 1 - i;
    a->n_parcel_free = a->parcels_max;
    smoe_agent_set_freq(a, (uint64_t)(options->freq_max_hz / 1000), options->freq_max_hz);
    a->cycles_hz = options->freq_nominal_hz;
    smoe_rng_init(&a->model_rng, options->incarnation, MODEL_STREAM);
    snprintf(a->counters.energy_source, sizeof a->counters.energy_source, "%s",
             *options->energy_source   ? options->energy_source
             : options->busy_watts > 0 ? "model"
                                       : "none");
    *ret = a;
    return 0;
}

static void drop_link_state(struct smoe_agent *a)
{
    a->link = SMOE_LINK_DOWN; /* nothing more can be said */
    a->freq_wanted_khz = 0;   /* nor is what was decided */
    smoe_agent_forget_peers(a);
    smoe_agent_forget_dues(a);
    smoe_agent_drop_deferred(a);
    smoe_channel_release(&a->channel);
    smoe_agent_forget_all(a, SMOE_NO_EXPERT, false);
    smoe_experts_detach(&a->experts);
    memset(a->steps, 0, sizeof a->steps);
}

void smoe_agent_free(struct smoe_agent *a)
{
    if (!a)
        return;
    if (a->link != SMOE_LINK_DOWN)
        drop_link_state(a);
    if (a->parcels)
        smoe_agent_drop_running(a);
    smoe_experts_release(&a->experts);
    smoe_map_release(&a->parcel_by_id);
    smoe_wire_free(a->wire);
    free(a->parcels);
    free(a->parcel_free);
    free(a->tasks);
    free(a->lane_used);
    free(a->dues);
    free(a);
}

/* ---- link ---- */

void smoe_agent_send(struct smoe_agent *a, const struct smoe_message *message,
                     const struct smoe_segment *segments, size_t n_segments)
{
    if (a->link == SMOE_LINK_DOWN || a->speechless)
        return; /* what comes after what could not be said would be misunderstood */
    /* The outbox has no limit of its own, and the message fits by construction: only memory can fail. */
    if (smoe_channel_send(&a->channel, message, segments, n_segments))
        a->speechless = true;
}

bool smoe_agent_speechless(const struct smoe_agent *a)
{
    return a->speechless;
}

void smoe_agent_connected(struct smoe_agent *a, uint64_t now_ns)
{
    smoe_assert(a->link == SMOE_LINK_DOWN);
    a->link = SMOE_LINK_HELLO;
    a->heard_ns = now_ns;
    a->speechless = false;
    smoe_channel_init(&a->channel, a->wire, &a->budget, SMOE_TO_WORKER, OUTBOX_BYTES_MAX);
    a->channel.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    m.hello = (struct smoe_msg_hello){
        .protocol_min = SMOE_PROTOCOL_MIN,
        .protocol_max = SMOE_PROTOCOL_MAX,
        .role = SMOE_ROLE_WORKER,
        .incarnation = a->options.incarnation,
        .freq_max_hz = a->counters.freq_max_hz,
        .inbox_bytes_max = a->options.inbox_bytes_max,
        .lanes = a->options.lanes,
        .busy_watts = *a->options.energy_source ? a->options.busy_watts : 0,
        .budget_watts = a->options.budget_watts,
        .cap_watts = a->options.cap_watts,
        .memory_bytes = a->options.experts_bytes_max,
        .expert_slots = a->options.expert_slots,
    };
    memcpy(m.hello.name, a->options.id, sizeof m.hello.name);
    memcpy(m.hello.software, a->options.software, sizeof m.hello.software);
    memcpy(m.hello.freq_driver, a->options.freq_driver, sizeof m.hello.freq_driver);
    m.hello.freq_states_khz = a->options.freq_states_khz;
    m.hello.n_freq_states = a->options.n_freq_states;
    memcpy(m.hello.peer_address, a->peer_address, sizeof m.hello.peer_address);
    smoe_agent_send(a, &m, NULL, 0);
}

void smoe_agent_disconnected(struct smoe_agent *a)
{
    if (a->link == SMOE_LINK_DOWN)
        return;
    drop_link_state(a);
    if (!smoe_agent_has_work(a))
        a->active_since_ns = 0;
}

void smoe_agent_leave(struct smoe_agent *a, const char *reason)
{
    if (a->link != SMOE_LINK_UP)
        return;
    struct smoe_message m = {.type = SMOE_MSG_BYE};
    snprintf(m.bye.reason, sizeof m.bye.reason, "%s", reason);
    smoe_agent_send(a, &m, NULL, 0);
    a->link = SMOE_LINK_LEAVING;
}

bool smoe_agent_welcomed(const struct smoe_agent *a)
{
    return a->link == SMOE_LINK_UP;
}

static int on_welcome(struct smoe_agent *a, const struct smoe_msg_welcome *m, struct smoe_why *why)
{
    if (m->epoch < a->epoch)
        return smoe_fail(why, SMOE_ESTATE,
                         "WELCOME: epoch %llu is older than %llu, which this worker "
                         "has seen: a second gateway?",
                         (unsigned long long)m->epoch, (unsigned long long)a->epoch);
    a->epoch = m->epoch;
    a->slot_ns = m->slot_us * UINT64_C(1000);
    a->silence_ns = m->silence_ms_max * UINT64_C(1000000);
    a->channel.tensor_bytes_max = m->tensor_bytes_max;
    a->link = SMOE_LINK_UP;
    smoe_agent_send_inventory(a);
    return 0;
}

/* ---- messages ---- */

static int expect(void *context, const struct smoe_message *m, size_t tensor_bytes,
                  struct smoe_why *why)
{
    struct smoe_agent *a = context;
    uint64_t bytes = 0;
    int rc = 0;
    if (a->link != SMOE_LINK_UP)
        return smoe_fail(why, SMOE_ESTATE, "message with a raw part before WELCOME");
    if (m->type == SMOE_MSG_DECISION) {
        rc = smoe_agent_decision_bytes(a, &m->decision, &bytes, why);
    } else if (m->type == SMOE_MSG_BACKPROP) {
        rc = smoe_agent_backprop_bytes(a, &m->backprop, &bytes, why);
    } else if (m->type == SMOE_MSG_PARCEL_INPUTS) {
        rc = smoe_agent_parcel_inputs_bytes(a, &m->parcel_inputs, &bytes, why);
    } else if (m->type == SMOE_MSG_SHARD_PART) {
        if (smoe_agent_due_done(a, m->shard_part.number))
            return SMOE_CHANNEL_SKIP; /* it came over a link */
        rc = smoe_agent_shard_bytes(a, &m->shard_part, &bytes, why);
    } else {
        bool sum = m->type == SMOE_MSG_STEP_GRADIENT;
        if (sum && !smoe_agent_step_wants(a, &m->step_gradient))
            return SMOE_CHANNEL_SKIP; /* of an attempt that was reset */
        uint32_t number = sum ? m->step_gradient.layer : m->expert_store.layer;
        const struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, number);
        if (!layer)
            return smoe_fail(why, SMOE_EUNKNOWN, "EXPERT_STORE: layer %u is not hosted here",
                             number);
        bytes = smoe_experts_state_bytes(layer, sum ? SMOE_STATE_GRADIENT : m->expert_store.parts);
    }
    if (rc == 0 && bytes != tensor_bytes)
        rc = smoe_fail(why, SMOE_ESHAPE, "%s: raw part of %zu bytes, expected %llu",
                       smoe_message_name((uint16_t)m->type), tensor_bytes,
                       (unsigned long long)bytes);
    if (rc == 0)
        smoe_agent_make_room(a, bytes);
    return rc;
}

static int on_error(const struct smoe_msg_error *m, struct smoe_why *why)
{
    return m->fatal ? smoe_fail(why, m->code, "gateway: %s", m->message) : 0;
}

static int deliver(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    struct smoe_agent *a = context;
    if (a->link == SMOE_LINK_HELLO && m->type != SMOE_MSG_WELCOME && m->type != SMOE_MSG_ERROR)
        return smoe_fail(why, SMOE_ESTATE, "%s: before WELCOME",
                         smoe_message_name((uint16_t)m->type));
    if (a->link != SMOE_LINK_HELLO && m->type == SMOE_MSG_WELCOME)
        return smoe_fail(why, SMOE_ESTATE, "WELCOME: came already");
    switch ((unsigned)m->type) {
    case SMOE_MSG_WELCOME:
        return on_welcome(a, &m->welcome, why);
    case SMOE_MSG_HOST:
        smoe_agent_host(a, &m->host);
        return 0;
    case SMOE_MSG_DECISION:
        return smoe_agent_decision(a, &m->decision, blob, why);
    case SMOE_MSG_BACKPROP:
        return smoe_agent_backprop(a, &m->backprop, blob, why);
    case SMOE_MSG_PARCEL_INPUTS:
        return smoe_agent_parcel_inputs(a, &m->parcel_inputs, blob, why);
    case SMOE_MSG_FORGET:
        for (size_t i = 0; i < m->forget.n_parcels; i++)
            smoe_agent_forget(a, m->forget.parcels[i]);
        return 0;
    case SMOE_MSG_RESET:
        smoe_agent_reset(a, &m->reset);
        return 0;
    case SMOE_MSG_STEP_PREPARE:
        return smoe_agent_step_prepare(a, &m->step_prepare, why);
    case SMOE_MSG_STEP_STAGE:
        return smoe_agent_step_stage(a, &m->step_stage, why);
    case SMOE_MSG_STEP_COMMIT:
        smoe_agent_step_commit(a, &m->step_commit);
        return 0;
    case SMOE_MSG_EXPERT_FETCH:
    case SMOE_MSG_EXPERT_STORE:
    case SMOE_MSG_STEP_GRADIENT:
    case SMOE_MSG_SHARD_ASK:
        return smoe_agent_state(a, m, blob, why);
    case SMOE_MSG_SHARD_PART:
        return smoe_agent_due_claim(a, m->shard_part.number) ? smoe_agent_state(a, m, blob, why)
                                                             : 0;
    case SMOE_MSG_SHARD_DUE:
        smoe_agent_due(a, &m->shard_due);
        return 0;
    case SMOE_MSG_PEER:
        smoe_agent_peer_told(a, &m->peer);
        return 0;
    case SMOE_MSG_PING: {
        struct smoe_message pong = {.type = SMOE_MSG_PONG};
        pong.pong.nonce = m->ping.nonce;
        smoe_agent_send(a, &pong, NULL, 0);
        return 0;
    }
    case SMOE_MSG_BYE:
        return smoe_fail(why, SMOE_ECLOSED, "gateway says goodbye: %s", m->bye.reason);
    case SMOE_MSG_ERROR:
        return on_error(&m->error, why);
    case SMOE_MSG_ROUTER_STATE:
        smoe_agent_router_told(a, &m->router_state);
        return 0;
    default:
        return 0; /* PONG */
    }
}

uint8_t *smoe_agent_direct(const struct smoe_agent *a, size_t *ret_room)
{
    return a->link == SMOE_LINK_DOWN ? NULL : smoe_channel_direct(&a->channel, ret_room);
}

int smoe_agent_received(struct smoe_agent *a, const uint8_t *data, size_t n, uint64_t now_ns,
                        struct smoe_why *why)
{
    struct smoe_channel_owner owner = {a, expect, deliver};
    if (a->link == SMOE_LINK_DOWN)
        return smoe_fail(why, SMOE_ESTATE, "not connected");
    a->heard_ns = now_ns;
    int rc = smoe_channel_receive(&a->channel, data, n, &owner, why);
    if (rc && rc != SMOE_ECLOSED)
        smoe_channel_send_error(&a->channel, rc, why->text, true, 0, 0);
    if (smoe_agent_has_work(a) && !a->active_since_ns)
        a->active_since_ns = now_ns;
    return rc;
}

size_t smoe_agent_peek(const struct smoe_agent *a, struct iovec *iovecs, size_t max)
{
    return a->link == SMOE_LINK_DOWN ? 0 : smoe_outbox_peek(&a->channel.out, iovecs, max);
}

void smoe_agent_consume(struct smoe_agent *a, size_t bytes)
{
    smoe_outbox_consume(&a->channel.out, bytes);
}

/* ---- computing ---- */

static uint32_t free_lane(const struct smoe_agent *a)
{
    for (uint32_t i = 0; i < a->options.lanes; i++)
        if (!a->lane_used[i])
            return i;
    return SMOE_LANES_MAX;
}

struct smoe_task *smoe_agent_next_task(struct smoe_agent *a, smoe_real *scratch)
{
    uint32_t lane = free_lane(a);
    if (lane == SMOE_LANES_MAX || !smoe_agent_has_work(a))
        return NULL;
    struct smoe_task *task = &a->tasks[lane];
    memset(task, 0, sizeof *task);
    task->scratch = scratch;
    if (!smoe_agent_start_making(a, task) && !smoe_agent_start_step(a, task) &&
        !smoe_agent_start_parcel(a, task))
        return NULL;
    a->lane_used[lane] = true;
    a->experts.experts[task->expert].busy = true;
    return task;
}

/* The model meter: energy of that much CPU time of one lane at the frequency in force, as inexact as a meter
 * is (uniform noise). [J] */
static double energy_of(struct smoe_agent *a, double cpu_s)
{
    const struct smoe_agent_options *o = &a->options;
    double noise = o->model_noise * SQRT_3 * (2 * smoe_rng_unit(&a->model_rng) - 1);
    double joules = cpu_s * o->busy_watts / o->lanes * (1 + noise);
    if (!o->voltage_follows)
        return joules;
    double part = (double)a->counters.freq_khz * 1000 / o->freq_max_hz;
    return joules * a->cycles_hz / o->freq_max_hz * part * part;
}

static void count_cpu(struct smoe_agent *a, const struct smoe_task *task, uint64_t cpu_ns)
{
    uint64_t cycles = (uint64_t)((double)cpu_ns * 1e-9 * a->cycles_hz);
    a->counters.busy_ns += cpu_ns;
    a->counters.cycles += cycles;
    if (!*a->options.energy_source)
        a->counters.joules += energy_of(a, (double)cpu_ns * 1e-9);
    if (task->kind == SMOE_TASK_FORWARD)
        a->counters.forward_cycles += cycles;
    else if (task->kind == SMOE_TASK_BACKWARD)
        a->counters.backward_cycles += cycles;
}

void smoe_agent_task_done(struct smoe_agent *a, struct smoe_task *task, uint64_t cpu_ns,
                          uint64_t now_ns)
{
    uint32_t expert = task->expert;
    count_cpu(a, task, cpu_ns);
    a->lane_used[task - a->tasks] = false;
    if (task->kind == SMOE_TASK_MAKE)
        smoe_agent_finish_making(a, task);
    smoe_experts_idle(&a->experts, expert);
    if (task->kind <= SMOE_TASK_BACKWARD)
        smoe_agent_finish_parcel(a, task);
    else if (task->kind != SMOE_TASK_MAKE)
        smoe_agent_finish_step(a, task);
    smoe_agent_run_deferred(a, expert);
    if (a->active_since_ns) /* up to here, as the cycles: what is achieved is one over the other */
        a->counters.active_ns += now_ns - a->active_since_ns;
    a->active_since_ns = smoe_agent_has_work(a) ? now_ns : 0;
}

size_t smoe_agent_scratch_elements(const struct smoe_agent *a)
{
    return a->scratch_elements;
}

/* ---- frequency and reports ---- */

uint64_t smoe_agent_freq_wanted_khz(const struct smoe_agent *a)
{
    return a->freq_wanted_khz;
}

void smoe_agent_set_freq(struct smoe_agent *a, uint64_t in_force_khz, double max_hz)
{
    a->report_due |= in_force_khz != a->counters.freq_khz;
    a->counters.freq_khz = in_force_khz;
    a->counters.freq_max_hz = max_hz;
}

void smoe_agent_set_cycles_hz(struct smoe_agent *a, double hz)
{
    a->cycles_hz = hz;
}

void smoe_agent_set_driver(struct smoe_agent *a, uint64_t requested_khz, uint64_t achieved_khz,
                           const char *note)
{
    a->counters.freq_requested_khz = requested_khz;
    a->counters.freq_achieved_khz = achieved_khz;
    snprintf(a->counters.driver_note, sizeof a->counters.driver_note, "%s", note);
}

void smoe_agent_set_joules(struct smoe_agent *a, double joules)
{
    smoe_assert(joules >= a->counters.joules);
    a->counters.joules = joules;
}

void smoe_agent_set_meter_lost(struct smoe_agent *a, bool lost)
{
    const char *source = lost ? SMOE_METER_LOST : a->options.energy_source;
    a->report_due |= strcmp(source, a->counters.energy_source) != 0;
    snprintf(a->counters.energy_source, sizeof a->counters.energy_source, "%s", source);
}

void smoe_agent_set_temperature(struct smoe_agent *a, double celsius)
{
    a->counters.temperature_c = celsius;
}

void smoe_agent_counters(const struct smoe_agent *a, struct smoe_msg_report *ret)
{
    *ret = a->counters;
    smoe_agent_queued(a, &ret->queue_forward_flops, &ret->queue_backward_flops);
    ret->kept_bytes = smoe_agent_kept_bytes(a);
}

void smoe_agent_tick(struct smoe_agent *a, uint64_t now_ns)
{
    if (a->link != SMOE_LINK_UP || now_ns < smoe_agent_wake_ns(a))
        return;
    struct smoe_message m = {.type = SMOE_MSG_REPORT};
    smoe_agent_counters(a, &m.report);
    a->reported_ns = now_ns;
    a->report_due = false;
    smoe_agent_send(a, &m, NULL, 0);
}

uint64_t smoe_agent_wake_ns(const struct smoe_agent *a)
{
    if (a->link != SMOE_LINK_UP)
        return UINT64_MAX;
    if (a->report_due)
        return 0;
    uint64_t idle = a->silence_ns / 4;
    uint64_t busy = a->slot_ns < idle ? a->slot_ns : idle;
    return a->reported_ns + (a->active_since_ns ? busy : idle);
}

const struct smoe_experts *smoe_agent_experts(const struct smoe_agent *a)
{
    return &a->experts;
}
