/* SPDX-License-Identifier: Apache-2.0 */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/gateway/gateway.h"
#include "daemon/gateway/report.h"
#include "tests/unit/io/alloc_fault.h"
#include "tests/unit/mail/mail.h"

#define MS UINT64_C(1000000)
enum { PEERS = 12, EXPERTS = 3, D = 4, TOKENS = 5, TOP_K = 2, VISITS = TOKENS * TOP_K };

/* A gateway, and the far ends of its connections. */
static struct hall {
    struct smoe_gateway *gw;
    uint64_t now_ns;
    size_t piece; /* bytes arrive in pieces of at most so many */
    struct far_end far[PEERS];
    bool open[PEERS], deaf[PEERS];
    uint32_t session[PEERS];
    char reason[PEERS][240]; /* why it was closed */
} h;

static struct smoe_gateway_options options(void)
{
    return (struct smoe_gateway_options){
        .core = {.limits = {.workers_max = 4,
                            .trainers_max = 2,
                            .batches_max = 64,
                            .parcels_max = 256,
                            .slot_tokens_max = 1024},
                 .settings = {.slot_ns = 20 * MS,
                              .policy = SMOE_POLICY_TOPK,
                              .v = 50,
                              .mu = 1,
                              .workers_min = 1,
                              .silence_ns = 60000 * MS,
                              .worker_lease_ns = 60000 * MS,
                              .trainer_lease_ns = 60000 * MS,
                              .window_bytes = 1 << 20,
                              .window_visits = 100000,
                              .iteration_bytes_max = 1 << 20,
                              .worker_budget_w = (double)INFINITY,
                              .worker_cap_w = (double)INFINITY},
                 .epoch = 1,
                 .now_ns = 1,
                 .software = "hall",
                 .tensor_bytes_max = 1 << 16},
        .tensors_bytes_max = 1 << 18,
        .outbox_bytes_max = 1 << 16,
        .hello_timeout_ns = 2000 * MS,
    };
}

static void begin_with(const struct smoe_gateway_options *o)
{
    struct smoe_why why;
    memset(&h, 0, sizeof h);
    h.piece = SIZE_MAX;
    h.now_ns = 1;
    cr_assert_eq(smoe_gateway_new(o, &h.gw, &why), 0);
}

static void begin(void)
{
    struct smoe_gateway_options o = options();
    begin_with(&o);
}

static void end(void)
{
    for (int i = 0; i < PEERS; i++)
        if (h.far[i].wire)
            far_end_close(&h.far[i]);
    smoe_gateway_free(h.gw);
}

/* ---- transport ---- */

static void read_all(int peer)
{
    struct iovec iovec;
    while (smoe_gateway_peek(h.gw, h.session[peer], &iovec, 1)) {
        far_end_hear(&h.far[peer], iovec.iov_base, iovec.iov_len);
        smoe_gateway_consume(h.gw, h.session[peer], iovec.iov_len);
    }
}

static void hang_up(int peer)
{
    snprintf(h.reason[peer], sizeof h.reason[peer], "%s",
             smoe_gateway_close_reason(h.gw, h.session[peer]));
    smoe_gateway_closed(h.gw, h.session[peer], h.now_ns);
    h.open[peer] = false;
}

static void serve(void)
{
    uint32_t session;
    while (smoe_gateway_next_dirty(h.gw, &session)) {
        int peer = 0;
        while (!h.open[peer] || h.session[peer] != session)
            peer++;
        if (!h.deaf[peer])
            read_all(peer);
        if (smoe_gateway_closing(h.gw, session))
            hang_up(peer);
    }
    smoe_gateway_check(h.gw);
}

static void send_bytes(int peer, const uint8_t *data, size_t n)
{
    for (size_t at = 0; at < n && h.open[peer];) {
        size_t room, take = n - at < h.piece ? n - at : h.piece;
        uint8_t *direct = smoe_gateway_direct(h.gw, h.session[peer], &room);
        if (direct && room < take)
            take = room;
        if (direct)
            memcpy(direct, data + at, take);
        smoe_gateway_received(h.gw, h.session[peer], direct ? direct : data + at, take, h.now_ns);
        at += take;
        serve();
    }
}

static void say(int peer, const struct smoe_message *m, const void *raw, size_t raw_bytes)
{
    far_end_say(&h.far[peer], m, raw, raw_bytes);
    send_bytes(peer, h.far[peer].out, h.far[peer].n_out);
}

static int open_peer(int peer, enum smoe_role role)
{
    int rc = smoe_gateway_opened(h.gw, h.now_ns, &h.session[peer]);
    if (rc)
        return rc;
    far_end_open(&h.far[peer], role == SMOE_ROLE_WORKER ? SMOE_TO_WORKER : SMOE_TO_TRAINER);
    h.open[peer] = true;
    return 0;
}

static void tick(uint64_t ns)
{
    h.now_ns += ns;
    smoe_gateway_tick(h.gw, h.now_ns);
    serve();
}

/* ---- peers ---- */

static struct smoe_message hello_of(enum smoe_role role, const char *name)
{
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    m.hello = (struct smoe_msg_hello){.protocol_min = 1,
                                      .protocol_max = 1,
                                      .role = role,
                                      .incarnation = 5,
                                      .freq_max_hz = 1e9,
                                      .inbox_bytes_max = 1 << 20,
                                      .lanes = 1,
                                      .freq_driver = "null"};
    snprintf(m.hello.name, sizeof m.hello.name, "%s", name);
    return m;
}

