/* SPDX-License-Identifier: Apache-2.0
 *
 * Decisions of a real core, written down, read back and made again.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim/replay.h"
#include "tests/unit/core/scene.h"

enum { ROOM = 1 << 20 };

static struct scene s;
static struct smoe_replay replay;
static struct smoe_trace_codec *writer, *reader;
static uint8_t bytes[ROOM];
static uint32_t scores_top, routes, frequencies, curves, given, refused;
static uint32_t a, b, t, layer;

/* To bytes and back; what `reader` gives lives until the next call. */
static struct smoe_trace_entry through_bytes(const struct smoe_trace_entry *entry)
{
    struct smoe_trace_frame frame;
    struct smoe_trace_entry ret;
    struct smoe_why why = {""};
    size_t n;
    cr_assert_eq(smoe_trace_encode(writer, entry, scores_top, bytes, sizeof bytes, &n), 0);
    cr_assert_eq(smoe_trace_read_frame(bytes, &frame), 0);
    cr_assert_eq(frame.bytes + SMOE_TRACE_FRAME_BYTES, n);
    cr_assert(smoe_trace_frame_holds(&frame, bytes + SMOE_TRACE_FRAME_BYTES));
    cr_assert_eq(smoe_trace_decode(reader, &frame, bytes + SMOE_TRACE_FRAME_BYTES, &ret, &why), 0,
                 "%s", why.text);
    return ret;
}

static void count(const struct smoe_trace_entry *e)
{
    routes += e->type == SMOE_TRACE_ROUTE;
    frequencies += e->type == SMOE_TRACE_FREQUENCY;
    for (uint32_t i = 0; e->type == SMOE_TRACE_ROUTE && i < e->route.n_workers; i++)
        curves += e->route.workers[i].curve_points > 0;
    for (uint32_t i = 0; e->type == SMOE_TRACE_FREQUENCY && i < e->frequency.n_workers; i++)
        curves += e->frequency.workers[i].curve_points > 0;
    given += e->type == SMOE_TRACE_ROUTE && e->route.given;
}

static void must_be_the_same(const struct smoe_trace_entry *entry)
{
    struct smoe_trace_entry e = through_bytes(entry);
    struct smoe_why why = {""};
    cr_assert_eq(smoe_replay_entry(&replay, &e, &why), 0, "%s", why.text);
    count(&e);
}

static void may_be_refused(const struct smoe_trace_entry *entry)
{
    struct smoe_trace_entry e = through_bytes(entry);
    struct smoe_why why = {""};
    int rc = smoe_replay_entry(&replay, &e, &why);
    cr_assert(rc == 0 || (rc == SMOE_EFIELD && strstr(why.text, "ROUTE.scores")), "%s", why.text);
    refused += rc != 0;
    count(&e);
}

