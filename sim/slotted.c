/* SPDX-License-Identifier: Apache-2.0
 *
 * A slot: workers leave and return; tokens arrive with their scores; the policy routes them by what is
 * known; every worker serves what its decision says; queues, debts and books are brought up to date; who
 * learns from the tokens that are complete does.
 *
 * Open source: a slot lasts slot_ns and queues live on. Closed source: a slot lasts until its batch is
 * done, tau is planned from the work at hand (MODEL.md (8), without the cap, as the daemon does by
 * default), and nothing is left at its end. A policy cannot lose tokens: no cap is ever so tight that one
 * could not be routed.
 */
#include "sim/slotted.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "sim/events.h"
#include "sim/slotted_state.h"

#define TAU_MAX_S   3600.0
#define RNG_TIES    1 /* streams of the seed, beside those of stream.c */
#define RNG_LEAVING 3

bool smoe_slotted_decides_frequency(enum smoe_policy policy)
{
    return strncmp(smoe_policy_name(policy), "lyapunov", 8) == 0;
}

/* ---- beginning and end ---- */

/* Copy i of expert e goes to the next worker in turn that does not hold e; within an expert, nodes rise. */
static void deal_experts(struct smoe_sim_fleet *f)
{
    uint32_t copies = (uint32_t)f->s->spec.copies, turn = 0;
    f->replica_first = smoe_sim_alloc(f->experts + 1u, sizeof *f->replica_first);
    f->replica_node = smoe_sim_alloc((size_t)f->experts * copies, sizeof *f->replica_node);
    f->live = smoe_sim_alloc(f->experts, sizeof *f->live);
    for (uint32_t i = 0; i < copies; i++)
        for (uint32_t e = 0; e < f->experts; e++) {
            uint32_t *nodes = f->replica_node + (size_t)e * copies, at = 0;
            uint32_t node = turn++ % f->n_workers;
            for (; at < i && nodes[at] <= node; at++)
                if (nodes[at] == node) { /* has it: try its neighbour, from the start */
                    node = turn++ % f->n_workers;
                    at = UINT32_MAX;
                }
            memmove(nodes + at + 1, nodes + at, (i - at) * sizeof *nodes);
            nodes[at] = node;
        }
    for (uint32_t e = 0; e <= f->experts; e++)
        f->replica_first[e] = e * copies;
    for (uint32_t e = 0; e < f->experts; e++)
        f->live[e] = copies;
}

/* With a tape everybody is away until it says otherwise. */
static void expect_tape(struct smoe_sim_fleet *f)
{
    f->stream.tokens_max = f->o->tape->tokens_max;
    f->replica_first = smoe_sim_alloc(f->experts + 1u, sizeof *f->replica_first);
    f->replica_node = smoe_sim_alloc(f->o->tape->replicas_max + 1u, sizeof *f->replica_node);
    for (uint32_t j = 0; j < f->n_workers; j++)
        f->away[j] = true;
}

static void alloc_workers(struct smoe_sim_fleet *f)
{
    size_t w = f->n_workers, past = w * f->s->spec.delay;
    f->physics = smoe_sim_alloc(w, sizeof *f->physics);
    f->allowed = smoe_sim_alloc(w, sizeof *f->allowed);
    f->nodes = smoe_sim_alloc(w, sizeof *f->nodes);
    double **doubles[] = {&f->queue,   &f->debt,   &f->carry,      &f->spent,
                          &f->serving, &f->recent, &f->seen_queue, &f->seen_debt};
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
        *doubles[i] = smoe_sim_alloc(w, sizeof(double));
    double **rings[] = {&f->old_queue, &f->old_debt, &f->old_arrivals};
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++)
        *rings[i] = smoe_sim_alloc(past + 1, sizeof(double));
    f->away = smoe_sim_alloc(w, sizeof *f->away);
    f->served = smoe_sim_alloc(w, sizeof *f->served);
    f->fifos = smoe_sim_alloc(w, sizeof *f->fifos);
    f->arrivals = smoe_sim_alloc(w, sizeof *f->arrivals);
}

static void alloc_tokens(struct smoe_sim_fleet *f)
{
    size_t tokens = f->stream.tokens_max, slots = f->o->slots;
    struct smoe_slotted_series *s = &f->result->series;
    f->scores = smoe_sim_alloc(tokens * f->experts, sizeof *f->scores);
    f->expert = smoe_sim_alloc(tokens * f->top_k, sizeof *f->expert);
    f->node = smoe_sim_alloc(tokens * f->top_k, sizeof *f->node);
    f->backlogs = smoe_sim_alloc(slots, sizeof *f->backlogs);
    smoe_assert(
        smoe_route_scratch_new(f->stream.tokens_max, f->experts, f->n_workers, &f->scratch) == 0);
    if (f->o->keep_series)
        *s = (struct smoe_slotted_series){smoe_sim_alloc(slots, sizeof(double)),
                                          smoe_sim_alloc(slots, sizeof(double)),
                                          smoe_sim_alloc(slots, sizeof(double))};
}

