/* SPDX-License-Identifier: Apache-2.0
 *
 * A slot: tokens arrive with their scores; the policy routes them; every worker serves what its decision
 * says; queues, debts and books are brought up to date.
 *
 * Open source: a slot lasts slot_ns and queues live on. Closed source: a slot lasts until its batch is
 * done, tau is planned from the work at hand (MODEL.md (8), without the cap, as the daemon does by
 * default), and nothing is left at its end. A policy cannot lose tokens: there are no caps here.
 *
 * Each worker serves its visits in order of arrival, which decides when a token is complete: `fifo` holds
 * the numbers of the tokens whose visits wait, `visits_left` how many each token still has.
 */
#include "sim/slotted.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "daemon/core/freq.h"
#include "sim/events.h"

#define TAU_MAX_S 3600.0

/* Token numbers in order of arrival. */
struct fifo {
    uint64_t *tokens; /* [cap], a ring, owned */
    size_t first, len, cap;
};

struct fleet {
    const struct smoe_scenario *s;
    const struct smoe_slotted_options *o;
    struct smoe_slotted_result *result;
    uint32_t n_workers, experts, top_k, tokens_max;
    struct smoe_freq_node *physics;         /* [workers], owned, as all below */
    struct smoe_node *nodes;                /* [workers] */
    double *queue, *debt, *carry, *spent;   /* [workers] */
    uint64_t *served;                       /* [workers] */
    struct fifo *fifos;                     /* [workers] */
    float *scores;                          /* [tokens_max, experts] */
    uint16_t *expert;                       /* [tokens_max, top_k] */
    uint32_t *node, *arrivals;              /* [tokens_max, top_k], [workers] */
    uint32_t *replica_first, *replica_node; /* [experts + 1], [experts] */
    uint8_t *visits_left;                   /* [visits_left_cap], of every token so far */
    size_t visits_left_cap;
    double *backlogs; /* [slots], for the slope */
    struct smoe_rng gate, ties;
    struct smoe_route_scratch *scratch;
};

static bool is_lyapunov(enum smoe_policy policy)
{
    return policy == SMOE_POLICY_LYAPUNOV || policy >= SMOE_POLICY_LYAPUNOV_GREEDY;
}

/* ---- beginning and end ---- */

static void alloc_fleet(struct fleet *f)
{
    size_t w = f->n_workers, visits = (size_t)f->tokens_max * f->top_k;
    f->physics = smoe_sim_alloc(w, sizeof *f->physics);
    f->nodes = smoe_sim_alloc(w, sizeof *f->nodes);
    double **doubles[] = {&f->queue, &f->debt, &f->carry, &f->spent};
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
        *doubles[i] = smoe_sim_alloc(w, sizeof(double));
    f->served = smoe_sim_alloc(w, sizeof *f->served);
    f->fifos = smoe_sim_alloc(w, sizeof *f->fifos);
    f->scores = smoe_sim_alloc((size_t)f->tokens_max * f->experts, sizeof *f->scores);
    f->expert = smoe_sim_alloc(visits, sizeof *f->expert);
    f->node = smoe_sim_alloc(visits, sizeof *f->node);
    f->arrivals = smoe_sim_alloc(w, sizeof *f->arrivals);
    f->replica_first = smoe_sim_alloc(f->experts + 1u, sizeof *f->replica_first);
    f->replica_node = smoe_sim_alloc(f->experts, sizeof *f->replica_node);
    f->backlogs = smoe_sim_alloc(f->o->slots, sizeof *f->backlogs);
    smoe_assert(smoe_route_scratch_new(f->tokens_max, f->experts, f->n_workers, &f->scratch) == 0);
}

static void init_fleet(struct fleet *f)
{
    const struct smoe_scenario_spec *spec = &f->s->spec;
    f->n_workers = (uint32_t)spec->workers;
    f->experts = (uint32_t)spec->experts;
    f->top_k = (uint32_t)spec->top_k;
    /* A Poisson number this far above its mean comes once in 10^20 slots; it would be cut. */
    f->tokens_max = (uint32_t)(spec->tokens + 10 * sqrt(spec->tokens) + 16);
    alloc_fleet(f);
    for (uint32_t j = 0; j < f->n_workers; j++)
        f->physics[j] = (struct smoe_freq_node){.cycles_per_visit = spec->cycles,
                                                .freq_max_hz = f->s->freq_max_hz[j],
                                                .kappa = spec->kappa,
                                                .energy_max_w = f->s->cap_w[j],
                                                .energy_mean_w = f->s->budget_w[j]};
    for (uint32_t e = 0; e < f->experts; e++) {
        f->replica_first[e] = e;
        f->replica_node[e] = e % f->n_workers;
    }
    f->replica_first[f->experts] = f->experts;
    smoe_rng_init(&f->gate, f->o->seed, 0);
    smoe_rng_init(&f->ties, f->o->seed, 1);
}

