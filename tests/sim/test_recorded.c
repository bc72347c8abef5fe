/* SPDX-License-Identifier: Apache-2.0
 *
 * A trace as a scenario: files of a few records, written here, and what a run makes of them.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim/recorded.h"

enum { TOKENS = 6, EXPERTS = 4, NODES = 3, SLOT_NS = 20000000 };

static char path[64];
static FILE *file;
static struct smoe_trace_codec *codec;
static struct smoe_recorded recorded;
static struct smoe_why why;
/* Experts 0 and 3 on worker 0, 1 on worker 1, 2 on worker 2. */
static uint32_t replica_first[EXPERTS + 1] = {0, 1, 2, 3, 4}, replica_node[EXPERTS] = {0, 1, 2, 0};
static float scores[TOKENS * EXPERTS];
static uint16_t expert[TOKENS];
static uint32_t node[TOKENS];
static struct smoe_trace_worker workers[NODES];
static struct smoe_trace_batch batch;

static void begin(void)
{
    uint8_t header[SMOE_TRACE_HEADER_BYTES];
    strcpy(path, "/tmp/smoe-recorded-XXXXXX");
    file = fdopen(mkstemp(path), "wb");
    cr_assert_not_null(file);
    smoe_trace_header(header);
    fwrite(header, 1, sizeof header, file);
    cr_assert_eq(smoe_trace_codec_new(1 << 16, &codec), 0);
    for (uint32_t j = 0; j < NODES; j++)
        workers[j] = (struct smoe_trace_worker){.worker = j,
                                                .arrivals_max = 100,
                                                .cycles = 1e6,
                                                .freq_max_hz = 1e9 * (1 + j),
                                                .cap_w = (double)INFINITY,
                                                .budget_w = (double)INFINITY,
                                                .units = 1};
    for (uint32_t i = 0; i < TOKENS; i++) { /* token i would like expert i % 4 best */
        expert[i] = (uint16_t)(i % EXPERTS);
        node[i] = replica_node[expert[i]];
        for (uint32_t e = 0; e < EXPERTS; e++)
            scores[i * EXPERTS + e] = e == expert[i] ? 0.7F : 0.1F;
    }
}

static void end(void)
{
    smoe_recorded_close(&recorded);
    smoe_trace_codec_free(codec);
    if (file)
        fclose(file);
    (void)unlink(path);
}

TestSuite(recorded, .init = begin, .fini = end);

static struct smoe_trace_route route(uint64_t ms, const char *plan)
{
    batch = (struct smoe_trace_batch){0, TOKENS, 1};
    struct smoe_trace_route t = {.monotonic_ns = ms * 1000000,
                                 .layer = "moe",
                                 .experts = EXPERTS,
                                 .top_k = 1,
                                 .tokens = TOKENS,
                                 .nodes = NODES,
                                 .policy = "topk",
                                 .slot_ns = SLOT_NS,
                                 .v = 20,
                                 .mu = 1,
                                 .draws = true,
                                 .n_batches = 1,
                                 .batches = &batch,
                                 .n_workers = NODES,
                                 .workers = workers,
                                 .replica_first = replica_first,
                                 .replica_node = replica_node,
                                 .scores_kept = EXPERTS,
                                 .scores = scores,
                                 .tau_s = 0.02,
                                 .expert = expert,
                                 .node = node,
                                 .routed = TOKENS};
    strcpy(t.plan, plan);
    return t;
}

static void put(const struct smoe_trace_route *t, uint32_t scores_top)
{
    static uint8_t bytes[1 << 16];
    struct smoe_trace_entry e = {.type = SMOE_TRACE_ROUTE, .route = *t};
    size_t n;
    cr_assert_eq(smoe_trace_encode(codec, &e, scores_top, bytes, sizeof bytes, &n), 0);
    cr_assert_eq(fwrite(bytes, 1, n, file), n);
}

static int open_it(const char *layer)
{
    fflush(file);
    return smoe_recorded_open(&recorded, path, layer, &why);
}

static struct smoe_slotted_result run(enum smoe_policy policy)
{
    struct smoe_scenario scenario;
    struct smoe_slotted_result result;
    cr_assert_eq(smoe_recorded_scenario(&recorded, &scenario, &why), 0, "%s", why.text);
    struct smoe_slotted_options o = {
        .policy = policy, .slots = recorded.slots, .seed = 1, .tape = &recorded.tape};
    smoe_recorded_rewind(&recorded);
    smoe_slotted_run(&scenario, &o, &result);
    smoe_scenario_release(&scenario);
    cr_assert_eq(recorded.rc, 0, "%s", recorded.why.text);
    return result;
}

