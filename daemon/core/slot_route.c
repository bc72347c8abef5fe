/* SPDX-License-Identifier: Apache-2.0
 *
 * Routing of one slot: from waiting tokens to parcels.
 *
 *  1. pending batches are taken in groups that one solve can route together (same layer, K, kind, and
 *     whether a frozen router scored them), oldest first, up to slot_tokens_max tokens a group;
 *  2. the group's problem is set up in visits of its layer: Q and Dhat of every worker for the planned
 *     length tau (MODEL.md, "Slot length"), caps from the workers' inboxes, weights from the scores;
 *  3. the policy solves it; chosen visits become parcels, tokens without K experts wait.
 *
 * Replays come with their experts; only the replica is to be chosen. Their tokens go in order up to
 * the first whose experts have no host or room now. A batch that finds no room though nothing is at
 * work is refused: nobody waits for ever.
 */
#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "daemon/core/place_popularity.h"
#include "daemon/core/sharded.h"
#include "daemon/core/slot_state.h"

/* A solve may take about half a slot, a unit of its work 1 to 3 ns; but a few sweeps over the scores
 * always, without which the answer would be worse than a greedy one. */
enum { WORK_UNITS_PER_SLOT_NS_SHIFT = 2, WORK_PASSES_MIN = 24 };

/* ---- the problem ---- */

/* Visits a second at which it neither exceeds its limits nor runs into debt, in parcels of many rows. */
static double fair_rate(struct smoe_worker *w, const struct smoe_layer *layer, bool training)
{
    w->parcel_rows = 0;
    struct smoe_freq_node node = smoe_worker_freq_node(w, layer->forward_flops, training);
    return fmin(smoe_freq_ceiling(&node) / node.cycles_per_visit,
                smoe_freq_sustainable_rate(&node));
}

/* Rows of a parcel if all take their share by rates, at random over the group's batches and their own experts:
 * `visits` in `parcels`, of which some stay empty. What they really got last is not looked at: who gets
 * little has small parcels, which cost more a visit, and would get less still. */
static double fair_rows(double visits, double parcels)
{
    double each = visits / parcels;
    return each > 0 ? each / (1 - smoe_exp(-each)) : 1;
}

static void plan_parcels(struct smoe_core *c, const struct smoe_slot_group *g)
{
    const struct smoe_layer *layer = &c->layers[g->layer];
    size_t mark = c->lists_used; /* scratch: given back below */
    double *rates = smoe_core_list(c, c->fleet.n_used * sizeof *rates), sum = 0;
    uint32_t *hosted = smoe_core_list(c, c->fleet.n_used * sizeof *hosted);
    memset(hosted, 0, c->fleet.n_used * sizeof *hosted);
    for (uint32_t r = 0; r < c->replica_first[layer->shape.experts]; r++)
        hosted[c->replica_node[r]]++;
    for (uint32_t i = 0; i < c->fleet.n_used; i++)
        if (hosted[i])
            sum += rates[i] = fair_rate(&c->fleet.workers[i], layer, g->training);
    double visits = (double)g->n_tokens * g->top_k;
    for (uint32_t i = 0; i < c->fleet.n_used && sum > 0; i++)
        if (hosted[i])
            c->fleet.workers[i].parcel_rows =
                fair_rows(visits * rates[i] / sum, (double)hosted[i] * g->n_batches);
    c->lists_used = mark;
}

/* What is known of the workers, in visits of the group's layer; tau and the solver's nodes from it. Returns
 * the record of it, NULL if none is kept. */
static struct smoe_trace_route *plan(struct smoe_core *c, const struct smoe_slot_group *g,
                                     const float *scores)
{
    const struct smoe_layer *layer = &c->layers[g->layer];
    struct smoe_plan_law law = smoe_slot_law(c);
    law.policy = g->policy;
    uint32_t n = c->fleet.n_used;
    plan_parcels(c, g);
    for (uint32_t i = 0; i < n; i++) {
        const struct smoe_worker *w = &c->fleet.workers[i];
        c->known[i] = (struct smoe_plan_worker){0};
        if (!smoe_worker_live(w) || !(w->hosted_layers >> g->layer & 1))
            continue;
        c->known[i] = smoe_slot_know(c, w, layer->forward_flops, g->training);
        smoe_slot_know_queue(c, w, layer->forward_flops, g->training, &c->known[i]);
        c->known[i].arrivals_max = smoe_slot_room(c, g->layer, i);
    }
    c->tau_s = smoe_plan_horizon(&law, c->known, n, (double)g->n_tokens * g->top_k);
    struct smoe_trace_route *trace = smoe_tracing_asked(c, g, scores);
    smoe_plan_nodes(&law, c->tau_s, c->known, n, c->nodes, c->debts);
    for (uint32_t i = 0; i < n; i++)
        if (c->known[i].serves)
            c->fleet.workers[i].service_carry = c->known[i].carry;
    return trace;
}

