/* SPDX-License-Identifier: Apache-2.0
 *
 * From records to structs. Whatever the bytes are, what comes out is a problem that the solver takes:
 * counts agree, numbers are finite where they must be, indices lie in their arrays, and magnitudes leave
 * room for the arithmetic that is done with them (NUMBER_MAX is far above anything physical).
 */
#include <math.h>
#include <string.h>

#include "proto/trace_fields.h"
#include "proto/wire_fields.h"

#define NUMBER_MAX  1e15
#define FREQ_MAX_HZ 1e15 /* of all lanes */
#define HZ_APART    1e-3 /* points of a curve */
#define VISITS_MAX  1e9  /* of backlogs: the solver counts them one by one */

typedef const Stablemoe__Trace__V1__Workers Workers;
typedef const Stablemoe__Trace__V1__Route Route;

/* ---- checks ---- */

/* n must be what `field` has. */
static int check_count(struct smoe_reader *r, const char *field, size_t have, size_t n)
{
    if (have == n)
        return 0;
    return smoe_fail(r->why, SMOE_EFIELD, "%s.%s: %zu numbers, expected %zu", r->message, field,
                     have, n);
}

/* As smoe_check_double, but +inf is a value. */
static int check_watts(struct smoe_reader *r, const char *field, double value)
{
    return isinf(value) && value > 0 ? 0 : smoe_check_double(r, field, value, 1e-12, NUMBER_MAX);
}

static void *take(struct smoe_reader *r, size_t n, size_t size, int *ret_rc)
{
    void *p = n > r->arena->cap / size ? NULL : smoe_arena_alloc(r->arena, n * size);
    if (!p)
        *ret_rc = smoe_fail(r->why, SMOE_EMALFORMED, "%s: too large", r->message);
    return p;
}

/* ---- workers ---- */

static int check_worker(struct smoe_reader *r, const struct smoe_trace_worker *w)
{
    int rc = smoe_check_double(r, "workers.backlog", w->backlog, 0, VISITS_MAX);
    rc = rc ? rc : smoe_check_double(r, "workers.executable", w->executable, 0, w->backlog);
    rc = rc ? rc : smoe_check_double(r, "workers.debt", w->debt_j, 0, NUMBER_MAX);
    rc = rc ? rc : smoe_check_double(r, "workers.carry", w->carry, -1, 1);
    rc = rc ? rc : smoe_check_double(r, "workers.cycles", w->cycles, 1e-6, NUMBER_MAX);
    rc = rc ? rc : smoe_check_double(r, "workers.freq_max", w->freq_max_hz, 1e-6, FREQ_MAX_HZ);
    rc = rc ? rc : smoe_check_double(r, "workers.kappa", w->kappa, 0, 1);
    rc = rc ? rc : smoe_check_range(r, "workers.arrivals", w->arrivals, 0, (uint64_t)VISITS_MAX);
    rc = rc ? rc : smoe_check_double(r, "workers.owed", w->owed, -NUMBER_MAX, NUMBER_MAX);
    rc = rc ? rc : smoe_check_double(r, "workers.units", w->units, 1e-3, NUMBER_MAX);
    rc = rc ? rc : check_watts(r, "workers.cap", w->cap_w);
    return rc ? rc : check_watts(r, "workers.budget", w->budget_w);
}

/* Rising from 0, by so much that slopes are numbers. */
static int check_curve(struct smoe_reader *r, const struct smoe_trace_worker *w)
{
    int rc = 0;
    for (uint32_t k = 0; k < w->curve_points && rc == 0; k++) {
        double below = k ? w->curve_hz[k - 1] + HZ_APART : 0;
        double most = k ? FREQ_MAX_HZ : 0;
        rc = smoe_check_double(r, "workers.curve_hz", w->curve_hz[k], below, most);
        below = k ? w->curve_watts[k - 1] : 0;
        rc = rc ? rc
                : smoe_check_double(r, "workers.curve_watts", w->curve_watts[k], below, NUMBER_MAX);
    }
    return rc;
}

static int read_curves(struct smoe_reader *r, const Workers *p, struct smoe_trace_worker *w,
                       size_t n)
{
    size_t points = 0;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint32_t least = w[i].curve_points ? 2 : 0;
        rc = smoe_check_range(r, "workers.curve_points", w[i].curve_points, least,
                              SMOE_TRACE_CURVE_MAX);
        points += w[i].curve_points;
    }
    rc = rc ? rc : check_count(r, "workers.curve_hz", p->n_curve_hz, points);
    rc = rc ? rc : check_count(r, "workers.curve_watts", p->n_curve_watts, points);
    size_t at = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        w[i].curve_hz = w[i].curve_points ? p->curve_hz + at : NULL;
        w[i].curve_watts = w[i].curve_points ? p->curve_watts + at : NULL;
        at += w[i].curve_points;
        rc = check_curve(r, &w[i]);
    }
    return rc;
}

