/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions begin and end: who may join, and who must hear of it when somebody has gone.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/core/conduct.h"
#include "daemon/core/links.h"
#include "daemon/core/state_relay.h"

/* ---- the end ---- */

static bool steps_on_worker(const struct smoe_core *c, uint32_t trainer, uint32_t worker)
{
    const struct smoe_step *s = &c->trainers[trainer].step;
    for (uint32_t l = 0; s->phase > SMOE_STEP_SETTLING && l < SMOE_LAYERS_MAX; l++)
        if ((s->layers >> l & 1) && smoe_layer_on_worker(&c->layers[l], worker))
            return true;
    return false;
}

/* Everything that had a stake in the worker learns of its loss, trainers last: their reset looks at
 * parcels whose worker is gone already. */
static void bury(struct smoe_core *c, uint32_t worker)
{
    struct smoe_worker *w = &c->fleet.workers[worker];
    char reason[sizeof(smoe_sentence)];
    snprintf(reason, sizeof reason, "worker %s is lost", w->id);
    while (!smoe_list_empty(&c->worker_parcels[worker])) {
        struct smoe_parcel *p = smoe_container_of(smoe_list_first(&c->worker_parcels[worker]),
                                                  struct smoe_parcel, worker_link);
        smoe_trainer_reset(c, c->batches[p->batch].trainer, reason); /* frees all its parcels */
    }
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (steps_on_worker(c, t, worker))
            smoe_trainer_reset(c, t, reason); /* its step awaits an answer that will not come */
    smoe_worker_leave(w, c->now_ns);
    c->expiry_ns = 0; /* its lease runs */
    smoe_layer_worker_lost(c, worker);
}

void smoe_session_bury_leaving(struct smoe_core *c)
{
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (c->fleet.workers[w].leaving)
            bury(c, w);
    c->n_leaving = 0;
}

/* A step that is being committed can no longer be repeated without it, so its loss waits for that. */
static void worker_lost(struct smoe_core *c, uint32_t worker)
{
    struct smoe_worker *w = &c->fleet.workers[worker];
    w->session = SMOE_NO_SESSION; /* nothing more is sent to it */
    smoe_links_lost(c, worker);
    smoe_relay_drop(c, SMOE_NO_TRAINER, worker);
    if (c->n_committing) {
        w->leaving = true;
        c->n_leaving++;
    } else {
        bury(c, worker);
    }
}

void smoe_session_closed(struct smoe_core *c, uint32_t session)
{
    struct smoe_session s = c->sessions[session];
    c->sessions[session] = (struct smoe_session){0};
    if (s.kind == SMOE_SESSION_WORKER)
        worker_lost(c, s.index);
    else if (s.kind == SMOE_SESSION_PARKED)
        c->trainers[s.index].parked_session = SMOE_NO_SESSION;
    else if (s.kind == SMOE_SESSION_TRAINER)
        smoe_trainer_closed(c, s.index);
}

void smoe_session_end(struct smoe_core *c, uint32_t session, int code, const char *sentence)
{
    smoe_core_refuse(c, session, code, sentence, true, 0, 0);
    smoe_session_closed(c, session);
    c->sessions[session].kind = SMOE_SESSION_CLOSING;
}

/* ---- hello ---- */

static bool agree_on_version(const struct smoe_msg_hello *m, uint32_t *ret)
{
    uint32_t high = m->protocol_max < SMOE_PROTOCOL_MAX ? m->protocol_max : SMOE_PROTOCOL_MAX;
    *ret = high;
    return high >= m->protocol_min && high >= SMOE_PROTOCOL_MIN;
}

static void welcome_worker(struct smoe_core *c, uint32_t session, uint32_t worker,
                           uint32_t protocol)
{
    c->sessions[session] = (struct smoe_session){SMOE_SESSION_WORKER, worker};
    struct smoe_worker *w = &c->fleet.workers[worker];
    smoe_worker_limit(w, c->options.settings.worker_budget_w, c->options.settings.worker_cap_w);
    smoe_slot_consider(c, worker);
    struct smoe_msg_welcome *out = &smoe_core_send(c, session, SMOE_MSG_WELCOME)->welcome;
    out->protocol = protocol;
    out->epoch = c->epoch;
    out->slot_us = (uint32_t)(c->options.settings.slot_ns / 1000);
    out->tensor_bytes_max = c->options.tensor_bytes_max;
    out->silence_ms_max = (uint32_t)(c->options.settings.silence_ns / 1000000);
    w->told_silence_ns = c->options.settings.silence_ns;
    memcpy(out->software, c->options.software, sizeof out->software);
}

/* The session of the very process that says hello, if the daemon has not noticed yet that it is dead:
 * a network that breaks says nothing to either end, and one of them tries again first. */
static bool find_predecessor(const struct smoe_core *c, const struct smoe_msg_hello *m,
                             uint32_t *ret_session)
{
    for (uint32_t i = 0; i < c->options.limits.trainers_max; i++) {
        const struct smoe_trainer *t = &c->trainers[i];
        *ret_session = t->session;
        if (m->role == SMOE_ROLE_TRAINER && t->state == SMOE_TRAINER_LIVE &&
            t->incarnation == m->incarnation && strcmp(t->name, m->name) == 0)
            return true;
    }
    uint32_t i;
    if (m->role != SMOE_ROLE_WORKER || !smoe_fleet_find(&c->fleet, m->name, &i))
        return false;
    const struct smoe_worker *w = &c->fleet.workers[i];
    *ret_session = w->session;
    return w->session != SMOE_NO_SESSION && w->incarnation == m->incarnation;
}

void smoe_session_hello(struct smoe_core *c, uint32_t session, const struct smoe_msg_hello *m)
{
    uint32_t predecessor;
    if (!c->draining && find_predecessor(c, m, &predecessor))
        smoe_session_end(c, predecessor, SMOE_ECLOSED, "connected again elsewhere");
    struct smoe_why why;
    uint32_t protocol, worker;
    if (!agree_on_version(m, &protocol)) {
        smoe_fail(&why, SMOE_EVERSION, "HELLO: protocol %u..%u, this daemon speaks %d..%d",
                  m->protocol_min, m->protocol_max, SMOE_PROTOCOL_MIN, SMOE_PROTOCOL_MAX);
        smoe_core_refuse(c, session, SMOE_EVERSION, why.text, true, 0, 0);
    } else if (c->draining) {
        smoe_core_refuse(c, session, SMOE_EDRAINING, "HELLO: the daemon is shutting down", true, 0,
                         0);
    } else if (m->role == SMOE_ROLE_TRAINER) {
        smoe_trainer_hello(c, session, m, protocol);
    } else if (smoe_conduct_admit(c, m->name, &why)) {
        smoe_core_refuse(c, session, SMOE_EQUARANTINED, why.text, true, 0, 0);
    } else {
        int rc = smoe_fleet_join(&c->fleet, session, m, c->now_ns, &worker, &why);
        if (rc)
            smoe_core_refuse(c, session, rc, why.text, true, 0, 0);
        else
            welcome_worker(c, session, worker, protocol);
    }
}
