/* SPDX-License-Identifier: Apache-2.0
 *
 * Trainers: sessions, credit, and the life of their batches.
 *
 *     FREE -> LIVE <-> GONE (connection lost, lease runs) -> FREE; from LIVE at once with Bye
 *
 * Whatever is uncommitted belongs to an attempt. When the connection breaks, a worker is lost, or a
 * gradient must be taken back, the attempt ends: all batches of the trainer are dropped, workers forget
 * their share (Reset), and the trainer is asked to send everything uncommitted again (Need) with the
 * next number. Frames that carry an older number are ignored. There is no other recovery path. Attempt
 * numbers are never given twice, not to another trainer and not by a restarted daemon, so that a step
 * which a worker staged long ago is not taken for the one that was committed.
 *
 * While its step is being committed an attempt cannot end: reset, restore and the trainer's return wait
 * until it is (smoe_trainer_catch_up).
 *
 * Credit is two running totals, as QUIC's MAX_DATA: the trainer may have sent at most what was granted
 * since Welcome; granted = sent and still waiting for forward + one window. What it may hold between
 * Submit and Step is bounded separately and refused at once, because waiting would not help.
 */
#include <stdio.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/sharded.h"
#include "daemon/core/state_relay.h"

/* ---- hello and goodbye ---- */

static bool find_trainer(const struct smoe_core *c, const char *name, uint32_t *ret)
{
    for (uint32_t i = 0; i < c->options.limits.trainers_max; i++) {
        if (c->trainers[i].state == SMOE_TRAINER_FREE || strcmp(c->trainers[i].name, name) != 0)
            continue;
        *ret = i;
        return true;
    }
    return false;
}

static bool find_free(const struct smoe_core *c, uint32_t *ret)
{
    for (uint32_t i = 0; i < c->options.limits.trainers_max; i++) {
        if (c->trainers[i].state != SMOE_TRAINER_FREE)
            continue;
        *ret = i;
        return true;
    }
    return false;
}

static void forget_trainer(struct smoe_core *c, uint32_t trainer)
{
    smoe_layers_release_owner(c, trainer);
    c->trainers[trainer].state = SMOE_TRAINER_FREE;
}

uint64_t smoe_trainer_new_attempt(struct smoe_core *c)
{
    return ++c->attempts;
}

static void start_trainer(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_hello *m)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    uint64_t *awaiting = t->step.awaiting;
    *t = (struct smoe_trainer){.incarnation = m->incarnation, .parked_session = SMOE_NO_SESSION};
    t->step.awaiting = awaiting;
    memcpy(t->name, m->name, sizeof t->name);
    smoe_list_init(&t->batches);
}

static void welcome(struct smoe_core *c, uint32_t session, uint32_t trainer, uint32_t protocol)
{
    const struct smoe_core_settings *s = &c->options.settings;
    struct smoe_trainer *t = &c->trainers[trainer];
    c->sessions[session] = (struct smoe_session){SMOE_SESSION_TRAINER, trainer};
    t->state = SMOE_TRAINER_LIVE;
    t->session = session;
    t->attempt = smoe_trainer_new_attempt(c);
    t->attached = t->wanted = 0;
    t->sent_bytes = t->sent_visits = t->arriving_bytes = t->arriving_visits = 0;
    t->granted_bytes = s->window_bytes;
    t->granted_visits = s->window_visits;
    struct smoe_msg_welcome *w = &smoe_core_send(c, session, SMOE_MSG_WELCOME)->welcome;
    w->protocol = protocol;
    w->epoch = c->epoch;
    w->slot_us = (uint32_t)(s->slot_ns / 1000);
    w->tensor_bytes_max = c->options.tensor_bytes_max;
    w->silence_ms_max = (uint32_t)(s->silence_ns / 1000000);
    w->attempt = t->attempt;
    w->credit = (struct smoe_msg_credit){t->granted_bytes, t->granted_visits};
    w->iteration_bytes_max = s->iteration_bytes_max;
    memcpy(w->software, c->options.software, sizeof w->software);
    snprintf(w->policy, sizeof w->policy, "%s", smoe_policy_name(s->policy));
}

