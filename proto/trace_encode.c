/* SPDX-License-Identifier: Apache-2.0
 *
 * From structs to records. Arrays that lie as protobuf wants them are lent to it; the others (a column of
 * the workers' table, numbers of other widths, the top part of the scores) are made in the arena.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/trace_fields.h"
#include "proto/wire_fields.h"

typedef Stablemoe__Trace__V1__Workers Workers;
typedef Stablemoe__Trace__V1__Route Route;

static void *take(struct smoe_arena *arena, size_t n, size_t size)
{
    return n > arena->cap / size ? NULL : smoe_arena_alloc(arena, n * size);
}

/* ---- workers ---- */

/* True if the column of doubles at `offset` is the same throughout. */
static bool is_all(const struct smoe_trace_worker *w, uint32_t n, size_t offset, double value)
{
    for (uint32_t i = 0; i < n; i++) {
        double x;
        memcpy(&x, (const char *)&w[i] + offset, sizeof x);
        if (memcmp(&x, &value, sizeof x) != 0)
            return false;
    }
    return true;
}

static int column(struct smoe_arena *arena, const struct smoe_trace_worker *w, uint32_t n,
                  size_t offset, double absent, double **ret, size_t *ret_n)
{
    if (is_all(w, n, offset, absent))
        return 0;
    double *to = take(arena, n, sizeof *to);
    if (!to)
        return SMOE_ETOOBIG;
    for (uint32_t i = 0; i < n; i++)
        memcpy(&to[i], (const char *)&w[i] + offset, sizeof *to);
    *ret = to;
    *ret_n = n;
    return 0;
}

/* The points of all curves, worker by worker. */
static int fill_curves(struct smoe_arena *arena, const struct smoe_trace_worker *w, uint32_t n,
                       Workers *p)
{
    size_t points = 0, at = 0;
    for (uint32_t i = 0; i < n; i++)
        points += w[i].curve_points;
    if (!points)
        return 0;
    p->curve_hz = take(arena, points, sizeof *p->curve_hz);
    p->curve_watts = take(arena, points, sizeof *p->curve_watts);
    if (!p->curve_hz || !p->curve_watts)
        return SMOE_ETOOBIG;
    for (uint32_t i = 0; i < n; i++) {
        size_t bytes = w[i].curve_points * sizeof(double);
        if (bytes) {
            memcpy(p->curve_hz + at, w[i].curve_hz, bytes);
            memcpy(p->curve_watts + at, w[i].curve_watts, bytes);
        }
        at += w[i].curve_points;
    }
    p->n_curve_hz = p->n_curve_watts = points;
    return 0;
}

