/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the agent: agent.c is the link and the messages; state.c what is hosted; parcels.c the visits and
 * the tasks they become; making.c the experts that begin; routers.c which of them are frozen; memory.c what
 * gives way when memory is short; steps.c the optimizer step; exchange.c what workers that share layers send
 * each other; peers.c and links.c direct links, and dues.c what comes over them (peers_state.h); check.c the
 * invariants.
 */
#ifndef SMOE_AGENT_AGENT_STATE_H
#define SMOE_AGENT_AGENT_STATE_H

#include "client/worker/agent/agent.h"
#include "client/worker/agent/peers_state.h"
#include "common/base/list.h"
#include "common/base/map.h"
#include "common/base/rng.h"
#include "proto/channel.h"

#define SMOE_AGENT_STEPS_MAX \
    SMOE_LAYERS_MAX /* steps of several trainers: each has a layer of its own */

enum smoe_agent_parcel_state {
    SMOE_PARCEL_FREE,
    SMOE_PARCEL_FORWARD_QUEUED,
    SMOE_PARCEL_FORWARD_RUNS,
    SMOE_PARCEL_KEPT,    /* waits for its gradient */
    SMOE_PARCEL_STARVED, /* has its gradient and waits for x, which it had to give up */
    SMOE_PARCEL_BACKWARD_QUEUED,
    SMOE_PARCEL_BACKWARD_RUNS,
};

struct smoe_agent_parcel {
    enum smoe_agent_parcel_state state;
    bool keep;
    bool forgotten; /* while its task runs: its id is free again, its result is thrown away */
    uint64_t id;
    uint32_t expert; /* the store's number */
    uint32_t serial; /* and which of that number */
    uint32_t rows;
    uint64_t step;          /* that will commit it; 0: none, or the gateway did not say */
    uint64_t base;          /* of which step the weights are that compute it, with a `step` */
    uint64_t forward_flops; /* of all its rows */
    struct smoe_blob *x_blob;
    const smoe_real *x;
    struct smoe_blob *dy_blob;
    const smoe_real *dy;
    struct smoe_blob *saved; /* NULL: not kept for want of memory, or not needed */
    struct smoe_blob *out;   /* of the running task */
    struct smoe_list link;   /* queue of its state */
};

enum smoe_agent_step_phase {
    SMOE_AGENT_STEP_NONE,
    SMOE_AGENT_STEP_SUMS, /* local sums of other hosts are still to come */
    SMOE_AGENT_STEP_NORM,
    SMOE_AGENT_STEP_NORMED,
    SMOE_AGENT_STEP_STAGING,
    SMOE_AGENT_STEP_STAGED,
};

struct smoe_agent_step {
    enum smoe_agent_step_phase phase;
    uint32_t owner;
    uint64_t number, attempt;
    uint32_t layers[SMOE_LAYERS_MAX]; /* the daemon's numbers, rising */
    size_t n_layers;
    uint32_t n_tasks; /* tasks of the phase not done yet */
    uint64_t n_sums;  /* SUMS: of them, one a host and expert, not whole yet */
    double divisor, clip_scale;
    struct smoe_step_optimizer optimizer;
};

/* A message about an expert's state that waits for a task on the expert to end. */
struct smoe_deferred {
    struct smoe_list link;
    uint32_t expert, serial;
    struct smoe_message message;
    struct smoe_blob *blob;
};

struct smoe_agent {
    struct smoe_agent_options options;
    struct smoe_wire *wire;
    struct smoe_budget budget;
    struct smoe_channel channel;
    enum { SMOE_LINK_DOWN, SMOE_LINK_HELLO, SMOE_LINK_UP, SMOE_LINK_LEAVING } link;
    uint64_t epoch; /* highest seen */
    uint64_t silence_ns, slot_ns;
    uint64_t heard_ns, reported_ns;
    struct smoe_rng model_rng; /* of the model meter's noise */
    bool speechless; /* what must be said on this connection could not be, for want of memory */
    bool report_due; /* another frequency came into force */

