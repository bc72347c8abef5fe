/* SPDX-License-Identifier: Apache-2.0
 *
 * The compute threads of a worker and the loop they work for: tasks are handed over and taken back
 * while the duty changes, results are those of the reference kernel, and the lanes can be closed
 * in the middle of their work. Run under ThreadSanitizer this shows that nothing is touched by two
 * at a time.
 */
#include <math.h>
#include <string.h>

#include "client/worker/shell/lanes.h"
#include "tests/unit/mail/mail.h"
#include "tests/unit/threads/must.h"

enum { EXPERTS = 3, D = 64, H = 128, ROWS = 1000, PARCELS = 12, LANES = 3, LAYER = 0 };

static struct bench {
    uv_loop_t loop;
    uv_timer_t pulse;
    struct smoe_agent *agent;
    struct smoe_lanes *lanes;
    struct far_end far;
    uint64_t sequence, now_ns;
    unsigned pulses, closed;
    size_t expected; /* letters of `expected_type` that end the run */
    enum smoe_message_type expected_type;
    bool stop_early;
    double duty; /* 0: now one, now another */
} b;

static smoe_real rows[ROWS * D], y[ROWS * D];

/* ---- transport ---- */

static void read_all(void)
{
    struct iovec iovec;
    while (smoe_agent_peek(b.agent, &iovec, 1)) {
        far_end_hear(&b.far, iovec.iov_base, iovec.iov_len);
        smoe_agent_consume(b.agent, iovec.iov_len);
    }
}

static void say(const struct smoe_message *m, const void *raw, size_t raw_bytes)
{
    struct smoe_why why;
    far_end_say(&b.far, m, raw, raw_bytes);
    must(smoe_agent_received(b.agent, b.far.out, b.far.n_out, ++b.now_ns, &why) == 0);
    read_all();
}

/* ---- the loop ---- */

static void on_changed(void *context)
{
    (void)context;
    smoe_agent_check(b.agent);
    read_all();
    smoe_lanes_feed(b.lanes);
    if (mail_count(&b.far.mail, ANYONE, b.expected_type) >= b.expected)
        uv_stop(&b.loop);
}

/* Looks at how far the lanes are, as a report does, and changes what they may use. */
static void on_pulse(uv_timer_t *timer)
{
    struct smoe_msg_report report;
    (void)timer;
    smoe_agent_counters(b.agent, &report);
    smoe_lanes_set_duty(b.lanes, b.duty > 0 ? b.duty : b.pulses % 2 ? 1 : 0.5);
    b.pulses++;
    if (b.stop_early && b.pulses == 2)
        uv_stop(&b.loop);
}

static void run_until(enum smoe_message_type type, size_t n)
{
    b.expected_type = type;
    b.expected = n;
    smoe_lanes_feed(b.lanes);
    uv_run(&b.loop, UV_RUN_DEFAULT);
}

/* ---- the gateway ---- */

static void connect_agent(void)
{
    static const uint32_t experts[] = {0, 1, 2};
    struct smoe_message welcome = {.type = SMOE_MSG_WELCOME};
    struct smoe_message host = {.type = SMOE_MSG_HOST};
    welcome.welcome = (struct smoe_msg_welcome){.protocol = 1,
                                                .epoch = 1,
                                                .slot_us = 20000,
                                                .tensor_bytes_max = 1 << 24,
                                                .silence_ms_max = 1000,
                                                .attempt = 1};
    host.host = (struct smoe_msg_host){
        .layer = LAYER,
        .name = "moe",
        .run = 9,
        .shape = {.experts = EXPERTS,
                  .d_model = D,
                  .d_ff = H,
                  .activation = SMOE_RELU,
                  .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                  .optimizer = SMOE_SGD,
                  .seed = 3},
        .experts = experts,
        .n_experts = EXPERTS,
        .fresh = true,
    };
    far_end_open(&b.far, SMOE_BY_WORKER);
    smoe_agent_connected(b.agent, b.now_ns);
    read_all();
    say(&welcome, NULL, 0);
    say(&host, NULL, 0);
}

