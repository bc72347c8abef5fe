/* SPDX-License-Identifier: Apache-2.0
 *
 * A meeting is a connection with another worker, dialled or accepted:
 *
 *     dialled --TCP--> its link says hello (TLS in between) --> up --> closed, dialled again after a pause
 *     accepted --TLS, or at once--> its link listens for hello --> up --> closed
 *
 * One that is not up in SMOE_LINK_PATIENCE_NS is closed. Strangers, accepted and not yet up, are at most
 * SMOE_LINK_STRANGERS_MAX: the oldest makes room, once it has had a moment; nobody is answered who does not know the
 * key of a link that this worker has been told of.
 */
#include "client/worker/shell/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/shell/peers_keys.h"
#include "common/base/list.h"
#include "common/base/wipe.h"
#include "common/io/clock.h"
#include "common/io/conn.h"
#include "common/io/listener.h"

#define BACKLOG         64
#define LOG_INTERVAL_NS UINT64_C(1000000000)
#define LOG_BURST       10
#define GRACE_NS        UINT64_C(20000000) /* that a stranger has, whatever crowd comes behind it */

struct meeting {
    struct smoe_list node;
    struct smoe_worker_peers *peers;
    struct smoe_conn conn;
    struct smoe_tls tls;          /* zeroed without TLS */
    struct smoe_key key;          /* of the link, if dialled */
    smoe_name other;              /* "" while it is not known */
    struct smoe_agent_link *link; /* NULL: it does not stand yet */
    uint64_t id;                  /* of the link; 0: accepted */
    uint64_t begun_ns;
    bool was_up, closing;
};

/* Its listener has closing of its own, so that another can be there before it is gone. */
struct ear {
    struct smoe_listener listener;
    struct smoe_worker_peers *peers;
};

struct smoe_worker_peers {
    struct smoe_worker_peers_options options;
    struct smoe_worker_keys keys; /* zeroed: plaintext */
    struct smoe_dials dials;
    struct smoe_list meetings;
    struct ear *ear; /* NULL: it does not listen */
    struct smoe_addr own;
    uv_timer_t timer;
    struct smoe_log_limit limit;
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
    unsigned handles; /* meetings, ears and the timer that are not closed */
    bool closing;
    void (*closed)(void *context);
    void *closed_context;
};

static struct meeting *meeting_of(struct smoe_list *node)
{
    return smoe_container_of(node, struct meeting, node);
}

/* ---- the end ---- */

static void drop_handle(struct smoe_worker_peers *p)
{
    if (--p->handles || !p->closing)
        return;
    void (*closed)(void *) = p->closed;
    void *context = p->closed_context;
    smoe_worker_keys_release(&p->keys);
    free(p);
    closed(context);
}

static void close_meeting(struct meeting *m, int status)
{
    if (!m->closing)
        smoe_conn_close(&m->conn, status);
    m->closing = true;
}

static void log_end(const struct meeting *m, int status)
{
    struct smoe_worker_peers *p = m->peers;
    uint64_t suppressed;
    if (!smoe_log_allowed(&p->limit, smoe_clock_monotonic_ns(), &suppressed))
        return;
    smoe_log(p->options.log, SMOE_LOG_INFO,
             smoe_msg(m->was_up ? "a direct link ended"
                      : m->id   ? "no direct link"
                                : "a stranger left"),
             smoe_text_field("peer", *m->other ? m->other : NULL),
             smoe_text_field("why", *m->tls.why.text ? m->tls.why.text
                                    : status         ? uv_strerror(status)
                                                     : "closed"),
             smoe_u64_field(suppressed ? "suppressed" : NULL, suppressed));
}

static void meeting_closed(void *context, int status)
{
    struct meeting *m = context;
    struct smoe_worker_peers *p = m->peers;
    log_end(m, status);
    if (m->id)
        smoe_dials_ended(&p->dials, m->id, m->was_up, smoe_clock_monotonic_ns());
    smoe_list_remove(&m->node);
    smoe_agent_link_free(m->link);
    smoe_wipe(&m->key, sizeof m->key);
    free(m);
    if (!p->closing)
        p->options.changed(p->options.context);
    drop_handle(p);
}

/* ---- bytes ---- */

static uint8_t *meeting_direct(void *context, size_t *ret_room)
{
    struct meeting *m = context;
    return m->link ? smoe_agent_link_direct(m->link, ret_room) : NULL;
}

