/* SPDX-License-Identifier: Apache-2.0
 *
 * The C ABI over the uplink: a libuv loop that runs inside the caller's calls, one connection, made
 * again with a doubling pause when it breaks. This file is the connection, the waiting, and the
 * client's beginning and end; what a trainer does with a client is in client_layers.c and
 * client_batches.c.
 *
 * Every waiting call is `smoe_client_wait(client, condition)`: run the loop until the condition holds,
 * the uplink has failed for good, or the gateway has been away for longer than the caller's patience.
 */
#include "client/libstablemoe/shell/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"
#include "common/io/clock.h"
#include "stablemoe/version.h"

#define PATIENCE_MS  60000
#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 1000

/* ---- the connection ---- */

static void attempt(uv_timer_t *timer);

static uint8_t *on_direct(void *context, size_t *ret_room)
{
    return smoe_uplink_direct(((struct smoe_client *)context)->uplink, ret_room);
}

static size_t on_peek(void *context, struct iovec *iovecs, size_t max)
{
    return smoe_uplink_peek(((struct smoe_client *)context)->uplink, iovecs, max);
}

static void on_consume(void *context, size_t bytes)
{
    smoe_uplink_consume(((struct smoe_client *)context)->uplink, bytes);
}

static void on_received(void *context, const uint8_t *data, size_t n)
{
    struct smoe_client *c = context;
    int rc = smoe_uplink_received(c->uplink, data, n, &c->link_why);
    if (smoe_uplink_welcomed(c->uplink)) {
        c->away_since_ns = 0;
        c->pause_ms = PAUSE_MIN_MS;
    }
    if (rc)
        smoe_conn_close_flushed(&c->conn);
    else
        smoe_client_flush(c);
}

static void try_later(struct smoe_client *c)
{
    const char *unused;
    if (c->closing || smoe_uplink_failed(c->uplink, &unused))
        return;
    if (!c->away_since_ns)
        c->away_since_ns = smoe_clock_monotonic_ns();
    uint64_t jitter = smoe_rng_below(&c->rng, c->pause_ms + 1);
    uv_timer_start(&c->pause, attempt, c->pause_ms / 2 + jitter, 0);
    c->pause_ms = c->pause_ms * 2 < PAUSE_MAX_MS ? c->pause_ms * 2 : PAUSE_MAX_MS;
}

static void on_closed(void *context, int status)
{
    struct smoe_client *c = context;
    c->conn_open = false;
    if (c->connected)
        smoe_uplink_disconnected(c->uplink);
    c->connected = false;
    if (*c->tls.why.text)
        c->link_why = c->tls.why;
    else if (status && !*c->link_why.text)
        smoe_fail(&c->link_why, status, "%s: %s", c->gateway, uv_strerror(status));
    try_later(c);
}

static void on_connected(void *context, int status)
{
    struct smoe_client *c = context;
    if (status)
        return; /* closed follows */
    *c->link_why.text = 0;
    c->connected = true;
    smoe_uplink_connected(c->uplink);
}

static void attempt(uv_timer_t *timer)
{
    struct smoe_client *c = timer->data;
    struct smoe_addr address;
    struct smoe_conn_owner owner = {.context = c,
                                    .direct = on_direct,
                                    .received = on_received,
                                    .peek = on_peek,
                                    .consume = on_consume,
                                    .closed = on_closed};
    int rc = smoe_addr_resolve(c->gateway, &address, &c->link_why);
    if (rc == 0 && !c->secure && !smoe_addr_is_loopback(&address))
        rc = smoe_fail(&c->link_why, SMOE_ECONFIG,
                       "%s is not on this machine, and without a key nothing is sent further",
                       c->gateway);
    c->tls = (struct smoe_tls){.ssl = NULL};
    if (rc == 0 && c->secure)
        rc = smoe_tls_wrap(&c->tls, c->secure, &c->conn, &owner, &owner);
    c->tls.connected = on_connected;
    if (rc == 0)
        rc = smoe_conn_connect(&c->conn, &c->loop, &address.sa, &owner, c->scratch,
                               c->secure ? smoe_tls_connected : on_connected);
    c->conn_open = rc == 0;
    if (rc) {
        smoe_tls_release(&c->tls);
        try_later(c);
    }
}

/* ---- waiting ---- */

void smoe_client_flush(struct smoe_client *c)
{
    if (c->connected && smoe_uplink_speechless(c->uplink))
        smoe_conn_close(&c->conn, UV_ENOMEM);
    else if (c->connected)
        smoe_conn_flush(&c->conn);
}

static void tell_done(struct smoe_client *c)
{
    struct smoe_uplink_ticket *t;
    const char *unused;
    while ((t = smoe_uplink_next_done(c->uplink))) {
        int failed = smoe_uplink_failed(c->uplink, &unused);
        t->on_done(t->context, t,
                   t->state == SMOE_TICKET_FAILED ? t->code
                   : t->has_results               ? 0
                                                  : failed);
    }
}

/* Ends uv_run(ONCE), also where it is due before that has begun to wait: libuv runs timers first, and would then
 * wait without one. */
