/* SPDX-License-Identifier: Apache-2.0
 *
 *     WAITING --timer--> RESOLVING --> CONNECTING --> UP
 *        ^__________________|______________|___________|   any end of it
 */
#include "client/worker/shell/link.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/io/addr.h"
#include "common/io/clock.h"
#include "common/io/conn.h"

#define PAUSE_MIN_MS 50
#define PAUSE_MAX_MS 2000
#define GOODBYE_MS   500
#define CONNECT_MS   3000

struct smoe_link {
    uv_loop_t *loop;
    struct smoe_agent *agent;
    struct smoe_log *log;
    void (*changed)(void *context);
    void (*standing)(void *context, const struct smoe_addr *own); /* or NULL */
    void *context;
    char host[SMOE_HOST_MAX + 1];
    uint16_t port;
    struct smoe_rng rng;
    uint64_t pause_ms;
    unsigned turn;    /* attempts that failed: whose of the gateway's addresses it is */
    uv_timer_t timer; /* pause, connect time-out, goodbye */
    uv_getaddrinfo_t resolve;
    struct smoe_tls_context *secure; /* NULL: plaintext */
    struct smoe_tls tls;
    struct smoe_conn conn;
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
    bool resolving, conn_open, connected, closing;
    struct smoe_why why;
    struct smoe_why told; /* why there is no gateway, as last logged: said again when it changes */
    void (*closed)(void *context);
    void *closed_context;
};

static void attempt(uv_timer_t *timer);

static void on_timer_closed(uv_handle_t *handle)
{
    struct smoe_link *l = handle->data;
    void (*closed)(void *) = l->closed;
    void *context = l->closed_context;
    free(l);
    closed(context);
}

static void finish_close(struct smoe_link *l)
{
    if (l->resolving || l->conn_open || uv_is_closing((uv_handle_t *)&l->timer))
        return;
    uv_close((uv_handle_t *)&l->timer, on_timer_closed);
}

static void try_later(struct smoe_link *l, const char *why)
{
    if (l->closing) {
        finish_close(l);
        return;
    }
    if (strcmp(l->told.text, why) != 0)
        smoe_log(l->log, SMOE_LOG_WARNING, smoe_msg("no gateway, trying again"),
                 smoe_text_field("why", why));
    smoe_fail(&l->told, 0, "%s", why);
    l->turn++;
    uint64_t jitter = smoe_rng_below(&l->rng, l->pause_ms + 1);
    uv_timer_start(&l->timer, attempt, l->pause_ms / 2 + jitter, 0);
    l->pause_ms = l->pause_ms * 2 < PAUSE_MAX_MS ? l->pause_ms * 2 : PAUSE_MAX_MS;
}

/* ---- the connection ---- */

static uint8_t *link_direct(void *context, size_t *ret_room)
{
    return smoe_agent_direct(((struct smoe_link *)context)->agent, ret_room);
}

static size_t link_peek(void *context, struct iovec *iovecs, size_t max)
{
    return smoe_agent_peek(((struct smoe_link *)context)->agent, iovecs, max);
}

static void link_consume(void *context, size_t bytes)
{
    smoe_agent_consume(((struct smoe_link *)context)->agent, bytes);
}

static void link_received(void *context, const uint8_t *data, size_t n)
{
    struct smoe_link *l = context;
    bool was_welcomed = smoe_agent_welcomed(l->agent);
    int rc = smoe_agent_received(l->agent, data, n, smoe_clock_monotonic_ns(), &l->why);
    if (!was_welcomed && smoe_agent_welcomed(l->agent)) {
        smoe_log(l->log, SMOE_LOG_NOTICE, smoe_msg("joined the gateway"),
                 smoe_text_field("host", l->host), smoe_u64_field("port", l->port));
        *l->told.text = 0;
        l->pause_ms = PAUSE_MIN_MS;
    }
    if (rc)
        smoe_conn_close_flushed(&l->conn);
    else
        smoe_conn_flush(&l->conn);
    l->changed(l->context);
}

/* Somebody who wants a key ends a connection without one, and says nothing. */
static const char *why_closed(const struct smoe_link *l, int status, bool was_welcomed)
{
    return *l->why.text       ? l->why.text
           : *l->tls.why.text ? l->tls.why.text
           : status           ? uv_strerror(status)
           : l->secure || was_welcomed
               ? "it closed the connection"
               : "it closed the connection without a word: perhaps it wants a key (--key)";
}

static void link_closed(void *context, int status)
{
    struct smoe_link *l = context;
    bool was_welcomed = smoe_agent_welcomed(l->agent);
    l->conn_open = false;
    uv_timer_stop(&l->timer);
    if (l->connected)
        smoe_agent_disconnected(l->agent);
    l->connected = false;
    const char *why = why_closed(l, status, was_welcomed);
    if (was_welcomed && !l->closing)
        smoe_log(l->log, SMOE_LOG_WARNING, smoe_msg("lost the gateway"),
                 smoe_text_field("why", why));
    try_later(l, why);
    *l->why.text = 0;
}

