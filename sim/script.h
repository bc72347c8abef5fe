/* SPDX-License-Identifier: Apache-2.0
 *
 * What a simulated trainer does with its uplink, as a state machine that is advanced whenever something
 * may have changed. Everything it is given is compared with the oracle at once.
 *
 *     DECLARING --layers ready--> WORKING --all steps committed--> DONE
 *         |                          |
 *         +--------------------------+--> FAILED
 *
 * WORKING, for each step: submit batches, look at their results, think, give gradients, wait for the
 * input gradients (a hasty one does not), step. A step that fails because a gradient was not finite is
 * made again: Restore drops everything uncommitted, and its batches are submitted anew. If it fails with one
 * of its batches it is made again of what is left.
 */
#ifndef SMOE_SIM_SCRIPT_H
#define SMOE_SIM_SCRIPT_H

#include "common/base/list.h"
#include "sim/oracle.h"
#include "sim/world_state.h"

struct smoe_script_batch {
    struct smoe_list link;
    struct smoe_uplink_ticket *ticket;
    uint32_t layer;
    uint64_t step;   /* the one it belongs to */
    smoe_real *x;    /* [tokens, d], owned, as all below */
    float *scores;   /* [tokens, experts] */
    bool by_codes;   /* `scores` are the frozen table's rows of */
    uint32_t *codes; /* [tokens] */
    smoe_real *dy;   /* [tokens, K, d], when given */
    bool answered;   /* its results were seen */
    bool given;      /* its gradient was given */
    uint64_t think_until_ns;
};

struct smoe_script {
    struct smoe_sim_process *process;
    struct smoe_uplink *uplink;
    const struct smoe_sim_trainer_options *options;
    enum { SMOE_SCRIPT_DECLARING, SMOE_SCRIPT_WORKING, SMOE_SCRIPT_DONE, SMOE_SCRIPT_FAILED } state;
    uint32_t layers[SMOE_SIM_LAYERS_MAX]; /* the uplink's numbers */
    uint64_t declare_at_ns;               /* evaluation: when to ask again for layers */
    uint64_t declare_pause_ns;            /* what was waited last */
    struct smoe_oracle oracles[SMOE_SIM_LAYERS_MAX];
    bool has_oracles;
    struct smoe_list batches; /* not committed */
    uint64_t target;          /* step whose batches are being submitted */
    uint32_t submitted;       /* of its batches */
    bool stepping, restoring, poisoned;
    bool frozen[SMOE_SIM_LAYERS_MAX]; /* the layer's router was given to the uplink */
    double loss_sum;                  /* over the target's tokens */
    struct smoe_sim_trainer_view view;
};

/* Its uplink and options are borrowed. */
void smoe_script_init(struct smoe_script *script, struct smoe_sim_process *process,
                      struct smoe_uplink *uplink, const struct smoe_sim_trainer_options *options);
void smoe_script_release(struct smoe_script *script);

/* Does what can be done now. Calls only the uplink. */
void smoe_script_advance(struct smoe_script *script);
/* When it wants to be advanced again though nothing happened. */
uint64_t smoe_script_wake_ns(const struct smoe_script *script);
/* It can never go on. */
void smoe_script_give_up(struct smoe_script *script, int code, const char *sentence);
bool smoe_script_over(const struct smoe_script *script);

/* ---- data.c: what it computes with ---- */

/* x and scores of a batch: a function of the world's seed, the trainer, the step and the batch's number
 * in it, so that every run of a world trains on the same data. */
void smoe_script_draw(const struct smoe_script *script, struct smoe_script_batch *batch,
                      uint32_t number);
/* The table that this trainer freezes for each of its layers, [SMOE_SCRIPT_CODES, experts]: a function of the
 * world's seed and the layer, so that a trainer that comes back means the same. */
enum { SMOE_SCRIPT_CODES = 24 };
float smoe_script_table(const struct smoe_script *script, uint32_t layer, uint32_t code,
                        uint32_t expert);
/* Freezes it, once for each layer: the uplink sees to it that every gateway has it from then on. */
void smoe_script_freeze(struct smoe_script *script, uint32_t layer);
/* Whether the results of a batch that came by codes are of the experts and scores that the table says; the
 * gateway's policy must be `topk`, or its consistency strict. */
bool smoe_script_as_frozen(const struct smoe_script *script, const struct smoe_script_batch *batch);
/* dy of a batch whose results are in; returns its loss, summed over tokens. */
double smoe_script_loss(const struct smoe_script *script, struct smoe_script_batch *batch,
                        smoe_real *ret_dy);

#endif
