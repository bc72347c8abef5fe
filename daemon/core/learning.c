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
#include <stdbool.h>
#include <string.h>

#define SHARE_MIN      0.05 /* a worker that is starved of work is not a slow one */
#define SHARE_CYCLES   2e8  /* after which half of it is from them */
#define FULL_FADES     0.9
#define POWER_FULL_S   0.005 /* metered for shorter it is a part of an observation */
#define WATTS_S        10    /* time that `watts` is a mean of, roughly */
#define STATE_MEMORY   0.99  /* of what was metered at a frequency, at the next */
#define STATE_SEEN_MIN 5     /* times, before it counts */
#define ACTIVE_MIN     0.2   /* of the time, or static power would decide */
#define SAME_HZ        0.01  /* of a state and the bound that is meant to be it */
#define CUBE_NEAR      0.1   /* metered power may be so far from the cube and be called one */
#define PRIOR_SPREAD   3     /* a prior may be wrong by four times: of itself */
#define PARCEL_SPREAD  30    /* what a parcel costs is not known before: rows */
#define STATIC_SPREAD  0.2   /* of static power, of busy power */

void smoe_learned_init(struct smoe_learned *l, const struct smoe_priors *priors,
                       enum smoe_power_law law)
{
    double c = priors->cycles_per_flop > 0 ? priors->cycles_per_flop : SMOE_COST_PRIOR;
    struct smoe_estimate_term cost[2] = {{c, PRIOR_SPREAD * c, 1e-9, 1e9},
                                         {0, PARCEL_SPREAD * c, 0, 1e9}};
    struct smoe_estimate_term share = {1, 1, SHARE_MIN, 1};
    *l = (struct smoe_learned){.priors = *priors, .law = law};
    for (int p = 0; p < SMOE_PHASES; p++)
        smoe_estimate_init(&l->cost[p], cost, 2);
    smoe_estimate_init(&l->share, &share, 1);
}

static void forget_power(struct smoe_learned *l)
{
    l->power = (struct smoe_estimate){0};
    memset(l->states, 0, sizeof l->states);
}

void smoe_learned_resume(struct smoe_learned *l, enum smoe_power_law law, double busy_w)
{
    if (busy_w > 0)
        l->priors.busy_w = busy_w;
    if (law != l->law)
        forget_power(l);
    l->law = law;
    l->unread = false;
    l->modelled_j = 0;
    memset(&l->unmetered, 0, sizeof l->unmetered);
}

void smoe_learned_table(struct smoe_learned *l, const double *hz, uint32_t n)
{
    if (n == l->n_table && memcmp(hz, l->table_hz, n * sizeof *hz) == 0)
        return;
    memset(l->states, 0, sizeof l->states);
    memcpy(l->table_hz, hz, n * sizeof *hz);
    l->n_table = n;
}

static double weigh(double *full, double work)
{
    *full = fmax(work, FULL_FADES * *full);
    return work / *full;
}

/* A parcel costs something however few its rows are (weights come from memory, a lane wakes up). Averaged over
 * rows that would make a worker with little work look slow, and get less. */
static void learn_cost(struct smoe_learned *l, enum smoe_phase p, const struct smoe_observed *o)
{
    double u[2] = {o->flops[p], o->row_flops[p]};
    if (o->cycles[p] > 0 && u[0] > 0)
        smoe_estimate_observe(&l->cost[p], u, o->cycles[p], weigh(&l->full[p], o->cycles[p]));
}

/* The quotient of the sums; what the estimate adds is how sure that is, and when all of it is another. */
static void learn_share(struct smoe_learned *l, const struct smoe_observed *o)
{
    double keep = SHARE_CYCLES / (SHARE_CYCLES + o->all_cycles);
    if (o->all_cycles > 0 && o->offered_cycles > 0)
        smoe_estimate_observe(&l->share, &o->offered_cycles, o->all_cycles,
                              weigh(&l->full[SMOE_PHASES], o->all_cycles));
    l->shared.of = l->shared.of * keep + o->all_cycles;
    l->shared.per = l->shared.per * keep + o->offered_cycles;
    if (l->shared.per > 0)
        l->share.value[0] = fmin(fmax(l->shared.of / l->shared.per, SHARE_MIN), 1);
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
        of_work > 0 ? of_work / (top_hz * work_of_cycle(l, top_hz)) : joules / l->unmetered.work;
    double busy_w = priors->busy_w > 0 ? priors->busy_w : joules / l->unmetered.s;
    struct smoe_estimate_term terms[2] = {
        {priors->static_w, fmax(PRIOR_SPREAD * priors->static_w, STATIC_SPREAD * busy_w), 0, 1e6},
        {prior, PRIOR_SPREAD * prior, prior * 1e-6, prior * 1e6}};
    smoe_estimate_init(&l->power, terms, 2);
}

