/* SPDX-License-Identifier: Apache-2.0
 *
 * The world of a whole run, and its books. Worker j of the scenario is process node-j: its frequency is one of
 * voltage too, its meter the model, its budget and cap are said in its Hello. A baseline at the sustainable
 * rule is a fleet whose operator caps every node at its mean budget: the daemon then runs it at just the
 * frequency that the budget sustains, and no debt arises.
 *
 * Nothing here moves a queue. At the end of a slot, an instant before the next decision, the books are read:
 *
 *     Q_j, Z_j          smoe_worker_backlog, _debt        as the core knows them then
 *     visits, energy    accounts and joules of the fleet  at the end
 *     gate, agreement   smoe_core_totals                  at the end
 *     complete          the trainer, whose K-th result it is
 *
 * Credit, inboxes and memory have no bound that could be reached: what holds tokens back can only be the
 * library's tickets, in a run so long and so overloaded that they are all out, and is counted.
 */
#include "sim/whole.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "sim/whole_stream.h"
#include "sim/world_state.h"

#define PLENTY         (UINT64_C(1) << 50) /* bytes or visits that no run has */
#define LATENCY_NS_MAX SMOE_SIM_MS
#define UP_SLOTS_MAX   100 /* until the fleet must be there */
#define CHECK_EVERY    4096

struct whole {
    const struct smoe_scenario *s;
    const struct smoe_slotted_options *o;
    struct smoe_whole_fleet fleet;
    struct smoe_slotted_result *r;
    struct smoe_world *world;
    struct smoe_whole_stream stream;
    uint32_t gateway, trainer;
    uint32_t *index;  /* [workers] of each in the core's fleet, owned, as below */
    double *backlogs; /* [slots] */
};

/* ---- what can be run ---- */

int smoe_whole_check(const struct smoe_scenario *scenario, const struct smoe_slotted_options *o,
                     struct smoe_why *why)
{
    const struct smoe_scenario_spec *s = &scenario->spec;
    if (s->source != SMOE_SOURCE_OPEN)
        return smoe_fail(why, SMOE_ECONFIG, "tokens.source: only an open source runs whole");
    if (s->copies != 1 || s->slots)
        return smoe_fail(why, SMOE_ECONFIG,
                         "gate.copies: the daemon serves an expert on one worker");
    if (s->up)
        return smoe_fail(why, SMOE_ECONFIG,
                         "fleet.up: workers that leave are told as stories, not run whole");
    if (s->delay || s->work > 0)
        return smoe_fail(why, SMOE_ECONFIG,
                         "routing.delay, routing.work: the daemon has its own: 0 to run whole");
    if (o->freq_rule == SMOE_FREQ_FULL && !smoe_slotted_decides_frequency(o->policy))
        return smoe_fail(why, SMOE_ECONFIG,
                         "policy %s: the daemon has no frequency rule full: sustainable",
                         smoe_policy_name(o->policy));
    return 0;
}

/* ---- the world ---- */

static struct smoe_sim_profile path_of(const struct whole *w)
{
    uint64_t latency_ns = w->s->spec.slot_ns / 100;
    return (struct smoe_sim_profile){.latency_ns =
                                         latency_ns < LATENCY_NS_MAX ? latency_ns : LATENCY_NS_MAX,
                                     .buffer_bytes = 1 << 20};
}

static uint32_t experts_of_worker(const struct whole *w)
{
    return (uint32_t)((w->s->spec.experts + w->s->spec.workers - 1) / w->s->spec.workers);
}

static double busy_watts(const struct smoe_freq_node *p)
{
    return p->kappa * p->freq_max_hz * p->freq_max_hz * p->freq_max_hz;
}

static double cycles_per_flop(const struct whole *w, const struct smoe_freq_node *p)
{
    struct smoe_ffn_shape ffn = {w->stream.shape.d_model, w->stream.shape.d_ff, SMOE_RELU};
    return p->cycles_per_visit / (double)smoe_task_forward_flops(&ffn);
}

