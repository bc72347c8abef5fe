/* SPDX-License-Identifier: Apache-2.0
 *
 * Sharded layers (MODEL.md sections 8 and 9): an expert stands in slots of several workers, its optimizer state lies in
 * pieces that do not move when experts do, and which slot holds which expert is decided anew at every step.
 * sharded.c knows who holds what and tells them; sharded_return.c takes in what workers bring back; sharded_plan.c
 * decides; sharded_before.c knows the placement before (staleness); exchange.c moves gradients, weights and states
 * between workers.
 *
 * Of a layer that is sharded (layer->sharded), experts[e].worker is the first of its hosts; followers are of pieces.
 */
#ifndef SMOE_CORE_SHARDED_H
#define SMOE_CORE_SHARDED_H

#include "daemon/core/core_state.h"
#include "daemon/core/links.h"
#include "daemon/core/place_planner.h"
#include "daemon/core/shard.h"

/* A transfer under way: asked of a worker, passed on to others, until the last of them has taken it. */
struct smoe_transfer {
    bool used;
    bool asked; /* its ShardPart or ShardSent, if there is to be one, has not come */
    uint32_t from;
    uint32_t n_due; /* ShardTaken to come */
    uint64_t bytes;
    uint64_t flows; /* bit i: it counts in the flow of ask.peers.peers[i], who has not taken it */
    struct smoe_msg_shard_ask ask; /* its number too */
    struct smoe_peer_list
        direct; /* of ask.peers, to whom it goes over links; whose has broken, out again */
};

enum smoe_exchange_kind {
    SMOE_EXCHANGE_NONE,
    SMOE_EXCHANGE_GRADIENTS, /* local sums to the holders of state, within a step */
    SMOE_EXCHANGE_WEIGHTS,   /* to slots whose weights are of another step */
    SMOE_EXCHANGE_OLDER,     /* weights before those, to the slots in force (sharded_before.c) */
    SMOE_EXCHANGE_STATES,    /* to a worker that shall hold them, between steps */
};

struct smoe_exchange {
    enum smoe_exchange_kind kind;
    uint32_t n_lanes, turn; /* of those who give, what they were not asked for yet; whose it is */
    uint32_t n_out;         /* transfers of the layer under way */
};

struct smoe_sharded {
    struct smoe_shard_map
        map; /* in force; no pieces: not cut yet. No owner: nobody has it any more */
    struct smoe_place_plan plan; /* in force; no workers: there is none */
    uint32_t *replica_first;     /* [experts + 1] hosts of each expert, distinct, rising: */
    uint32_t *replica_worker;    /* [SMOE_LAYER_REPLICAS_MAX] */
    bool *stale;                 /* ... whose weights are not of the layer's step */
    uint32_t
        n_before; /* hosts in the placement before, of each expert as above; 0: it does not stand */
    uint32_t *before_first, *before_worker;
    uint32_t *sum_first, *sum_worker; /* hosts whose sums make the gradients of the step at hand */
    bool plan_due;                    /* a step was committed since */
    bool given;                       /* ... and state begun to be moved */
    uint64_t step_ns;                 /* when the last one was, by this daemon */
    uint64_t *popularity;             /* [experts] since the last commit, by the gate alone */
    struct smoe_place_planner *planner;
    struct smoe_shard_move filling; /* `to` is getting these elements from `from`; length 0: none */
    struct smoe_exchange exchange;
    struct smoe_lane *lanes; /* [workers_max], exchange_lanes.h */
    uint64_t fill;           /* number of the latest exchange of weights */
    bool left;               /* a holder has left since the layer's last attempt */
    bool ending;             /* a step is committed, and its weights have not all come */
    uint64_t iterations;
    uint32_t refusals; /* since the last commit, by workers whose part nobody else can take */
    struct smoe_shard_traffic *traffic, *traffic_now; /* [workers_max] in the last one, so far */
    enum smoe_iteration_part part;
    uint64_t part_since_ns; /* 0: before the first whole iteration, which counts for nothing */
    uint64_t part_ns[SMOE_PARTS],
        part_ns_now[SMOE_PARTS]; /* in all that ended; in this one so far */
};

