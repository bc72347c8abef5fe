/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop runs only while somebody waits: smoe_caller_turn sends the first request, each answer sends the next, and
 * the answer that comes too late for another one stops the loop.
 */
#include "bench/caller.h"

#include <string.h>

#include "common/io/addr.h"
#include "common/io/clock.h"

#define PATIENCE_MS 5000

/* ---- the owner ---- */

static uint8_t *direct(void *context, size_t *ret_room)
{
    (void)context, (void)ret_room;
    return NULL;
}

static void ask(struct smoe_caller *c)
{
    c->sent = 0;
    c->have = 0;
    smoe_conn_flush(&c->conn);
}

static void answered(struct smoe_caller *c)
{
    uint64_t now = smoe_clock_monotonic_ns();
    c->answers++;
    c->ended_ns = now;
    if (now < c->until_ns)
        ask(c);
    else
        uv_stop(c->loop);
}

static void on_frame(void *context, struct smoe_peer *peer, const struct smoe_frame_header *frame,
                     const uint8_t *body)
{
    struct smoe_caller *c = context;
    (void)peer, (void)body;
    if (frame->type == c->awaited)
        answered(c);
}

static void received(void *context, const uint8_t *data, size_t n)
{
    struct smoe_caller *c = context;
    if (!c->answer_bytes) {
        if (!smoe_peer_feed(&c->frames, data, n, on_frame, c))
            smoe_conn_close(&c->conn, UV_EPROTO);
        return;
    }
    c->have += n;
    if (c->have >= c->answer_bytes)
        answered(c);
}

static size_t peek(void *context, struct iovec *iovecs, size_t max)
{
    struct smoe_caller *c = context;
    (void)max;
    if (c->sent == c->request_bytes)
        return 0;
    iovecs[0] = (struct iovec){c->request + c->sent, c->request_bytes - c->sent};
    return 1;
}

static void consume(void *context, size_t bytes)
{
    struct smoe_caller *c = context;
    c->sent += bytes;
}

static void closed(void *context, int status)
{
    struct smoe_caller *c = context;
    (void)status;
    c->gone = true;
    uv_stop(c->loop);
}

static void connected(void *context, int status)
{
    struct smoe_caller *c = context;
    c->connected = status == 0;
    uv_stop(c->loop);
}

/* ---- waiting ---- */

static void on_patience(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

/* Runs the loop until `*done`, or it is gone, or patience ends. */
static bool await(struct smoe_caller *c, const bool *done, uint64_t answers)
{
    uv_timer_t timer;
    uv_timer_init(c->loop, &timer);
    uv_timer_start(&timer, on_patience, PATIENCE_MS, 0);
    while (!c->gone && uv_is_active((uv_handle_t *)&timer) &&
           (done ? !*done : c->answers == answers))
        uv_run(c->loop, UV_RUN_DEFAULT);
    bool patient = uv_is_active((uv_handle_t *)&timer);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(c->loop, UV_RUN_NOWAIT);
    return patient && !c->gone;
}

/* ---- from outside ---- */

int smoe_caller_connect(struct smoe_caller *c, uv_loop_t *loop, const char *address,
                        struct smoe_tls_context *tls, uint8_t *scratch, struct smoe_why *why)
{
    struct smoe_conn_owner owner = {.context = c,
                                    .direct = direct,
                                    .received = received,
                                    .peek = peek,
                                    .consume = consume,
                                    .closed = closed};
    struct smoe_addr to;
    *c = (struct smoe_caller){.loop = loop, .frames = {.fd = -1}};
    int rc = smoe_addr_parse(address, &to, why);
    if (rc == 0 && (rc = smoe_peer_cutter(&c->frames)))
        return smoe_fail(why, rc, "out of memory");
    if (rc == 0 && tls)
        rc = smoe_tls_wrap(&c->tls, tls, &c->conn, &owner, &owner);
    c->tls.connected = connected;
    if (rc == 0)
        rc = smoe_conn_connect(&c->conn, loop, &to.sa, &owner, scratch,
                               tls ? smoe_tls_connected : connected);
    if (rc) {
        smoe_tls_release(&c->tls);
        return smoe_fail(why, rc, "connect %s: %s", address, smoe_strerror(rc));
    }
    c->begun = true;
    if (await(c, &c->connected, 0))
        return 0;
    return smoe_fail(why, SMOE_ECLOSED, "connect %s: %s", address,
                     *c->tls.why.text ? c->tls.why.text : "no answer");
}

/* Sends a message, and waits for one of the type `awaited`. */
static int call(struct smoe_caller *c, struct smoe_wire *wire, const struct smoe_message *message,
                enum smoe_message_type awaited, struct smoe_why *why)
{
    uint64_t answers = c->answers;
    c->request_bytes = smoe_peer_encode(wire, message, 0, c->request, sizeof c->request);
    c->awaited = awaited;
    c->until_ns = 0;
    ask(c);
    if (await(c, NULL, answers))
        return 0;
    return smoe_fail(why, SMOE_ECLOSED, "gateway: no %s came%s%s",
                     smoe_message_name((uint16_t)awaited), *c->tls.why.text ? ": " : "",
                     c->tls.why.text);
}

int smoe_caller_hello(struct smoe_caller *c, struct smoe_wire *wire, enum smoe_role role,
                      const char *name, struct smoe_why *why)
{
    struct smoe_message hello, ping = {.type = SMOE_MSG_PING};
    smoe_peer_introduce(role, name, &hello);
    int rc = call(c, wire, &hello, SMOE_MSG_WELCOME, why);
    if (rc == 0 && role == SMOE_ROLE_WORKER) {
        struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
        c->request_bytes = smoe_peer_encode(wire, &inventory, 0, c->request, sizeof c->request);
        ask(c);
    }
    return rc ? rc : call(c, wire, &ping, SMOE_MSG_PONG, why);
}

void smoe_caller_ask_bytes(struct smoe_caller *c, size_t bytes)
{
    memset(c->request, 0, sizeof c->request);
    c->request_bytes = c->sent = c->answer_bytes = bytes;
}

double smoe_caller_turn(struct smoe_caller *c, uint64_t ms)
{
    uint64_t answers = c->answers, began = smoe_clock_monotonic_ns();
    c->until_ns = began + ms * 1000000;
    ask(c);
    bool done = false;
    while (!c->gone && !done) {
        if (!await(c, NULL, c->answers))
            return 0;
        done = c->ended_ns >= c->until_ns;
    }
    return c->answers > answers
               ? (double)(c->ended_ns - began) * 1e-3 / (double)(c->answers - answers)
               : 0;
}

void smoe_caller_close(struct smoe_caller *c)
{
    if (c->begun && !c->gone) {
        smoe_conn_close(&c->conn, 0);
        while (!c->gone)
            uv_run(c->loop, UV_RUN_DEFAULT);
    }
    if (c->loop)
        smoe_peer_release(&c->frames);
    *c = (struct smoe_caller){.loop = NULL};
}
