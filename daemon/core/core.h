/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's mind, behind one door. Each thing that happens is an event that carries the time;
 * smoe_core_step() takes it and answers with an update: the ordered list of what the shell must now
 * do. The core calls nobody, reads no clock, allocates nothing after smoe_core_new, and gives the same
 * update for the same history on every machine.
 *
 * Raw tensors never enter. A message's raw part stays with the caller (daemon/gateway); the core says
 * by a `tensor` plan which rows of it belong into which outgoing frame.
 */
#ifndef SMOE_CORE_CORE_H
#define SMOE_CORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/hist.h"
#include "daemon/core/fleet.h"
#include "daemon/core/journal.h"
#include "daemon/core/ledger.h"
#include "daemon/core/place_bytes.h"
#include "daemon/core/policy_plan.h"
#include "daemon/core/quarantine.h"
#include "daemon/core/router_frozen.h"
#include "daemon/core/shard.h"
#include "proto/trace.h"
#include "proto/wire.h"

struct smoe_core;

/* Fixed at smoe_core_new. */
struct smoe_core_limits {
    uint32_t workers_max;     /* 1..SMOE_WORKERS_MAX */
    uint32_t trainers_max;    /* 1..SMOE_TRAINERS_MAX */
    uint32_t batches_max;     /* uncommitted batches of all trainers */
    uint32_t parcels_max;     /* parcels in flight */
    uint32_t slot_tokens_max; /* tokens one solve may hold; more wait for the next */
};

/* May change while running (SMOE_EVENT_CONFIGURE). */
struct smoe_core_settings {
    uint64_t slot_ns; /* 1 ms .. 60 s */
    enum smoe_policy policy;
    enum smoe_consistency consistency; /* of tokens that a frozen router has scored */
    enum smoe_plan plan;
    double v;   /* V: weight of throughput and gate mass against backlog, > 0 */
    double mu;  /* weight of gate mass within it, >= 0 */
    double gap; /* part of K N V mu that a slot may be worth less than the best, 0..0.01 */
    uint32_t workers_min; /* a new layer waits for that many workers, >= 1 */
    uint32_t copies;      /* of an expert's state, 1 or 2 (0: 1); of layers declared from now on */
    uint64_t silence_ns;  /* a worker silent for longer is lost (not below 3 slots) */
    uint64_t worker_lease_ns;  /* how long a lost worker's place is kept */
    uint32_t strikes_max;      /* of misconduct, then a worker is out; 0: never (quarantine.h) */
    uint64_t quarantine_ns;    /* for so long */
    uint64_t trainer_lease_ns; /* how long a gone trainer's layers stay its own */
    uint64_t window_bytes;     /* credit of a trainer: raw bytes submitted, forward not done */
    uint64_t window_visits;
    uint64_t iteration_bytes_max; /* raw bytes a trainer may hold uncommitted */
    uint64_t
        gradient_bytes_max;    /* that the gradients of all uncommitted batches may have; 0: any */
    double worker_budget_w;    /* Eavg / slot of every worker; +inf: none */
    double worker_cap_w;       /* Emax / slot of every worker; +inf: none */
    struct smoe_priors priors; /* of workers that are not known yet */
};

struct smoe_core_options {
    struct smoe_core_limits limits;
    struct smoe_core_settings settings;
    uint64_t epoch; /* > 0; each Step that commits raises it */
    uint64_t seed;  /* of the baselines' tie breaking */
    uint64_t now_ns;
    smoe_name software;        /* said in Welcome */
    uint64_t tensor_bytes_max; /* said in Welcome: largest raw part of a frame */
    /* The owner journals what SMOE_ACT_JOURNAL says and reports it with SMOE_EVENT_JOURNALLED; without,
     * a step is committed as soon as it is staged everywhere. */
    bool journal;
    /* Every decision is also told with SMOE_ACT_TRACE: room for so many bytes of them an update; 0: they
     * are not. */
    size_t trace_bytes_max;
    /* Layers declared from now on are sharded, and placed by this rule; else each expert has one host. */
    bool sharded;
    struct smoe_place_rule placement;
    bool links;              /* workers of a sharded layer are told of each other */
    uint64_t exchange_bytes; /* of one of them under way at a time (exchange_lanes.h); 0: 4 MiB */
    const struct smoe_restored
        *restored; /* what the journal held, or NULL; read by smoe_core_new */
};

