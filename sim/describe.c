/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages in words, one function a message type with something to say. Computed numbers (norms,
 * scales, tensors) stay out: they may differ in the last bit from machine to machine.
 */
#include <inttypes.h>
#include <string.h>

#include "common/base/err.h"
#include "sim/trace.h"

#define SAY(symbol) static void say_##symbol(const struct smoe_message *m, struct smoe_text *t)
#define ADD(...)    smoe_text_add(t, __VA_ARGS__)

/* Attempts are numbered from the epoch << 32 on: unique for ever. */
#define EPOCH_AND_NUMBER(attempt) (attempt) >> 32, (attempt)&UINT32_MAX

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

static const char *evaluates(bool evaluation)
{
    return evaluation ? ", evaluation" : "";
}

/* Parcel ids are generation << 32 | index + 1. */
static void add_parcel(struct smoe_text *t, uint64_t id)
{
    ADD(" parcel %" PRIu64 ".%" PRIu64, id & UINT32_MAX, id >> 32);
}

static void add_numbers(struct smoe_text *t, const uint32_t *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ADD("%s%" PRIu32, i ? "," : " ", numbers[i]);
}

SAY(HELLO)
{
    ADD(" %s %s", m->hello.role == SMOE_ROLE_WORKER ? "worker" : "trainer", m->hello.name);
}

SAY(WELCOME)
{
    ADD(" epoch %" PRIu64, m->welcome.epoch);
    if (m->welcome.attempt)
        ADD(", attempt %" PRIu64 ".%" PRIu64 ", credit %" PRIu64 " bytes, %" PRIu64 " visits",
            EPOCH_AND_NUMBER(m->welcome.attempt), m->welcome.credit.bytes_total,
            m->welcome.credit.visits_total);
}

SAY(ERROR)
{
    const char *name = smoe_error_name(m->error.code);
    ADD(" %s%s: %s", m->error.fatal ? "fatal " : "", name ? name : "?", m->error.message);
}

SAY(BYE)
{
    ADD(": %s", m->bye.reason);
}

SAY(LAYER_DECLARE)
{
    ADD(" %s%s, step %" PRIu64, m->layer_declare.name, evaluates(m->layer_declare.evaluate_only),
        m->layer_declare.step);
}

SAY(LAYER_READY)
{
    ADD(" layer %" PRIu32 ", step %" PRIu64, m->layer_ready.layer, m->layer_ready.step);
}

SAY(SUBMIT)
{
    const struct smoe_msg_submit *s = &m->submit;
    ADD(" batch %" PRIu64 ": %" PRIu32 " token%s, top %" PRIu32 "%s%s", s->batch, s->tokens,
        plural(s->tokens), s->top_k, evaluates(!s->needs_gradient), s->routed ? ", replay" : "");
    if (s->router_version)
        ADD(", by router %" PRIu64, s->router_version);
    if ((s->attempt & UINT32_MAX) > 1)
        ADD(", attempt %" PRIu64 ".%" PRIu64, EPOCH_AND_NUMBER(s->attempt));
}

SAY(RESULT)
{
    ADD(" batch %" PRIu64 " expert %" PRIu32 ": %" PRIu32 " row%s", m->result.batch,
        m->result.expert, m->result.rows, plural(m->result.rows));
}

SAY(GRADIENT)
{
    ADD(" batch %" PRIu64, m->gradient.batch);
}

SAY(INPUT_GRADIENT)
{
    const struct smoe_msg_input_gradient *g = &m->input_gradient;
    ADD(" batch %" PRIu64 " expert %" PRIu32 ": %" PRIu32 " row%s", g->batch, g->expert, g->rows,
        plural(g->rows));
}

SAY(STEP)
{
    ADD(" %" PRIu64 ": %zu batch%s", m->step.step, m->step.n_batches,
        m->step.n_batches == 1 ? "" : "es");
}

SAY(STEP_DONE)
{
    ADD(" %" PRIu64 ", epoch %" PRIu64, m->step_done.step, m->step_done.epoch);
}

SAY(DISCARD)
{
    ADD(" batch %" PRIu64, m->discard.batch);
}

SAY(CREDIT)
{
    ADD(" %" PRIu64 " bytes, %" PRIu64 " visits", m->credit.bytes_total, m->credit.visits_total);
}

