/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/recorded.h"

#include <stdlib.h>
#include <string.h>

#include "sim/events.h"
#include "sim/replay.h"

#define SLOTS_MAX 100000000

/* ---- the first reading ---- */

static bool of_interest(const struct smoe_recorded *r, const struct smoe_trace_entry *entry)
{
    return entry->type == SMOE_TRACE_ROUTE && !entry->route.given && entry->route.routed > 0 &&
           strcmp(entry->route.layer, r->layer) == 0;
}

/* What all records of a run must agree on is taken from the first. */
static int take_law(struct smoe_recorded *r, const struct smoe_trace_route *t, struct smoe_why *why)
{
    enum smoe_plan plan;
    if (!smoe_plan_parse(t->plan, &plan))
        return smoe_fail(why, SMOE_EUNKNOWN, "ROUTE.plan: %s is not known here", t->plan);
    r->experts = r->scores_kept = t->experts;
    r->top_k = t->top_k;
    r->closed = plan == SMOE_PLAN_WORK;
    r->slot_ns = t->slot_ns;
    r->v = t->v;
    r->mu = t->mu;
    r->gap = t->gap;
    r->first_ns = t->monotonic_ns;
    return 0;
}

static int check_law(const struct smoe_recorded *r, const struct smoe_trace_route *t,
                     struct smoe_why *why)
{
    const char *changed = NULL;
    enum smoe_plan plan;
    if (t->experts != r->experts)
        changed = "experts";
    else if (t->top_k != r->top_k)
        changed = "top_k";
    else if (!smoe_plan_parse(t->plan, &plan) || (plan == SMOE_PLAN_WORK) != r->closed)
        changed = "plan";
    else if (t->slot_ns != r->slot_ns)
        changed = "slot_ns";
    else if (memcmp(&t->v, &r->v, sizeof r->v) != 0)
        changed = "v";
    else if (memcmp(&t->mu, &r->mu, sizeof r->mu) != 0)
        changed = "mu";
    else if (memcmp(&t->gap, &r->gap, sizeof r->gap) != 0)
        changed = "gap";
    else if (t->monotonic_ns < r->first_ns)
        changed = "monotonic_ns";
    if (!changed)
        return 0;
    return smoe_fail(why, SMOE_EFIELD, "ROUTE.%s changes: a run has one", changed);
}

static void count_workers(struct smoe_recorded *r, const struct smoe_trace_route *t)
{
    if (t->nodes > r->workers) {
        r->rate_sum = smoe_sim_grow(r->rate_sum, r->workers, t->nodes, sizeof *r->rate_sum);
        r->seen = smoe_sim_grow(r->seen, r->workers, t->nodes, sizeof *r->seen);
        r->workers = t->nodes;
    }
    for (uint32_t i = 0; i < t->n_workers; i++) {
        struct smoe_power_curve curve;
        struct smoe_plan_worker w = smoe_replay_worker(&t->workers[i], &curve);
        r->rate_sum[t->workers[i].worker] +=
            smoe_freq_ceiling(&w.physics) / w.physics.cycles_per_visit;
        r->seen[t->workers[i].worker]++;
    }
}

static uint64_t slot_of(const struct smoe_recorded *r, const struct smoe_trace_route *t)
{
    return (t->monotonic_ns - r->first_ns) / r->slot_ns;
}

/* Experts that somebody who serves holds: a token must find K. */
static uint32_t on_offer(const struct smoe_trace_route *t)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < t->experts; e++) {
        bool found = false;
        for (uint32_t k = t->replica_first[e]; k < t->replica_first[e + 1] && !found; k++)
            for (uint32_t i = 0; i < t->n_workers && !found; i++)
                found = t->workers[i].worker == t->replica_node[k];
        n += found;
    }
    return n;
}