/* The group's scores as one matrix: in place where they lie together, else gathered. */
static const float *group_scores(struct smoe_core *c, const struct smoe_slot_group *g)
{
    uint32_t width = c->layers[g->layer].shape.experts;
    const struct smoe_batch *b = &c->batches[g->batches[0]];
    const uint32_t *tokens = b->waiting + b->waiting_first;
    if (g->n_batches == 1 && tokens[g->n_tokens - 1] - tokens[0] == g->n_tokens - 1)
        return b->scores + (size_t)tokens[0] * width;
    float *to = c->gather;
    uint32_t left = g->n_tokens;
    for (uint32_t i = 0; i < g->n_batches; i++) {
        b = &c->batches[g->batches[i]];
        for (uint32_t t = 0; t < b->n_waiting && left; t++, left--, to += width)
            memcpy(to, b->scores + (size_t)b->waiting[b->waiting_first + t] * width,
                   width * sizeof *to);
    }
    return c->gather;
}

/* ---- parcels ---- */

/* One choice of the solve: visit of the batch, by expert and node. */
struct choice {
    uint32_t visit, node;
    uint16_t expert;
};

/* Visits of the batch's next `n` waiting tokens, in rising order; unrouted tokens stay waiting. */
static uint32_t collect(struct smoe_batch *b, uint32_t n, const uint16_t *experts,
                        const uint32_t *nodes, struct choice *ret)
{
    uint32_t made = 0, kept = 0;
    uint32_t *waiting = b->waiting + b->waiting_first;
    for (uint32_t t = 0; t < n; t++) {
        if (experts[(size_t)t * b->top_k] == SMOE_ROUTE_NONE) {
            waiting[kept++] = waiting[t];
            continue;
        }
        for (uint32_t k = 0; k < b->top_k; k++)
            ret[made++] =
                (struct choice){waiting[t] * b->top_k + k, nodes[(size_t)t * b->top_k + k],
                                experts[(size_t)t * b->top_k + k]};
    }
    /* The tokens that stay close up to those that were not looked at. */
    memmove(waiting + (n - kept), waiting, kept * sizeof *waiting);
    b->waiting_first += n - kept;
    b->n_waiting -= n - kept;
    return made;
}

/* Counting sort by expert, stable; `ret_first[e]` is where expert e begins. */
static void sort_by_expert(const struct choice *in, uint32_t n, uint32_t experts,
                           struct choice *out, uint32_t *ret_first)
{
    memset(ret_first, 0, (experts + 1) * sizeof *ret_first);
    for (uint32_t i = 0; i < n; i++)
        ret_first[in[i].expert + 1]++;
    for (uint32_t e = 0; e < experts; e++)
        ret_first[e + 1] += ret_first[e];
    for (uint32_t i = 0; i < n; i++)
        out[ret_first[in[i].expert]++] = in[i];
    memmove(ret_first + 1, ret_first, experts * sizeof *ret_first); /* undo the running ends */
    ret_first[0] = 0;
}

/* The visits of one expert at one node become parcels. */
static void make_parcels(struct smoe_core *c, uint32_t batch, const struct choice *of_expert,
                         uint32_t n, uint32_t node)
{
    struct smoe_batch *b = &c->batches[batch];
    const struct smoe_layer *layer = &c->layers[b->layer];
    uint32_t first = b->visits_used, rows_max = smoe_parcel_rows_max(c, layer);
    for (uint32_t i = 0; i < n; i++)
        if (of_expert[i].node == node)
            b->visits[b->visits_used++] = of_expert[i].visit;
    c->new_bytes[node] += (b->visits_used - first) * smoe_row_bytes(layer);
    smoe_slot_consider(c, node);
    while (first < b->visits_used) {
        uint32_t rows = b->visits_used - first;
        if (rows > rows_max)
            rows = rows_max;
        uint32_t p = smoe_parcel_new(c, batch, node, of_expert[0].expert, first, rows);
        smoe_parcel_move(c, p, SMOE_VISIT_ROUTED);
        smoe_list_push_back(&c->worker_new[node], &c->parcels[p].new_link);
        first += rows;
    }
}

