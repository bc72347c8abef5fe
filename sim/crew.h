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
/* bf16 on the wire. SGD: its steps are as large as the gradients, and so are the errors of its steps. GELU: no unit
 * of it is switched on or off by a rounding. */
void smoe_crew_round(struct smoe_sim_trainer_options *trainer);
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
    SMOE_CREW_PHASES,
    /* With staleness: */
    SMOE_CREW_LEFT = SMOE_CREW_PHASES, /* visits ahead are where their expert was */
    SMOE_CREW_STALE_PHASES,
    SMOE_CREW_OLDER = SMOE_CREW_STALE_PHASES, /* after a loss: weights before come to slots */
};

/* Runs until the worker, or the layer, is in that phase; a verdict if that does not happen. Returns the worker: in
 * phase LEFT any one that is in it. */
uint32_t smoe_crew_run_into(struct smoe_world *world, const struct smoe_crew *crew, uint32_t worker,
                            enum smoe_crew_phase phase);

struct smoe_sharded;
/* What the gateway knows of the layer. */
const struct smoe_sharded *smoe_crew_layer(const struct smoe_world *world,
                                           const struct smoe_crew *crew);
/* Which worker of the gateway's fleet the process is; false: it knows none of that name. */
bool smoe_crew_find(const struct smoe_world *world, const struct smoe_crew *crew, uint32_t process,
                    uint32_t *ret_worker);
/* Of all its state there are two copies. */
bool smoe_crew_all_twice(const struct smoe_world *world, const struct smoe_crew *crew);
void smoe_crew_run_until_twice(struct smoe_world *world, const struct smoe_crew *crew,
                               uint64_t until_ns);

/* So many iterations of the layer: the bytes of each are those of MODEL.md (29), and the same whatever moves. */
void smoe_crew_count(struct smoe_world *world, const struct smoe_crew *crew, uint32_t iterations);

/* Both holders of some state die, and come back without it or never: the trainer is told so, in words. */
void smoe_crew_lose_both(struct smoe_world *world, const struct smoe_crew *crew, bool back);

/* Stories: something befalls one worker after the other, in each of the first `phases` in turn and a little later in it
 * from round to round; it comes back after `away_ns`, if it is gone. */
void smoe_crew_strike(struct smoe_world *world, const struct smoe_sim_trainer_options *trainer,
                      uint32_t phases, enum smoe_sim_act act, uint64_t away_ns);
/* The gateway dies in each phase in turn, now as a process, now with its machine; what its disk had not written is
 * gone. In every third round a worker dies with it, with all it held: what counts is with the others. */
void smoe_crew_restart(struct smoe_world *world, const struct smoe_sim_trainer_options *trainer,
                       uint32_t phases);

#endif
