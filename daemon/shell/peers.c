/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes go from a connection into the gateway and out of it into connections. After each batch of input
 * everything the gateway marked dirty is flushed once: a slot's decisions leave as one write per worker, and
 * with io_uring as one system call for many of them. The gateway's clock is one alarm on absolute deadlines:
 * it is set again from smoe_gateway_wake_ns after every call, so it cannot drift.
 *
 * A session that the gateway wants closed is flushed first; a peer that does not read is cut off after
 * CLOSE_MS. When descriptors or memory run out, new connections wait in the kernel's backlog
 * (common/io/listener.h); RESERVE descriptors are left to those who ask for the status, administer, and
 * to files. What strangers can cause at will is logged at a limited rate.
 */
#include "daemon/shell/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/list.h"
#include "common/io/alarm.h"
#include "common/io/clock.h"
#include "common/io/conn.h"
#include "common/io/listener.h"
#include "common/io/ring.h"
#include "daemon/shell/peers_admin.h"

#define BACKLOG   1024
#define CLOSE_MS  1000
#define ADMIN_MS  5000 /* for an administrator to ask, and as long to read the answer */
#define SECOND_NS UINT64_C(1000000000)
#define AT_ONCE   16 /* connections taken within TURN_NS: the others then have a turn */
#define TURN_NS   UINT64_C(1000000)
#define RESERVE   48 /* two sockets with 16 clients each, and a few files */

struct peer {
    struct smoe_conn conn;
    /* What a message needs, beside what conn needs for it: */
    struct smoe_peers *peers;
    struct smoe_peers_admin *admin; /* owned; NULL: it is none, or not known to be one */
    uint32_t session;

    struct smoe_tls tls; /* zeroed: plaintext */
    uv_timer_t cut;      /* closes a connection that does not take its last bytes */
    bool cut_running;
    unsigned handles; /* open: connection and timer */
    struct smoe_list link;
};

struct smoe_peers {
    uv_loop_t *loop;
    struct smoe_ring *ring;       /* NULL: epoll */
    char backend[80];             /* for people: which, and why not the other */
    struct smoe_tls_context *tls; /* NULL: plaintext */
    uint64_t refused;
    struct smoe_listener listener;
    struct smoe_alarm clock;
    struct smoe_gateway *gateway;
    struct smoe_log *log;
    smoe_line_answer administer;
    void *context;            /* of administer */
    struct peer **by_session; /* [n_sessions] */
    struct smoe_list all;
    uint8_t *scratch;
    struct smoe_log_limit waits, strangers, ends; /* how often these are logged */
    uint64_t turn_ns;                             /* since when so many were taken */
    unsigned taken;
    int waiting;       /* why connections wait, a libuv error; 0: they do not */
    uint64_t clock_ns; /* what `clock` is set to; 0: it has fired */
    bool listening, closing, flushing;
    unsigned handles; /* listener, clock and ring still open */
    void (*done)(void *context);
    void *done_context;
};

static void on_handle_closed(void *context);

/* The ring last: connections have reads under way in it. */
static void finish_if_closed(struct smoe_peers *p)
{
    if (!p->closing || p->handles || !smoe_list_empty(&p->all))
        return;
    if (p->ring) {
        struct smoe_ring *ring = p->ring;
        p->ring = NULL;
        p->handles++;
        smoe_ring_close(ring, on_handle_closed, p);
        return;
    }
    void (*done)(void *) = p->done;
    void *context = p->done_context;
    free(p->by_session);
    free(p->scratch);
    free(p);
    done(context);
}

/* ---- one peer ---- */

static void peer_gone(struct peer *peer)
{
    struct smoe_peers *p = peer->peers;
    if (--peer->handles)
        return;
    smoe_list_remove(&peer->link);
    if (peer->admin)
        smoe_peers_admin_release(peer->admin);
    free(peer->admin);
    free(peer);
    finish_if_closed(p);
}

static void on_cut_closed(uv_handle_t *handle)
{
    peer_gone(handle->data);
}

static void log_end(const struct peer *peer, int status)
{
    struct smoe_peers *p = peer->peers;
    const char *name = smoe_gateway_peer_name(p->gateway, peer->session);
    const char *reason = smoe_gateway_close_reason(p->gateway, peer->session);
    uint64_t suppressed;
    if (!*name && *peer->tls.why.text)
        reason = peer->tls.why.text;
    if (!smoe_log_allowed(*name ? &p->ends : &p->strangers, smoe_clock_monotonic_ns(), &suppressed))
        return;
    smoe_log(p->log, SMOE_LOG_INFO, smoe_msg("disconnected"),
             smoe_text_field("peer", *name ? name : "stranger"),
             smoe_text_field("why", *reason      ? reason
                                    : status < 0 ? uv_strerror(status)
                                                 : "closed by peer"),
             smoe_u64_field(suppressed ? "suppressed" : NULL, suppressed));
}