/* The memory of their lists, each in one block; layers and the plan that is being made swap their parts. */
struct smoe_sharding_lists {
    struct smoe_shard_piece *pieces;
    uint32_t *slot_first, *replica_first, *replica_worker;
    uint32_t *before_first, *before_worker, *sum_first, *sum_worker;
    uint16_t *expert;
    bool *stale;
    uint64_t *popularity;
    struct smoe_shard_traffic *traffic;
    struct smoe_lane *lanes;
};

/* What all of them share; made by smoe_core_new if there is or may be a sharded layer. */
struct smoe_sharding {
    struct smoe_place_rule rule;
    struct smoe_sharded layers[SMOE_LAYERS_MAX];
    struct smoe_sharding_lists lists;
    struct smoe_place_scratch *place;
    struct smoe_shard_scratch *cut;
    struct smoe_place_plan next; /* a plan being made, and its hosts */
    uint32_t *next_first, *next_worker;
    bool *next_stale;
    uint32_t *slots;  /* [workers_max] of the plan being made */
    double *speed;    /* [workers_max] */
    uint64_t *memory; /* [workers_max] that counts for the map */
    bool *gone;       /* [workers_max] */
    bool *gives;      /* [workers_max] of the exchange that begins */
    struct smoe_shard_map spare;
    struct smoe_shard_moves moves;
    struct smoe_transfer *transfers; /* [SMOE_TRANSFERS_MAX] */
    uint32_t n_transfers;
    struct smoe_flow *flows; /* [workers_max], exchange_lanes.h */
    uint64_t bytes_out,
        relayed_out; /* of transfers; of those that go through the gateway at once */
    uint64_t serial;
    struct smoe_links links;
    uint64_t exchanging; /* bit l: layer l has an exchange */
    double *norms;       /* [trainers_max, workers_max] of what they own, in the step at hand */
};

int smoe_sharding_new(const struct smoe_core_options *options, struct smoe_sharding **ret);
void smoe_sharding_free(struct smoe_sharding *sharding);

/* ---- sharded.c: who holds what ---- */
/* The new layer is cut and placed as soon as there are workers. */
void smoe_sharded_begin(struct smoe_core *core, uint32_t layer);
void smoe_sharded_end(struct smoe_core *core, uint32_t layer);
bool smoe_sharded_on_worker(const struct smoe_sharded *s, uint32_t worker);
bool smoe_sharded_hosts(const struct smoe_sharded *s, uint32_t worker, uint32_t expert);
/* ... with the weights of the layer's step? They may wait there for a task to end. */
bool smoe_sharded_has_weights(const struct smoe_sharded *s, uint32_t expert, uint32_t worker);
/* Did it host the expert in the placement before, if that stands? */
bool smoe_sharded_hosted_before(const struct smoe_sharded *s, uint32_t worker, uint32_t expert);
/* Cuts, plans and tells as far as that can be done now. False: the layer is lost. */
bool smoe_sharded_advance(struct smoe_core *core, uint32_t layer);
/* Every slot is there and has the weights of the layer's step, and every piece has its owner. */
bool smoe_sharded_complete(const struct smoe_core *core, uint32_t layer);
/* The worker is here and has carried out the last Host of the layer. */
bool smoe_sharded_has_taken_in(const struct smoe_core *core, uint32_t layer, uint32_t worker);
/* Sets the bits of all that take part in its steps. */
void smoe_sharded_participants(const struct smoe_sharded *s, uint64_t *bits);
void smoe_sharded_worker_lost(struct smoe_core *core, uint32_t layer, uint32_t worker);
void smoe_sharded_worker_forgotten(struct smoe_core *core, uint32_t layer, uint32_t worker);
void smoe_sharded_refused(struct smoe_core *core, uint32_t layer, uint32_t worker,
                          const struct smoe_msg_hosted *m);
/* A step of the layer is committed: its slots are old, and may be of other experts from now on. */
void smoe_sharded_committed(struct smoe_core *core, uint32_t layer);
/* StepPrepare.hosts of the sharded layers among `layers`, in the update's memory. */
size_t smoe_sharded_hosts_of(struct smoe_core *core, uint64_t layers, uint32_t worker,
                             const struct smoe_layer_hosts **ret);