/* The meters are models, and what they are made of is not told; an operator knows the kind of machine. */
static struct smoe_priors priors_of(const struct whole *w)
{
    struct smoe_freq_node p = smoe_scenario_physics(w->s, 0);
    double off = w->fleet.prior_off > 0 ? w->fleet.prior_off : 1;
    return (struct smoe_priors){.cycles_per_flop = cycles_per_flop(w, &p) * off,
                                .busy_w = busy_watts(&p) * off};
}

static void add_gateway(struct whole *w)
{
    const struct smoe_scenario_spec *s = &w->s->spec;
    uint32_t experts = (uint32_t)s->experts;
    struct smoe_sim_gateway_options g = {
        .path = {.buffer_bytes = 1 << 20},
        .limits = {.workers_max = (uint32_t)s->workers,
                   .trainers_max = 1,
                   .batches_max = SMOE_TICKETS_MAX,
                   .parcels_max = SMOE_TICKETS_MAX * (experts + 1),
                   /* one solve takes all of a slot, however wide its scores */
                   .slot_tokens_max = w->stream.stream.tokens_max * (experts / 64 + 1)},
        .settings = {.slot_ns = s->slot_ns,
                     .policy = w->o->policy,
                     .plan = SMOE_PLAN_SLOT,
                     .v = s->v,
                     .mu = s->mu,
                     .workers_min = (uint32_t)s->workers,
                     .copies = 1,
                     .silence_ns = 4 * s->slot_ns, /* who idles reports once a slot */
                     .worker_lease_ns = 4 * s->slot_ns,
                     .trainer_lease_ns = 4 * s->slot_ns,
                     .window_bytes = PLENTY,
                     .window_visits = PLENTY,
                     .iteration_bytes_max = PLENTY,
                     .worker_budget_w = (double)INFINITY,
                     .worker_cap_w = (double)INFINITY,
                     .priors = priors_of(w)},
        .tensor_bytes_max = SMOE_TENSOR_BYTES_MAX,
        .tensors_bytes_max = PLENTY,
        .outbox_bytes_max = PLENTY};
    w->gateway = smoe_world_add_gateway(w->world, &g);
}

static double finite_or_none(double watts)
{
    return isinf(watts) ? 0 : watts;
}

static uint32_t add_worker(struct whole *w, uint32_t j)
{
    struct smoe_freq_node p = smoe_scenario_physics(w->s, j);
    double cap_w = p.energy_max_w;
    if (!smoe_slotted_decides_frequency(w->o->policy))
        cap_w = fmin(cap_w, p.energy_mean_w);
    uint32_t parcels = SMOE_TICKETS_MAX * experts_of_worker(w);
    struct smoe_sim_worker_options o = {
        .gateway = w->gateway,
        .path = path_of(w),
        .nominal_hz = p.freq_max_hz,
        .cycles_per_flop = cycles_per_flop(w, &p),
        .busy_watts = busy_watts(&p),
        .parcel_rows = w->s->spec.parcel_rows,
        .meter_noise = w->s->spec.meter_noise,
        .budget_watts = finite_or_none(p.energy_mean_w),
        .cap_watts = finite_or_none(cap_w),
        .voltage_follows = w->s->spec.power == SMOE_SIM_CUBE,
        .memory_bytes = PLENTY,
        .parcels_max = parcels < SMOE_AGENT_PARCELS_MAX ? parcels : SMOE_AGENT_PARCELS_MAX};
    snprintf(o.name, sizeof o.name, "node-%u", j);
    return smoe_world_add_worker(w->world, &o);
}

static void init_world(struct whole *w)
{
    uint32_t workers = (uint32_t)w->s->spec.workers;
    w->world = smoe_world_new(
        &(struct smoe_world_options){.seed = w->o->seed, .check_every = CHECK_EVERY});
    smoe_whole_stream_init(&w->stream, w->s, w->o->slots, w->o->seed);
    w->index = smoe_sim_alloc(workers, sizeof *w->index);
    w->backlogs = smoe_sim_alloc(w->o->slots, sizeof *w->backlogs);
    add_gateway(w);
    smoe_world_start(w->world, w->gateway);
    w->stream.origin_ns = w->world->clock.now_ns;
    for (uint32_t j = 0; j < workers; j++)
        smoe_world_start(w->world, add_worker(w, j));
    struct smoe_sim_trainer_options t = {.gateway = w->gateway,
                                         .path = path_of(w),
                                         .shape = w->stream.shape,
                                         .program = &smoe_whole_stream_program,
                                         .program_context = &w->stream};
    w->trainer = smoe_world_add_trainer(w->world, &t);
    smoe_world_start(w->world, w->trainer);
}

