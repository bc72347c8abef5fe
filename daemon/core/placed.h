/* SPDX-License-Identifier: Apache-2.0
 *
 * Placements that trainers keep in checkpoints, and bring back (stablemoe/placement.h; MODEL.md section 8).
 */
#ifndef SMOE_CORE_PLACED_H
#define SMOE_CORE_PLACED_H

#include "daemon/core/core_state.h"

void smoe_placed_fetch(struct smoe_core *core, uint32_t trainer,
                       const struct smoe_msg_placement_fetch *m);
/* Takes popularity up, and the plan, if this fleet can have it; answers what is in force then. */
void smoe_placed_again(struct smoe_core *core, uint32_t trainer,
                       const struct smoe_msg_placement *m);

#endif