static void on_conn_closed(void *context, int status)
{
    struct peer *peer = context;
    struct smoe_peers *p = peer->peers;
    p->refused += *peer->tls.why.text && !*smoe_gateway_peer_name(p->gateway, peer->session);
    log_end(peer, status);
    p->by_session[peer->session] = NULL;
    smoe_gateway_closed(p->gateway, peer->session, smoe_clock_monotonic_ns());
    uv_close((uv_handle_t *)&peer->cut, on_cut_closed);
    smoe_peers_flush(p);
    peer_gone(peer);
}

static void on_cut(uv_timer_t *timer)
{
    struct peer *peer = timer->data;
    smoe_conn_close(&peer->conn, UV_ETIMEDOUT);
}

static void cut_after(struct peer *peer, uint64_t ms)
{
    if (!uv_is_closing((uv_handle_t *)&peer->cut))
        uv_timer_start(&peer->cut, on_cut, ms, 0);
}

/* An administrator's bytes: when its line is whole it has been obeyed, and the connection ends. */
static void admin_received(struct peer *peer, const uint8_t *data, size_t n)
{
    struct smoe_peers *p = peer->peers;
    if (!smoe_peers_admin_received(peer->admin, data, n, p->administer, p->context))
        return;
    smoe_gateway_dismiss(p->gateway, peer->session, 0, "answered", smoe_clock_monotonic_ns());
}

static uint8_t *peer_direct(void *context, size_t *ret_room)
{
    struct peer *peer = context;
    if (peer->admin)
        return NULL;
    return smoe_gateway_direct(peer->peers->gateway, peer->session, ret_room);
}

static void peer_received(void *context, const uint8_t *data, size_t n)
{
    struct peer *peer = context;
    struct smoe_peers *p = peer->peers;
    if (peer->admin)
        admin_received(peer, data, n);
    else
        smoe_gateway_received(p->gateway, peer->session, data, n, smoe_clock_monotonic_ns());
    smoe_peers_flush(p);
}

static void peer_coming(void *context)
{
    const struct peer *peer = context;
    smoe_gateway_coming(peer->peers->gateway, peer->session);
}

static size_t peer_peek(void *context, struct iovec *iovecs, size_t max)
{
    const struct peer *peer = context;
    if (peer->admin)
        return smoe_peers_admin_peek(peer->admin, iovecs);
    return smoe_gateway_peek(peer->peers->gateway, peer->session, iovecs, max);
}

static void peer_consume(void *context, size_t bytes)
{
    struct peer *peer = context;
    if (peer->admin)
        smoe_peers_admin_consume(peer->admin, bytes);
    else
        smoe_gateway_consume(peer->peers->gateway, peer->session, bytes);
}

/* ---- who it is ---- */

void smoe_peers_established(void *context, const struct smoe_key *key)
{
    struct peer *peer = context;
    struct smoe_gateway *gateway = peer->peers->gateway;
    smoe_gateway_identify(gateway, peer->session, key->role, key->name);
    if (key->role != SMOE_ROLE_ADMIN || smoe_gateway_administered(gateway, peer->session))
        return;
    peer->admin = calloc(1, sizeof *peer->admin);
    if (peer->admin)
        cut_after(peer, ADMIN_MS);
    else
        smoe_conn_close(&peer->conn, UV_ENOMEM);
}

unsigned smoe_peers_revoke(struct smoe_peers *p)
{
    unsigned n = 0;
    smoe_list_for_each (it, &p->all) {
        struct peer *peer = smoe_container_of(it, struct peer, link);
        if (peer->tls.state != SMOE_TLS_OPEN || smoe_tls_is_welcome(&peer->tls) ||
            smoe_gateway_closing(p->gateway, peer->session))
            continue;
        smoe_gateway_dismiss(p->gateway, peer->session, SMOE_EROLE, "its key was revoked",
                             smoe_clock_monotonic_ns());
        n++;
    }
    smoe_peers_flush(p);
    return n;
}

uint64_t smoe_peers_refused(const struct smoe_peers *p)
{
    return p->refused;
}

/* ---- listening ---- */