enum smoe_event_type {
    SMOE_EVENT_TICK,       /* time passed; nothing else */
    SMOE_EVENT_HELLO,      /* the first message of a session */
    SMOE_EVENT_MESSAGE,    /* a later one */
    SMOE_EVENT_CLOSED,     /* the session's connection is gone */
    SMOE_EVENT_CONFIGURE,  /* new settings */
    SMOE_EVENT_DRAIN,      /* drain a worker, or let it work again, also out of quarantine */
    SMOE_EVENT_BUDGET,     /* the mean power of one worker, here or not */
    SMOE_EVENT_SHUTDOWN,   /* take nothing new; finish what is out */
    SMOE_EVENT_JOURNALLED, /* records up to `sequence` are durable */
};

struct smoe_event {
    enum smoe_event_type type;
    uint64_t now_ns; /* monotonic; never goes back */
    uint32_t session;
    const struct smoe_message *message; /* HELLO, MESSAGE */
    /* SUBMIT only: what the shell lends for the life of the batch, until SMOE_ACT_BATCH_FREED. */
    const float *scores;     /* [tokens, experts]; until SMOE_ACT_INPUT_FREED. NULL if routed */
    const uint16_t *experts; /* [tokens, top_k], if routed */
    uint32_t *room;          /* smoe_core_batch_room() numbers, uninitialised */
    /* FREEZE: the router that was made of the raw part, the caller's until this step returns. */
    const struct smoe_frozen *router;
    /* FREEZE, and SUBMIT of a router's tokens: why the raw part is refused (it could not be looked at before);
     * 0: it is good. */
    int refused;
    const char *refused_why;
    bool bad_numbers; /* MESSAGE: its raw part has numbers beyond smoe_core_numbers */
    /* CLOSED: 0, or what its peer did wrong, in words */
    int code;
    const char *sentence;
    /* CONFIGURE */
    const struct smoe_core_settings *settings;
    /* DRAIN, BUDGET */
    const char *worker_id;
    bool drain;
    double budget_w; /* > 0; +inf: what is set for all. Not taken: workers_max others have one */
    /* JOURNALLED */
    uint64_t sequence;
};

/* Which raw part an outgoing message has. */
enum smoe_tensor_plan {
    SMOE_TENSOR_NONE,
    SMOE_TENSOR_PASS, /* the raw part of the message being handled, as it is */
    SMOE_TENSOR_X,    /* x rows of the parcels, gathered */
    SMOE_TENSOR_DY,   /* dy rows of the parcels, gathered */
    SMOE_TENSOR_Y,    /* visits and scores of the parcel, then the raw part being handled */
    SMOE_TENSOR_DX,   /* visits of the parcel, then the raw part being handled */
    SMOE_TENSOR_CUT,  /* `cut` of the raw part being handled */
};

/* The same range of each of n vectors that lie `stride` bytes apart. */
struct smoe_cut {
    uint64_t offset, bytes, stride;
    uint32_t n; /* 1..3 */
};

enum smoe_action_type {
    SMOE_ACT_SEND,  /* queue `message` to `session`; SMOE_NO_SESSION: it has just gone, drop it */
    SMOE_ACT_CLOSE, /* close `session` after what is queued */
    SMOE_ACT_BATCH_TAKEN, /* this SUBMIT was accepted as batch index `batch`: keep raw part and room */
    SMOE_ACT_INPUT_FREED,  /* x and scores of `batch` will not be asked for again */
    SMOE_ACT_INPUTS_TAKEN, /* this INPUTS' raw part is the x of `batch`: keep it until INPUT_FREED */
    SMOE_ACT_GRADIENT_TAKEN, /* this GRADIENT's raw part belongs to `batch`: keep it */
    SMOE_ACT_GRADIENT_FREED,
    SMOE_ACT_BATCH_FREED,  /* room and whatever is kept of `batch` */
    SMOE_ACT_DRAINED,      /* shutting down: nothing is in flight any more */
    SMOE_ACT_JOURNAL,      /* write `record` after those before it */
    SMOE_ACT_TRACE,        /* `trace` was decided, or there was no room to tell what was (LOST) */
    SMOE_ACT_ROUTER_TAKEN, /* keep this FREEZE's router as the next one of `layer` */
    SMOE_ACT_ROUTER_IN_FORCE, /* the next router of `layer` takes the place of the one before it */
    SMOE_ACT_ROUTER_FREED,    /* `layer` has no router any more, nor a next one */
};

struct smoe_action {
    enum smoe_action_type type;
    uint32_t session;
    uint32_t batch;
    uint32_t layer; /* ROUTER_* */
    enum smoe_tensor_plan tensor;
    const uint32_t
        *parcels; /* [n_parcels] indices for the plan; core's memory, until the next step */
    uint32_t n_parcels;
    struct smoe_cut cut;                  /* CUT */
    const struct smoe_record *record;     /* core's memory, until the next step */
    const struct smoe_trace_entry *trace; /* core's memory, until the next step */
    struct smoe_message message;
};

