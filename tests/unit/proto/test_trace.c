/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/proto/traces.h"

enum { ROOM = 1 << 17, ROUNDS = 3000 };

static struct smoe_trace_codec *writer, *reader;
static struct traces_room room;
static struct smoe_rng rng;
static struct smoe_trace_entry entry, back;
static struct smoe_why why;
static uint8_t bytes[ROOM];
static size_t n;

static void setup(void)
{
    cr_assert_eq(smoe_trace_codec_new(ROOM, &writer), 0);
    cr_assert_eq(smoe_trace_codec_new(ROOM, &reader), 0);
    smoe_rng_init(&rng, 5, 0);
}

static void teardown(void)
{
    smoe_trace_codec_free(writer);
    smoe_trace_codec_free(reader);
}

TestSuite(trace_format, .init = setup, .fini = teardown);

static void encode(uint32_t scores_top)
{
    cr_assert_eq(smoe_trace_encode(writer, &entry, scores_top, bytes, sizeof bytes, &n), 0);
}

static int decode(void)
{
    struct smoe_trace_frame frame;
    why.text[0] = 0;
    cr_assert_eq(smoe_trace_read_frame(bytes, &frame), 0);
    cr_assert_eq(frame.bytes + SMOE_TRACE_FRAME_BYTES, n);
    cr_assert(smoe_trace_frame_holds(&frame, bytes + SMOE_TRACE_FRAME_BYTES));
    return smoe_trace_decode(reader, &frame, bytes + SMOE_TRACE_FRAME_BYTES, &back, &why);
}

/* A random route that has tokens, scores and workers. */
static void make_route(void)
{
    do
        traces_random(&rng, &room, &entry);
    while (entry.type != SMOE_TRACE_ROUTE || entry.route.given || entry.route.experts < 6 ||
           entry.route.top_k < 2 || entry.route.n_workers < 2 || entry.route.n_prices == 0 ||
           entry.route.routed < 2 || entry.route.replica_first[entry.route.experts] < 2 ||
           entry.route.expert[0] == SMOE_TRACE_WAITS);
}

Test(trace_format, gives_back_what_was_written)
{
    for (int i = 0; i < ROUNDS; i++) {
        traces_random(&rng, &room, &entry);
        encode(0);
        cr_assert_eq(decode(), 0, "%s", why.text);
        const char *difference = traces_difference(&entry, &back);
        cr_assert_null(difference, "%s", difference);
    }
}

/* ---- the largest scores ---- */

static void check_part(const struct smoe_trace_route *all, const struct smoe_trace_route *part,
                       uint32_t token)
{
    const float *g = all->scores + (size_t)token * all->experts;
    const float *have = part->scores + (size_t)token * part->scores_kept;
    const uint16_t *e = part->score_expert + (size_t)token * part->scores_kept;
    for (uint32_t m = 0; m < part->scores_kept; m++) {
        cr_assert_eq(have[m], g[e[m]], "as it was");
        uint32_t better = 0;
        for (uint32_t other = 0; other < all->experts; other++)
            better += g[other] > g[e[m]] || (g[other] == g[e[m]] && other < e[m]);
        cr_assert_eq(better, m, "by falling score, ties to the lowest expert");
    }
}

Test(trace_format, keeps_the_largest_scores_and_never_fewer_than_top_k)
{
    uint32_t parts = 0;
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t top = 1 + (uint32_t)smoe_rng_below(&rng, TRACES_EXPERTS);
        make_route();
        encode(top);
        cr_assert_eq(decode(), 0, "%s", why.text);
        uint32_t wanted = top < entry.route.top_k ? entry.route.top_k : top;
        cr_assert_eq(back.route.scores_kept,
                     wanted < entry.route.experts ? wanted : entry.route.experts);
        cr_assert_eq(!back.route.score_expert, back.route.scores_kept == entry.route.experts);
        cr_assert_null(traces_difference(&entry, &back));
        for (uint32_t t = 0; t < entry.route.tokens && back.route.score_expert; t++, parts++)
            check_part(&entry.route, &back.route, t);
    }
    cr_assert_gt(parts, ROUNDS);
}

Test(trace_format, a_part_is_written_again_as_it_is)
{
    static struct smoe_trace_entry part;
    do
        make_route();
    while (entry.route.top_k > 3);
    encode(3);
    cr_assert_eq(decode(), 0);
    part = back;
    entry = part;
    size_t before = n;
    static uint8_t first[ROOM];
    memcpy(first, bytes, n);
    encode(0);
    cr_assert_eq(n, before);
    cr_assert_eq(memcmp(first, bytes, n), 0);
}

