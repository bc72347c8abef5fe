/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers are looked at where they come in, by the gateway, and judged here.
 *
 * A trainer's x is refused. Its dy may be what it likes, also NaN: a step over it fails (step.c) and the
 * next one counts; but what workers make of it is not held against them (`tainted`). A worker's numbers
 * that cannot be end its session before anybody has seen them: its visits are replayed elsewhere, its
 * experts come up from their copies. Only if another worker gives no better ones they are passed on.
 *
 * Where nobody else holds the expert there is nobody to ask, and sound x through sound parameters may well
 * become as large. So the worker is neither struck nor sent away, which could cost the only copy: the batch
 * (or the step, where it is a norm) fails, and its trainer is told which expert it was. States are no such
 * case: their limit is what a float can hold, and no commit makes them infinite.
 */
#include "daemon/core/conduct.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

struct smoe_quarantine_rules smoe_conduct_rules(const struct smoe_core *c)
{
    const struct smoe_core_settings *s = &c->options.settings;
    return (struct smoe_quarantine_rules){s->strikes_max, s->quarantine_ns};
}

/* ---- strikes ---- */

/* What no worker of ours says, whatever happens to it. */
static bool is_misconduct(int code)
{
    return code == SMOE_EMALFORMED || code == SMOE_ETOOBIG || code == SMOE_ESTATE ||
           code == SMOE_EROLE || code == SMOE_EFIELD || code == SMOE_ESHAPE ||
           code == SMOE_ENOTFINITE;
}

void smoe_conduct_ended(struct smoe_core *c, uint32_t session, int code, const char *sentence,
                        smoe_sentence told)
{
    const struct smoe_session *s = &c->sessions[session];
    struct smoe_quarantine_rules rules = smoe_conduct_rules(c);
    snprintf(told, sizeof(smoe_sentence), "%s", sentence);
    if (s->kind != SMOE_SESSION_WORKER || !is_misconduct(code) || !rules.strikes_max)
        return;
    const char *worker = c->fleet.workers[s->index].id;
    uint32_t strikes = smoe_quarantine_strike(&c->quarantine, &rules, worker, sentence, c->now_ns);
    snprintf(told, sizeof(smoe_sentence), "%.200s (strike %u of %u)", sentence, strikes,
             rules.strikes_max);
}

int smoe_conduct_admit(const struct smoe_core *c, const char *worker, struct smoe_why *why)
{
    struct smoe_quarantine_rules rules = smoe_conduct_rules(c);
    const struct smoe_conduct *conduct =
        smoe_quarantine_find(&c->quarantine, &rules, worker, c->now_ns);
    uint64_t left_ns = conduct ? smoe_quarantine_left_ns(conduct, &rules, c->now_ns) : 0;
    if (!left_ns)
        return 0;
    return smoe_fail(why, SMOE_EQUARANTINED,
                     "worker %s is in quarantine for %llu min more: %u strikes, the last: %.120s",
                     worker, (unsigned long long)(left_ns / 60000000000) + 1, conduct->strikes,
                     conduct->why);
}

/* ---- numbers ---- */

/* Which expert's numbers a worker sent, and whose fault they may be otherwise. */
struct subject {
    uint32_t layer, expert;
    bool excused;   /* the trainer gave it worse */
    uint32_t batch; /* that waits for them; SMOE_NONE: they are no result of one */
};

static bool any_tainted(const struct smoe_core *c, uint32_t trainer)
{
    if (trainer >= c->options.limits.trainers_max)
        return false;
    smoe_list_for_each (it, &c->trainers[trainer].batches)
        if (smoe_container_of(it, struct smoe_batch, trainer_link)->tainted)
            return true;
    return false;
}

/* False: nobody waits for it any more. */
static bool find_subject(const struct smoe_core *c, uint32_t worker, const struct smoe_message *m,
                         struct subject *ret)
{
    uint32_t parcel;
    if (m->type == SMOE_MSG_STEP_GRADIENT) {
        const struct smoe_msg_step_gradient *g = &m->step_gradient;
        *ret = (struct subject){g->layer, g->expert, any_tainted(c, g->owner), SMOE_NONE};
        return smoe_copies_expect_gradient(c, worker, g).kind == SMOE_TAKE;
    }
    if (m->type == SMOE_MSG_SHARD_PART) {
        const struct smoe_layer *layer = &c->layers[m->shard_part.layer];
        *ret = (struct subject){m->shard_part.layer, m->shard_part.expert,
                                any_tainted(c, layer->owner), SMOE_NONE};
        return layer->state != SMOE_LAYER_FREE;
    }
    if (m->type == SMOE_MSG_EXPERT_STATE) {
        const struct smoe_relay *r = smoe_relay_place(c, m->expert_state.request);
        if (!r)
            return false;
        bool sums = r->parts & SMOE_STATE_GRADIENT;
        *ret = (struct subject){r->layer, r->expert, sums && any_tainted(c, r->trainer), SMOE_NONE};
        return r->used && !r->waiting && r->number == m->expert_state.request &&
               r->worker == worker;
    }
    uint64_t id = m->type == SMOE_MSG_OUTPUT ? m->output.parcel : m->parcel_gradient.parcel;
    if (!smoe_parcel_by_id(c, worker, id, &parcel))
        return false;
    const struct smoe_parcel *p = &c->parcels[parcel];
    *ret = (struct subject){p->layer, p->expert, c->batches[p->batch].tainted, p->batch};
    return p->state ==
           (m->type == SMOE_MSG_OUTPUT ? SMOE_VISIT_ROUTED : SMOE_VISIT_GRADIENT_QUEUED);
}

