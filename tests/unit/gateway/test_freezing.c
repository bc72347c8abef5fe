/* SPDX-License-Identifier: Apache-2.0
 *
 * Freeze, tokens without scores, and a gateway that starts again: one worker, which takes what it is given, two
 * trainers, and a journal that is durable when the test says so.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/gateway/gateway.h"
#include "daemon/gateway/report.h"
#include "tests/unit/core/journal.h"
#include "tests/unit/mail/mail.h"

#define MS UINT64_C(1000000)
enum { W, T, GUEST, PEERS };
enum { EXPERTS = 3, D = 2, CODES = 5, FEATURES = 4, TOKENS = 6 };

static struct site {
    struct smoe_gateway *gw;
    struct journal journal;
    uint64_t now_ns, epoch, journalled;
    struct far_end far[PEERS];
    bool open[PEERS];
    uint32_t session[PEERS];
    smoe_name policy; /* that routed last */
    bool no_room;     /* in the journal's memory */
    size_t room_asked;
} s;

static const float table[CODES * EXPERTS] = {.5f, .3f, .2f, .1f, .8f, .1f, .2f, .2f,
                                             .6f, .5f, .4f, .1f, 0,   .1f, .9f};
static const float map[EXPERTS * FEATURES] = {1, 0, -1, .5f, 0, 2, 1, -.25f, -1, 1, 0, 3};
static const uint32_t codes[TOKENS] = {4, 0, 1, 2, 3, 4};

/* ---- the site ---- */

static void on_record(void *context, const struct smoe_record *record, uint64_t epoch)
{
    (void)context;
    (void)epoch;
    journal_add(&s.journal, record);
}

static int on_room(void *context, size_t bytes)
{
    (void)context;
    s.room_asked = bytes ? bytes : s.room_asked;
    return bytes && s.no_room ? SMOE_ENOMEMORY : 0;
}

static void on_trace(void *context, const struct smoe_trace_entry *entry)
{
    (void)context;
    if (entry->type == SMOE_TRACE_ROUTE)
        snprintf(s.policy, sizeof s.policy, "%s", entry->route.policy);
}

static struct smoe_gateway_options options(void)
{
    return (struct smoe_gateway_options){
        .core = {.limits = {.workers_max = 4,
                            .trainers_max = 2,
                            .batches_max = 16,
                            .parcels_max = 64,
                            .slot_tokens_max = 256},
                 .settings = {.slot_ns = 20 * MS,
                              .policy = SMOE_POLICY_TOPK,
                              .v = 50,
                              .mu = 1,
                              .workers_min = 1,
                              .silence_ns = 60000 * MS,
                              .worker_lease_ns = 60000 * MS,
                              .trainer_lease_ns = 60000 * MS,
                              .window_bytes = 4096,
                              .window_visits = 100000,
                              .iteration_bytes_max = 1 << 20,
                              .worker_budget_w = (double)INFINITY,
                              .worker_cap_w = (double)INFINITY},
                 .epoch = ++s.epoch,
                 .now_ns = ++s.now_ns,
                 .software = "site",
                 .tensor_bytes_max = 1 << 16,
                 .trace_bytes_max = 1 << 16,
                 .restored = &s.journal.base},
        .tensors_bytes_max = 1 << 18,
        .outbox_bytes_max = 1 << 16,
        .hello_timeout_ns = 2000 * MS,
        .journal = on_record,
        .journal_room = on_room,
        .trace = on_trace,
    };
}

static void serve(void)
{
    uint32_t session;
    while (smoe_gateway_next_dirty(s.gw, &session))
        for (int p = 0; p < PEERS; p++) {
            struct iovec iovec;
            if (!s.open[p] || s.session[p] != session)
                continue;
            while (smoe_gateway_peek(s.gw, session, &iovec, 1)) {
                far_end_hear(&s.far[p], iovec.iov_base, iovec.iov_len);
                smoe_gateway_consume(s.gw, session, iovec.iov_len);
            }
            cr_assert_not(smoe_gateway_closing(s.gw, session), "%s",
                          smoe_gateway_close_reason(s.gw, session));
        }
    smoe_gateway_check(s.gw);
}

