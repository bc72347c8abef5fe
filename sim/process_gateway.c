/* SPDX-License-Identifier: Apache-2.0
 *
 * The gateway as a process: stands in for daemon/shell/peers.c and the parts of loop.c that a peer can
 * notice. After each batch of input everything the gateway marked dirty is flushed once, and the clock
 * is set from smoe_gateway_wake_ns.
 *
 * Its disk (sim/disk.h) outlives it: what it journals becomes durable up to DISK_NS later, and a kill
 * leaves some prefix of what was not.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "sim/disk.h"
#include "sim/world_state.h"

#define CLOSE_NS  (1000 * SMOE_SIM_MS) /* a peer that does not take its last bytes is cut off */
#define LINGER_NS (500 * SMOE_SIM_MS)
#define DRAIN_NS  (4000 * SMOE_SIM_MS)
#define POLL_NS   (20 * SMOE_SIM_MS)
#define DISK_NS   (2 * SMOE_SIM_MS)    /* a write takes at most so long */
#define AGAIN_NS  (1000 * SMOE_SIM_MS) /* one that failed is tried again */

struct gateway_process;

struct peer {
    struct gateway_process *gateway;
    struct smoe_sim_conn *conn; /* NULL: the session is free */
    uint32_t session;
    uint32_t process; /* who it is */
    struct smoe_sim_tap tap;
};

struct gateway_process {
    struct smoe_sim_process process;
    struct smoe_sim_gateway_options options;
    struct smoe_gateway *gateway;
    struct peer *peers; /* [n_peers] so far, owned while it is up */
    uint32_t n_peers;
    struct smoe_sim_event clock;
    struct smoe_sim_event drain; /* while it is stopping */
    struct smoe_sim_disk disk;
    struct smoe_sim_event write; /* while something is to be written */
    bool disk_fails;
    bool stopping, saying_goodbye;
    uint64_t drain_began_ns;
};

static struct gateway_process *self_of(const struct smoe_sim_process *p)
{
    uintptr_t address = (uintptr_t)p;
    return (struct gateway_process *)address; /* the first member */
}

static uint64_t now_of(const struct gateway_process *g)
{
    return g->process.world->clock.now_ns;
}

/* ---- output ---- */

static void flush(struct gateway_process *g)
{
    uint32_t session;
    while (smoe_gateway_next_dirty(g->gateway, &session)) {
        struct smoe_sim_conn *conn = g->peers[session].conn;
        if (!conn)
            continue;
        if (smoe_gateway_closing(g->gateway, session))
            smoe_sim_conn_close_flushed(conn, CLOSE_NS);
        else
            smoe_sim_conn_flush(conn);
    }
    smoe_process_set(&g->process, &g->clock, smoe_gateway_wake_ns(g->gateway));
}

static void end(struct gateway_process *g);

/* After the goodbye: it ends when the last connection has. */
static void end_if_over(struct gateway_process *g)
{
    if (!g->saying_goodbye)
        return;
    for (uint32_t i = 0; i < g->n_peers; i++)
        if (g->peers[i].conn)
            return;
    end(g);
}

/* ---- called by the network ---- */

static uint8_t *peer_direct(void *context, size_t *ret_room)
{
    struct peer *peer = context;
    return smoe_gateway_direct(peer->gateway->gateway, peer->session, ret_room);
}

static size_t peer_peek(void *context, struct iovec *iovecs, size_t max)
{
    struct peer *peer = context;
    return smoe_gateway_peek(peer->gateway->gateway, peer->session, iovecs, max);
}

static void peer_consume(void *context, size_t bytes)
{
    struct peer *peer = context;
    smoe_world_touch(&peer->gateway->process);
    smoe_gateway_consume(peer->gateway->gateway, peer->session, bytes);
}

static void peer_received(void *context, const uint8_t *data, size_t n)
{
    struct peer *peer = context;
    struct gateway_process *g = peer->gateway;
    struct smoe_world *w = g->process.world;
    smoe_world_touch(&g->process);
    struct smoe_sim_way way = {w->processes[peer->process]->name, g->process.name, peer->process,
                               g->process.number};
    smoe_sim_trace_heard(&w->trace, &peer->tap, &way, data, n);
    smoe_gateway_received(g->gateway, peer->session, data, n, now_of(g));
    flush(g);
}

static void peer_closed(void *context, int status)
{
    struct peer *peer = context;
    struct gateway_process *g = peer->gateway;
    const char *reason = smoe_gateway_close_reason(g->gateway, peer->session);
    const char *name = smoe_gateway_peer_name(g->gateway, peer->session);
    smoe_world_touch(&g->process);
    smoe_sim_trace_say(&g->process.world->trace, "%s loses %s: %s", g->process.name,
                       *name ? name : "peer",
                       *reason      ? reason
                       : status < 0 ? smoe_strerror(status)
                                    : "closed by peer");
    peer->conn = NULL;
    smoe_sim_tap_release(&peer->tap);
    smoe_gateway_closed(g->gateway, peer->session, now_of(g));
    flush(g);
    end_if_over(g);
}