/* Could the same be asked of somebody else? */
static bool others_hold(const struct smoe_core *c, uint32_t l, uint32_t expert, uint32_t worker)
{
    const struct smoe_layer *layer = &c->layers[l];
    const struct smoe_expert_view *x = &layer->experts[expert];
    for (uint32_t w = 0; layer->sharded && w < c->fleet.n_used; w++)
        if (w != worker && smoe_standing_usable(c, w) && smoe_layer_on_worker(layer, w))
            return true;
    return !layer->sharded && ((x->worker != worker && smoe_standing_usable(c, x->worker)) ||
                               (x->follower != worker && smoe_standing_usable(c, x->follower)));
}

/* Of an expert whose only holder is the worker: its trainer must know what to do about it. */
static void fail_batch(struct smoe_core *c, uint32_t worker, const char *what,
                       const struct subject *s)
{
    struct smoe_why why;
    smoe_fail(&why, SMOE_ENOTFINITE,
              "%s: numbers of expert %u of layer %s that cannot be; only worker %s holds it, so "
              "nobody else can be asked",
              what, s->expert, c->layers[s->layer].name, c->fleet.workers[worker].id);
    smoe_batch_fail(c, s->batch, SMOE_ENOTFINITE, why.text);
}

/* Whose fault may it be? NOBODY_S where only the worker holds the expert. */
enum fault { WORKER_S, EXPERT_S, NOBODY_S };

static enum fault judge(struct smoe_core *c, uint32_t worker, uint32_t layer, uint32_t expert)
{
    struct smoe_doubt doubt = {layer, expert, c->layers[layer].run, c->layers[layer].step};
    const char *name = c->fleet.workers[worker].id;
    if (!others_hold(c, layer, expert, worker))
        return smoe_quarantine_confirmed(&c->quarantine, &doubt, name) ? EXPERT_S : NOBODY_S;
    return smoe_quarantine_doubt(&c->quarantine, &doubt, name) ? WORKER_S : EXPERT_S;
}

static void send_away(struct smoe_core *c, uint32_t worker, const char *what, uint32_t layer,
                      uint32_t expert)
{
    struct smoe_why why;
    smoe_fail(&why, SMOE_ENOTFINITE, "%s: numbers of expert %u of layer %s that cannot be", what,
              expert, c->layers[layer].name);
    smoe_session_end(c, c->fleet.workers[worker].session, SMOE_ENOTFINITE, why.text);
}

static bool judge_worker(struct smoe_core *c, uint32_t worker, const struct smoe_message *m)
{
    struct subject s;
    if (!find_subject(c, worker, m, &s))
        return true;
    if (s.excused)
        return false;
    enum fault fault = judge(c, worker, s.layer, s.expert);
    const char *what = smoe_message_name((uint16_t)m->type);
    if (fault == NOBODY_S && s.batch != SMOE_NONE)
        fail_batch(c, worker, what, &s);
    else if (fault != EXPERT_S)
        send_away(c, worker, what, s.layer, s.expert);
    return fault != EXPERT_S;
}

/* x that came once more is not what it was; a state would be an expert's from now on. */
static bool judge_trainer(struct smoe_core *c, uint32_t session, uint32_t trainer,
                          const struct smoe_message *m)
{
    const struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_why why;
    uint32_t batch;
    if (m->type == SMOE_MSG_GRADIENT) {
        if (m->gradient.attempt == t->attempt &&
            smoe_batch_find(c, trainer, m->gradient.batch, &batch))
            c->batches[batch].tainted = true;
        return false;
    }
    bool submit = m->type == SMOE_MSG_SUBMIT, inputs = m->type == SMOE_MSG_INPUTS;
    uint64_t request = m->type == SMOE_MSG_EXPERT_STORE ? m->expert_store.request : 0;
    smoe_fail(&why, SMOE_ENOTFINITE, "%s: numbers must be finite%s",
              smoe_message_name((uint16_t)m->type),
              submit || inputs ? " and their magnitude at most 1e18" : "");
    if (submit) {
        c->trainers[trainer].arriving_bytes = c->trainers[trainer].arriving_visits = 0;
        smoe_trainer_owe(c, &c->trainers[trainer]);
    }
    if (inputs)
        smoe_session_end(c, session, SMOE_ENOTFINITE, why.text);
    else
        smoe_core_refuse(c, session, SMOE_ENOTFINITE, why.text, false, submit ? m->submit.batch : 0,
                         request);
    return true;
}