static size_t meeting_peek(void *context, struct iovec *iovecs, size_t max)
{
    struct meeting *m = context;
    return m->link ? smoe_agent_link_peek(m->link, iovecs, max) : 0;
}

static void meeting_consume(void *context, size_t bytes)
{
    smoe_agent_link_consume(((struct meeting *)context)->link, bytes);
}

static void meeting_received(void *context, const uint8_t *data, size_t n)
{
    struct meeting *m = context;
    struct smoe_worker_peers *p = m->peers;
    struct smoe_why why = {""};
    bool was_up = m->was_up;
    if (m->closing || !m->link || smoe_agent_link_received(m->link, data, n, &why))
        close_meeting(m, 0);
    else
        m->was_up |= smoe_agent_link_up(m->link);
    if (m->was_up && !was_up)
        smoe_log(p->options.log, SMOE_LOG_INFO, smoe_msg("direct link"),
                 smoe_text_field("peer", smoe_agent_link_peer(m->link)));
    if (*why.text)
        smoe_log(p->options.log, SMOE_LOG_DEBUG, smoe_msg("direct link refused"),
                 smoe_text_field("why", why.text));
    if (!p->closing)
        p->options.changed(p->options.context);
}

/* ---- beginning ---- */

static bool begin_link(struct meeting *m, const char *key_name)
{
    m->link = smoe_agent_link_new(m->peers->options.agent, m->id, key_name);
    if (!m->link)
        close_meeting(m, UV_ENOMEM);
    return m->link != NULL;
}

/* A dialler has shown a key of the ring. */
static void on_established(void *context, const struct smoe_key *who)
{
    struct meeting *m = context;
    snprintf(m->other, sizeof m->other, "%s", who->name);
    (void)begin_link(m, who->name);
}

static void meeting_connected(void *context, int status)
{
    if (status == 0)
        (void)begin_link(context, "");
}

static struct meeting *new_meeting(struct smoe_worker_peers *p, uint64_t id,
                                   struct smoe_conn_owner *ret_owner)
{
    struct meeting *m = calloc(1, sizeof *m);
    struct smoe_tls_context *tls = id ? p->keys.dialling : p->keys.listening;
    if (!m)
        return NULL;
    m->peers = p;
    m->id = id;
    m->begun_ns = smoe_clock_monotonic_ns();
    *ret_owner = (struct smoe_conn_owner){.context = m,
                                          .direct = meeting_direct,
                                          .received = meeting_received,
                                          .peek = meeting_peek,
                                          .consume = meeting_consume,
                                          .closed = meeting_closed};
    if (tls && smoe_tls_wrap(&m->tls, tls, &m->conn, ret_owner, ret_owner)) {
        free(m);
        return NULL;
    }
    m->tls.connected = meeting_connected;
    m->tls.key = &m->key;
    smoe_list_push_back(&p->meetings, &m->node);
    p->handles++;
    return m;
}

/* What a path drops without a word must not hold up an exchange for long. */
static void bear_silence(struct meeting *m)
{
    uint64_t silence_ns = smoe_agent_link_silence_ns(m->peers->options.agent);
    smoe_conn_bear_silence(&m->conn, (unsigned)(silence_ns / 1000000));
}

/* ---- accepting ---- */

static bool is_stranger(const struct meeting *m)
{
    return !m->id && !m->was_up && !m->closing;
}

/* False: there are too many, and the oldest has just come. */
static bool make_room(struct smoe_worker_peers *p)
{
    struct meeting *oldest = NULL;
    unsigned n = 0;
    smoe_list_for_each (it, &p->meetings) {
        if (!is_stranger(meeting_of(it)))
            continue;
        oldest = oldest ? oldest : meeting_of(it);
        n++;
    }
    if (n < SMOE_LINK_STRANGERS_MAX)
        return true;
    if (smoe_clock_monotonic_ns() < oldest->begun_ns + GRACE_NS)
        return false;
    close_meeting(oldest, UV_ETIMEDOUT);
    return true;
}

static bool is_of_this_machine(const struct smoe_conn *conn)
{
    struct smoe_addr from = {0};
    int bytes = sizeof from;
    return uv_tcp_getpeername(&conn->tcp, &from.sa, &bytes) == 0 && smoe_addr_is_loopback(&from);
}