Test(recorded, of_a_closed_source_every_decision_is_a_slot)
{
    for (uint64_t i = 0; i < 5; i++) {
        struct smoe_trace_route t = route(i, "work");
        put(&t, 0);
    }
    cr_assert_eq(open_it(""), 0, "%s", why.text);
    cr_assert(recorded.closed);
    cr_assert_eq(recorded.slots, 5);
    struct smoe_slotted_result r = run(SMOE_POLICY_TOPK);
    cr_assert_eq(r.tokens, 5 * TOKENS);
    cr_assert_eq(r.complete, 5 * TOKENS);
    cr_assert_eq(r.backlog_last, 0);
    cr_assert_eq(r.agreement, 1);
    /* Tokens 0, 3 and 4 are of worker 0, 1 ms each: a slot lasts 3 ms. */
    cr_assert_float_eq(r.seconds, 5 * 0.003, 1e-9);
    smoe_slotted_release(&r);
}

Test(recorded, of_an_open_stream_times_are_kept)
{
    const uint64_t at_ms[] = {7, 8, 26, 28, 100}; /* slots 0, 0, 0, 1, 4 */
    for (size_t i = 0; i < 5; i++) {
        struct smoe_trace_route t = route(at_ms[i], "slot");
        put(&t, 0);
    }
    cr_assert_eq(open_it(""), 0, "%s", why.text);
    cr_assert_not(recorded.closed);
    cr_assert_eq(recorded.slots, 5);
    cr_assert_eq(recorded.tape.tokens_max, 3 * TOKENS);
    struct smoe_slotted_result r = run(SMOE_POLICY_LYAPUNOV);
    cr_assert_eq(r.tokens, 5 * TOKENS);
    cr_assert_float_eq(r.seconds, 5 * 0.02, 1e-9);
    /* 6 visits/ms are sustained, 30 visits in 100 ms came */
    cr_assert_float_eq(r.load, 30.0 / 600, 1e-9);
    smoe_slotted_release(&r);
}

/* A duty cycle whose kappa is the cube that meets it at half of its frequency: 4 times what it draws at all. */
Test(recorded, what_was_metered_is_what_a_run_spends)
{
    const double hz[] = {0, 1e9}, watts[] = {0, 10};
    workers[0].kappa = 40e-27;
    workers[0].budget_w = 5;
    workers[0].curve_points = 2;
    workers[0].stepless = true;
    workers[0].curve_hz = hz;
    workers[0].curve_watts = watts;
    for (uint64_t i = 0; i < 10; i++) {
        struct smoe_trace_route t = route(20 * i + 1, "slot");
        put(&t, EXPERTS);
    }
    cr_assert_eq(open_it(""), 0, "%s", why.text);
    struct smoe_slotted_result r = run(SMOE_POLICY_LYAPUNOV);
    double visits = r.share[0] * (double)r.visits;
    cr_assert_gt(visits, 0);
    cr_assert_float_eq(r.joules, visits * 1e6 / 1e9 * 10, 1e-9, "%g J for %g visits", r.joules,
                       visits);
    smoe_slotted_release(&r);
}

Test(recorded, a_worker_that_went_is_away_and_its_queue_moves_on)
{
    static uint32_t first[EXPERTS + 1] = {0, 2, 4, 6, 8}, on[] = {0, 2, 1, 2, 1, 2, 0, 2};
    struct smoe_trace_route t = route(0, "slot");
    t.replica_first = first;
    t.replica_node = on;
    for (uint32_t j = 0; j < NODES; j++)
        workers[j].freq_max_hz = 1e6 * 100; /* two visits a slot */
    for (int i = 0; i < 4; i++)
        put(&t, 0); /* 24 tokens in slot 0 */
    struct smoe_trace_route later = t;
    later.monotonic_ns = 20000000;
    struct smoe_trace_worker rest[] = {workers[2]};
    later.workers = rest;
    later.n_workers = 1;
    put(&later, 0);
    cr_assert_eq(open_it(""), 0, "%s", why.text);
    struct smoe_slotted_result r = run(SMOE_POLICY_QUEUE_JSQ);
    cr_assert_eq(r.tokens, 30);
    cr_assert_gt(r.moved, 0);
    cr_assert_eq(r.visits + (uint64_t)r.backlog_last, 30, "nothing is lost");
    smoe_slotted_release(&r);
}