/* Sends Host to all whom it is due. */
void smoe_sharded_tell(struct smoe_core *core, uint32_t layer);
void smoe_sharded_check(const struct smoe_core *core, uint32_t layer);
/* What layers share: every exchange has the transfers that name it. */
void smoe_sharding_check(const struct smoe_core *core);

/* ---- sharded_before.c: the placement before ---- */
/* Do the batch's visits belong to it? */
bool smoe_sharded_is_before(const struct smoe_core *core, const struct smoe_batch *batch);
/* It can be given visits. */
bool smoe_sharded_before_ready(const struct smoe_core *core, uint32_t layer);
/* There are batches that belong to it, and it is gone: the slots in force shall have its weights, too. */
bool smoe_sharded_before_wanted(const struct smoe_core *core, uint32_t layer);
/* ... and have them. */
void smoe_sharded_before_filled(struct smoe_core *core, uint32_t layer);
/* A step is committed: the placement in force is the one before from now on. */
void smoe_sharded_pass(struct smoe_core *core, uint32_t layer);
/* Nothing of it is needed any more, or it will come again. */
void smoe_sharded_drop_before(struct smoe_core *core, uint32_t layer);
/* The worker is lost. */
void smoe_sharded_leave_before(struct smoe_core *core, uint32_t layer, uint32_t worker);
/* Drops it where somebody who shall leave has a part of it, and no visit is out. */
void smoe_sharded_release_before(struct smoe_core *core, uint32_t layer);
/* Says whose sums make the gradients of the step that begins. */
void smoe_sharded_sum_up(struct smoe_core *core, uint32_t layer);

/* ---- sharded_return.c: workers that come back, to this daemon or to the next ---- */
/* Has nobody who is known some piece of what was learned? */
bool smoe_sharded_lost(const struct smoe_core *core, uint32_t layer);
/* Is a worker away that may have what nobody has: one that has left since the last commit? */
bool smoe_sharded_hopes(const struct smoe_core *core, uint32_t layer);
/* Gives a new daemon the journal speaks of holders some time to come. */
bool smoe_sharded_awaits(const struct smoe_core *core, uint32_t layer);
/* Who is not here, and not awaited, has no copy of what somebody who is here has. */
void smoe_sharded_leave_absent(struct smoe_core *core, uint32_t layer);
void smoe_sharded_returned(struct smoe_core *core, uint32_t layer, uint32_t worker,
                           const struct smoe_inventory_layer *held);
/* Says in the record where its pieces are. */
void smoe_sharded_record(struct smoe_core *core, uint32_t layer, struct smoe_record *record);
/* A layer of the journal, new to this daemon. SMOE_EDATA, SMOE_ECONFIG (workers_max). */
int smoe_sharded_restore(struct smoe_core *core, uint32_t layer,
                         const struct smoe_restored_layer *from, struct smoe_why *why);

/* ---- sharded_plan.c: who shall hold what ---- */
/* May be given slots and pieces of the layer. */
bool smoe_sharded_willing(const struct smoe_core *core, uint32_t layer, uint32_t worker);
uint32_t smoe_sharded_count_willing(const struct smoe_core *core, uint32_t layer);
/* A first cut, or a new one while the seed still gives everything. False: there are not enough workers. */
bool smoe_sharded_cut(struct smoe_core *core, uint32_t layer);
/* Another plan if one is due or the fleet has changed so that there must be one; marks whom it concerns. */
void smoe_sharded_replan(struct smoe_core *core, uint32_t layer);
/* Another plan now: this one, if the fleet is that which it was made for (else, or NULL, by the rule). The layer is at
 * rest. */
void smoe_sharded_place_again(struct smoe_core *core, uint32_t layer,
                              const struct smoe_placement *placement);
