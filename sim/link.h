/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection of a worker or trainer to its gateway: made, made again with a doubling pause and
 * jitter when it breaks. Stands in for client/worker/shell/link.c and the like of it in
 * client/libstablemoe/shell/client.c.
 */
#ifndef SMOE_SIM_LINK_H
#define SMOE_SIM_LINK_H

#include "sim/world_state.h"

/* The machine at its end, in the link's terms. */
struct smoe_sim_link_machine {
    uint8_t *(*direct)(void *context, size_t *ret_room);
    int (*received)(void *context, const uint8_t *data, size_t n, struct smoe_why *why);
    size_t (*peek)(void *context, struct iovec *iovecs, size_t max);
    void (*consume)(void *context, size_t bytes);
    void (*connected)(void *context);
    void (*disconnected)(void *context);
    bool (*welcomed)(void *context);
    bool (*gives_up)(void *context); /* no further attempt */
    void (*changed)(void *context);  /* something came in, or the connection changed */
    void (*closed)(void *context);   /* after smoe_sim_link_close */
};

struct smoe_sim_link {
    struct smoe_sim_process *process;
    const struct smoe_sim_link_machine *machine;
    void *context;
    uint64_t pause_min_ms, pause_max_ms, pause_ms;
    struct smoe_sim_event timer; /* pause before an attempt, then patience with it */
    struct smoe_sim_conn *conn;  /* NULL: none under way */
    bool connected, closing;
    struct smoe_sim_tap tap;
    struct smoe_why why; /* the last connection ended */
};

/* Begins to connect, now. */
void smoe_sim_link_open(struct smoe_sim_link *link, struct smoe_sim_process *process,
                        const struct smoe_sim_link_machine *machine, void *context,
                        uint64_t pause_min_ms, uint64_t pause_max_ms);
void smoe_sim_link_flush(struct smoe_sim_link *link);
/* The machine had no memory for what it had to say: ends the connection, and begins another. */
void smoe_sim_link_break(struct smoe_sim_link *link);
/* Writes what is left, then ends. */
void smoe_sim_link_close(struct smoe_sim_link *link);
/* The process is dead. */
void smoe_sim_link_forget(struct smoe_sim_link *link);

#endif
