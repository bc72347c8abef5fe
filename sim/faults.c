/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes wrong with a network. A cut path holds its pipes: what is on its way arrives after it
 * heals, unless the wire gives up first. A reset and a crash lose it. A frozen or deaf process only
 * does not look: its pipes fill up, and its wires live on.
 */
#include <stdlib.h>
#include <string.h>

#include "sim/network_state.h"

/* ---- cut paths ---- */

bool smoe_simnet_is_cut(const struct smoe_simnet *net, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < net->n_cuts; i++)
        if (net->cuts[i].from == from && net->cuts[i].to == to)
            return true;
    return false;
}

bool smoe_sim_wire_is_cut(const struct smoe_sim_wire *w)
{
    return smoe_simnet_is_cut(w->net, w->ends[0].process, w->ends[1].process) ||
           smoe_simnet_is_cut(w->net, w->ends[1].process, w->ends[0].process);
}

static void add_cut(struct smoe_simnet *net, uint32_t from, uint32_t to)
{
    if (smoe_simnet_is_cut(net, from, to))
        return;
    net->cuts = smoe_sim_grow(net->cuts, net->n_cuts, net->n_cuts + 1, sizeof *net->cuts);
    net->cuts[net->n_cuts++] = (struct smoe_sim_cut){from, to};
}

static void remove_cut(struct smoe_simnet *net, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < net->n_cuts; i++)
        if (net->cuts[i].from == from && net->cuts[i].to == to)
            net->cuts[i--] = net->cuts[--net->n_cuts];
}

static void apply_cuts(struct smoe_sim_wire *w)
{
    struct smoe_simnet *net = w->net;
    for (unsigned i = 0; i < 2; i++) {
        bool held = smoe_simnet_is_cut(net, w->ends[i].process, w->ends[!i].process);
        if (held != w->pipes[i].held)
            smoe_sim_pipe_hold(&w->pipes[i], held);
    }
    if (!smoe_sim_wire_is_cut(w)) {
        if (!w->silent)
            smoe_sim_cancel(net->clock, &w->give_up);
        if (!w->handshake.place && w->ends[0].state == SMOE_SIM_END_WAITING)
            smoe_simnet_set(net, &w->handshake, w->pipes[0].profile.latency_ns);
    } else if (!w->give_up.place) {
        smoe_simnet_set(net, &w->give_up, w->give_up_ns);
    }
}

void smoe_simnet_cut(struct smoe_simnet *net, uint32_t from, uint32_t to, bool cut)
{
    if (cut)
        add_cut(net, from, to);
    else
        remove_cut(net, from, to);
    smoe_list_for_each (it, &net->wires)
        apply_cuts(smoe_container_of(it, struct smoe_sim_wire, link));
}

void smoe_simnet_reset(struct smoe_simnet *net, uint32_t a, uint32_t b)
{
    smoe_list_for_each (it, &net->wires) {
        struct smoe_sim_wire *w = smoe_container_of(it, struct smoe_sim_wire, link);
        uint32_t from = w->ends[0].process, to = w->ends[1].process;
        if (!(from == a && to == b) && !(from == b && to == a))
            continue;
        for (unsigned i = 0; i < 2; i++) {
            smoe_sim_pipe_drop(&w->pipes[i]);
            w->ends[i].answered = true;
            if (w->ends[i].owner.closed)
                smoe_sim_end_close(&w->ends[i], SMOE_SIM_ECONNRESET, SMOE_SIM_PIPE_RST);
        }
    }
}

void smoe_simnet_read(struct smoe_simnet *net, uint32_t process, bool reads)
{
    net->processes[process].reads = reads;
    smoe_list_for_each (it, &net->wires) {
        struct smoe_sim_wire *w = smoe_container_of(it, struct smoe_sim_wire, link);
        for (unsigned i = 0; i < 2 && reads; i++)
            if (w->ends[i].process == process && w->ends[i].state == SMOE_SIM_END_UP)
                smoe_sim_set(net->clock, &w->pipes[!i].due, net->clock->now_ns);
    }
}

