/* SPDX-License-Identifier: Apache-2.0
 *
 * Does a token keep its experts? (StableMoE, section 2.2.) The same held-out tokens, the test set's first
 * WATCHED samples, are routed by the router then in force after 20, 50 and 80 % of all steps and at the
 * end; their fluctuation is the share of choices that are not among the final ones. Where a router is
 * frozen, its choices are also compared with those of the gate that it was distilled from.
 */
#ifndef SMOE_TRAIN_WATCH_H
#define SMOE_TRAIN_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct smoe_train_run;

enum { SMOE_WATCH_MARKS = 3 };
extern const unsigned smoe_watch_percent[SMOE_WATCH_MARKS]; /* of all steps */

#define SMOE_WATCH_SAMPLES 2000 /* or the test set, if that is smaller */

struct smoe_watch_result {
    double
        fluctuation[SMOE_WATCH_MARKS]; /* 0..1; NAN: the run was not there (it was resumed later) */
    double agreement; /* of the last stage-1 gate with the frozen router; NAN: none was frozen */
    uint64_t tokens;  /* that are watched */
    uint64_t freeze_step, digest; /* of the frozen router; 0: none */
};

struct smoe_watch {
    size_t tokens;
    uint16_t *top[SMOE_WATCH_MARKS + 1]; /* owned; [tokens, K] at each mark, then scratch */
    bool seen[SMOE_WATCH_MARKS];
};

/* After the run has its data and model. 0 or SMOE_ENOMEMORY. */
int smoe_watch_init(struct smoe_watch *watch, struct smoe_train_run *run);
void smoe_watch_release(struct smoe_watch *watch);

/* After each step: looks if this one is a mark, and tells a gateway what it saw. 0 or an error. */
int smoe_watch_step(struct smoe_watch *watch, struct smoe_train_run *run, struct smoe_why *why);
/* Freezes the router, and keeps how well it agrees. 0 or SMOE_ENOMEMORY. */
int smoe_watch_freeze(struct smoe_watch *watch, struct smoe_train_run *run);
/* After the last step: run->result.routing, and the gateway is told. 0 or an error. */
int smoe_watch_finish(struct smoe_watch *watch, struct smoe_train_run *run, struct smoe_why *why);

#endif
