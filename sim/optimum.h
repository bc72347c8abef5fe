/* SPDX-License-Identifier: Apache-2.0
 *
 * What no policy can beat: the most gate mass a token, when every worker does in the long run just what its
 * mean budget sustains (more work a joule than at an even pace there is not: e_j is convex).
 */
#ifndef SMOE_SIM_OPTIMUM_H
#define SMOE_SIM_OPTIMUM_H

#include "sim/scenario.h"

/* Over the first slots of the seed's stream, as many as make SMOE_OPTIMUM_TOKENS, by the daemon's own exact
 * solve of the capacity problem. -1 where there is none: a closed source, or a load that not every token
 * finds K workers at. */
double smoe_sim_optimum_gate_mass(const struct smoe_scenario *scenario, uint64_t seed,
                                  uint64_t slots);

#define SMOE_OPTIMUM_TOKENS 60000

#endif