static void on_connect_timeout(uv_timer_t *timer)
{
    struct smoe_link *l = timer->data;
    smoe_conn_close(&l->conn, UV_ETIMEDOUT);
}

static void link_connected(void *context, int status)
{
    struct smoe_link *l = context;
    uv_timer_stop(&l->timer);
    if (status)
        return; /* closed follows */
    struct smoe_addr own = {0};
    int bytes = sizeof own;
    if (l->standing && uv_tcp_getsockname(&l->conn.tcp, &own.sa, &bytes) == 0)
        l->standing(l->context, &own);
    l->connected = true;
    smoe_agent_connected(l->agent, smoe_clock_monotonic_ns());
}

static void connect_to(struct smoe_link *l, const struct smoe_addr *address)
{
    struct smoe_conn_owner owner = {.context = l,
                                    .direct = link_direct,
                                    .received = link_received,
                                    .peek = link_peek,
                                    .consume = link_consume,
                                    .closed = link_closed};
    if (!l->secure && !smoe_addr_is_loopback(address)) {
        try_later(l,
                  "it is not on this machine, and without a key (--key) nothing is sent further");
        return;
    }
    l->tls = (struct smoe_tls){.ssl = NULL};
    int rc = l->secure ? smoe_tls_wrap(&l->tls, l->secure, &l->conn, &owner, &owner) : 0;
    l->tls.connected = link_connected;
    if (rc == 0)
        rc = smoe_conn_connect(&l->conn, l->loop, &address->sa, &owner, l->scratch,
                               l->secure ? smoe_tls_connected : link_connected);
    if (rc) {
        smoe_tls_release(&l->tls);
        try_later(l, smoe_strerror(rc));
        return;
    }
    l->conn_open = true;
    uv_timer_start(&l->timer, on_connect_timeout, CONNECT_MS, 0);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *result)
{
    struct smoe_link *l = request->data;
    l->resolving = false;
    if (status || l->closing) {
        uv_freeaddrinfo(result);
        try_later(l, status ? uv_strerror(status) : ""); /* of 0 it makes a text, and keeps it */
        return;
    }
    struct smoe_addr address;
    smoe_addr_choose(result, l->turn, l->port, &address);
    uv_freeaddrinfo(result);
    connect_to(l, &address);
}

static void attempt(uv_timer_t *timer)
{
    struct smoe_link *l = timer->data;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    l->resolve.data = l;
    int rc = uv_getaddrinfo(l->loop, &l->resolve, on_resolved, l->host, NULL, &hints);
    l->resolving = rc == 0;
    if (rc)
        try_later(l, uv_strerror(rc));
}

/* ---- beginning and end ---- */

int smoe_link_start(uv_loop_t *loop, const char *gateway, uint64_t seed, struct smoe_agent *agent,
                    struct smoe_log *log, void (*changed)(void *context), void *context,
                    struct smoe_link **ret, struct smoe_why *why)
{
    struct smoe_link *l = calloc(1, sizeof *l);
    if (!l)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    int rc = smoe_addr_split(gateway, l->host, &l->port, why);
    if (rc) {
        free(l);
        return rc;
    }
    l->loop = loop;
    l->agent = agent;
    l->log = log;
    l->changed = changed;
    l->context = context;
    l->pause_ms = PAUSE_MIN_MS;
    smoe_rng_init(&l->rng, seed, 0);
    uv_timer_init(loop, &l->timer);
    l->timer.data = l;
    uv_timer_start(&l->timer, attempt, 0, 0);
    *ret = l;
    return 0;
}

void smoe_link_when_standing(struct smoe_link *l,
                             void (*standing)(void *context, const struct smoe_addr *own))
{
    l->standing = standing;
}

void smoe_link_secure(struct smoe_link *l, struct smoe_tls_context *tls)
{
    l->secure = tls;
}

void smoe_link_flush(struct smoe_link *l)
{
    if (l->connected && smoe_agent_speechless(l->agent))
        smoe_conn_close(&l->conn, UV_ENOMEM);
    else if (l->connected)
        smoe_conn_flush(&l->conn);
}

static void on_goodbye_timeout(uv_timer_t *timer)
{
    struct smoe_link *l = timer->data;
    smoe_conn_close(&l->conn, 0);
}

void smoe_link_close(struct smoe_link *l, void (*closed)(void *context), void *context)
{
    l->closing = true;
    l->closed = closed;
    l->closed_context = context;
    uv_timer_stop(&l->timer);
    if (l->resolving)
        (void)uv_cancel((uv_req_t *)&l->resolve);
    if (l->conn_open) {
        if (l->connected)
            smoe_agent_leave(l->agent, "the worker is shutting down");
        uv_timer_start(&l->timer, on_goodbye_timeout, GOODBYE_MS, 0);
        smoe_conn_close_flushed(&l->conn);
    }
    finish_close(l);
}