static void say(int peer, const struct smoe_message *m, const void *raw, size_t bytes)
{
    far_end_say(&s.far[peer], m, raw, bytes);
    smoe_gateway_received(s.gw, s.session[peer], s.far[peer].out, s.far[peer].n_out, s.now_ns);
    serve();
}

static const struct letter *last(int peer, enum smoe_message_type type)
{
    return mail_last(&s.far[peer].mail, ANYONE, type);
}

static size_t count(int peer, enum smoe_message_type type)
{
    return mail_count(&s.far[peer].mail, ANYONE, type);
}

static void durable(void)
{
    smoe_gateway_journalled(s.gw, journal_last(&s.journal), s.now_ns);
    serve();
}

static void slot(void)
{
    s.now_ns += 20 * MS;
    smoe_gateway_tick(s.gw, s.now_ns);
    serve();
}

static void join(int peer, enum smoe_role role, const char *name)
{
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    m.hello = (struct smoe_msg_hello){.protocol_min = 1,
                                      .protocol_max = 1,
                                      .role = role,
                                      .incarnation = 5 + (uint64_t)peer,
                                      .freq_max_hz = 1e9,
                                      .inbox_bytes_max = 1 << 20,
                                      .lanes = 1,
                                      .freq_driver = "null"};
    snprintf(m.hello.name, sizeof m.hello.name, "%s", name);
    cr_assert_eq(smoe_gateway_opened(s.gw, s.now_ns, &s.session[peer]), 0);
    far_end_open(&s.far[peer], role == SMOE_ROLE_WORKER ? SMOE_TO_WORKER : SMOE_TO_TRAINER);
    s.open[peer] = true;
    say(peer, &m, NULL, 0);
}

/* It holds the layer of step `step`, or nothing yet. */
static void join_worker(bool holds)
{
    static const uint32_t all[EXPERTS] = {0, 1, 2};
    struct smoe_inventory_layer held = {.name = "moe",
                                        .run = 42,
                                        .shape = {.experts = EXPERTS,
                                                  .d_model = D,
                                                  .d_ff = 2,
                                                  .activation = 1,
                                                  .dtype = SMOE_DTYPE_F32,
                                                  .optimizer = 1,
                                                  .seed = 7},
                                        .experts = all,
                                        .n_experts = EXPERTS};
    struct smoe_message m = {.type = SMOE_MSG_INVENTORY};
    m.inventory = (struct smoe_msg_inventory){&held, holds};
    join(W, SMOE_ROLE_WORKER, "w");
    say(W, &m, NULL, 0);
}

static void answer_hosts(void)
{
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    if (last(W, SMOE_MSG_HOST))
        say(W, &m, NULL, 0);
}

static void declare(int trainer, bool evaluate_only)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){.request = 77,
                                                      .name = "moe",
                                                      .run = 42,
                                                      .shape = {.experts = EXPERTS,
                                                                .d_model = D,
                                                                .d_ff = 2,
                                                                .activation = 1,
                                                                .dtype = SMOE_DTYPE_F32,
                                                                .optimizer = 1,
                                                                .seed = 7},
                                                      .evaluate_only = evaluate_only};
    say(trainer, &m, NULL, 0);
    answer_hosts();
    cr_assert_not_null(last(trainer, SMOE_MSG_LAYER_READY));
}

static void start(bool again)
{
    struct smoe_gateway_options o = options();
    struct smoe_why why;
    cr_assert_eq(smoe_gateway_new(&o, &s.gw, &why), 0, "%s", why.text);
    join_worker(again);
    join(T, SMOE_ROLE_TRAINER, "t");
    declare(T, false);
}

static void begin(void)
{
    memset(&s, 0, sizeof s);
    start(false);
}

static void stop(void)
{
    for (int p = 0; p < PEERS; p++)
        if (s.open[p])
            far_end_close(&s.far[p]);
    memset(s.far, 0, sizeof s.far);
    memset(s.open, 0, sizeof s.open);
    smoe_gateway_free(s.gw);
}

static void end(void)
{
    stop();
    journal_clear(&s.journal);
}

/* kill -9: what was not durable never was. */
static void restart(uint64_t durable_records)
{
    stop();
    journal_reopen(&s.journal, durable_records);
    start(true);
}

/* ---- what trainers say ---- */

