/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the uplink: uplink.c is link and messages, tickets.c the batches, submits.c new ones, requests.c
 * layers, steps and expert state, routers.c frozen routers.
 */
#ifndef SMOE_UPLINK_STATE_H
#define SMOE_UPLINK_STATE_H

#include "client/libstablemoe/core/uplink.h"
#include "proto/channel.h"

struct smoe_uplink {
    struct smoe_uplink_options options;
    struct smoe_wire *wire;
    struct smoe_budget budget;
    struct smoe_channel channel;
    enum { SMOE_ULINK_DOWN, SMOE_ULINK_HELLO, SMOE_ULINK_UP } link;
    smoe_name policy; /* the gateway's, when we connected */
    uint64_t attempt;
    uint64_t tensor_bytes_max, iteration_bytes_max;
    struct smoe_msg_credit window; /* the first grant: what may be out at a time */
    struct smoe_msg_credit granted, sent;
    struct smoe_list tickets; /* uncommitted or not released, in order of submission */
    uint32_t n_tickets;
    uint64_t next_batch;
    uint64_t steps; /* committed */
    struct smoe_step_state step;
    struct smoe_uplink_request requests[SMOE_REQUESTS_MAX];
    bool
        restoring; /* a Restore was asked for, and no answer proves that the gateway has heard of it */
    bool restore_sent; /* on this connection */
    bool speechless;   /* there was no memory for something that had to be said */
    int failed;
    struct smoe_why failure;
    int spoilt; /* a batch of the next step was lost after its ticket was released, */
    struct smoe_why spoilt_why; /* for this reason */
    uint32_t n_layers;
    struct smoe_uplink_layer
        layers[SMOE_LAYERS_MAX]; /* [n_layers]; large: the others are not even cleared */
};

/* Sends whatever may be sent now, in order. */
void smoe_uplink_pump(struct smoe_uplink *uplink);
int smoe_uplink_send(struct smoe_uplink *uplink, const struct smoe_message *message,
                     const struct smoe_segment *segments, size_t n_segments);

/* An answer to something that was sent behind the Restore: it has been heard. */
static inline void smoe_uplink_restored(struct smoe_uplink *u)
{
    u->restoring = u->restoring && !u->restore_sent;
}

/* ---- tickets.c (and submits.c) ---- */
static inline size_t smoe_ticket_visits(const struct smoe_uplink_ticket *ticket)
{
    return (size_t)ticket->tokens * ticket->top_k;
}
size_t smoe_ticket_row_bytes(const struct smoe_uplink_ticket *ticket);
void smoe_tickets_start_over(struct smoe_uplink *uplink);
void smoe_tickets_pump(struct smoe_uplink *uplink);
bool smoe_tickets_gradients_sent(const struct smoe_uplink *uplink, uint64_t step);
void smoe_tickets_commit(struct smoe_uplink *uplink, uint64_t step);
void smoe_ticket_fail(struct smoe_uplink_ticket *ticket, int code, const char *sentence);
struct smoe_uplink_ticket *smoe_ticket_find(struct smoe_uplink *uplink, uint64_t batch);
int smoe_ticket_expect(struct smoe_uplink *uplink, const struct smoe_message *m, size_t bytes,
                       struct smoe_why *why);
int smoe_ticket_result(struct smoe_uplink *uplink, const struct smoe_msg_result *m,
                       const struct smoe_blob *blob, struct smoe_why *why);
/* Sends a batch's x once more: workers had to give it up. */
int smoe_ticket_inputs(struct smoe_uplink *uplink, const struct smoe_msg_need_inputs *m);
int smoe_ticket_input_gradient(struct smoe_uplink *uplink, const struct smoe_msg_input_gradient *m,
                               const struct smoe_blob *blob, struct smoe_why *why);
void smoe_ticket_free(struct smoe_uplink_ticket *ticket);

/* ---- requests.c ---- */
void smoe_layers_pump(struct smoe_uplink *uplink);
bool smoe_layers_ready(const struct smoe_uplink *uplink);
void smoe_layer_answered(struct smoe_uplink *uplink, const struct smoe_msg_layer_ready *m);
void smoe_requests_pump(struct smoe_uplink *uplink);
void smoe_requests_start_over(struct smoe_uplink *uplink);
void smoe_request_answered(struct smoe_uplink *uplink, uint64_t request, struct smoe_blob *blob);
bool smoe_request_failed(struct smoe_uplink *uplink, uint64_t request, int code,
                         const char *sentence);
void smoe_step_pump(struct smoe_uplink *uplink);
void smoe_restore_pump(struct smoe_uplink *uplink);
/* A piece of a sharded expert's state has come. */
void smoe_request_piece(struct smoe_uplink *uplink, const struct smoe_msg_expert_state *m,
                        const struct smoe_blob *blob);
int smoe_request_expect(const struct smoe_uplink *uplink, const struct smoe_msg_expert_state *m,
                        size_t bytes, struct smoe_why *why);
void smoe_step_answered(struct smoe_uplink *uplink, const struct smoe_msg_step_done *m);

/* ---- routers.c ---- */
/* Freezes that must be sent, and queries. */
void smoe_routers_pump(struct smoe_uplink *uplink);
/* The connection is gone: whatever was said must be said again. */
void smoe_routers_start_over(struct smoe_uplink *uplink);
/* The gateway has said what is in force on a layer that has just become ready. */
void smoe_routers_found(struct smoe_uplink *uplink, uint32_t layer,
                        const struct smoe_frozen_head *found);
void smoe_routers_answered(struct smoe_uplink *uplink, const struct smoe_msg_router_state *m);
/* True if it was the request of a Freeze or a query. */
bool smoe_routers_failed(struct smoe_uplink *uplink, uint64_t request, int code,
                         const char *sentence);
void smoe_routers_release(struct smoe_uplink *uplink);
/* What a ticket's tokens are sent as, and whether that may be now. */
int smoe_routers_check(const struct smoe_uplink *uplink, const struct smoe_uplink_submit *options,
                       struct smoe_why *why);
bool smoe_routers_ready(const struct smoe_uplink *uplink, const struct smoe_uplink_ticket *ticket);

/* ---- placements.c ---- */
void smoe_placements_pump(struct smoe_uplink *uplink);
void smoe_placements_start_over(struct smoe_uplink *uplink);
void smoe_placements_answered(struct smoe_uplink *uplink, const struct smoe_msg_placement *m);
/* True if it was their request. */
bool smoe_placements_failed(struct smoe_uplink *uplink, uint64_t request, int code,
                            const char *sentence);
void smoe_placements_release(struct smoe_uplink *uplink);

/* Request numbers say whose they are: the kind, and an index. */
enum {
    SMOE_REQUEST_LAYER = 1,
    SMOE_REQUEST_STATE,
    SMOE_REQUEST_FREEZE,
    SMOE_REQUEST_QUERY,
    SMOE_REQUEST_PLACEMENT
};
uint64_t smoe_request_number(uint64_t kind, uint32_t index);
bool smoe_request_index(uint64_t request, uint64_t kind, uint32_t bound, uint32_t *ret);

#endif
