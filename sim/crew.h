/* SPDX-License-Identifier: Apache-2.0
 *
 * The cast of stories about a sharded layer: a gateway, four workers of unlike speed with three slots each, a trainer.
 */
#ifndef SMOE_SIM_CREW_H
#define SMOE_SIM_CREW_H

#include "sim/world.h"

enum { SMOE_CREW = 4 };

struct smoe_crew {
    uint32_t gateway, workers[SMOE_CREW], trainer;
};

/* highest-averages, at every step */
extern const struct smoe_place_rule smoe_crew_rule;

/* AdamW, six small experts, popularity that moves them. */
struct smoe_sim_trainer_options smoe_crew_trainer(uint32_t steps);
/* The first `begun` workers are started, and all else. */
struct smoe_crew smoe_crew_begin_linked(struct smoe_world *world,
                                        const struct smoe_place_rule *rule,
                                        const struct smoe_sim_trainer_options *trainer,
                                        uint32_t begun, bool links);
/* Mostly with direct links. */
struct smoe_crew smoe_crew_begin(struct smoe_world *world, const struct smoe_place_rule *rule,
                                 const struct smoe_sim_trainer_options *trainer, uint32_t begun);

/* Of an iteration. */
enum smoe_crew_phase {
    SMOE_CREW_FORWARD,
    SMOE_CREW_BACKWARD,
    SMOE_CREW_GRADIENTS,
    SMOE_CREW_NORMS,
    SMOE_CREW_STAGING,
    SMOE_CREW_COMMITTING,
    SMOE_CREW_WEIGHTS,
    SMOE_CREW_PHASES
};

/* Runs until the worker, or the layer, is in that phase; a verdict if that does not happen. */
void smoe_crew_run_into(struct smoe_world *world, const struct smoe_crew *crew, uint32_t worker,
                        enum smoe_crew_phase phase);

#endif