/* ---- room ---- */

Test(trace_format, needs_exactly_its_bytes)
{
    for (int i = 0; i < 200; i++) {
        size_t again;
        traces_random(&rng, &room, &entry);
        encode(0);
        cr_assert_eq(smoe_trace_encode(writer, &entry, 0, bytes, n, &again), 0);
        cr_assert_eq(again, n);
        cr_assert_eq(smoe_trace_encode(writer, &entry, 0, bytes, n - 1, &again), SMOE_ETOOBIG);
        cr_assert_eq(smoe_trace_encode(writer, &entry, 0, bytes, 3, &again), SMOE_ETOOBIG);
    }
}

Test(trace_format, a_payload_has_no_more_than_its_codec_takes)
{
    struct smoe_trace_codec *small;
    size_t again;
    make_route();
    encode(0);
    cr_assert_eq(smoe_trace_codec_new(n - SMOE_TRACE_FRAME_BYTES, &small), 0);
    cr_assert_eq(smoe_trace_encode(small, &entry, 0, bytes, sizeof bytes, &again), 0);
    smoe_trace_codec_free(small);
    cr_assert_eq(smoe_trace_codec_new(n - SMOE_TRACE_FRAME_BYTES - 1, &small), 0);
    cr_assert_eq(smoe_trace_encode(small, &entry, 0, bytes, sizeof bytes, &again), SMOE_ETOOBIG);
    smoe_trace_codec_free(small);
}

/* ---- damage ---- */

