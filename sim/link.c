/* SPDX-License-Identifier: Apache-2.0
 *
 *     PAUSE --timer--> CONNECTING --> UP
 *        ^_________________|___________|   any end of it
 */
#include "sim/link.h"

#include <string.h>

#define CONNECT_NS (3000 * SMOE_SIM_MS)
#define GOODBYE_NS (500 * SMOE_SIM_MS)

static void try_later(struct smoe_sim_link *l)
{
    if (l->closing) {
        l->machine->closed(l->context);
        return;
    }
    if (l->machine->gives_up(l->context))
        return;
    uint64_t jitter_ns = smoe_rng_below(&l->process->rng, l->pause_ms * SMOE_SIM_MS + 1);
    uint64_t pause_ns = l->pause_ms * SMOE_SIM_MS / 2 + jitter_ns;
    smoe_process_set(l->process, &l->timer, l->process->world->clock.now_ns + pause_ns);
    l->pause_ms = l->pause_ms * 2 < l->pause_max_ms ? l->pause_ms * 2 : l->pause_max_ms;
}

/* ---- called by the network ---- */

static uint8_t *link_direct(void *context, size_t *ret_room)
{
    struct smoe_sim_link *l = context;
    return l->machine->direct(l->context, ret_room);
}

static size_t link_peek(void *context, struct iovec *iovecs, size_t max)
{
    struct smoe_sim_link *l = context;
    return l->machine->peek(l->context, iovecs, max);
}

static void link_consume(void *context, size_t bytes)
{
    struct smoe_sim_link *l = context;
    smoe_world_touch(l->process);
    l->machine->consume(l->context, bytes);
}

static void link_received(void *context, const uint8_t *data, size_t n)
{
    struct smoe_sim_link *l = context;
    struct smoe_world *w = l->process->world;
    smoe_world_touch(l->process);
    struct smoe_sim_way way = {w->processes[l->process->gateway]->name, l->process->name,
                               l->process->gateway, l->process->number};
    smoe_sim_trace_heard(&w->trace, &l->tap, &way, data, n);
    int rc = l->machine->received(l->context, data, n, &l->why);
    if (l->machine->welcomed(l->context))
        l->pause_ms = l->pause_min_ms;
    if (rc)
        smoe_sim_conn_close_flushed(l->conn, GOODBYE_NS);
    else
        smoe_sim_conn_flush(l->conn);
    l->machine->changed(l->context);
}

static void link_closed(void *context, int status)
{
    struct smoe_sim_link *l = context;
    smoe_world_touch(l->process);
    smoe_process_cancel(l->process, &l->timer);
    smoe_sim_tap_release(&l->tap);
    l->conn = NULL;
    if (l->connected)
        l->machine->disconnected(l->context);
    l->connected = false;
    if (!*l->why.text)
        smoe_why_set(&l->why, "%s", status ? smoe_strerror(status) : "it closed the connection");
    smoe_sim_trace_say(&l->process->world->trace, "%s is disconnected: %s", l->process->name,
                       l->why.text);
    *l->why.text = 0;
    try_later(l);
    if (!l->closing)
        l->machine->changed(l->context);
}

static void link_connected(void *context)
{
    struct smoe_sim_link *l = context;
    smoe_world_touch(l->process);
    smoe_process_cancel(l->process, &l->timer);
    l->connected = true;
    l->machine->connected(l->context);
    smoe_sim_conn_flush(l->conn);
}

/* ---- attempts ---- */

static void on_timer(struct smoe_sim_event *event)
{
    struct smoe_sim_link *l = smoe_container_of(event, struct smoe_sim_link, timer);
    struct smoe_sim_owner owner = {l,         link_direct,  link_received,
                                   link_peek, link_consume, link_closed};
    struct smoe_sim_process *p = l->process;
    if (!smoe_world_due(p, event))
        return;
    if (l->conn) {
        smoe_sim_conn_close(l->conn, SMOE_SIM_ETIMEDOUT);
        return;
    }
    l->conn = smoe_simnet_connect(p->world->net, p->number, p->gateway, &owner, link_connected);
    smoe_process_set(p, &l->timer, p->world->clock.now_ns + CONNECT_NS);
}

void smoe_sim_link_open(struct smoe_sim_link *l, struct smoe_sim_process *process,
                        const struct smoe_sim_link_machine *machine, void *context,
                        uint64_t pause_min_ms, uint64_t pause_max_ms)
{
    *l = (struct smoe_sim_link){.process = process,
                                .machine = machine,
                                .context = context,
                                .pause_min_ms = pause_min_ms,
                                .pause_max_ms = pause_max_ms,
                                .pause_ms = pause_min_ms,
                                .timer = {.fire = on_timer}};
    smoe_process_set(process, &l->timer, process->world->clock.now_ns);
}

void smoe_sim_link_flush(struct smoe_sim_link *l)
{
    if (l->connected)
        smoe_sim_conn_flush(l->conn);
}

void smoe_sim_link_break(struct smoe_sim_link *l)
{
    if (l->connected)
        smoe_sim_conn_close(l->conn, SMOE_ENOMEMORY);
}

void smoe_sim_link_close(struct smoe_sim_link *l)
{
    l->closing = true;
    smoe_process_cancel(l->process, &l->timer);
    if (!l->conn)
        l->machine->closed(l->context);
    else if (l->connected)
        smoe_sim_conn_close_flushed(l->conn, GOODBYE_NS);
    else
        smoe_sim_conn_close(l->conn, 0);
}

void smoe_sim_link_forget(struct smoe_sim_link *l)
{
    smoe_process_cancel(l->process, &l->timer);
    smoe_sim_tap_release(&l->tap);
    l->conn = NULL;
    l->connected = false;
}