static struct smoe_message freeze_of(uint64_t version, uint32_t kind, uint32_t inputs,
                                     const float *values)
{
    struct smoe_message m = {.type = SMOE_MSG_FREEZE};
    m.freeze = (struct smoe_msg_freeze){
        .request = 900 + version,
        .router = {version, kind, inputs, smoe_frozen_digest(kind, inputs, EXPERTS, values)}};
    return m;
}

static struct smoe_frozen_head freeze(uint64_t version, uint32_t kind)
{
    bool is_table = kind == SMOE_FROZEN_TABLE;
    const float *values = is_table ? table : map;
    uint32_t inputs = is_table ? CODES : FEATURES;
    struct smoe_message m = freeze_of(version, kind, inputs, values);
    say(T, &m, values, inputs * EXPERTS * sizeof *values);
    return m.freeze.router;
}

static void submit(int trainer, uint64_t batch, const struct smoe_frozen_head *router,
                   const void *tokens, size_t token_bytes)
{
    uint8_t raw[TOKENS * FEATURES * 4 + TOKENS * D * 4] = {0};
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    m.submit =
        (struct smoe_msg_submit){.batch = batch,
                                 .attempt = last(trainer, SMOE_MSG_WELCOME)->m.welcome.attempt,
                                 .tokens = TOKENS,
                                 .top_k = 1,
                                 .router_version = router->version,
                                 .router_digest = router->digest};
    memcpy(raw, tokens, token_bytes);
    say(trainer, &m, raw, (token_bytes + 7) / 8 * 8 + TOKENS * D * 4);
    slot();
}

static struct smoe_frozen_head in_force(int peer)
{
    struct smoe_message m = {.type = SMOE_MSG_ROUTER_QUERY};
    m.router_query = (struct smoe_msg_router_query){.request = 3};
    size_t before = count(peer, SMOE_MSG_ROUTER_STATE);
    say(peer, &m, NULL, 0);
    cr_assert_eq(count(peer, SMOE_MSG_ROUTER_STATE), before + 1);
    cr_assert_eq(last(peer, SMOE_MSG_ROUTER_STATE)->m.router_state.request, 3);
    return last(peer, SMOE_MSG_ROUTER_STATE)->m.router_state.router;
}

static void assert_same(const struct smoe_frozen_head *a, const struct smoe_frozen_head *b)
{
    cr_assert(a->version == b->version && a->kind == b->kind && a->inputs == b->inputs &&
              a->digest == b->digest);
}

static void assert_error(int code, const char *part)
{
    const struct letter *l = last(T, SMOE_MSG_ERROR);
    cr_assert_not_null(l);
    cr_assert_eq(l->m.error.code, code, "%d: %s", l->m.error.code, l->m.error.message);
    cr_assert(strstr(l->m.error.message, part), "\"%s\" lacks \"%s\"", l->m.error.message, part);
    cr_assert_not(l->m.error.fatal);
}

/* Experts that the worker was told last, rows of each. */
static void rows_of_last_decision(uint32_t ret[EXPERTS])
{
    const struct smoe_msg_decision *d = &last(W, SMOE_MSG_DECISION)->m.decision;
    memset(ret, 0, EXPERTS * sizeof *ret);
    for (size_t i = 0; i < d->n_parcels; i++)
        ret[d->parcels[i].expert] += d->parcels[i].rows;
}

TestSuite(freezing, .init = begin, .fini = end);

/* ---- from Freeze to force ---- */

Test(freezing, a_router_is_in_force_when_it_is_durable_and_not_before)
{
    cr_assert_eq(in_force(T).version, 0);
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE);
    cr_assert_eq(journal_last_of(&s.journal, SMOE_RECORD_ROUTER), journal_last(&s.journal));
    cr_assert_eq(in_force(T).version, 0);
    submit(T, 1, &head, codes, sizeof codes);
    assert_error(SMOE_EUNKNOWN, "has no frozen router");
    durable();
    cr_assert_eq(last(T, SMOE_MSG_ROUTER_STATE)->m.router_state.request, 901);
    struct smoe_frozen_head trainers = in_force(T), workers = in_force(W);
    assert_same(&head, &trainers);
    assert_same(&head, &workers);
}

