/* SPDX-License-Identifier: Apache-2.0
 *
 * The slot: arrivals and queues in, routes and frequencies out, one Decision per worker.
 *
 * A slot ends at its absolute deadline, or early when tokens wait and an eligible worker has nothing to
 * do, so that a synchronous trainer never waits for the clock; a slot that was planned as a whole one
 * (SMOE_PLAN_SLOT) is one. At its end the pending tokens are routed (slot_route.c) and each worker with new
 * parcels, or whose frequency must change, gets a Decision.
 */
#include <math.h>
#include <stddef.h>

#include "common/base/assert.h"
#include "common/base/near.h"
#include "daemon/core/sharded.h"
#include "daemon/core/slot_state.h"

#define FREQ_STEP 0.005 /* a smaller change of frequency is not worth a message */

/* ---- when ---- */

bool smoe_batch_routable(const struct smoe_core *c, const struct smoe_batch *b)
{
    if (b->after_step)
        return false;
    return smoe_sharded_is_before(c, b) ? smoe_sharded_before_ready(c, b->layer)
                                        : c->layers[b->layer].state == SMOE_LAYER_READY;
}

static uint64_t pending_layers(const struct smoe_core *c)
{
    uint64_t layers = 0;
    smoe_list_for_each (it, &c->pending) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, pending_link);
        if (smoe_batch_routable(c, b))
            layers |= UINT64_C(1) << b->layer;
    }
    return layers;
}

/* Tokens wait, something changed since they could not move, and a worker that could serve them idles.
 * What is planned for a slot must last one: an open stream's slots never close early. */
static bool may_close_early(const struct smoe_core *c)
{
    if (!c->solve_useful || smoe_list_empty(&c->pending) ||
        c->options.settings.plan == SMOE_PLAN_SLOT)
        return false;
    uint64_t layers = pending_layers(c);
    for (uint32_t i = 0; layers && i < c->fleet.n_used; i++) {
        const struct smoe_worker *w = &c->fleet.workers[i];
        if (w->state == SMOE_WORKER_READY && (w->hosted_layers & layers) &&
            !smoe_worker_executable(w, SMOE_FORWARD) && !smoe_worker_executable(w, SMOE_BACKWARD))
            return true;
    }
    return false;
}

/* ---- decisions ---- */

struct smoe_plan_law smoe_slot_law(const struct smoe_core *c)
{
    const struct smoe_core_settings *s = &c->options.settings;
    return (struct smoe_plan_law){s->policy, s->plan, s->slot_ns, s->v, s->mu};
}

struct smoe_plan_worker smoe_slot_know(const struct smoe_core *c, const struct smoe_worker *w,
                                       uint64_t forward_flops, bool training)
{
    const struct smoe_core_settings *s = &c->options.settings;
    double debt_j = smoe_worker_debt(w, c->now_ns);
    struct smoe_freq_node physics = smoe_worker_freq_node(w, forward_flops, training);
    physics.energy_max_w = smoe_freq_restraint(&physics, debt_j, (double)s->slot_ns * 1e-9, s->v);
    return (struct smoe_plan_worker){
        .serves = true,
        .physics = physics,
        .debt_j = debt_j,
        .carry = w->service_carry,
        .units = w->lanes * smoe_worker_efficiency(w),
        .before_khz = w->freq_khz_sent,
        .owed = w->freq_owed,
    };
}

void smoe_slot_know_queue(const struct smoe_core *c, const struct smoe_worker *w,
                          uint64_t forward_flops, bool training, struct smoe_plan_worker *known)
{
    known->backlog = smoe_worker_backlog(w, forward_flops, training, c->now_ns, &known->executable);
}

/* The parcels that go out with this Decision. Their backward share is owed already (smoe_parcel_move): it
 * moves from the backlog to what arrives. */