/* Turns the solve's answer for the next n waiting tokens of a batch into parcels. */
static void dispatch_batch(struct smoe_core *c, uint32_t batch, uint32_t n, const uint16_t *experts,
                           const uint32_t *nodes)
{
    struct smoe_batch *b = &c->batches[batch];
    uint32_t width = c->layers[b->layer].shape.experts;
    size_t mark = c->lists_used; /* scratch: given back below */
    struct choice *chosen = smoe_core_list(c, (size_t)n * b->top_k * sizeof *chosen);
    struct choice *sorted = smoe_core_list(c, (size_t)n * b->top_k * sizeof *sorted);
    uint32_t *first = smoe_core_list(c, (width + 1) * sizeof *first);
    uint32_t made = collect(b, n, experts, nodes, chosen);
    sort_by_expert(chosen, made, width, sorted, first);
    for (uint32_t e = 0; e < width; e++) {
        uint32_t count = first[e + 1] - first[e];
        for (uint32_t r = c->replica_first[e]; count && r < c->replica_first[e + 1]; r++)
            make_parcels(c, batch, sorted + first[e], count, c->replica_node[r]);
    }
    c->lists_used = mark;
    if (!b->n_waiting)
        smoe_list_remove(&b->pending_link);
    smoe_batch_keep_promise(c, b);
}

/* ---- groups ---- */

/* Parcels a group may make at most: one per expert, replica and batch, and one per full parcel. */
static uint64_t parcels_at_most(const struct smoe_core *c, const struct smoe_slot_group *g)
{
    uint64_t visits = (uint64_t)g->n_tokens * g->top_k;
    uint64_t places = c->replica_first[c->layers[g->layer].shape.experts];
    uint64_t rows_max = smoe_parcel_rows_max(c, &c->layers[g->layer]);
    uint64_t by_place = places * g->n_batches + visits / rows_max;
    return by_place < visits ? by_place : visits;
}

/* Cuts the group down to what the free parcels surely suffice for: to fewer batches, and where even the
 * first alone might need more than there are, it waits while workers are at work, since parcels then
 * come back; if none is, the free ones take as many tokens as can have one for each visit. */
static void fit_parcels(const struct smoe_core *c, struct smoe_slot_group *g)
{
    const uint64_t *now = c->total.now;
    uint32_t whole = 0; /* tokens of the batches, each in full: only the last may be cut */
    for (uint32_t i = 0; i < g->n_batches; i++)
        whole += c->batches[g->batches[i]].n_waiting;
    while (g->n_batches > 1 && parcels_at_most(c, g) > c->n_parcel_free) {
        whole -= c->batches[g->batches[--g->n_batches]].n_waiting;
        g->n_tokens = whole;
    }
    if (parcels_at_most(c, g) <= c->n_parcel_free)
        return;
    bool moving = now[SMOE_VISIT_ROUTED] || now[SMOE_VISIT_GRADIENT_QUEUED];
    g->n_tokens = moving ? 0 : c->n_parcel_free / g->top_k;
}

/* Sums up what the routing was worth, for status and bench. */
static void account_quality(struct smoe_core *c, const struct smoe_slot_group *g,
                            const float *scores)
{
    uint32_t width = c->layers[g->layer].shape.experts;
    for (uint32_t t = 0; t < g->n_tokens; t++) {
        const uint16_t *chosen = c->chosen_expert + (size_t)t * g->top_k;
        const float *row = scores + (size_t)t * width;
        if (chosen[0] == SMOE_ROUTE_NONE)
            continue;
        if (c->layers[g->layer].sharded && g->training)
            smoe_place_count(row, width, g->top_k, c->layers[g->layer].sharded->popularity);
        c->totals.tokens_routed++;
        for (uint32_t k = 0; k < g->top_k; k++) {
            uint32_t better = 0;
            for (uint32_t e = 0; e < width && better < g->top_k; e++)
                better += row[e] > row[chosen[k]] || (row[e] == row[chosen[k]] && e < chosen[k]);
            c->totals.gate_mass += (double)row[chosen[k]];
            c->totals.choices_in_topk += better < g->top_k;
            c->totals.choices++;
        }
    }
}