Test(freezing, tokens_are_scored_by_their_codes)
{
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE);
    uint32_t rows[EXPERTS];
    durable();
    submit(T, 1, &head, codes, sizeof codes);
    cr_assert_null(last(T, SMOE_MSG_ERROR));
    rows_of_last_decision(rows); /* codes 4 0 1 2 3 4 -> 2 0 1 2 0 2 */
    cr_assert(rows[0] == 2 && rows[1] == 1 && rows[2] == 3);
}

Test(freezing, what_comes_back_says_what_the_router_scored)
{
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE);
    float y[TOKENS * D] = {0};
    durable();
    submit(T, 1, &head, codes, sizeof codes);
    const struct smoe_msg_decision *d = &last(W, SMOE_MSG_DECISION)->m.decision;
    for (size_t i = 0; i < d->n_parcels; i++) {
        struct smoe_message m = {.type = SMOE_MSG_OUTPUT};
        uint32_t visit, rows = d->parcels[i].rows, expert = d->parcels[i].expert;
        m.output.parcel = d->parcels[i].id;
        say(W, &m, y, rows * D * sizeof *y);
        const struct letter *result = last(T, SMOE_MSG_RESULT);
        for (uint32_t r = 0; r < rows; r++) {
            float score;
            memcpy(&visit, result->raw + r * 4, 4);
            memcpy(&score, result->raw + (rows + r) * 4, 4);
            cr_assert_eq(score, table[codes[visit] * EXPERTS + expert]);
        }
    }
}

Test(freezing, features_are_scored_by_a_linear_map)
{
    float features[TOKENS * FEATURES] = {0};
    uint32_t rows[EXPERTS];
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_LINEAR);
    durable();
    for (size_t t = 0; t < TOKENS; t++)
        features[t * FEATURES + t % FEATURES] = 1; /* the columns of the map: 0 1 1 2 0 1 */
    submit(T, 1, &head, features, sizeof features);
    cr_assert_null(last(T, SMOE_MSG_ERROR));
    rows_of_last_decision(rows);
    cr_assert(rows[0] == 2 && rows[1] == 3 && rows[2] == 1, "%u %u %u", rows[0], rows[1], rows[2]);
}

Test(freezing, a_submit_for_another_router_is_refused_in_words_that_name_both)
{
    struct smoe_frozen_head first = freeze(1, SMOE_FROZEN_TABLE), second;
    char both[64];
    durable();
    second = first;
    second.version = 2;
    submit(T, 1, &second, codes, sizeof codes);
    assert_error(SMOE_EUNKNOWN, "router_version 2 (digest ");
    assert_error(SMOE_EUNKNOWN, "has version 1 (digest ");
    second = first;
    second.digest ^= 1;
    submit(T, 1, &second, codes, sizeof codes);
    snprintf(both, sizeof both, "digest %016llx", (unsigned long long)second.digest);
    assert_error(SMOE_EUNKNOWN, both);
    snprintf(both, sizeof both, "digest %016llx", (unsigned long long)first.digest);
    assert_error(SMOE_EUNKNOWN, both);
    submit(T, 1, &first, codes, sizeof codes); /* the number is free, the connection goes on */
    cr_assert_eq(count(T, SMOE_MSG_ERROR), 2);
}

Test(freezing, codes_and_features_that_the_router_cannot_read_are_named)
{
    uint32_t wrong[TOKENS] = {0, 1, CODES};
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE);
    durable();
    submit(T, 1, &head, wrong, sizeof wrong);
    assert_error(SMOE_EFIELD, "token 2 has code 5: the router has 5");
    cr_assert_eq(last(T, SMOE_MSG_ERROR)->m.error.batch, 1);
    wrong[2] = CODES - 1;
    submit(T, 1, &head, wrong, sizeof wrong);
    cr_assert_eq(count(T, SMOE_MSG_ERROR), 1);
    float features[TOKENS * FEATURES] = {0};
    features[TOKENS * FEATURES - 1] = (float)NAN;
    head = freeze(2, SMOE_FROZEN_LINEAR);
    durable();
    submit(T, 2, &head, features, sizeof features);
    assert_error(SMOE_ENOTFINITE, "token 5");
}