static void join(int peer, enum smoe_role role, const char *name)
{
    struct smoe_message m = hello_of(role, name);
    cr_assert_eq(open_peer(peer, role), 0);
    say(peer, &m, NULL, 0);
    if (role == SMOE_ROLE_WORKER)
        say(peer, &(struct smoe_message){.type = SMOE_MSG_INVENTORY}, NULL, 0);
}

static const struct letter *last(int peer, enum smoe_message_type type)
{
    return mail_last(&h.far[peer].mail, ANYONE, type);
}

static void assert_error(int peer, int code, const char *const parts[], size_t n)
{
    const struct letter *l = last(peer, SMOE_MSG_ERROR);
    cr_assert_not_null(l, "no error");
    for (size_t i = 0; i < n; i++)
        cr_assert(strstr(l->m.error.message, parts[i]), "\"%s\" lacks \"%s\"", l->m.error.message,
                  parts[i]);
    cr_assert_eq(l->m.error.code, code, "%d: %s", l->m.error.code, l->m.error.message);
}

/* ---- bad input ---- */

static void no_name(struct smoe_msg_hello *m)
{
    m->name[0] = 0;
}
static void a_slash(struct smoe_msg_hello *m)
{
    strcpy(m->name, "../etc");
}
static void no_lanes(struct smoe_msg_hello *m)
{
    m->lanes = 0;
}
static void many_lanes(struct smoe_msg_hello *m)
{
    m->lanes = 257;
}
static void no_speed(struct smoe_msg_hello *m)
{
    m->freq_max_hz = (double)NAN;
}
static void no_role(struct smoe_msg_hello *m)
{
    m->role = (enum smoe_role)9;
}
static void no_incarnation(struct smoe_msg_hello *m)
{
    m->incarnation = 0;
}

Test(gateway, tells_which_field_of_a_hello_is_wrong_and_its_limit_and_closes, .init = begin,
     .fini = end)
{
    static const struct {
        void (*spoil)(struct smoe_msg_hello *m);
        int code;
        const char *says[2];
    } cases[] = {
        {no_name, SMOE_EFIELD, {"HELLO.name", "63"}},
        {a_slash, SMOE_EFIELD, {"HELLO.name", "A-Za-z0-9"}},
        {no_lanes, SMOE_EFIELD, {"HELLO.worker.lanes 0", "1..256"}},
        {many_lanes, SMOE_EFIELD, {"HELLO.worker.lanes 257", "1..256"}},
        {no_speed, SMOE_ENOTFINITE, {"HELLO.worker.freq_max_hz", ""}},
        {no_role, SMOE_EFIELD, {"HELLO.role", ""}},
        {no_incarnation, SMOE_EFIELD, {"HELLO.incarnation", ""}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_message m = hello_of(SMOE_ROLE_WORKER, "w");
        cases[i].spoil(&m.hello);
        cr_assert_eq(open_peer(0, SMOE_ROLE_WORKER), 0);
        say(0, &m, NULL, 0);
        assert_error(0, cases[i].code, cases[i].says, 2);
        cr_assert(last(0, SMOE_MSG_ERROR)->m.error.fatal);
        cr_assert_not(h.open[0]);
        far_end_close(&h.far[0]);
    }
    join(1, SMOE_ROLE_WORKER, "w"); /* and nothing is left of them */
    cr_assert(h.open[1]);
}

static void open_stranger(int peer)
{
    cr_assert_eq(open_peer(peer, SMOE_ROLE_TRAINER), 0);
}

Test(gateway, answers_bytes_that_are_no_frame_with_the_reason, .init = begin, .fini = end)
{
    static const char *const says[] = {"magic"};
    open_stranger(0);
    send_bytes(0, (const uint8_t *)"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n", 34);
    assert_error(0, SMOE_EMALFORMED, says, 1);
    cr_assert_not(h.open[0]);
}

Test(gateway, judges_a_frame_by_its_header_before_anything_else_of_it_has_come, .init = begin,
     .fini = end)
{
    static const struct {
        struct smoe_frame_header header;
        int code;
        const char *says;
    } cases[] = {
        {{SMOE_MSG_HELLO, SMOE_PREHELLO_BYTES_MAX + 1, 0}, SMOE_ETOOBIG, "1024"},
        {{SMOE_MSG_HELLO, 10, 1}, SMOE_EMALFORMED, "HELLO"},
        {{SMOE_MSG_SUBMIT, 10, 0}, SMOE_EMALFORMED, "SUBMIT"},
        {{999, 10, 0}, SMOE_EMALFORMED, "unknown message type 999"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
        struct smoe_gateway_stats stats;
        smoe_frame_encode(&cases[i].header, bytes);
        open_stranger(0);
        send_bytes(0, bytes, sizeof bytes);
        assert_error(0, cases[i].code, &cases[i].says, 1);
        cr_assert_not(h.open[0]);
        smoe_gateway_stats(h.gw, &stats);
        cr_assert_eq(stats.tensor_bytes_peak, 0);
        far_end_close(&h.far[0]);
    }
}

Test(gateway, wants_hello_first_and_only_once, .init = begin, .fini = end)
{
    static const char *const first[] = {"PING", "HELLO must come first"};
    static const char *const twice[] = {"HELLO", "already"};
    struct smoe_message ping = {.type = SMOE_MSG_PING};
    struct smoe_message hello = hello_of(SMOE_ROLE_TRAINER, "t");
    open_stranger(0);
    say(0, &ping, NULL, 0);
    assert_error(0, SMOE_ESTATE, first, 2);
    join(1, SMOE_ROLE_TRAINER, "t");
    say(1, &hello, NULL, 0);
    assert_error(1, SMOE_ESTATE, twice, 2);
    cr_assert_not(h.open[0] || h.open[1]);
}

Test(gateway, takes_no_message_that_its_sender_may_not_send, .init = begin, .fini = end)
{
    static const char *const says[] = {"DECISION"};
    struct smoe_message m = {.type = SMOE_MSG_DECISION};
    m.decision.sequence = m.decision.epoch = 1;
    join(0, SMOE_ROLE_WORKER, "w");
    say(0, &m, NULL, 0);
    assert_error(0, SMOE_EROLE, says, 1);
    cr_assert_not(h.open[0]);
}

/* ---- a training step ---- */

/* Peers of the scene: two workers, a trainer. */
enum { W0, W1, T };

static float scores[TOKENS * EXPERTS], x[TOKENS * D], dy[VISITS * D];

static void declare(void)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){.request = 1,
                                                      .name = "moe",
                                                      .run = 9,
                                                      .shape = {.experts = EXPERTS,
                                                                .d_model = D,
                                                                .d_ff = 2,
                                                                .activation = 1,
                                                                .dtype = SMOE_DTYPE_F32,
                                                                .optimizer = 1}};
    join(W0, SMOE_ROLE_WORKER, "w0");
    join(W1, SMOE_ROLE_WORKER, "w1");
    join(T, SMOE_ROLE_TRAINER, "t");
    say(T, &m, NULL, 0);
    for (int w = W0; w <= W1; w++) {
        struct smoe_message hosted = {.type = SMOE_MSG_HOSTED};
        cr_assert_not_null(last(w, SMOE_MSG_HOST));
        say(w, &hosted, NULL, 0);
    }
    cr_assert_not_null(last(T, SMOE_MSG_LAYER_READY));
}

