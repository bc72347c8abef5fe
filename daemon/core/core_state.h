/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the core: its memory, and what its files offer each other. core.c owns the door (events in,
 * actions out); session.c joins and parts; layer.c knows layers, standing.c who hosts and who follows their
 * experts, copies.c fills followers; trainer.c and batch.c know trainers, credit and their batches; parcel.c
 * moves visits along, backward.c on their way back; slot.c and slot_route.c make the slot's decision; step.c
 * commits, and record.c says what must survive the daemon; state_relay.c (and .h) passes expert states on,
 * freezing.c knows routers. Layers that are sharded: sharded.h.
 */
#ifndef SMOE_CORE_CORE_STATE_H
#define SMOE_CORE_CORE_STATE_H

#include "common/base/list.h"
#include "common/base/map.h"
#include "common/base/rng.h"
#include "daemon/core/core.h"
#include "daemon/core/freezing.h"

#define SMOE_NONE       UINT32_MAX
#define SMOE_NO_TRAINER (UINT32_MAX - 1) /* where SMOE_NONE means the core itself */

struct smoe_session {
    enum {
        SMOE_SESSION_FREE,
        SMOE_SESSION_WORKER,
        SMOE_SESSION_TRAINER,
        SMOE_SESSION_CLOSING,
        SMOE_SESSION_PARKED, /* a trainer that waits for its own last step to be committed */
    } kind;
    uint32_t index; /* of the worker or trainer */
};

struct smoe_layer {
    enum smoe_layer_state state;
    smoe_name name;
    uint64_t run;
    struct smoe_layer_shape shape;
    uint64_t forward_flops;         /* of one visit */
    uint64_t step;                  /* last committed, */
    uint64_t attempt;               /* in this attempt, */
    struct smoe_msg_step_done done; /* with this answer */
    bool learned;                   /* the seed no longer gives its experts */
    uint32_t copies;                /* wanted of each expert: 1 or 2 */
    uint32_t owner;                 /* trainer index, or SMOE_NONE */
    smoe_name owner_name;           /* of the present or last one */
    uint64_t owner_until_ns;        /* a restarted daemon keeps it for that one until then */
    bool left_over;                 /* the last solve of its tokens found no room for some */
    struct smoe_freezing router;
    struct smoe_sharded *sharded; /* sharded.h; NULL: each expert stands whole, with one host */
    struct smoe_expert_view experts[SMOE_EXPERTS_MAX]; /* of these shape.experts mean something */
};

/* One Submit. The visits array lies in the room the shell lent. */
struct smoe_batch {
    bool used;
    bool training;   /* needs a gradient */
    bool routed;     /* replay: experts given */
    bool frozen;     /* scored by a frozen router */
    bool after_step; /* submitted after a pending Step: waits for its commit */
    bool ahead;      /* computed by the weights of step `base`: may go before that commit */
    bool in_step;    /* named by the pending Step */
    bool has_gradient, tainted; /* with numbers that cannot be: nobody else is to blame for more */
    uint32_t n_backward_due;    /* parcels whose part of it has not been sent */
    bool input_freed, inputs_asked, inputs_back; /* x came once more, for evicted parcels */
    uint64_t id;
    uint64_t step, base; /* that will commit it; ahead: whose weights it has */
    uint32_t trainer, layer, tokens, top_k;
    uint64_t raw_bytes, credit_bytes; /* as they came; with a router's scores of them */
    const float *scores;              /* [tokens, experts] */
    const uint16_t *experts;          /* [tokens, top_k] if routed */
    uint32_t *visits;                 /* [tokens * top_k], filled as parcels are made */
    uint32_t visits_used;
    uint32_t *waiting; /* [tokens]: tokens not routed, rising, from waiting_first on */
    uint32_t waiting_first, n_waiting;
    uint32_t parcels_promised; /* while it has tokens that wait */
    uint32_t visits_forward_done, visits_settled;
    uint64_t slot_seen; /* number of the slot that looked at it last */
    struct smoe_list trainer_link;
    struct smoe_list pending_link; /* while n_waiting > 0 */
    struct smoe_list parcels;
};

