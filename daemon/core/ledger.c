/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/core/ledger.h"

#include "common/base/assert.h"

#define BIT(state) (1u << SMOE_VISIT_##state)

static const unsigned legal[SMOE_VISIT_STATES] = {
    [SMOE_VISIT_NONE] = BIT(WAITING) | BIT(ROUTED),
    [SMOE_VISIT_WAITING] = BIT(ROUTED) | BIT(FAILED),
    [SMOE_VISIT_ROUTED] = BIT(FORWARD_DONE) | BIT(SETTLED) | BIT(FAILED),
    [SMOE_VISIT_FORWARD_DONE] = BIT(GRADIENT_QUEUED) | BIT(FAILED),
    [SMOE_VISIT_GRADIENT_QUEUED] = BIT(SETTLED) | BIT(FAILED),
    [SMOE_VISIT_SETTLED] = BIT(COMMITTED) | BIT(FAILED),
    [SMOE_VISIT_COMMITTED] = 0,
    [SMOE_VISIT_FAILED] = 0,
};

static const unsigned in_flight_states =
    BIT(WAITING) | BIT(ROUTED) | BIT(FORWARD_DONE) | BIT(GRADIENT_QUEUED);
static const unsigned settled_states = BIT(SETTLED) | BIT(COMMITTED);

const char *smoe_visit_state_name(enum smoe_visit_state state)
{
    static const char *const names[SMOE_VISIT_STATES] = {
        "none",    "waiting",   "routed", "forward_done", "gradient_queued",
        "settled", "committed", "failed",
    };
    return names[state];
}

bool smoe_visit_move_legal(enum smoe_visit_state from, enum smoe_visit_state to)
{
    return legal[from] >> to & 1;
}

/* What a state counts as in the law. */
static void book(struct smoe_account *a, enum smoe_visit_state state, uint64_t n, bool enter)
{
    uint64_t delta = enter ? n : (uint64_t)0 - n;
    a->now[state] += delta;
    if (in_flight_states >> state & 1)
        a->in_flight += delta;
    else if (settled_states >> state & 1)
        a->settled += delta;
    else if (state == SMOE_VISIT_FAILED)
        a->failed += delta;
}

void smoe_account_move(struct smoe_account *account, enum smoe_visit_state from,
                       enum smoe_visit_state to, uint64_t n)
{
    smoe_assert(smoe_visit_move_legal(from, to));
    if (from == SMOE_VISIT_NONE) {
        account->submitted += n;
    } else {
        smoe_assert(account->now[from] >= n);
        book(account, from, n, false);
    }
    book(account, to, n, true);
    smoe_assert(smoe_account_balanced(account));
}

bool smoe_account_balanced(const struct smoe_account *a)
{
    uint64_t sum = 0;
    for (int s = SMOE_VISIT_WAITING; s < SMOE_VISIT_STATES; s++)
        sum += a->now[s];
    return a->submitted == a->settled + a->failed + a->in_flight && a->submitted == sum;
}

void smoe_account_add(struct smoe_account *sum, const struct smoe_account *account)
{
    sum->submitted += account->submitted;
    sum->settled += account->settled;
    sum->failed += account->failed;
    sum->in_flight += account->in_flight;
    for (int s = 0; s < SMOE_VISIT_STATES; s++)
        sum->now[s] += account->now[s];
}