static int on_arrived(void *context, uv_stream_t *server)
{
    struct smoe_worker_peers *p = ((struct ear *)context)->peers;
    struct smoe_conn_owner owner;
    if (!make_room(p))
        return UV_EAGAIN;
    struct meeting *m = new_meeting(p, 0, &owner);
    if (!m)
        return UV_ENOMEM;
    if (smoe_conn_accept(&m->conn, server, &owner, p->scratch, NULL)) {
        m->closing = true;
        return 0; /* it is being closed */
    }
    bear_silence(m);
    if (!p->keys.listening && !is_of_this_machine(&m->conn))
        close_meeting(m, UV_EACCES);
    else if (!p->keys.listening)
        (void)begin_link(m, "");
    p->options.changed(p->options.context); /* which sets the timer */
    return 0;
}

static void on_ear_closed(void *context)
{
    struct ear *ear = context;
    struct smoe_worker_peers *p = ear->peers;
    free(ear);
    drop_handle(p);
}

static void stop_listening(struct smoe_worker_peers *p)
{
    if (p->ear)
        smoe_listener_close(&p->ear->listener, on_ear_closed);
    p->ear = NULL;
}

static int listen_at(struct smoe_worker_peers *p, const struct smoe_addr *address)
{
    struct ear *ear = calloc(1, sizeof *ear);
    if (!ear)
        return UV_ENOMEM;
    ear->peers = p;
    struct smoe_listener_owner owner = {.context = ear, .arrived = on_arrived};
    p->ear = ear;
    p->handles++;
    int rc = smoe_listener_tcp(&ear->listener, p->options.loop, address, BACKLOG, &owner);
    if (rc)
        stop_listening(p);
    return rc;
}

/* ---- where ---- */

static bool is_fixed(const struct smoe_worker_peers *p)
{
    const char *listen = p->options.listen;
    return strcmp(listen, SMOE_PEERS_AUTO) != 0 && strcmp(listen, SMOE_PEERS_NONE) != 0;
}

/* Whether `a` is the address that is listened at; the port is the kernel's choice. */
static bool is_there(const struct smoe_addr *there, struct smoe_addr a)
{
    char texts[2][SMOE_ADDR_TEXT_MAX];
    smoe_addr_set_port(&a, smoe_addr_port(there));
    smoe_addr_format(there, texts[0]);
    smoe_addr_format(&a, texts[1]);
    return strcmp(texts[0], texts[1]) == 0;
}

static void follow(struct smoe_worker_peers *p, struct smoe_addr own)
{
    struct smoe_addr there = {0};
    if (p->ear)
        smoe_listener_address(&p->ear->listener, &there);
    if (p->ear && is_there(&there, own))
        return;
    stop_listening(p);
    smoe_addr_set_port(&own, 0);
    int rc = listen_at(p, &own);
    if (rc)
        smoe_log(p->options.log, SMOE_LOG_WARNING, smoe_msg("takes no direct links"),
                 smoe_text_field("why", uv_strerror(rc)));
}

void smoe_worker_peers_at(struct smoe_worker_peers *p, const struct smoe_addr *own)
{
    char text[SMOE_ADDR_TEXT_MAX] = "";
    struct smoe_addr there = {0};
    p->own = *own;
    if (strcmp(p->options.listen, SMOE_PEERS_AUTO) == 0)
        follow(p, *own);
    if (p->ear) {
        smoe_listener_address(&p->ear->listener, &there);
        uint16_t port = smoe_addr_port(&there);
        if (smoe_addr_is_any(&there))
            there = *own;
        smoe_addr_set_port(&there, port);
        smoe_addr_format(&there, text);
    }
    smoe_agent_set_peer_address(p->options.agent, text);
}

/* ---- dialling ---- */

/* Where somebody else's own machine is, is nowhere; and without TLS only this one is reached. */
static bool may_dial(const struct smoe_worker_peers *p, const struct smoe_addr *to)
{
    return smoe_addr_is_loopback(to) ? smoe_addr_is_loopback(&p->own) : p->keys.dialling != NULL;
}