struct smoe_parcel {
    bool used;
    enum smoe_visit_state state;
    uint32_t generation; /* upper half of the id, so that a late answer is recognised */
    uint32_t batch, worker, layer, expert;
    uint32_t first, rows;    /* batch->visits[first .. first + rows) */
    bool evicted;            /* its worker has given up its x */
    bool backward_due;       /* its gradient is here and waits for room at the worker */
    uint64_t backward_bytes; /* GRADIENT_QUEUED: what that takes there */
    struct smoe_list batch_link;
    struct smoe_list worker_link;
    struct smoe_list new_link; /* while the slot that made it collects */
};

enum smoe_step_phase {
    SMOE_STEP_NONE,
    SMOE_STEP_SETTLING,   /* named batches are not all settled */
    SMOE_STEP_NORM,       /* hosts report square norms */
    SMOE_STEP_STAGING,    /* hosts and followers compute into their second buffer */
    SMOE_STEP_COMMITTING, /* all have: the commit is being written, and cannot be taken back */
};

struct smoe_step {
    enum smoe_step_phase phase;
    uint64_t number, attempt;
    uint64_t record; /* COMMITTING: sequence number of the journal's record */
    uint64_t layers; /* bit l: layer l takes part: those the trainer owned when it said Step */
    struct smoe_step_optimizer optimizer;
    double gradient_divisor, clip_norm, dense_square_norm;
    double square_norm, clip_scale;
    struct smoe_msg_step_done done; /* COMMITTING: what it will be answered with */
    uint32_t n_awaiting;
    uint64_t *awaiting; /* bit w: worker w has not answered this phase; [workers_max / 64 + 1] */
};

struct smoe_trainer {
    enum { SMOE_TRAINER_FREE, SMOE_TRAINER_LIVE, SMOE_TRAINER_GONE } state;
    uint32_t session;
    smoe_name name;
    uint64_t incarnation;
    uint64_t attempt;
    uint64_t gone_ns;
    bool said_bye;                      /* it will not come back: no lease */
    uint64_t attached;                  /* bit l: may use layer l */
    uint64_t requests[SMOE_LAYERS_MAX]; /* LayerDeclare that waits for its layer; if wanted bit */
    uint64_t wanted;                    /* bit l: requests[l] is open */
    uint64_t sent_bytes, sent_visits;   /* since Welcome */
    uint64_t arriving_bytes, arriving_visits; /* of these, a Submit whose raw part is coming */
    uint64_t granted_bytes, granted_visits;   /* since Welcome */
    bool grant_due;                           /* credit came back in a way that sent none yet */
    uint64_t iteration_bytes;                 /* uncommitted */
    uint64_t gradient_bytes;                  /* that their gradients will have */
    uint64_t step_committed;
    struct smoe_msg_step_done last_done; /* answer to a repeated Step */
    struct smoe_step step;
    /* What must wait while a step is COMMITTING */
    bool reset_due, restore_due;
    smoe_sentence reset_reason;
    uint64_t restore_step;
    uint32_t parked_session; /* said hello; SMOE_NO_SESSION: none */
    uint32_t parked_protocol;
    struct smoe_msg_hello parked_hello;
    struct smoe_list batches;
    uint64_t n_batches;
    struct smoe_account account;
};

/* An expert-state request on its way through workers: of a trainer, or (trainer SMOE_NONE) of the core,
 * to fill a follower from the host. */
struct smoe_relay {
    bool used;
    uint32_t trainer, worker;
    uint32_t follower; /* stores too, or is to be filled; SMOE_NONE */
    bool host_stored, follower_stored;
    bool waiting; /* a fetch: until the expert has a host again */
    uint64_t bytes;
    uint64_t number;  /* what the worker is asked under: never used before */
    uint64_t request; /* the trainer's */
    uint32_t layer, expert, parts;
    bool store;
    uint64_t step;
    uint32_t n_due;  /* of a sharded layer: pieces to come, or copies of pieces to be stored */
    uint64_t series; /* which attempt at them it is */
};
#define SMOE_RELAYS_MAX 4096

