/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the gateway: sessions (gateway.c), tensors on their way (relay.c), frozen routers (routers.c).
 */
#ifndef SMOE_GATEWAY_GATEWAY_STATE_H
#define SMOE_GATEWAY_GATEWAY_STATE_H

#include "common/base/list.h"
#include "daemon/gateway/gateway.h"
#include "proto/channel.h"

struct smoe_gate_session {
    enum {
        SMOE_GATE_FREE,
        SMOE_GATE_HELLO,
        SMOE_GATE_OPEN,
        SMOE_GATE_ADMIN,
        SMOE_GATE_CLOSING
    } state;
    struct smoe_channel channel;
    uint64_t opened_ns;
    struct smoe_list hello_link;        /* HELLO: oldest first */
    struct smoe_list dirty_link;        /* the transport should look at it */
    struct smoe_list unburied_link;     /* CLOSING, and the core does not know yet */
    struct smoe_msg_credit held_credit; /* the newest that it has not been sent */
    bool credit_is_held;
    char peer[80];      /* "worker pi-1", for the log; "" before hello */
    uint64_t origin;    /* where it came from; 0: from nowhere that is counted */
    smoe_name key_name; /* whose key it has, "" if keys are not asked for */
    enum smoe_role key_role;
    smoe_sentence reason; /* why it is closing */
    int code;             /* what its peer did wrong, 0: nothing */
};

/* The tensors of one batch, by the core's batch index. */
struct smoe_gate_batch {
    struct smoe_blob *input; /* scores, experts or what a router reads, then x */
    size_t x_offset;
    const float *scores; /* [tokens, experts] in `input` or `scored`; NULL if experts were given */
    struct smoe_blob *scored; /* by a frozen router, or NULL */
    uint32_t *room;           /* lent to the core */
    struct smoe_blob *gradient;
};

/* The frozen routers; zeroed ones are none. */
struct smoe_gate_routers {
    struct smoe_frozen hand; /* of the Freeze in hand, until the core takes or refuses it */
    struct smoe_frozen next[SMOE_LAYERS_MAX];     /* being journalled */
    struct smoe_frozen in_force[SMOE_LAYERS_MAX]; /* as the core's layers say */
    size_t bytes;                                 /* that all of them hold, charged to the budget */
};

struct smoe_gateway {
    struct smoe_gateway_options options;
    struct smoe_core *core;
    struct smoe_wire *wire;
    struct smoe_budget budget;
    struct smoe_gate_session *sessions; /* the core's session numbers are indices here */
    uint32_t n_sessions, in_use;
    uint32_t reached;                /* sessions from here on were never used */
    struct smoe_gate_batch *batches; /* [batches_max] */
    struct smoe_list dirty, unburied;
    struct smoe_list hellos; /* sessions that have not said hello, oldest first */
    uint32_t n_hellos, n_admins;
    uint32_t *spare_room; /* of the Submit in hand, until the core takes or refuses it */
    size_t spare_x_offset;
    const float *spare_scores;      /* of that Submit */
    struct smoe_blob *spare_scored; /* as smoe_gate_batch */
    struct smoe_gate_routers routers;
    struct smoe_link_key link_key;    /* of the link whose first end was told just now */
    uint64_t link_keyed, link_failed; /* that link, 0: none; the last one without a key */
    uint64_t wake_ns;                 /* the core's */
    bool core_moved;                  /* it took an event since its invariants were walked */
    bool drained;
    struct smoe_gate_session
        *cut_off;        /* to make room: its connection is being closed; NULL: none is */
    bool credit_is_late; /* somebody's could not be sent for want of memory */
    uint64_t frames_in, frames_out, bytes_in, bytes_out; /* of closed sessions */
    uint64_t crowded_out, hello_timeouts, slow_peers;
};

/* ---- gateway.c ---- */

void smoe_gate_mark_dirty(struct smoe_gateway *gw, struct smoe_gate_session *s);

/* The session ends; the core, if it knows it, hears of it when the present update has been carried out.
 * `reason` NULL: it is known already, from the Error or Bye that went before. */
void smoe_gate_doom(struct smoe_gateway *gw, struct smoe_gate_session *s, const char *reason);

/* A core step and its consequences, those who must be told that they are gone included. `blob` is the raw
 * part of the message in hand, or NULL. */