static size_t submit(uint64_t batch, bool gradient)
{
    static uint8_t raw[sizeof scores + 8 + sizeof x]; /* scores, then x */
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    m.submit = (struct smoe_msg_submit){.batch = batch,
                                        .attempt = last(T, SMOE_MSG_WELCOME)->m.welcome.attempt,
                                        .tokens = TOKENS,
                                        .top_k = TOP_K,
                                        .needs_gradient = gradient};
    for (int i = 0; i < TOKENS * EXPERTS; i++)
        scores[i] = (float)((i * 7 + i / EXPERTS) % 11) / 11.0f;
    for (int i = 0; i < TOKENS * D; i++)
        x[i] = (float)(100 + i);
    memcpy(raw, scores, sizeof scores);
    memcpy(raw + sizeof scores, x, sizeof x);
    say(T, &m, raw, sizeof scores + sizeof x);
    return sizeof scores + sizeof x;
}

/* Worker w answers its last Decision: y is 1000 (expert + 1) + x. Checks the rows of x it got. */
static void compute(int w)
{
    const struct letter *l = last(w, SMOE_MSG_DECISION);
    const float *rows = (const float *)(const void *)l->raw;
    struct smoe_msg_decision d = l->m.decision;
    size_t total = 0;
    for (size_t p = 0; p < d.n_parcels; p++)
        total += d.parcels[p].rows;
    cr_assert_eq(l->raw_bytes, total * D * sizeof(float));
    float *copy = malloc(l->raw_bytes);
    memcpy(copy, rows, l->raw_bytes);
    for (size_t p = 0, at = 0; p < d.n_parcels; p++) {
        size_t n = (size_t)d.parcels[p].rows * D;
        struct smoe_message m = {.type = SMOE_MSG_OUTPUT};
        m.output.parcel = d.parcels[p].id;
        for (size_t i = 0; i < n; i++)
            copy[at + i] += 1000.0f * (float)(d.parcels[p].expert + 1);
        say(w, &m, copy + at, n * sizeof(float));
        at += n;
    }
    free(copy);
}

/* The trainer puts together y from its Results: every visit once, with its rows and scores. */
static void assert_results(uint32_t expert_of[VISITS])
{
    bool seen[VISITS] = {0};
    for (size_t i = 0; i < h.far[T].mail.n; i++) {
        const struct letter *l = &h.far[T].mail.letters[i];
        if (l->m.type != SMOE_MSG_RESULT)
            continue;
        uint32_t rows = l->m.result.rows, e = l->m.result.expert;
        const uint32_t *visits = (const uint32_t *)(const void *)l->raw;
        const float *theirs = (const float *)(const void *)(l->raw + rows * 4);
        const float *y = (const float *)(const void *)(l->raw + rows * 8);
        cr_assert_eq(l->raw_bytes, rows * (8 + D * sizeof(float)));
        for (uint32_t r = 0; r < rows; r++) {
            uint32_t token = visits[r] / TOP_K;
            cr_assert_not(seen[visits[r]]);
            seen[visits[r]] = true;
            expert_of[visits[r]] = e;
            cr_assert_eq(theirs[r], scores[token * EXPERTS + e]);
            for (uint32_t k = 0; k < D; k++)
                cr_assert_eq(y[r * D + k], 1000.0f * (float)(e + 1) + x[token * D + k]);
        }
    }
    for (int v = 0; v < VISITS; v++)
        cr_assert(seen[v]);
}