struct smoe_core {
    struct smoe_core_options options;
    uint64_t now_ns;
    uint64_t epoch;  /* in force: no worker hears of one that is not durable */
    uint64_t epochs; /* the highest that was given */
    bool draining, drained_told;
    uint64_t attempts;  /* given so far: unique over all trainers and all lives of the daemon */
    uint64_t settle_ns; /* after a restart, workers may come back until then; 0: no longer */
    uint32_t n_committing, n_leaving, n_copying;
    uint64_t journal_due; /* bit l: layer l has changed since its last record */
    uint64_t journal_sequence;
    struct smoe_record *records; /* of this update */
    size_t n_records, records_max;
    struct smoe_standing *standings; /* [SMOE_LAYERS_MAX * SMOE_EXPERTS_MAX] of those records */

    struct smoe_session *sessions;
    uint32_t n_sessions;
    struct smoe_fleet fleet;
    struct smoe_quarantine quarantine;
    uint64_t expiry_ns; /* no worker's silence or lease ends before; 0: to be found out */
    struct smoe_trainer *trainers;
    bool grants_due, trainers_gone; /* some trainer may have: grant_due, state GONE */
    struct smoe_layer *layers;      /* [SMOE_LAYERS_MAX] */
    uint64_t layers_used;           /* bit l: layer l is not FREE; by layer_move alone */

    struct smoe_batch *batches;
    uint32_t *batch_free;
    uint32_t n_batch_free;
    uint32_t *batch_zombie; /* freed in this step, named by its actions: free at the next */
    uint32_t n_batch_zombie;
    struct smoe_map batch_by_id; /* trainer index and id -> index */
    struct smoe_list pending;    /* batches with waiting tokens, oldest first */

    struct smoe_parcel *parcels;
    uint32_t *parcel_free;
    uint32_t n_parcel_free;
    uint32_t parcels_promised; /* of these, to batches that wait to be routed */
    uint32_t *parcel_zombie;   /* as batch_zombie */
    uint32_t n_parcel_zombie;
    struct smoe_list *worker_parcels; /* [workers_max] all at a worker, uncommitted included */
    struct smoe_list *worker_new;     /* [workers_max] made by the present slot */

    struct smoe_sharding *sharding;        /* sharded.h; NULL: all layers are pinned */
    struct smoe_relay *relays;             /* [SMOE_RELAYS_MAX] */
    uint64_t relay_serial, relays_reached; /* requests; from here on never used */

    /* The slot */
    uint64_t slot_deadline_ns;
    uint64_t slot_closed_ns; /* the present one: at its deadline, however late noticed, or now */
    bool solve_useful;       /* something changed since the last solve that could let tokens move */
    double tau_s;            /* planned length of the present slot */
    struct smoe_rng rng;
    struct smoe_route_scratch *scratch;
    uint32_t *group_batches; /* [batches_max] */
    float *gather;           /* scores that do not lie together */
    size_t gather_floats;
    uint16_t *chosen_expert; /* [slot_tokens_max * SMOE_TOP_K_MAX] */
    uint32_t *chosen_node;
    uint32_t *arrivals;          /* [workers_max] */
    uint32_t *served, *followed; /* [workers_max] experts of the layer that is being arranged */
    uint64_t *new_bytes;         /* [workers_max] raw bytes of the parcels on worker_new */
    uint64_t *considered;        /* bit w: worker w may be due a Decision */
    struct smoe_node *nodes;
    double *debts;
    struct smoe_plan_worker *known; /* [workers_max] what the decision in hand knows of them */
    size_t trace_bytes;             /* of this update, in lists */
    struct smoe_trace_worker *traced_workers; /* [n_traced] frequencies of this slot, in lists */
    uint32_t n_traced;
    bool traced_torn;        /* there was no room for all of them */
    uint32_t *replica_first; /* [SMOE_EXPERTS_MAX + 1] */
    uint32_t *replica_node;

