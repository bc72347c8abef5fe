/* SPDX-License-Identifier: Apache-2.0
 *
 * The same as sim/slotted.h with nothing in the daemon's or the workers' place: the gateway with its core,
 * one agent a node and a trainer's uplink, in virtual time over the virtual network. What the policies are
 * worth comes from the core's own books, as its status prints them, and from what the trainer got back.
 * sim/slotted.c moves the queues itself and is fast; this is what it must agree with (tests/sim/test_whole.c).
 *
 *     the middle of slot i   the trainer draws the tokens of slot i + 1 and submits them for evaluation
 *     its end                the core closes the slot: routes, decides frequencies, sends Decisions
 *     meanwhile              agents compute: c cycles a visit at the frequency in force, metered by their model
 *                            of kappa f^3; Outputs and Reports come back
 */
#ifndef SMOE_SIM_WHOLE_H
#define SMOE_SIM_WHOLE_H

#include "daemon/core/core.h"
#include "sim/slotted.h"
#include "sim/world.h"

/* What a scenario does not say of the nodes, and who looks on. */
struct smoe_whole_fleet {
    double prior_off; /* the daemon's priors are the truth times this; 0: the truth */
    /* The books of slot `slot` were read; core and worker numbers are valid meanwhile. NULL: nobody. */
    void (*watch)(void *context, uint64_t slot, const struct smoe_core *core,
                  struct smoe_world *world);
    void *context;
};

/* Node j of the scenario in a watched run: in the core's fleet, and as a process of the world. */
uint32_t smoe_whole_worker(const struct smoe_core *core, uint32_t j);
uint32_t smoe_whole_process(uint32_t j);

/* SMOE_ECONFIG and a sentence for what only the slotted loop can do: replicas, churn, a set age of reports,
 * a closed source, a solver's limit; and for the baselines the `full` rule, which no daemon has. */
int smoe_whole_check(const struct smoe_scenario *scenario,
                     const struct smoe_slotted_options *options, struct smoe_why *why);

/* Runs what smoe_whole_check accepts; without trainer and series. The result is smoe_slotted_release's.
 * SMOE_ESTATE and a sentence if the fleet did not come up or the trainer was refused: a bug. */
int smoe_whole_run(const struct smoe_scenario *scenario, const struct smoe_slotted_options *options,
                   struct smoe_slotted_result *ret, struct smoe_why *why);

#endif