/* What the solve may look at. Counted, not timed: a recorded run repeats. */
static uint64_t work_limit(const struct smoe_core *c, const struct smoe_route_problem *problem)
{
    uint64_t by_slot = c->options.settings.slot_ns >> WORK_UNITS_PER_SLOT_NS_SHIFT;
    uint64_t by_size = (uint64_t)WORK_PASSES_MIN * problem->n_tokens * problem->n_experts;
    return by_slot > by_size ? by_slot : by_size;
}

/* Of solves that come with a proof: was it complete, and if not what is left open? */
static void account_proof(struct smoe_core *c, const struct smoe_route_problem *problem,
                          const struct smoe_route_answer *answer)
{
    if (!answer->n_routed || isinf(answer->bound))
        return;
    c->totals.solves++;
    double scale = (double)answer->n_routed * problem->top_k *
                   (problem->score_weight > 0 ? problem->score_weight : c->options.settings.v);
    double gap = (answer->primal - answer->bound) / scale;
    c->totals.solves_cut_short += !answer->exact && !(gap <= c->options.settings.gap);
    if (gap > c->totals.gap_max)
        c->totals.gap_max = gap;
}

static void route_group(struct smoe_core *c, const struct smoe_slot_group *g)
{
    const struct smoe_layer *layer = &c->layers[g->layer];
    const float *scores = group_scores(c, g);
    struct smoe_trace_route *trace = plan(c, g, scores);
    struct smoe_route_problem problem = {
        .n_tokens = g->n_tokens,
        .n_experts = layer->shape.experts,
        .n_nodes = c->fleet.n_used,
        .top_k = g->top_k,
        .scores = scores,
        .score_weight = c->options.settings.v * c->options.settings.mu,
        .replica_first = c->replica_first,
        .replica_node = c->replica_node,
        .nodes = c->nodes,
        .mode = SMOE_COST_EXACT,
    };
    struct smoe_route_answer answer = {
        .expert = c->chosen_expert, .node = c->chosen_node, .arrivals = c->arrivals};
    uint64_t work_max = work_limit(c, &problem);
    smoe_route_scratch_limit(c->scratch, work_max, c->options.settings.gap);
    smoe_policy_route(g->policy, &problem, c->debts, &c->rng, c->scratch, &answer);
    smoe_tracing_decided(c, trace, work_max, &answer);
    account_proof(c, &problem, &answer);
    account_quality(c, g, scores);
    c->layers[g->layer].left_over = answer.n_routed < g->n_tokens;
    uint32_t done = 0;
    for (uint32_t i = 0; i < g->n_batches; i++) {
        uint32_t left = g->n_tokens - done;
        uint32_t waiting = c->batches[g->batches[i]].n_waiting;
        uint32_t n = waiting < left ? waiting : left;
        dispatch_batch(c, g->batches[i], n, c->chosen_expert + (size_t)done * g->top_k,
                       c->chosen_node + (size_t)done * g->top_k);
        done += n;
    }
}

/* A replay: experts are given, each visit goes to a replica that has room; all of it or none. */
static void route_replay(struct smoe_core *c, uint32_t batch)
{
    struct smoe_batch *b = &c->batches[batch];
    uint32_t n = b->n_waiting, visits = n * b->top_k;
    if (visits > c->options.limits.slot_tokens_max * SMOE_TOP_K_MAX || visits > c->n_parcel_free)
        n = c->n_parcel_free / b->top_k < c->options.limits.slot_tokens_max
                ? c->n_parcel_free / b->top_k
                : c->options.limits.slot_tokens_max;
    if (!n)
        return;
    for (uint32_t i = 0; i < n * b->top_k; i++)
        c->chosen_expert[i] =
            b->experts[(size_t)b->waiting[b->waiting_first + i / b->top_k] * b->top_k +
                       i % b->top_k];
    struct smoe_slot_group g = {.layer = b->layer,
                                .top_k = b->top_k,
                                .training = b->training,
                                .policy = c->options.settings.policy,
                                .n_tokens = n,
                                .n_batches = 1,
                                .batches = &batch};
    struct smoe_trace_route *trace = plan(c, &g, NULL);
    n = smoe_plan_given(c->nodes, c->replica_first, c->replica_node, n, b->top_k, c->chosen_expert,
                        c->chosen_node);
    smoe_tracing_decided(c, trace, 0, &(struct smoe_route_answer){.n_routed = n});
    c->layers[b->layer].left_over = n < g.n_tokens;
    if (n)
        dispatch_batch(c, batch, n, c->chosen_expert, c->chosen_node);
    c->totals.tokens_routed += n;
}

