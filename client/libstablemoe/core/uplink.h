/* SPDX-License-Identifier: Apache-2.0
 *
 * The trainer's side of the protocol as a pure machine: tickets in, frames out, and everything that is
 * not committed kept so that it can be sent again. No socket and no clock; the library's shell and
 * the simulator drive it.
 *
 * Attempts: the gateway numbers them (Welcome, Need). When the number rises everything uncommitted
 * starts over: a batch whose results had all come is sent with its recorded experts, one whose
 * results had not is sent as if new; what the caller has already been given does not change.
 */
#ifndef SMOE_UPLINK_H
#define SMOE_UPLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/err.h"
#include "common/base/list.h"
#include "proto/blob.h"
#include "proto/wire.h"

#define SMOE_TICKETS_MAX  4096
#define SMOE_REQUESTS_MAX 64

struct smoe_uplink;

struct smoe_uplink_options {
    smoe_name name;
    smoe_name software;
    uint64_t incarnation; /* random, not 0 */
    uint64_t run;         /* random, not 0: of the layers declared here */
    size_t real_bytes;    /* 4 or 8 */
};

/* The router that a layer's trainer has frozen, until the gateway has it in force; and what a query found. */
struct smoe_uplink_router {
    enum {
        SMOE_UROUTER_NONE,
        SMOE_UROUTER_WANTED, /* to be sent, and again after each reconnection that does not find it in force */
        SMOE_UROUTER_SENT,
        SMOE_UROUTER_IN_FORCE,
        SMOE_UROUTER_FAILED, /* code, why */
    } state;
    struct smoe_frozen_head head;
    struct smoe_blob *values; /* kept while the layer lives: a gateway may come back without them */
    uint32_t refusals;        /* of these values, for want of room */
    int code;
    struct smoe_why why;
    struct smoe_frozen_head found; /* what the gateway said last is in force */
    bool asked, asking, answered; /* a query: sent; waits for its answer; has it, or `query_code` */
    int query_code;
    struct smoe_why query_why;
    struct smoe_msg_routing_report report; /* the last; tokens 0: none */
    bool report_due;                       /* the gateway does not have it */
};

/* A placement that was asked for, or is to be brought back. */
struct smoe_uplink_placement {
    enum {
        SMOE_UPLACEMENT_NONE,
        SMOE_UPLACEMENT_WANTED, /* to be sent, and again after each reconnection */
        SMOE_UPLACEMENT_SENT,
        SMOE_UPLACEMENT_ANSWERED, /* `value` is what is in force, or code, why */
    } state;
    bool store;                  /* `value` is to be brought; else it is only asked for */
    struct smoe_placement value; /* its arrays lie in */
    void *block;                 /* owned */
    int code;
    struct smoe_why why;
};

struct smoe_uplink_layer {
    bool evaluate_only;
    enum { SMOE_ULAYER_WANTED, SMOE_ULAYER_READY, SMOE_ULAYER_FAILED } state;
    bool asked;    /* LayerDeclare sent on this connection */
    uint32_t wire; /* the gateway's number, while READY */
    smoe_name name;
    uint64_t run, step;
    struct smoe_layer_shape shape;
    struct smoe_uplink_router router;
    struct smoe_uplink_placement placement;
    int code; /* FAILED */
    struct smoe_why why;
};

enum smoe_ticket_state {
    SMOE_TICKET_QUEUED,   /* to be submitted */
    SMOE_TICKET_SENT,     /* results are coming */
    SMOE_TICKET_RESULTS,  /* all results of this attempt are here */
    SMOE_TICKET_GRADIENT, /* its gradient was sent in this attempt */
    SMOE_TICKET_SETTLED,  /* all input gradients of this attempt are here (evaluation: results) */
    SMOE_TICKET_COMMITTED,
    SMOE_TICKET_FAILED,
};

struct smoe_uplink_ticket {
    struct smoe_uplink *uplink;
    struct smoe_list link; /* in order of submission, until released or committed */
    enum smoe_ticket_state state;
    uint64_t batch; /* id on the wire */
    uint64_t step;  /* the step that will commit it */
    uint32_t layer; /* number of the uplink's layer */
    uint32_t tokens, top_k;
    bool evaluate;
    bool ahead; /* submitted before its caller had the answer of a step: goes on by the weights */
    uint64_t base; /* ... of this one, however often it is sent */
    bool released; /* the caller gave it back; kept until committed */
    /* What the caller may read; never changes once set. */
    bool has_results, has_input_gradient;
    void *y;           /* [n, K, d], owned */
    uint16_t *experts; /* [n, K] */
    float *scores;     /* [n, K] */
    void *dx;          /* [n, d], owned */
    int code;          /* FAILED */
    struct smoe_why why;
    /* This attempt's progress */
    uint32_t visits_in, gradients_in;
    uint8_t *seen;  /* [n, K] bit 0: result came, bit 1: input gradient came */
    void *dx_parts; /* [n, K, d], while input gradients come in */
    /* Kept for replay */
    struct smoe_blob *submit;               /* scores, codes or features, then x */
    uint64_t router_version, router_digest; /* of the router that scores it; 0: scores are given */
    struct smoe_blob *replay;               /* experts, then x; made when first needed */
    size_t x_offset;
    struct smoe_blob *dy;
    /* The caller's */
    void (*on_done)(void *context, void *ticket, int status);
    void *context;
    bool told; /* on_done was called */
};

struct smoe_uplink_request {
    bool used, done, sent;
    struct smoe_message message; /* EXPERT_FETCH or EXPERT_STORE, with our layer number */
    struct smoe_blob *values;    /* to store, or fetched */
    size_t bytes;                /* expected */
    size_t elements;             /* fetched piece by piece: so many have come, */
    uint64_t series;             /* of this series */
    int code;
    struct smoe_why why;
};