/* Its last step is being committed: its replay would collide with that. */
static void park(struct smoe_core *c, uint32_t session, uint32_t trainer,
                 const struct smoe_msg_hello *m, uint32_t protocol)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    c->sessions[session] = (struct smoe_session){SMOE_SESSION_PARKED, trainer};
    t->parked_session = session;
    t->parked_protocol = protocol;
    t->parked_hello = *m;
}

void smoe_trainer_hello(struct smoe_core *c, uint32_t session, const struct smoe_msg_hello *m,
                        uint32_t protocol)
{
    uint32_t i;
    struct smoe_why why;
    if (find_trainer(c, m->name, &i)) {
        struct smoe_trainer *t = &c->trainers[i];
        if (t->state == SMOE_TRAINER_LIVE || t->parked_session != SMOE_NO_SESSION) {
            smoe_fail(&why, SMOE_EEXIST, "trainer %s is connected already", m->name);
            smoe_core_refuse(c, session, SMOE_EEXIST, why.text, true, 0, 0);
            return;
        }
        if (t->step.phase == SMOE_STEP_COMMITTING) {
            park(c, session, i, m, protocol);
            return;
        }
        if (t->incarnation != m->incarnation) { /* another process of that name: a fresh start */
            forget_trainer(c, i);
            start_trainer(c, i, m);
        }
    } else if (find_free(c, &i)) {
        start_trainer(c, i, m);
    } else {
        smoe_fail(&why, SMOE_ELIMIT, "%u trainers are connected already",
                  c->options.limits.trainers_max);
        smoe_core_refuse(c, session, SMOE_ELIMIT, why.text, true, 0, 0);
        return;
    }
    welcome(c, session, i, protocol);
}

/* Workers forget what they hold of the trainer's layers. */
static void reset_workers(struct smoe_core *c, uint32_t trainer)
{
    uint64_t owned = smoe_layers_owned(c, trainer);
    for (uint32_t w = 0; owned && w < c->fleet.n_used; w++) {
        const struct smoe_worker *worker = &c->fleet.workers[w];
        if (!smoe_worker_here(worker))
            continue;
        const uint32_t *layers;
        size_t n = smoe_layers_on_worker(c, owned, w, &layers);
        if (!n)
            continue;
        struct smoe_msg_reset *m = &smoe_core_send(c, worker->session, SMOE_MSG_RESET)->reset;
        *m = (struct smoe_msg_reset){layers, n, c->trainers[trainer].attempt};
    }
}

/* Training parcels are forgotten by the Reset that follows. */
static void drop_batches(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    smoe_step_abort(c, trainer);
    smoe_batches_forget_evaluations(c, trainer);
    while (!smoe_list_empty(&t->batches)) {
        struct smoe_batch *b =
            smoe_container_of(smoe_list_first(&t->batches), struct smoe_batch, trainer_link);
        smoe_batch_free(c, (uint32_t)(b - c->batches));
    }
    smoe_assert(t->n_batches == 0 && t->iteration_bytes == 0 && t->gradient_bytes == 0);
}

/* No visit belongs to them any more. */
static void drop_placements_before(struct smoe_core *c, uint32_t trainer)
{
    for (uint64_t left = smoe_layers_owned(c, trainer); left; left &= left - 1) {
        uint32_t l = (uint32_t)__builtin_ctzll(left);
        if (c->layers[l].sharded)
            smoe_sharded_drop_before(c, l);
    }
}

