/* SPDX-License-Identifier: Apache-2.0
 *
 * The slot: arrivals and queues in, routes and frequencies out, one Decision per worker.
 *
 * A slot ends at its absolute deadline, or early when tokens wait and an eligible worker has nothing to
 * do, so that a synchronous trainer never waits for the clock; a slot that was planned as a whole one
 * (SMOE_PLAN_SLOT) is one. At its end the pending tokens are routed (slot_route.c) and each worker with new parcels, or whose frequency must change, gets a
 * Decision.
 */
#include <math.h>

#include "common/base/assert.h"
#include "daemon/core/core_state.h"

#define FREQ_STEP 0.005 /* a smaller change of frequency is not worth a message */

/* ---- when ---- */

bool smoe_batch_routable(const struct smoe_core *c, const struct smoe_batch *b)
{
    return !b->after_step && c->layers[b->layer].state == SMOE_LAYER_READY;
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

/* Work of the parcels that go out with this Decision. [cycle] */
struct new_work {
    double forward, backward; /* the backward share is owed already (smoe_parcel_move) */
};

static struct new_work new_work_of(const struct smoe_core *c, uint32_t worker)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    uint64_t forward = 0, backward = 0;
    smoe_list_for_each (it, &c->worker_new[worker]) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, new_link);
        uint64_t flops = p->rows * c->layers[p->layer].forward_flops;
        forward += flops;
        backward += c->batches[p->batch].training ? 2 * flops : 0;
    }
    return (struct new_work){(double)forward * smoe_worker_cycles_per_flop(w, SMOE_FORWARD),
                             (double)backward * smoe_worker_cycles_per_flop(w, SMOE_BACKWARD)};
}

/* What the worker is best to finish within tau, the new parcels included: the solve's own D where one
 * layer is served. False while there is not a visit that it could finish. [visit] */
static bool decide_service(const struct smoe_core *c, uint32_t worker, bool training,
                           const struct smoe_freq_node *f, double price, double *ret_served)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    struct smoe_node node = {.penalty = c->options.settings.v, .energy_price = price};
    struct new_work new = new_work_of(c, worker);
    double carry = 0, visits = floor((new.forward + new.backward) / f->cycles_per_visit + 0.5);
    double backlog =
        smoe_worker_backlog(w, w->reference_flops, training, c->now_ns, &node.executable);
    node.backlog = fmax(backlog - new.backward / f->cycles_per_visit, 0);
    node.service_max = smoe_freq_service_max(f, c->tau_s, &carry);
    double bound = node.executable + visits; /* all there is, and all that can be done */
    if (bound < 1)
        return false;
    bound = fmin(bound, c->tau_s * smoe_freq_ceiling(f) / f->cycles_per_visit);
    smoe_cost(&node, smoe_policy_cost_mode(c->options.settings.policy), (uint32_t)visits,
              ret_served);
    if (*ret_served + 1 > bound) /* the solve counts whole visits; the worker may not lose parts */
        *ret_served = bound;
    return true;
}

/* f_j for what the worker now has to do within tau; 0 while it has no ceiling to speak of. Where energy
 * is free that is a matter of what it reported alone, not of its queue or the time. */
static uint64_t decide_freq(struct smoe_core *c, uint32_t worker, bool *ret_free)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    *ret_free = true;
    if (!w->reference_flops)
        return 0;
    bool training = w->owed_flops > 0; /* in the visits that the solve counted */
    struct smoe_freq_node f = smoe_worker_freq_node(w, w->reference_flops, training);
    double price = smoe_freq_energy_price(&f, smoe_worker_debt(w, c->now_ns), c->tau_s);
    double hz = smoe_freq_ceiling(&f);
    if (price > 0) {
        double served;
        *ret_free = false;
        if (!decide_service(c, worker, training, &f, price, &served))
            return w->freq_khz_sent; /* what comes before the next slot is not to crawl */
        hz = smoe_freq_decide(&f, served, c->tau_s, price);
    }
    uint64_t khz = (uint64_t)(hz / (w->lanes * smoe_worker_efficiency(w)) / 1000); /* of one lane */
    return khz ? khz : 1; /* nothing is worth serving: the lowest its driver has */
}

static bool differs(const struct smoe_worker *w, uint64_t khz)
{
    if (!khz || khz == w->freq_khz_sent)
        return false;
    return !w->freq_khz_sent || fabs((double)khz / (double)w->freq_khz_sent - 1) > FREQ_STEP;
}

/* Whether the worker is to be told of another frequency now: at most once a slot. `*ret_settled`: it need
 * not be asked again before something changes. */
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
        heads[i] = (struct smoe_parcel_head){smoe_parcel_wire_id(c, parcels[i]), p->layer,
                                             p->expert, p->rows, c->batches[p->batch].training};
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
    if (!smoe_worker_live(w) || w->session == SMOE_NO_SESSION)
        return false;
    bool change = change_freq(c, worker, &settled);
    while (change || !smoe_list_empty(&c->worker_new[worker])) {
        send_decision(c, worker, w->freq_khz_sent);
        change = false;
    }
    c->new_bytes[worker] = 0;
    return settled;
}

static void decide(struct smoe_core *c)
{
    for (uint32_t i = 0; i <= c->fleet.n_used / 64; i++)
        for (uint64_t bits = c->considered[i]; bits; bits &= bits - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(bits);
            if (decide_for(c, i * 64 + bit))
                c->considered[i] &= ~(UINT64_C(1) << bit);
        }
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