/* As long as codes are short, their scores are most of what is held. */
Test(freezing, scores_that_a_router_makes_cost_credit_as_if_they_had_been_sent)
{
    uint32_t wrong[TOKENS] = {CODES};
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE);
    uint64_t window = last(T, SMOE_MSG_WELCOME)->m.welcome.credit.bytes_total;
    durable();
    submit(T, 1, &head, wrong, sizeof wrong);
    assert_error(SMOE_EFIELD, "the router has 5");
    cr_assert_eq(last(T, SMOE_MSG_CREDIT)->m.credit.bytes_total,
                 window + sizeof codes + TOKENS * D * 4 + TOKENS * EXPERTS * 4);
    cr_assert_eq(count(T, SMOE_MSG_CREDIT), 1);
    submit(T, 1, &head, codes, sizeof codes); /* waits for its results, and so does its credit */
    cr_assert_eq(count(T, SMOE_MSG_CREDIT), 1);
}

static uint64_t held(void)
{
    struct smoe_gateway_stats stats;
    smoe_gateway_stats(s.gw, &stats);
    cr_assert_eq(stats.tensor_bytes, 0, "of batches");
    return stats.router_bytes;
}

Test(freezing, routers_are_within_the_budget_and_one_that_does_not_fit_is_refused)
{
    enum { LARGE = (1 << 16) / (EXPERTS * 4) };
    static float values[LARGE * EXPERTS];
    struct smoe_message m = freeze_of(2, SMOE_FROZEN_TABLE, LARGE, values);
    uint64_t nothing = held(), large = smoe_frozen_memory(SMOE_FROZEN_TABLE, LARGE, EXPERTS);
    freeze(1, SMOE_FROZEN_LINEAR);
    cr_assert_eq(held(), nothing + smoe_frozen_memory(SMOE_FROZEN_LINEAR, FEATURES, EXPERTS));
    durable();
    say(T, &m, values, sizeof values);
    durable();
    cr_assert_eq(held(), nothing + large); /* the first has gone */
    cr_assert_null(last(T, SMOE_MSG_ERROR));
    m = freeze_of(3, SMOE_FROZEN_TABLE, LARGE, values); /* twice that, and what came */
    say(T, &m, values, sizeof values);
    assert_error(SMOE_ENOMEMORY, "find no room");
    cr_assert_eq(in_force(T).version, 2);
    cr_assert_eq(held(), nothing + large);
}

/* A router that is taken is on its way to the disk: memory for that must be there before. */
Test(freezing, a_router_that_the_journal_has_no_memory_for_is_refused)
{
    s.no_room = true;
    uint64_t nothing = held();
    freeze(1, SMOE_FROZEN_TABLE);
    assert_error(SMOE_ENOMEMORY, "find no room");
    cr_assert_eq(journal_last_of(&s.journal, SMOE_RECORD_ROUTER), 0);
    cr_assert_eq(held(), nothing);
    s.no_room = false;
    freeze(1, SMOE_FROZEN_TABLE);
    cr_assert_eq(s.room_asked, sizeof table);
    durable();
    cr_assert_eq(in_force(T).version, 1);
}

/* The raw part of a guest's Submit is on its way while the owner replaces the router. */
Test(freezing, a_router_that_is_replaced_under_a_submit_refuses_it_and_the_trainer_goes_on)
{
    struct smoe_frozen_head first = freeze(1, SMOE_FROZEN_TABLE), second;
    uint8_t raw[TOKENS * 4 + TOKENS * D * 4], tokens[TOKENS * FEATURES * 4] = {0};
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    durable();
    join(GUEST, SMOE_ROLE_TRAINER, "guest");
    declare(GUEST, true);
    m.submit = (struct smoe_msg_submit){.batch = 8,
                                        .attempt = last(GUEST, SMOE_MSG_WELCOME)->m.welcome.attempt,
                                        .tokens = TOKENS,
                                        .top_k = 1,
                                        .router_version = 1,
                                        .router_digest = first.digest};
    memset(raw, 0, sizeof raw);
    memcpy(raw, codes, sizeof codes);
    far_end_say(&s.far[GUEST], &m, raw, sizeof raw);
    size_t n = s.far[GUEST].n_out;
    smoe_gateway_received(s.gw, s.session[GUEST], s.far[GUEST].out, n - 20, s.now_ns);
    second = freeze(2, SMOE_FROZEN_LINEAR);
    durable();
    smoe_gateway_received(s.gw, s.session[GUEST], s.far[GUEST].out + n - 20, 20, s.now_ns);
    serve(); /* asserts that nobody is sent away */
    const struct smoe_msg_error *e = &last(GUEST, SMOE_MSG_ERROR)->m.error;
    cr_assert(e->code == SMOE_EUNKNOWN && !e->fatal && e->batch == 8, "%s", e->message);
    cr_assert(strstr(e->message, "version 2"), "%s", e->message);
    struct smoe_frozen_head found = in_force(GUEST);
    assert_same(&second, &found);
    submit(GUEST, 9, &found, tokens, sizeof tokens);
    cr_assert_eq(count(GUEST, SMOE_MSG_ERROR), 1);
    cr_assert_not_null(last(W, SMOE_MSG_DECISION));
}

