/* SPDX-License-Identifier: Apache-2.0
 *
 * What `stablemoe-bench --check` demands: the one table of floors (and ceilings).
 */
#ifndef SMOE_BENCH_FLOORS_H
#define SMOE_BENCH_FLOORS_H

#include <stdbool.h>

struct smoe_floor {
    const char *key; /* of the row, or a shell pattern of several rows' */
    bool at_most;    /* the value may not exceed it, instead of not falling below it */
    double bound;    /* in the row's unit */
};

/* NULL: the row is shown, nothing is demanded. */
const struct smoe_floor *smoe_floor_find(const char *key);

/* The floors of a bench, one after another: the next after `floor`, the first after NULL; NULL at the end. */
const struct smoe_floor *smoe_floor_next(const char *bench, const struct smoe_floor *floor);

#endif
