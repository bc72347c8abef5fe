/* SPDX-License-Identifier: Apache-2.0
 *
 * What workers do. Each serves its visits in order of arrival, which decides when a token is complete.
 * In an open slot it serves what its decision says, at the frequency of the decision, as far as there is
 * work; in a closed one all it has, at its highest.
 */
#include <math.h>
#include <stdlib.h>

#include "common/base/assert.h"
#include "sim/events.h"
#include "sim/slotted_state.h"

/* ---- queues ---- */

void smoe_sim_fifo_push(struct smoe_sim_fifo *q, uint64_t visit)
{
    if (q->len == q->cap) {
        size_t cap = q->cap ? 2 * q->cap : 64;
        uint64_t *grown = smoe_sim_alloc(cap, sizeof *grown);
        for (size_t i = 0; i < q->len; i++)
            grown[i] = q->visits[(q->first + i) & (q->cap - 1)];
        free(q->visits);
        *q = (struct smoe_sim_fifo){grown, 0, q->len, cap};
    }
    q->visits[(q->first + q->len++) & (q->cap - 1)] = visit;
}

uint64_t smoe_sim_fifo_pop(struct smoe_sim_fifo *q)
{
    smoe_assert(q->len > 0);
    uint64_t visit = q->visits[q->first];
    q->first = (q->first + 1) & (q->cap - 1);
    q->len--;
    return visit;
}

static void make_room(struct smoe_sim_fleet *f, size_t tokens)
{
    size_t cap = 2 * f->tokens_cap + 1024;
    if (tokens <= f->tokens_cap)
        return;
    cap = tokens > cap ? tokens : cap;
    f->visits_left = smoe_sim_grow(f->visits_left, f->tokens_cap, cap, 1);
    if (f->o->trainer)
        f->token_expert = smoe_sim_grow(f->token_expert, f->tokens_cap * f->top_k, cap * f->top_k,
                                        sizeof *f->token_expert);
    f->tokens_cap = cap;
}

void smoe_sim_fleet_enqueue(struct smoe_sim_fleet *f, uint32_t tokens)
{
    uint64_t first = f->result->tokens;
    make_room(f, first + tokens);
    for (uint32_t i = 0; i < tokens; i++) {
        const uint16_t *expert = f->expert + (size_t)i * f->top_k;
        const uint32_t *node = f->node + (size_t)i * f->top_k;
        f->visits_left[first + i] = (uint8_t)f->top_k;
        for (uint32_t k = 0; k < f->top_k; k++) {
            smoe_sim_fifo_push(&f->fifos[node[k]], (first + i) << 16 | expert[k]);
            if (f->o->trainer)
                f->token_expert[(first + i) * f->top_k + k] = expert[k];
        }
    }
    f->result->tokens += tokens;
}

static void finish_token(struct smoe_sim_fleet *f, uint64_t token)
{
    f->result->complete++;
    if (!f->o->trainer)
        return;
    if (f->n_finished == f->finished_cap) {
        uint32_t cap = 2 * f->finished_cap + 1024;
        f->finished = smoe_sim_grow(f->finished, f->finished_cap, cap, sizeof *f->finished);
        f->finished_cap = cap;
    }
    f->finished[f->n_finished++] = token;
}

static void finish_visits(struct smoe_sim_fleet *f, uint32_t j, uint64_t n)
{
    f->served[j] += n;
    f->result->visits += n;
    for (; n; n--) {
        uint64_t token = smoe_sim_fifo_pop(&f->fifos[j]) >> 16;
        if (--f->visits_left[token] == 0)
            finish_token(f, token);
    }
}

/* ---- service ---- */

/* Whole visits of a rate over a slot, the fraction kept for the next. */
static double whole(double visits, double *carry)
{
    double n = floor(visits + *carry);
    *carry += visits - n;
    return n;
}

/* What worker j may serve in an open slot, and at which frequency. [visit] [Hz] */
static double decide(struct smoe_sim_fleet *f, uint32_t j, double tau_s, double *ret_hz)
{
    const struct smoe_freq_node *p = &f->physics[j];
    double served;
    if (smoe_slotted_decides_frequency(f->o->policy)) {
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
    return whole(rate * tau_s, &f->carry[j]);
}

double smoe_sim_fleet_work(struct smoe_sim_fleet *f, uint32_t j, double tau_s)
{
    const struct smoe_freq_node *p = &f->physics[j];
    bool open = f->s->spec.source == SMOE_SOURCE_OPEN;
    double work = f->queue[j] + f->arrivals[j], hz = smoe_freq_ceiling(p), served = work;
    f->serving[j] = 0;
    if (f->away[j])
        return 0;
    if (open)
        served = fmin(work, decide(f, j, tau_s, &hz));
    double busy_s = hz > 0 ? served * p->cycles_per_visit / hz : 0;
    if (open) /* a fraction carried over was worked on before */
        busy_s = fmin(busy_s, tau_s);
    f->queue[j] = work - served;
    f->serving[j] = served;
    finish_visits(f, j, (uint64_t)served);
    double joules = smoe_freq_energy(p, hz, busy_s);
    f->spent[j] += joules;
    f->result->joules += joules;
    f->debt[j] += joules; /* less the slot's budget, once its length is known */
    return busy_s;
}