    uint64_t gradient_bytes; /* what the gradients of all uncommitted batches will have */
    struct smoe_account total;
    struct smoe_core_totals totals;

    /* The update being made */
    struct smoe_action *actions;
    size_t n_actions, actions_max;
    uint8_t *lists; /* arrays that actions point to */
    size_t lists_used, lists_cap;
};

/* ---- core.c: answering ---- */

/* An action of the type, to be filled in. */
struct smoe_action *smoe_core_act(struct smoe_core *core, enum smoe_action_type type,
                                  uint32_t session);
/* The message of a new SEND action. */
struct smoe_message *smoe_core_send(struct smoe_core *core, uint32_t session,
                                    enum smoe_message_type type);
/* Gives the message sent last its raw part, of rows of these parcels of the batch if the plan is made of
 * some (else SMOE_NONE, NULL, 0). */
void smoe_core_attach(struct smoe_core *core, enum smoe_tensor_plan tensor, uint32_t batch,
                      const uint32_t *parcels, uint32_t n_parcels);
/* Memory for an array an action points to; lives until the next step. */
void *smoe_core_list(struct smoe_core *core, size_t bytes);
/* Of the list taken last only this much is needed. */
void smoe_core_list_trim(struct smoe_core *core, const void *list, size_t bytes);
/* Answers an error; `fatal` also closes. */
void smoe_core_refuse(struct smoe_core *core, uint32_t session, int code, const char *sentence,
                      bool fatal, uint64_t batch, uint64_t request);

/* ---- session.c ---- */
void smoe_session_hello(struct smoe_core *core, uint32_t session, const struct smoe_msg_hello *m);
/* The connection is gone: whoever had a stake in its peer learns of it. */
void smoe_session_closed(struct smoe_core *core, uint32_t session);
/* Workers that left while a commit was being written are lost now. */
void smoe_session_bury_leaving(struct smoe_core *core);
/* Says why, closes it, and takes it for closed at once. */
void smoe_session_end(struct smoe_core *core, uint32_t session, int code, const char *sentence);

/* ---- layer.c ---- */
void smoe_layer_declared(struct smoe_core *core, uint32_t trainer,
                         const struct smoe_msg_layer_declare *m);
void smoe_layer_inventory(struct smoe_core *core, uint32_t worker,
                          const struct smoe_msg_inventory *m);
void smoe_layer_hosted(struct smoe_core *core, uint32_t worker, const struct smoe_msg_hosted *m);
void smoe_layer_worker_lost(struct smoe_core *core, uint32_t worker);
void smoe_layer_worker_forgotten(struct smoe_core *core, uint32_t worker);
bool smoe_layer_find(const struct smoe_core *core, const char *name, uint32_t *ret_layer);
/* A new layer, WAITING, owned by nobody; SMOE_NONE when there are too many. */
uint32_t smoe_layer_new(struct smoe_core *core, const char *name, uint64_t run,
                        const struct smoe_layer_shape *shape);
/* Ends everybody's hope for the layer, in words. */
void smoe_layer_lose(struct smoe_core *core, uint32_t layer, int code, const char *sentence);
/* Waiting layers may have what they wait for. */
void smoe_layers_advance(struct smoe_core *core);
void smoe_layers_release_owner(struct smoe_core *core, uint32_t trainer);
uint64_t smoe_layers_owned(const struct smoe_core *core, uint32_t trainer);