/* Worker w answers its last Backprop with dx = -dy. */
static void compute_back(int w)
{
    const struct letter *l = last(w, SMOE_MSG_BACKPROP);
    struct smoe_msg_backprop b = l->m.backprop;
    const struct smoe_msg_decision d = last(w, SMOE_MSG_DECISION)->m.decision;
    float *copy = malloc(l->raw_bytes);
    memcpy(copy, l->raw, l->raw_bytes);
    for (size_t i = 0; i < l->raw_bytes / sizeof(float); i++)
        copy[i] = -copy[i];
    for (size_t p = 0, at = 0; p < b.n_parcels; p++) {
        size_t n = 0;
        struct smoe_message m = {.type = SMOE_MSG_PARCEL_GRADIENT};
        for (size_t i = 0; i < d.n_parcels; i++)
            n += d.parcels[i].id == b.parcels[p] ? (size_t)d.parcels[i].rows * D : 0;
        m.parcel_gradient.parcel = b.parcels[p];
        say(w, &m, copy + at, n * sizeof(float));
        at += n;
    }
    free(copy);
}

static void assert_input_gradients(const uint32_t expert_of[VISITS])
{
    uint32_t n = 0;
    for (size_t i = 0; i < h.far[T].mail.n; i++) {
        const struct letter *l = &h.far[T].mail.letters[i];
        if (l->m.type != SMOE_MSG_INPUT_GRADIENT)
            continue;
        uint32_t rows = l->m.input_gradient.rows;
        const uint32_t *visits = (const uint32_t *)(const void *)l->raw;
        const float *dx = (const float *)(const void *)(l->raw + (rows * 4 + 7) / 8 * 8);
        for (uint32_t r = 0; r < rows; r++, n++) {
            cr_assert_eq(l->m.input_gradient.expert, expert_of[visits[r]]);
            for (uint32_t k = 0; k < D; k++)
                cr_assert_eq(dx[r * D + k], -dy[visits[r] * D + k]);
        }
    }
    cr_assert_eq(n, VISITS);
}

static void give_gradient(uint64_t batch)
{
    struct smoe_message m = {.type = SMOE_MSG_GRADIENT};
    m.gradient = (struct smoe_msg_gradient){batch, last(T, SMOE_MSG_WELCOME)->m.welcome.attempt};
    for (int i = 0; i < VISITS * D; i++)
        dy[i] = (float)(7 * i + 1);
    say(T, &m, dy, sizeof dy);
}

static void step(uint64_t batch)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP};
    m.step = (struct smoe_msg_step){.step = 1,
                                    .attempt = last(T, SMOE_MSG_WELCOME)->m.welcome.attempt,
                                    .batches = &batch,
                                    .n_batches = 1,
                                    .optimizer = {.kind = 1, .learning_rate = 0.5},
                                    .gradient_divisor = 1};
    say(T, &m, NULL, 0);
    for (int w = W0; w <= W1; w++) {
        uint32_t experts[] = {0, 2}; /* w0 has 0 and 2, w1 has 1 */
        double norms[] = {1, 1};
        struct smoe_layer_norms layer = {0, experts, norms, w == W0 ? 2 : 1};
        struct smoe_message norm = {.type = SMOE_MSG_STEP_NORM};
        experts[0] = (uint32_t)w;
        struct smoe_msg_step_prepare p = last(w, SMOE_MSG_STEP_PREPARE)->m.step_prepare;
        norm.step_norm = (struct smoe_msg_step_norm){p.step, p.attempt, &layer, 1, p.owner, 0};
        say(w, &norm, NULL, 0);
    }
    for (int w = W0; w <= W1; w++) {
        struct smoe_msg_step_stage g = last(w, SMOE_MSG_STEP_STAGE)->m.step_stage;
        struct smoe_message staged = {.type = SMOE_MSG_STEP_STAGED};
        staged.step_staged = (struct smoe_msg_step_staged){g.step, g.attempt, g.owner};
        say(w, &staged, NULL, 0);
    }
    cr_assert_not_null(last(T, SMOE_MSG_STEP_DONE));
}

/* Tensors arrive as they were sent, whatever the network cuts the stream into, and nothing is held
 * afterwards. */
Test(gateway, carries_a_step_through_whole_whatever_pieces_it_comes_in)
{
    static const size_t pieces[] = {SIZE_MAX, 1, 7, 64};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        uint32_t expert_of[VISITS];
        struct smoe_gateway_stats stats;
        begin();
        h.piece = pieces[i];
        declare();
        submit(1, true);
        compute(W0);
        compute(W1);
        assert_results(expert_of);
        give_gradient(1);
        compute_back(W0);
        compute_back(W1);
        assert_input_gradients(expert_of);
        step(1);
        smoe_gateway_stats(h.gw, &stats);
        cr_assert_eq(stats.tensor_bytes, 0);
        cr_assert_gt(stats.tensor_bytes_peak, sizeof x);
        end();
    }
}

Test(gateway, refuses_a_raw_part_of_the_wrong_size_with_both_numbers, .init = begin, .fini = end)
{
    static const char *const says[] = {"SUBMIT: raw part of 136 bytes, expected 140"};
    static const uint8_t zeros[136];
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    declare();
    m.submit = (struct smoe_msg_submit){.batch = 1,
                                        .attempt = last(T, SMOE_MSG_WELCOME)->m.welcome.attempt,
                                        .tokens = TOKENS,
                                        .top_k = TOP_K,
                                        .needs_gradient = true};
    say(T, &m, zeros, sizeof zeros);
    assert_error(T, SMOE_ESHAPE, says, 1);
    cr_assert_not(h.open[T]);
    cr_assert(h.open[W0]);
}