static int count(struct smoe_recorded *r, const struct smoe_trace_route *t, uint64_t *in_slot,
                 struct smoe_why *why)
{
    uint32_t replicas = t->replica_first[t->experts];
    uint64_t slot = r->closed ? r->slots : slot_of(r, t);
    if (on_offer(t) < t->top_k)
        return smoe_fail(why, SMOE_EFIELD,
                         "ROUTE.replica_node: tokens of %u experts, and %u have one", t->top_k,
                         on_offer(t));
    if (slot >= r->slots)
        *in_slot = 0;
    *in_slot += t->routed;
    if (*in_slot > SMOE_SCENARIO_TOKENS_MAX || slot >= SLOTS_MAX)
        return smoe_fail(why, SMOE_EFIELD, "ROUTE.tokens: more than %d in slot %llu of at most %d",
                         SMOE_SCENARIO_TOKENS_MAX, (unsigned long long)slot, SLOTS_MAX);
    r->slots = slot + 1;
    r->tokens += t->routed;
    r->scores_kept = t->scores_kept < r->scores_kept ? t->scores_kept : r->scores_kept;
    if (*in_slot > r->tape.tokens_max)
        r->tape.tokens_max = (uint32_t)*in_slot;
    if (replicas > r->tape.replicas_max)
        r->tape.replicas_max = replicas;
    count_workers(r, t);
    return 0;
}

static int choose_layer(struct smoe_recorded *r, const struct smoe_trace_route *t, bool asked,
                        struct smoe_why *why)
{
    if (!*r->layer)
        memcpy(r->layer, t->layer, sizeof r->layer);
    if (asked || strcmp(r->layer, t->layer) == 0)
        return 0;
    return smoe_fail(why, SMOE_EFIELD, "ROUTE.layer: %s and %s: choose one with --layer", r->layer,
                     t->layer);
}

static int scan(struct smoe_recorded *r, bool asked, struct smoe_why *why)
{
    struct smoe_trace_entry e;
    uint64_t in_slot = 0;
    bool more = true;
    int rc = 0;
    while (rc == 0 && (rc = smoe_recording_next(&r->file, &e, &more, why)) == 0 && more) {
        if (e.type == SMOE_TRACE_ROUTE)
            rc = choose_layer(r, &e.route, asked, why);
        if (rc == 0 && of_interest(r, &e)) {
            rc = r->slots ? check_law(r, &e.route, why) : take_law(r, &e.route, why);
            rc = rc ? rc : count(r, &e.route, &in_slot, why);
        }
        if (rc)
            rc = smoe_fail_at(why, rc, "%s: record %llu", r->file.path,
                              (unsigned long long)r->file.records);
    }
    if (rc == 0 && !r->slots)
        rc = smoe_fail(why, SMOE_EDATA, "%s: no decisions%s%s to run on", r->file.path,
                       asked ? " of layer " : "", asked ? r->layer : "");
    return rc;
}

/* ---- slot by slot ---- */

/* The next record of interest is in `entry`, or there is none. */
static bool look_ahead(struct smoe_recorded *r)
{
    bool more = true;
    while (!r->ahead && more && r->rc == 0) {
        r->rc = smoe_recording_next(&r->file, &r->entry, &more, &r->why);
        r->ahead = r->rc == 0 && more && of_interest(r, &r->entry);
    }
    return r->ahead;
}

/* Scores of the tokens that were routed, behind those that the slot has already. */
static uint32_t take_tokens(struct smoe_recorded *r, const struct smoe_trace_route *t,
                            uint32_t have)
{
    size_t width = r->experts;
    float *all = smoe_sim_alloc((size_t)t->tokens * width, sizeof *all);
    smoe_replay_scores(t, all);
    for (uint32_t i = 0; i < t->tokens && have < r->tape.tokens_max; i++)
        if (t->expert[(size_t)i * t->top_k] != SMOE_TRACE_WAITS)
            memcpy(r->scores + width * have++, all + width * i, width * sizeof *all);
    free(all);
    return have;
}