static void decide(uint64_t parcel)
{
    struct smoe_parcel_head head = {parcel, LAYER, (uint32_t)(parcel % EXPERTS), ROWS, true,
                                    false,  0};
    struct smoe_message m = {.type = SMOE_MSG_DECISION};
    m.decision = (struct smoe_msg_decision){++b.sequence, 1, 0, &head, 1};
    say(&m, rows, sizeof rows);
}

static void backprop(uint64_t parcel)
{
    struct smoe_message m = {.type = SMOE_MSG_BACKPROP};
    m.backprop = (struct smoe_msg_backprop){&parcel, 1, ++b.sequence};
    say(&m, rows, sizeof rows);
}

/* ---- what must come out ---- */

static void check_outputs(void)
{
    static const struct smoe_ffn_shape shape = {D, H, SMOE_RELU};
    smoe_real *weights = malloc(smoe_ffn_layout(&shape).n_params * sizeof *weights);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        smoe_ffn_init(&shape, 3, e, false, weights);
        smoe_ffn_forward_reference(&shape, weights, ROWS, rows, y);
        for (size_t i = 0; i < b.far.mail.n; i++) {
            const struct letter *l = &b.far.mail.letters[i];
            const smoe_real *out = (const smoe_real *)(const void *)l->raw;
            if (l->m.type != SMOE_MSG_OUTPUT || l->m.output.parcel % EXPERTS != e)
                continue;
            must(l->raw_bytes == sizeof y);
            for (size_t j = 0; j < ROWS * D; j++)
                must(fabs((double)(out[j] - y[j])) < 1e-4);
        }
    }
    free(weights);
}

static void on_closed(void *context)
{
    (void)context;
    b.closed++;
}

static void begin(void)
{
    struct smoe_agent_options o = {.id = "w",
                                   .incarnation = 3,
                                   .lanes = LANES,
                                   .freq_nominal_hz = 1e9,
                                   .freq_max_hz = 1e9,
                                   .freq_driver = "duty",
                                   .experts_bytes_max = 1 << 26,
                                   .tensors_bytes_max = 1 << 28,
                                   .inbox_bytes_max = 1 << 28};
    struct smoe_why why;
    memset(&b, 0, sizeof b);
    b.now_ns = 1;
    must(smoe_agent_new(&o, &b.agent, &why) == 0);
    connect_agent();
    uv_loop_init(&b.loop);
    uv_timer_init(&b.loop, &b.pulse);
    uv_timer_start(&b.pulse, on_pulse, 5, 5);
    must(smoe_lanes_start(&b.loop, LANES, b.agent, on_changed, NULL, &b.lanes) == 0);
}

static void end(void)
{
    smoe_lanes_close(b.lanes, on_closed, NULL);
    uv_close((uv_handle_t *)&b.pulse, NULL);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    must(b.closed == 1);
    must(uv_loop_close(&b.loop) == 0);
    smoe_agent_free(b.agent);
    far_end_close(&b.far);
}

static void everything_comes_back_right(void)
{
    begin();
    for (uint64_t p = 1; p <= PARCELS; p++)
        decide(p);
    run_until(SMOE_MSG_OUTPUT, PARCELS);
    check_outputs();
    for (uint64_t p = 1; p <= PARCELS; p++)
        backprop(p);
    run_until(SMOE_MSG_PARCEL_GRADIENT, PARCELS);
    end();
}

static void lanes_close_in_the_middle_of_their_work(void)
{
    begin();
    b.stop_early = true;
    for (uint64_t p = 1; p <= PARCELS; p++)
        decide(p);
    run_until(SMOE_MSG_OUTPUT, PARCELS);
    end();
}

/* After its first slice each lane rests for days. */
static void lanes_close_in_the_middle_of_their_rest(void)
{
    begin();
    b.stop_early = true;
    b.duty = 1e-11;
    smoe_lanes_set_duty(b.lanes, b.duty);
    for (uint64_t p = 1; p <= PARCELS; p++)
        decide(p);
    run_until(SMOE_MSG_OUTPUT, PARCELS);
    end();
}

int main(void)
{
    for (size_t i = 0; i < ROWS * D; i++)
        rows[i] = (smoe_real)sin((double)i);
    everything_comes_back_right();
    lanes_close_in_the_middle_of_their_work();
    lanes_close_in_the_middle_of_their_rest();
    return 0;
}