    struct smoe_experts experts;
    size_t scratch_elements;

    struct smoe_agent_parcel *parcels; /* [parcels_max] */
    uint32_t *parcel_free;
    uint32_t n_parcel_free, parcels_max;
    struct smoe_map parcel_by_id;
    struct smoe_list forward_queue, backward_queue, kept, starved, running;
    struct smoe_list deferred;

    smoe_address peer_address;
    struct smoe_list peers, links; /* of struct smoe_agent_peer, owned; _link, the shell's */
    uint64_t peers_version;
    struct smoe_due *dues; /* [SMOE_TRANSFERS_MAX] by number */
    bool any_due;          /* false: they are all 0 */

    struct smoe_agent_step steps[SMOE_AGENT_STEPS_MAX];
    uint32_t n_steps;        /* of these have ever been in use: nobody looks at the others */
    struct smoe_task *tasks; /* [SMOE_LANES_MAX]; task i runs while lane_used[i] */
    bool *lane_used;

    uint64_t freq_wanted_khz;
    double cycles_hz;                /* of a lane's CPU time, now */
    struct smoe_msg_report counters; /* cumulative; queue and time fields are filled in on demand */
    uint64_t active_since_ns;        /* 0: nothing executable */
};

/* ---- routers.c ---- */
void smoe_agent_router_told(struct smoe_agent *agent, const struct smoe_msg_router_state *m);

/* ---- parcels.c ---- */
int smoe_agent_decision(struct smoe_agent *agent, const struct smoe_msg_decision *m,
                        struct smoe_blob *blob, struct smoe_why *why);
int smoe_agent_backprop(struct smoe_agent *agent, const struct smoe_msg_backprop *m,
                        struct smoe_blob *blob, struct smoe_why *why);
/* Bytes the raw part must have; negative code and sentence if a parcel or expert is not there. */
int smoe_agent_decision_bytes(struct smoe_agent *agent, const struct smoe_msg_decision *m,
                              uint64_t *ret_bytes, struct smoe_why *why);
int smoe_agent_backprop_bytes(struct smoe_agent *agent, const struct smoe_msg_backprop *m,
                              uint64_t *ret_bytes, struct smoe_why *why);
void smoe_agent_forget(struct smoe_agent *agent, uint64_t parcel_id);
/* Forgets parcels of one expert (SMOE_NO_EXPERT: of all), kept ones only if `kept_only`. */
void smoe_agent_forget_all(struct smoe_agent *agent, uint32_t expert, bool kept_only);
/* Forgets parcels whose expert is no longer held. */
void smoe_agent_forget_dropped(struct smoe_agent *agent);
/* At the end: drops parcels whose task was begun and will never be done. */
void smoe_agent_drop_running(struct smoe_agent *agent);
bool smoe_agent_start_parcel(struct smoe_agent *agent, struct smoe_task *task);
void smoe_agent_finish_parcel(struct smoe_agent *agent, struct smoe_task *task);
/* Executable work now. [flop] */
void smoe_agent_queued(const struct smoe_agent *agent, uint64_t *ret_forward,
                       uint64_t *ret_backward);
bool smoe_agent_has_work(const struct smoe_agent *agent);
/* What kept parcels hold: saved activations, and their rows of x. */
uint64_t smoe_agent_kept_bytes(const struct smoe_agent *agent);

/* The parcel that has this id, or NULL. */
struct smoe_agent_parcel *smoe_agent_parcel(struct smoe_agent *agent, uint64_t id);
size_t smoe_agent_row_bytes(const struct smoe_agent *agent, uint32_t expert);

/* ---- memory.c ---- */
/* Makes room for so many bytes of tensors if giving up what can be made or sent again does it. */
void smoe_agent_make_room(struct smoe_agent *agent, uint64_t bytes);
int smoe_agent_parcel_inputs_bytes(struct smoe_agent *agent, const struct smoe_msg_parcel_inputs *m,
                                   uint64_t *ret_bytes, struct smoe_why *why);