Test(gateway, lives_on_when_a_peer_breaks_off_in_the_middle_of_a_frame, .init = begin, .fini = end)
{
    struct smoe_gateway_stats stats;
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    static const uint8_t zeros[140];
    declare();
    m.submit = (struct smoe_msg_submit){.batch = 1,
                                        .attempt = last(T, SMOE_MSG_WELCOME)->m.welcome.attempt,
                                        .tokens = TOKENS,
                                        .top_k = TOP_K,
                                        .needs_gradient = true};
    far_end_say(&h.far[T], &m, zeros, sizeof zeros);
    send_bytes(T, h.far[T].out, h.far[T].n_out - 1);
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.tensor_bytes, sizeof zeros);
    hang_up(T);
    serve();
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.tensor_bytes, 0);
}

/* ---- bounds ---- */

Test(gateway, cuts_off_a_peer_that_does_not_read_and_holds_no_more_than_the_bound, .init = begin,
     .fini = end)
{
    struct smoe_message ping = {.type = SMOE_MSG_PING};
    struct smoe_gateway_stats stats;
    size_t queued = 0;
    declare();
    h.deaf[T] = true;
    for (int i = 0; i < 100000 && h.open[T]; i++) {
        struct iovec iovecs[8];
        say(T, &ping, NULL, 0);
        if (i % 1000 || !h.open[T])
            continue;
        size_t n = smoe_gateway_peek(h.gw, h.session[T], iovecs, 8);
        cr_assert_leq(n, 8);
        queued += n;
    }
    cr_assert_not(h.open[T], "100000 answers and nobody reads");
    cr_assert_gt(queued, 0);
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.slow_peers, 1);
    cr_assert_str_eq(h.reason[T], "does not read what it is sent");
    cr_assert_lt(stats.frames_out, 3 * (1 << 17) / SMOE_FRAME_HEADER_BYTES);
    cr_assert(h.open[W0] && h.open[W1]);
}

/* Refusals are answers, too. */
Test(gateway, cuts_off_a_peer_that_is_refused_and_does_not_read, .init = begin, .fini = end)
{
    struct smoe_message freeze = {.type = SMOE_MSG_FREEZE};
    freeze.freeze =
        (struct smoe_msg_freeze){.request = 1, .layer = 5, .router = {1, SMOE_FROZEN_TABLE, 1, 1}};
    uint8_t raw[4] = {0};
    declare();
    h.deaf[T] = true;
    for (int i = 0; i < 20000 && h.open[T]; i++)
        say(T, &freeze, raw, sizeof raw);
    cr_assert_not(h.open[T], "20000 refusals and nobody reads");
    cr_assert_str_eq(h.reason[T], "does not read what it is sent");
    cr_assert(h.open[W0] && h.open[W1]);
}

Test(gateway, gives_no_new_credit_to_a_trainer_that_does_not_read_until_it_does, .fini = end)
{
    struct smoe_gateway_options o = options();
    o.outbox_bytes_max = 4096;
    begin_with(&o);
    declare();
    h.deaf[T] = true;
    for (uint64_t i = 1; i <= 6; i++) { /* some 280 bytes of results each */
        submit(i, false);
        compute(W0);
        compute(W1);
    }
    cr_assert(h.open[T]);
    h.deaf[T] = false;
    read_all(T);
    serve();
    uint64_t most = 0, granted = 0;
    for (size_t i = 0; i < h.far[T].mail.n; i++)
        if (h.far[T].mail.letters[i].m.type == SMOE_MSG_CREDIT) {
            granted = h.far[T].mail.letters[i].m.credit.visits_total;
            cr_assert_geq(granted, most, "running totals never fall");
            most = granted;
        }
    cr_assert_eq(granted, 100000 + 6 * VISITS, "all of it came at last");
    cr_assert_lt(mail_count(&h.far[T].mail, ANYONE, SMOE_MSG_CREDIT), 6, "in fewer pieces");
}

/* Others' messages must not fail for want of the memory that it holds. */
Test(gateway, a_trainer_that_does_not_read_is_cut_off_before_it_holds_what_others_need, .fini = end)
{
    struct smoe_gateway_options o = options();
    struct smoe_gateway_stats stats;
    o.tensors_bytes_max = 1 << 16;
    o.outbox_bytes_max = 1 << 20;
    begin_with(&o);
    declare();
    h.deaf[T] = true;
    for (uint64_t i = 1; i <= 400 && h.open[T]; i++) { /* some 240 bytes of results each */
        submit(i, false);
        compute(W0);
        compute(W1);
    }
    cr_assert_not(h.open[T]);
    cr_assert_str_eq(h.reason[T], "does not read what it is sent");
    cr_assert(h.open[W0] && h.open[W1], "%s; %s", h.reason[W0], h.reason[W1]);
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.slow_peers, 1);
    cr_assert_gt(stats.tensor_bytes_peak, o.tensors_bytes_max / 4, "while there is room it may");
    cr_assert_lt(stats.tensor_bytes_peak, o.tensors_bytes_max * 3 / 5);
    cr_assert_eq(stats.tensor_bytes, 0);
}

static uint64_t granted_at_last(void)
{
    uint64_t most = 0;
    for (size_t i = 0; i < h.far[T].mail.n; i++)
        if (h.far[T].mail.letters[i].m.type == SMOE_MSG_CREDIT) {
            uint64_t granted = h.far[T].mail.letters[i].m.credit.visits_total;
            cr_assert_gt(granted, most, "an older grant behind a newer one");
            most = granted;
        }
    return most;
}