static bool on_accept(void *context, uint32_t from, struct smoe_sim_conn *conn,
                      struct smoe_sim_owner *ret_owner)
{
    struct gateway_process *g = context;
    uint32_t session;
    smoe_world_touch(&g->process);
    if (smoe_gateway_opened(g->gateway, now_of(g), &session))
        return false;
    g->peers[session] =
        (struct peer){.gateway = g, .conn = conn, .session = session, .process = from};
    g->n_peers = session < g->n_peers ? g->n_peers : session + 1; /* the lowest free one is taken */
    *ret_owner = (struct smoe_sim_owner){&g->peers[session], peer_direct,  peer_received,
                                         peer_peek,          peer_consume, peer_closed};
    return true;
}

static void on_clock(struct smoe_sim_event *event)
{
    struct gateway_process *g = smoe_container_of(event, struct gateway_process, clock);
    if (!smoe_world_due(&g->process, event))
        return;
    smoe_gateway_tick(g->gateway, now_of(g));
    flush(g);
}

/* ---- the journal ---- */

static void on_record(void *context, const struct smoe_record *record, uint64_t epoch)
{
    struct gateway_process *g = context;
    bool writing = !smoe_list_empty(&g->disk.queue);
    smoe_sim_disk_append(&g->disk, record, epoch);
    if (!writing)
        smoe_process_set(&g->process, &g->write,
                         now_of(g) + smoe_rng_below(&g->process.rng, DISK_NS));
}

static void on_written(struct smoe_sim_event *event)
{
    struct gateway_process *g = smoe_container_of(event, struct gateway_process, write);
    if (!smoe_world_due(&g->process, event))
        return;
    if (g->disk_fails) {
        g->process.world->acts[SMOE_SIM_DISK_FAILS]++;
        smoe_process_set(&g->process, event, now_of(g) + AGAIN_NS);
        return;
    }
    smoe_gateway_journalled(g->gateway, smoe_sim_disk_sync(&g->disk), now_of(g));
    flush(g);
}

/* ---- beginning and end ---- */

static int draw(void *context, void *bytes, size_t n)
{
    struct gateway_process *g = context;
    uint8_t *to = bytes;
    for (size_t i = 0; i < n; i++)
        to[i] = (uint8_t)smoe_rng_u64(&g->process.rng);
    return 0;
}

static struct smoe_gateway_options machine_options(struct gateway_process *g)
{
    const struct smoe_sim_gateway_options *o = &g->options;
    return (struct smoe_gateway_options){
        .core = {.limits = o->limits,
                 .settings = o->settings,
                 .epoch = ++g->disk.epoch,
                 .restored = &g->disk.image,
                 .seed = smoe_rng_u64(&g->process.rng),
                 .now_ns = now_of(g),
                 .software = "stablemoe-sim",
                 .sharded = o->sharded,
                 .placement = o->placement,
                 .links = o->links,
                 .exchange_bytes = o->exchange_bytes,
                 .tensor_bytes_max = o->tensor_bytes_max},
        .tensors_bytes_max = o->tensors_bytes_max,
        .outbox_bytes_max = o->outbox_bytes_max,
        .hello_timeout_ns = o->hello_timeout_ns,
        .journal = on_record,
        .journal_context = g,
        .draw = draw,
        .draw_context = g,
    };
}

static void gateway_start(struct smoe_sim_process *p)
{
    struct gateway_process *g = self_of(p);
    struct smoe_gateway_options o = machine_options(g);
    struct smoe_why why = {""};
    g->stopping = g->saying_goodbye = false;
    if (smoe_gateway_new(&o, &g->gateway, &why)) {
        smoe_world_fail(p->world, SMOE_ECONFIG, "%s: %s", p->name, why.text);
        p->up = false;
        return;
    }
    g->peers = smoe_sim_room(smoe_gateway_sessions_max(g->gateway) * sizeof *g->peers);
    smoe_simnet_listen(p->world->net, p->number, on_accept, g);
    flush(g);
}

static void gateway_kill(struct smoe_sim_process *p)
{
    struct gateway_process *g = self_of(p);
    smoe_process_cancel(p, &g->clock);
    smoe_process_cancel(p, &g->drain);
    smoe_process_cancel(p, &g->write);
    smoe_sim_disk_crash(&g->disk, &p->rng);
    for (uint32_t i = 0; i < g->n_peers; i++)
        smoe_sim_tap_release(&g->peers[i].tap);
    smoe_gateway_free(g->gateway);
    free(g->peers);
    g->gateway = NULL;
    g->peers = NULL;
    g->n_peers = 0;
}

static void end(struct gateway_process *g)
{
    (void)smoe_sim_disk_sync(&g->disk);
    gateway_kill(&g->process);
    smoe_world_ended(&g->process);
}