/* ---- standing.c, standing_choose.c: hosts and followers ---- */
/* Live, and connected now. */
bool smoe_standing_usable(const struct smoe_core *core, uint32_t worker);
/* Puts the worker into a role of one of the layer's experts. */
void smoe_standing_change(struct smoe_core *core, uint32_t layer, uint32_t *role, uint32_t worker);
/* No Host that is sent now can fall between the norms and the commit of a step. */
bool smoe_standing_quiet(const struct smoe_core *core, const struct smoe_layer *layer);
/* Does the worker take part in the layer's steps: as host, or as follower with a current copy? */
bool smoe_layer_on_worker(const struct smoe_layer *layer, uint32_t worker);
/* ... or at least as a follower that is to be filled? */
bool smoe_standing_holds(const struct smoe_layer *layer, uint32_t worker);
/* Nothing of the layer's training is out: roles may change. */
bool smoe_standing_between_steps(const struct smoe_core *core, uint32_t layer);
/* Shall experts change places as soon as nothing of the layer's training is out? */
bool smoe_standing_wants_rest(struct smoe_core *core, uint32_t layer);
/* Chooses hosts and followers as far as that can be done now, and tells them. False: the layer is lost. */
bool smoe_standing_advance(struct smoe_core *core, uint32_t layer);
/* Every expert has a live host that has taken it in. */
bool smoe_standing_complete(const struct smoe_core *core, uint32_t layer);
/* Sends Host to those whose experts of the layer changed. */
void smoe_standing_tell(struct smoe_core *core, uint32_t layer);
/* Tells a worker to drop all it holds of a layer. */
void smoe_standing_drop(struct smoe_core *core, uint32_t worker, const smoe_name name, uint64_t run,
                        const struct smoe_layer_shape *shape);
/* Followers that are not here take no part in the step that begins: their copies no longer count. */
void smoe_standing_leave_absent(struct smoe_core *core, uint32_t layer);
void smoe_standing_clear(struct smoe_core *core, uint32_t layer, uint32_t expert);
/* The worker that was being filled has the state: it follows from now on. */
void smoe_standing_filled(struct smoe_core *core, uint32_t layer, uint32_t expert);
void smoe_standing_refused(struct smoe_core *core, uint32_t layer, uint32_t worker,
                           const struct smoe_msg_hosted *m);
void smoe_standing_worker_lost(struct smoe_core *core, uint32_t layer, uint32_t worker);
void smoe_standing_worker_forgotten(struct smoe_core *core, uint32_t layer, uint32_t worker);
/* A worker is back; `held` is what it has of the layer, or NULL. */
void smoe_standing_returned(struct smoe_core *core, uint32_t layer, uint32_t worker,
                            const struct smoe_inventory_layer *held);

/* ---- copies.c: filling followers, gradients for them ---- */
/* Starts to fill followers of the layer, as many bytes at a time as COPY_BYTES_MAX. */
void smoe_copies_advance(struct smoe_core *core, uint32_t layer);
/* Of an expert's state, what a follower is filled with. */
uint32_t smoe_copies_parts(const struct smoe_layer *layer);
/* Is a follower of one of these layers being filled? */
bool smoe_copies_under_way(const struct smoe_core *core, uint64_t layers);
/* What is on its way of the layer's expert (SMOE_NONE: of all) is of a state, or for a worker, that is no
 * longer wanted. */
void smoe_copies_void(struct smoe_core *core, uint32_t layer, uint32_t expert);
void smoe_copies_state(struct smoe_core *core, struct smoe_relay *relay,
                       const struct smoe_msg_expert_state *m);
void smoe_copies_end(struct smoe_core *core, struct smoe_relay *relay);
void smoe_copies_stored(struct smoe_core *core, struct smoe_relay *relay);
/* The experts of the worker whose followers need their gradient sums, by layer. */
size_t smoe_copies_gradients(struct smoe_core *core, uint64_t layers, uint32_t worker,
                             const struct smoe_layer_experts **ret);
/* A gradient sum for a follower. */
struct smoe_verdict smoe_copies_expect_gradient(const struct smoe_core *core, uint32_t worker,
                                                const struct smoe_msg_step_gradient *m);
void smoe_copies_gradient(struct smoe_core *core, uint32_t worker,
                          const struct smoe_msg_step_gradient *m);

/* ---- record.c: what must survive the daemon ---- */
/* Emits the router of a Freeze; its sequence number. */
uint64_t smoe_journal_router(struct smoe_core *core, uint32_t layer,
                             const struct smoe_frozen_head *head, const float *values);