static void on_waking(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

/* Runs what is ready, waiting for it at most `ms`. */
static void run(struct smoe_client *c, uint64_t ms)
{
    smoe_client_flush(c);
    uv_update_time(&c->loop);
    if (ms)
        uv_timer_start(&c->waking, on_waking, ms, 0);
    uv_run(&c->loop, ms ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    uv_timer_stop(&c->waking);
    smoe_client_flush(c);
    tell_done(c);
}

static int check_alive(struct smoe_client *c)
{
    const char *sentence;
    int failed = smoe_uplink_failed(c->uplink, &sentence);
    if (failed)
        return smoe_fail(&c->why, failed, "%s", sentence);
    if (c->away_since_ns && smoe_clock_monotonic_ns() - c->away_since_ns > c->patience_ns)
        return smoe_fail(&c->why, SMOE_ETIMEOUT, "gateway %s is away: %s", c->gateway,
                         *c->link_why.text ? c->link_why.text : "no answer");
    return 0;
}

int smoe_client_wait(struct smoe_client *c, bool (*over)(struct smoe_client *c, void *what),
                     void *what)
{
    while (!over(c, what)) {
        int rc = check_alive(c);
        if (rc)
            return rc;
        run(c, 1000);
    }
    return 0;
}

static bool is_welcomed(struct smoe_client *c, void *what)
{
    (void)what;
    return smoe_uplink_welcomed(c->uplink);
}

int smoe_client_wait_welcome(struct smoe_client *c)
{
    return smoe_client_wait(c, is_welcomed, NULL);
}

/* ---- client ---- */

static int make_uplink(struct smoe_client *c, const char *name)
{
    uint64_t random[3];
    struct smoe_uplink_options o = {.real_bytes = sizeof(smoe_real)};
    int rc = uv_random(NULL, NULL, random, sizeof random, 0, NULL);
    if (rc)
        return smoe_fail(&c->why, rc, "random numbers: %s", uv_strerror(rc));
    o.incarnation = random[0] | 1;
    o.run = random[1] | 1;
    smoe_rng_init(&c->rng, random[2], 0);
    if (!name && *c->key_name)
        snprintf(o.name, sizeof o.name, "%s", c->key_name);
    else if (!name)
        snprintf(o.name, sizeof o.name, "trainer-%08x", (unsigned)(random[0] >> 32));
    else if (smoe_name_valid(name, strnlen(name, SMOE_NAME_MAX + 1)))
        snprintf(o.name, sizeof o.name, "%s", name);
    else
        return smoe_fail(&c->why, SMOE_EFIELD, "name: must be 1..%d of [A-Za-z0-9._-]",
                         SMOE_NAME_MAX);
    snprintf(o.software, sizeof o.software, "libstablemoe %s", STABLEMOE_VERSION);
    rc = smoe_uplink_new(&o, &c->uplink);
    return rc ? smoe_fail(&c->why, rc, "out of memory") : 0;
}

SMOE_API int smoe_client_open(const struct smoe_client_options *options,
                              struct smoe_client **ret_client)
{
    char host[SMOE_HOST_MAX + 1];
    uint16_t port;
    *ret_client = NULL;
    struct smoe_client *c = calloc(1, sizeof *c);
    if (!c)
        return SMOE_ENOMEMORY;
    *ret_client = c;
    smoe_list_init(&c->tickets);
    int rc = smoe_addr_split(options->gateway, host, &port, &c->why);
    if (rc)
        return rc;
    snprintf(c->gateway, sizeof c->gateway, "%s", options->gateway);
    c->patience_ns =
        (options->patience_ms ? options->patience_ms : PATIENCE_MS) * UINT64_C(1000000);
    c->pause_ms = PAUSE_MIN_MS;
    struct smoe_tls_node node = {"key", options->key_file, SMOE_ROLE_TRAINER, options->name};
    if (node.path)
        rc = smoe_tls_context_of(&node, &c->secure, c->key_name, &c->why);
    if (rc == 0)
        rc = make_uplink(c, options->name);
    if (rc)
        return rc;
    rc = uv_loop_init(&c->loop);
    if (rc)
        return smoe_fail(&c->why, rc, "event loop: %s", uv_strerror(rc));
    c->loop_open = true;
    uv_timer_init(&c->loop, &c->pause);
    uv_timer_init(&c->loop, &c->waking);
    c->pause.data = c->waking.data = c;
    c->away_since_ns = smoe_clock_monotonic_ns();
    attempt(&c->pause);
    return smoe_client_wait_welcome(c);
}

SMOE_API void smoe_client_close(struct smoe_client *c)
{
    if (!c)
        return;
    c->closing = true;
    if (c->loop_open) {
        smoe_uplink_leave(c->uplink, "the trainer is done");
        smoe_client_flush(c);
        if (c->conn_open)
            smoe_conn_close(&c->conn, 0);
        uv_close((uv_handle_t *)&c->pause, NULL);
        uv_close((uv_handle_t *)&c->waking, NULL);
        uv_run(&c->loop, UV_RUN_DEFAULT);
        uv_loop_close(&c->loop);
    }
    smoe_uplink_free(c->uplink);
    smoe_client_free_tickets(c);
    smoe_tls_context_free(c->secure);
    free(c);
}

SMOE_API const char *smoe_client_error(const struct smoe_client *c)
{
    return c ? c->why.text : "out of memory";
}

SMOE_API int smoe_poll(struct smoe_client *c, uint32_t timeout_ms)
{
    run(c, timeout_ms);
    return check_alive(c);
}

SMOE_API uint64_t smoe_client_step(const struct smoe_client *c)
{
    return smoe_uplink_steps(c->uplink);
}

SMOE_API const char *smoe_client_policy(const struct smoe_client *c)
{
    return smoe_uplink_policy(c->uplink);
}
