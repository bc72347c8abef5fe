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
#include "daemon/core/learning.h"
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

/* What was given up to a sequence number, to tell which of it a report already counts. */
struct smoe_assignment {
    uint64_t sequence;
    uint64_t flops[SMOE_PHASES]; /* cumulative */
};

#define SMOE_ASSIGNMENTS_KEPT 64

struct smoe_worker {
    enum smoe_worker_state state;
    uint32_t session; /* the shell's handle; SMOE_NO_SESSION when there is none */
    smoe_name id;
    uint64_t incarnation;
    smoe_name freq_driver;
    uint32_t lanes;

    /* Decisions */
    uint64_t sequence;                                         /* last sent on this connection */
    struct smoe_assignment assignments[SMOE_ASSIGNMENTS_KEPT]; /* ring by sequence */
    uint64_t freq_khz_sent;
    uint64_t freq_changed_ns; /* the slot_closed_ns then */
    double service_carry;     /* fraction of tau fbar/c left from the last slot */
    double freq_wanted_hz; /* between two P-states, of all lanes as achieved; 0: none is wanted */
    double freq_owed; /* of it, what the states that were decided have not given so far [cycle] */
    uint64_t freq_owed_ns; /* up to here */

    /* Q: work given and not finished, in flops, by the daemon's own books */
    uint64_t given_flops[SMOE_PHASES];   /* cumulative on this connection */
    uint64_t pending_flops[SMOE_PHASES]; /* executable: parcels out for this phase */
    uint64_t
        owed_flops; /* backward shares of training visits not yet settled, pending ones included */
    uint64_t progress_ns; /* when what is executable was last known: since then it works it off */
    uint64_t inbox_bytes; /* raw bytes of visits whose forward is not done */
    uint64_t inbox_bytes_max;
    uint64_t memory_bytes;     /* for experts and shards; 0: it takes no part in sharded layers */
    uint32_t expert_slots;     /* of a sharded layer; 0: as memory allows */
    smoe_address peer_address; /* where it takes direct links; "": nowhere */

    /* Z and power */
    double debt_j;
    double budget_w;                /* Eavg / slot; +inf: none */
    double cap_w;                   /* Emax / slot; +inf: none */
    double own_budget_w, own_cap_w; /* of these, what the node itself sets */
    double set_budget_w;            /* what an operator set for it alone; +inf: nothing */
    double joules;                  /* so far: metered and, while its meter is lost, modelled */
    uint64_t debt_ns;               /* Z is charged up to here */

    double freq_max_hz; /* present ceiling, a speed cap included */
    double parcel_rows; /* rows that its parcels are planned to have, >= 1; 0: many */
    struct smoe_learned learned;
    struct smoe_power_curve curve; /* if `curved`: what it draws, as of the last report */
    bool curved; /* it has a limit of power, and kappa does not describe what it draws */

    /* Last report, and what was seen of it */
    struct smoe_msg_report report;
    bool has_report;
    uint64_t heard_ns;        /* last frame of any kind */
    uint64_t lost_ns;         /* when it became LOST */
    uint64_t told_silence_ns; /* Welcome said that it may be silent for so long */
    uint64_t drift_flops;     /* sum of |report - books|: how much the reports corrected */
    uint64_t late_frames;     /* results of forgotten parcels */

    struct smoe_account account;
    uint64_t hosted_layers;                /* bit l: Hosted came for layer l on this connection */
    uint32_t hosts_sent;                   /* on this connection: the number of the last one */
    uint32_t host_number[SMOE_LAYERS_MAX]; /* of the last Host of layer l; 0: it is answered */
    uint64_t host_due; /* bit l: what it is to hold of layer l changed, it has not been told */
    uint64_t refused_copies; /* bit l: it had no room for copies of layer l */
    uint64_t gradient_bytes; /* of Backprops whose results have not come */
    uint32_t backward_due;   /* parcels whose gradients wait for room here */
    bool expected;           /* the journal names it, and it has not yet said what it holds */
    bool leaving;            /* its connection is gone; lost when the commit under way is written */
    uint64_t
        reference_flops; /* a visit of the layer it hosts, forward: to print cycles per visit */
};

#define SMOE_NO_SESSION UINT32_MAX
#define SMOE_NO_WORKER  UINT32_MAX

struct smoe_power_budget {
    smoe_name worker;
    double watts; /* > 0 */
};

struct smoe_fleet {
    struct smoe_worker
        *workers; /* [n_max], owned; an index stays a worker's while it is not FREE */
    uint32_t n_max;
    uint32_t n_used; /* indices from here on were never used */
    uint32_t n_expected;
    struct smoe_priors priors;         /* of workers that are not known yet */
    struct smoe_power_budget *budgets; /* [n_budgets] set for one worker each, here or not; owned */
    uint32_t n_budgets;
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

/* Cost of a phase in parcels as planned (parcel_rows). What a worker does whatever it is given, its optimizer
 * steps, is no cost of a visit. [cycle/flop] */
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

/* Sets a budget for one worker, by name, in the place of the one for all; +inf: takes it back. It is kept
 * whether the worker is here or not. Nothing happens when there are workers_max others. */
void smoe_fleet_set_budget(struct smoe_fleet *fleet, const char *id, double watts);

/* What is set for it alone; +inf: nothing. [W] */
double smoe_fleet_budget(const struct smoe_fleet *fleet, const char *id);

/* Sets budget and cap to the smaller of the operator's and the node's own. These are what the operator set
 * for all; a budget for this one alone counts instead. [W] */
void smoe_worker_limit(struct smoe_worker *worker, double budget_w, double cap_w);

/* kappa, so that dynamic power is kappa f^3 with f of all lanes as achieved: as metered; before that from
 * the busy power it said or the prior, at freq_max_hz; 0: no energy model. A duty cycle, whose power is a
 * line, is met at the frequency that it runs at. [J s^2 / cycle^3] */
double smoe_worker_kappa(const struct smoe_worker *worker);

/* Standard errors of what is learned, for people: of cycles_per_visit, kappa and static power. */
struct smoe_worker_doubts {
    double cycles_per_visit, kappa, static_w;
};
struct smoe_worker_doubts smoe_worker_doubts(const struct smoe_worker *worker,
                                             uint64_t forward_flops, bool training);

/* Z_j at `now_ns`: as charged with the last report, and what the work done since then must have cost. [J] */
double smoe_worker_debt(const struct smoe_worker *worker, uint64_t now_ns);

/* The physical terms for freq.h; frequencies are those of all lanes together, as achieved. */
struct smoe_freq_node smoe_worker_freq_node(const struct smoe_worker *worker,
                                            uint64_t forward_flops, bool training);

/* Invariants of one worker; asserts. */
void smoe_worker_check(const struct smoe_worker *worker);

#endif