static void thaw(struct smoe_sim_conn *end)
{
    struct smoe_simnet *net = end->wire->net;
    if (end->state == SMOE_SIM_END_CLOSING)
        smoe_simnet_set(net, &end->over, 0);
    if (end->state != SMOE_SIM_END_UP)
        return;
    if (end->wants_room)
        smoe_simnet_set(net, &end->room, 0);
    if (end->close_flushed)
        smoe_simnet_set(net, &end->patience, 0);
    smoe_simnet_set(net, &smoe_sim_end_into(end)->due, 0);
}

void smoe_simnet_freeze(struct smoe_simnet *net, uint32_t process, bool frozen)
{
    net->processes[process].frozen = frozen;
    smoe_list_for_each (it, &net->wires) {
        struct smoe_sim_wire *w = smoe_container_of(it, struct smoe_sim_wire, link);
        for (unsigned i = 0; i < 2 && !frozen; i++)
            if (w->ends[i].process == process)
                thaw(&w->ends[i]);
        if (!frozen && !w->handshake.place && w->ends[0].state == SMOE_SIM_END_WAITING)
            smoe_simnet_set(net, &w->handshake, 0);
    }
}

void smoe_sim_wire_lose(struct smoe_sim_wire *w)
{
    const struct smoe_sim_host *hosts = w->net->processes;
    uint32_t a = hosts[w->ends[0].process].lost_in, b = hosts[w->ends[1].process].lost_in;
    w->pipes[0].lost_in = w->pipes[1].lost_in = !a || (b && b < a) ? b : a;
}

void smoe_simnet_lose(struct smoe_simnet *net, uint32_t process, uint32_t one_in)
{
    net->processes[process].lost_in = one_in;
    smoe_list_for_each (it, &net->wires)
        smoe_sim_wire_lose(smoe_container_of(it, struct smoe_sim_wire, link));
}

/* Nobody is there any more for this end. */
static void abandon(struct smoe_sim_conn *end, bool silently)
{
    struct smoe_sim_wire *w = end->wire;
    bool told = end->state >= SMOE_SIM_END_CLOSING || end->answered || !w->syn_arrived;
    if (!told && !silently)
        smoe_sim_pipe_end(smoe_sim_end_out(end), SMOE_SIM_PIPE_RST);
    if (silently) {
        w->silent = true;
        smoe_sim_pipe_drop(smoe_sim_end_out(end));
        if (!w->give_up.place)
            smoe_simnet_set(w->net, &w->give_up, w->give_up_ns);
    }
    end->owner = (struct smoe_sim_owner){0};
    smoe_sim_end_gone(end);
}

void smoe_simnet_crash(struct smoe_simnet *net, uint32_t process, bool silently)
{
    smoe_simnet_stop_listening(net, process);
    smoe_list_for_each_safe (it, &net->wires) {
        struct smoe_sim_wire *w = smoe_container_of(it, struct smoe_sim_wire, link);
        unsigned side = w->ends[1].process == process;
        if (w->ends[side].process == process && w->ends[side].state != SMOE_SIM_END_GONE)
            abandon(&w->ends[side], silently);
    }
}

/* ---- views ---- */

uint32_t smoe_simnet_connections(const struct smoe_simnet *net)
{
    return smoe_list_count(&net->wires, UINT32_MAX);
}

uint64_t smoe_simnet_lost(const struct smoe_simnet *net)
{
    uint64_t lost = net->lost;
    smoe_list_for_each (it, &net->wires) {
        const struct smoe_sim_wire *w = smoe_container_of(it, struct smoe_sim_wire, link);
        lost += w->pipes[0].lost + w->pipes[1].lost;
    }
    return lost;
}

uint64_t smoe_simnet_bytes(const struct smoe_simnet *net)
{
    uint64_t bytes = 0;
    smoe_list_for_each (it, &net->wires) {
        const struct smoe_sim_wire *w = smoe_container_of(it, struct smoe_sim_wire, link);
        bytes += w->pipes[0].used + w->pipes[1].used;
    }
    return bytes;
}