/* Tokens that come with scores have no router to be true to. */
Test(freezing, strict_is_for_what_a_frozen_router_has_scored_and_for_nothing_else)
{
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE), none = {.version = 0};
    struct smoe_core_settings settings = options().core.settings;
    float scores[TOKENS * EXPERTS] = {0};
    durable();
    settings.policy = SMOE_POLICY_LYAPUNOV;
    for (int strict = 0; strict < 2; strict++) {
        settings.consistency = strict ? SMOE_CONSISTENCY_STRICT : SMOE_CONSISTENCY_SOFT;
        smoe_gateway_configure(s.gw, &settings, s.now_ns);
        submit(T, 1 + 2 * (uint64_t)strict, &head, codes, sizeof codes);
        cr_assert_str_eq(s.policy, strict ? "lyapunov-strict" : "lyapunov");
        submit(T, 2 + 2 * (uint64_t)strict, &none, scores, sizeof scores);
        cr_assert_str_eq(s.policy, "lyapunov");
    }
    cr_assert_null(last(T, SMOE_MSG_ERROR));
}

/* ---- versions ---- */

Test(freezing, the_same_router_again_is_answered_again_and_written_once)
{
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE);
    freeze(1, SMOE_FROZEN_TABLE);
    uint64_t record = journal_last_of(&s.journal, SMOE_RECORD_ROUTER);
    cr_assert_eq(count(T, SMOE_MSG_ROUTER_STATE), 0);
    durable();
    cr_assert_eq(count(T, SMOE_MSG_ROUTER_STATE), 1);
    freeze(1, SMOE_FROZEN_TABLE);
    cr_assert_eq(count(T, SMOE_MSG_ROUTER_STATE), 2);
    cr_assert_eq(journal_last_of(&s.journal, SMOE_RECORD_ROUTER), record);
    struct smoe_frozen_head found = in_force(T);
    assert_same(&head, &found);
}

Test(freezing, a_version_can_only_be_followed_by_a_higher_one)
{
    struct smoe_frozen_head second = freeze(2, SMOE_FROZEN_TABLE);
    freeze(3, SMOE_FROZEN_LINEAR);
    assert_error(SMOE_ESTATE, "version 2 is being written");
    durable();
    freeze(2, SMOE_FROZEN_LINEAR);
    assert_error(SMOE_EEXIST, "version 2");
    freeze(1, SMOE_FROZEN_LINEAR);
    assert_error(SMOE_EEXIST, "FREEZE.router version 1");
    struct smoe_frozen_head found = in_force(T);
    assert_same(&second, &found);
    struct smoe_frozen_head third = freeze(3, SMOE_FROZEN_LINEAR);
    durable();
    found = in_force(T);
    assert_same(&third, &found);
}

Test(freezing, values_must_be_what_their_digest_says_and_numbers)
{
    float values[CODES * EXPERTS];
    struct smoe_message m = freeze_of(1, SMOE_FROZEN_TABLE, CODES, table);
    memcpy(values, table, sizeof values);
    values[3] += 1;
    say(T, &m, values, sizeof values);
    assert_error(SMOE_EFIELD, "the values have digest");
    values[3] = (float)INFINITY;
    say(T, &m, values, sizeof values);
    assert_error(SMOE_ENOTFINITE, "not a finite number");
    cr_assert_eq(last(T, SMOE_MSG_ERROR)->m.error.request, 901);
    cr_assert_eq(journal_last_of(&s.journal, SMOE_RECORD_ROUTER), 0);
}