static bool dial(struct smoe_worker_peers *p, const struct smoe_peer_view *peer)
{
    struct smoe_addr to;
    struct smoe_why unused;
    struct smoe_conn_owner owner;
    if (smoe_addr_parse(peer->address, &to, &unused) || !may_dial(p, &to))
        return false;
    struct meeting *m = new_meeting(p, peer->link, &owner);
    if (!m)
        return false;
    smoe_worker_key(p->options.agent, peer, &m->key);
    snprintf(m->other, sizeof m->other, "%s", peer->name);
    int rc = smoe_conn_connect(&m->conn, p->options.loop, &to.sa, &owner, p->scratch,
                               p->keys.dialling ? smoe_tls_connected : meeting_connected);
    if (rc == 0) {
        bear_silence(m);
        return true;
    }
    smoe_list_remove(&m->node);
    smoe_tls_release(&m->tls);
    smoe_wipe(&m->key, sizeof m->key);
    free(m);
    drop_handle(p);
    return false;
}

static void dial_all(struct smoe_worker_peers *p)
{
    struct smoe_peer_view peer;
    uint64_t now_ns = smoe_clock_monotonic_ns();
    while (smoe_dials_next(&p->dials, p->options.agent, now_ns, &peer))
        if (!dial(p, &peer))
            smoe_dials_ended(&p->dials, peer.link, false, now_ns);
}

/* ---- going on ---- */

static void on_timer(uv_timer_t *timer)
{
    struct smoe_worker_peers *p = timer->data;
    p->options.changed(p->options.context);
}

static void set_timer(struct smoe_worker_peers *p, uint64_t now_ns)
{
    uint64_t wake_ns = smoe_dials_wake_ns(&p->dials);
    smoe_list_for_each (it, &p->meetings) {
        const struct meeting *m = meeting_of(it);
        uint64_t end_ns = m->begun_ns + SMOE_LINK_PATIENCE_NS;
        if (!m->was_up && !m->closing)
            wake_ns = end_ns < wake_ns ? end_ns : wake_ns;
    }
    if (wake_ns == UINT64_MAX)
        uv_timer_stop(&p->timer);
    else
        uv_timer_start(&p->timer, on_timer, wake_ns > now_ns ? (wake_ns - now_ns) / 1000000 + 1 : 1,
                       0);
}

void smoe_worker_peers_settle(struct smoe_worker_peers *p)
{
    uint64_t now_ns = smoe_clock_monotonic_ns();
    if (p->closing)
        return;
    smoe_worker_keys_renew(&p->keys, p->options.agent);
    dial_all(p);
    smoe_list_for_each_safe (it, &p->meetings) {
        struct meeting *m = meeting_of(it);
        bool late = !m->was_up && now_ns >= m->begun_ns + SMOE_LINK_PATIENCE_NS;
        if (late || (m->link && smoe_agent_link_over(m->link)))
            close_meeting(m, late ? UV_ETIMEDOUT : 0);
        else if (m->link && !m->closing)
            smoe_conn_flush(&m->conn);
    }
    set_timer(p, now_ns);
}

/* ---- beginning and end ---- */

static void on_timer_closed(uv_handle_t *handle)
{
    drop_handle(handle->data);
}

void smoe_worker_peers_close(struct smoe_worker_peers *p, void (*closed)(void *context),
                             void *context)
{
    p->closing = true;
    p->closed = closed;
    p->closed_context = context;
    stop_listening(p);
    smoe_list_for_each_safe (it, &p->meetings)
        close_meeting(meeting_of(it), 0);
    uv_close((uv_handle_t *)&p->timer, on_timer_closed);
}

int smoe_worker_peers_start(const struct smoe_worker_peers_options *options,
                            struct smoe_worker_peers **ret, struct smoe_why *why)
{
    struct smoe_worker_peers *p = calloc(1, sizeof *p);
    struct smoe_addr address;
    if (!p)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    p->options = *options;
    p->limit = (struct smoe_log_limit){.interval_ns = LOG_INTERVAL_NS, .burst = LOG_BURST};
    smoe_list_init(&p->meetings);
    uv_timer_init(options->loop, &p->timer);
    p->timer.data = p;
    p->handles = 1;
    *ret = p; /* whatever comes: to be closed */
    int rc = options->secure ? smoe_worker_keys_init(&p->keys, on_established, why) : 0;
    if (rc || !is_fixed(p))
        return rc;
    rc = smoe_addr_parse(options->listen, &address, why);
    if (rc)
        return smoe_fail_at(why, rc, "--peer-listen");
    rc = listen_at(p, &address);
    return rc ? smoe_fail(why, rc, "--peer-listen %s: %s", options->listen, uv_strerror(rc)) : 0;
}