static void init_fleet(struct smoe_sim_fleet *f)
{
    const struct smoe_scenario_spec *spec = &f->s->spec;
    f->n_workers = (uint32_t)spec->workers;
    f->experts = (uint32_t)spec->experts;
    f->top_k = (uint32_t)spec->top_k;
    alloc_workers(f);
    if (f->o->tape) {
        expect_tape(f);
    } else {
        smoe_sim_stream_init(&f->stream, f->s, f->o->seed);
        if (spec->slots)
            smoe_slotted_place(f);
        else
            deal_experts(f);
    }
    alloc_tokens(f);
    for (uint32_t j = 0; j < f->n_workers; j++)
        f->physics[j] = smoe_scenario_physics(f->s, j);
    smoe_rng_init(&f->ties, f->o->seed, RNG_TIES);
    smoe_rng_init(&f->leaving, f->o->seed, RNG_LEAVING);
}

static void release_fleet(struct smoe_sim_fleet *f)
{
    for (uint32_t j = 0; j < f->n_workers; j++)
        free(f->fifos[j].visits);
    void *arrays[] = {f->physics,      f->allowed,       f->nodes,        f->queue,
                      f->debt,         f->carry,         f->spent,        f->away,
                      f->served,       f->fifos,         f->scores,       f->expert,
                      f->node,         f->arrivals,      f->live,         f->old_queue,
                      f->old_debt,     f->old_arrivals,  f->recent,       f->seen_queue,
                      f->seen_debt,    f->replica_first, f->replica_node, f->visits_left,
                      f->token_expert, f->finished,      f->backlogs,     f->serving};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    smoe_sim_stream_release(&f->stream);
    smoe_route_scratch_free(f->scratch);
}

/* ---- the decision ---- */

static double horizon(const struct smoe_sim_fleet *f, uint32_t tokens)
{
    double slot_s = (double)f->s->spec.slot_ns * 1e-9, rate = 0;
    double work = (double)tokens * f->top_k;
    if (f->s->spec.source == SMOE_SOURCE_OPEN)
        return slot_s;
    for (uint32_t j = 0; j < f->n_workers; j++) {
        work += f->queue[j];
        if (!f->away[j])
            rate += smoe_freq_ceiling(&f->physics[j]) / f->physics[j].cycles_per_visit;
    }
    return smoe_freq_horizon(TAU_MAX_S, work, rate);
}

static void prepare_nodes(struct smoe_sim_fleet *f, double tau_s)
{
    bool decides = smoe_slotted_decides_frequency(f->o->policy);
    for (uint32_t j = 0; j < f->n_workers; j++) {
        double unused = 0, *carry = decides ? &f->carry[j] : &unused;
        struct smoe_freq_node *p = &f->allowed[j];
        *p = f->physics[j];
        if (decides)
            p->energy_max_w = smoe_freq_restraint(p, f->seen_debt[j],
                                                  (double)f->s->spec.slot_ns * 1e-9, f->s->spec.v);
        f->nodes[j] = (struct smoe_node){
            .backlog = f->seen_queue[j],
            .executable = f->seen_queue[j],
            .penalty = f->s->spec.v,
            .energy_price = smoe_freq_energy_price(p, f->seen_debt[j], tau_s),
            .power = p->power,
            .visit_hz = p->cycles_per_visit / tau_s,
            .service_max = f->away[j] ? 0 : smoe_freq_service_max(p, tau_s, carry),
            .arrivals_max = f->away[j] ? 0 : UINT32_MAX};
    }
}

/* A policy that keeps experts lets tokens wait whose experts are all away, and here they cannot: they go to the
 * next best. NULL, or scores to be freed in which such an expert is the worst. */
static float *scores_on_offer(const struct smoe_sim_fleet *f, uint32_t tokens)
{
    float *masked = NULL;
    for (uint32_t e = 0; f->o->policy == SMOE_POLICY_LYAPUNOV_STRICT && e < f->experts; e++) {
        bool offered = false;
        for (uint32_t r = f->replica_first[e]; r < f->replica_first[e + 1]; r++)
            offered |= !f->away[f->replica_node[r]];
        if (offered)
            continue;
        size_t n = (size_t)tokens * f->experts;
        if (!masked)
            masked = memcpy(smoe_sim_alloc(n + 1, sizeof *masked), f->scores, n * sizeof *masked);
        for (uint32_t i = 0; i < tokens; i++)
            masked[(size_t)i * f->experts + e] = -1;
    }
    return masked;
}