/* The trainer has read all but one byte of what was for it, and no memory was there for the credit behind it. */
static void withhold_credit(void)
{
    struct smoe_gateway_options o = options();
    o.outbox_bytes_max = 400; /* a quarter of it is less than one Result */
    begin_with(&o);
    declare();
    submit(1, false);
    compute(W0);
    h.deaf[T] = true;
    compute(W1);
    bool failed = false;
    struct iovec rest[2];
    while (smoe_gateway_peek(h.gw, h.session[T], rest, 2) > 1 || rest->iov_len > 1) {
        far_end_hear(&h.far[T], rest->iov_base, 1);
        smoe_alloc_fail_at(1);
        smoe_gateway_consume(h.gw, h.session[T], 1);
        failed |= smoe_alloc_failed();
    }
    cr_assert(failed);
    cr_assert_null(last(T, SMOE_MSG_CREDIT));
    h.deaf[T] = false;
}

Test(gateway, credit_that_found_no_memory_comes_a_little_later_without_being_asked_for, .fini = end)
{
    withhold_credit();
    struct iovec rest;
    cr_assert_eq(smoe_gateway_peek(h.gw, h.session[T], &rest, 1), 1);
    tick(20 * MS);
    cr_assert_eq(granted_at_last(), 100000 + VISITS);
}

Test(gateway, credit_that_found_no_memory_does_not_come_behind_a_newer_one, .fini = end)
{
    withhold_credit();
    h.deaf[T] = true;
    submit(2, false); /* taken, and dropped when a worker is lost: a grant of its own */
    hang_up(W1);
    h.deaf[T] = false;
    read_all(T);
    serve();
    cr_assert_not_null(last(T, SMOE_MSG_NEED));
    cr_assert_eq(granted_at_last(), 100000 + 2 * VISITS);
}

Test(gateway, closes_who_says_no_hello_in_time_and_not_earlier, .init = begin, .fini = end)
{
    struct smoe_gateway_stats stats;
    open_stranger(0);
    tick(2000 * MS - 1);
    cr_assert(h.open[0]);
    tick(1);
    cr_assert_not(h.open[0]);
    cr_assert_str_eq(h.reason[0], "said no hello in time");
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.hello_timeouts, 1);
}

/* The clock is asked for nothing else meanwhile. */
Test(gateway, wakes_for_a_stranger_s_time_however_long_its_slots_are, .fini = end)
{
    struct smoe_gateway_options o = options();
    o.core.settings.slot_ns = 60000 * MS;
    begin_with(&o);
    h.now_ns += 5 * MS;
    open_stranger(0);
    uint64_t due_ns = h.now_ns + 2000 * MS;
    cr_assert_eq(smoe_gateway_wake_ns(h.gw), due_ns);
    tick(due_ns - h.now_ns);
    cr_assert_not(h.open[0]);
    cr_assert_eq(smoe_gateway_wake_ns(h.gw), 60000 * MS + 1, "the slot's end");
}

Test(gateway, lets_the_stranger_that_waited_longest_make_room_and_nobody_else, .init = begin,
     .fini = end)
{
    uint32_t n = smoe_gateway_sessions_max(h.gw), session, first, dirty, closing = 0;
    struct smoe_gateway_stats stats;
    declare();
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &first), 0);
    for (int i = 1; i < SMOE_GATE_STRANGERS_MAX; i++)
        cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session), 0);
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns + 20 * MS - 1, &session), SMOE_ELIMIT,
                 "it has just come");
    h.now_ns += 20 * MS;
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session), 0);
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.crowded_out, 1);
    cr_assert_lt(stats.sessions, n, "there is room for those who close");
    cr_assert(smoe_gateway_closing(h.gw, first));
    for (; smoe_gateway_opened(h.gw, h.now_ns, &session) == 0; closing++)
        h.now_ns += 20 * MS; /* and none of them is closed yet */
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.sessions, n, "then the next one waits");
    cr_assert_geq(closing, 32);
    for (int i = W0; i <= T; i++)
        cr_assert_not(smoe_gateway_closing(h.gw, h.session[i]), "who said hello stays");
    smoe_gateway_check(h.gw);
    while (smoe_gateway_next_dirty(h.gw, &dirty))
        if (smoe_gateway_closing(h.gw, dirty))
            smoe_gateway_closed(h.gw, dirty, h.now_ns);
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session), 0);
}

Test(gateway, bounds_the_strangers_of_one_origin_and_not_those_of_this_machine, .init = begin,
     .fini = end)
{
    uint32_t session[SMOE_GATE_STRANGERS_OF_ONE + 1], local, other;
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &other), 0);
    smoe_gateway_came_from(h.gw, other, 8, h.now_ns);
    for (unsigned i = 0; i <= SMOE_GATE_STRANGERS_OF_ONE; i++) {
        cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session[i]), 0);
        cr_assert_not(smoe_gateway_closing(h.gw, session[0]), "%u", i);
        smoe_gateway_came_from(h.gw, session[i], 7, h.now_ns += MS);
    }
    cr_assert(smoe_gateway_closing(h.gw, session[0]), "the oldest of that origin");
    cr_assert_not(smoe_gateway_closing(h.gw, session[1]));
    cr_assert_not(smoe_gateway_closing(h.gw, other));
    for (unsigned i = 0; i < SMOE_GATE_STRANGERS_OF_ONE + 9; i++) {
        cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &local), 0);
        smoe_gateway_came_from(h.gw, local, 0, h.now_ns);
    }
    struct smoe_gateway_stats stats;
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.crowded_out, 1);
    smoe_gateway_check(h.gw);
}