static void begin_with(const struct smoe_core_options *options)
{
    struct smoe_layer_shape shape = scene_shape(8);
    cr_assert_eq(smoe_trace_codec_new(ROOM, &writer), 0);
    cr_assert_eq(smoe_trace_codec_new(ROOM, &reader), 0);
    scene_begin(&s, options);
    s.on_trace = must_be_the_same;
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void end(void)
{
    scene_end(&s);
    smoe_replay_release(&replay);
    smoe_trace_codec_free(writer);
    smoe_trace_codec_free(reader);
}

static struct smoe_core_options traced_options(void)
{
    struct smoe_core_options o = scene_options();
    o.trace_bytes_max = ROOM;
    o.settings.worker_budget_w = 0.5;
    o.settings.worker_cap_w = 20;
    return o;
}

static void submit(uint64_t batch, uint32_t tokens, uint32_t top_k)
{
    struct scene_submit o = {
        .batch = batch, .layer = layer, .tokens = tokens, .top_k = top_k, .evaluate = true};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
}

static void report(uint32_t worker, double joules)
{
    struct smoe_message m = {
        .type = SMOE_MSG_REPORT,
        .report = {.sequence = 0,
                   .joules = joules,
                   .cycles = (uint64_t)(joules * 1e8), /* a joule in a tenth of a second at 1 GHz */
                   .active_ns = (uint64_t)(joules * 1e8),
                   .freq_khz = 1000000,
                   .freq_max_hz = 2e9}};
    scene_say(&s, worker, &m);
}

/* Batches of all shapes while workers are busy, overspent, and done. */
static void live(uint64_t first)
{
    for (uint64_t i = 0; i < 12; i++) {
        submit(first + i, (uint32_t)(7 + 11 * i), 1 + (uint32_t)(i % 3));
        scene_tick(&s, 7 * MS);
        if (i % 4 == 1)
            report(a, 0.1 * (double)(i + first));
        if (i % 4 == 3)
            scene_work_all(&s);
    }
    scene_work_all(&s);
}

static void live_under(enum smoe_policy policy, enum smoe_plan plan)
{
    struct smoe_core_options o = traced_options();
    o.settings.policy = policy;
    o.settings.plan = plan;
    begin_with(&o);
    live(1);
    cr_assert_gt(routes, 5, "%u", routes);
}

#define EVERY_POLICY(X) \
    X(LYAPUNOV)         \
    X(TOPK)             \
    X(RANDOM)           \
    X(QUEUE)            \
    X(ENERGY) X(QUEUE_JSQ) X(LYAPUNOV_GREEDY) X(LYAPUNOV_LINEAR) X(LYAPUNOV_SEPARABLE) X(BASE)

#define X(policy)                                                   \
    Test(replay, of_##policy##_comes_to_the_same_bits, .fini = end) \
    {                                                               \
        live_under(SMOE_POLICY_##policy, SMOE_PLAN_WORK);           \
    }
EVERY_POLICY(X)
#undef X

Test(replay, knows_every_plan, .fini = end)
{
    live_under(SMOE_POLICY_LYAPUNOV, SMOE_PLAN_SLOT);
}

Test(replay, follows_settings_that_change_while_it_runs, .fini = end)
{
    struct smoe_core_options o = traced_options();
    begin_with(&o);
    for (int p = 0; p < SMOE_POLICY_COUNT; p++) {
        o.settings.policy = (enum smoe_policy)p;
        o.settings.v = 5 + p;
        scene_configure(&s, &o.settings);
        live(1 + 100 * (uint64_t)p);
    }
    cr_assert_gt(routes, 80);
}

Test(replay, decides_frequencies_again, .fini = end)
{
    struct smoe_core_options o = traced_options();
    begin_with(&o);
    live(1);
    cr_assert_gt(frequencies, 0);
    cr_assert_gt(curves, 0, "what a duty cycle draws is no cube");
}

Test(replay, of_experts_that_were_given_finds_the_same_replicas, .fini = end)
{
    struct smoe_core_options o = traced_options();
    uint16_t experts[9] = {0, 3, 5, 5, 7, 1, 2, 0, 6};
    begin_with(&o);
    struct scene_submit again = {
        .batch = 1, .layer = layer, .tokens = 9, .top_k = 1, .evaluate = true, .experts = experts};
    cr_assert_eq(scene_submit(&s, t, &again).kind, SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(given, 1);
}

Test(replay, of_a_slot_with_too_little_room_lets_the_same_tokens_wait, .fini = end)
{
    struct smoe_core_options o = traced_options();
    begin_with(&o);
    for (uint64_t i = 0; i < 8; i++)
        submit(1 + i, 400, 1);
    scene_tick(&s, 20 * MS);
    scene_work_all(&s);
    cr_assert_gt(routes, 1);
}

/* ---- only the largest scores ---- */

static void live_with_top(enum smoe_policy policy)
{
    struct smoe_core_options o = traced_options();
    o.settings.policy = policy;
    begin_with(&o);
    scores_top = 3;
    s.on_trace = may_be_refused;
    live(1);
    cr_assert_gt(routes, 5);
}

Test(replay, of_a_solve_without_all_scores_is_refused_with_the_field, .fini = end)
{
    live_with_top(SMOE_POLICY_LYAPUNOV);
    cr_assert_eq(refused, routes - given);
}

Test(replay, of_topk_needs_only_the_largest_scores, .fini = end)
{
    live_with_top(SMOE_POLICY_TOPK);
    cr_assert_eq(refused, 0);
}

Test(replay, of_policies_that_look_at_queues_needs_no_scores, .fini = end)
{
    live_with_top(SMOE_POLICY_QUEUE_JSQ);
    cr_assert_eq(refused, 0);
}

/* ---- frequencies with a price ---- */

static const double CURVE_HZ[] = {0, 1e9, 2e9, 3e9}, CURVE_WATTS[] = {0, 2, 16, 54};

static struct smoe_trace_worker priced_worker(uint32_t i)
{
    return (struct smoe_trace_worker){.worker = i,
                                      .backlog = 3.5 * i,
                                      .executable = 2.25 * i,
                                      .debt_j = 0.125 * i,
                                      .carry = 0.5,
                                      .cycles = 1e7,
                                      .freq_max_hz = 3e9,
                                      .kappa = 2e-27,
                                      .cap_w = i % 3 ? 9 : (double)INFINITY,
                                      .budget_w = 1.5 + i,
                                      .arrivals = i % 5,
                                      .before_khz = i % 4 ? 0 : 123456,
                                      .units = 1 + i % 2,
                                      .owed = i % 2 ? 1e6 : -1e6,
                                      .curve_points = i % 3 ? 4 : 0,
                                      .curve_hz = CURVE_HZ,
                                      .curve_watts = CURVE_WATTS,
                                      .stepless = i % 3 == 2};
}

Test(replay, decides_priced_frequencies_by_the_same_laws)
{
    struct smoe_plan_law law = {.policy = SMOE_POLICY_LYAPUNOV, .v = 50};
    struct smoe_trace_worker w[12];
    uint32_t below = 0, in_turns = 0;
    struct smoe_why why = {""};
    for (uint32_t i = 0; i < 12; i++) {
        w[i] = priced_worker(i);
        struct smoe_power_curve curve;
        struct smoe_plan_worker known = smoe_replay_worker(&w[i], &curve);
        double wanted_hz;
        w[i].freq_khz = smoe_plan_frequency(&law, 0.25, &known, &wanted_hz);
        in_turns += wanted_hz > 0;
        double hz = (double)w[i].freq_khz * 1000 * w[i].units;
        below += hz < 0.999 * smoe_freq_ceiling(&known.physics);
    }
    struct smoe_trace_entry e = {
        .type = SMOE_TRACE_FREQUENCY,
        .frequency = {.policy = "lyapunov", .v = 50, .tau_s = 0.25, .n_workers = 12, .workers = w}};
    cr_assert_eq(smoe_replay_entry(&replay, &e, &why), 0, "%s", why.text);
    cr_assert_gt(below, 3, "energy has a price here");
    cr_assert_gt(in_turns, 1, "and some have P-states");
    w[7].freq_khz++;
    cr_assert_eq(smoe_replay_entry(&replay, &e, &why), SMOE_EDATA);
    cr_assert_not_null(strstr(why.text, "worker 7"), "%s", why.text);
}

/* ---- what is not the same ---- */

/* Spoils each decision in some way; every one must be noticed, by its name. */
static void must_be_noticed(const struct smoe_trace_entry *entry)
{
    struct smoe_trace_entry e = through_bytes(entry);
    struct smoe_why why = {""};
    const char *expected = "tau";
    uint32_t *node = NULL;
    if (e.type != SMOE_TRACE_ROUTE || e.route.given)
        return;
    switch (routes++ % 4) {
    case 0:
        e.route.tau_s = nextafter(e.route.tau_s, 1);
        break;
    case 1:
        node = (uint32_t *)(uintptr_t)e.route.node;
        node[e.route.top_k * (e.route.tokens - 1)] ^= 1;
        expected = "visits";
        break;
    case 2:
        e.route.primal = nextafter(e.route.primal, 0);
        expected = "objective";
        break;
    default:
        e.route.bound -= 1;
        expected = "bound";
    }
    cr_assert_eq(smoe_replay_entry(&replay, &e, &why), SMOE_EDATA);
    cr_assert_not_null(strstr(why.text, expected), "%s", why.text);
}

Test(replay, names_the_first_difference, .fini = end)
{
    struct smoe_core_options o = traced_options();
    begin_with(&o);
    s.on_trace = must_be_noticed;
    live(1);
    cr_assert_gt(routes, 8);
}

/* ---- the core's side ---- */

static uint32_t lost;

static void count_lost(const struct smoe_trace_entry *entry)
{
    lost += entry->type == SMOE_TRACE_LOST;
}

Test(tracing, says_what_it_had_no_room_for_and_decides_the_same, .fini = end)
{
    struct smoe_core_options o = traced_options();
    begin_with(&o);
    live(1);
    struct smoe_core_totals roomy = scene_totals(&s);
    end();
    o.trace_bytes_max = 256; /* not even the entry */
    memset(&replay, 0, sizeof replay);
    begin_with(&o);
    s.on_trace = count_lost;
    live(1);
    cr_assert_eq(lost, s.traced);
    cr_assert_gt(lost, 5);
    cr_assert_eq(scene_totals(&s).choices_in_topk, roomy.choices_in_topk);
}

Test(tracing, is_silent_unless_asked_for, .fini = end)
{
    struct smoe_core_options o = traced_options();
    o.trace_bytes_max = 0;
    begin_with(&o);
    live(1);
    cr_assert_eq(s.traced, 0);
}
