/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of `place` share: the scratch block, sorting, and who is greatest while keys change; ties go to the
 * lowest index.
 */
#ifndef SMOE_CORE_PLACE_INTERNAL_H
#define SMOE_CORE_PLACE_INTERNAL_H

#include <math.h>

#include "daemon/core/place.h"

/* A thing to be sorted: greatest key first, ties by the lower index. */
struct smoe_place_key {
    double key;
    uint32_t index;
};

/* A knock-out among contenders 0..n-1: node 1 has the winner, node i the better of 2 i and 2 i + 1, contender i is leaf
 * width + i. */
struct smoe_place_contest {
    uint64_t *order; /* [2 width] of the keys */
    uint32_t *index; /* [2 width] */
    uint32_t width;  /* a power of two */
};

/* The key of who takes no part. */
#define SMOE_PLACE_OUT (-(double)INFINITY)

/* Workers with equally many slots of equal speed: a run of scratch->worker, their slots a run of its bag. */
struct smoe_place_group {
    uint32_t first, n; /* workers */
    uint32_t bag, end; /* slots: bag .. end-1 */
    double speed;      /* of a slot */
};

struct smoe_place_scratch {
    uint32_t experts_max, workers_max, slots_max; /* E, N, S below */
    struct smoe_place_contest contest;            /* of up to max(E, N) */
    struct smoe_place_key *aside;                 /* [E] out of the contest for a while */
    struct smoe_place_key *sorted;                /* [max(E, N, S)] */
    struct smoe_place_key *spare;                 /* [max(E, N, S)] of sorting */
    struct smoe_place_key *line;                  /* [N] workers of a group, idlest first */
    uint32_t *in_turn;                            /* [N] */
    double *expected;                             /* [E] a planner's demand */
    double *demand;                               /* [E] never all 0 */
    double *speed;                                /* [E] of the expert's slots, together */
    double *load;                                 /* [N] */
    double *slot_speed;                           /* [N] of one slot; the slowest has 1 */
    uint32_t *worker;                             /* [N] fastest slots first */
    struct smoe_place_group *group;               /* [N] */
    uint32_t *count;                              /* [E] replicas */
    uint32_t *filled;                             /* [N] slots */
    bool *served;                                 /* [E] has a slot */
    /* Of place_flow.c. */
    uint32_t *held_first; /* [E+1] */
    uint32_t *held_slot;  /* [S] slots by expert */
    uint32_t *worker_of;  /* [S] */
    double *flow;         /* [S] visits */
    double *left;         /* [E] visits without a worker */
    double *room;         /* [N] visits that fit */
    uint32_t *worker_by;  /* [N] slot by which the search came to it; NONE: it did not */
    uint32_t *expert_by;  /* [E] the same; also NONE where it began */
    bool *reached;        /* [E] */
    uint32_t *queue;      /* [E] */

    uint16_t *bag;   /* [S] experts by group, not yet dealt to workers */
    uint16_t *rival; /* [S] another plan's experts */
};

/* Fills slot_first, and `demand` of the scratch. */
void smoe_place_begin(const struct smoe_place_problem *problem, struct smoe_place_scratch *scratch,
                      struct smoe_place_plan *plan);

/* At most max(E, N, S) items, not of scratch->spare. */
void smoe_place_sort(struct smoe_place_scratch *scratch, struct smoe_place_key *items, uint32_t n);

/* Room for contenders 0..n-1, all of them out; */
void smoe_place_contest_open(struct smoe_place_contest *contest, uint32_t n);
/* those who take part, with their keys; */
void smoe_place_contest_enter(struct smoe_place_contest *contest, uint32_t contender, double key);
/* and they play. */
void smoe_place_contest_begin(struct smoe_place_contest *contest);
/* A contender has another key, or SMOE_PLACE_OUT. */
void smoe_place_contest_change(struct smoe_place_contest *contest, uint32_t contender, double key);

/* The greatest; anybody if all are out. */
static inline uint32_t smoe_place_winner(const struct smoe_place_contest *contest)
{
    return contest->index[1];
}

double smoe_place_winning_key(const struct smoe_place_contest *contest);

/* Fills `count` with replicas, from 1 to `most` each, that highest averages on equal slots gives every expert in any
 * case; returns their sum. */
uint32_t smoe_place_head_start(struct smoe_place_scratch *scratch, uint32_t n_experts,
                               uint32_t n_slots, uint32_t most);
void smoe_place_make_symi(struct smoe_place_scratch *scratch, struct smoe_place_plan *plan);
void smoe_place_make_eplb(struct smoe_place_scratch *scratch, struct smoe_place_plan *plan);
void smoe_place_make_highest(const struct smoe_place_problem *problem,
                             struct smoe_place_scratch *scratch, struct smoe_place_plan *plan);

#endif
