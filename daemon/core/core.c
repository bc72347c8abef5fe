/* SPDX-License-Identifier: Apache-2.0
 *
 * The door: one event in, one update out. Nothing is allocated here (core_new.c did).
 *
 * A step runs in four parts: the event is handled; the leases are looked at; the slot closes if it is
 * due or may close early; the next wake-up is computed. In debug builds all invariants are walked
 * afterwards.
 *
 * Invariants (smoe_core_check):
 *  1. every account balances, and trainers (past ones included in the total), workers and experts
 *     agree with the parcels and waiting tokens that exist;
 *  2. each parcel is on the list of one batch and one worker, in a state its batch allows;
 *  3. a worker's books (pending, owed, inbox) are the sums over its parcels;
 *  4. pending batches, and only they, have waiting tokens.
 */
#include "daemon/core/core.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/near.h"
#include "daemon/core/conduct.h"
#include "daemon/core/links.h"
#include "daemon/core/placed.h"
#include "daemon/core/sharded.h"
#include "daemon/core/state_relay.h"

/* ---- answering ---- */

struct smoe_action *smoe_core_act(struct smoe_core *core, enum smoe_action_type type,
                                  uint32_t session)
{
    smoe_assert(core->n_actions < core->actions_max);
    struct smoe_action *a = &core->actions[core->n_actions++];
    a->type = type;
    a->session = session;
    a->batch = a->layer = SMOE_NONE;
    a->tensor = SMOE_TENSOR_NONE;
    a->parcels = NULL;
    a->n_parcels = 0;
    return a;
}

struct smoe_message *smoe_core_send(struct smoe_core *core, uint32_t session,
                                    enum smoe_message_type type)
{
    struct smoe_action *a = smoe_core_act(core, SMOE_ACT_SEND, session);
    smoe_message_clear(&a->message, type);
    return &a->message;
}

void smoe_core_attach(struct smoe_core *core, enum smoe_tensor_plan tensor, uint32_t batch,
                      const uint32_t *parcels, uint32_t n_parcels)
{
    struct smoe_action *a = &core->actions[core->n_actions - 1];
    smoe_assert(a->type == SMOE_ACT_SEND);
    a->tensor = tensor;
    a->batch = batch;
    a->parcels = parcels;
    a->n_parcels = n_parcels;
}

void *smoe_core_list(struct smoe_core *core, size_t bytes)
{
    size_t aligned = (bytes + 15) & ~(size_t)15;
    smoe_assert(aligned <= core->lists_cap - core->lists_used);
    void *p = core->lists + core->lists_used;
    core->lists_used += aligned;
    return p;
}

void smoe_core_list_trim(struct smoe_core *core, const void *list, size_t bytes)
{
    size_t start = (size_t)((const uint8_t *)list - core->lists);
    smoe_assert(start + bytes <= core->lists_used);
    core->lists_used = start + ((bytes + 15) & ~(size_t)15);
}

void smoe_core_refuse(struct smoe_core *core, uint32_t session, int code, const char *sentence,
                      bool fatal, uint64_t batch, uint64_t request)
{
    core->totals.refused++;
    struct smoe_msg_error *e = &smoe_core_send(core, session, SMOE_MSG_ERROR)->error;
    *e = (struct smoe_msg_error){.code = code, .fatal = fatal, .batch = batch, .request = request};
    if (!fatal) {
        snprintf(e->message, sizeof e->message, "%s", sentence);
        return;
    }
    smoe_conduct_ended(core, session, code, sentence, e->message);
    smoe_core_act(core, SMOE_ACT_CLOSE, session);
    if (core->sessions[session].kind == SMOE_SESSION_FREE)
        core->sessions[session].kind = SMOE_SESSION_CLOSING;
}

/* ---- events ---- */

