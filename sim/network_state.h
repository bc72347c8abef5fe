/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the network: wires and their ends, shared by network.c (what processes do with them) and
 * faults.c (what is done to them).
 */
#ifndef SMOE_SIM_NETWORK_STATE_H
#define SMOE_SIM_NETWORK_STATE_H

#include "sim/network.h"

enum smoe_sim_end {
    SMOE_SIM_END_WAITING,
    SMOE_SIM_END_UP,
    SMOE_SIM_END_CLOSING,
    SMOE_SIM_END_GONE
};

struct smoe_sim_conn {
    struct smoe_sim_wire *wire;
    uint32_t process;
    enum smoe_sim_end state;
    struct smoe_sim_owner owner;
    void (*connected)(void *context);
    int status;                 /* told to `closed` */
    bool close_flushed;         /* to be closed when all is written */
    bool wants_room;            /* its outbox holds more than the pipe took */
    bool answered;              /* the peer's FIN or RST has arrived */
    struct smoe_sim_event over; /* tells `closed` */
    struct smoe_sim_event room; /* the pipe has room again */
    struct smoe_sim_event patience;
};

struct smoe_sim_wire {
    struct smoe_list link;
    struct smoe_simnet *net;
    struct smoe_sim_conn ends[2];
    struct smoe_sim_pipe pipes[2];
    struct smoe_sim_event handshake;
    bool syn_arrived, refused;
    bool silent; /* one end is gone without a word: it gives up even if its path is whole */
    struct smoe_sim_event give_up; /* set while its path is cut, or silent: */
    uint64_t give_up_ns;           /* ... so long */
};

struct smoe_sim_listener {
    bool (*accept)(void *context, uint32_t from, struct smoe_sim_conn *conn,
                   struct smoe_sim_owner *ret_owner);
    void *context;
};

struct smoe_sim_host {
    struct smoe_sim_profile profile;
    struct smoe_sim_listener listener;
    bool reads, frozen;
    uint32_t lost_in; /* smoe_simnet_lose */
};

struct smoe_sim_cut {
    uint32_t from, to;
};

struct smoe_simnet {
    struct smoe_sim_clock *clock;
    struct smoe_rng rng;
    struct smoe_sim_host *processes;
    uint32_t n_processes;
    struct smoe_sim_cut *cuts; /* [n_cuts], owned */
    uint32_t n_cuts;
    struct smoe_list wires;
    uint64_t lost; /* segments of wires that are gone */
};

/* ---- small helpers ---- */

static inline unsigned smoe_sim_end_side(const struct smoe_sim_conn *end)
{
    return end == &end->wire->ends[1];
}

static inline struct smoe_sim_conn *smoe_sim_end_peer(struct smoe_sim_conn *end)
{
    return &end->wire->ends[!smoe_sim_end_side(end)];
}

static inline struct smoe_sim_pipe *smoe_sim_end_out(struct smoe_sim_conn *end)
{
    return &end->wire->pipes[smoe_sim_end_side(end)];
}

static inline struct smoe_sim_pipe *smoe_sim_end_into(struct smoe_sim_conn *end)
{
    return &end->wire->pipes[!smoe_sim_end_side(end)];
}

static inline bool smoe_sim_end_frozen(const struct smoe_sim_conn *end)
{
    return end->wire->net->processes[end->process].frozen;
}

static inline void smoe_simnet_set(struct smoe_simnet *net, struct smoe_sim_event *event,
                                   uint64_t delay_ns)
{
    smoe_sim_set(net->clock, event, net->clock->now_ns + delay_ns);
}

/* ---- faults.c ---- */
void smoe_sim_wire_lose(struct smoe_sim_wire *wire); /* as its two processes do now */
bool smoe_simnet_is_cut(const struct smoe_simnet *net, uint32_t from, uint32_t to);
bool smoe_sim_wire_is_cut(const struct smoe_sim_wire *wire); /* in either direction */

/* ---- network.c ---- */
/* Towards GONE; says so to the peer unless the peer ended it. */
void smoe_sim_end_close(struct smoe_sim_conn *end, int status, enum smoe_sim_pipe_end say);
/* It is: its wire too, if the other end is. */
void smoe_sim_end_gone(struct smoe_sim_conn *end);

#endif
