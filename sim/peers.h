/* SPDX-License-Identifier: Apache-2.0
 *
 * Direct links of a simulated worker to others: stands in for client/worker/shell/peers.c.
 */
#ifndef SMOE_SIM_PEERS_H
#define SMOE_SIM_PEERS_H

#include "client/worker/agent/dials.h"
#include "sim/world_state.h"

struct smoe_sim_peers {
    struct smoe_sim_process *process;
    struct smoe_agent *agent;
    void (*changed)(void *context); /* something came over a link, or one ended */
    void *context;
    struct smoe_dials dials;
    struct smoe_list meetings;   /* connections */
    struct smoe_sim_event timer; /* the next attempt, or the end of somebody's patience */
};

/* The process listens, and its agent says so. */
void smoe_sim_peers_open(struct smoe_sim_peers *peers, struct smoe_sim_process *process,
                         struct smoe_agent *agent, void (*changed)(void *context), void *context);
/* Connects to whom the agent was told of, ends what is over, writes what there is to say. */
void smoe_sim_peers_settle(struct smoe_sim_peers *peers);
/* The process is dead: nothing is closed, its system does that. The agent is still there. */
void smoe_sim_peers_forget(struct smoe_sim_peers *peers);

#endif