static void on_worker_message(struct smoe_core *c, uint32_t session, uint32_t index,
                              const struct smoe_message *m)
{
    struct smoe_worker *w = &c->fleet.workers[index];
    if (w->state == SMOE_WORKER_JOINING && m->type != SMOE_MSG_INVENTORY &&
        m->type != SMOE_MSG_ERROR) { /* it may have had no memory to say what it holds */
        smoe_core_refuse(c, session, SMOE_ESTATE, "INVENTORY must come first after WELCOME", true,
                         0, 0);
        return;
    }
    switch ((unsigned)m->type) {
    case SMOE_MSG_INVENTORY:
        if (w->state != SMOE_WORKER_JOINING) {
            smoe_core_refuse(c, session, SMOE_ESTATE, "INVENTORY: sent already", true, 0, 0);
            return;
        }
        smoe_worker_move(w, SMOE_WORKER_READY);
        smoe_fleet_returned(&c->fleet, index);
        smoe_layer_inventory(c, index, &m->inventory);
        break;
    case SMOE_MSG_HOSTED:
        smoe_layer_hosted(c, index, &m->hosted);
        break;
    case SMOE_MSG_OUTPUT:
        smoe_parcel_output(c, index, m->output.parcel);
        break;
    case SMOE_MSG_PARCEL_GRADIENT:
        smoe_parcel_gradient(c, index, m->parcel_gradient.parcel);
        break;
    case SMOE_MSG_REPORT:
        smoe_worker_reported(w, &m->report, c->now_ns);
        smoe_slot_consider(c, index);
        break;
    case SMOE_MSG_STEP_NORM:
        smoe_step_norm(c, index, &m->step_norm);
        break;
    case SMOE_MSG_EVICTED:
        smoe_backward_evicted(c, index, &m->evicted);
        break;
    case SMOE_MSG_STEP_GRADIENT:
        smoe_copies_gradient(c, index, &m->step_gradient);
        break;
    case SMOE_MSG_STEP_STAGED:
        smoe_step_staged(c, index, &m->step_staged);
        break;
    case SMOE_MSG_SHARD_PART:
        smoe_exchange_part(c, index, &m->shard_part);
        break;
    case SMOE_MSG_SHARD_TAKEN:
        smoe_exchange_taken(c, index, &m->shard_taken);
        break;
    case SMOE_MSG_SHARD_SENT:
        smoe_exchange_sent(c, session, index, &m->shard_sent);
        break;
    case SMOE_MSG_LINK_STATE:
        smoe_links_state(c, index, &m->link_state);
        break;
    case SMOE_MSG_EXPERT_STATE:
        smoe_relay_state(c, index, &m->expert_state);
        break;
    case SMOE_MSG_EXPERT_STORED:
        smoe_relay_stored(c, index, &m->expert_stored);
        break;
    case SMOE_MSG_ERROR: /* what the worker could not do; it closes if that was fatal */
    case SMOE_MSG_PONG:
        break;
    default:
        smoe_core_refuse(c, session, SMOE_ESTATE, "message not allowed here", true, 0, 0);
        break;
    }
}

static void on_trainer_message(struct smoe_core *c, uint32_t session, uint32_t index,
                               const struct smoe_event *event)
{
    const struct smoe_message *m = event->message;
    switch ((unsigned)m->type) {
    case SMOE_MSG_LAYER_DECLARE:
        smoe_layer_declared(c, index, &m->layer_declare);
        break;
    case SMOE_MSG_SUBMIT:
        smoe_batch_submit(c, index, event);
        break;
    case SMOE_MSG_GRADIENT:
        smoe_batch_gradient(c, index, &m->gradient);
        break;
    case SMOE_MSG_INPUTS:
        smoe_backward_inputs(c, index, &m->inputs);
        break;
    case SMOE_MSG_STEP:
        smoe_trainer_step(c, index, &m->step);
        break;
    case SMOE_MSG_DISCARD:
        smoe_batch_discard(c, index, &m->discard);
        break;
    case SMOE_MSG_RESTORE:
        smoe_trainer_restore(c, index, &m->restore);
        break;
    case SMOE_MSG_EXPERT_FETCH:
        smoe_relay_fetch(c, index, &m->expert_fetch);
        break;
    case SMOE_MSG_EXPERT_STORE:
        smoe_relay_store(c, index, &m->expert_store);
        break;
    case SMOE_MSG_FREEZE:
        smoe_freezing_begin(c, index, event);
        break;
    case SMOE_MSG_PLACEMENT_FETCH:
        smoe_placed_fetch(c, index, &m->placement_fetch);
        break;
    case SMOE_MSG_PLACEMENT:
        smoe_placed_again(c, index, &m->placement);
        break;
    case SMOE_MSG_ROUTING_REPORT:
        smoe_freezing_reported(c, index, &m->routing_report);
        break;
    case SMOE_MSG_ERROR:
    case SMOE_MSG_PONG:
        break;
    default:
        smoe_core_refuse(c, session, SMOE_ESTATE, "message not allowed here", true, 0, 0);
        break;
    }
}