/* Somebody honest and somebody hostile of one IPv6 network. */
Test(gateway, leaves_a_neighbour_of_a_crowd_the_time_to_say_hello, .init = begin, .fini = end)
{
    uint32_t honest, session;
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &honest), 0);
    smoe_gateway_came_from(h.gw, honest, 7, h.now_ns);
    for (unsigned i = 1; i < SMOE_GATE_STRANGERS_OF_ONE; i++) {
        cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session), 0);
        smoe_gateway_came_from(h.gw, session, 7, h.now_ns);
    }
    for (unsigned i = 0; i < 200; i++) {
        cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session), 0);
        smoe_gateway_came_from(h.gw, session, 7, h.now_ns + 20 * MS - 1);
        cr_assert_not(smoe_gateway_closing(h.gw, honest), "%u", i);
        cr_assert(smoe_gateway_closing(h.gw, session), "it came last");
        smoe_gateway_closed(h.gw, session, h.now_ns);
    }
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session), 0);
    smoe_gateway_came_from(h.gw, session, 7, h.now_ns + 20 * MS);
    cr_assert(smoe_gateway_closing(h.gw, honest), "it had its time");
    cr_assert_not(smoe_gateway_closing(h.gw, session));
    smoe_gateway_check(h.gw);
}

Test(gateway, takes_nobody_for_another_than_its_key_says, .init = begin, .fini = end)
{
    static const struct {
        enum smoe_role key, hello;
        const char *name, *says;
    } cases[] = {
        {SMOE_ROLE_WORKER, SMOE_ROLE_WORKER, "n", NULL},
        {SMOE_ROLE_TRAINER, SMOE_ROLE_TRAINER, "n", NULL},
        {SMOE_ROLE_WORKER, SMOE_ROLE_WORKER, "m", "the key of worker n is not for worker m"},
        {SMOE_ROLE_WORKER, SMOE_ROLE_TRAINER, "n", "the key of worker n is not for a trainer"},
        {SMOE_ROLE_TRAINER, SMOE_ROLE_WORKER, "n", "the key of trainer n is not for a worker"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (h.far[5].wire)
            far_end_close(&h.far[5]);
        cr_assert_eq(open_peer(5, cases[i].key), 0);
        smoe_gateway_identify(h.gw, h.session[5], cases[i].key, "n");
        struct smoe_message m = hello_of(cases[i].hello, cases[i].name);
        say(5, &m, NULL, 0);
        if (cases[i].says) {
            cr_assert_not(h.open[5]);
            cr_assert_eq(last(5, SMOE_MSG_ERROR)->m.error.code, SMOE_EROLE);
            cr_assert(strstr(last(5, SMOE_MSG_ERROR)->m.error.message, cases[i].says), "%s",
                      last(5, SMOE_MSG_ERROR)->m.error.message);
            continue;
        }
        cr_assert(h.open[5]);
        smoe_gateway_dismiss(h.gw, h.session[5], SMOE_EROLE, "its key was revoked", h.now_ns);
        serve();
        cr_assert_not(h.open[5]);
        cr_assert_str_eq(last(5, SMOE_MSG_ERROR)->m.error.message, "its key was revoked");
    }
}

Test(gateway, tells_a_dismissed_stranger_nothing, .init = begin, .fini = end)
{
    open_stranger(5);
    smoe_gateway_dismiss(h.gw, h.session[5], SMOE_EROLE, "its key was revoked", h.now_ns);
    serve();
    cr_assert_not(h.open[5]);
    cr_assert_eq(h.far[5].mail.n, 0);
}

Test(gateway, says_bye_to_everybody_when_it_goes, .init = begin, .fini = end)
{
    declare();
    open_stranger(5);
    smoe_gateway_goodbye(h.gw, "the gateway is shutting down");
    serve();
    for (int i = W0; i <= T; i++) {
        cr_assert_str_eq(last(i, SMOE_MSG_BYE)->m.bye.reason, "the gateway is shutting down");
        cr_assert_not(h.open[i]);
    }
    cr_assert_not(h.open[5]);
    cr_assert_eq(h.far[5].mail.n, 0, "who has not said hello is told nothing");
}

Test(gateway, reports_what_it_counts, .init = begin, .fini = end)
{
    struct smoe_report_context context = {.version = "1.2.3",
                                          .now_ns = 5000 * MS,
                                          .started_ns = 1000 * MS,
                                          .listen = "127.0.0.1:7700",
                                          .waiting = "",
                                          .journal_trouble = ""};
    static const char *const parts[] = {"\"submitted\":10", "\"settled\":10",      "\"w0\"",
                                        "\"w1\"",           "\"policy\":\"topk\"", "1.2.3"};
    declare();
    submit(1, false);
    compute(W0);
    compute(W1);
    char *json = smoe_report_json(h.gw, SMOE_REPORT_STATUS, &context);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        cr_assert(strstr(json, parts[i]), "%s lacks %s", json, parts[i]);
    free(json);
}

static void *allocate(size_t bytes)
{
    return malloc(bytes);
}

/* Whichever allocation fails, nothing is left out of a document: it is whole, or there is none. */
Test(gateway, reports_all_of_it_or_nothing_when_memory_is_out, .fini = end)
{
    static const enum smoe_report reports[] = {SMOE_REPORT_STATUS, SMOE_REPORT_WORKERS,
                                               SMOE_REPORT_EXPERTS};
    static const struct smoe_report_trace trace = {.file = "t", .trouble = ""};
    static const struct smoe_report_context context = {.version = "1.2.3",
                                                       .listen = "127.0.0.1:7700",
                                                       .waiting = "",
                                                       .journal_trouble = "",
                                                       .trace = &trace};
    cJSON_Hooks hooks = {allocate, free};
    begin();
    declare();
    cJSON_InitHooks(&hooks);
    for (size_t i = 0; i < sizeof reports / sizeof *reports; i++) {
        bool failed = true;
        char *whole = smoe_report_json(h.gw, reports[i], &context);
        for (uint64_t n = 1; failed; n++) {
            smoe_alloc_fail_at(n);
            char *json = smoe_report_json(h.gw, reports[i], &context);
            failed = smoe_alloc_failed();
            cr_assert(json ? strcmp(json, whole) == 0 : failed, "allocation %d: %s", (int)n,
                      json ? json : "nothing");
            free(json);
        }
        free(whole);
    }
    cJSON_InitHooks(NULL);
}

Test(gateway, has_nothing_to_do_with_administrators_and_few_of_them, .init = begin, .fini = end)
{
    uint32_t session[SMOE_GATE_ADMINS_MAX + 1];
    static const uint8_t bytes[] = "status\n";
    h.now_ns += 20 * MS;
    for (unsigned i = 0; i <= SMOE_GATE_ADMINS_MAX; i++) {
        cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session[i]), 0);
        smoe_gateway_identify(h.gw, session[i], SMOE_ROLE_ADMIN, "root");
        cr_assert_eq(smoe_gateway_administered(h.gw, session[i]),
                     i < SMOE_GATE_ADMINS_MAX ? 0 : SMOE_ELIMIT);
    }
    cr_assert(smoe_gateway_closing(h.gw, session[SMOE_GATE_ADMINS_MAX]));
    cr_assert_str_eq(smoe_gateway_peer_name(h.gw, session[0]), "admin root");
    smoe_gateway_tick(h.gw, h.now_ns + 5000 * MS);
    cr_assert_not(smoe_gateway_closing(h.gw, session[0]), "it owes no hello");
    smoe_gateway_check(h.gw);
    smoe_gateway_dismiss(h.gw, session[0], 0, "answered", h.now_ns);
    cr_assert(smoe_gateway_closing(h.gw, session[0]));
    smoe_gateway_closed(h.gw, session[0], h.now_ns);
    smoe_gateway_closed(h.gw, session[1], h.now_ns);
    smoe_gateway_received(h.gw, session[SMOE_GATE_ADMINS_MAX], bytes, sizeof bytes, h.now_ns);
    smoe_gateway_goodbye(h.gw, "over");
    cr_assert(smoe_gateway_closing(h.gw, session[2]));
    smoe_gateway_check(h.gw);
}