static void know_arrivals(const struct smoe_core *c, uint32_t worker,
                          struct smoe_plan_worker *known)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    double forward = 0, backward = 0; /* [flop] */
    smoe_list_for_each (it, &c->worker_new[worker]) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, new_link);
        double flops = (double)(p->rows * c->layers[p->layer].forward_flops);
        forward += flops;
        backward += c->batches[p->batch].training ? 2 * flops : 0;
    }
    forward *= smoe_worker_cycles_per_flop(w, SMOE_FORWARD) / known->physics.cycles_per_visit;
    backward *= smoe_worker_cycles_per_flop(w, SMOE_BACKWARD) / known->physics.cycles_per_visit;
    known->arrivals = (uint32_t)(forward + backward + 0.5);
    known->backlog = fmax(known->backlog - backward, 0);
    known->executable = fmin(known->executable, known->backlog);
}

/* What P-states in turns have not given of the frequency that was wanted, up to now. What is owed for longer
 * than a slot of the whole machine is forgotten: the queue knows it too. */
static void owe_cycles(struct smoe_core *c, struct smoe_worker *w)
{
    double elapsed_s = (double)(c->now_ns - w->freq_owed_ns) * 1e-9;
    double most = w->freq_max_hz * w->lanes * (double)c->options.settings.slot_ns * 1e-9;
    double given_hz = (double)w->freq_khz_sent * 1000 * w->lanes * smoe_worker_efficiency(w);
    w->freq_owed_ns = c->now_ns;
    w->freq_owed += w->freq_wanted_hz > 0 ? (w->freq_wanted_hz - given_hz) * elapsed_s : 0;
    w->freq_owed = fmax(fmin(w->freq_owed, most), -most);
}

/* f_j for what the worker now has to do within tau, of one lane; 0 while it has no ceiling to speak of.
 * Where energy is free that is a matter of what it reported alone, not of its queue or the time. */
static uint64_t decide_freq(struct smoe_core *c, uint32_t worker, bool *ret_free)
{
    struct smoe_worker *w = &c->fleet.workers[worker];
    *ret_free = true;
    if (!w->reference_flops)
        return 0;
    if (w->curved)
        owe_cycles(c, w);
    struct smoe_plan_law law = smoe_slot_law(c);
    bool training = w->owed_flops > 0; /* in the visits that the solve counted */
    struct smoe_plan_worker known = smoe_slot_know(c, w, w->reference_flops, training);
    *ret_free = smoe_plan_energy_is_free(&known, c->tau_s);
    if (!*ret_free) {
        smoe_slot_know_queue(c, w, w->reference_flops, training, &known);
        know_arrivals(c, worker, &known);
    }
    uint64_t khz = smoe_plan_frequency(&law, c->tau_s, &known, &w->freq_wanted_hz);
    smoe_tracing_frequency(c, worker, &known, khz);
    return khz;
}

static bool differs(const struct smoe_worker *w, uint64_t khz)
{
    if (!khz || khz == w->freq_khz_sent)
        return false;
    return !w->freq_khz_sent || fabs((double)khz / (double)w->freq_khz_sent - 1) > FREQ_STEP;
}

/* Whether the worker is to be told of another frequency now: at most once a slot, counted in the slots' own
 * times, since a slot that ends late would else use up the next one too. `*ret_settled`: it need not be
 * asked again before something changes. */
static bool change_freq(struct smoe_core *c, uint32_t worker, bool *ret_settled)
{
    struct smoe_worker *w = &c->fleet.workers[worker];
    bool energy_is_free;
    uint64_t khz = decide_freq(c, worker, &energy_is_free);
    bool wanted = differs(w, khz);
    bool change = wanted && (!w->freq_khz_sent ||
                             c->slot_closed_ns - w->freq_changed_ns >= c->options.settings.slot_ns);
    *ret_settled = energy_is_free && wanted == change;
    if (change) {
        w->freq_khz_sent = khz;
        w->freq_changed_ns = c->slot_closed_ns;
    }
    return change;
}

/* The first n new parcels go into the worker's next Decision; returns their forward work. */
static uint64_t take_new_parcels(struct smoe_core *c, uint32_t worker, uint32_t n,
                                 struct smoe_parcel_head *heads, uint32_t *parcels)
{
    uint64_t flops = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct smoe_parcel *p =
            smoe_container_of(c->worker_new[worker].next, struct smoe_parcel, new_link);
        parcels[i] = (uint32_t)(p - c->parcels);
        heads[i] = smoe_parcel_head_of(c, parcels[i]);
        flops += p->rows * c->layers[p->layer].forward_flops;
        smoe_list_remove(&p->new_link);
    }
    return flops;
}