static void release_fleet(struct fleet *f)
{
    for (uint32_t j = 0; j < f->n_workers; j++)
        free(f->fifos[j].tokens);
    void *arrays[] = {f->physics,       f->nodes,        f->queue,    f->debt,
                      f->carry,         f->spent,        f->served,   f->fifos,
                      f->scores,        f->expert,       f->node,     f->arrivals,
                      f->replica_first, f->replica_node, f->backlogs, f->visits_left};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    smoe_route_scratch_free(f->scratch);
}

/* ---- arrivals ---- */

/* g = softmax(skew rank + N(0,1)) */
static void draw_scores(struct fleet *f, float *ret)
{
    double sum = 0;
    for (uint32_t e = 0; e < f->experts; e++) {
        double g = smoe_exp(f->s->spec.skew * f->s->rank[e] + smoe_rng_normal(&f->gate));
        ret[e] = (float)g;
        sum += (double)ret[e];
    }
    for (uint32_t e = 0; e < f->experts; e++)
        ret[e] = (float)((double)ret[e] / sum);
}

static uint32_t draw_arrivals(struct fleet *f)
{
    const struct smoe_scenario_spec *spec = &f->s->spec;
    uint32_t n = (uint32_t)spec->tokens;
    if (spec->source == SMOE_SOURCE_OPEN)
        n = smoe_rng_poisson(&f->gate, spec->tokens);
    n = n < f->tokens_max ? n : f->tokens_max;
    for (uint32_t i = 0; i < n; i++)
        draw_scores(f, f->scores + (size_t)i * f->experts);
    return n;
}

/* ---- the decision ---- */

static double horizon(const struct fleet *f, uint32_t tokens)
{
    double slot_s = (double)f->s->spec.slot_ns * 1e-9, rate = 0;
    double work = (double)tokens * f->top_k;
    if (f->s->spec.source == SMOE_SOURCE_OPEN)
        return slot_s;
    for (uint32_t j = 0; j < f->n_workers; j++) {
        work += f->queue[j];
        rate += smoe_freq_ceiling(&f->physics[j]) / f->physics[j].cycles_per_visit;
    }
    return smoe_freq_horizon(TAU_MAX_S, work, rate);
}

static void prepare_nodes(struct fleet *f, double tau_s)
{
    bool lyapunov = is_lyapunov(f->o->policy);
    for (uint32_t j = 0; j < f->n_workers; j++) {
        double unused = 0, *carry = lyapunov ? &f->carry[j] : &unused;
        f->nodes[j] = (struct smoe_node){
            .backlog = f->queue[j],
            .executable = f->queue[j],
            .penalty = f->s->spec.v,
            .energy_price = smoe_freq_energy_price(&f->physics[j], f->debt[j], tau_s),
            .service_max = smoe_freq_service_max(&f->physics[j], tau_s, carry),
            .arrivals_max = UINT32_MAX};
    }
}

static void route(struct fleet *f, uint32_t tokens)
{
    struct smoe_route_problem problem = {.n_tokens = tokens,
                                         .n_experts = f->experts,
                                         .n_nodes = f->n_workers,
                                         .top_k = f->top_k,
                                         .scores = f->scores,
                                         .score_weight = f->s->spec.v * f->s->spec.mu,
                                         .replica_first = f->replica_first,
                                         .replica_node = f->replica_node,
                                         .nodes = f->nodes,
                                         .mode = SMOE_COST_EXACT};
    struct smoe_route_answer answer = {
        .expert = f->expert, .node = f->node, .arrivals = f->arrivals};
    uint64_t began = f->o->clock_ns ? f->o->clock_ns() : 0;
    smoe_policy_route(f->o->policy, &problem, f->debt, &f->ties, f->scratch, &answer);
    f->result->solve_ns += f->o->clock_ns ? f->o->clock_ns() - began : 0;
    smoe_assert(answer.n_routed == tokens);
    if (answer.exact && tokens) {
        double scale = (double)f->top_k * tokens * problem.score_weight;
        double gap = scale > 0 ? (answer.primal - answer.bound) / scale : 0;
        f->result->gap_max = fmax(f->result->gap_max, fmax(gap, 0));
    }
}