static void say_goodbye(struct gateway_process *g)
{
    smoe_gateway_goodbye(g->gateway, "the gateway is shutting down");
    g->saying_goodbye = true;
    for (uint32_t i = 0; i < g->n_peers; i++)
        if (g->peers[i].conn)
            smoe_sim_conn_close_flushed(g->peers[i].conn, LINGER_NS);
    smoe_process_cancel(&g->process, &g->clock);
    end_if_over(g);
}

static void on_drain(struct smoe_sim_event *event)
{
    struct gateway_process *g = smoe_container_of(event, struct gateway_process, drain);
    if (!smoe_world_due(&g->process, event))
        return;
    if (!smoe_gateway_drained(g->gateway) && now_of(g) - g->drain_began_ns < DRAIN_NS)
        smoe_process_set(&g->process, event, now_of(g) + POLL_NS);
    else
        say_goodbye(g);
}

static void gateway_stop(struct smoe_sim_process *p)
{
    struct gateway_process *g = self_of(p);
    if (g->stopping)
        return;
    g->stopping = true;
    g->drain_began_ns = now_of(g);
    smoe_simnet_stop_listening(p->world->net, p->number);
    smoe_gateway_shutdown(g->gateway, now_of(g));
    flush(g);
    smoe_process_set(p, &g->drain, now_of(g));
}

static void gateway_check(const struct smoe_sim_process *p)
{
    smoe_gateway_check(self_of(p)->gateway);
}

static void gateway_free(struct smoe_sim_process *p)
{
    smoe_sim_disk_release(&self_of(p)->disk);
}

/* ---- adding one ---- */

static void fill_settings(struct smoe_core_settings *s)
{
    if (s->slot_ns)
        return; /* given as a whole */
    *s = (struct smoe_core_settings){
        .slot_ns = 20 * SMOE_SIM_MS,
        .policy = SMOE_POLICY_LYAPUNOV,
        .plan = SMOE_PLAN_WORK,
        .v = 20,
        .mu = 1,
        .workers_min = 1,
        .copies = 2,
        .silence_ns = 1000 * SMOE_SIM_MS,
        .worker_lease_ns = 10000 * SMOE_SIM_MS,
        .strikes_max = 3,
        .quarantine_ns = 600000 * SMOE_SIM_MS,
        .trainer_lease_ns = 30000 * SMOE_SIM_MS,
        .window_bytes = 64 << 20,
        .window_visits = 1000000,
        .iteration_bytes_max = 1 << 30,
        .worker_budget_w = HUGE_VAL,
        .worker_cap_w = HUGE_VAL,
    };
}

static void fill_options(struct smoe_sim_gateway_options *o)
{
    const struct smoe_core_limits limits = {16, 8, 256, 4096, 1024};
    fill_settings(&o->settings);
    if (!o->limits.workers_max)
        o->limits = limits;
    if (!o->tensor_bytes_max)
        o->tensor_bytes_max = 64 << 20;
    if (!o->tensors_bytes_max)
        o->tensors_bytes_max = 256 << 20;
    if (!o->outbox_bytes_max)
        o->outbox_bytes_max = 64 << 20;
    if (!o->hello_timeout_ns)
        o->hello_timeout_ns = 2000 * SMOE_SIM_MS;
    smoe_sim_default_path(&o->path, 0);
}

uint32_t smoe_world_add_gateway(struct smoe_world *w, const struct smoe_sim_gateway_options *o)
{
    static const struct smoe_sim_kind_ops ops = {gateway_start, gateway_stop, gateway_kill,
                                                 gateway_check, gateway_free};
    struct smoe_sim_gateway_options options = *o;
    fill_options(&options);
    struct smoe_sim_process *p =
        smoe_world_add(w, sizeof(struct gateway_process), &ops, SMOE_SIM_GATEWAY,
                       *o->name ? o->name : "gateway", &options.path);
    struct gateway_process *g = self_of(p);
    g->options = options;
    g->clock.fire = on_clock;
    g->drain.fire = on_drain;
    g->write.fire = on_written;
    smoe_sim_disk_init(&g->disk);
    return p->number;
}

struct smoe_gateway *smoe_sim_gateway_machine(const struct smoe_sim_process *p)
{
    return p->kind == SMOE_SIM_GATEWAY && p->up ? self_of(p)->gateway : NULL;
}

void smoe_sim_gateway_break_disk(struct smoe_sim_process *p, bool broken)
{
    if (p->kind == SMOE_SIM_GATEWAY)
        self_of(p)->disk_fails = broken;
}

void smoe_sim_gateway_drain(struct smoe_sim_process *p, const char *worker, bool drain)
{
    struct gateway_process *g = self_of(p);
    smoe_world_touch(p);
    (void)smoe_gateway_drain(g->gateway, worker, drain, now_of(g)); /* an unknown one: no effect */
    flush(g);
}

void smoe_sim_gateway_configure(struct smoe_sim_process *p,
                                const struct smoe_core_settings *settings)
{
    struct gateway_process *g = self_of(p);
    smoe_world_touch(p);
    g->options.settings = *settings;
    smoe_gateway_configure(g->gateway, settings, now_of(g));
    flush(g);
}