/* Gives missing copies and shares of newcomers, a range at a time: begins to fill the next. */
void smoe_sharded_rearrange(struct smoe_core *core, uint32_t layer);
/* Is nothing of the layer's training out? */
bool smoe_sharded_at_rest(const struct smoe_core *core, uint32_t layer);
/* Which live workers hold each expert, in force or before, into core->replica_first and replica_node. */
void smoe_sharded_fill_replicas(struct smoe_core *core, uint32_t layer, bool before);
/* The range being filled has come: it counts from now on. */
void smoe_sharded_filled(struct smoe_core *core, uint32_t layer);

/* ---- sharded_states.c: states for trainers ---- */
/* 0, or why a store cannot be now. */
int smoe_sharded_reachable(const struct smoe_core *core, uint32_t layer, struct smoe_why *why);
/* The first fetch that waits goes on, if no other is being answered. */
void smoe_sharded_serve_fetches(struct smoe_core *core, uint32_t layer);
/* What they ask for has changed: they begin again. */
void smoe_sharded_interrupt_fetches(struct smoe_core *core, uint32_t layer);
struct smoe_verdict smoe_sharded_expect_state(const struct smoe_core *core, uint32_t worker,
                                              const struct smoe_msg_shard_part *m);
void smoe_sharded_state(struct smoe_core *core, uint32_t worker,
                        const struct smoe_msg_shard_part *m);
/* The ExpertStore that is being handled, remembered as this relay, goes to all holders. */
void smoe_sharded_store(struct smoe_core *core, struct smoe_relay *relay);
void smoe_sharded_stored(struct smoe_core *core, const struct smoe_msg_shard_taken *m);
bool smoe_sharded_storing(const struct smoe_core *core, uint32_t layer);
/* A holder is gone: what it was to store did not arrive everywhere. */
void smoe_sharded_fail_stores(struct smoe_core *core, uint32_t layer);
/* Those who are here hold the state of the layer's step under another attempt from now on: who is away has another. */
void smoe_sharded_begin_attempt(struct smoe_core *core, uint32_t layer);
/* The layer's step is another from now on; states follow. */
void smoe_sharded_rewound(struct smoe_core *core, uint32_t layer);

/* ---- sharded_traffic.c ---- */
/* The transfer is on its way to these workers, to some of them directly. */
void smoe_traffic_count(struct smoe_core *core, const struct smoe_transfer *t,
                        const uint32_t *takers, uint32_t n_takers);
/* A part came through the daemon after all, whose link broke. */
void smoe_traffic_count_again(struct smoe_core *core, const struct smoe_transfer *t);
/* All slots of the layer have their weights: if they are of a step, its iteration is over. */
void smoe_traffic_weights_came(struct smoe_core *core, uint32_t layer);
/* The layer's iteration goes on to that part, if it is not in it. */
void smoe_traffic_turn(struct smoe_core *core, uint32_t layer, enum smoe_iteration_part part);
void smoe_traffic_forget(struct smoe_core *core, uint32_t layer, uint32_t worker);

/* ---- exchange.c ---- */
/* The piece that has the element; the layer is cut. */
const struct smoe_shard_piece *smoe_exchange_piece_at(const struct smoe_sharded *s,
                                                      uint64_t offset);
void smoe_exchange_begin(struct smoe_core *core, uint32_t layer, enum smoe_exchange_kind kind);
/* Asks for what there is room for. */
void smoe_exchange_pump(struct smoe_core *core);
/* What is on its way of the layer counts for nothing. */
void smoe_exchange_void(struct smoe_core *core, uint32_t layer);
/* Weights or states of one of these layers are on their way. */
bool smoe_exchange_under_way(const struct smoe_core *core, uint64_t layers);
struct smoe_verdict smoe_exchange_expect(const struct smoe_core *core, uint32_t worker,
                                         const struct smoe_msg_shard_part *m);
void smoe_exchange_part(struct smoe_core *core, uint32_t worker,
                        const struct smoe_msg_shard_part *m);
void smoe_exchange_sent(struct smoe_core *core, uint32_t session, uint32_t worker,
                        const struct smoe_msg_shard_sent *m);
void smoe_exchange_taken(struct smoe_core *core, uint32_t worker,
                         const struct smoe_msg_shard_taken *m);

#endif
