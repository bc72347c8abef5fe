/* SPDX-License-Identifier: Apache-2.0
 *
 * Which workers hold which experts of a sharded layer, and what the gateway has learned of the experts' popularity:
 * what a checkpoint keeps, so that a run that is resumed on the same workers finds its placement at once.
 */
#ifndef STABLEMOE_PLACEMENT_H
#define STABLEMOE_PLACEMENT_H

#include <stdint.h>

/* A placement on more workers is not told: it is planned anew, by the popularity. */
#define SMOE_PLACEMENT_WORKERS_MAX 512

struct smoe_placement {
    const char
        *rule; /* by which it was planned: 1..63 of [A-Za-z0-9._-]; "pinned": the layer is not
                          sharded, and all else is empty */
    uint32_t interval; /* iterations from plan to plan, of the rule `interval`; else 0 */
    uint32_t n_workers, n_slots,
        n_experts;              /* lengths of what follows; 0: there is no plan, nothing is known */
    const char *const *workers; /* [n_workers] names, distinct */
    const uint32_t *slots;      /* [n_workers] that each gives, 1..1024; n_slots in all */
    const uint32_t
        *experts; /* [n_slots] in them, the first worker's first; every expert is there */
    const double
        *popularity; /* [n_experts] shares of 1 of all visits by the gate alone, in the last
                                   iteration or the moving average */
    /* What forecasts from it were worth so far (daemon/core/MODEL.md (23)): decaying sums of one iteration's deviations
     * from uniform times those before, and of their squares. */
    double covariance, variance;
    uint64_t seen; /* iterations that it was learned from */
    uint64_t
        planned; /* of them, up to the last plan, + 1; 0: none was made. Of the rule `interval` */
};

#endif