/* The fleet is that of the slot's last record. */
static void take_fleet(struct smoe_recorded *r, const struct smoe_trace_route *t)
{
    uint32_t replicas = t->replica_first[t->experts];
    if (replicas > r->tape.replicas_max)
        return; /* not the file that was opened */
    memset(r->known, 0, r->workers * sizeof *r->known);
    for (uint32_t i = 0; i < t->n_workers; i++)
        if (t->workers[i].worker < r->workers)
            r->known[t->workers[i].worker] =
                smoe_replay_worker(&t->workers[i], &r->curves[t->workers[i].worker]);
    memcpy(r->replica_first, t->replica_first, (r->experts + 1u) * sizeof *r->replica_first);
    memcpy(r->replica_node, t->replica_node, replicas * sizeof *r->replica_node);
}

static void next(void *context, struct smoe_slotted_recorded *ret)
{
    struct smoe_recorded *r = context;
    uint32_t tokens = 0;
    uint64_t slot = r->slot++;
    while (look_ahead(r) && (r->closed ? !tokens : slot_of(r, &r->entry.route) <= slot)) {
        if (check_law(r, &r->entry.route, &r->why)) {
            r->rc = SMOE_EDATA;
            break;
        }
        tokens = take_tokens(r, &r->entry.route, tokens);
        take_fleet(r, &r->entry.route);
        r->ahead = false;
    }
    *ret = (struct smoe_slotted_recorded){tokens, r->scores, r->known, r->replica_first,
                                          r->replica_node};
}

void smoe_recorded_rewind(struct smoe_recorded *r)
{
    smoe_recording_rewind(&r->file);
    r->slot = 0;
    r->ahead = false;
}

/* ---- beginning and end ---- */

int smoe_recorded_open(struct smoe_recorded *r, const char *path, const char *layer,
                       struct smoe_why *why)
{
    *r = (struct smoe_recorded){0};
    snprintf(r->layer, sizeof r->layer, "%s", layer);
    int rc = smoe_recording_open(&r->file, path, why);
    if (rc == 0)
        rc = scan(r, *layer != 0, why);
    if (rc) {
        smoe_recorded_close(r);
        return rc;
    }
    r->tape.context = r;
    r->tape.next = next;
    r->scores = smoe_sim_alloc((size_t)r->tape.tokens_max * r->experts, sizeof *r->scores);
    r->known = smoe_sim_alloc(r->workers, sizeof *r->known);
    r->curves = smoe_sim_alloc(r->workers, sizeof *r->curves);
    r->replica_first = smoe_sim_alloc(r->experts + 1u, sizeof *r->replica_first);
    r->replica_node = smoe_sim_alloc(r->tape.replicas_max + 1u, sizeof *r->replica_node);
    smoe_recorded_rewind(r);
    return 0;
}

void smoe_recorded_close(struct smoe_recorded *r)
{
    if (r->file.file)
        smoe_recording_close(&r->file);
    void *arrays[] = {r->rate_sum, r->seen,          r->scores,      r->known,
                      r->curves,   r->replica_first, r->replica_node};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    *r = (struct smoe_recorded){0};
}

int smoe_recorded_scenario(const struct smoe_recorded *r, struct smoe_scenario *ret,
                           struct smoe_why *why)
{
    const char *slash = strrchr(r->file.path, '/');
    double mean = (double)r->tokens / (double)r->slots;
    struct smoe_scenario_spec spec = {
        .workers = r->workers,
        .speeds = "1",
        .freq_hz = 1,
        .cycles = 1,
        .source = r->closed ? SMOE_SOURCE_CLOSED : SMOE_SOURCE_OPEN,
        .tokens = mean < 1 ? 1 : mean,
        .experts = r->experts,
        .copies = 1,
        .top_k = r->top_k,
        .slot_ns = r->slot_ns,
        .v = r->v,
        .mu = r->mu,
        .gap = r->gap,
    };
    snprintf(spec.name, sizeof spec.name, "%.63s", slash ? slash + 1 : r->file.path);
    int rc = smoe_scenario_init(ret, &spec, why);
    for (uint32_t j = 0; j < r->workers && rc == 0; j++)
        ret->freq_max_hz[j] = r->seen[j] ? r->rate_sum[j] / (double)r->seen[j] : 0;
    return rc;
}