static int fill_workers(struct smoe_arena *arena, const struct smoe_trace_worker *w, uint32_t n,
                        Workers *p)
{
    int rc = 0;
    stablemoe__trace__v1__workers__init(p);
    p->worker = take(arena, n, sizeof *p->worker);
    rc = p->worker ? 0 : SMOE_ETOOBIG;
    p->n_worker = n;
    for (uint32_t i = 0; i < n && rc == 0; i++)
        p->worker[i] = w[i].worker;
#define X(field)                                                   \
    if (rc == 0 && !(p->field = take(arena, n, sizeof *p->field))) \
        rc = SMOE_ETOOBIG;                                         \
    for (uint32_t i = 0; i < n && rc == 0; i++) {                  \
        p->field[i] = w[i].field;                                  \
        p->n_##field = w[i].field ? n : p->n_##field;              \
    }
    SMOE_TRACE_COUNT_MAP(X)
#undef X
#define X(field, member, absent)                                                                  \
    if (rc == 0)                                                                                  \
        rc = column(arena, w, n, offsetof(struct smoe_trace_worker, member), (absent), &p->field, \
                    &p->n_##field);
    SMOE_TRACE_COLUMN_MAP(X)
#undef X
    return rc ? rc : fill_curves(arena, w, n, p);
}

/* ---- scores ---- */

/* The `keep` largest of g[n], falling; of equals the lowest expert first. */
static void select_top(const float *g, uint32_t n, uint32_t keep, uint32_t *ret_expert,
                       float *ret_score)
{
    uint32_t have = 0;
    for (uint32_t e = 0; e < n; e++) {
        uint32_t at = have;
        if (have == keep && !(g[e] > ret_score[keep - 1]))
            continue;
        while (at > 0 && g[e] > ret_score[at - 1])
            at--;
        have += have < keep;
        memmove(ret_score + at + 1, ret_score + at, (have - 1 - at) * sizeof *ret_score);
        memmove(ret_expert + at + 1, ret_expert + at, (have - 1 - at) * sizeof *ret_expert);
        ret_score[at] = g[e];
        ret_expert[at] = e;
    }
}

static int fill_top(struct smoe_arena *arena, const struct smoe_trace_route *m, uint32_t keep,
                    Route *p)
{
    size_t n = (size_t)m->tokens * keep;
    p->score_expert = take(arena, n, sizeof *p->score_expert);
    p->scores = take(arena, n, sizeof *p->scores);
    if (!p->score_expert || !p->scores)
        return SMOE_ETOOBIG;
    for (size_t i = 0; i < m->tokens; i++)
        select_top(m->scores + i * m->experts, m->experts, keep, p->score_expert + i * keep,
                   p->scores + i * keep);
    p->n_scores = p->n_score_expert = n;
    return 0;
}

/* What is not all already stays as it is. */
static int fill_scores(struct smoe_arena *arena, const struct smoe_trace_route *m,
                       uint32_t scores_top, Route *p)
{
    uint32_t keep = scores_top < m->top_k ? m->top_k : scores_top;
    size_t n = (size_t)m->tokens * m->scores_kept;
    p->scores_kept = m->scores_kept;
    if (!m->scores)
        return 0;
    if (!m->score_expert && scores_top && keep < m->experts) {
        p->scores_kept = keep;
        return fill_top(arena, m, keep, p);
    }
    p->scores = smoe_unconst(m->scores);
    p->n_scores = n;
    if (!m->score_expert)
        return 0;
    p->score_expert = take(arena, n, sizeof *p->score_expert);
    if (!p->score_expert)
        return SMOE_ETOOBIG;
    p->n_score_expert = n;
    for (size_t i = 0; i < n; i++)
        p->score_expert[i] = m->score_expert[i];
    return 0;
}

/* ---- the route ---- */

static int fill_batches(struct smoe_arena *arena, const struct smoe_trace_route *m, Route *p)
{
    p->batch = take(arena, m->n_batches, sizeof *p->batch);
    p->batch_trainer = take(arena, m->n_batches, sizeof *p->batch_trainer);
    p->batch_tokens = take(arena, m->n_batches, sizeof *p->batch_tokens);
    if (!p->batch || !p->batch_trainer || !p->batch_tokens)
        return SMOE_ETOOBIG;
    p->n_batch = p->n_batch_trainer = p->n_batch_tokens = m->n_batches;
    for (uint32_t i = 0; i < m->n_batches; i++) {
        p->batch[i] = m->batches[i].id;
        p->batch_trainer[i] = m->batches[i].trainer;
        p->batch_tokens[i] = m->batches[i].tokens;
    }
    return 0;
}

static int fill_replicas(struct smoe_arena *arena, const struct smoe_trace_route *m, Route *p)
{
    p->replicas = take(arena, m->experts, sizeof *p->replicas);
    if (!p->replicas)
        return SMOE_ETOOBIG;
    for (uint32_t e = 0; e < m->experts; e++)
        p->replicas[e] = m->replica_first[e + 1] - m->replica_first[e];
    p->n_replicas = m->experts;
    p->replica_node = smoe_unconst(m->replica_node);
    p->n_replica_node = m->replica_first[m->experts];
    return 0;
}

static int fill_choices(struct smoe_arena *arena, const struct smoe_trace_route *m, Route *p)
{
    size_t n = (size_t)m->tokens * m->top_k;
    p->expert = take(arena, n, sizeof *p->expert);
    p->node = take(arena, n, sizeof *p->node);
    if (!p->expert || !p->node)
        return SMOE_ETOOBIG;
    p->n_expert = p->n_node = n;
    for (size_t i = 0; i < n; i++) {
        bool waits = m->expert[i] == SMOE_TRACE_WAITS;
        bool placed = m->given ? i / m->top_k < m->routed : !waits;
        p->expert[i] = waits ? 0 : m->expert[i] + 1u;
        p->node[i] = placed ? m->node[i] : 0;
    }
    return 0;
}

static void fill_law(const struct smoe_trace_route *m, Route *p)
{
    p->monotonic_ns = m->monotonic_ns;
    p->slot = m->slot;
    p->layer = smoe_unconst(m->layer);
    p->experts = m->experts;
    p->top_k = m->top_k;
    p->tokens = m->tokens;
    p->nodes = m->nodes;
    p->training = m->training;
    p->given = m->given;
    p->policy = smoe_unconst(m->policy);
    p->plan = smoe_unconst(m->plan);
    p->slot_ns = m->slot_ns;
    p->v = m->v;
    p->mu = m->mu;
    p->work_max = m->work_max;
    p->gap = m->gap;
    p->rng = smoe_unconst(m->rng);
    p->n_rng = m->draws ? 4 : 0;
    p->prices = smoe_unconst(m->prices);
    p->n_prices = m->n_prices;
    p->tau = m->tau_s;
    p->routed = m->routed;
    p->primal = m->primal;
    p->bound = m->bound;
    p->exact = m->exact;
}

static int fill_route(struct smoe_arena *arena, const struct smoe_trace_route *m,
                      uint32_t scores_top, Route *p)
{
    stablemoe__trace__v1__route__init(p);
    fill_law(m, p);
    p->workers = take(arena, 1, sizeof *p->workers);
    int rc = p->workers ? fill_workers(arena, m->workers, m->n_workers, p->workers) : SMOE_ETOOBIG;
    rc = rc ? rc : fill_batches(arena, m, p);
    rc = rc ? rc : fill_replicas(arena, m, p);
    rc = rc ? rc : fill_scores(arena, m, scores_top, p);
    return rc ? rc : fill_choices(arena, m, p);
}

static int fill_frequency(struct smoe_arena *arena, const struct smoe_trace_frequency *m,
                          Stablemoe__Trace__V1__Frequency *p)
{
    stablemoe__trace__v1__frequency__init(p);
    p->monotonic_ns = m->monotonic_ns;
    p->slot = m->slot;
    p->policy = smoe_unconst(m->policy);
    p->v = m->v;
    p->tau = m->tau_s;
    p->workers = take(arena, 1, sizeof *p->workers);
    return p->workers ? fill_workers(arena, m->workers, m->n_workers, p->workers) : SMOE_ETOOBIG;
}

/* ---- records ---- */

int smoe_trace_codec_new(size_t payload_max, struct smoe_trace_codec **ret)
{
    struct smoe_trace_codec *codec = calloc(1, sizeof *codec);
    if (!codec || smoe_arena_init(&codec->arena, 8 * payload_max + (256u << 10))) {
        free(codec);
        return SMOE_ENOMEMORY;
    }
    codec->payload_max = payload_max;
    *ret = codec;
    return 0;
}

void smoe_trace_codec_free(struct smoe_trace_codec *codec)
{
    if (!codec)
        return;
    smoe_arena_release(&codec->arena);
    free(codec);
}

static int fill(struct smoe_arena *arena, const struct smoe_trace_entry *entry, uint32_t scores_top,
                ProtobufCMessage *p)
{
    switch (entry->type) {
    case SMOE_TRACE_START: {
        Stablemoe__Trace__V1__Start *s = (Stablemoe__Trace__V1__Start *)p;
        stablemoe__trace__v1__start__init(s);
        s->software = smoe_unconst(entry->start.software);
        s->monotonic_ns = entry->start.monotonic_ns;
        s->wall_ms = entry->start.wall_ms;
        s->scores_top = entry->start.scores_top;
        return 0;
    }
    case SMOE_TRACE_ROUTE:
        return fill_route(arena, &entry->route, scores_top, (Route *)p);
    case SMOE_TRACE_FREQUENCY:
        return fill_frequency(arena, &entry->frequency, (Stablemoe__Trace__V1__Frequency *)p);
    case SMOE_TRACE_LOST:
        stablemoe__trace__v1__lost__init((Stablemoe__Trace__V1__Lost *)p);
        ((Stablemoe__Trace__V1__Lost *)p)->records = entry->lost;
        return 0;
    case SMOE_TRACE_END:
        stablemoe__trace__v1__end__init((Stablemoe__Trace__V1__End *)p);
        ((Stablemoe__Trace__V1__End *)p)->monotonic_ns = entry->end_ns;
        return 0;
    }
    return SMOE_EUNKNOWN;
}

int smoe_trace_encode(struct smoe_trace_codec *codec, const struct smoe_trace_entry *entry,
                      uint32_t scores_top, uint8_t *to, size_t cap, size_t *ret_bytes)
{
    union {
        ProtobufCMessage base;
        Stablemoe__Trace__V1__Start start;
        Route route;
        Stablemoe__Trace__V1__Frequency frequency;
        Stablemoe__Trace__V1__Lost lost;
        Stablemoe__Trace__V1__End end;
    } p;
    smoe_arena_reset(&codec->arena);
    int rc = fill(&codec->arena, entry, scores_top, &p.base);
    if (rc)
        return rc;
    size_t bytes = protobuf_c_message_get_packed_size(&p.base);
    if (bytes > codec->payload_max || cap < SMOE_TRACE_FRAME_BYTES ||
        bytes > cap - SMOE_TRACE_FRAME_BYTES)
        return SMOE_ETOOBIG;
    protobuf_c_message_pack(&p.base, to + SMOE_TRACE_FRAME_BYTES);
    smoe_trace_write_frame(entry->type, bytes, to);
    *ret_bytes = SMOE_TRACE_FRAME_BYTES + bytes;
    return 0;
}
