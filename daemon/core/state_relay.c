/* SPDX-License-Identifier: Apache-2.0
 *
 * Expert states on their way between a trainer and the workers that have the expert: checkpoints are
 * fetched from the host, and stored at host and follower, through the daemon, which only checks who may
 * ask and that the sizes are right. The core's own requests (copies.c) go the same way.
 * A request is remembered until the worker answers. A fetch outlives its worker: it waits until the
 * expert has a host again and asks that one. Other requests are answered with an error then; what a
 * trainer asked is forgotten when it leaves.
 */
#include "daemon/core/state_relay.h"
#include "daemon/core/sharded.h"

/* Elements of one flat parameter vector (common/kernels/ffn.h). */
static uint64_t params_of(const struct smoe_layer_shape *s)
{
    uint64_t matrices = s->activation == 3 ? 3 : 2;
    return matrices * s->d_model * s->d_ff + s->d_ff + s->d_model;
}

uint64_t smoe_relay_bytes(const struct smoe_layer *layer, uint32_t parts)
{
    uint64_t vectors = (parts & SMOE_STATE_WEIGHTS ? 1 : 0) +
                       (parts & SMOE_STATE_MOMENTS ? smoe_layer_moments(layer) : 0) +
                       (parts & SMOE_STATE_GRADIENT ? 1 : 0) +
                       (parts & SMOE_STATE_OLDER && layer->shape.staleness ? 1 : 0);
    return vectors * params_of(&layer->shape) * smoe_real_bytes(layer);
}

/* Is there such an expert for this trainer, somebody to ask, and can its state travel? */
static int check_target(const struct smoe_core *c, uint32_t trainer, uint32_t l, uint32_t expert,
                        uint32_t parts, bool may_wait, uint32_t *ret_worker, struct smoe_why *why)
{
    if (!(c->trainers[trainer].attached >> l & 1))
        return smoe_fail(why, SMOE_EUNKNOWN, "layer %u: not declared by you", l);
    const struct smoe_layer *layer = &c->layers[l];
    if (expert >= layer->shape.experts)
        return smoe_fail(why, SMOE_EFIELD, "expert %u: layer %s has %u", expert, layer->name,
                         layer->shape.experts);
    if (parts & SMOE_STATE_OLDER)
        return smoe_fail(why, SMOE_EFIELD, "parts %u: older weights are the workers' own", parts);
    if (layer->state == SMOE_LAYER_LOST)
        return smoe_fail(why, SMOE_ELOST, "layer %s: its experts are lost", layer->name);
    if (layer->sharded && (parts & SMOE_STATE_GRADIENT))
        return smoe_fail(why, SMOE_ESTATE,
                         "layer %s is sharded: its gradient is added up in a step only",
                         layer->name);
    if (!layer->sharded && layer->state != SMOE_LAYER_READY && !may_wait)
        return smoe_fail(why, SMOE_ESTATE, "layer %s: not all experts have a host now",
                         layer->name);
    if (smoe_relay_bytes(layer, parts) > c->options.tensor_bytes_max)
        return smoe_fail(why, SMOE_ETOOBIG, "layer %s: %llu bytes, a raw part has at most %llu",
                         layer->name, (unsigned long long)smoe_relay_bytes(layer, parts),
                         (unsigned long long)c->options.tensor_bytes_max);
    *ret_worker = layer->experts[expert].worker;
    return layer->sharded && !may_wait ? smoe_sharded_reachable(c, l, why) : 0;
}

static uint32_t find_free(const struct smoe_core *c)
{
    uint32_t i = 0;
    while (i < c->relays_reached && c->relays[i].used)
        i++;
    return i < SMOE_RELAYS_MAX ? i : SMOE_NONE;
}

/* The worker is asked under a number that was never used before, so that a late
 * answer to a forgotten request is not taken for the answer to a later one. */
int smoe_relay_remember(struct smoe_core *c, const struct smoe_relay *relay, uint64_t *ret_number,
                        struct smoe_why *why)
{
    uint32_t i = find_free(c);
    if (i == SMOE_NONE)
        return smoe_fail(why, SMOE_ELIMIT, "%d expert states are on their way already",
                         SMOE_RELAYS_MAX);
    c->relays_reached = i < c->relays_reached ? c->relays_reached : i + 1;
    c->relays[i] = *relay;
    c->relays[i].number = *ret_number = ++c->relay_serial * SMOE_RELAYS_MAX + i;
    return 0;
}

static struct smoe_relay *relay_of(const struct smoe_core *c, uint32_t worker, uint64_t number,
                                   bool store)
{
    struct smoe_relay *r = smoe_relay_place(c, number);
    bool asked = r && (r->worker == worker || (store && r->follower == worker));
    return asked && r->used && !r->waiting && r->number == number && r->store == store ? r : NULL;
}

/* That of a number that was just given. */
static struct smoe_relay *relay_at(const struct smoe_core *c, uint64_t number)
{
    return &c->relays[number % SMOE_RELAYS_MAX];
}