/* The nearest P-state, or the sixteenth, of that part of the highest frequency. */
static uint32_t state_of(const struct smoe_learned *l, double part, double top_hz)
{
    uint32_t k = 0;
    if (!l->n_table)
        return (uint32_t)fmin(fmax(ceil(part * SMOE_POWER_STATES) - 1, 0), SMOE_POWER_STATES - 1);
    while (k + 1 < l->n_table && l->table_hz[k] + l->table_hz[k + 1] < 2 * part * top_hz)
        k++;
    return k;
}

/* Of the frequency that all of the work was done at, if it was one. */
static void learn_state(struct smoe_learned *l, double joules, double top_hz)
{
    double active_s = l->unmetered.active_s, cycles = l->unmetered.cycles;
    if (!(cycles > 0) || active_s < ACTIVE_MIN * l->unmetered.s)
        return; /* static power alone would decide what is left for the work */
    double part = l->unmetered.part / cycles;
    struct smoe_power_state *s = &l->states[state_of(l, part, top_hz)];
    double idle_j = l->power.value[0] * fmax(l->unmetered.s - active_s, 0);
    s->cycles = s->cycles * STATE_MEMORY + cycles;
    s->joules = s->joules * STATE_MEMORY + fmax(joules - idle_j, 0);
    s->part = s->part * STATE_MEMORY + l->unmetered.part;
    s->seen++;
}

static void learn_metered(struct smoe_learned *l, double joules, double top_hz)
{
    if (!l->power.n && l->unmetered.work > 0 && top_hz > 0)
        begin_power(l, top_hz, joules);
    if (!l->power.n)
        return;
    double u[2] = {l->unmetered.s, l->unmetered.work};
    switch (smoe_estimate_observe(&l->power, u, joules, fmin(u[0] / POWER_FULL_S, 1))) {
    case SMOE_ESTIMATE_TAKEN:
        learn_state(l, joules, top_hz);
        break;
    case SMOE_ESTIMATE_RESTARTED:
        memset(l->states, 0, sizeof l->states); /* another machine than was measured */
        break;
    case SMOE_ESTIMATE_REJECTED:
    case SMOE_ESTIMATE_UNUSABLE:
        break;
    }
}

/* What the time since the meter moved last took, by the law as it is known. [J] */
static double modelled_j(const struct smoe_learned *l, double top_hz)
{
    const struct smoe_priors *priors = &l->priors;
    if (l->power.n)
        return l->power.value[0] * l->unmetered.s + l->power.value[1] * l->unmetered.work;
    double of_work = top_hz > 0 ? fmax(priors->busy_w - priors->static_w, 0) /
                                      (top_hz * work_of_cycle(l, top_hz))
                                : 0;
    return priors->static_w * l->unmetered.s + of_work * l->unmetered.work;
}

/* The time ends in which the meter cannot be read, or a part of it. */
static double estimate_joules(struct smoe_learned *l, const struct smoe_observed *o, double top_hz)
{
    double told = o->unread ? o->joules : o->joules - l->modelled_j;
    double joules = fmax(modelled_j(l, top_hz), told);
    l->modelled_j = o->unread ? l->modelled_j + joules - o->joules : 0;
    l->unread = o->unread;
    memset(&l->unmetered, 0, sizeof l->unmetered);
    return joules;
}

static double learn_power(struct smoe_learned *l, const struct smoe_observed *o, double top_hz)
{
    double hz = o->hz * l->share.value[0];
    l->unmetered.s += o->wall_s;
    l->unmetered.active_s += o->hz > 0 ? fmin(o->offered_cycles / o->hz, o->wall_s) : 0;
    l->unmetered.cycles += o->all_cycles;
    l->unmetered.work += o->all_cycles * work_of_cycle(l, hz);
    l->unmetered.part += top_hz > 0 ? o->all_cycles * fmin(o->hz / top_hz, 1) : 0;
    if (o->unread || l->unread)
        return estimate_joules(l, o, top_hz);
    if (!(o->joules > 0) || !(l->unmetered.s > 0))
        return o->joules;
    learn_metered(l, o->joules, top_hz);
    memset(&l->unmetered, 0, sizeof l->unmetered);
    return o->joules;
}