void smoe_core_heard(struct smoe_core *core, uint32_t session, uint64_t now_ns)
{
    const struct smoe_session *s = &core->sessions[session];
    if (s->kind == SMOE_SESSION_WORKER && now_ns > core->fleet.workers[s->index].heard_ns)
        core->fleet.workers[s->index].heard_ns = now_ns;
}

void smoe_core_coming(const struct smoe_core *core, uint32_t session)
{
    const struct smoe_session *s = &core->sessions[session];
    if (s->kind != SMOE_SESSION_WORKER)
        return;
    const struct smoe_worker *w = &core->fleet.workers[s->index]; /* what a report touches */
    smoe_bring_near(w, 1);
    smoe_bring_near(w->given_flops, offsetof(struct smoe_worker, learned) -
                                        offsetof(struct smoe_worker, given_flops));
    smoe_bring_near(&w->report,
                    offsetof(struct smoe_worker, account) - offsetof(struct smoe_worker, report));
}

static void on_message(struct smoe_core *c, const struct smoe_event *event)
{
    const struct smoe_session *s = &c->sessions[event->session];
    const struct smoe_message *m = event->message;
    smoe_core_heard(c, event->session, c->now_ns);
    if (event->bad_numbers && smoe_conduct_numbers(c, event)) {
        return;
    } else if (m->type == SMOE_MSG_PING) {
        smoe_core_send(c, event->session, SMOE_MSG_PONG)->pong.nonce = m->ping.nonce;
    } else if (m->type == SMOE_MSG_BYE) {
        if (s->kind == SMOE_SESSION_TRAINER)
            c->trainers[s->index].said_bye = true;
        smoe_core_act(c, SMOE_ACT_CLOSE, event->session);
    } else if (m->type == SMOE_MSG_ROUTER_QUERY && s->kind <= SMOE_SESSION_TRAINER) {
        smoe_freezing_query(c, event->session, &m->router_query);
    } else if (s->kind == SMOE_SESSION_WORKER) {
        on_worker_message(c, event->session, s->index, m);
    } else if (s->kind == SMOE_SESSION_TRAINER) {
        on_trainer_message(c, event->session, s->index, event);
    }
}

static void on_closed(struct smoe_core *c, const struct smoe_event *event)
{
    smoe_sentence told;
    if (event->code)
        smoe_conduct_ended(c, event->session, event->code, event->sentence, told);
    smoe_session_closed(c, event->session);
}

static void on_drain(struct smoe_core *c, const struct smoe_event *event)
{
    uint32_t i;
    if (!event->drain)
        (void)smoe_quarantine_pardon(&c->quarantine, event->worker_id);
    if (!smoe_fleet_find(&c->fleet, event->worker_id, &i))
        return;
    struct smoe_worker *w = &c->fleet.workers[i];
    if (event->drain && w->state == SMOE_WORKER_READY)
        smoe_worker_move(w, SMOE_WORKER_DRAINING);
    else if (!event->drain && w->state == SMOE_WORKER_DRAINING)
        smoe_worker_move(w, SMOE_WORKER_READY);
    c->solve_useful = true;
    smoe_layers_advance(
        c); /* a layer may have waited for a worker that may be given work, or must move */
}