static void ask(struct smoe_core *c, const struct smoe_relay *r)
{
    smoe_core_send(c, c->fleet.workers[r->worker].session, SMOE_MSG_EXPERT_FETCH)->expert_fetch =
        (struct smoe_msg_expert_fetch){r->number, r->layer, r->expert, r->parts};
}

/* Not while experts change hosts, nor while the host's loss waits for a commit (session.c). */
static bool can_be_asked(const struct smoe_core *c, uint32_t layer, uint32_t host)
{
    return c->layers[layer].state == SMOE_LAYER_READY && smoe_worker_here(&c->fleet.workers[host]);
}

void smoe_relay_fetch(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_expert_fetch *m)
{
    struct smoe_why why;
    struct smoe_relay relay = {.used = true,
                               .trainer = trainer,
                               .follower = SMOE_NONE,
                               .request = m->request,
                               .layer = m->layer,
                               .expert = m->expert,
                               .parts = m->parts};
    uint64_t number;
    bool may_wait = !(m->parts & SMOE_STATE_GRADIENT); /* what is committed is the same anywhere */
    int rc = check_target(c, trainer, m->layer, m->expert, m->parts, may_wait, &relay.worker, &why);
    bool sharded = rc == 0 && c->layers[m->layer].sharded;
    relay.waiting = rc == 0 && (sharded || !can_be_asked(c, m->layer, relay.worker));
    if (rc == 0)
        rc = smoe_relay_remember(c, &relay, &number, &why);
    if (rc) {
        smoe_fail_at(&why, rc, "EXPERT_FETCH");
        smoe_core_refuse(c, c->trainers[trainer].session, rc, why.text, false, 0, m->request);
        return;
    }
    if (sharded)
        smoe_sharded_serve_fetches(c, m->layer);
    else if (!relay.waiting)
        ask(c, relay_at(c, number));
}

void smoe_relay_go_on(struct smoe_core *c, uint32_t layer)
{
    for (uint32_t i = 0; i < c->relays_reached; i++) {
        struct smoe_relay *r = &c->relays[i];
        if (!r->used || !r->waiting || r->layer != layer)
            continue;
        uint32_t host = c->layers[layer].experts[r->expert].worker;
        if (!can_be_asked(c, layer, host))
            continue;
        r->waiting = false;
        r->worker = host;
        ask(c, r);
    }
}

struct smoe_verdict smoe_relay_expect_store(const struct smoe_core *c, uint32_t trainer,
                                            const struct smoe_msg_expert_store *m,
                                            struct smoe_why *why)
{
    uint32_t worker;
    int rc = check_target(c, trainer, m->layer, m->expert, m->parts, false, &worker, why);
    if (rc == 0 && c->layers[m->layer].owner != trainer)
        rc = smoe_fail(why, SMOE_EROLE, "layer %s: attached for evaluation only",
                       c->layers[m->layer].name);
    if (rc) {
        smoe_fail_at(why, rc, "EXPERT_STORE");
        return smoe_verdict_fail(SMOE_REFUSE, rc, 0, m->request);
    }
    return (struct smoe_verdict){.kind = SMOE_TAKE,
                                 .bytes = smoe_relay_bytes(&c->layers[m->layer], m->parts)};
}

static void send_store(struct smoe_core *c, uint32_t worker, uint64_t number,
                       const struct smoe_msg_expert_store *m)
{
    struct smoe_message *out =
        smoe_core_send(c, c->fleet.workers[worker].session, SMOE_MSG_EXPERT_STORE);
    out->expert_store = (struct smoe_msg_expert_store){
        number, m->layer, m->expert, m->parts, m->step, c->layers[m->layer].attempt};
    smoe_core_attach(c, SMOE_TENSOR_PASS, SMOE_NONE, NULL, 0);
}

/* The host stores it, and so does the follower that has a copy. */
void smoe_relay_store(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_expert_store *m)
{
    struct smoe_why why;
    struct smoe_relay relay = {.used = true,
                               .trainer = trainer,
                               .request = m->request,
                               .layer = m->layer,
                               .expert = m->expert,
                               .parts = m->parts,
                               .store = true,
                               .step = m->step};
    uint64_t number;
    int rc = check_target(c, trainer, m->layer, m->expert, m->parts, false, &relay.worker, &why);
    if (rc == 0 && !smoe_standing_quiet(c, &c->layers[m->layer]))
        rc = smoe_fail(&why, SMOE_ESTATE, "layer %s: its step is being made",
                       c->layers[m->layer].name);
    if (rc == 0 && m->step != c->layers[m->layer].step)
        rc = smoe_fail(&why, SMOE_EFIELD, "step %llu: the layer is at step %llu: RESTORE it first",
                       (unsigned long long)m->step, (unsigned long long)c->layers[m->layer].step);
    bool sharded = rc == 0 && c->layers[m->layer].sharded;
    if (rc == 0 && !sharded) {
        relay.follower = c->layers[m->layer].experts[m->expert].follower;
        relay.follower_stored = relay.follower == SMOE_NONE;
    }
    rc = rc ? rc : smoe_relay_remember(c, &relay, &number, &why);
    if (rc) {
        smoe_fail_at(&why, rc, "EXPERT_STORE");
        smoe_core_refuse(c, c->trainers[trainer].session, rc, why.text, false, 0, m->request);
        return;
    }
    c->layers[m->layer].learned = true;
    c->journal_due |= UINT64_C(1) << m->layer;
    if (sharded) {
        smoe_sharded_store(c, relay_at(c, number));
        return;
    }
    smoe_copies_void(c, m->layer, m->expert); /* what is on its way to a new follower is older */
    send_store(c, relay.worker, number, m);
    if (relay.follower != SMOE_NONE)
        send_store(c, relay.follower, number, m);
}