int smoe_agent_parcel_inputs(struct smoe_agent *agent, const struct smoe_msg_parcel_inputs *m,
                             struct smoe_blob *blob, struct smoe_why *why);

/* ---- steps.c ---- */
int smoe_agent_step_prepare(struct smoe_agent *agent, const struct smoe_msg_step_prepare *m,
                            struct smoe_why *why);
int smoe_agent_step_stage(struct smoe_agent *agent, const struct smoe_msg_step_stage *m,
                          struct smoe_why *why);
void smoe_agent_step_commit(struct smoe_agent *agent, const struct smoe_msg_step_commit *m);
void smoe_agent_reset(struct smoe_agent *agent, const struct smoe_msg_reset *m);
/* Is there a step that waits for this gradient sum, on a copy of the expert held here? */
bool smoe_agent_step_wants(struct smoe_agent *agent, const struct smoe_msg_step_gradient *m);
/* The step that the layer takes part in, or NULL. */
struct smoe_agent_step *smoe_agent_step_with_layer(struct smoe_agent *agent, uint32_t layer);
/* One more local sum is whole: with the last one the norms begin. */
void smoe_agent_step_summed(struct smoe_agent *agent, struct smoe_agent_step *step);
/* Throws away the step that the daemon's layer number is part of. */
void smoe_agent_step_cancel(struct smoe_agent *agent, uint32_t layer);
bool smoe_agent_start_step(struct smoe_agent *agent, struct smoe_task *task);
/* There are such tasks. */
bool smoe_agent_steps_compute(const struct smoe_agent *agent);
void smoe_agent_finish_step(struct smoe_agent *agent, struct smoe_task *task);

/* ---- making.c ---- */
bool smoe_agent_start_making(struct smoe_agent *agent, struct smoe_task *task);
/* Before the expert is idle. */
void smoe_agent_finish_making(struct smoe_agent *agent, const struct smoe_task *task);
/* Answers the latest Host, now or when all of the layer is made. */
void smoe_agent_say_hosted(struct smoe_agent *agent, struct smoe_held_layer *layer);
/* What making takes that no task has begun. [flop] */
uint64_t smoe_agent_making_flops(const struct smoe_agent *agent);

/* ---- state.c ---- */
/* What is still held, for a gateway that may know it. */
void smoe_agent_send_inventory(struct smoe_agent *agent);
void smoe_agent_host(struct smoe_agent *agent, const struct smoe_msg_host *host);
/* Fetch, store or gradient sum, at once or after the task that runs on the expert. */
int smoe_agent_state(struct smoe_agent *agent, const struct smoe_message *m, struct smoe_blob *blob,
                     struct smoe_why *why);
void smoe_agent_run_deferred(struct smoe_agent *agent, uint32_t expert);
void smoe_agent_drop_deferred(struct smoe_agent *agent);

/* ---- exchange.c ---- */
/* Bytes the raw part must have; SMOE_CHANNEL_SKIP if it is of another step, or a code and a sentence. */
int smoe_agent_shard_bytes(struct smoe_agent *agent, const struct smoe_msg_shard_part *m,
                           uint64_t *ret_bytes, struct smoe_why *why);
/* Of a step that is over, or of a state that was replaced: nobody waits for an answer. */
bool smoe_agent_shard_is_late(struct smoe_agent *agent, const struct smoe_message *m);
/* The store's number of the expert, slot or shard that the message reads or writes, or SMOE_NO_EXPERT. */
uint32_t smoe_agent_shard_subject(struct smoe_agent *agent, const struct smoe_message *m);
/* Carries out ShardAsk or ShardPart, now that no task runs on its subject. */
void smoe_agent_shard(struct smoe_agent *agent, const struct smoe_message *m,
                      const struct smoe_blob *blob);

/* ---- agent.c ---- */
/* Queues a message to the gateway; a failure ends the connection at the next opportunity. */
void smoe_agent_send(struct smoe_agent *agent, const struct smoe_message *message,
                     const struct smoe_segment *segments, size_t n_segments);

#endif
