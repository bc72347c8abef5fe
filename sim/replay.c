/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/replay.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "sim/events.h"

#define SERVICE_MAX 1e12 /* visits of one slot: more are beyond what doubles can count on from */

/* ---- memory ---- */

void smoe_replay_release(struct smoe_replay *r)
{
    void *arrays[] = {r->known,    r->curves, r->nodes, r->debts,
                      r->arrivals, r->expert, r->node,  r->scores};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    smoe_route_scratch_free(r->scratch);
    *r = (struct smoe_replay){0};
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void make_room(struct smoe_replay *r, const struct smoe_trace_route *t)
{
    size_t visits = (size_t)t->tokens * t->top_k, scores = (size_t)t->tokens * t->experts;
    if (t->tokens <= r->tokens_max && t->experts <= r->experts_max && t->nodes <= r->nodes_max &&
        visits <= r->visits_max && scores <= r->scores_max)
        return;
    struct smoe_replay grown = {.tokens_max = larger(t->tokens, r->tokens_max),
                                .experts_max = larger(t->experts, r->experts_max),
                                .nodes_max = larger(t->nodes, r->nodes_max),
                                .visits_max = visits > r->visits_max ? visits : r->visits_max,
                                .scores_max = scores > r->scores_max ? scores : r->scores_max};
    smoe_replay_release(r);
    *r = grown;
    r->known = smoe_sim_alloc(r->nodes_max, sizeof *r->known);
    r->curves = smoe_sim_alloc(r->nodes_max, sizeof *r->curves);
    r->nodes = smoe_sim_alloc(r->nodes_max, sizeof *r->nodes);
    r->debts = smoe_sim_alloc(r->nodes_max, sizeof *r->debts);
    r->arrivals = smoe_sim_alloc(r->nodes_max, sizeof *r->arrivals);
    r->expert = smoe_sim_alloc(r->visits_max, sizeof *r->expert);
    r->node = smoe_sim_alloc(r->visits_max, sizeof *r->node);
    r->scores = smoe_sim_alloc(r->scores_max, sizeof *r->scores);
    smoe_assert(smoe_route_scratch_new(r->tokens_max, r->experts_max, r->nodes_max, &r->scratch) ==
                0);
}

/* ---- what was known ---- */

/* The hull of a hull is the same one: no point of it is above a chord. */
static bool has_curve(const struct smoe_trace_worker *w, struct smoe_power_curve *curve)
{
    if (!curve || !w->curve_points ||
        !smoe_power_hull(w->curve_watts[0], w->curve_hz + 1, w->curve_watts + 1,
                         w->curve_points - 1, curve))
        return false;
    curve->stepless = w->stepless;
    return true;
}

struct smoe_plan_worker smoe_replay_worker(const struct smoe_trace_worker *w,
                                           struct smoe_power_curve *curve)
{
    return (struct smoe_plan_worker){
        .serves = true,
        .physics = {.cycles_per_visit = w->cycles,
                    .freq_max_hz = w->freq_max_hz,
                    .kappa = w->kappa,
                    .power = has_curve(w, curve) ? curve : NULL,
                    .energy_max_w = w->cap_w,
                    .energy_mean_w = w->budget_w},
        .backlog = w->backlog,
        .executable = w->executable,
        .debt_j = w->debt_j,
        .carry = w->carry,
        .arrivals_max = w->arrivals_max,
        .arrivals = w->arrivals,
        .units = w->units,
        .before_khz = w->before_khz,
        .owed = w->owed,
    };
}

void smoe_replay_scores(const struct smoe_trace_route *t, float *ret)
{
    uint32_t kept = t->scores_kept;
    if (!t->score_expert) {
        memcpy(ret, t->scores, (size_t)t->tokens * t->experts * sizeof *ret);
        return;
    }
    for (uint32_t i = 0; i < t->tokens; i++, ret += t->experts) {
        const float *g = t->scores + (size_t)i * kept;
        float least = g[kept - 1], below = least > 0 ? 0 : 2 * least - 1;
        for (uint32_t e = 0; e < t->experts; e++)
            ret[e] = below;
        for (uint32_t m = 0; m < kept; m++)
            ret[t->score_expert[(size_t)i * kept + m]] = g[m];
    }
}

/* Is every expert that the token visited among its recorded scores? */
static bool choices_known(const struct smoe_trace_route *t, uint32_t token)
{
    const uint16_t *part = t->score_expert + (size_t)token * t->scores_kept;
    for (uint32_t k = 0; k < t->top_k; k++) {
        uint16_t e = t->expert[(size_t)token * t->top_k + k];
        bool known = e == SMOE_TRACE_WAITS;
        for (uint32_t m = 0; m < t->scores_kept && !known; m++)
            known = part[m] == e;
        if (!known)
            return false;
    }
    return true;
}

/* The policies that place a token by nothing of its own. */
static bool looks_at_scores(enum smoe_policy p)
{
    return p != SMOE_POLICY_RANDOM && p != SMOE_POLICY_QUEUE && p != SMOE_POLICY_ENERGY &&
           p != SMOE_POLICY_QUEUE_JSQ;
}

static int check_scores(const struct smoe_trace_route *t, enum smoe_policy policy,
                        struct smoe_why *why)
{
    if (!t->score_expert || !looks_at_scores(policy))
        return 0;
    if (policy != SMOE_POLICY_TOPK)
        return smoe_fail(why, SMOE_EFIELD,
                         "ROUTE.scores: only the %u largest of %u a token were recorded "
                         "(trace.scores_top), and %s looks at all",
                         t->scores_kept, t->experts, t->policy);
    for (uint32_t i = 0; i < t->tokens; i++)
        if (!choices_known(t, i))
            return smoe_fail(why, SMOE_EFIELD,
                             "ROUTE.scores: only the %u largest of %u a token were recorded "
                             "(trace.scores_top), and token %u was sent beyond them",
                             t->scores_kept, t->experts, i);
    return 0;
}

static int read_law(const struct smoe_trace_route *t, struct smoe_plan_law *ret,
                    struct smoe_why *why)
{
    *ret = (struct smoe_plan_law){.slot_ns = t->slot_ns, .v = t->v, .mu = t->mu};
    if (!smoe_policy_parse(t->policy, &ret->policy))
        return smoe_fail(why, SMOE_EUNKNOWN, "ROUTE.policy: %s is not known here", t->policy);
    if (!smoe_plan_parse(t->plan, &ret->plan))
        return smoe_fail(why, SMOE_EUNKNOWN, "ROUTE.plan: %s is not known here", t->plan);
    if (smoe_policy_draws(ret->policy) && !t->draws && !t->given)
        return smoe_fail(why, SMOE_EFIELD, "ROUTE.rng: missing, and %s draws from it", t->policy);
    if (t->n_prices && t->n_prices != (ret->policy == SMOE_POLICY_BASE ? t->experts : t->nodes))
        return smoe_fail(why, SMOE_EFIELD, "ROUTE.prices: %u are not of this fleet", t->n_prices);
    return 0;
}

/* tau and the solver's nodes. */
static int plan(struct smoe_replay *r, const struct smoe_trace_route *t,
                const struct smoe_plan_law *law, struct smoe_why *why)
{
    memset(r->known, 0, t->nodes * sizeof *r->known);
    for (uint32_t i = 0; i < t->n_workers; i++)
        r->known[t->workers[i].worker] = smoe_replay_worker(&t->workers[i], &r->curves[i]);
    double tau_s = smoe_plan_horizon(law, r->known, t->nodes, (double)t->tokens * t->top_k);
    if (memcmp(&tau_s, &t->tau_s, sizeof tau_s) != 0)
        return smoe_fail(why, SMOE_EDATA, "tau is %.17g s, recorded %.17g s", tau_s, t->tau_s);
    smoe_plan_nodes(law, tau_s, r->known, t->nodes, r->nodes, r->debts);
    for (uint32_t j = 0; j < t->nodes; j++)
        if (!(r->nodes[j].service_max <= SERVICE_MAX) || !isfinite(r->nodes[j].energy_price))
            return smoe_fail(why, SMOE_EFIELD, "ROUTE.workers: %u serves %g visits at %g each", j,
                             r->nodes[j].service_max, r->nodes[j].energy_price);
    return 0;
}

/* ---- what was decided ---- */

static int compare_token(const struct smoe_replay *r, const struct smoe_trace_route *t,
                         uint32_t token, struct smoe_why *why)
{
    for (size_t i = (size_t)token * t->top_k; i < (size_t)(token + 1) * t->top_k; i++) {
        bool waits = t->expert[i] == SMOE_TRACE_WAITS;
        if (r->expert[i] == t->expert[i] && (waits || r->node[i] == t->node[i]))
            continue;
        if (waits || r->expert[i] == SMOE_TRACE_WAITS)
            return smoe_fail(why, SMOE_EDATA, "token %u is %s, recorded as %s", token,
                             waits ? "routed" : "not routed", waits ? "waiting" : "routed");
        return smoe_fail(why, SMOE_EDATA, "token %u visits %u on worker %u, recorded %u on %u",
                         token, r->expert[i], r->node[i], t->expert[i], t->node[i]);
    }
    return 0;
}

static int compare(const struct smoe_replay *r, const struct smoe_trace_route *t,
                   enum smoe_policy policy, const struct smoe_route_answer *answer,
                   struct smoe_why *why)
{
    uint32_t tokens = t->given ? t->routed : t->tokens;
    if (answer->n_routed != t->routed)
        return smoe_fail(why, SMOE_EDATA, "%u tokens are routed, recorded %u", answer->n_routed,
                         t->routed);
    for (uint32_t i = 0; i < tokens; i++)
        if (compare_token(r, t, i, why))
            return SMOE_EDATA;
    if (t->score_expert && !looks_at_scores(policy))
        return 0; /* what it was worth is not known without the scores; what was done is the same */
    if (memcmp(&answer->primal, &t->primal, sizeof t->primal) != 0)
        return smoe_fail(why, SMOE_EDATA, "the objective is %.17g, recorded %.17g", answer->primal,
                         t->primal);
    if (memcmp(&answer->bound, &t->bound, sizeof t->bound) != 0 || answer->exact != t->exact)
        return smoe_fail(why, SMOE_EDATA, "the bound is %.17g, recorded %.17g", answer->bound,
                         t->bound);
    return 0;
}

static void solve(struct smoe_replay *r, const struct smoe_trace_route *t,
                  const struct smoe_plan_law *law, struct smoe_route_answer *answer)
{
    struct smoe_route_problem problem = {.n_tokens = t->tokens,
                                         .n_experts = t->experts,
                                         .n_nodes = t->nodes,
                                         .top_k = t->top_k,
                                         .scores = r->scores,
                                         .score_weight = law->v * law->mu,
                                         .replica_first = t->replica_first,
                                         .replica_node = t->replica_node,
                                         .nodes = r->nodes,
                                         .mode = SMOE_COST_EXACT};
    struct smoe_rng rng;
    memcpy(rng.s, t->rng, sizeof rng.s);
    smoe_replay_scores(t, r->scores);
    smoe_route_scratch_limit(r->scratch, t->work_max, t->gap);
    smoe_policy_set_prices(law->policy, r->scratch, t->prices, t->n_prices);
    smoe_policy_route(law->policy, &problem, r->debts, &rng, r->scratch, answer);
}

static int replay_route(struct smoe_replay *r, const struct smoe_trace_route *t,
                        struct smoe_why *why)
{
    struct smoe_plan_law law;
    int rc = read_law(t, &law, why);
    if (rc == 0)
        rc = check_scores(t, law.policy, why);
    if (rc)
        return rc;
    make_room(r, t);
    if ((rc = plan(r, t, &law, why)))
        return rc;
    struct smoe_route_answer answer = {
        .expert = r->expert, .node = r->node, .arrivals = r->arrivals};
    if (t->given) {
        memcpy(r->expert, t->expert, (size_t)t->tokens * t->top_k * sizeof *r->expert);
        answer.n_routed = smoe_plan_given(r->nodes, t->replica_first, t->replica_node, t->tokens,
                                          t->top_k, r->expert, r->node);
    } else {
        solve(r, t, &law, &answer);
    }
    return compare(r, t, law.policy, &answer, why);
}

static int replay_frequency(const struct smoe_trace_frequency *t, struct smoe_why *why)
{
    struct smoe_plan_law law = {.v = t->v};
    if (!smoe_policy_parse(t->policy, &law.policy))
        return smoe_fail(why, SMOE_EUNKNOWN, "FREQUENCY.policy: %s is not known here", t->policy);
    for (uint32_t i = 0; i < t->n_workers; i++) {
        const struct smoe_trace_worker *w = &t->workers[i];
        struct smoe_power_curve curve;
        struct smoe_plan_worker known = smoe_replay_worker(w, &curve);
        double unused;
        double visits = t->tau_s * smoe_freq_ceiling(&known.physics) / w->cycles;
        double price = smoe_freq_energy_price(&known.physics, w->debt_j, t->tau_s);
        if (!(visits <= SERVICE_MAX) || !isfinite(price))
            return smoe_fail(why, SMOE_EFIELD, "FREQUENCY.workers: %u serves %g visits at %g each",
                             w->worker, visits, price);
        uint64_t khz = smoe_plan_frequency(&law, t->tau_s, &known, &unused);
        if (khz != w->freq_khz)
            return smoe_fail(why, SMOE_EDATA,
                             "worker %u runs at %" PRIu64 " kHz, recorded %" PRIu64, w->worker, khz,
                             w->freq_khz);
    }
    return 0;
}

int smoe_replay_entry(struct smoe_replay *r, const struct smoe_trace_entry *entry,
                      struct smoe_why *why)
{
    if (entry->type == SMOE_TRACE_ROUTE)
        return replay_route(r, &entry->route, why);
    return entry->type == SMOE_TRACE_FREQUENCY ? replay_frequency(&entry->frequency, why) : 0;
}