struct smoe_verdict smoe_relay_expect_state(const struct smoe_core *c, uint32_t worker,
                                            const struct smoe_msg_expert_state *m,
                                            struct smoe_why *why)
{
    const struct smoe_relay *r = relay_of(c, worker, m->request, false);
    (void)why;
    if (!r)
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    return (struct smoe_verdict){.kind = SMOE_TAKE,
                                 .bytes = smoe_relay_bytes(&c->layers[r->layer], r->parts)};
}

void smoe_relay_state(struct smoe_core *c, uint32_t worker, const struct smoe_msg_expert_state *m)
{
    struct smoe_relay *r = relay_of(c, worker, m->request, false);
    if (!r)
        return;
    if (r->trainer == SMOE_NONE) {
        smoe_copies_state(c, r, m);
        return;
    }
    r->used = false;
    struct smoe_message *out =
        smoe_core_send(c, c->trainers[r->trainer].session, SMOE_MSG_EXPERT_STATE);
    out->expert_state =
        (struct smoe_msg_expert_state){r->request, r->layer, r->expert, r->parts, m->step, 0, 0, 0};
    smoe_core_attach(c, SMOE_TENSOR_PASS, SMOE_NONE, NULL, 0);
}

static void answer_if_stored(struct smoe_core *c, struct smoe_relay *r)
{
    if (!r->host_stored || !r->follower_stored)
        return;
    r->used = false;
    smoe_core_send(c, c->trainers[r->trainer].session, SMOE_MSG_EXPERT_STORED)->expert_stored =
        (struct smoe_msg_expert_stored){r->request, r->layer, r->expert};
    smoe_copies_advance(c, r->layer);
}

void smoe_relay_stored(struct smoe_core *c, uint32_t worker, const struct smoe_msg_expert_stored *m)
{
    struct smoe_relay *r = relay_of(c, worker, m->request, true);
    if (!r)
        return;
    if (r->trainer == SMOE_NONE) {
        if (worker == r->follower)
            smoe_copies_stored(c, r);
        return;
    }
    r->host_stored |= worker == r->worker;
    r->follower_stored |= worker == r->follower;
    answer_if_stored(c, r);
}

void smoe_relay_drop_layer(struct smoe_core *c, uint32_t layer, const char *sentence)
{
    smoe_copies_void(c, layer, SMOE_NONE);
    for (uint32_t i = 0; i < c->relays_reached; i++) {
        struct smoe_relay *r = &c->relays[i];
        if (!r->used || r->layer != layer)
            continue;
        r->used = false; /* copies, which are nobody's, are void already */
        smoe_core_refuse(c, c->trainers[r->trainer].session, SMOE_ELOST, sentence, false, 0,
                         r->request);
    }
}

static void worker_left(struct smoe_core *c, struct smoe_relay *r, uint32_t worker)
{
    if (r->trainer == SMOE_NONE) {
        smoe_copies_end(c, r);
    } else if (r->worker == worker && !r->store && !(r->parts & SMOE_STATE_GRADIENT)) {
        r->waiting = true; /* for the next host */
    } else if (r->worker == worker) {
        r->used = false;
        smoe_core_refuse(c, c->trainers[r->trainer].session, SMOE_ECLOSED,
                         "the worker left before it answered", false, 0, r->request);
    } else { /* a copy that is no more needs nothing stored */
        r->follower_stored = true;
        answer_if_stored(c, r);
    }
}

void smoe_relay_drop(struct smoe_core *c, uint32_t trainer, uint32_t worker)
{
    for (uint32_t i = 0; i < c->relays_reached; i++) {
        struct smoe_relay *r = &c->relays[i];
        if (!r->used)
            continue;
        if (r->trainer == trainer)
            r->used = false;
        else if (worker != SMOE_NONE && !r->waiting && !c->layers[r->layer].sharded &&
                 (r->worker == worker || r->follower == worker))
            worker_left(c, r, worker);
    }
}
