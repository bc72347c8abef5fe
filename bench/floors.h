/* SPDX-License-Identifier: Apache-2.0
 *
 * What `stablemoe-bench --check` demands: the one table of floors (and ceilings).
 */
#ifndef SMOE_BENCH_FLOORS_H
#define SMOE_BENCH_FLOORS_H

#include <stdbool.h>

struct smoe_floor {
    const char *key; /* of the row */
    bool at_most;    /* the value may not exceed it, instead of not falling below it */
    double bound;    /* in the row's unit */
};

/* NULL: the row is shown, nothing is demanded. */
const struct smoe_floor *smoe_floor_find(const char *key);

#endif