Test(freezing, only_the_owner_freezes_and_whoever_is_attached_may_use_it)
{
    struct smoe_message m = freeze_of(1, SMOE_FROZEN_TABLE, CODES, table);
    join(GUEST, SMOE_ROLE_TRAINER, "guest");
    declare(GUEST, true);
    say(GUEST, &m, table, sizeof table);
    cr_assert_eq(last(GUEST, SMOE_MSG_ERROR)->m.error.code, SMOE_EROLE);
    struct smoe_frozen_head head = freeze(1, SMOE_FROZEN_TABLE);
    durable();
    submit(GUEST, 1, &head, codes, sizeof codes);
    cr_assert_eq(count(GUEST, SMOE_MSG_ERROR), 1);
    cr_assert_not_null(last(W, SMOE_MSG_DECISION));
}

/* ---- after kill -9 ---- */

Test(freezing, after_a_restart_the_same_tokens_go_to_the_same_experts)
{
    for (uint32_t kind = SMOE_FROZEN_TABLE; kind <= SMOE_FROZEN_LINEAR; kind++) {
        const void *tokens = kind == SMOE_FROZEN_TABLE ? (const void *)codes : map;
        size_t bytes = kind == SMOE_FROZEN_TABLE ? sizeof codes : TOKENS * FEATURES * sizeof *map;
        float features[TOKENS * FEATURES];
        uint32_t before[EXPERTS], after[EXPERTS];
        for (size_t i = 0; i < TOKENS * FEATURES; i++)
            features[i] = map[i % (EXPERTS * FEATURES)];
        if (kind == SMOE_FROZEN_LINEAR)
            tokens = features;
        struct smoe_frozen_head head = freeze(kind, kind);
        durable();
        submit(T, 10 + kind, &head, tokens, bytes);
        rows_of_last_decision(before);
        restart(journal_last(&s.journal));
        cr_assert_eq(last(T, SMOE_MSG_LAYER_READY)->m.layer_ready.router.digest, head.digest);
        struct smoe_frozen_head found = in_force(W);
        assert_same(&head, &found);
        submit(T, 1, &head, tokens, bytes);
        rows_of_last_decision(after);
        cr_assert_eq(memcmp(before, after, sizeof before), 0, "%u: %u %u %u, %u %u %u", kind,
                     before[0], before[1], before[2], after[0], after[1], after[2]);
    }
}

Test(freezing, a_router_that_was_not_durable_never_was)
{
    freeze(1, SMOE_FROZEN_TABLE);
    restart(journal_last_of(&s.journal, SMOE_RECORD_ROUTER) - 1);
    cr_assert_eq(last(T, SMOE_MSG_LAYER_READY)->m.layer_ready.router.version, 0);
    cr_assert_eq(in_force(T).version, 0);
    freeze(1, SMOE_FROZEN_LINEAR); /* so another one may have its number */
    durable();
    cr_assert_eq(in_force(T).kind, SMOE_FROZEN_LINEAR);
}

Test(freezing, a_damaged_router_in_the_journal_is_found_at_the_start)
{
    freeze(1, SMOE_FROZEN_TABLE);
    stop();
    journal_reopen(&s.journal, journal_last(&s.journal));
    s.journal.base.layers[0].values[4] += 1;
    struct smoe_gateway_options o = options();
    struct smoe_why why;
    cr_assert_eq(smoe_gateway_new(&o, &s.gw, &why), SMOE_EDATA);
    cr_assert(strstr(why.text, "router of layer moe"), "%s", why.text);
    s.gw = NULL;
}

Test(freezing, status_says_which_router_is_in_force)
{
    const struct smoe_report_context context = {
        .version = "1", .listen = "here", .waiting = "", .journal_trouble = ""};
    freeze(1, SMOE_FROZEN_TABLE);
    char *json = smoe_report_json(s.gw, SMOE_REPORT_EXPERTS, &context);
    cr_assert(strstr(json, "\"router\":null"), "%s", json);
    free(json);
    durable();
    json = smoe_report_json(s.gw, SMOE_REPORT_EXPERTS, &context);
    cr_assert(
        strstr(json, "\"router\":{\"version\":1,\"kind\":\"table\",\"inputs\":5,\"digest\":\""),
        "%s", json);
    free(json);
}