void smoe_trainer_reset(struct smoe_core *c, uint32_t trainer, const char *reason)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    if (t->step.phase == SMOE_STEP_COMMITTING) {
        t->reset_due = true;
        snprintf(t->reset_reason, sizeof t->reset_reason, "%s", reason);
        return;
    }
    t->attempt = smoe_trainer_new_attempt(c);
    drop_batches(c, trainer);
    reset_workers(c, trainer);
    drop_placements_before(c, trainer);
    if (t->state != SMOE_TRAINER_LIVE)
        return;
    struct smoe_msg_need *m = &smoe_core_send(c, t->session, SMOE_MSG_NEED)->need;
    m->attempt = t->attempt;
    snprintf(m->reason, sizeof m->reason, "%s", reason);
    smoe_trainer_grant(c, trainer);
}

void smoe_trainer_closed(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    t->state = SMOE_TRAINER_GONE;
    t->gone_ns = c->now_ns;
    c->trainers_gone = true;
    smoe_relay_drop(c, trainer, SMOE_NONE);
    smoe_trainer_reset(c, trainer, "");
    if (t->said_bye && !t->reset_due)
        forget_trainer(c, trainer);
}

void smoe_trainers_expire(struct smoe_core *c)
{
    bool gone = false;
    for (uint32_t i = 0; c->trainers_gone && i < c->options.limits.trainers_max; i++) {
        if (c->trainers[i].state == SMOE_TRAINER_GONE &&
            c->trainers[i].step.phase == SMOE_STEP_NONE &&
            c->now_ns - c->trainers[i].gone_ns > c->options.settings.trainer_lease_ns)
            forget_trainer(c, i);
        gone |= c->trainers[i].state == SMOE_TRAINER_GONE;
    }
    c->trainers_gone = gone;
}

/* ---- credit ---- */

/* Credit of what is submitted and waits for its forward pass. */
static void outstanding(const struct smoe_trainer *t, uint64_t *ret_bytes, uint64_t *ret_visits)
{
    *ret_bytes = t->arriving_bytes;
    *ret_visits = t->arriving_visits;
    smoe_list_for_each (it, &t->batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        if (b->input_freed)
            continue;
        *ret_bytes += b->credit_bytes;
        *ret_visits += (uint64_t)b->tokens * b->top_k;
    }
}

bool smoe_trainer_spend(struct smoe_trainer *t, uint64_t bytes, uint64_t visits)
{
    t->sent_bytes += bytes;
    t->sent_visits += visits;
    return t->sent_bytes <= t->granted_bytes && t->sent_visits <= t->granted_visits;
}

void smoe_trainer_owe(struct smoe_core *c, struct smoe_trainer *t)
{
    t->grant_due = c->grants_due = true;
}

void smoe_trainer_grant(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    t->grant_due = false;
    if (t->state != SMOE_TRAINER_LIVE)
        return;
    uint64_t bytes, visits;
    outstanding(t, &bytes, &visits);
    uint64_t up_to_bytes = t->sent_bytes - bytes + c->options.settings.window_bytes;
    uint64_t up_to_visits = t->sent_visits - visits + c->options.settings.window_visits;
    if (up_to_bytes <= t->granted_bytes && up_to_visits <= t->granted_visits)
        return; /* a grant is never taken back */
    if (up_to_bytes > t->granted_bytes)
        t->granted_bytes = up_to_bytes;
    if (up_to_visits > t->granted_visits)
        t->granted_visits = up_to_visits;
    struct smoe_msg_credit *m = &smoe_core_send(c, t->session, SMOE_MSG_CREDIT)->credit;
    *m = (struct smoe_msg_credit){t->granted_bytes, t->granted_visits};
}

/* ---- Restore ---- */

/* The states that follow replace those of every expert, copies included. */
static void rewind_layers(struct smoe_core *c, uint32_t trainer, uint64_t step)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    smoe_trainer_reset(c, trainer, "restored from a checkpoint");
    t->step_committed = step;
    t->last_done = (struct smoe_msg_step_done){0};
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer *layer = &c->layers[l];
        if (layer->state == SMOE_LAYER_FREE || layer->owner != trainer)
            continue;
        smoe_copies_void(c, l, SMOE_NONE);
        layer->step = step;
        layer->attempt = t->attempt;
        layer->done = t->last_done;
        layer->learned = true;
        c->journal_due |= UINT64_C(1) << l;
        if (layer->sharded)
            smoe_sharded_rewound(c, l);
    }
    if (c->sharding)
        smoe_layers_advance(c); /* who holds something must know the step before its states come */
}