Test(recorded, replays_and_tokens_that_waited_do_not_come_twice)
{
    struct smoe_trace_route t = route(0, "work"), given = route(1, "work");
    uint16_t some[TOKENS];
    memcpy(some, expert, sizeof some);
    some[1] = some[4] = SMOE_TRACE_WAITS;
    t.expert = some;
    t.routed = TOKENS - 2;
    put(&t, 0);
    given.given = true;
    given.scores_kept = 0;
    given.scores = NULL;
    put(&given, 0);
    cr_assert_eq(open_it(""), 0, "%s", why.text);
    cr_assert_eq(recorded.slots, 1);
    cr_assert_eq(recorded.tokens, TOKENS - 2);
    struct smoe_slotted_result r = run(SMOE_POLICY_TOPK);
    cr_assert_eq(r.tokens, TOKENS - 2);
    cr_assert_float_eq(r.gate_mass, 0.7, 1e-6, "rows of those that were routed");
    smoe_slotted_release(&r);
}

Test(recorded, topk_runs_on_the_largest_scores_as_on_all)
{
    struct smoe_trace_route t = route(0, "work");
    put(&t, 2);
    cr_assert_eq(open_it(""), 0, "%s", why.text);
    cr_assert_eq(recorded.scores_kept, 2);
    struct smoe_slotted_result r = run(SMOE_POLICY_TOPK);
    cr_assert_eq(r.agreement, 1);
    cr_assert_float_eq(r.gate_mass, 0.7, 1e-6);
    smoe_slotted_release(&r);
}

/* ---- what is no scenario ---- */

static void refused(const char *part)
{
    cr_assert_eq(open_it(""), SMOE_EFIELD);
    cr_assert_not_null(strstr(why.text, part), "%s", why.text);
    cr_assert_not_null(strstr(why.text, "record 2"), "%s", why.text);
}

Test(recorded, with_a_weight_that_changes_is_refused_by_its_name)
{
    struct smoe_trace_route t = route(0, "work");
    put(&t, 0);
    t.v = 21;
    put(&t, 0);
    refused("ROUTE.v changes");
}

Test(recorded, with_a_top_k_that_changes_is_refused_by_its_name)
{
    uint16_t two[2 * TOKENS];
    uint32_t on[2 * TOKENS] = {0};
    struct smoe_trace_route t = route(0, "work");
    put(&t, 0);
    for (uint16_t i = 0; i < 2 * TOKENS; i++)
        two[i] = i % 2;
    t.top_k = 2;
    t.expert = two;
    t.node = on;
    put(&t, 0);
    refused("ROUTE.top_k changes");
}

Test(recorded, with_two_layers_wants_one_named)
{
    struct smoe_trace_route t = route(0, "work");
    put(&t, 0);
    strcpy(t.layer, "other");
    put(&t, 0);
    refused("ROUTE.layer: moe and other: choose one with --layer");
    cr_assert_eq(open_it("other"), 0, "%s", why.text);
    cr_assert_eq(recorded.slots, 1);
    smoe_recorded_close(&recorded);
    cr_assert_eq(open_it("third"), SMOE_EDATA);
    cr_assert_not_null(strstr(why.text, "no decisions of layer third"), "%s", why.text);
}

Test(recorded, with_too_few_experts_at_hand_is_refused)
{
    struct smoe_trace_route t = route(0, "work");
    put(&t, 0);
    t.n_workers = 0;
    put(&t, 0);
    refused("ROUTE.replica_node");
}

/* ---- torn ---- */

Test(recorded, a_torn_file_is_what_is_whole_of_it)
{
    struct smoe_trace_route t = route(0, "work");
    put(&t, 0);
    fflush(file);
    long whole = ftell(file);
    put(&t, 0);
    fflush(file);
    long size = ftell(file);
    for (long cut = whole + 1; cut < size; cut += 13) {
        cr_assert_eq(truncate(path, cut), 0);
        cr_assert_eq(open_it(""), 0, "%s", why.text);
        cr_assert_eq(recorded.slots, 1);
        smoe_recorded_close(&recorded);
        cr_assert_eq(truncate(path, size), 0); /* zeros from the cut on: damaged, not short */
        cr_assert_eq(open_it(""), 0, "%s", why.text);
        cr_assert_eq(recorded.slots, 1);
        smoe_recorded_close(&recorded);
    }
}