static void release_world(struct whole *w)
{
    smoe_world_free(w->world);
    smoe_whole_stream_release(&w->stream);
    free(w->index);
    free(w->backlogs);
}

static const struct smoe_core *core_of(const struct whole *w)
{
    return smoe_gateway_core(smoe_world_gateway(w->world, w->gateway));
}

uint32_t smoe_whole_worker(const struct smoe_core *core, uint32_t j)
{
    char name[SMOE_NAME_MAX + 1];
    uint32_t index = SMOE_NO_WORKER;
    snprintf(name, sizeof name, "node-%u", j);
    (void)smoe_fleet_find(smoe_core_fleet(core), name, &index);
    return index;
}

uint32_t smoe_whole_process(uint32_t j)
{
    return 1 + j; /* after the gateway */
}

/* ---- coming up ---- */

/* Where every node has one expert, the scenario pairs ranks with budgets, and the daemon must have dealt them
 * out in turn. Otherwise who hosts what is its own law. */
static int find_workers(struct whole *w, struct smoe_why *why)
{
    const struct smoe_core *core = core_of(w);
    struct smoe_layer_view layer = smoe_core_layer(core, 0);
    for (uint32_t j = 0; j < w->s->spec.workers; j++) {
        w->index[j] = smoe_whole_worker(core, j);
        if (w->index[j] == SMOE_NO_WORKER)
            return smoe_fail(why, SMOE_ESTATE, "node-%u has not joined", j);
    }
    for (uint32_t e = 0; e < layer.shape.experts && w->s->spec.experts == w->s->spec.workers; e++)
        if (layer.experts[e].worker != w->index[e])
            return smoe_fail(why, SMOE_ESTATE, "expert %u is not on its node", e);
    return 0;
}

static int come_up(struct whole *w, struct smoe_why *why)
{
    uint64_t limit_ns = UP_SLOTS_MAX * w->s->spec.slot_ns;
    while (w->stream.state == SMOE_STREAM_DECLARING && smoe_world_now(w->world) < limit_ns)
        if (!smoe_world_step(w->world))
            break;
    if (w->stream.state == SMOE_STREAM_FAILED)
        return smoe_fail(why, SMOE_ESTATE, "%s", w->stream.why.text);
    if (w->stream.state == SMOE_STREAM_DECLARING)
        return smoe_fail(why, SMOE_ESTATE, "the fleet has not come up");
    return find_workers(w, why);
}

/* ---- books ---- */

static const struct smoe_worker *worker_of(const struct whole *w, uint32_t j)
{
    return &smoe_core_fleet(core_of(w))->workers[w->index[j]];
}

/* Tokens of the slot that ends now, or before, that the core has not routed; those of the next have come
 * too, unless there is none. */
static uint64_t held_back(const struct whole *w, uint64_t slot, const struct smoe_core_totals *t)
{
    uint64_t next = slot + 1 < w->o->slots ? w->stream.last_tokens : 0;
    return w->stream.tokens - next - t->tokens_routed;
}

static void read_slot(struct whole *w, uint64_t slot)
{
    struct smoe_slotted_result *r = w->r;
    struct smoe_core_totals totals;
    double backlog = 0, executable;
    uint32_t n = (uint32_t)w->s->spec.workers;
    uint64_t now_ns = w->world->clock.now_ns;
    uint64_t flops = smoe_core_layer(core_of(w), 0).forward_flops;
    smoe_core_totals(core_of(w), &totals);
    for (uint32_t j = 0; j < n; j++) {
        const struct smoe_worker *worker = worker_of(w, j);
        double debt_j = smoe_worker_debt(worker, now_ns);
        backlog += smoe_worker_backlog(worker, flops, false, now_ns, &executable);
        r->debt_mean += debt_j / n;
        r->debt_max = fmax(r->debt_max, debt_j);
    }
    uint64_t held = held_back(w, slot, &totals);
    w->backlogs[slot] = backlog;
    r->backlog_mean += backlog;
    r->backlog_max = fmax(r->backlog_max, backlog);
    r->slots_held += held > 0;
    r->tokens_held = held > r->tokens_held ? held : r->tokens_held;
}

