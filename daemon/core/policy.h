/* SPDX-License-Identifier: Apache-2.0
 *
 * Routing policies by name. `lyapunov` is the product; the others are the baselines it is compared
 * with (MODEL.md, "Baselines"): they see Q and Z at slot start and break ties at random per token
 * from a seeded stream.
 */
#ifndef SMOE_CORE_POLICY_H
#define SMOE_CORE_POLICY_H

#include <stdbool.h>

#include "common/base/rng.h"
#include "daemon/core/route.h"

#define SMOE_POLICY_MAP(X)                                                               \
    X(LYAPUNOV, "lyapunov",                                                              \
      "drift-plus-penalty, exact quadratic drift: gate mass against backlog and energy") \
    X(TOPK, "topk", "the K largest gate scores, whatever the load")                      \
    X(RANDOM, "random", "K experts at random")                                           \
    X(QUEUE, "queue", "the K experts on the shortest token queues at slot start")        \
    X(ENERGY, "energy", "the K experts on the smallest energy debts at slot start")

enum smoe_policy {
#define X(symbol, name, help) SMOE_POLICY_##symbol,
    SMOE_POLICY_MAP(X)
#undef X
        SMOE_POLICY_COUNT,
};

const char *smoe_policy_name(enum smoe_policy policy);
const char *smoe_policy_help(enum smoe_policy policy);
/* False if there is no policy of that name. */
bool smoe_policy_parse(const char *name, enum smoe_policy *ret);

/* Routes one slot. `debts` [J] are the energy debts Z_j in J (only `energy` reads them). `rng` breaks
 * the baselines' ties and moves on. Caps (arrivals_max) bind every policy. */
void smoe_policy_route(enum smoe_policy policy, const struct smoe_route_problem *problem,
                       const double *debts, struct smoe_rng *rng,
                       struct smoe_route_scratch *scratch, struct smoe_route_answer *answer);

#endif
