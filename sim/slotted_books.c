/* SPDX-License-Identifier: Apache-2.0
 *
 * What it was worth, in the words of MODEL.md ("Words, once"), and the laws that every slot must keep: no
 * visit is lost or made up; and where the policy proves its answer optimal, the drift plus penalty that the
 * slot came to is the objective that the solver promised (MODEL.md (15)).
 */
#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "sim/slotted_state.h"

#define DRIFT_TOLERANCE 1e-9 /* relative, of the largest term */

/* ---- choices ---- */

static void judge_token(struct smoe_sim_fleet *f, const float *g, const uint16_t *chosen)
{
    struct smoe_slotted_result *r = f->result;
    float top[SMOE_TOP_K_MAX];
    uint32_t n = 0;
    for (uint32_t e = 0; e < f->experts; e++) { /* insertion into the K best so far */
        uint32_t at = n;
        if (n == f->top_k && g[e] <= top[n - 1])
            continue;
        while (at > 0 && g[e] > top[at - 1])
            at--;
        n += n < f->top_k;
        memmove(top + at + 1, top + at, (n - 1 - at) * sizeof *top);
        top[at] = g[e];
    }
    for (uint32_t k = 0; k < f->top_k; k++) {
        r->gate_mass_best += (double)top[k];
        r->gate_mass += (double)g[chosen[k]];
        r->agreement += g[chosen[k]] >= top[f->top_k - 1];
    }
}

void smoe_sim_fleet_judge(struct smoe_sim_fleet *f, uint32_t tokens)
{
    f->mass = f->result->gate_mass;
    f->potential = 0;
    for (uint32_t j = 0; j < f->n_workers; j++)
        f->potential += f->queue[j] * f->queue[j] / 2;
    for (uint32_t i = 0; i < tokens; i++)
        judge_token(f, f->scores + (size_t)i * f->experts, f->expert + (size_t)i * f->top_k);
}

/* ---- slots ---- */

static void charge(struct smoe_sim_fleet *f, double slot_s)
{
    for (uint32_t j = 0; j < f->n_workers; j++) {
        f->debt[j] = smoe_freq_debt(f->debt[j], 0, f->physics[j].energy_mean_w, slot_s);
        f->result->debt_mean += f->debt[j] / f->n_workers;
        f->result->debt_max = fmax(f->result->debt_max, f->debt[j]);
    }
}

static double check_queues(const struct smoe_sim_fleet *f)
{
    const struct smoe_slotted_result *r = f->result;
    double backlog = 0;
    for (uint32_t j = 0; j < f->n_workers; j++) {
        smoe_assert(f->queue[j] == (double)f->fifos[j].len);
        backlog += f->queue[j];
    }
    smoe_assert(backlog == (double)(r->tokens * f->top_k - r->visits));
    smoe_assert(r->complete <= r->tokens);
    return backlog;
}

/* sum_j (Q'^2 - Q^2)/2 - V D + a D^3, less sum w x: what the queues really did. */
static void check_promise(const struct smoe_sim_fleet *f)
{
    const struct smoe_scenario_spec *spec = &f->s->spec;
    double gain = spec->v * spec->mu * (f->result->gate_mass - f->mass), cost = -f->potential;
    for (uint32_t j = 0; j < f->n_workers; j++) {
        const struct smoe_node *node = &f->nodes[j];
        double d = f->serving[j];
        double energy = node->power ? smoe_power_at(node->power, d * node->visit_hz) -
                                          smoe_power_at(node->power, 0)
                                    : d * d * d;
        cost += f->queue[j] * f->queue[j] / 2 - spec->v * d + node->energy_price * energy;
    }
    double scale = f->potential + fabs(cost) + gain + 1;
    smoe_assert(fabs(cost - gain - f->promise) <= DRIFT_TOLERANCE * scale);
}

static void keep_series(struct smoe_sim_fleet *f, uint64_t slot, uint64_t complete)
{
    struct smoe_slotted_series *s = &f->result->series;
    s->backlog[slot] = f->backlogs[slot];
    s->complete[slot] = (double)complete;
    for (uint32_t j = 0; j < f->n_workers; j++)
        s->debt[slot] += f->debt[j];
}

void smoe_sim_fleet_close_slot(struct smoe_sim_fleet *f, uint64_t slot, double slot_s,
                               uint64_t complete_before)
{
    struct smoe_slotted_result *r = f->result;
    double backlog = check_queues(f);
    if (f->promised)
        check_promise(f);
    charge(f, slot_s);
    r->seconds += slot_s;
    r->backlog_mean += backlog;
    r->backlog_max = fmax(r->backlog_max, backlog);
    f->backlogs[slot] = backlog;
    if (f->o->keep_series)
        keep_series(f, slot, r->complete - complete_before);
}

/* ---- the run ---- */

double smoe_sim_slope(const double *y, uint64_t n)
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

static void sum_up_energy(struct smoe_sim_fleet *f)
{
    struct smoe_slotted_result *r = f->result;
    for (uint32_t j = 0; j < f->n_workers; j++) {
        double budget_j = r->seconds * f->physics[j].energy_mean_w;
        if (!(budget_j > 0) || isinf(budget_j))
            continue;
        r->overdraft = fmax(r->overdraft, f->spent[j] / budget_j - 1);
        r->debt_rest = fmax(r->debt_rest, f->debt[j] / budget_j);
    }
}

void smoe_sim_fleet_sum_up(struct smoe_sim_fleet *f)
{
    struct smoe_slotted_result *r = f->result;
    double slots = (double)f->o->slots, tokens = (double)(r->tokens ? r->tokens : 1);
    r->backlog_mean /= slots;
    r->backlog_last = f->backlogs[f->o->slots - 1];
    r->backlog_slope = smoe_sim_slope(f->backlogs, f->o->slots);
    r->debt_mean /= slots;
    r->gate_mass /= tokens;
    r->gate_mass_best /= tokens;
    r->agreement /= tokens * f->top_k;
    for (uint32_t j = 0; j < f->n_workers; j++)
        r->share[j] = r->visits ? (double)f->served[j] / (double)r->visits : 0;
    sum_up_energy(f);
    if (f->s->spec.source == SMOE_SOURCE_OPEN)
        r->load = f->o->tape ? (double)(r->tokens * f->top_k) / f->sustained
                             : f->s->spec.tokens * f->top_k / smoe_scenario_sustainable(f->s);
}