/* What is drained is a connection: one that is not there cannot be promised to be. */
Test(gateway, drains_only_who_is_there, .init = begin, .fini = end)
{
    struct smoe_message hello = hello_of(SMOE_ROLE_WORKER, "w");
    cr_assert_eq(smoe_gateway_drain(h.gw, "w", true, h.now_ns), SMOE_EUNKNOWN);
    cr_assert_eq(open_peer(W0, SMOE_ROLE_WORKER), 0);
    say(W0, &hello, NULL, 0);
    cr_assert_eq(smoe_gateway_drain(h.gw, "w", true, h.now_ns), SMOE_ESTATE, "it still joins");
    say(W0, &(struct smoe_message){.type = SMOE_MSG_INVENTORY}, NULL, 0);
    cr_assert_eq(smoe_gateway_drain(h.gw, "w", true, h.now_ns), 0);
    cr_assert_eq(smoe_gateway_drain(h.gw, "w", true, h.now_ns), 0, "again");
    cr_assert_eq(smoe_core_fleet(smoe_gateway_core(h.gw))->workers[0].state, SMOE_WORKER_DRAINING);
    cr_assert_eq(smoe_gateway_drain(h.gw, "w", false, h.now_ns), 0);
    hang_up(W0);
    cr_assert_eq(smoe_core_fleet(smoe_gateway_core(h.gw))->workers[0].state, SMOE_WORKER_LOST);
    cr_assert_eq(smoe_gateway_drain(h.gw, "w", true, h.now_ns), SMOE_ESTATE);
    cr_assert_eq(smoe_gateway_drain(h.gw, "w", false, h.now_ns), 0, "there is nothing to undo");
}

/* Its place is needed while it still shakes hands: the transport notices later than the gateway. */
Test(gateway, takes_no_administrator_whose_place_was_given_away, .init = begin, .fini = end)
{
    uint32_t session[SMOE_GATE_STRANGERS_OF_ONE + 1];
    for (unsigned i = 0; i <= SMOE_GATE_STRANGERS_OF_ONE; i++) {
        cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &session[i]), 0);
        smoe_gateway_came_from(h.gw, session[i], 7, h.now_ns);
    }
    cr_assert(smoe_gateway_closing(h.gw, session[SMOE_GATE_STRANGERS_OF_ONE]));
    smoe_gateway_identify(h.gw, session[SMOE_GATE_STRANGERS_OF_ONE], SMOE_ROLE_ADMIN, "root");
    cr_assert_eq(smoe_gateway_administered(h.gw, session[SMOE_GATE_STRANGERS_OF_ONE]),
                 SMOE_ECLOSED);
    cr_assert(smoe_gateway_closing(h.gw, session[SMOE_GATE_STRANGERS_OF_ONE]));
    smoe_gateway_check(h.gw);
}