static void route(struct smoe_sim_fleet *f, uint32_t tokens)
{
    float *masked = scores_on_offer(f, tokens);
    struct smoe_route_problem problem = {.n_tokens = tokens,
                                         .n_experts = f->experts,
                                         .n_nodes = f->n_workers,
                                         .top_k = f->top_k,
                                         .scores = masked ? masked : f->scores,
                                         .score_weight = f->s->spec.v * f->s->spec.mu,
                                         .replica_first = f->replica_first,
                                         .replica_node = f->replica_node,
                                         .nodes = f->nodes,
                                         .mode = SMOE_COST_EXACT};
    struct smoe_route_answer answer = {
        .expert = f->expert, .node = f->node, .arrivals = f->arrivals};
    uint64_t began = f->o->clock_ns ? f->o->clock_ns() : 0;
    smoe_route_scratch_limit(f->scratch, (uint64_t)(f->s->spec.work * tokens), f->s->spec.gap);
    smoe_policy_route(f->o->policy, &problem, f->seen_debt, &f->ties, f->scratch, &answer);
    f->result->solve_ns += f->o->clock_ns ? f->o->clock_ns() - began : 0;
    free(masked);
    smoe_assert(answer.n_routed == tokens);
    f->promised = answer.exact && smoe_policy_cost_mode(f->o->policy) == SMOE_COST_EXACT &&
                  f->s->spec.source == SMOE_SOURCE_OPEN && !f->s->spec.delay;
    f->promise = answer.primal;
    f->result->slots_exact += answer.exact;
    if (tokens && isfinite(answer.bound)) {
        double scale = (double)f->top_k * tokens * problem.score_weight;
        double gap = scale > 0 ? (answer.primal - answer.bound) / scale : 0;
        f->result->gap_max = fmax(f->result->gap_max, fmax(gap, 0));
    }
}

/* ---- slots ---- */

static uint32_t arrive(struct smoe_sim_fleet *f)
{
    if (f->o->tape)
        return smoe_sim_fleet_follow(f);
    uint32_t tokens = smoe_sim_stream_count(&f->stream);
    const struct smoe_slotted_trainer *t = f->o->trainer;
    if (t)
        t->score(t->context, f->result->tokens, tokens, f->scores);
    else
        smoe_sim_stream_scores(&f->stream, tokens, f->scores);
    return tokens;
}

static void learn(struct smoe_sim_fleet *f, uint64_t slot)
{
    const struct smoe_slotted_trainer *t = f->o->trainer;
    uint32_t n = f->n_finished, k = f->top_k;
    if (!t)
        return;
    uint16_t *experts = smoe_sim_alloc((size_t)n * k + 1, sizeof *experts);
    for (uint32_t i = 0; i < n; i++)
        memcpy(experts + (size_t)i * k, f->token_expert + f->finished[i] * k, k * sizeof *experts);
    t->learn(t->context, slot, n, f->finished, experts);
    free(experts);
    f->n_finished = 0;
}

static void run_slot(struct smoe_sim_fleet *f, uint64_t slot)
{
    uint64_t complete = f->result->complete;
    smoe_sim_fleet_churn(f);
    uint32_t tokens = arrive(f);
    smoe_sim_fleet_look(f, slot);
    double tau_s = horizon(f, tokens), longest = 0;
    prepare_nodes(f, tau_s);
    route(f, tokens);
    smoe_sim_fleet_remember(f, slot);
    smoe_sim_fleet_judge(f, tokens);
    smoe_sim_fleet_enqueue(f, tokens);
    for (uint32_t j = 0; j < f->n_workers; j++)
        longest = fmax(longest, smoe_sim_fleet_work(f, j, tau_s));
    double slot_s = f->s->spec.source == SMOE_SOURCE_OPEN ? tau_s : longest;
    smoe_sim_fleet_close_slot(f, slot, slot_s, complete);
    learn(f, slot);
}

void smoe_slotted_run(const struct smoe_scenario *scenario,
                      const struct smoe_slotted_options *options, struct smoe_slotted_result *ret)
{
    struct smoe_sim_fleet f = {.s = scenario, .o = options, .result = ret};
    uint64_t began = options->clock_ns ? options->clock_ns() : 0;
    *ret = (struct smoe_slotted_result){
        .gap_max = -1,
        .share = smoe_sim_alloc(scenario->spec.workers, sizeof(double)),
        .to_budget = smoe_sim_alloc(scenario->spec.workers, sizeof(double))};
    init_fleet(&f);
    for (uint64_t slot = 0; slot < options->slots; slot++)
        run_slot(&f, slot);
    smoe_sim_fleet_sum_up(&f);
    release_fleet(&f);
    ret->run_ns = options->clock_ns ? options->clock_ns() - began : 0;
}

void smoe_slotted_release(struct smoe_slotted_result *result)
{
    free(result->share);
    free(result->to_budget);
    free(result->series.backlog);
    free(result->series.debt);
    free(result->series.complete);
    *result = (struct smoe_slotted_result){0};
}
