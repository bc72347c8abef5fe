/* SPDX-License-Identifier: Apache-2.0
 *
 * Which worker slot holds which expert in the next iteration (MODEL.md section 8; SYMI, Skiadopoulos et
 * al., NSDI 2026, section 4). Pure: arrays in, arrays out, no allocation but the scratch block, and the
 * same plan on every machine: IEEE + - * / and comparisons, ties to the lowest index.
 *
 * Slots are numbered through: worker 0's first, then worker 1's. Optimizer state is sharded over all workers
 * for ever (shard.h), so a slot receives one expert's weights at every iteration, whichever expert it is:
 * a new plan costs no more bytes than the old one. Only `interval` is a rule of another world, where
 * an expert's optimizer state lives with its replicas and moves with them.
 *
 * **The distinct-worker rule**: no worker holds an expert twice while another worker with a slot holds it not
 * at all. A second replica on one worker shares that worker's speed and is worth nothing.
 */
#ifndef SMOE_CORE_PLACE_H
#define SMOE_CORE_PLACE_H

#include <stdbool.h>
#include <stdint.h>

/* ---- rules ---- */

#define SMOE_PLACE_MAP(X)                                                                       \
    X(HIGHEST_AVERAGES, "highest-averages",                                                     \
      "the busiest replica as idle as can be, slots weighted by speed, demand blended with "    \
      "uniform "                                                                                \
      "by what forecasts were worth")                                                           \
    X(STATIC, "static", "slot q holds expert q mod E, for ever")                                \
    X(SYMI, "symi", "the paper's: replicas in proportion to the last iteration's popularity")   \
    X(EPLB, "eplb", "replicas of the largest load each, packed longest first on equal workers") \
    X(INTERVAL, "interval",                                                                     \
      "eplb's plan made every N iterations and kept between; optimizer state moves (FlexMoE)")

enum smoe_place_kind {
#define X(symbol, name, help) SMOE_PLACE_##symbol,
    SMOE_PLACE_MAP(X)
#undef X
        SMOE_PLACE_KINDS,
};

struct smoe_place_rule {
    enum smoe_place_kind kind;
    uint32_t interval; /* iterations from plan to plan; >= 1, of SMOE_PLACE_INTERVAL */
    double average;    /* share of the past in the moving average of popularity, [0, 1); 0: none */
};

#define SMOE_PLACE_INTERVAL_MAX 1000000

const char *smoe_place_name(enum smoe_place_kind kind);
const char *smoe_place_help(enum smoe_place_kind kind);
/* A name, or `interval=N`; `average` is left 0. False if it is none. */
bool smoe_place_parse(const char *text, struct smoe_place_rule *ret);

/* ---- one plan ---- */

/* How routing will share an expert's visits among its replicas. By price it moves visits from full workers to
 * others over any chain of experts that they have in common, so plans should tie all workers together; shared
 * equally, a busy expert makes all its workers busy, and plans should keep it to few. */
enum smoe_place_sharing { SMOE_PLACE_BY_PRICE, SMOE_PLACE_EQUALLY };

/* Inputs, borrowed for the call. */
struct smoe_place_problem {
    uint32_t n_experts;    /* E, 1..SMOE_EXPERTS_MAX */
    uint32_t n_workers;    /* N, 1..SMOE_WORKERS_MAX */
    const uint32_t *slots; /* [N] experts the worker can hold; 0: it takes no part */
    const double *speed;   /* [N] sustainable visits a second, finite, > 0 where there are slots */
    const double *demand;  /* [E] visits to be expected, finite, >= 0; all 0: as if equal */
    enum smoe_place_sharing sharing;
};

/* Outputs, written into the caller's arrays. */
struct smoe_place_plan {
    uint32_t n_experts, n_workers;
    uint32_t *slot_first; /* [N+1] slots of worker j: slot_first[j] .. slot_first[j+1] */
    uint16_t *expert;     /* [S] in each slot */
};

struct smoe_place_scratch;
/* For problems up to this size, one block. 0 or SMOE_ENOMEMORY. */
int smoe_place_scratch_new(uint32_t experts_max, uint32_t workers_max, uint32_t slots_max,
                           struct smoe_place_scratch **ret);
void smoe_place_scratch_free(struct smoe_place_scratch *scratch);

/* S = sum of slots. */
uint32_t smoe_place_slots(const struct smoe_place_problem *problem);

/* Makes the plan of a rule; SMOE_PLACE_INTERVAL is planned as if its turn had come. SMOE_ELIMIT if there are
 * fewer slots than experts, and the plan is then untouched. */
int smoe_place_make(enum smoe_place_kind kind, const struct smoe_place_problem *problem,
                    struct smoe_place_scratch *scratch, struct smoe_place_plan *ret);

/* Within each worker that `before` knows with as many slots, experts that stay keep their slots: what is new
 * is then exactly what must move. */
void smoe_place_keep(const struct smoe_place_plan *before, struct smoe_place_plan *plan);

/* Slots of the plan whose worker did not hold their expert before, rising, into `ret_slots` [S] unless it is NULL;
 * returns how many. The two plans may differ in workers and slots: a worker is its index. */
uint32_t smoe_place_moves(const struct smoe_place_plan *before, const struct smoe_place_plan *plan,
                          uint32_t *ret_slots);

/* ---- what a plan is worth ---- */

/* Visits of an expert are shared by its slots in proportion to their speed (a worker's over its slots), which
 * routing by prices never does worse than. */
struct smoe_place_worth {
    double time_s;  /* of the busiest worker: its visits / its speed */
    double replica; /* of the busiest replica: visits / speed of its slot [s] */
};
struct smoe_place_worth smoe_place_worth(const struct smoe_place_problem *problem,
                                         const struct smoe_place_plan *plan,
                                         struct smoe_place_scratch *scratch);

/* What the busiest worker takes where routing shares visits as well as can be, which prices do: exactly, and
 * about twenty times as long to find out as smoe_place_worth, whose time_s it never exceeds. [s] */
double smoe_place_priced_time(const struct smoe_place_problem *problem,
                              const struct smoe_place_plan *plan,
                              struct smoe_place_scratch *scratch);

/* Workers of each expert, as routing wants them (smoe_route_problem): distinct, rising. `ret_first` [E+1],
 * `ret_worker` [S]; returns how many, at most S. */
uint32_t smoe_place_replicas(const struct smoe_place_plan *plan, uint32_t *ret_first,
                             uint32_t *ret_worker);

/* True if the distinct-worker rule holds. */
bool smoe_place_distinct(const struct smoe_place_plan *plan, struct smoe_place_scratch *scratch);

/* True if the plan fills the slots of that fleet exactly and every expert stands somewhere. */
bool smoe_place_valid(const struct smoe_place_problem *problem, const struct smoe_place_plan *plan,
                      struct smoe_place_scratch *scratch);

#endif