void smoe_gate_step(struct smoe_gateway *gw, const struct smoe_event *event,
                    struct smoe_blob *blob);

/* ---- door.c ---- */

/* Its time to say hello is over, one way or the other. */
void smoe_gate_leave_hellos(struct smoe_gateway *gw, struct smoe_gate_session *s);

#define SMOE_GATE_DEAF "does not read what it is sent"

/* When memory of tensors grows short, the trainer that has left more unread than there is free is cut off: however many
 * do not read, the rest is the others'. One at a time, for what it holds is free only once its connection is closed. */
void smoe_gate_make_room(struct smoe_gateway *gw);

/* Connections that do not say hello in time; nothing is answered to them. */
void smoe_gate_expire_hellos(struct smoe_gateway *gw, uint64_t now_ns);

/* Whether the key permits this hello; SMOE_EROLE. */
int smoe_gate_may_be(const struct smoe_gate_session *s, const struct smoe_msg_hello *hello,
                     struct smoe_why *why);

/* ---- relay.c ---- */

/* The segments of an action's raw part, referenced; n 0 if it has none. `blob` is the raw part in hand.
 * SMOE_ENOMEMORY when the budget does not allow a gather. */
int smoe_relay_segments(struct smoe_gateway *gw, const struct smoe_action *action,
                        struct smoe_blob *blob, struct smoe_segment segments[SMOE_SEGMENTS_MAX],
                        size_t *ret_n);
void smoe_relay_release(struct smoe_segment *segments, size_t n);

/* Are all numbers of the raw part, if it has one, such as one may go on with? */
bool smoe_relay_good(const struct smoe_gateway *gw, const struct smoe_gate_session *session,
                     const struct smoe_message *message, const struct smoe_blob *blob);

/* Room and pointers for a Submit, put into the event. */
int smoe_relay_prepare_submit(struct smoe_gateway *gw, const struct smoe_msg_submit *m,
                              struct smoe_blob *blob, struct smoe_event *event,
                              struct smoe_why *why);
void smoe_relay_drop_unused_room(struct smoe_gateway *gw);
void smoe_relay_take_batch(struct smoe_gateway *gw, uint32_t batch, struct smoe_blob *blob);
void smoe_relay_take_inputs(struct smoe_gate_batch *batch, struct smoe_blob *blob);
void smoe_relay_free_input(struct smoe_gate_batch *batch);
void smoe_relay_free_batch(struct smoe_gate_batch *batch);

/* ---- links.c ---- */

/* Adds the key to what one end is told, the same one to what the other end is told next. */
void smoe_gate_key_link(struct smoe_gateway *gw, struct smoe_msg_peer *m);

/* ---- routers.c ---- */

/* Makes the router of a Freeze's raw part, or says in the event (and in `why`, which it borrows) why not. */
void smoe_gate_routers_prepare(struct smoe_gateway *gw, const struct smoe_msg_freeze *m,
                               const struct smoe_blob *blob, struct smoe_event *event,
                               struct smoe_why *why);
void smoe_gate_routers_drop_hand(struct smoe_gateway *gw);
/* What the core's actions ROUTER_TAKEN, ROUTER_IN_FORCE and ROUTER_FREED mean. */
void smoe_gate_routers_take(struct smoe_gateway *gw, uint32_t layer);
void smoe_gate_routers_put_in_force(struct smoe_gateway *gw, uint32_t layer);
void smoe_gate_routers_free(struct smoe_gateway *gw, uint32_t layer);
void smoe_gate_routers_release(struct smoe_gateway *gw);
/* The routers that the core has been restored with. SMOE_EDATA if one is not what its digest says. */
int smoe_gate_routers_restore(struct smoe_gateway *gw, const struct smoe_restored *restored,
                              struct smoe_why *why);
/* Is the router that a Submit names, if it names one, still the one in force? What it expects its raw part to be
 * is known only then. */
bool smoe_gate_routers_stand(const struct smoe_gateway *gw, const struct smoe_msg_submit *m);
/* Scores [tokens, experts] of a Submit's tokens, by codes or features at the beginning of its raw part. */
int smoe_gate_routers_score(struct smoe_gateway *gw, const struct smoe_msg_submit *m,
                            const struct smoe_blob *blob, struct smoe_blob **ret_scores,
                            struct smoe_why *why);

#endif
