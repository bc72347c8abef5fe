/* SPDX-License-Identifier: Apache-2.0
 *
 * The fleet that slotted.c moves from slot to slot; its parts are slotted_knowledge.c (what the daemon
 * believes), slotted_service.c (what workers do) and slotted_books.c (what it was worth).
 */
#ifndef SMOE_SIM_SLOTTED_STATE_H
#define SMOE_SIM_SLOTTED_STATE_H

#include "sim/slotted.h"
#include "sim/stream.h"

/* Visits in order of arrival: token << 16 | expert. */
struct smoe_sim_fifo {
    uint64_t *visits; /* [cap], a ring, owned; cap a power of two */
    size_t first, len, cap;
};

/* Invariants, checked after every slot: queue[j] = fifos[j].len; the queues hold every visit that arrived
 * and is not done; no token is complete before its last visit is. */
struct smoe_sim_fleet {
    const struct smoe_scenario *s;
    const struct smoe_slotted_options *o;
    struct smoe_slotted_result *result;
    struct smoe_sim_stream stream;
    uint32_t n_workers, experts, top_k;
    struct smoe_freq_node *physics;       /* [workers], owned, as all below */
    struct smoe_node *nodes;              /* [workers] */
    double *queue, *debt, *carry, *spent; /* [workers] */
    bool *away;                           /* [workers] */
    double *serving;                      /* [workers] D of this slot */
    uint64_t *served;                     /* [workers] */
    struct smoe_sim_fifo *fifos;          /* [workers] */
    float *scores;                        /* [tokens_max, experts] */
    uint16_t *expert;                     /* [tokens_max, top_k] */
    uint32_t *node, *arrivals;            /* [tokens_max, top_k], [workers] */
    uint32_t *replica_first;              /* [experts + 1] */
    uint32_t *replica_node;               /* [replica_first[experts]] */
    uint32_t *live;                       /* [experts] replicas on workers that are there */
    /* What is known of the past, with a delay of D slots: rings of [D, workers]. */
    double *old_queue, *old_debt;   /* at the start of the last D slots */
    double *old_arrivals;           /* given out in them */
    double *recent;                 /* [workers] the sum of old_arrivals */
    double *seen_queue, *seen_debt; /* [workers] what the policy sees in this slot */
    /* Every token so far. */
    uint8_t *visits_left;   /* [tokens_cap] */
    uint16_t *token_expert; /* [tokens_cap, top_k], with a trainer */
    size_t tokens_cap;
    /* Of this slot. */
    uint64_t *finished; /* [finished_cap] tokens completed, with a trainer */
    uint32_t n_finished, finished_cap;
    bool
        promised; /* the solver proved `promise` optimal: the slot's drift plus penalty [visit^2] */
    double promise;
    double sustained;              /* with a tape: visits that the mean budgets sustained so far */
    double potential, mass;        /* sum Q^2/2 and the books' gate mass before the slot's work */
    double *backlogs;              /* [slots], for the slope */
    struct smoe_rng ties, leaving; /* the policies'; the workers' */
    struct smoe_route_scratch *scratch;
};

/* Who leaves and who returns; visits of those who left go to another replica. */
void smoe_sim_fleet_churn(struct smoe_sim_fleet *f);
/* Gives the visits that wait at a worker which is away to live replicas, as far as there are some. */
void smoe_sim_fleet_hand_over(struct smoe_sim_fleet *f, uint32_t j);
/* The next slot of the tape: its fleet is the fleet from now on; returns its tokens. */
uint32_t smoe_sim_fleet_follow(struct smoe_sim_fleet *f);
/* Sets seen_queue and seen_debt from reports of D slots ago, and what was given out since. */
void smoe_sim_fleet_look(struct smoe_sim_fleet *f, uint64_t slot);
/* Keeps what this slot's look will need D slots from now; before the slot's work changes it. */
void smoe_sim_fleet_remember(struct smoe_sim_fleet *f, uint64_t slot);

void smoe_sim_fleet_enqueue(struct smoe_sim_fleet *f, uint32_t tokens);
/* Serves, spends, and returns the time until worker j is done with it. [s] */
double smoe_sim_fleet_work(struct smoe_sim_fleet *f, uint32_t j, double tau_s);
void smoe_sim_fifo_push(struct smoe_sim_fifo *q, uint64_t visit);
uint64_t smoe_sim_fifo_pop(struct smoe_sim_fifo *q);

/* What the slot's choices are worth; before anything is served. */
void smoe_sim_fleet_judge(struct smoe_sim_fleet *f, uint32_t tokens);
/* Charges the slot's time to the debts, books the backlog, and checks the invariants. */
void smoe_sim_fleet_close_slot(struct smoe_sim_fleet *f, uint64_t slot, double slot_s,
                               uint64_t complete_before);
void smoe_sim_fleet_sum_up(struct smoe_sim_fleet *f);

/* ---- slotted_place.c ---- */
/* Replicas by popularity, for the run. */
void smoe_slotted_place(struct smoe_sim_fleet *fleet);

#endif