/* Emits records of the layers that changed. */
void smoe_journal_flush(struct smoe_core *core);
void smoe_journal_drop(struct smoe_core *core, uint32_t layer);
/* Emits the commit of the trainer's step; its sequence number. */
uint64_t smoe_journal_commit(struct smoe_core *core, uint32_t trainer);
/* A worker's name as the journal has it: "" for SMOE_NONE. */
void smoe_journal_name(const struct smoe_core *core, uint32_t worker, smoe_name ret);
/* The worker of that name in a journal: it is expected. SMOE_NONE for ""; SMOE_ECONFIG if there is no room for it. */
int smoe_journal_expect(struct smoe_core *core, const smoe_name name, uint32_t *ret,
                        struct smoe_why *why);
/* Takes in what the journal held. */
int smoe_journal_restore(struct smoe_core *core, const struct smoe_restored *restored,
                         struct smoe_why *why);

/* Layers among `layers` in which the worker takes part, rising, in the update's memory. */
size_t smoe_layers_on_worker(struct smoe_core *core, uint64_t layers, uint32_t worker,
                             const uint32_t **ret_layers);

/* ---- trainer.c: sessions, attempts, credit ---- */
void smoe_trainer_hello(struct smoe_core *core, uint32_t session, const struct smoe_msg_hello *m,
                        uint32_t protocol);
void smoe_trainer_closed(struct smoe_core *core, uint32_t trainer);
/* Drops everything uncommitted and asks for it again (a new attempt). */
void smoe_trainer_reset(struct smoe_core *core, uint32_t trainer, const char *reason);
void smoe_trainer_grant(struct smoe_core *core, uint32_t trainer);
void smoe_trainer_owe(struct smoe_core *core, struct smoe_trainer *trainer); /* grant later */
void smoe_trainers_expire(struct smoe_core *core);
/* A number that no attempt has had. */
uint64_t smoe_trainer_new_attempt(struct smoe_core *core);
/* Its step is committed: what had to wait for that happens now. */
void smoe_trainer_catch_up(struct smoe_core *core, uint32_t trainer);
void smoe_trainer_restore(struct smoe_core *core, uint32_t trainer,
                          const struct smoe_msg_restore *m);

/* ---- batch.c: Submit, Gradient, Discard ---- */
struct smoe_verdict smoe_batch_expect_submit(const struct smoe_core *core,
                                             const struct smoe_trainer *trainer,
                                             const struct smoe_msg_submit *m, struct smoe_why *why);
/* Counts a Submit of that size as sent, whatever becomes of it; false if the credit does not cover it. */
bool smoe_trainer_spend(struct smoe_trainer *trainer, uint64_t bytes, uint64_t visits);
struct smoe_verdict smoe_batch_expect_gradient(const struct smoe_core *core, uint32_t trainer,
                                               const struct smoe_msg_gradient *m,
                                               struct smoe_why *why);
/* The batch is routed, or gone: the parcels promised to it are free. */
void smoe_batch_keep_promise(struct smoe_core *core, struct smoe_batch *batch);
void smoe_batch_submit(struct smoe_core *core, uint32_t trainer, const struct smoe_event *event);
void smoe_batch_gradient(struct smoe_core *core, uint32_t trainer,
                         const struct smoe_msg_gradient *m);
void smoe_batch_discard(struct smoe_core *core, uint32_t trainer, const struct smoe_msg_discard *m);
/* It cannot be finished, and its trainer is told why. What its gradient has done is taken back. */
void smoe_batch_fail(struct smoe_core *core, uint32_t batch, int code, const char *sentence);
bool smoe_batch_find(const struct smoe_core *core, uint32_t trainer, uint64_t id,
                     uint32_t *ret_batch);