static void on_budget(struct smoe_core *c, const struct smoe_event *event)
{
    const struct smoe_core_settings *s = &c->options.settings;
    uint32_t i;
    smoe_fleet_set_budget(&c->fleet, event->worker_id, event->budget_w);
    if (!smoe_fleet_find(&c->fleet, event->worker_id, &i))
        return;
    smoe_worker_limit(&c->fleet.workers[i], s->worker_budget_w, s->worker_cap_w);
    smoe_slot_consider(c, i);
    c->solve_useful = true;
}

static void on_configure(struct smoe_core *c, const struct smoe_core_settings *settings)
{
    bool new_length = settings->slot_ns != c->options.settings.slot_ns;
    c->options.settings = *settings;
    c->fleet.priors = settings->priors;
    if (new_length)
        c->slot_deadline_ns = c->now_ns + settings->slot_ns;
    for (uint32_t i = 0; i < c->fleet.n_used; i++) {
        smoe_worker_limit(&c->fleet.workers[i], settings->worker_budget_w, settings->worker_cap_w);
        smoe_slot_consider(c, i);
    }
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        smoe_trainer_grant(c, t);
    smoe_layers_advance(c);
    c->solve_useful = true;
}

static void dispatch(struct smoe_core *c, const struct smoe_event *event)
{
    if (event->type != SMOE_EVENT_TICK && event->type != SMOE_EVENT_MESSAGE)
        c->expiry_ns = 0;
    switch (event->type) {
    case SMOE_EVENT_TICK:
        break;
    case SMOE_EVENT_HELLO:
        smoe_session_hello(c, event->session, &event->message->hello);
        break;
    case SMOE_EVENT_MESSAGE:
        on_message(c, event);
        break;
    case SMOE_EVENT_CLOSED:
        on_closed(c, event);
        break;
    case SMOE_EVENT_CONFIGURE:
        on_configure(c, event->settings);
        break;
    case SMOE_EVENT_DRAIN:
        on_drain(c, event);
        break;
    case SMOE_EVENT_BUDGET:
        on_budget(c, event);
        break;
    case SMOE_EVENT_SHUTDOWN:
        c->draining = true;
        break;
    case SMOE_EVENT_JOURNALLED:
        smoe_freezing_journalled(c, event->sequence);
        smoe_step_journalled(c, event->sequence);
        break;
    }
}

/* ---- time ---- */

/* When the worker's silence or, once it is lost, its lease ends, unless it is heard before. */
static uint64_t expiry_of(const struct smoe_core *c, const struct smoe_worker *w)
{
    if (w->state == SMOE_WORKER_FREE)
        return UINT64_MAX;
    return w->state == SMOE_WORKER_LOST ? w->lost_ns + c->options.settings.worker_lease_ns
                                        : w->heard_ns + smoe_worker_silence_ns(c, w);
}

/* The core is stepped at every slot's end. A gap of many slots is time in which this process did not run
 * (it was stopped, the machine slept): nobody's silence. What workers said meanwhile is still unread. */
static void forgive_own_absence(struct smoe_core *c, uint64_t gap_ns)
{
    if (gap_ns <= smoe_silence_ns(c) / 2)
        return;
    for (uint32_t i = 0; i < c->fleet.n_used; i++) {
        struct smoe_worker *w = &c->fleet.workers[i];
        w->heard_ns = w->heard_ns + gap_ns < c->now_ns ? w->heard_ns + gap_ns : c->now_ns;
        w->lost_ns = w->lost_ns + gap_ns < c->now_ns ? w->lost_ns + gap_ns : c->now_ns;
    }
}

/* Walks the fleet only when somebody can be due: being heard only puts a worker's time off, and
 * whatever else changes one's time sets expiry_ns to 0. */