bool smoe_conduct_numbers(struct smoe_core *c, const struct smoe_event *event)
{
    const struct smoe_session *s = &c->sessions[event->session];
    if (s->kind == SMOE_SESSION_WORKER)
        return judge_worker(c, s->index, event->message);
    if (s->kind == SMOE_SESSION_TRAINER)
        return judge_trainer(c, event->session, s->index, event->message);
    return false;
}

bool smoe_conduct_norms(struct smoe_core *c, uint32_t trainer)
{
    const struct smoe_step *step = &c->trainers[trainer].step;
    for (uint32_t l = 0; !any_tainted(c, trainer) && l < SMOE_LAYERS_MAX; l++)
        for (uint32_t e = 0; (step->layers >> l & 1) && e < c->layers[l].shape.experts; e++) {
            const struct smoe_expert_view *x = &c->layers[l].experts[e];
            if (c->layers[l].sharded) /* its norms are of sums over parts, each looked at before */
                break;
            if (x->square_norm >= 0)
                continue;
            if (!smoe_worker_here(&c->fleet.workers[x->worker]))
                return true; /* its loss, which waits for another's commit, ends this attempt */
            if (judge(c, x->worker, l, e) != WORKER_S)
                continue;
            send_away(c, x->worker, "STEP_NORM", l, e);
            return true;
        }
    return false;
}

/* ---- what the gateway must look at ---- */

/* The layer that a message with a raw part is about; NULL: nothing waits for it any more. */
static const struct smoe_layer *layer_of(const struct smoe_core *c, const struct smoe_session *s,
                                         const struct smoe_message *m)
{
    struct subject subject = {0};
    uint32_t batch;
    if (m->type == SMOE_MSG_FREEZE)
        return NULL; /* whoever makes a router of it looks at all of it */
    if (m->type == SMOE_MSG_SUBMIT) {
        struct smoe_why unused; /* the batch will be refused */
        return m->submit.router_version && smoe_freezing_check(c, &m->submit, &unused)
                   ? NULL
                   : &c->layers[m->submit.layer];
    }
    if (m->type == SMOE_MSG_EXPERT_STORE)
        return &c->layers[m->expert_store.layer];
    if (m->type == SMOE_MSG_GRADIENT || m->type == SMOE_MSG_INPUTS) {
        uint64_t id = m->type == SMOE_MSG_INPUTS ? m->inputs.batch : m->gradient.batch;
        return smoe_batch_find(c, s->index, id, &batch) ? &c->layers[c->batches[batch].layer]
                                                        : NULL;
    }
    return find_subject(c, s->index, m, &subject) ? &c->layers[subject.layer] : NULL;
}

struct smoe_numbers smoe_core_numbers(const struct smoe_core *core, uint32_t session,
                                      const struct smoe_message *m)
{
    const struct smoe_session *s = &core->sessions[session];
    bool judged = s->kind == SMOE_SESSION_WORKER || s->kind == SMOE_SESSION_TRAINER;
    const struct smoe_layer *layer = judged ? layer_of(core, s, m) : NULL;
    if (!layer)
        return (struct smoe_numbers){0};
    bool part = m->type == SMOE_MSG_SHARD_PART;
    bool state = m->type == SMOE_MSG_EXPERT_STATE || m->type == SMOE_MSG_EXPERT_STORE ||
                 m->type == SMOE_MSG_STEP_GRADIENT || part;
    bool f64 = layer->shape.dtype == SMOE_DTYPE_F64;
    uint64_t bytes = smoe_real_bytes(layer);
    if (part && m->shard_part.kind != SMOE_SHARD_STATE)
        bytes = smoe_part_element_bytes(layer, false);
    return (struct smoe_numbers){
        .skip = m->type == SMOE_MSG_SUBMIT ? smoe_choice_bytes(layer, &m->submit) : 0,
        .bytes = (unsigned)bytes,
        .limit = !state ? SMOE_MAGNITUDE_MAX
                 : f64  ? DBL_MAX
                        : (double)FLT_MAX,
        .any = true,
    };
}