/* ---- what the choices are worth ---- */

static void judge_token(struct fleet *f, const float *g, const uint16_t *chosen)
{
    struct smoe_slotted_result *r = f->result;
    uint32_t top[SMOE_TOP_K_MAX], n = 0;
    for (uint32_t e = 0; e < f->experts; e++) { /* insertion into the K best so far */
        uint32_t at = n;
        while (at > 0 && g[e] > g[top[at - 1]])
            at--;
        if (at == f->top_k)
            continue;
        n += n < f->top_k;
        memmove(top + at + 1, top + at, (n - 1 - at) * sizeof *top);
        top[at] = e;
    }
    for (uint32_t k = 0; k < f->top_k; k++) {
        r->gate_mass_best += (double)g[top[k]];
        r->gate_mass += (double)g[chosen[k]];
        r->agreement += g[chosen[k]] >= g[top[f->top_k - 1]];
    }
}

/* ---- service ---- */

static void push(struct fifo *q, uint64_t token)
{
    if (q->len == q->cap) {
        size_t cap = q->cap ? 2 * q->cap : 64;
        uint64_t *grown = smoe_sim_alloc(cap, sizeof *grown);
        for (size_t i = 0; i < q->len; i++)
            grown[i] = q->tokens[(q->first + i) % q->cap];
        free(q->tokens);
        *q = (struct fifo){grown, 0, q->len, cap};
    }
    q->tokens[(q->first + q->len++) % q->cap] = token;
}

static void enqueue(struct fleet *f, uint32_t tokens)
{
    uint64_t first = f->result->tokens;
    if (first + tokens > f->visits_left_cap) {
        size_t cap = 2 * f->visits_left_cap + tokens + 1024;
        f->visits_left = smoe_sim_grow(f->visits_left, f->visits_left_cap, cap, 1);
        f->visits_left_cap = cap;
    }
    for (uint32_t i = 0; i < tokens; i++) {
        judge_token(f, f->scores + (size_t)i * f->experts, f->expert + (size_t)i * f->top_k);
        f->visits_left[first + i] = (uint8_t)f->top_k;
        for (uint32_t k = 0; k < f->top_k; k++)
            push(&f->fifos[f->node[(size_t)i * f->top_k + k]], first + i);
    }
    f->result->tokens += tokens;
}

static void finish_visits(struct fleet *f, uint32_t j, uint64_t n)
{
    struct fifo *q = &f->fifos[j];
    smoe_assert(n <= q->len);
    f->served[j] += n;
    f->result->visits += n;
    for (; n; n--, q->len--) {
        f->result->complete += --f->visits_left[q->tokens[q->first]] == 0;
        q->first = (q->first + 1) % q->cap;
    }
}

/* Whole visits of a rate over a slot, the fraction kept for the next. */
static double whole(double visits, double *carry)
{
    double n = floor(visits + *carry);
    *carry += visits - n;
    return n;
}

/* What worker j serves in an open slot, and at which frequency. [visit] [Hz] */
static double serve(struct fleet *f, uint32_t j, double tau_s, double *ret_hz)
{
    const struct smoe_freq_node *p = &f->physics[j];
    double work = f->queue[j] + f->arrivals[j], served;
    if (is_lyapunov(f->o->policy)) {
        smoe_cost(&f->nodes[j], smoe_policy_cost_mode(f->o->policy), f->arrivals[j], &served);
        *ret_hz = smoe_freq_decide(p, served, tau_s, f->nodes[j].energy_price);
        return served;
    }
    double rate = smoe_freq_sustainable_rate(p);
    *ret_hz = rate * p->cycles_per_visit;
    if (f->o->freq_rule == SMOE_FREQ_FULL) {
        *ret_hz = p->freq_max_hz;
        rate = p->freq_max_hz / p->cycles_per_visit;
        double joules = smoe_freq_energy(p, p->freq_max_hz, 1 / rate); /* of a visit */
        if (joules > 0 && rate * joules > p->energy_max_w)
            rate = p->energy_max_w / joules;
    }
    return fmin(work, whole(rate * tau_s, &f->carry[j]));
}