static void sum_up_energy(struct whole *w)
{
    struct smoe_slotted_result *r = w->r;
    for (uint32_t j = 0; j < w->s->spec.workers; j++) {
        const struct smoe_worker *worker = worker_of(w, j);
        double budget_j = r->seconds * w->s->budget_w[j];
        r->joules += worker->joules;
        r->share[j] = r->visits ? (double)worker->account.settled / (double)r->visits : 0;
        if (!(budget_j > 0) || isinf(budget_j))
            continue;
        r->overdraft = fmax(r->overdraft, worker->joules / budget_j - 1);
        r->debt_rest =
            fmax(r->debt_rest, smoe_worker_debt(worker, w->world->clock.now_ns) / budget_j);
    }
}

static void sum_up(struct whole *w)
{
    struct smoe_slotted_result *r = w->r;
    struct smoe_core_totals t;
    double slots = (double)w->o->slots;
    smoe_core_totals(core_of(w), &t);
    smoe_whole_stream_count(&w->stream);
    r->seconds = slots * (double)w->s->spec.slot_ns * 1e-9;
    r->tokens = w->stream.tokens;
    r->visits = t.account.settled;
    r->complete = w->stream.complete;
    r->backlog_mean /= slots;
    r->backlog_last = w->backlogs[w->o->slots - 1];
    r->backlog_slope = smoe_sim_slope(w->backlogs, w->o->slots);
    r->debt_mean /= slots;
    r->gate_mass = t.tokens_routed ? t.gate_mass / (double)t.tokens_routed : 0;
    r->gate_mass_best = r->tokens ? w->stream.mass_best / (double)r->tokens : 0;
    r->agreement = t.choices ? (double)t.choices_in_topk / (double)t.choices : 0;
    r->load = w->s->spec.tokens * (double)w->s->spec.top_k / smoe_scenario_sustainable(w->s);
    r->gap_max = t.solves ? t.gap_max : -1;
    r->slots_exact = t.solves - t.solves_cut_short;
    sum_up_energy(w);
}

static int run(struct whole *w, struct smoe_why *why)
{
    uint64_t slot_ns = w->s->spec.slot_ns, start_ns = w->world->start_ns;
    int rc = come_up(w, why);
    for (uint64_t slot = 0; rc == 0 && slot < w->o->slots; slot++) {
        uint64_t end_ns = w->stream.first_end_ns + (slot + 1) * slot_ns;
        if (!smoe_world_run(w->world, end_ns - 1 - start_ns))
            rc = smoe_world_verdict(w->world, why);
        else if (w->stream.state == SMOE_STREAM_FAILED)
            rc = smoe_fail(why, SMOE_ESTATE, "%s", w->stream.why.text);
        else
            read_slot(w, slot);
        if (rc == 0 && w->fleet.watch)
            w->fleet.watch(w->fleet.context, slot, core_of(w), w->world);
    }
    if (rc == 0)
        sum_up(w);
    return rc;
}

int smoe_whole_run(const struct smoe_scenario *scenario, const struct smoe_slotted_options *o,
                   struct smoe_slotted_result *ret, struct smoe_why *why)
{
    uint64_t began = o->clock_ns ? o->clock_ns() : 0;
    struct smoe_slotted_result r = {.gap_max = -1};
    struct whole w = {.s = scenario, .o = o, .r = &r};
    smoe_assert(!o->trainer && !o->keep_series);
    if (o->whole)
        w.fleet = *o->whole;
    r.share = smoe_sim_alloc(scenario->spec.workers, sizeof(double));
    init_world(&w);
    int rc = run(&w, why);
    release_world(&w);
    r.run_ns = o->clock_ns ? o->clock_ns() - began : 0;
    if (rc)
        smoe_slotted_release(&r);
    else
        *ret = r;
    return rc;
}