SAY(NEED)
{
    ADD(" attempt %" PRIu64 ".%" PRIu64 ": %s", EPOCH_AND_NUMBER(m->need.attempt), m->need.reason);
}

SAY(RESTORE)
{
    ADD(" step %" PRIu64, m->restore.step);
}

SAY(EXPERT_FETCH)
{
    ADD(" layer %" PRIu32 " expert %" PRIu32, m->expert_fetch.layer, m->expert_fetch.expert);
}

SAY(EXPERT_STATE)
{
    ADD(" layer %" PRIu32 " expert %" PRIu32 ", step %" PRIu64, m->expert_state.layer,
        m->expert_state.expert, m->expert_state.step);
}

SAY(EXPERT_STORE)
{
    ADD(" layer %" PRIu32 " expert %" PRIu32 ", step %" PRIu64, m->expert_store.layer,
        m->expert_store.expert, m->expert_store.step);
}

SAY(EXPERT_STORED)
{
    ADD(" layer %" PRIu32 " expert %" PRIu32, m->expert_stored.layer, m->expert_stored.expert);
}

SAY(INVENTORY)
{
    if (!m->inventory.n_layers)
        ADD(" nothing");
    for (size_t i = 0; i < m->inventory.n_layers; i++) {
        const struct smoe_inventory_layer *l = &m->inventory.layers[i];
        ADD("%s %s step %" PRIu64 " experts", i ? ";" : "", l->name, l->step);
        add_numbers(t, l->experts, l->n_experts);
    }
}

SAY(HOST)
{
    ADD(" %s as layer %" PRIu32 ": %s", m->host.name, m->host.layer,
        m->host.n_experts + m->host.n_copies ? "experts" : "nothing");
    add_numbers(t, m->host.experts, m->host.n_experts);
    if (m->host.n_copies)
        ADD(", copies");
    add_numbers(t, m->host.copies, m->host.n_copies);
}

SAY(HOSTED)
{
    ADD(" layer %" PRIu32, m->hosted.layer);
    if (m->hosted.code)
        ADD(": %s", m->hosted.message);
}

SAY(DECISION)
{
    uint64_t rows = 0;
    for (size_t i = 0; i < m->decision.n_parcels; i++)
        rows += m->decision.parcels[i].rows;
    ADD(" %" PRIu64 ": %zu parcel%s, %" PRIu64 " row%s", m->decision.sequence,
        m->decision.n_parcels, plural(m->decision.n_parcels), rows, plural(rows));
}

SAY(OUTPUT)
{
    add_parcel(t, m->output.parcel);
}

SAY(BACKPROP)
{
    ADD(" %" PRIu64 ": %zu parcel%s", m->backprop.sequence, m->backprop.n_parcels,
        plural(m->backprop.n_parcels));
}

SAY(PARCEL_GRADIENT)
{
    add_parcel(t, m->parcel_gradient.parcel);
}

SAY(RESET)
{
    ADD(" attempt %" PRIu64 ".%" PRIu64 ", layers", EPOCH_AND_NUMBER(m->reset.attempt));
    add_numbers(t, m->reset.layers, m->reset.n_layers);
}

SAY(REPORT)
{
    ADD(" after %" PRIu64 ": %" PRIu64 " forward, %" PRIu64 " backward visits done",
        m->report.sequence, m->report.forward_visits, m->report.backward_visits);
}

SAY(STEP_PREPARE)
{
    ADD(" %" PRIu64, m->step_prepare.step);
}

SAY(STEP_NORM)
{
    ADD(" %" PRIu64, m->step_norm.step);
}

SAY(STEP_STAGE)
{
    ADD(" %" PRIu64, m->step_stage.step);
}

SAY(STEP_STAGED)
{
    ADD(" %" PRIu64, m->step_staged.step);
}

SAY(STEP_GRADIENT)
{
    ADD(" %" PRIu64 ", layer %" PRIu32 " expert %" PRIu32, m->step_gradient.step,
        m->step_gradient.layer, m->step_gradient.expert);
}

static const char *const shard_kinds[] = {"?", "gradient", "weights", "state"};

