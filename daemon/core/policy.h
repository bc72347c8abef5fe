/* SPDX-License-Identifier: Apache-2.0
 *
 * Routing policies by name. `lyapunov` is the product: the exact solve of route.h. `lyapunov-strict` is the
 * same for tokens that keep their experts, the other `lyapunov-*` are its own references, weaker on purpose.
 * The others are the baselines it is compared with (MODEL.md section 5): they see Q and Z at slot start
 * (`queue-jsq` counts on), break ties at random per token from a seeded stream, and send each visit to the
 * expert's replica on the shortest queue at slot start (`energy`: on the smallest debt). Caps bind every
 * policy, and a token is routed whole or not at all.
 */
#ifndef SMOE_CORE_POLICY_H
#define SMOE_CORE_POLICY_H

#include <stdbool.h>

#include "common/base/rng.h"
#include "daemon/core/route.h"

#define SMOE_POLICY_MAP(X)                                                                     \
    X(LYAPUNOV, "lyapunov",                                                                    \
      "drift-plus-penalty, exact quadratic drift: gate mass against backlog and energy")       \
    X(TOPK, "topk", "the K largest gate scores, whatever the load")                            \
    X(RANDOM, "random", "K experts at random")                                                 \
    X(QUEUE, "queue", "the K experts on the shortest token queues at slot start")              \
    X(ENERGY, "energy", "the K experts on the smallest energy debts at slot start")            \
    X(QUEUE_JSQ, "queue-jsq", "the K experts on the shortest token queues, counted per visit") \
    X(LYAPUNOV_GREEDY, "lyapunov-greedy",                                                      \
      "lyapunov, tokens one after another at moving prices: not optimal")                      \
    X(LYAPUNOV_LINEAR, "lyapunov-linear",                                                      \
      "lyapunov with the paper's linear drift bound, solved exactly")                          \
    X(LYAPUNOV_SEPARABLE, "lyapunov-separable",                                                \
      "lyapunov, each token for itself at prices fixed at the queues")                         \
    X(LYAPUNOV_STRICT, "lyapunov-strict",                                                      \
      "the K largest gate scores, always: lyapunov chooses among their replicas")              \
    X(BASE, "base", "equally many tokens for every expert, of greatest gate mass: BASE layers")

enum smoe_policy {
#define X(symbol, name, help) SMOE_POLICY_##symbol,
    SMOE_POLICY_MAP(X)
#undef X
        SMOE_POLICY_COUNT,
};

const char *smoe_policy_name(enum smoe_policy policy);
const char *smoe_policy_help(enum smoe_policy policy);
/* All names, in one line. */
const char *smoe_policy_list(void);
/* False if there is no policy of that name. */
bool smoe_policy_parse(const char *name, enum smoe_policy *ret);

/* What happens to the experts that a frozen router has chosen (StableMoE meets Stable-MoE). */
#define SMOE_CONSISTENCY_MAP(X)                                                              \
    X(SOFT, "soft")     /* traded for shorter queues, with the weight mu of the gate mass */ \
    X(STRICT, "strict") /* kept: only the replica is chosen */

enum smoe_consistency {
#define X(symbol, name) SMOE_CONSISTENCY_##symbol,
    SMOE_CONSISTENCY_MAP(X)
#undef X
};

/* The policy for tokens that a frozen router has scored: of `lyapunov`, its strict one. */
enum smoe_policy smoe_policy_of_frozen(enum smoe_policy policy, enum smoe_consistency consistency);

/* The drift that the policy reckons with: frequencies must be decided by the same (smoe_cost). */
enum smoe_cost_mode smoe_policy_cost_mode(enum smoe_policy policy);

/* Routes one slot. `debts` [J] are the energy debts Z_j in J (only `energy` reads them, others may get
 * NULL). `rng` breaks the baselines' ties: one draw a token whatever happens; `base` and the lyapunov
 * policies leave it alone. `lyapunov`, `lyapunov-linear` and `base` keep their prices in the scratch from one
 * call to the next, so that a recorded run replays bit for bit if all its calls are made again. */
void smoe_policy_route(enum smoe_policy policy, const struct smoe_route_problem *problem,
                       const double *debts, struct smoe_rng *rng,
                       struct smoe_route_scratch *scratch, struct smoe_route_answer *answer);

/* The prices that the policy's next solve starts from, kept from the last one: with problem, debts and rng
 * they are all that its answer is a function of. [*ret_n], the scratch's own; 0: none. */
const double *smoe_policy_prices(enum smoe_policy policy, const struct smoe_route_scratch *scratch,
                                 uint32_t *ret_n);
/* Makes it start from these: n of an earlier smoe_policy_prices, or 0. */
void smoe_policy_set_prices(enum smoe_policy policy, struct smoe_route_scratch *scratch,
                            const double *prices, uint32_t n);
/* True if `rng` is drawn from. */
bool smoe_policy_draws(enum smoe_policy policy);

#endif
