/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the tide share: route_tide.c, which says what it is, and route_tide_rows.c.
 */
#ifndef SMOE_CORE_ROUTE_TIDE_H
#define SMOE_CORE_ROUTE_TIDE_H

#include "daemon/core/route_arcs.h"
#include "daemon/core/route_internal.h"

struct smoe_tide {
    struct smoe_route_run *run;
    struct smoe_route_scratch *s;
    const struct smoe_route_arcs *arcs;
    uint32_t n_experts, sink, top_k;
    uint32_t n_targets; /* deficits met by the last search, in s->touched */
    float weight;
    double blur; /* amply what single precision can do to a slack */

    float radius;        /* of the next search; +inf: as far as it must */
    float sight;         /* of all rows, if searches have none */
    float horizon;       /* lists have the visits of no greater margin */
    float least_lift;    /* of all experts */
    int64_t sink_excess; /* accepted more than there are visits */
    int32_t sink_came;
    float sink_key, sink_far;
    double sink_lifted;
};

/* The row of an expert as it is, [n_experts]; the same with all that a search on its way through here may need, when
 * so much of its radius is left. */
float *smoe_tide_row(const struct smoe_tide *t, uint32_t e);
const float *smoe_tide_need_row(struct smoe_tide *t, uint32_t e, float way);

/* Enters one more visit into the row of e, which is made. What its token holds is left out. */
void smoe_tide_enter(struct smoe_tide *t, uint32_t e, uint32_t visit);

/* The slack of a visit on e to another expert, and the least of all visits. */
float smoe_tide_offer(const struct smoe_tide *t, uint32_t visit, uint32_t e, uint32_t to);
float smoe_tide_least_offer(const struct smoe_tide *t, uint32_t e, uint32_t to);

/* The visit of e whose offer the entry is, NO_VISIT if there is none any more. */
uint32_t smoe_tide_find_mover(const struct smoe_tide *t, uint32_t e, uint32_t to, float slack);

/* Is the row cheaper to make anew than to keep? */
bool smoe_tide_row_is_short(const struct smoe_tide *t, uint32_t e);

#endif