/* Serves, spends, and returns the time until worker j is done with it. */
static double work_off(struct fleet *f, uint32_t j, double tau_s)
{
    const struct smoe_freq_node *p = &f->physics[j];
    double hz, served;
    if (f->s->spec.source == SMOE_SOURCE_OPEN) {
        served = serve(f, j, tau_s, &hz);
    } else {
        hz = smoe_freq_ceiling(p);
        served = f->queue[j] + f->arrivals[j];
    }
    double busy_s = hz > 0 ? served * p->cycles_per_visit / hz : 0;
    if (f->s->spec.source == SMOE_SOURCE_OPEN) /* a fraction carried over was worked on before */
        busy_s = fmin(busy_s, tau_s);
    f->queue[j] += f->arrivals[j] - served;
    finish_visits(f, j, (uint64_t)served);
    double joules = smoe_freq_energy(p, hz, busy_s);
    f->spent[j] += joules;
    f->debt[j] =
        f->debt[j] + joules; /* less the budget of the slot, whose length is not known yet */
    return busy_s;
}

static void charge(struct fleet *f, double slot_s)
{
    for (uint32_t j = 0; j < f->n_workers; j++) {
        f->debt[j] = smoe_freq_debt(f->debt[j], 0, f->physics[j].energy_mean_w, slot_s);
        f->result->debt_mean += f->debt[j] / f->n_workers;
        f->result->debt_max = fmax(f->result->debt_max, f->debt[j]);
    }
}

static void run_slot(struct fleet *f, uint64_t slot)
{
    uint32_t tokens = draw_arrivals(f);
    double tau_s = horizon(f, tokens), longest = 0, backlog = 0;
    prepare_nodes(f, tau_s);
    route(f, tokens);
    enqueue(f, tokens);
    for (uint32_t j = 0; j < f->n_workers; j++) {
        longest = fmax(longest, work_off(f, j, tau_s));
        backlog += f->queue[j];
    }
    double slot_s = f->s->spec.source == SMOE_SOURCE_OPEN ? tau_s : longest;
    charge(f, slot_s);
    f->result->seconds += slot_s;
    f->result->backlog_mean += backlog;
    f->result->backlog_max = fmax(f->result->backlog_max, backlog);
    f->backlogs[slot] = backlog;
}

/* ---- results ---- */

/* Least squares over the last half. [visit/slot] */
static double slope(const double *y, uint64_t n)
{
    uint64_t first = n / 2, m = n - first;
    double mean_x = (double)(m - 1) / 2, mean_y = 0, xy = 0, xx = 0;
    for (uint64_t i = 0; i < m; i++)
        mean_y += y[first + i] / (double)m;
    for (uint64_t i = 0; i < m; i++) {
        xy += ((double)i - mean_x) * (y[first + i] - mean_y);
        xx += ((double)i - mean_x) * ((double)i - mean_x);
    }
    return xx > 0 ? xy / xx : 0;
}

static void sum_up(struct fleet *f)
{
    struct smoe_slotted_result *r = f->result;
    double slots = (double)f->o->slots, tokens = (double)(r->tokens ? r->tokens : 1), rate = 0;
    r->backlog_mean /= slots;
    r->backlog_last = f->backlogs[f->o->slots - 1];
    r->backlog_slope = slope(f->backlogs, f->o->slots);
    r->debt_mean /= slots;
    r->gate_mass /= tokens;
    r->gate_mass_best /= tokens;
    r->agreement /= tokens * f->top_k;
    for (uint32_t j = 0; j < f->n_workers; j++) {
        rate += smoe_freq_sustainable_rate(&f->physics[j]);
        r->share[j] = r->visits ? (double)f->served[j] / (double)r->visits : 0;
        if (r->seconds > 0 && isfinite(f->physics[j].energy_mean_w))
            r->overdraft =
                fmax(r->overdraft, f->spent[j] / r->seconds / f->physics[j].energy_mean_w - 1);
    }
    if (f->s->spec.source == SMOE_SOURCE_OPEN)
        r->load = f->s->spec.tokens * f->top_k / (rate * (double)f->s->spec.slot_ns * 1e-9);
}

void smoe_slotted_run(const struct smoe_scenario *scenario,
                      const struct smoe_slotted_options *options, struct smoe_slotted_result *ret)
{
    struct fleet f = {.s = scenario, .o = options, .result = ret};
    *ret = (struct smoe_slotted_result){
        .gap_max = -1, .share = smoe_sim_alloc(scenario->spec.workers, sizeof(double))};
    init_fleet(&f);
    for (uint64_t slot = 0; slot < options->slots; slot++)
        run_slot(&f, slot);
    sum_up(&f);
    release_fleet(&f);
}

void smoe_slotted_release(struct smoe_slotted_result *result)
{
    free(result->share);
    *result = (struct smoe_slotted_result){0};
}
