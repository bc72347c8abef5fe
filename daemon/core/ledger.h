/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a token visit, and the accounts that must balance. A visit is always in exactly one
 * state; every change goes through one mover that checks the move against the table of legal moves
 * and the count it takes from. The same move is booked on four accounts: total, trainer, worker, expert.
 *
 *     WAITING -> ROUTED -> FORWARD_DONE -> GRADIENT_QUEUED -> SETTLED -> COMMITTED
 *        |          |           |                |               |
 *        +----------+-----------+----------------+---------------+--> FAILED
 *
 * An evaluation visit goes from ROUTED straight to SETTLED. FAILED means: ended without effect on the
 * model (dropped for replay, discarded, or refused); its replay is a new submission. The law, at every
 * moment, for each account:   submitted = settled + failed + in flight.
 */
#ifndef SMOE_CORE_LEDGER_H
#define SMOE_CORE_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

enum smoe_visit_state {
    SMOE_VISIT_NONE,            /* not there yet */
    SMOE_VISIT_WAITING,         /* submitted, no worker chosen */
    SMOE_VISIT_ROUTED,          /* given to a worker */
    SMOE_VISIT_FORWARD_DONE,    /* result relayed, waits for its gradient */
    SMOE_VISIT_GRADIENT_QUEUED, /* gradient given to the worker */
    SMOE_VISIT_SETTLED,         /* input gradient relayed (evaluation: result relayed) */
    SMOE_VISIT_COMMITTED,       /* its Step is committed */
    SMOE_VISIT_FAILED,
    SMOE_VISIT_STATES,
};

struct smoe_account {
    uint64_t submitted;              /* ever entered */
    uint64_t settled;                /* ever settled and not failed since; committed included */
    uint64_t failed;                 /* ever failed */
    uint64_t in_flight;              /* now WAITING, ROUTED, FORWARD_DONE or GRADIENT_QUEUED */
    uint64_t now[SMOE_VISIT_STATES]; /* visits in each state; COMMITTED and FAILED only grow */
};

const char *smoe_visit_state_name(enum smoe_visit_state state);

/* Is this one of the arrows above? NONE enters at WAITING, or at ROUTED on a worker's or expert's
 * account, which first hear of a visit when it is routed. */
bool smoe_visit_move_legal(enum smoe_visit_state from, enum smoe_visit_state to);

/* Moves n visits. Asserts that the move is legal and that n visits are there. */
void smoe_account_move(struct smoe_account *account, enum smoe_visit_state from,
                       enum smoe_visit_state to, uint64_t n);

/* The law, and that the states sum up. O(1). */
bool smoe_account_balanced(const struct smoe_account *account);

/* sum += account, field by field: for checking that parts make the whole. */
void smoe_account_add(struct smoe_account *sum, const struct smoe_account *account);

#endif
