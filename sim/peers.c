/* SPDX-License-Identifier: Apache-2.0
 *
 * A meeting is a connection of one worker with another: dialled or accepted, with the agent's link once it stands.
 * It ends when its link is over, when it is not up in time, or by the network.
 */
#include "sim/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "sim:" /* of an address; the process's number follows */

struct meeting {
    struct smoe_list node;
    struct smoe_sim_peers *peers;
    struct smoe_sim_conn *conn;
    struct smoe_agent_link *link; /* NULL: it does not stand yet */
    uint64_t id;                  /* of the link, 0: accepted */
    uint64_t begun_ns;
    uint32_t other; /* process */
    bool was_up, closing;
    struct smoe_sim_tap tap;
};

static uint64_t now_of(const struct smoe_sim_peers *s)
{
    return s->process->world->clock.now_ns;
}

static struct meeting *meeting_of(struct smoe_list *node)
{
    return smoe_container_of(node, struct meeting, node);
}

static void close_meeting(struct meeting *m, int status)
{
    if (!m->closing)
        smoe_sim_conn_close(m->conn, status);
    m->closing = true;
}

/* ---- called by the network ---- */

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
    struct meeting *m = context;
    smoe_world_touch(m->peers->process);
    smoe_agent_link_consume(m->link, bytes);
}

static void meeting_received(void *context, const uint8_t *data, size_t n)
{
    struct meeting *m = context;
    struct smoe_sim_process *p = m->peers->process;
    struct smoe_world *w = p->world;
    struct smoe_sim_way way = {w->processes[m->other]->name, p->name, m->other, p->number};
    struct smoe_why why = {""};
    smoe_world_touch(p);
    smoe_sim_trace_heard(&w->trace, &m->tap, &way, data, n);
    if (m->closing || !m->link || smoe_agent_link_received(m->link, data, n, &why))
        close_meeting(m, 0);
    else
        m->was_up |= smoe_agent_link_up(m->link);
    m->peers->changed(m->peers->context);
}

static void end_meeting(struct meeting *m)
{
    smoe_list_remove(&m->node);
    smoe_sim_tap_release(&m->tap);
    smoe_agent_link_free(m->link);
    free(m);
}

static void meeting_closed(void *context, int status)
{
    struct meeting *m = context;
    struct smoe_sim_peers *s = m->peers;
    smoe_world_touch(s->process);
    smoe_sim_trace_say(&s->process->world->trace, "%s has no link to %s: %s", s->process->name,
                       s->process->world->processes[m->other]->name,
                       status ? smoe_strerror(status) : "closed");
    if (m->id)
        smoe_dials_ended(&s->dials, m->id, m->was_up, now_of(s));
    end_meeting(m);
    s->changed(s->context);
}

static void meeting_connected(void *context)
{
    struct meeting *m = context;
    smoe_world_touch(m->peers->process);
    m->link = smoe_agent_link_new(m->peers->agent, m->id, "");
    if (m->link)
        smoe_sim_conn_flush(m->conn);
    else
        close_meeting(m, SMOE_ENOMEMORY);
}

/* ---- meetings ---- */

static struct meeting *new_meeting(struct smoe_sim_peers *s, uint64_t id, uint32_t other,
                                   struct smoe_sim_owner *ret_owner)
{
    struct meeting *m = smoe_sim_alloc(1, sizeof *m);
    m->peers = s;
    m->id = id;
    m->other = other;
    m->begun_ns = now_of(s);
    smoe_list_push_back(&s->meetings, &m->node);
    *ret_owner = (struct smoe_sim_owner){
        m, meeting_direct, meeting_received, meeting_peek, meeting_consume, meeting_closed};
    return m;
}

static bool on_accept(void *context, uint32_t from, struct smoe_sim_conn *conn,
                      struct smoe_sim_owner *ret_owner)
{
    struct smoe_sim_peers *s = context;
    smoe_world_touch(s->process);
    struct smoe_agent_link *link = smoe_agent_link_new(s->agent, 0, "");
    if (!link)
        return false;
    struct meeting *m = new_meeting(s, 0, from, ret_owner);
    m->conn = conn;
    m->link = link;
    smoe_sim_conn_give_up_after(conn, smoe_agent_link_silence_ns(s->agent));
    smoe_process_set(s->process, &s->timer, now_of(s));
    return true;
}

static void dial(struct smoe_sim_peers *s, const struct smoe_peer_view *peer)
{
    struct smoe_sim_owner owner;
    uint32_t other = (uint32_t)strtoul(peer->address + strlen(PREFIX), NULL, 10);
    struct meeting *m = new_meeting(s, peer->link, other, &owner);
    m->conn = smoe_simnet_connect(s->process->world->net, s->process->number, other, &owner,
                                  meeting_connected);
    smoe_sim_conn_give_up_after(m->conn, smoe_agent_link_silence_ns(s->agent));
}

/* ---- time ---- */

static void set_timer(struct smoe_sim_peers *s)
{
    uint64_t wake_ns = smoe_dials_wake_ns(&s->dials);
    smoe_list_for_each (it, &s->meetings) {
        const struct meeting *m = meeting_of(it);
        uint64_t end_ns = m->begun_ns + SMOE_LINK_PATIENCE_NS;
        if (!m->was_up && !m->closing)
            wake_ns = end_ns < wake_ns ? end_ns : wake_ns;
    }
    smoe_process_set(s->process, &s->timer, wake_ns);
}

void smoe_sim_peers_settle(struct smoe_sim_peers *s)
{
    struct smoe_peer_view peer;
    while (smoe_dials_next(&s->dials, s->agent, now_of(s), &peer))
        dial(s, &peer);
    smoe_list_for_each (it, &s->meetings) {
        struct meeting *m = meeting_of(it);
        bool late = !m->was_up && now_of(s) >= m->begun_ns + SMOE_LINK_PATIENCE_NS;
        if (late || (m->link && smoe_agent_link_over(m->link)))
            close_meeting(m, late ? SMOE_SIM_ETIMEDOUT : 0);
        else if (m->link && !m->closing)
            smoe_sim_conn_flush(m->conn);
    }
    set_timer(s);
}

static void on_timer(struct smoe_sim_event *event)
{
    struct smoe_sim_peers *s = smoe_container_of(event, struct smoe_sim_peers, timer);
    if (smoe_world_due(s->process, event))
        s->changed(s->context);
}

/* ---- beginning and end ---- */

void smoe_sim_peers_open(struct smoe_sim_peers *s, struct smoe_sim_process *process,
                         struct smoe_agent *agent, void (*changed)(void *context), void *context)
{
    char address[32];
    *s = (struct smoe_sim_peers){.process = process,
                                 .agent = agent,
                                 .changed = changed,
                                 .context = context,
                                 .timer = {.fire = on_timer}};
    smoe_list_init(&s->meetings);
    snprintf(address, sizeof address, PREFIX "%u", process->number);
    smoe_agent_set_peer_address(agent, address);
    smoe_simnet_listen(process->world->net, process->number, on_accept, s);
}

void smoe_sim_peers_forget(struct smoe_sim_peers *s)
{
    smoe_process_cancel(s->process, &s->timer);
    while (!smoe_list_empty(&s->meetings))
        end_meeting(meeting_of(smoe_list_first(&s->meetings)));
}