struct smoe_update {
    const struct smoe_action *actions; /* in order; core's memory, until the next step */
    size_t n_actions;
    uint64_t wake_ns; /* send a TICK at this time unless another event comes first */
};

/* Session numbers are 0 .. this - 1: workers, trainers, and those that have not said hello. */
uint32_t smoe_core_sessions_max(const struct smoe_core_limits *limits);

int smoe_core_new(const struct smoe_core_options *options, struct smoe_core **ret,
                  struct smoe_why *why);
void smoe_core_free(struct smoe_core *core);

/* Handles one event. Bad input is answered by actions (an Error to its sender, a close), never by a
 * return value: there is nothing a caller could do about it. */
void smoe_core_step(struct smoe_core *core, const struct smoe_event *event,
                    struct smoe_update *ret_update);

/* A message of the session follows soon: brings what it will touch near. */
void smoe_core_coming(const struct smoe_core *core, uint32_t session);

/* Bytes came from the session, if only a part of a frame: its peer is alive. */
void smoe_core_heard(struct smoe_core *core, uint32_t session, uint64_t now_ns);

/* What to do with a message that has a raw part, before that part is read. */
struct smoe_verdict {
    enum {
        SMOE_TAKE,   /* read it; it must have exactly `bytes` */
        SMOE_IGNORE, /* late or of an older attempt: skip it silently */
        SMOE_REFUSE, /* answer Error{code, batch, request} and skip it */
        SMOE_FATAL,  /* answer Error{code} and close the session */
    } kind;
    int code;
    uint64_t bytes;
    uint64_t batch, request;
};
struct smoe_verdict smoe_core_expect(struct smoe_core *core, uint32_t session,
                                     const struct smoe_message *message, uint64_t tensor_bytes,
                                     struct smoe_why *why);

/* Where the raw part of a message has numbers, and how large they may be. */
struct smoe_numbers {
    bool any;       /* false: do not look */
    size_t skip;    /* bytes before the first; they go on to the end */
    unsigned bytes; /* of each: 2 (bf16), 4 or 8 */
    double limit;   /* of their magnitude; NaN and infinity are beyond any */
};
/* Of a message that smoe_core_expect said to TAKE. */
struct smoe_numbers smoe_core_numbers(const struct smoe_core *core, uint32_t session,
                                      const struct smoe_message *message);

/* uint32_t numbers of room a batch needs. */
size_t smoe_core_batch_room(uint32_t tokens, uint32_t top_k);

/* Walks all invariants; asserts. O(everything): debug, simulator, once a second in release. */
void smoe_core_check(const struct smoe_core *core);

/* ---- views for the shell: tensors to move, status to print ----
 * Parcels and batches that an update names can be viewed until the next step, even if it freed them. */

/* A parcel: visits of one expert and batch at one worker. */
struct smoe_parcel_view {
    uint64_t id;
    uint32_t batch; /* index */
    uint32_t expert;
    const uint32_t *visits; /* [rows] token * top_k + choice */
    uint32_t rows;
};
struct smoe_parcel_view smoe_core_parcel(const struct smoe_core *core, uint32_t parcel);

struct smoe_batch_view {
    uint64_t id;
    uint32_t layer, tokens, top_k;
    uint32_t experts;
    size_t row_bytes; /* d_model * size of a real */
    bool routed;
};
struct smoe_batch_view smoe_core_batch(const struct smoe_core *core, uint32_t batch);

struct smoe_expert_view {
    uint32_t worker;   /* index of its host, or UINT32_MAX */
    uint32_t follower; /* of the worker with its second copy, or UINT32_MAX */
    uint32_t
        filling; /* of the worker that will be its follower when it has the state, or UINT32_MAX */
    struct smoe_account account;
    double square_norm; /* of its gradient in the step being made; -1: not finite */
};
enum smoe_layer_state {
    SMOE_LAYER_FREE,
    SMOE_LAYER_WAITING, /* for workers, or for hosts to take their experts in */
    SMOE_LAYER_READY,
    SMOE_LAYER_LOST, /* an expert's state is gone: resume from a checkpoint */
    SMOE_LAYER_STATES,
};
/* What one worker exchanged of a sharded layer in an iteration: gradients of its step, and the weights that came of it.
 * Bytes of raw parts. */
struct smoe_shard_traffic {
    struct smoe_place_bytes exchanged; /* as MODEL.md (29): once for each receiver */
    uint64_t
        uploaded; /* what it sent to the daemon, once: that passes a range on to all who need it */
    uint64_t direct;                     /* what it sent to others over links */
    uint64_t state_sent, state_received; /* of states that got another holder: in no formula */
};