/* ---- the curve ---- */

/* The law's power, with work, at hz. */
static double modelled(const struct smoe_learned *l, double hz)
{
    return l->power.value[0] + l->power.value[1] * work_of_cycle(l, hz) * hz;
}

/* P-states up to top_hz, of all lanes as set, or the sixteenths. */
static uint32_t count_points(const struct smoe_learned *l, double top_hz)
{
    uint32_t n = 0;
    while (n < l->n_table && l->table_hz[n] < top_hz * (1 + SAME_HZ))
        n++;
    return l->n_table ? n : SMOE_POWER_STATES;
}

/* Point k of the curve: as metered, where there was enough of it. False: it is the model's. */
static bool point(const struct smoe_learned *l, uint32_t k, double top_hz, double *ret_hz,
                  double *ret_watts)
{
    const struct smoe_power_state *s = &l->states[k];
    bool metered = s->seen >= STATE_SEEN_MIN && s->cycles > 0;
    *ret_hz = l->n_table ? l->table_hz[k] * l->share.value[0]
              : metered  ? s->part / s->cycles * top_hz
                         : (double)(k + 1) / SMOE_POWER_STATES * top_hz;
    *ret_watts = metered ? s->joules / s->cycles * *ret_hz : modelled(l, *ret_hz);
    return metered;
}

bool smoe_learned_curve(const struct smoe_learned *l, double top_hz, struct smoe_power_curve *ret)
{
    double hz[SMOE_FREQ_STATES_MAX], watts[SMOE_FREQ_STATES_MAX];
    uint32_t n = count_points(l, top_hz / l->share.value[0]);
    if (!l->power.n || !(top_hz > 0) || !n)
        return false;
    bool as_modelled = l->law == SMOE_POWER_CUBE && !l->n_table;
    for (uint32_t k = 0; k < n; k++) {
        bool metered = point(l, k, top_hz, &hz[k], &watts[k]);
        double model = modelled(l, hz[k]);
        as_modelled &= !metered || fabs(watts[k] - model) < CUBE_NEAR * model;
    }
    if (!l->n_table && hz[n - 1] < top_hz) { /* up to the highest, as steep as the law is there */
        hz[n] = top_hz;
        watts[n] = watts[n - 1] * modelled(l, top_hz) / modelled(l, hz[n - 1]);
        n++;
    }
    if (as_modelled || !smoe_power_hull(l->power.value[0], hz, watts, n, ret))
        return false;
    ret->stepless = !l->n_table;
    return true;
}

/* ---- the door ---- */

double smoe_learned_observe(struct smoe_learned *l, const struct smoe_observed *o, double top_hz)
{
    for (enum smoe_phase p = SMOE_FORWARD; p < SMOE_PHASES; p++)
        learn_cost(l, p, o);
    learn_share(l, o);
    double joules = learn_power(l, o, top_hz);
    if (o->wall_s > 0)
        l->watts += (joules - l->watts * o->wall_s) / (WATTS_S + o->wall_s);
    return joules;
}

const struct smoe_estimate *smoe_learned_cost(const struct smoe_learned *l, enum smoe_phase phase)
{
    const struct smoe_estimate *own = &l->cost[phase], *other = &l->cost[!phase];
    return !own->taken && other->taken ? other : own;
}

double smoe_learned_cost_at(const struct smoe_learned *l, enum smoe_phase phase, double rows,
                            double *ret_error)
{
    const struct smoe_estimate *e = smoe_learned_cost(l, phase);
    if (ret_error) {
        double row = smoe_estimate_error(e, 0), parcel = smoe_estimate_error(e, 1) / rows;
        *ret_error = sqrt(row * row + parcel * parcel);
    }
    return e->value[0] + e->value[1] / rows;
}

double smoe_learned_kappa(const struct smoe_learned *l, double hz, double *ret_error)
{
    double scale = l->law == SMOE_POWER_CUBE ? 1 : hz > 0 ? 1 / (hz * hz) : 0;
    if (ret_error)
        *ret_error = l->power.n ? scale * smoe_estimate_error(&l->power, 1) : 0;
    return l->power.n ? scale * l->power.value[1] : 0;
}

double smoe_learned_static_w(const struct smoe_learned *l, double *ret_error)
{
    if (ret_error)
        *ret_error = l->power.n ? smoe_estimate_error(&l->power, 0) : 0;
    return l->power.n ? l->power.value[0] : 0;
}