static void on_full(void *context, int status)
{
    struct smoe_peers *p = context;
    uint64_t suppressed;
    p->waiting = status;
    if (!smoe_log_allowed(&p->waits, smoe_clock_monotonic_ns(), &suppressed))
        return;
    smoe_log(p->log, status ? SMOE_LOG_WARNING : SMOE_LOG_NOTICE,
             smoe_msg(status ? "new connections wait" : "new connections are taken again"),
             smoe_text_field("why", status ? uv_strerror(status) : NULL),
             smoe_u64_field(suppressed ? "suppressed" : NULL, suppressed));
}

const char *smoe_peers_waiting(const struct smoe_peers *p)
{
    return p->waiting ? uv_strerror(p->waiting) : "";
}

/* libuv empties the whole backlog in one turn of the loop: a thousand connections would make the slot late. */
static bool has_had_its_turn(struct smoe_peers *p)
{
    uint64_t now_ns = smoe_clock_monotonic_ns();
    if (now_ns - p->turn_ns >= TURN_NS) {
        p->turn_ns = now_ns;
        p->taken = 0;
    }
    return p->taken++ >= AT_ONCE;
}

/* Whoever speaks plaintext must be of this machine, whatever way it was let through to a loopback address. */
static void check_origin(struct peer *peer)
{
    struct smoe_peers *p = peer->peers;
    struct smoe_addr from = {0};
    int bytes = sizeof from;
    uint64_t suppressed;
    bool gone =
        uv_tcp_getpeername(&peer->conn.tcp, &from.sa, &bytes) != 0; /* what it said may wait */
    if (!gone)
        smoe_gateway_came_from(p->gateway, peer->session, smoe_addr_origin(&from),
                               smoe_clock_monotonic_ns());
    if (p->tls || (!gone && smoe_addr_is_loopback(&from)))
        return;
    p->refused++;
    if (smoe_log_allowed(&p->strangers, smoe_clock_monotonic_ns(), &suppressed))
        smoe_log(p->log, SMOE_LOG_WARNING,
                 smoe_msg("refused: security.insecure is for this machine only"));
    smoe_conn_close(&peer->conn, UV_EACCES);
}

/* A session of the gateway for a new connection, and TLS where it is asked for. 0, or why it must wait. */
static int begin_session(struct peer *peer, struct smoe_conn_owner *owner)
{
    struct smoe_peers *p = peer->peers;
    int rc = smoe_gateway_opened(p->gateway, smoe_clock_monotonic_ns(), &peer->session);
    smoe_peers_flush(p); /* of whoever makes room */
    if (rc)
        return UV_EAGAIN;
    if (p->tls && smoe_tls_wrap(&peer->tls, p->tls, &peer->conn, owner, owner)) {
        smoe_gateway_closed(p->gateway, peer->session, smoe_clock_monotonic_ns());
        return UV_ENOMEM;
    }
    return 0;
}

static int on_connection(void *context, uv_stream_t *server)
{
    struct smoe_peers *p = context;
    if (has_had_its_turn(p))
        return UV_EAGAIN;
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return UV_ENOMEM;
    struct smoe_conn_owner owner = {peer,         peer_direct,    peer_received, peer_peek,
                                    peer_consume, on_conn_closed, peer_coming,   false};
    peer->peers = p;
    int rc = begin_session(peer, &owner);
    if (rc) {
        free(peer);
        return rc;
    }
    peer->handles = 2;
    smoe_list_push_back(&p->all, &peer->link);
    p->by_session[peer->session] = peer;
    uv_timer_init(p->loop, &peer->cut);
    peer->cut.data = peer;
    if (smoe_conn_accept(&peer->conn, server, &owner, p->scratch, p->ring) == 0)
        check_origin(peer);
    smoe_peers_flush(p); /* of whoever made room after all */
    return 0;
}

/* ---- the gateway's clock and output ---- */

static void on_clock(void *context)
{
    struct smoe_peers *p = context;
    uint64_t now = smoe_clock_monotonic_ns();
    p->clock_ns = 0;
    if (now >= smoe_gateway_wake_ns(p->gateway))
        smoe_gateway_tick(p->gateway, now);
    smoe_peers_flush(p);
}

static void set_clock(struct smoe_peers *p)
{
    uint64_t wake = smoe_gateway_wake_ns(p->gateway);
    if (wake == p->clock_ns)
        return;
    p->clock_ns = wake;
    smoe_alarm_set(&p->clock, wake);
}

static void close_flushed(struct peer *peer)
{
    if (!peer->cut_running) {
        peer->cut_running = true;
        cut_after(peer, peer->admin ? ADMIN_MS : CLOSE_MS);
    }
    smoe_conn_close_flushed(&peer->conn);
}