/* Has it declared a layer whose experts stand nowhere yet? There is nothing to restore into. */
static bool owns_unplaced(const struct smoe_core *c, uint32_t trainer, uint32_t *ret_layer)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_layer *layer = &c->layers[l];
        *ret_layer = l;
        if (layer->state == SMOE_LAYER_WAITING && layer->owner == trainer && !layer->learned &&
            layer->experts[0].worker == SMOE_NONE)
            return true;
    }
    return false;
}

void smoe_trainer_restore(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_restore *m)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_why why;
    uint32_t l;
    /* Of whatever attempt: it crossed a Need, and drops all that there is of this one, too. */
    if (owns_unplaced(c, trainer, &l)) {
        smoe_fail(&why, SMOE_ESTATE, "RESTORE: layer %s has no hosts yet: wait for LAYER_READY",
                  c->layers[l].name);
        smoe_core_refuse(c, t->session, SMOE_ESTATE, why.text, false, 0, 0);
        return;
    }
    if (t->step.phase == SMOE_STEP_COMMITTING) {
        t->restore_due = true;
        t->restore_step = m->step;
    } else {
        rewind_layers(c, trainer, m->step);
    }
}

void smoe_trainer_catch_up(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    bool reset_due = t->reset_due, restore_due = t->restore_due;
    uint32_t session = t->parked_session;
    t->reset_due = t->restore_due = false;
    t->parked_session = SMOE_NO_SESSION;
    if (reset_due)
        smoe_trainer_reset(c, trainer, t->reset_reason);
    if (t->said_bye && t->state == SMOE_TRAINER_GONE)
        forget_trainer(c, trainer);
    if (restore_due)
        rewind_layers(c, trainer, t->restore_step);
    if (session != SMOE_NO_SESSION) {
        c->sessions[session] = (struct smoe_session){0};
        smoe_trainer_hello(c, session, &t->parked_hello, t->parked_protocol);
    }
}

/* ---- views ---- */

uint32_t smoe_core_n_trainers(const struct smoe_core *core)
{
    return core->options.limits.trainers_max;
}

static const char *waits_for(const struct smoe_core *c, uint32_t trainer)
{
    const struct smoe_trainer *t = &c->trainers[trainer];
    if (t->wanted)
        return "workers to host its layer";
    if (t->step.phase == SMOE_STEP_SETTLING)
        return "gradients of the batches its step names";
    if (t->step.phase != SMOE_STEP_NONE)
        return "workers to compute its step";
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if ((t->attached >> l & 1) && c->layers[l].state != SMOE_LAYER_READY)
            return "a lost worker to come back";
    if (t->account.now[SMOE_VISIT_WAITING])
        return "room in the workers' queues";
    return "";
}

/* Batches of the next step, while one is under way. */
static uint64_t count_ahead(const struct smoe_trainer *t)
{
    uint64_t n = 0;
    smoe_list_for_each (it, &t->batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        n += b->ahead && t->step.phase != SMOE_STEP_NONE && b->step > t->step.number;
    }
    return n;
}

struct smoe_trainer_view smoe_core_trainer(const struct smoe_core *core, uint32_t trainer)
{
    const struct smoe_trainer *t = &core->trainers[trainer];
    if (t->state == SMOE_TRAINER_FREE)
        return (struct smoe_trainer_view){.name = "", .waits_for = ""};
    return (struct smoe_trainer_view){
        .live = true,
        .connected = t->state == SMOE_TRAINER_LIVE,
        .session = t->session,
        .name = t->name,
        .attempt = t->attempt,
        .step = t->step_committed,
        .waits_for = waits_for(core, trainer),
        .batches = t->n_batches,
        .ahead = count_ahead(t),
        .account = t->account,
    };
}