SAY(SHARD_ASK)
{
    ADD(" %s of layer %" PRIu32 " expert %" PRIu32 " from %" PRIu64 ", %" PRIu64 " elements%s",
        shard_kinds[m->shard_ask.kind], m->shard_ask.layer, m->shard_ask.expert,
        m->shard_ask.offset, m->shard_ask.length, m->shard_ask.send ? "" : ", to itself");
}

SAY(SHARD_PART)
{
    ADD(" %s of layer %" PRIu32 " expert %" PRIu32 " from %" PRIu64 ", %" PRIu64 " elements",
        shard_kinds[m->shard_part.kind], m->shard_part.layer, m->shard_part.expert,
        m->shard_part.offset, m->shard_part.length);
}

SAY(SHARD_TAKEN)
{
    ADD(" %016" PRIx64, m->shard_taken.number);
}

SAY(NEED_INPUTS)
{
    ADD(" %" PRIu64, m->need_inputs.batch);
}

SAY(INPUTS)
{
    ADD(" %" PRIu64, m->inputs.batch);
}

SAY(EVICTED)
{
    ADD(" %zu parcels", m->evicted.n_parcels);
}

SAY(PARCEL_INPUTS)
{
    ADD(" %zu parcels", m->parcel_inputs.n_parcels);
}

SAY(STEP_COMMIT)
{
    ADD(" %" PRIu64 ", epoch %" PRIu64, m->step_commit.step, m->step_commit.epoch);
}

SAY(FORGET)
{
    ADD(" %zu parcel%s", m->forget.n_parcels, plural(m->forget.n_parcels));
}

/* Version and digest, or that there is none. */
static void add_router(struct smoe_text *t, const struct smoe_frozen_head *router)
{
    if (router->version)
        ADD(" router %" PRIu64 " %016" PRIx64, router->version, router->digest);
    else
        ADD(" no router");
}

SAY(FREEZE)
{
    ADD(" layer %" PRIu32, m->freeze.layer);
    add_router(t, &m->freeze.router);
}

SAY(ROUTER_QUERY)
{
    ADD(" layer %" PRIu32, m->router_query.layer);
}

SAY(ROUTER_STATE)
{
    ADD(" layer %" PRIu32, m->router_state.layer);
    add_router(t, &m->router_state.router);
}

SAY(ROUTING_REPORT)
{
    ADD(" layer %" PRIu32 " step %" PRIu64, m->routing_report.layer, m->routing_report.step);
}

SAY(PEER)
{
    ADD(" %s, link %016" PRIx64 "%s", m->peer.name, m->peer.link, m->peer.dial ? ", to dial" : "");
}

SAY(LINK_STATE)
{
    ADD(" %016" PRIx64 " %s", m->link_state.link, m->link_state.up ? "up" : "down");
}

SAY(SHARD_DUE)
{
    ADD(" %016" PRIx64 " from %" PRIu32, m->shard_due.part.number, m->shard_due.from);
}

SAY(SHARD_SENT)
{
    ADD(" %016" PRIx64, m->shard_sent.number);
}

SAY(LINK_HELLO)
{
    ADD(" %016" PRIx64, m->link_hello.link);
}

SAY(LINK_PART)
{
    ADD(" %016" PRIx64, m->link_part.number);
}

SAY(LINK_TAKEN)
{
    ADD(" %016" PRIx64, m->link_taken.number);
}

SAY(PLACEMENT_FETCH)
{
    ADD(" layer %" PRIu32, m->placement_fetch.layer);
}

SAY(PLACEMENT)
{
    const struct smoe_placement *p = &m->placement.placement;
    ADD(" layer %" PRIu32 " %s %" PRIu32 " workers %" PRIu32 " slots", m->placement.layer, p->rule,
        p->n_workers, p->n_slots);
}

SAY(PING)
{
    (void)m;
    (void)t;
}

SAY(PONG)
{
    (void)m;
    (void)t;
}

void smoe_sim_describe(const struct smoe_message *m, struct smoe_text *ret)
{
    const char *name = smoe_message_name((uint16_t)m->type);
    smoe_text_add(ret, "%s", name ? name : "?");
    switch (m->type) {
#define X(symbol, number, field, pb, senders, raw) \
    case SMOE_MSG_##symbol:                        \
        say_##symbol(m, ret);                      \
        break;
        SMOE_MESSAGE_MAP(X)
#undef X
    }
}