struct smoe_step_state {
    bool pending, sent, sent_before, done;
    struct smoe_msg_step message; /* without batches */
    struct smoe_msg_step_done result;
    int code;
    struct smoe_why why;
};

int smoe_uplink_new(const struct smoe_uplink_options *options, struct smoe_uplink **ret);
void smoe_uplink_free(struct smoe_uplink *uplink);

/* ---- the link, as smoe_agent ---- */
void smoe_uplink_connected(struct smoe_uplink *uplink);
void smoe_uplink_disconnected(struct smoe_uplink *uplink);
uint8_t *smoe_uplink_direct(const struct smoe_uplink *uplink, size_t *ret_room);
/* Nonzero: close the connection, and try again unless smoe_uplink_failed. */
int smoe_uplink_received(struct smoe_uplink *uplink, const uint8_t *data, size_t n,
                         struct smoe_why *why);
size_t smoe_uplink_peek(const struct smoe_uplink *uplink, struct iovec *iovecs, size_t max);
void smoe_uplink_consume(struct smoe_uplink *uplink, size_t bytes);
bool smoe_uplink_welcomed(const struct smoe_uplink *uplink);
/* There was no memory for something that had to be said: close the connection, and try again. */
bool smoe_uplink_speechless(const struct smoe_uplink *uplink);
/* Says Bye: the layers of this trainer are free for the next one at once. */
void smoe_uplink_leave(struct smoe_uplink *uplink, const char *reason);

/* A final error: nothing will ever be answered again. 0 or the code, with its sentence. */
int smoe_uplink_failed(const struct smoe_uplink *uplink, const char **ret_sentence);

/* ---- what a trainer does. All return 0 or a code and a sentence, and send what can be sent. ---- */

int smoe_uplink_declare(struct smoe_uplink *uplink, const char *name,
                        const struct smoe_layer_shape *shape, bool evaluate_only,
                        uint32_t *ret_layer, struct smoe_why *why);
const struct smoe_uplink_layer *smoe_uplink_layer(const struct smoe_uplink *uplink, uint32_t layer);

struct smoe_uplink_submit {
    uint32_t layer, tokens, top_k;
    const float *scores;   /* one of these three */
    const uint32_t *codes; /* for the frozen table in force */
    const float *features; /* for the frozen linear map in force */
    const void *x;
    bool evaluate;
    void (*on_done)(void *context, void *ticket, int status);
    void *context;
};
int smoe_uplink_submit(struct smoe_uplink *uplink, const struct smoe_uplink_submit *options,
                       struct smoe_uplink_ticket **ret, struct smoe_why *why);
int smoe_uplink_gradient(struct smoe_uplink_ticket *ticket, const void *dy, struct smoe_why *why);
void smoe_uplink_ticket_release(struct smoe_uplink_ticket *ticket);

/* Freezes a router: `head` without its digest, which is the values' (copied). Tickets by codes and features
 * may follow at once; they are sent when it is in force. */
int smoe_uplink_freeze(struct smoe_uplink *uplink, uint32_t layer,
                       const struct smoe_frozen_head *head, const float *values,
                       struct smoe_why *why);
/* Asks which router is in force: the answer is in the layer's `router`, from `answered` on. */
int smoe_uplink_query_router(struct smoe_uplink *uplink, uint32_t layer, struct smoe_why *why);

/* Asks for the placement of a layer, or brings one back (`store`; copied): the layer's `placement` has the answer. One
 * at a time for each layer: SMOE_ESTATE. SMOE_EFIELD for one that no fleet can have. */
int smoe_uplink_place(struct smoe_uplink *uplink, uint32_t layer,
                      const struct smoe_placement *store, struct smoe_why *why);

/* Tells the gateway, and one that comes after it, how far the layer's routing has changed. */
void smoe_uplink_report_routing(struct smoe_uplink *uplink, uint32_t layer,
                                const struct smoe_msg_routing_report *report);

/* Tickets whose outcome has not been told yet, one at a time; NULL when there is none. */
struct smoe_uplink_ticket *smoe_uplink_next_done(struct smoe_uplink *uplink);

/* `message` without step, attempt and batches. */
int smoe_uplink_step(struct smoe_uplink *uplink, const struct smoe_msg_step *message,
                     struct smoe_why *why);
const struct smoe_step_state *smoe_uplink_step_state(const struct smoe_uplink *uplink);
void smoe_uplink_step_taken(struct smoe_uplink *uplink); /* the caller has seen its result */
uint64_t smoe_uplink_steps(const struct smoe_uplink *uplink);

int smoe_uplink_restore(struct smoe_uplink *uplink, uint64_t step, struct smoe_why *why);
/* Asks for (`values` NULL) or replaces one expert's state. */
int smoe_uplink_state(struct smoe_uplink *uplink, uint32_t layer, uint32_t expert, uint32_t parts,
                      const void *values, uint32_t *ret_request, struct smoe_why *why);
const struct smoe_uplink_request *smoe_uplink_request(const struct smoe_uplink *uplink,
                                                      uint32_t request);
void smoe_uplink_request_release(struct smoe_uplink *uplink, uint32_t request);

/* Elements of the flat parameter vector, and of `parts` of it. */
size_t smoe_uplink_params(const struct smoe_layer_shape *shape);
size_t smoe_uplink_elements(const struct smoe_layer_shape *shape, uint32_t parts);

/* The gateway's routing policy when we connected. */
const char *smoe_uplink_policy(const struct smoe_uplink *uplink);

/* The last attempt number, and how often everything uncommitted was sent again. */
uint64_t smoe_uplink_attempt(const struct smoe_uplink *uplink);
void smoe_uplink_check(const struct smoe_uplink *uplink);

#endif