/* Collects what can be routed together with batch `first`, within the limits of one solve. */
static struct smoe_slot_group collect_group(struct smoe_core *c, const struct smoe_batch *first)
{
    uint32_t width = c->layers[first->layer].shape.experts;
    const struct smoe_core_settings *s = &c->options.settings;
    struct smoe_slot_group g = {
        .layer = first->layer,
        .top_k = first->top_k,
        .training = first->training,
        .policy = first->frozen ? smoe_policy_of_frozen(s->policy, s->consistency) : s->policy};
    uint64_t most = c->gather_floats / width;
    if (most > c->options.limits.slot_tokens_max)
        most = c->options.limits.slot_tokens_max;
    uint32_t *batches = c->group_batches;
    g.batches = batches;
    for (const struct smoe_list *it = &first->pending_link; it != &c->pending; it = it->next) {
        struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, pending_link);
        if (b->layer != g.layer || b->top_k != g.top_k || b->training != g.training || b->routed ||
            b->frozen != first->frozen || !smoe_batch_routable(c, b) || g.n_tokens == most ||
            smoe_sharded_is_before(c, b) != smoe_sharded_is_before(c, first))
            continue;
        uint64_t room = most - g.n_tokens;
        batches[g.n_batches++] = (uint32_t)(b - c->batches);
        g.n_tokens += b->n_waiting < room ? b->n_waiting : (uint32_t)room;
        b->slot_seen = c->totals.slots;
    }
    return g;
}

/* ---- what can never be routed ---- */

/* Ends a batch that would wait for ever: what is left of it finds no parcels, or one of its tokens is
 * larger than a worker's inbox. Several slots may have cut it into more parcels than were promised. */
static void refuse_stuck(struct smoe_core *c, uint32_t batch)
{
    const struct smoe_batch *b = &c->batches[batch];
    struct smoe_trainer *t = &c->trainers[b->trainer];
    struct smoe_why why;
    if (c->n_parcel_free < b->top_k)
        smoe_fail(&why, SMOE_ELIMIT,
                  "batch %llu: %u of its tokens wait and all %u parcels are taken: submit smaller "
                  "batches or step more often",
                  (unsigned long long)b->id, b->n_waiting, c->options.limits.parcels_max);
    else
        smoe_fail(&why, SMOE_ELIMIT,
                  "batch %llu: the visits of one token do not fit the inbox of a worker",
                  (unsigned long long)b->id);
    smoe_core_refuse(c, t->session, SMOE_ELIMIT, why.text, false, b->id, 0);
    smoe_trainer_owe(c, t);
    smoe_batch_forget(c, batch);
    c->solve_useful = true; /* others may have waited for its parcels */
}

/* Will parcels or room come back without anybody's doing? */
static bool will_move(const struct smoe_core *c)
{
    const uint64_t *now = c->total.now;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (c->trainers[t].step.phase != SMOE_STEP_NONE)
            return true;
    return now[SMOE_VISIT_ROUTED] || now[SMOE_VISIT_GRADIENT_QUEUED] || c->n_parcel_zombie;
}

/* One a slot: what it held may do for the next. */
static void end_stuck(struct smoe_core *c)
{
    if (will_move(c))
        return;
    smoe_list_for_each (it, &c->pending) {
        struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, pending_link);
        if (!smoe_batch_routable(c, b) ||
            (c->n_parcel_free >= b->top_k &&
             (smoe_sharded_is_before(c, b) || !smoe_slot_hosts_open(c, b->layer))))
            continue;
        refuse_stuck(c, (uint32_t)(b - c->batches));
        return;
    }
}

static void route_pending(struct smoe_core *c)
{
    /* The list changes under us: batches leave it when routed, so start over until all were seen. */
    for (bool found = true; found;) {
        found = false;
        smoe_list_for_each (it, &c->pending) {
            struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, pending_link);
            if (b->slot_seen == c->totals.slots || !smoe_batch_routable(c, b))
                continue;
            found = true;
            smoe_slot_fill_replicas(c, b);
            if (b->routed) {
                b->slot_seen = c->totals.slots;
                route_replay(c, (uint32_t)(b - c->batches));
                break;
            }
            struct smoe_slot_group g = collect_group(c, b);
            fit_parcels(c, &g);
            if (g.n_tokens)
                route_group(c, &g);
            break;
        }
    }
}

void smoe_slot_route(struct smoe_core *c)
{
    route_pending(c);
    end_stuck(c);
}