Test(trace_format, every_flipped_bit_of_a_record_is_noticed)
{
    struct smoe_trace_frame frame;
    make_route();
    encode(0);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        bool holds = smoe_trace_read_frame(bytes, &frame) == 0 &&
                     frame.bytes <= sizeof bytes - SMOE_TRACE_FRAME_BYTES &&
                     smoe_trace_frame_holds(&frame, bytes + SMOE_TRACE_FRAME_BYTES);
        cr_assert_not(holds, "bit %zu", bit);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

Test(trace_format, a_header_is_ours_of_this_version_and_whole)
{
    uint8_t header[SMOE_TRACE_HEADER_BYTES];
    for (int i = 0; i < SMOE_TRACE_HEADER_BYTES; i++) {
        smoe_trace_header(header);
        cr_assert_eq(smoe_trace_check_header(header, &why), 0);
        header[i] ^= 1;
        cr_assert_eq(smoe_trace_check_header(header, &why), SMOE_EDATA);
        cr_assert_not_null(strstr(why.text, i < 8 ? "not a trace" : "damaged"), "%s", why.text);
    }
}

Test(trace_format, bytes_that_no_encoder_makes_are_refused_in_words)
{
    struct smoe_trace_frame frame;
    for (int i = 0; i < ROUNDS; i++) {
        traces_random(&rng, &room, &entry);
        encode((uint32_t)smoe_rng_below(&rng, 4));
        for (int hits = 0; hits < 3; hits++)
            bytes[SMOE_TRACE_FRAME_BYTES + smoe_rng_below(&rng, n - SMOE_TRACE_FRAME_BYTES + 1)] =
                (uint8_t)smoe_rng_u64(&rng);
        frame = (struct smoe_trace_frame){
            entry.type, (uint32_t)smoe_rng_below(&rng, n - SMOE_TRACE_FRAME_BYTES + 1), 0};
        why.text[0] = 0;
        int rc = smoe_trace_decode(reader, &frame, bytes + SMOE_TRACE_FRAME_BYTES, &back, &why);
        cr_assert(rc == 0 || why.text[0]);
    }
}

Test(trace_format, a_type_of_a_later_time_is_said_to_be_unknown)
{
    struct smoe_trace_frame frame = {77, 0, 0};
    cr_assert_eq(smoe_trace_decode(reader, &frame, bytes, &back, &why), SMOE_EUNKNOWN);
}

/* ---- fields ---- */

static void refuse(int code, const char *field)
{
    encode(0);
    cr_assert_eq(decode(), code, "%s: %s", field, why.text);
    cr_assert_not_null(strstr(why.text, field), "%s: %s", field, why.text);
}

#define REFUSED(code, field, change)               \
    do {                                           \
        make_route();                              \
        struct smoe_trace_route *m = &entry.route; \
        (void)m;                                   \
        change;                                    \
        refuse(code, "ROUTE." field);              \
    } while (0)

Test(trace_format, a_field_beyond_its_limit_is_named)
{
    REFUSED(SMOE_EFIELD, "layer", m->layer[0] = ' ');
    REFUSED(SMOE_EFIELD, "policy", m->policy[0] = 0);
    REFUSED(SMOE_EFIELD, "plan", m->plan[0] = 0);
    REFUSED(SMOE_EFIELD, "slot_ns", m->slot_ns = 999999);
    REFUSED(SMOE_EFIELD, "v", m->v = 0);
    REFUSED(SMOE_ENOTFINITE, "mu", m->mu = (double)NAN);
    REFUSED(SMOE_EFIELD, "gap", m->gap = 0.011);
    REFUSED(SMOE_EFIELD, "tau", m->tau_s = 0);
    REFUSED(SMOE_EFIELD, "routed", m->routed--);
    REFUSED(SMOE_EFIELD, "batch_tokens", room.batches[0].tokens++);
    REFUSED(SMOE_ENOTFINITE, "prices", room.prices[0] = (double)NAN);
    REFUSED(SMOE_ENOTFINITE, "prices", room.prices[0] = -(double)INFINITY);
    REFUSED(SMOE_ENOTFINITE, "scores", room.scores[3] = (float)INFINITY);
    REFUSED(SMOE_EFIELD, "node", room.node[0] = m->nodes);
    REFUSED(SMOE_EFIELD, "expert", room.expert[1] = room.expert[0]);
    REFUSED(SMOE_EFIELD, "expert", room.expert[1] = (uint16_t)m->experts);
    REFUSED(SMOE_EFIELD, "expert", room.expert[1] = SMOE_TRACE_WAITS);
    REFUSED(SMOE_EFIELD, "replica_node", room.replica_node[0] = m->nodes);
}

Test(trace_format, what_was_known_of_a_worker_has_limits)
{
    struct smoe_trace_worker *w = room.workers;
    REFUSED(SMOE_EFIELD, "workers.worker", w[1].worker = w[0].worker);
    REFUSED(SMOE_EFIELD, "workers.worker", w[1].worker = m->nodes);
    REFUSED(SMOE_EFIELD, "workers.backlog", w->backlog = -1);
    REFUSED(SMOE_EFIELD, "workers.executable", w->executable = w->backlog + 1);
    REFUSED(SMOE_ENOTFINITE, "workers.debt", w->debt_j = (double)INFINITY);
    REFUSED(SMOE_EFIELD, "workers.carry", w->carry = 2);
    REFUSED(SMOE_EFIELD, "workers.cycles", w->cycles = 0);
    REFUSED(SMOE_EFIELD, "workers.freq_max", w->freq_max_hz = -1);
    REFUSED(SMOE_EFIELD, "workers.kappa", w->kappa = 2);
    REFUSED(SMOE_EFIELD, "workers.cap", w->cap_w = 0);
    REFUSED(SMOE_ENOTFINITE, "workers.budget", w->budget_w = (double)NAN);
    REFUSED(SMOE_EFIELD, "workers.units", w->units = 0);
    REFUSED(SMOE_EFIELD, "workers.arrivals", w->arrivals = 2000000000);
}

Test(trace_format, a_curve_of_power_rises_from_0_and_has_two_points_at_least)
{
    struct smoe_trace_worker *w = room.workers;
    double hz[SMOE_TRACE_CURVE_MAX + 1], watts[SMOE_TRACE_CURVE_MAX + 1];
    for (int k = 0; k <= SMOE_TRACE_CURVE_MAX; k++) {
        hz[k] = k;
        watts[k] = k;
    }
#define CURVE(n, change)                                                                    \
    (w->curve_points = (n), w->curve_hz = hz, w->curve_watts = watts, hz[0] = watts[0] = 0, \
     hz[1] = watts[1] = 1, (change))
    REFUSED(SMOE_EFIELD, "workers.curve_points", CURVE(1, (void)0));
    REFUSED(SMOE_EFIELD, "workers.curve_points", CURVE(SMOE_TRACE_CURVE_MAX + 1, (void)0));
    REFUSED(SMOE_EFIELD, "workers.curve_hz", CURVE(2, hz[0] = 1));
    REFUSED(SMOE_EFIELD, "workers.curve_hz", CURVE(2, hz[1] = 0));
    REFUSED(SMOE_EFIELD, "workers.curve_hz", CURVE(2, hz[1] = 1e16));
    REFUSED(SMOE_ENOTFINITE, "workers.curve_hz", CURVE(2, hz[1] = (double)NAN));
    REFUSED(SMOE_EFIELD, "workers.curve_watts", CURVE(2, watts[0] = -1));
    REFUSED(SMOE_EFIELD, "workers.curve_watts", CURVE(3, watts[1] = 3));
#undef CURVE
}
