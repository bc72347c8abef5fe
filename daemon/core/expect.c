/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages with a raw part, judged by their protobuf part before memory is taken for the rest.
 */
#include "daemon/core/sharded.h"
#include "daemon/core/state_relay.h"

static struct smoe_verdict expect_of_trainer(struct smoe_core *c, uint32_t trainer,
                                             const struct smoe_message *m, uint64_t tensor_bytes,
                                             struct smoe_why *why)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_verdict v;
    if (m->type == SMOE_MSG_GRADIENT)
        return smoe_batch_expect_gradient(c, trainer, &m->gradient, why);
    if (m->type == SMOE_MSG_INPUTS)
        return smoe_backward_expect_inputs(c, trainer, &m->inputs);
    if (m->type == SMOE_MSG_EXPERT_STORE)
        return smoe_relay_expect_store(c, trainer, &m->expert_store, why);
    if (m->type == SMOE_MSG_FREEZE)
        return smoe_freezing_expect(c, trainer, &m->freeze, why);
    uint64_t bytes = smoe_submit_credit(&c->layers[m->submit.layer], &m->submit, tensor_bytes);
    if (!smoe_trainer_spend(t, bytes, (uint64_t)m->submit.tokens * m->submit.top_k))
        return smoe_verdict_fail(
            SMOE_FATAL,
            smoe_fail(why, SMOE_ECREDIT,
                      "SUBMIT: %llu bytes and %llu visits sent, %llu and %llu granted",
                      (unsigned long long)t->sent_bytes, (unsigned long long)t->sent_visits,
                      (unsigned long long)t->granted_bytes, (unsigned long long)t->granted_visits),
            m->submit.batch, 0);
    v = smoe_batch_expect_submit(c, t, &m->submit, why);
    if (v.kind != SMOE_TAKE)
        smoe_trainer_owe(c, t);
    t->arriving_bytes = v.kind == SMOE_TAKE ? bytes : 0;
    t->arriving_visits = v.kind == SMOE_TAKE ? (uint64_t)m->submit.tokens * m->submit.top_k : 0;
    return v;
}

struct smoe_verdict smoe_core_expect(struct smoe_core *core, uint32_t session,
                                     const struct smoe_message *message, uint64_t tensor_bytes,
                                     struct smoe_why *why)
{
    const struct smoe_session *s = &core->sessions[session];
    if (s->kind == SMOE_SESSION_TRAINER) {
        struct smoe_verdict v = expect_of_trainer(core, s->index, message, tensor_bytes, why);
        core->totals.stale_frames += v.kind == SMOE_IGNORE;
        return v;
    }
    if (s->kind != SMOE_SESSION_WORKER)
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    if (message->type == SMOE_MSG_STEP_GRADIENT)
        return smoe_copies_expect_gradient(core, s->index, &message->step_gradient);
    if (message->type == SMOE_MSG_SHARD_PART)
        return smoe_exchange_expect(core, s->index, &message->shard_part);
    if (message->type == SMOE_MSG_EXPERT_STATE)
        return smoe_relay_expect_state(core, s->index, &message->expert_state, why);
    bool output = message->type == SMOE_MSG_OUTPUT;
    uint64_t id = output ? message->output.parcel : message->parcel_gradient.parcel;
    enum smoe_visit_state due = output ? SMOE_VISIT_ROUTED : SMOE_VISIT_GRADIENT_QUEUED;
    uint32_t parcel;
    if (!smoe_parcel_by_id(core, s->index, id, &parcel) || core->parcels[parcel].state != due) {
        core->totals.late_frames++;
        core->fleet.workers[s->index].late_frames++;
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    }
    const struct smoe_parcel *p = &core->parcels[parcel];
    return (struct smoe_verdict){.kind = SMOE_TAKE,
                                 .bytes = p->rows * smoe_row_bytes(&core->layers[p->layer])};
}
