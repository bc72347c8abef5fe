/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <signal.h>

#include "common/base/rng.h"
#include "daemon/core/ledger.h"

/* The diagram of ledger.h, written down a second time. */
#define W SMOE_VISIT_WAITING
#define R SMOE_VISIT_ROUTED
#define F SMOE_VISIT_FORWARD_DONE
#define G SMOE_VISIT_GRADIENT_QUEUED
#define S SMOE_VISIT_SETTLED
#define C SMOE_VISIT_COMMITTED
#define X SMOE_VISIT_FAILED
static const enum smoe_visit_state arrows[][2] = {
    {SMOE_VISIT_NONE, W},
    {SMOE_VISIT_NONE, R},
    {W, R},
    {W, X},
    {R, F},
    {R, S},
    {R, X},
    {F, G},
    {F, X},
    {G, S},
    {G, X},
    {S, C},
    {S, X},
};
enum { ARROWS = sizeof arrows / sizeof *arrows };

static bool drawn(enum smoe_visit_state from, enum smoe_visit_state to)
{
    for (int i = 0; i < ARROWS; i++)
        if (arrows[i][0] == from && arrows[i][1] == to)
            return true;
    return false;
}

Test(ledger, the_legal_moves_are_the_arrows_of_the_diagram_and_no_others)
{
    for (unsigned from = 0; from < SMOE_VISIT_STATES; from++)
        for (unsigned to = 0; to < SMOE_VISIT_STATES; to++)
            cr_assert_eq(smoe_visit_move_legal(from, to), drawn(from, to), "%s -> %s",
                         smoe_visit_state_name(from), smoe_visit_state_name(to));
}

struct move {
    enum smoe_visit_state from, to;
};

ParameterizedTestParameters(ledger, a_move_without_an_arrow_stops_the_program)
{
    static struct move moves[SMOE_VISIT_STATES * SMOE_VISIT_STATES];
    size_t n = 0;
    for (unsigned from = 0; from < SMOE_VISIT_STATES; from++)
        for (unsigned to = 0; to < SMOE_VISIT_STATES; to++)
            if (!drawn(from, to))
                moves[n++] = (struct move){from, to};
    return cr_make_param_array(struct move, moves, n);
}

ParameterizedTest(struct move *move, ledger, a_move_without_an_arrow_stops_the_program,
                  .signal = SIGABRT)
{
    struct smoe_account a = {.submitted = 7, .in_flight = 4, .settled = 2, .failed = 1};
    for (int s = W; s < SMOE_VISIT_STATES; s++)
        a.now[s] = 1;
    cr_assert(smoe_account_balanced(&a)); /* so that nothing but the move is wrong */
    smoe_account_move(&a, move->from, move->to, 1);
}

Test(ledger, more_visits_than_there_are_cannot_leave_a_state, .signal = SIGABRT)
{
    struct smoe_account a = {0};
    smoe_account_move(&a, SMOE_VISIT_NONE, W, 3);
    smoe_account_move(&a, W, R, 4);
}

Test(ledger, all_of_a_state_can_leave_it)
{
    struct smoe_account a = {0};
    smoe_account_move(&a, SMOE_VISIT_NONE, W, 3);
    smoe_account_move(&a, W, R, 3);
    cr_assert_eq(a.now[W], 0);
    cr_assert_eq(a.now[R], 3);
}

/* Counters against a plain recount: what has been done to the visits, one by one. */
Test(ledger, after_any_legal_walk_the_law_holds_and_the_counters_are_the_recount)
{
    enum { VISITS = 40, MOVES = 20000 };
    enum smoe_visit_state visits[VISITS] = {0};
    struct smoe_account a = {0};
    struct smoe_rng rng;
    uint64_t entered = 0;
    smoe_rng_init(&rng, 11, 0);
    for (int i = 0; i < MOVES; i++) {
        enum smoe_visit_state *visit = &visits[smoe_rng_below(&rng, VISITS)];
        enum smoe_visit_state to = (enum smoe_visit_state)smoe_rng_below(&rng, SMOE_VISIT_STATES);
        if (*visit == C || *visit == X)
            *visit = SMOE_VISIT_NONE; /* a new visit in its place */
        if (!smoe_visit_move_legal(*visit, to))
            continue;
        entered += *visit == SMOE_VISIT_NONE;
        smoe_account_move(&a, *visit, to, 1);
        *visit = to;
        uint64_t flying = 0, settled = 0;
        for (int v = 0; v < VISITS; v++) {
            flying += visits[v] >= W && visits[v] <= G;
            settled += visits[v] == S;
        }
        cr_assert(smoe_account_balanced(&a));
        cr_assert_eq(a.submitted, entered);
        cr_assert_eq(a.in_flight, flying);
        cr_assert_eq(a.settled, settled + a.now[C]);
        cr_assert_eq(a.failed, a.now[X]);
        cr_assert_eq(a.submitted, a.settled + a.failed + a.in_flight);
    }
    cr_assert_gt(a.now[C], 100);
    cr_assert_gt(a.now[X], 100);
}

Test(ledger, an_account_that_lost_or_found_a_visit_is_not_balanced)
{
    struct smoe_account good = {0};
    smoe_account_move(&good, SMOE_VISIT_NONE, W, 10);
    smoe_account_move(&good, W, R, 6);
    smoe_account_move(&good, R, S, 2);
    cr_assert(smoe_account_balanced(&good));
    uint64_t *fields = (uint64_t *)&good;
    for (size_t i = 0; i < sizeof good / sizeof *fields; i++) {
        if (&fields[i] == &good.now[SMOE_VISIT_NONE])
            continue; /* nothing is ever counted there */
        fields[i]++;
        cr_assert_not(smoe_account_balanced(&good), "field %zu", i);
        fields[i]--;
    }
}

Test(ledger, parts_add_up_to_the_whole)
{
    struct smoe_account parts[3] = {0}, whole = {0}, sum = {0};
    for (unsigned i = 0; i < 3; i++) {
        smoe_account_move(&parts[i], SMOE_VISIT_NONE, W, 10 + i);
        smoe_account_move(&parts[i], W, R, 5 + i);
        smoe_account_move(&parts[i], R, X, 1 + i);
        smoe_account_move(&whole, SMOE_VISIT_NONE, W, 10 + i);
        smoe_account_move(&whole, W, R, 5 + i);
        smoe_account_move(&whole, R, X, 1 + i);
        smoe_account_add(&sum, &parts[i]);
    }
    cr_assert_arr_eq(&sum, &whole, sizeof sum);
}