/* Direct links of a worker, and bytes of sharded layers that it sent so far, once for each receiver. */
struct smoe_links_view {
    uint32_t up, relayed; /* peers that a link reaches; that are reached through the daemon */
    uint64_t direct_bytes, relayed_bytes;
};
struct smoe_links_view smoe_core_links(const struct smoe_core *core, uint32_t worker);

/* Parts of an iteration of a sharded layer, one after another, by the clock of events. */
enum smoe_iteration_part {
    SMOE_PART_COMPUTING, /* all slots have their weights: visits are routed and served, until all of a step are */
    SMOE_PART_STEPPING, /* local sums travel to the holders of state, norms, the optimizer, the journal */
    SMOE_PART_PLACING, /* the commit's new plan is made, told, and taken in by everybody it concerns */
    SMOE_PART_WEIGHTS, /* new weights travel to the slots */
    SMOE_PARTS,
};

struct smoe_layer_view {
    enum smoe_layer_state state;
    const char *name;
    uint64_t run, step;
    struct smoe_layer_shape shape;
    uint64_t forward_flops;
    const struct smoe_expert_view *experts;        /* [shape.experts] */
    uint32_t owner;                                /* trainer index or UINT32_MAX */
    struct smoe_frozen_head router;                /* in force; version 0: none is frozen */
    const struct smoe_msg_routing_report *routing; /* the owner's last; tokens 0: none yet */
    bool
        sharded; /* then an expert's hosts are replica_worker[replica_first[e] .. replica_first[e+1]), */
    const uint32_t *replica_first, *replica_worker;
    const struct smoe_shard_map *map;         /* and its optimizer state lies there */
    uint64_t iterations;                      /* ended since the layer began here */
    const struct smoe_shard_traffic *traffic; /* [workers] in the last of them */
    const uint64_t *part_ns;                  /* [SMOE_PARTS] in all of them */
};
const char *smoe_layer_state_name(enum smoe_layer_state state);
/* Layer 0..SMOE_LAYERS_MAX-1; state FREE where there is none. */
struct smoe_layer_view smoe_core_layer(const struct smoe_core *core, uint32_t layer);
/* Does the worker drain, and can be switched off: nothing is under way there, and nothing is lost with it? */
bool smoe_core_drained(const struct smoe_core *core, uint32_t worker);

const struct smoe_fleet *smoe_core_fleet(const struct smoe_core *core);
const struct smoe_quarantine *smoe_core_quarantine(const struct smoe_core *core);

struct smoe_trainer_view {
    bool live; /* in use */
    bool connected;
    uint32_t session; /* while connected */
    const char *name;
    uint64_t attempt;
    uint64_t step;         /* last committed */
    const char *waits_for; /* why it is not being served now, or "" */
    uint64_t batches;      /* uncommitted */
    uint64_t ahead;        /* of these, computed while the step before theirs is under way */
    struct smoe_account account;
};
uint32_t smoe_core_n_trainers(const struct smoe_core *core);
struct smoe_trainer_view smoe_core_trainer(const struct smoe_core *core, uint32_t trainer);

struct smoe_core_totals {
    struct smoe_account account;
    uint64_t epoch;
    uint64_t slots;        /* decisions made */
    uint64_t slots_early;  /* of these, before their deadline */
    uint64_t slots_missed; /* deadlines that passed without being noticed in time */
    uint64_t steps;        /* committed */
    uint64_t tokens_routed;
    double gate_mass;         /* sum of the scores of chosen experts */
    uint64_t choices;         /* visits routed with scores */
    uint64_t choices_in_topk; /* of these, to an expert of the token's own top-K */
    uint64_t solves;          /* by a policy that solves exactly */
    uint64_t
        solves_cut_short;  /* of these, ended by the work limit with a gap above what is allowed */
    double gap_max;        /* the largest gap proven, of K N V mu (MODEL.md section 4) */
    uint64_t late_frames;  /* results of forgotten parcels, ignored */
    uint64_t stale_frames; /* trainer frames of an older attempt, ignored */
    uint64_t evictions;    /* parcels whose x a worker gave up */
    uint64_t refused;      /* errors answered */
    struct smoe_hist lateness; /* of slot deadlines */
    struct smoe_core_settings settings;
    bool draining;
};
/* The highest epoch that a commit was given so far, durable or not: what the journal must keep. */
uint64_t smoe_core_epoch(const struct smoe_core *core);
void smoe_core_totals(const struct smoe_core *core, struct smoe_core_totals *ret);

#endif
