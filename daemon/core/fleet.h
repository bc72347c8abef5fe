/* SPDX-License-Identifier: Apache-2.0
 *
 * The workers as the core knows them: state, queue Q, energy debt Z, what their work costs. Pure; it
 * knows workers, not batches: the core tells it how much work is given and finished, in flops, and
 * the reports tell it how fast that goes.
 *
 *     FREE -> JOINING -> READY <-> DRAINING
 *               ^  \        |         |
 *               |   +-------+---------+--> LOST -> JOINING (it came back)
 *               |                            |
 *               +----------------------------+--> FREE (its lease ended)
 *
 * A worker that only the journal names (the daemon was restarted) enters as LOST: FREE -> LOST.
 *
 * Work is counted in flops, exactly, because layers of different shape share a worker; a queue in
 * "visits" is flops over the cost of a visit of the layer in question (MODEL.md, "Two phases").
 */
#ifndef SMOE_CORE_FLEET_H
#define SMOE_CORE_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "daemon/core/freq.h"
#include "daemon/core/ledger.h"
#include "proto/wire.h"

enum smoe_worker_state {
    SMOE_WORKER_FREE,
    SMOE_WORKER_JOINING, /* welcomed, inventory not in yet */
    SMOE_WORKER_READY,
    SMOE_WORKER_DRAINING, /* finishes what it has, gets nothing new */
    SMOE_WORKER_LOST,     /* connection gone; its place is kept for a lease */
    SMOE_WORKER_STATES,
};

enum smoe_phase { SMOE_FORWARD, SMOE_BACKWARD, SMOE_PHASES };

/* A ratio learned from reports, as two sums that forget: after SMOE_ESTIMATE_CYCLES more of work half
 * of either is from that work. Cycles over flops: what a flop of a phase costs. Cycles over seconds:
 * the speed achieved. */
struct smoe_estimate {
    double cycles;
    double per; /* flops, or seconds */
};

/* What was given up to a sequence number, to tell which of it a report already counts. */
struct smoe_assignment {
    uint64_t sequence;
    uint64_t flops[SMOE_PHASES]; /* cumulative */
};

#define SMOE_ASSIGNMENTS_KEPT 64
#define SMOE_ESTIMATE_CYCLES  2e8
#define SMOE_COST_PRIOR       0.125 /* cycles a flop before anything is known */

struct smoe_worker {
    enum smoe_worker_state state;
    uint32_t session; /* the shell's handle; SMOE_NO_SESSION when there is none */
    smoe_name id;
    uint64_t incarnation;
    smoe_name freq_driver;
    uint32_t lanes;
    double busy_watts;

    /* Decisions */
    uint64_t sequence;                                         /* last sent on this connection */
    struct smoe_assignment assignments[SMOE_ASSIGNMENTS_KEPT]; /* ring by sequence */
    uint64_t freq_khz_sent;
    uint64_t freq_changed_ns; /* the slot_end_ns then */
    double service_carry;     /* fraction of tau fbar/c left from the last slot */

    /* Q: work given and not finished, in flops, by the daemon's own books */
    uint64_t given_flops[SMOE_PHASES];   /* cumulative on this connection */
    uint64_t pending_flops[SMOE_PHASES]; /* executable: parcels out for this phase */
    uint64_t
        owed_flops; /* backward shares of training visits not yet settled, pending ones included */
    uint64_t progress_ns; /* when what is executable was last known: since then it works it off */
    uint64_t inbox_bytes; /* raw bytes of visits whose forward is not done */
    uint64_t inbox_bytes_max;

    /* Z and power */
    double debt_j;
    double budget_w;  /* Eavg / slot; +inf: none */
    double cap_w;     /* Emax / slot; +inf: none */
    double joules;    /* metered so far */
    uint64_t debt_ns; /* Z is charged up to here */

    /* Learned */
    double freq_max_hz; /* present ceiling, a speed cap included */
    double kappa;       /* 0: no energy model */
    struct smoe_estimate cost[SMOE_PHASES];
    struct smoe_estimate speed; /* cycles a second of work present, all lanes */

    /* Last report, and what was seen of it */
    struct smoe_msg_report report;
    bool has_report;
    uint64_t heard_ns;    /* last frame of any kind */
    uint64_t lost_ns;     /* when it became LOST */
    uint64_t drift_flops; /* sum of |report - books|: how much the reports corrected */
    uint64_t late_frames; /* results of forgotten parcels */

    struct smoe_account account;
    uint64_t hosted_layers; /* bit l: Hosted came for layer l on this connection */
    uint64_t host_due;      /* bit l: what it is to hold of layer l changed, it has not been told */
    uint64_t refused_copies;    /* bit l: it had no room for copies of layer l */
    struct smoe_estimate steps; /* cycles of optimizer steps per cycle of backward passes */
    uint64_t gradient_bytes;    /* of Backprops whose results have not come */
    uint32_t backward_due;      /* parcels whose gradients wait for room here */
    bool expected;              /* the journal names it, and it has not yet said what it holds */
    bool leaving; /* its connection is gone; lost when the commit under way is written */
    uint64_t
        reference_flops; /* a visit of the layer it hosts, forward: to print cycles per visit */
};