/* Flushes those that are dirty now, at most as many as one batch holds; how many. */
static size_t flush_some(struct smoe_peers *p)
{
    struct smoe_conn *conns[SMOE_RING_SENDS_MAX];
    size_t n = 0;
    uint32_t session;
    while (n < SMOE_RING_SENDS_MAX && smoe_gateway_next_dirty(p->gateway, &session)) {
        struct peer *peer = p->by_session[session];
        if (peer && smoe_gateway_closing(p->gateway, session))
            close_flushed(peer);
        else if (peer)
            conns[n++] = &peer->conn;
    }
    smoe_conn_flush_many(conns, n);
    return n;
}

void smoe_peers_flush(struct smoe_peers *p)
{
    if (p->flushing)
        return; /* a close inside a flush: the loop below sees what it marked */
    p->flushing = true;
    while (flush_some(p))
        ;
    p->flushing = false;
    if (!p->closing)
        set_clock(p);
}

/* ---- beginning and end ---- */

static void on_handle_closed(void *context)
{
    struct smoe_peers *p = context;
    p->handles--;
    finish_if_closed(p);
}

static int open_ring(struct smoe_peers *p, enum smoe_backend backend, struct smoe_why *why)
{
    int rc = backend == SMOE_BACKEND_EPOLL ? 0 : smoe_ring_new(p->loop, &p->ring);
    if (rc && backend == SMOE_BACKEND_IO_URING)
        return smoe_fail(why, rc, "net.backend: io_uring: %s", uv_strerror(rc));
    if (rc)
        snprintf(p->backend, sizeof p->backend, "epoll (io_uring: %s)", uv_strerror(rc));
    else
        snprintf(p->backend, sizeof p->backend, "%s", p->ring ? "io_uring" : "epoll");
    return 0;
}

const char *smoe_peers_backend(const struct smoe_peers *p)
{
    return p->backend;
}

int smoe_peers_start(const struct smoe_peers_options *options, struct smoe_peers **ret,
                     struct smoe_why *why)
{
    struct smoe_peers *p = calloc(1, sizeof *p);
    if (!p)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    *p = (struct smoe_peers){.loop = options->loop,
                             .gateway = options->gateway,
                             .log = options->log,
                             .administer = options->administer,
                             .context = options->context,
                             .tls = options->tls,
                             .listening = true,
                             .handles = 2,
                             .waits = {.interval_ns = 10 * SECOND_NS, .burst = 6},
                             .strangers = {.interval_ns = 10 * SECOND_NS, .burst = 5},
                             .ends = {.interval_ns = SECOND_NS, .burst = 100}};
    smoe_list_init(&p->all);
    p->by_session = calloc(smoe_gateway_sessions_max(p->gateway), sizeof *p->by_session);
    p->scratch = malloc(SMOE_CONN_SCRATCH_BYTES);
    *ret = p;
    int rc = smoe_alarm_init(&p->clock, p->loop, on_clock, p);
    struct smoe_listener_owner owner = {p, on_connection, on_full, RESERVE};
    int listening = smoe_listener_tcp(&p->listener, p->loop, options->address, BACKLOG, &owner);
    rc = rc ? rc : listening;
    if (rc == 0 && (!p->by_session || !p->scratch))
        rc = UV_ENOMEM;
    if (rc) {
        char text[SMOE_ADDR_TEXT_MAX];
        smoe_addr_format(options->address, text);
        return smoe_fail(why, rc, "listen %s: %s", text, uv_strerror(rc));
    }
    if ((rc = open_ring(p, options->backend, why)))
        return rc;
    set_clock(p);
    return 0;
}

void smoe_peers_address(const struct smoe_peers *p, struct smoe_addr *ret)
{
    smoe_listener_address(&p->listener, ret);
}

void smoe_peers_stop_listening(struct smoe_peers *p)
{
    if (!p->listening)
        return;
    p->listening = false;
    smoe_listener_close(&p->listener, on_handle_closed);
}

void smoe_peers_close(struct smoe_peers *p, uint64_t linger_ms, void (*done)(void *context),
                      void *context)
{
    smoe_assert(!p->closing);
    p->done = done;
    p->done_context = context;
    p->handles++; /* for this call */
    smoe_peers_stop_listening(p);
    smoe_peers_flush(p);
    p->closing = true;
    smoe_alarm_close(&p->clock, on_handle_closed);
    smoe_list_for_each_safe (it, &p->all) {
        struct peer *peer = smoe_container_of(it, struct peer, link);
        if (smoe_gateway_closing(p->gateway, peer->session) && linger_ms)
            uv_timer_start(&peer->cut, on_cut, linger_ms, 0);
        else
            smoe_conn_close(&peer->conn, 0);
    }
    on_handle_closed(p);
}