static int read_workers(struct smoe_reader *r, Workers *p, uint32_t nodes, uint32_t *ret_n,
                        const struct smoe_trace_worker **ret)
{
    int rc = p ? 0 : smoe_fail(r->why, SMOE_EFIELD, "%s.workers: missing", r->message);
    size_t n = rc ? 0 : p->n_worker;
    struct smoe_trace_worker *w = take(r, n, sizeof *w, &rc);
    if (rc == 0)
        rc = smoe_check_rising(r, "workers.worker", n, p->worker, nodes);
#define X(field)                 \
    if (rc == 0 && p->n_##field) \
        rc = check_count(r, "workers." #field, p->n_##field, n);
    SMOE_TRACE_COUNT_MAP(X)
#undef X
#define X(field, member, absent) \
    if (rc == 0 && p->n_##field) \
        rc = check_count(r, "workers." #field, p->n_##field, n);
    SMOE_TRACE_COLUMN_MAP(X)
#undef X
    for (size_t i = 0; i < n && rc == 0; i++) {
        w[i] = (struct smoe_trace_worker){.worker = p->worker[i]};
#define X(field, member, absent) w[i].member = p->n_##field ? p->field[i] : (absent);
        SMOE_TRACE_COLUMN_MAP(X)
#undef X
#define X(field) w[i].field = p->n_##field ? p->field[i] : 0;
        SMOE_TRACE_COUNT_MAP(X)
#undef X
        rc = check_worker(r, &w[i]);
    }
    rc = rc ? rc : read_curves(r, p, w, n);
    *ret_n = (uint32_t)n;
    *ret = w;
    return rc;
}

/* ---- the route ---- */

static int read_law(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    int rc = smoe_read_name(r, "layer", p->layer, m->layer);
    rc = rc ? rc : smoe_read_name(r, "policy", p->policy, m->policy);
    rc = rc ? rc : smoe_read_name(r, "plan", p->plan, m->plan);
    rc = rc ? rc : smoe_check_range(r, "experts", p->experts, 1, SMOE_EXPERTS_MAX);
    rc = rc ? rc : smoe_check_range(r, "top_k", p->top_k, 1, SMOE_TOP_K_MAX);
    rc = rc ? rc : smoe_check_range(r, "top_k", p->top_k, 1, p->experts);
    rc = rc ? rc : smoe_check_range(r, "tokens", p->tokens, 1, SMOE_BATCH_TOKENS_MAX);
    rc = rc ? rc : smoe_check_range(r, "nodes", p->nodes, 1, SMOE_WORKERS_MAX);
    rc = rc ? rc : smoe_check_range(r, "routed", p->routed, 0, p->tokens);
    rc = rc ? rc : smoe_check_range(r, "slot_ns", p->slot_ns, 1000000, 60000000000u);
    rc = rc ? rc : smoe_check_double(r, "v", p->v, 1e-6, 1e9);
    rc = rc ? rc : smoe_check_double(r, "mu", p->mu, 0, 1e6);
    rc = rc ? rc : smoe_check_double(r, "gap", p->gap, 0, SMOE_ROUTE_GAP_MAX);
    rc = rc ? rc : smoe_check_double(r, "tau", p->tau, 1e-12, NUMBER_MAX);
    if (rc == 0 && p->n_rng)
        rc = check_count(r, "rng", p->n_rng, 4);
    if (rc)
        return rc;
    m->monotonic_ns = p->monotonic_ns;
    m->slot = p->slot;
    m->experts = p->experts;
    m->top_k = p->top_k;
    m->tokens = p->tokens;
    m->nodes = p->nodes;
    m->training = p->training;
    m->given = p->given;
    m->slot_ns = p->slot_ns;
    m->v = p->v;
    m->mu = p->mu;
    m->work_max = p->work_max;
    m->gap = p->gap;
    m->draws = p->n_rng > 0;
    m->tau_s = p->tau;
    m->routed = p->routed;
    m->primal = p->primal;
    m->bound = p->bound;
    m->exact = p->exact;
    for (size_t i = 0; i < p->n_rng; i++)
        m->rng[i] = p->rng[i];
    return 0;
}

static int read_prices(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    uint32_t most = p->nodes > p->experts ? p->nodes : p->experts;
    int rc = smoe_check_range(r, "prices", p->n_prices, 0, most);
    for (size_t i = 0; i < p->n_prices && rc == 0; i++)
        if (!(isinf(p->prices[i]) && p->prices[i] > 0))
            rc = smoe_check_double(r, "prices", p->prices[i], -1e18, 1e18);
    m->n_prices = (uint32_t)p->n_prices;
    m->prices = p->prices;
    return rc;
}

static int read_batches(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    uint64_t tokens = 0;
    int rc = check_count(r, "batch_trainer", p->n_batch_trainer, p->n_batch);
    rc = rc ? rc : check_count(r, "batch_tokens", p->n_batch_tokens, p->n_batch);
    struct smoe_trace_batch *b = take(r, p->n_batch, sizeof *b, &rc);
    for (size_t i = 0; i < p->n_batch && rc == 0; i++) {
        b[i] = (struct smoe_trace_batch){p->batch_trainer[i], p->batch_tokens[i], p->batch[i]};
        tokens += b[i].tokens;
    }
    if (rc == 0 && tokens != p->tokens)
        rc = smoe_fail(r->why, SMOE_EFIELD, "%s.batch_tokens: %llu in all, expected %u", r->message,
                       (unsigned long long)tokens, p->tokens);
    m->n_batches = (uint32_t)p->n_batch;
    m->batches = b;
    return rc;
}

static int read_replicas(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    int rc = check_count(r, "replicas", p->n_replicas, p->experts);
    uint32_t *first = take(r, p->experts + 1u, sizeof *first, &rc);
    uint64_t at = 0;
    for (uint32_t e = 0; e < p->experts && rc == 0; e++) {
        first[e] = (uint32_t)at;
        at += p->replicas[e];
        if (at > p->n_replica_node)
            return check_count(r, "replica_node", p->n_replica_node, at);
        if (p->replicas[e])
            rc = smoe_check_rising(r, "replica_node", p->replicas[e], p->replica_node + first[e],
                                   p->nodes);
    }
    if (rc == 0)
        rc = check_count(r, "replica_node", p->n_replica_node, at);
    if (rc)
        return rc;
    first[p->experts] = (uint32_t)at;
    m->replica_first = first;
    m->replica_node = p->replica_node;
    return 0;
}

static int read_score_experts(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    uint64_t seen[SMOE_EXPERTS_MAX / 64 + 1];
    int rc = check_count(r, "score_expert", p->n_score_expert, p->n_scores);
    uint16_t *experts = take(r, p->n_score_expert, sizeof *experts, &rc);
    for (size_t i = 0; i < p->n_score_expert && rc == 0; i++) {
        uint32_t e = p->score_expert[i];
        bool first = i % p->scores_kept == 0;
        if (first)
            memset(seen, 0, sizeof seen);
        rc = smoe_check_range(r, "score_expert", e, 0, p->experts - 1u);
        if (rc == 0 && (seen[e / 64] >> e % 64 & 1 || (!first && p->scores[i] > p->scores[i - 1])))
            rc = smoe_fail(r->why, SMOE_EFIELD, "%s.score_expert[%zu] = %u: twice, or not by score",
                           r->message, i, e);
        if (rc == 0) {
            seen[e / 64] |= UINT64_C(1) << e % 64;
            experts[i] = (uint16_t)e;
        }
    }
    m->score_expert = experts;
    return rc;
}

static int read_scores(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    uint64_t n = (uint64_t)p->tokens * p->scores_kept;
    int rc = check_count(r, "scores", p->n_scores, n);
    if (p->given)
        return rc ? rc : smoe_check_range(r, "scores_kept", p->scores_kept, 0, 0);
    rc = rc ? rc : smoe_check_range(r, "scores_kept", p->scores_kept, p->top_k, p->experts);
    for (size_t i = 0; i < p->n_scores && rc == 0; i++)
        rc = smoe_check_double(r, "scores", (double)p->scores[i], -1e30, 1e30);
    m->scores_kept = p->scores_kept;
    m->scores = p->scores;
    if (rc == 0 && p->scores_kept < p->experts)
        return read_score_experts(r, p, m);
    return rc ? rc : check_count(r, "score_expert", p->n_score_expert, 0);
}

/* The K choices of one token: all there, distinct, on nodes that there are; or it waits. */
static int check_choice(struct smoe_reader *r, Route *p, size_t token, bool *ret_waits)
{
    const uint32_t *expert = p->expert + token * p->top_k, *node = p->node + token * p->top_k;
    int rc = 0;
    *ret_waits = expert[0] == 0;
    for (uint32_t k = 0; k < p->top_k && rc == 0; k++) {
        rc = smoe_check_range(r, "expert", expert[k], *ret_waits ? 0 : 1,
                              *ret_waits ? 0 : p->experts);
        rc = rc ? rc : smoe_check_range(r, "node", node[k], 0, p->nodes - 1u);
        for (uint32_t other = 0; other < k && rc == 0; other++)
            if (!*ret_waits && expert[other] == expert[k])
                rc = smoe_fail(r->why, SMOE_EFIELD, "%s.expert: token %zu visits %u twice",
                               r->message, token, expert[k] - 1);
    }
    if (rc == 0 && *ret_waits && p->given)
        rc =
            smoe_fail(r->why, SMOE_EFIELD, "%s.expert: not given for token %zu", r->message, token);
    return rc;
}

static int read_choices(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    size_t n = (size_t)p->tokens * p->top_k;
    uint32_t routed = 0;
    bool waits;
    int rc = check_count(r, "expert", p->n_expert, n);
    rc = rc ? rc : check_count(r, "node", p->n_node, n);
    uint16_t *expert = take(r, n, sizeof *expert, &rc);
    for (size_t i = 0; i < p->tokens && rc == 0; i++) {
        rc = check_choice(r, p, i, &waits);
        routed += !waits;
    }
    if (rc == 0 && !p->given && routed != p->routed)
        rc = smoe_fail(r->why, SMOE_EFIELD, "%s.routed %u: %u tokens have experts", r->message,
                       p->routed, routed);
    for (size_t i = 0; i < n && rc == 0; i++)
        expert[i] = p->expert[i] ? (uint16_t)(p->expert[i] - 1) : SMOE_TRACE_WAITS;
    m->expert = expert;
    m->node = p->node;
    return rc;
}

static int read_route(struct smoe_reader *r, Route *p, struct smoe_trace_route *m)
{
    *m = (struct smoe_trace_route){0};
    int rc = read_law(r, p, m);
    rc = rc ? rc : read_prices(r, p, m);
    rc = rc ? rc : read_batches(r, p, m);
    rc = rc ? rc : read_workers(r, p->workers, p->nodes, &m->n_workers, &m->workers);
    rc = rc ? rc : read_replicas(r, p, m);
    rc = rc ? rc : read_scores(r, p, m);
    return rc ? rc : read_choices(r, p, m);
}

/* ---- the others ---- */

static int read_frequency(struct smoe_reader *r, const Stablemoe__Trace__V1__Frequency *p,
                          struct smoe_trace_frequency *m)
{
    *m = (struct smoe_trace_frequency){p->monotonic_ns, p->slot, {0}, p->v, p->tau, 0, NULL};
    int rc = smoe_read_name(r, "policy", p->policy, m->policy);
    rc = rc ? rc : smoe_check_double(r, "v", p->v, 1e-6, 1e9);
    rc = rc ? rc : smoe_check_double(r, "tau", p->tau, 1e-12, NUMBER_MAX);
    return rc ? rc : read_workers(r, p->workers, SMOE_WORKERS_MAX, &m->n_workers, &m->workers);
}

static int read_start(struct smoe_reader *r, const Stablemoe__Trace__V1__Start *p,
                      struct smoe_trace_start *m)
{
    *m = (struct smoe_trace_start){"", p->monotonic_ns, p->wall_ms, p->scores_top};
    smoe_read_text(p->software, m->software, sizeof m->software);
    return smoe_check_range(r, "scores_top", p->scores_top, 0, SMOE_EXPERTS_MAX);
}

static int read_lost(struct smoe_reader *r, const Stablemoe__Trace__V1__Lost *p, uint64_t *m)
{
    *m = p->records;
    return smoe_check_range(r, "records", p->records, 1, UINT64_MAX);
}

static int read_end(struct smoe_reader *r, const Stablemoe__Trace__V1__End *p, uint64_t *m)
{
    (void)r;
    *m = p->monotonic_ns;
    return 0;
}

static void *arena_alloc(void *arena, size_t size)
{
    return smoe_arena_alloc(arena, size);
}

static void arena_keep(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

int smoe_trace_decode(struct smoe_trace_codec *codec, const struct smoe_trace_frame *frame,
                      const uint8_t *payload, struct smoe_trace_entry *ret, struct smoe_why *why)
{
    ProtobufCAllocator allocator = {arena_alloc, arena_keep, &codec->arena};
    struct smoe_reader r = {NULL, &codec->arena, why};
    smoe_arena_reset(&codec->arena);
    *ret = (struct smoe_trace_entry){.type = (enum smoe_trace_type)frame->type};
    switch (frame->type) {
#define X(symbol, pb, member)                                                                 \
    case SMOE_TRACE_##symbol: {                                                               \
        const ProtobufCMessageDescriptor *d = &stablemoe__trace__v1__##pb##__descriptor;      \
        const void *p = protobuf_c_message_unpack(d, &allocator, frame->bytes, payload);      \
        r.message = #symbol;                                                                  \
        return p ? read_##pb(&r, p, &ret->member)                                             \
                 : smoe_fail(why, SMOE_EMALFORMED, "%s: malformed, or too large", r.message); \
    }
        X(START, start, start)
        X(ROUTE, route, route)
        X(FREQUENCY, frequency, frequency)
        X(LOST, lost, lost)
        X(END, end, end_ns)
#undef X
    default:
        return smoe_fail(why, SMOE_EUNKNOWN, "record of type %u", frame->type);
    }
}