#define SMOE_NO_SESSION UINT32_MAX
#define SMOE_NO_WORKER  UINT32_MAX

struct smoe_fleet {
    struct smoe_worker
        *workers; /* [n_max], owned; an index stays a worker's while it is not FREE */
    uint32_t n_max;
    uint32_t n_used; /* indices from here on were never used */
    uint32_t n_expected;
};

int smoe_fleet_init(struct smoe_fleet *fleet, uint32_t workers_max);
void smoe_fleet_release(struct smoe_fleet *fleet);

const char *smoe_worker_state_name(enum smoe_worker_state state);

/* The one way a worker changes state; asserts that the arrow exists. */
void smoe_worker_move(struct smoe_worker *worker, enum smoe_worker_state to);

/* Index of the worker with this id in any state but FREE; false if there is none. */
bool smoe_fleet_find(const struct smoe_fleet *fleet, const char *id, uint32_t *ret_index);

/* Takes in a worker that said hello: a new one, or a LOST one that returns. -> JOINING. SMOE_EEXIST if
 * a live one has that id, SMOE_ELIMIT if the fleet is full; the sentence says so. */
int smoe_fleet_join(struct smoe_fleet *fleet, uint32_t session, const struct smoe_msg_hello *hello,
                    uint64_t now_ns, uint32_t *ret_index, struct smoe_why *why);

/* A worker that is not here but known from before: -> LOST, and expected. SMOE_NO_WORKER if the fleet is
 * full. */
uint32_t smoe_fleet_expect(struct smoe_fleet *fleet, const char *id, uint64_t now_ns);
/* The worker has said what it holds: it is no longer expected. */
void smoe_fleet_returned(struct smoe_fleet *fleet, uint32_t index);

/* The connection is gone: -> LOST, work on the books forgotten (the core has failed the visits). */
void smoe_worker_leave(struct smoe_worker *worker, uint64_t now_ns);

/* READY or DRAINING: it may be counted on. */
bool smoe_worker_live(const struct smoe_worker *worker);
/* Live, and it can be told something. */
bool smoe_worker_here(const struct smoe_worker *worker);

/* Books work that is sent under the next sequence number, and returns that number. */
uint64_t smoe_worker_assign(struct smoe_worker *worker, const uint64_t flops[SMOE_PHASES],
                            uint64_t now_ns);

/* A parcel's result came in: the worker has just begun what is next. */
void smoe_worker_progressed(struct smoe_worker *worker, uint64_t now_ns);

/* A report came in: costs, energy debt, what is really queued. */
void smoe_worker_reported(struct smoe_worker *worker, const struct smoe_msg_report *report,
                          uint64_t now_ns);

/* Charges the energy debt up to now: Z' = max(Z + new joules - budget * wall, 0). */
void smoe_worker_charge(struct smoe_worker *worker, double new_joules, uint64_t now_ns);

/* Executable work: what the last report says is queued plus what was given after the sequence it
 * names, never more than the books have. [flop] */
uint64_t smoe_worker_executable(const struct smoe_worker *worker, enum smoe_phase phase);

/* Cost of a phase now, with its share of the optimizer steps. [cycle/flop] */
double smoe_worker_cycles_per_flop(const struct smoe_worker *worker, enum smoe_phase phase);

/* Share of the frequency in force that all lanes together really achieve, (0, 1]: the operating system,
 * rests that last too long and lanes without work take the remainder. 1 before anything is known. */
double smoe_worker_efficiency(const struct smoe_worker *worker);

/* c_j: cycles of one whole visit, forward and (if `training`) backward, of a layer whose forward is
 * `forward_flops`. [cycle/visit] */
double smoe_worker_cycles_per_visit(const struct smoe_worker *worker, uint64_t forward_flops,
                                    bool training);

/* Q_j at `now_ns` in visits of such a layer; *ret_executable gets the part that could run now. What is
 * known (smoe_worker_executable) is as old as the last report or result; what the worker must have
 * done since then, at the speed it achieves, is taken off. */
double smoe_worker_backlog(const struct smoe_worker *worker, uint64_t forward_flops, bool training,
                           uint64_t now_ns, double *ret_executable);

/* The physical terms for freq.h; frequencies are those of all lanes together, as achieved. */
struct smoe_freq_node smoe_worker_freq_node(const struct smoe_worker *worker,
                                            uint64_t forward_flops, bool training);

/* Invariants of one worker; asserts. */
void smoe_worker_check(const struct smoe_worker *worker);

#endif