static void expire_workers(struct smoe_core *c)
{
    if (c->now_ns <= c->expiry_ns)
        return;
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < c->fleet.n_used; i++) {
        struct smoe_worker *w = &c->fleet.workers[i];
        if (w->session != SMOE_NO_SESSION && w->state != SMOE_WORKER_FREE &&
            w->state != SMOE_WORKER_LOST &&
            c->now_ns > w->heard_ns + smoe_worker_silence_ns(c, w)) {
            struct smoe_why why;
            uint32_t session = w->session;
            smoe_fail(&why, SMOE_ETIMEOUT, "worker %s was silent for %llu ms", w->id,
                      (unsigned long long)((c->now_ns - w->heard_ns) / 1000000));
            smoe_session_end(c, session, SMOE_ETIMEOUT, why.text);
        } else if (w->state == SMOE_WORKER_LOST &&
                   c->now_ns - w->lost_ns > c->options.settings.worker_lease_ns) {
            smoe_worker_move(w, SMOE_WORKER_FREE); /* first: nobody hopes for it any more */
            smoe_layer_worker_forgotten(c, i);
        }
        uint64_t expiry = expiry_of(c, w);
        next = expiry < next ? expiry : next;
    }
    c->expiry_ns = next;
}

/* Workers that were expected after a restart and have not come are lost now, and what nobody has brought
 * is. */
static void settle(struct smoe_core *c)
{
    if (!c->settle_ns || c->now_ns < c->settle_ns)
        return;
    c->settle_ns = 0;
    smoe_layers_advance(c);
}

static void tell_if_drained(struct smoe_core *c)
{
    if (!c->draining || c->drained_told)
        return;
    const uint64_t *now = c->total.now;
    if (now[SMOE_VISIT_ROUTED] || now[SMOE_VISIT_GRADIENT_QUEUED])
        return;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (c->trainers[t].step.phase > SMOE_STEP_SETTLING)
            return;
    smoe_core_act(c, SMOE_ACT_DRAINED, SMOE_NONE);
    c->drained_told = true;
}

static void bury_zombies(struct smoe_core *c)
{
    while (c->n_batch_zombie)
        c->batch_free[c->n_batch_free++] = c->batch_zombie[--c->n_batch_zombie];
    while (c->n_parcel_zombie)
        c->parcel_free[c->n_parcel_free++] = c->parcel_zombie[--c->n_parcel_zombie];
}

void smoe_core_step(struct smoe_core *core, const struct smoe_event *event,
                    struct smoe_update *ret_update)
{
    uint64_t before_ns = core->now_ns;
    if (event->now_ns > core->now_ns)
        core->now_ns = event->now_ns;
    forgive_own_absence(core, core->now_ns - before_ns);
    core->n_actions = core->n_records = 0;
    core->lists_used = 0;
    core->trace_bytes = 0;
    bury_zombies(core);
    dispatch(core, event);
    for (uint32_t t = 0; core->grants_due && t < core->options.limits.trainers_max; t++)
        if (core->trainers[t].grant_due)
            smoe_trainer_grant(core, t);
    core->grants_due = false;
    expire_workers(core);
    smoe_trainers_expire(core);
    settle(core);
    smoe_links_advance(core);
    smoe_exchange_pump(core);
    smoe_slot_advance(core);
    smoe_journal_flush(core);
    tell_if_drained(core);
    core->totals.epoch = core->epoch;
#ifndef NDEBUG
    smoe_core_check(core);
#endif
    *ret_update = (struct smoe_update){core->actions, core->n_actions, smoe_links_wake_ns(core)};
}

/* ---- views ---- */

const struct smoe_fleet *smoe_core_fleet(const struct smoe_core *core)
{
    return &core->fleet;
}

const struct smoe_quarantine *smoe_core_quarantine(const struct smoe_core *core)
{
    return &core->quarantine;
}

uint64_t smoe_core_epoch(const struct smoe_core *core)
{
    return core->epochs;
}

void smoe_core_totals(const struct smoe_core *core, struct smoe_core_totals *ret)
{
    *ret = core->totals;
    ret->account = core->total;
    ret->epoch = core->epoch;
    ret->settings = core->options.settings;
    ret->draining = core->draining;
}
