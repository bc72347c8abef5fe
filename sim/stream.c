/* SPDX-License-Identifier: Apache-2.0
 *
 * The number of a slot is Poisson around a mean that the kind of arrivals sets, except for a trace, which
 * is taken as it is. Bursts are a chain of two states: on-phases last period / burst slots on average,
 * off-phases the rest of the period, so that the mean over both is `tokens`.
 *
 * A score is e^(skew rank) of its expert times e^noise of its token, normalised. The first changes with
 * the slot where ranks drift: between two whole steps a rank lies between its own and its neighbour's.
 * The second is drawn afresh or comes from a pool, which is for fleets where drawing costs more than
 * routing (1,000 nodes and 20,000 tokens a slot are 1.3 million normal numbers).
 */
#include "sim/stream.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/detmath.h"
#include "sim/events.h"

#define RNG_GATE   0 /* streams of the seed; 1 is the policies' */
#define RNG_PHASES 2

static double peak(const struct smoe_scenario *s)
{
    double scale = 1;
    if (s->spec.source == SMOE_SOURCE_CLOSED)
        return 1;
    if (s->spec.arrivals == SMOE_ARRIVALS_BURSTY)
        return s->spec.burst;
    if (s->spec.arrivals == SMOE_ARRIVALS_DIURNAL)
        return 1 + s->spec.swing;
    for (uint64_t i = 0; i < s->trace_len; i++)
        scale = fmax(scale, s->trace[i] / s->trace_mean);
    return scale;
}

static void fill_pool(struct smoe_sim_stream *st)
{
    uint64_t n = st->scenario->spec.pool * st->scenario->spec.experts;
    if (!n)
        return;
    st->pool = smoe_sim_alloc(n, sizeof *st->pool);
    for (uint64_t i = 0; i < n; i++)
        st->pool[i] = smoe_exp(smoe_rng_normal(&st->rng));
}

void smoe_sim_stream_init(struct smoe_sim_stream *st, const struct smoe_scenario *scenario,
                          uint64_t seed)
{
    double mean = scenario->spec.tokens * peak(scenario);
    /* A Poisson number this far above its mean comes once in 10^20 slots; it would be cut. */
    double most = fmin(mean + 10 * sqrt(mean) + 16, SMOE_SCENARIO_TOKENS_MAX);
    *st = (struct smoe_sim_stream){.scenario = scenario,
                                   .tokens_max = (uint32_t)most,
                                   .on = true,
                                   .factor =
                                       smoe_sim_alloc(scenario->spec.experts, sizeof *st->factor)};
    smoe_rng_init(&st->rng, seed, RNG_GATE);
    smoe_rng_init(&st->phases, seed, RNG_PHASES);
    fill_pool(st);
}

void smoe_sim_stream_release(struct smoe_sim_stream *st)
{
    free(st->factor);
    free(st->pool);
    *st = (struct smoe_sim_stream){0};
}

/* ---- how many ---- */

/* On or off, changing with the chance that gives each phase its mean length. */
static double burst(struct smoe_sim_stream *st)
{
    const struct smoe_scenario_spec *spec = &st->scenario->spec;
    double on = (double)spec->period / spec->burst, off = (double)spec->period - on;
    if (smoe_rng_unit(&st->phases) * fmax(st->on ? on : off, 1) < 1)
        st->on = !st->on;
    return st->on ? spec->burst : 0;
}

/* One day: two parabolas, which is a sine within 6 % of its height. */
static double daylight(const struct smoe_scenario_spec *spec, uint64_t slot)
{
    double half = (double)(slot % spec->period) / (double)spec->period * 2;
    double x = half < 1 ? half : half - 1;
    return (half < 1 ? 4 : -4) * x * (1 - x);
}

uint32_t smoe_sim_stream_count(struct smoe_sim_stream *st)
{
    const struct smoe_scenario *s = st->scenario;
    uint64_t slot = st->slot++;
    double mean = s->spec.tokens, n;
    if (s->spec.source == SMOE_SOURCE_CLOSED)
        return (uint32_t)mean;
    if (s->spec.arrivals == SMOE_ARRIVALS_TRACE) {
        n = floor(s->trace[slot % s->trace_len] * (mean / s->trace_mean) + 0.5);
    } else {
        if (s->spec.arrivals == SMOE_ARRIVALS_BURSTY)
            mean *= burst(st);
        if (s->spec.arrivals == SMOE_ARRIVALS_DIURNAL)
            mean *= 1 + s->spec.swing * daylight(&s->spec, slot);
        n = smoe_rng_poisson(&st->rng, mean);
    }
    return (uint32_t)fmin(n, st->tokens_max);
}

/* ---- scores ---- */

static void set_factors(struct smoe_sim_stream *st)
{
    const struct smoe_scenario *s = st->scenario;
    uint64_t experts = s->spec.experts, slot = st->slot - 1;
    uint64_t moved = s->spec.drift ? slot / s->spec.drift : 0;
    double part = s->spec.drift ? (double)(slot % s->spec.drift) / (double)s->spec.drift : 0;
    for (uint64_t e = 0; e < experts; e++) {
        double from = s->rank[(e + moved) % experts], to = s->rank[(e + moved + 1) % experts];
        st->factor[e] = smoe_exp(s->spec.skew * (from + part * (to - from)));
    }
}

void smoe_sim_stream_scores(struct smoe_sim_stream *st, uint32_t n, float *ret)
{
    uint64_t experts = st->scenario->spec.experts;
    if (st->slot == 1 || st->scenario->spec.drift)
        set_factors(st);
    for (uint32_t i = 0; i < n; i++) {
        float *g = ret + (size_t)i * experts;
        const double *noise = NULL;
        float sum = 0;
        if (st->pool)
            noise = st->pool + smoe_rng_below(&st->rng, st->scenario->spec.pool) * experts;
        for (uint64_t e = 0; e < experts; e++)
            g[e] =
                (float)(st->factor[e] * (noise ? noise[e] : smoe_exp(smoe_rng_normal(&st->rng))));
        for (uint64_t e = 0; e < experts; e++)
            sum += g[e];
        for (uint64_t e = 0; e < experts; e++)
            g[e] /= sum;
    }
}