static void send_decision(struct smoe_core *c, uint32_t worker, uint64_t khz)
{
    struct smoe_worker *w = &c->fleet.workers[worker];
    uint32_t n = smoe_list_count(&c->worker_new[worker], SMOE_DECISION_PARCELS_MAX);
    struct smoe_parcel_head *heads = smoe_core_list(c, n * sizeof *heads);
    uint32_t *parcels = smoe_core_list(c, n * sizeof *parcels);
    uint64_t flops[SMOE_PHASES] = {take_new_parcels(c, worker, n, heads, parcels), 0};
    struct smoe_message *m = smoe_core_send(c, w->session, SMOE_MSG_DECISION);
    m->decision = (struct smoe_msg_decision){smoe_worker_assign(w, flops, c->now_ns), c->epoch, khz,
                                             heads, n};
    if (n)
        smoe_core_attach(c, SMOE_TENSOR_X, SMOE_NONE, parcels, n);
}

void smoe_slot_consider(struct smoe_core *c, uint32_t worker)
{
    c->considered[worker / 64] |= UINT64_C(1) << worker % 64;
}

/* Its Decisions, if any; whether it may be left alone until something changes. */
static bool decide_for(struct smoe_core *c, uint32_t worker)
{
    struct smoe_worker *w = &c->fleet.workers[worker];
    bool settled;
    if (!smoe_worker_here(w))
        return false;
    bool change = change_freq(c, worker, &settled);
    while (change || !smoe_list_empty(&c->worker_new[worker])) {
        send_decision(c, worker, w->freq_khz_sent);
        change = false;
    }
    c->new_bytes[worker] = 0;
    return settled;
}

/* What a Decision touches of the worker that is next among those. */
static void bring_next_near(const struct smoe_core *c, uint32_t first, uint64_t bits)
{
    if (!bits)
        return;
    const struct smoe_worker *w = &c->fleet.workers[first + (unsigned)__builtin_ctzll(bits)];
    smoe_bring_near(w, 1);
    smoe_bring_near(&w->lanes, 1);
    smoe_bring_near(&w->freq_khz_sent, offsetof(struct smoe_worker, learned) -
                                           offsetof(struct smoe_worker, freq_khz_sent));
    smoe_bring_near(&w->curved, 1);
}

static void decide(struct smoe_core *c)
{
    for (uint32_t i = 0; i <= c->fleet.n_used / 64; i++)
        for (uint64_t bits = c->considered[i]; bits; bits &= bits - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(bits);
            bring_next_near(c, i * 64, bits & (bits - 1));
            if (decide_for(c, i * 64 + bit))
                c->considered[i] &= ~(UINT64_C(1) << bit);
        }
    smoe_tracing_slot_ends(c);
}

/* ---- closing ---- */

static void close_slot(struct smoe_core *c)
{
    c->totals.slots++;
    c->solve_useful = false;
    if (!smoe_list_empty(&c->pending) && !c->draining)
        smoe_slot_route(c);
    decide(c);
}

void smoe_slot_advance(struct smoe_core *c)
{
    uint64_t slot_ns = c->options.settings.slot_ns;
    if (c->now_ns >= c->slot_deadline_ns) {
        uint64_t late_ns = c->now_ns - c->slot_deadline_ns;
        smoe_hist_add(&c->totals.lateness, late_ns);
        c->totals.slots_missed += late_ns / slot_ns;
        c->slot_deadline_ns += (late_ns / slot_ns + 1) * slot_ns;
        c->slot_closed_ns = c->slot_deadline_ns - slot_ns;
        c->tau_s = (double)slot_ns * 1e-9;
        close_slot(c);
    } else if (may_close_early(c) && !c->draining) {
        c->totals.slots_early++;
        c->slot_closed_ns = c->now_ns;
        close_slot(c);
    }
}