/* Ends a batch whose unfinished parcels workers may still have: tells them. */
void smoe_batch_forget(struct smoe_core *core, uint32_t batch);
/* Tells workers to forget what they have of the trainer's evaluations; the batches stay to be freed. */
void smoe_batches_forget_evaluations(struct smoe_core *core, uint32_t trainer);
/* Ends a batch; visits that are not COMMITTED or settled evaluations become FAILED. */
void smoe_batch_free(struct smoe_core *core, uint32_t batch);

/* ---- backward.c ---- */
/* Sends what is due at the worker, as far as it has room. */
void smoe_backward_pump(struct smoe_core *core, uint32_t worker);
void smoe_backward_evicted(struct smoe_core *core, uint32_t worker,
                           const struct smoe_msg_evicted *m);
struct smoe_verdict smoe_backward_expect_inputs(const struct smoe_core *core, uint32_t trainer,
                                                const struct smoe_msg_inputs *m);
void smoe_backward_inputs(struct smoe_core *core, uint32_t trainer,
                          const struct smoe_msg_inputs *m);
/* The batch needs its x no more. */
void smoe_backward_settled(struct smoe_core *core, uint32_t batch);

/* ---- parcel.c ---- */
/* A new parcel of visits[first..first+rows); the caller made sure that one is free. */
uint32_t smoe_parcel_new(struct smoe_core *core, uint32_t batch, uint32_t worker, uint32_t expert,
                         uint32_t first, uint32_t rows);
/* Books the move of all its visits, on every account. */
void smoe_parcel_move(struct smoe_core *core, uint32_t parcel, enum smoe_visit_state to);
void smoe_parcel_free(struct smoe_core *core, uint32_t parcel);
bool smoe_parcel_by_id(const struct smoe_core *core, uint32_t worker, uint64_t id,
                       uint32_t *ret_parcel);
void smoe_parcel_output(struct smoe_core *core, uint32_t worker, uint64_t id);
void smoe_parcel_gradient(struct smoe_core *core, uint32_t worker, uint64_t id);
uint64_t smoe_parcel_wire_id(const struct smoe_core *core, uint32_t parcel);
/* As a Decision that is sent now names it. */
struct smoe_parcel_head smoe_parcel_head_of(const struct smoe_core *core, uint32_t parcel);

/* ---- slot.c, slot_route.c (and slot_state.h) ---- */
bool smoe_batch_routable(const struct smoe_core *core, const struct smoe_batch *batch);
/* Closes the slot if its deadline has come or if it may close early. */
void smoe_slot_advance(struct smoe_core *core);
/* At the end of this slot the worker may be due a Decision: it has new parcels, or something has changed
 * that can ask for another frequency. */
void smoe_slot_consider(struct smoe_core *core, uint32_t worker);

/* ---- step.c ---- */
void smoe_trainer_step(struct smoe_core *core, uint32_t trainer, const struct smoe_msg_step *m);
/* A batch settled or vanished: the pending Step may go on. */
void smoe_step_advance(struct smoe_core *core, uint32_t trainer);
void smoe_step_norm(struct smoe_core *core, uint32_t worker, const struct smoe_msg_step_norm *m);
void smoe_step_staged(struct smoe_core *core, uint32_t worker,
                      const struct smoe_msg_step_staged *m);
/* Does its step wait only for hosts and copies? */
bool smoe_step_settled(const struct smoe_core *core, uint32_t trainer);
/* The step of the layer's owner while it is being committed, or NULL. It can no longer be taken back: what came
 * before it is of no use any more. */
const struct smoe_step *smoe_step_committing(const struct smoe_core *core,
                                             const struct smoe_layer *layer);
/* Expected answer of that worker to that phase of the owner's step? */
bool smoe_step_expects(const struct smoe_core *core, uint32_t worker, uint32_t owner,
                       uint64_t number, uint64_t attempt, enum smoe_step_phase phase);
/* Records up to `sequence` are durable: commits among them are announced. */
void smoe_step_journalled(struct smoe_core *core, uint64_t sequence);
void smoe_step_abort(struct smoe_core *core, uint32_t trainer);

#include "daemon/core/core_inline.h"

#endif
