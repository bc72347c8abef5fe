/* SPDX-License-Identifier: Apache-2.0
 *
 * Each report is an observation of everything that moved since the one before. Reports differ in size, and
 * one of a tenth of the work is a tenth of an observation: the weights are relative to the largest of late,
 * which fades, so that no unit and no slot length stands in them.
 *
 * Energy is regressed on time and work together, over the time between two movements of the meter: one that
 * is read ten times a second stands still between most reports. While a worker idles and its meter (the
 * model) counts nothing, that time is part of the next observation, and says that static power is none.
 */
#include "daemon/core/learning.h"

#include <math.h>

#define SHARE_MIN     0.05 /* a worker that is starved of work is not a slow one */
#define OVERHEAD_MAX  4    /* nor one that has little to do between its steps */
#define STEPS_CYCLES  2e8  /* of backward passes, after which half of the ratio is theirs */
#define FULL_FADES    0.9
#define POWER_FULL_S  0.005 /* metered for shorter it is a part of an observation */
#define WATTS_S       10    /* time that `watts` is a mean of, roughly */
#define PRIOR_SPREAD  3     /* a prior may be wrong by four times: of itself */
#define STATIC_SPREAD 0.2   /* of static power, of busy power */

void smoe_learned_init(struct smoe_learned *l, const struct smoe_priors *priors,
                       enum smoe_power_law law)
{
    double c = priors->cycles_per_flop > 0 ? priors->cycles_per_flop : SMOE_COST_PRIOR;
    struct smoe_estimate_term cost = {c, PRIOR_SPREAD * c, 1e-9, 1e9};
    struct smoe_estimate_term share = {1, 1, SHARE_MIN, 1};
    *l = (struct smoe_learned){.priors = *priors, .law = law};
    for (int p = 0; p < SMOE_PHASES; p++)
        smoe_estimate_init(&l->cost[p], &cost, 1);
    smoe_estimate_init(&l->share, &share, 1);
}

void smoe_learned_resume(struct smoe_learned *l, enum smoe_power_law law, double busy_w)
{
    if (busy_w > 0)
        l->priors.busy_w = busy_w;
    if (law != l->law)
        l->power = (struct smoe_estimate){0};
    l->law = law;
    l->unmetered_s = l->unmetered_work = 0;
}

static double weigh(double *full, double work)
{
    *full = fmax(work, FULL_FADES * *full);
    return work / *full;
}

static void learn_ratio(struct smoe_estimate *e, double *full, double y, double u)
{
    if (y > 0 && u > 0)
        smoe_estimate_observe(e, &u, y, weigh(full, y));
}

/* Evaluations, which have neither backward passes nor steps, teach nothing. */
static void learn_steps(struct smoe_ratio *r, const struct smoe_observed *o)
{
    double backward = o->cycles[SMOE_BACKWARD];
    double keep = STEPS_CYCLES / (STEPS_CYCLES + backward);
    r->of = r->of * keep + fmax(o->all_cycles - backward - o->cycles[SMOE_FORWARD], 0);
    r->per = r->per * keep + backward;
}

/* ---- power ---- */

static double work_of_cycle(const struct smoe_learned *l, double hz)
{
    return l->law == SMOE_POWER_CUBE ? hz * hz : 1;
}

/* Without a prior the first observation is one: all of it work. */
static void begin_power(struct smoe_learned *l, double top_hz, double joules)
{
    const struct smoe_priors *priors = &l->priors;
    double of_work = fmax(priors->busy_w - priors->static_w, 0);
    double prior =
        of_work > 0 ? of_work / (top_hz * work_of_cycle(l, top_hz)) : joules / l->unmetered_work;
    double busy_w = priors->busy_w > 0 ? priors->busy_w : joules / l->unmetered_s;
    struct smoe_estimate_term terms[2] = {
        {priors->static_w, fmax(PRIOR_SPREAD * priors->static_w, STATIC_SPREAD * busy_w), 0, 1e6},
        {prior, PRIOR_SPREAD * prior, prior * 1e-6, prior * 1e6}};
    smoe_estimate_init(&l->power, terms, 2);
}

static void learn_power(struct smoe_learned *l, const struct smoe_observed *o, double top_hz)
{
    double hz = o->hz * l->share.value[0];
    l->unmetered_s += o->wall_s;
    l->unmetered_work += o->all_cycles * work_of_cycle(l, hz);
    if (!(o->joules > 0) || !(l->unmetered_s > 0))
        return;
    if (!l->power.n && l->unmetered_work > 0 && top_hz > 0)
        begin_power(l, top_hz, o->joules);
    if (l->power.n)
        smoe_estimate_observe(&l->power, (double[]){l->unmetered_s, l->unmetered_work}, o->joules,
                              fmin(l->unmetered_s / POWER_FULL_S, 1));
    l->unmetered_s = l->unmetered_work = 0;
}

/* ---- the door ---- */

void smoe_learned_observe(struct smoe_learned *l, const struct smoe_observed *o, double top_hz)
{
    for (int p = 0; p < SMOE_PHASES; p++)
        learn_ratio(&l->cost[p], &l->full[p], o->cycles[p], o->flops[p]);
    learn_ratio(&l->share, &l->full[SMOE_PHASES], o->all_cycles, o->offered_cycles);
    learn_steps(&l->steps, o);
    learn_power(l, o, top_hz);
    if (o->wall_s > 0)
        l->watts += (o->joules - l->watts * o->wall_s) / (WATTS_S + o->wall_s);
}

const struct smoe_estimate *smoe_learned_cost(const struct smoe_learned *l, enum smoe_phase phase)
{
    const struct smoe_estimate *own = &l->cost[phase], *other = &l->cost[!phase];
    return !own->taken && other->taken ? other : own;
}

double smoe_learned_overhead(const struct smoe_learned *l)
{
    return l->steps.per > 0 ? 1 + fmin(l->steps.of / l->steps.per, OVERHEAD_MAX) : 1;
}

double smoe_learned_kappa(const struct smoe_learned *l, double hz, double *ret_error)
{
    double scale = l->law == SMOE_POWER_CUBE ? 1 : hz > 0 ? 1 / (hz * hz) : 0;
    if (!l->power.n)
        return *ret_error = 0;
    *ret_error = scale * smoe_estimate_error(&l->power, 1);
    return scale * l->power.value[1];
}

double smoe_learned_static_w(const struct smoe_learned *l, double *ret_error)
{
    *ret_error = l->power.n ? smoe_estimate_error(&l->power, 0) : 0;
    return l->power.n ? l->power.value[0] : 0;
}
