/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariants, checked by smoe_worker_check:
 *  1. pending <= given, owed >= pending backward work: what can run is part of what is owed.
 *  2. a worker without a session has no work on its books.
 *  3. its account balances.
 *
 * The queue has two sources. The books (given minus finished parcels) are the truth about what the
 * worker was given; its reports tell how far it is inside those parcels. A report names the last
 * sequence it had received, and `assignments` remembers how much had been given by then, so that
 * work sent after it is added and never erased by a late report.
 */
#include "daemon/core/fleet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

#define STATIC_SHARE_MAX 0.9  /* of a limit, for a curve to be planned with */
#define BUDGET_SHARE_MIN 0.01 /* of a budget, left for work however much is drawn without any */

#define BIT(state) (1u << SMOE_WORKER_##state)

static const unsigned legal[SMOE_WORKER_STATES] = {
    [SMOE_WORKER_FREE] = BIT(JOINING) | BIT(LOST),
    [SMOE_WORKER_JOINING] = BIT(READY) | BIT(LOST),
    [SMOE_WORKER_READY] = BIT(DRAINING) | BIT(LOST),
    [SMOE_WORKER_DRAINING] = BIT(READY) | BIT(LOST),
    [SMOE_WORKER_LOST] = BIT(JOINING) | BIT(FREE),
};

int smoe_fleet_init(struct smoe_fleet *fleet, uint32_t workers_max)
{
    *fleet = (struct smoe_fleet){.n_max = workers_max};
    fleet->workers = calloc(workers_max, sizeof *fleet->workers);
    fleet->budgets = calloc(workers_max, sizeof *fleet->budgets);
    return fleet->workers && fleet->budgets ? 0 : SMOE_ENOMEMORY;
}

void smoe_fleet_release(struct smoe_fleet *fleet)
{
    free(fleet->workers);
    free(fleet->budgets);
    *fleet = (struct smoe_fleet){0};
}

const char *smoe_worker_state_name(enum smoe_worker_state state)
{
    static const char *const names[SMOE_WORKER_STATES] = {"free", "joining", "ready", "draining",
                                                          "lost"};
    return names[state];
}

void smoe_worker_move(struct smoe_worker *worker, enum smoe_worker_state to)
{
    smoe_assert(legal[worker->state] >> to & 1);
    worker->state = to;
}

bool smoe_fleet_find(const struct smoe_fleet *fleet, const char *id, uint32_t *ret_index)
{
    for (uint32_t i = 0; i < fleet->n_used; i++) {
        const struct smoe_worker *w = &fleet->workers[i];
        if (w->state == SMOE_WORKER_FREE || strcmp(w->id, id) != 0)
            continue;
        *ret_index = i;
        return true;
    }
    return false;
}

static bool find_free(struct smoe_fleet *fleet, uint32_t *ret_index)
{
    for (uint32_t i = 0; i < fleet->n_max; i++) {
        if (fleet->workers[i].state != SMOE_WORKER_FREE)
            continue;
        if (i >= fleet->n_used)
            fleet->n_used = i + 1;
        *ret_index = i;
        return true;
    }
    return false;
}

static struct smoe_worker nobody(const struct smoe_fleet *fleet)
{
    struct smoe_worker w = {.budget_w = (double)INFINITY,
                            .cap_w = (double)INFINITY,
                            .own_budget_w = (double)INFINITY,
                            .own_cap_w = (double)INFINITY,
                            .set_budget_w = (double)INFINITY,
                            .session = SMOE_NO_SESSION};
    smoe_learned_init(&w.learned, &fleet->priors, SMOE_POWER_LINE);
    return w;
}

static void start_connection(struct smoe_worker *w, uint32_t session,
                             const struct smoe_msg_hello *hello, uint64_t now_ns)
{
    w->session = session;
    w->incarnation = hello->incarnation;
    memcpy(w->freq_driver, hello->freq_driver, sizeof w->freq_driver);
    w->lanes = hello->lanes;
    w->own_budget_w = hello->budget_watts > 0 ? hello->budget_watts : (double)INFINITY;
    w->own_cap_w = hello->cap_watts > 0 ? hello->cap_watts : (double)INFINITY;
    w->freq_max_hz = hello->freq_max_hz;
    w->inbox_bytes_max = hello->inbox_bytes_max;
    w->memory_bytes = hello->memory_bytes;
    w->expert_slots = hello->expert_slots;
    memcpy(w->peer_address, hello->peer_address, sizeof w->peer_address);
    w->sequence = 0;
    memset(w->assignments, 0, sizeof w->assignments);
    memset(w->given_flops, 0, sizeof w->given_flops);
    w->has_report = false;
    w->freq_khz_sent = 0;
    w->freq_wanted_hz = w->freq_owed = 0;
    w->heard_ns = w->debt_ns = now_ns;
    w->hosted_layers = w->host_due = w->refused_copies = 0;
    w->hosts_sent = 0;
    memset(w->host_number, 0, sizeof w->host_number);
    bool voltage_follows = strcmp(w->freq_driver, "cpufreq") == 0;
    smoe_learned_resume(&w->learned, voltage_follows ? SMOE_POWER_CUBE : SMOE_POWER_LINE,
                        hello->busy_watts);
    double states[SMOE_FREQ_STATES_MAX];
    for (size_t k = 0; k < hello->n_freq_states; k++)
        states[k] = (double)hello->freq_states_khz[k] * 1000 * hello->lanes;
    smoe_learned_table(&w->learned, states, (uint32_t)hello->n_freq_states);
}

uint32_t smoe_fleet_expect(struct smoe_fleet *fleet, const char *id, uint64_t now_ns)
{
    uint32_t i;
    if (smoe_fleet_find(fleet, id, &i))
        return i;
    if (!find_free(fleet, &i))
        return SMOE_NO_WORKER;
    struct smoe_worker *w = &fleet->workers[i];
    *w = nobody(fleet);
    w->lost_ns = now_ns;
    w->expected = true;
    fleet->n_expected++;
    snprintf(w->id, sizeof w->id, "%s", id);
    smoe_worker_move(w, SMOE_WORKER_LOST);
    return i;
}

void smoe_fleet_returned(struct smoe_fleet *fleet, uint32_t index)
{
    fleet->n_expected -= fleet->workers[index].expected;
    fleet->workers[index].expected = false;
}

double smoe_fleet_budget(const struct smoe_fleet *fleet, const char *id)
{
    for (uint32_t i = 0; i < fleet->n_budgets; i++)
        if (!strcmp(fleet->budgets[i].worker, id))
            return fleet->budgets[i].watts;
    return (double)INFINITY;
}

int smoe_fleet_join(struct smoe_fleet *fleet, uint32_t session, const struct smoe_msg_hello *hello,
                    uint64_t now_ns, uint32_t *ret_index, struct smoe_why *why)
{
    uint32_t i;
    if (smoe_fleet_find(fleet, hello->name, &i)) {
        if (fleet->workers[i].state != SMOE_WORKER_LOST)
            return smoe_fail(why, SMOE_EEXIST, "worker %s is connected already", hello->name);
    } else {
        if (!find_free(fleet, &i))
            return smoe_fail(why, SMOE_ELIMIT, "fleet is full: %u workers", fleet->n_max);
        fleet->workers[i] = nobody(fleet);
        memcpy(fleet->workers[i].id, hello->name, sizeof hello->name);
    }
    fleet->workers[i].set_budget_w = smoe_fleet_budget(fleet, hello->name);
    start_connection(&fleet->workers[i], session, hello, now_ns);
    smoe_worker_move(&fleet->workers[i], SMOE_WORKER_JOINING);
    *ret_index = i;
    return 0;
}

void smoe_fleet_set_budget(struct smoe_fleet *fleet, const char *id, double watts)
{
    uint32_t i = 0, worker;
    while (i < fleet->n_budgets && strcmp(fleet->budgets[i].worker, id) != 0)
        i++;
    if (i == fleet->n_max)
        return;
    if (isinf(watts) && i < fleet->n_budgets) {
        fleet->budgets[i] = fleet->budgets[--fleet->n_budgets];
    } else if (!isinf(watts)) {
        fleet->n_budgets += i == fleet->n_budgets;
        snprintf(fleet->budgets[i].worker, sizeof fleet->budgets[i].worker, "%s", id);
        fleet->budgets[i].watts = watts;
    }
    if (smoe_fleet_find(fleet, id, &worker))
        fleet->workers[worker].set_budget_w = watts;
}

void smoe_worker_limit(struct smoe_worker *worker, double budget_w, double cap_w)
{
    if (!isinf(worker->set_budget_w))
        budget_w = worker->set_budget_w;
    worker->budget_w = fmin(budget_w, worker->own_budget_w);
    worker->cap_w = fmin(cap_w, worker->own_cap_w);
}

void smoe_worker_leave(struct smoe_worker *worker, uint64_t now_ns)
{
    smoe_worker_move(worker, SMOE_WORKER_LOST);
    worker->session = SMOE_NO_SESSION;
    worker->lost_ns = now_ns;
    worker->hosted_layers = worker->host_due = 0;
    worker->leaving = false;
    memset(worker->pending_flops, 0, sizeof worker->pending_flops);
    worker->owed_flops = 0;
    worker->inbox_bytes = 0;
}

bool smoe_worker_live(const struct smoe_worker *worker)
{
    return worker->state == SMOE_WORKER_READY || worker->state == SMOE_WORKER_DRAINING;
}

bool smoe_worker_here(const struct smoe_worker *worker)
{
    return smoe_worker_live(worker) && worker->session != SMOE_NO_SESSION;
}

void smoe_worker_progressed(struct smoe_worker *worker, uint64_t now_ns)
{
    worker->progress_ns = now_ns;
}

uint64_t smoe_worker_assign(struct smoe_worker *worker, const uint64_t flops[SMOE_PHASES],
                            uint64_t now_ns)
{
    if (!worker->pending_flops[SMOE_FORWARD] && !worker->pending_flops[SMOE_BACKWARD])
        worker->progress_ns = now_ns; /* it was idle */
    uint64_t sequence = ++worker->sequence;
    struct smoe_assignment *a = &worker->assignments[sequence % SMOE_ASSIGNMENTS_KEPT];
    a->sequence = sequence;
    for (int p = 0; p < SMOE_PHASES; p++) {
        worker->given_flops[p] += flops[p];
        worker->pending_flops[p] += flops[p];
        a->flops[p] = worker->given_flops[p];
    }
    return sequence;
}

/* Work given after `sequence`; false when that is too long ago to know. */
static bool given_after(const struct smoe_worker *w, uint64_t sequence, enum smoe_phase phase,
                        uint64_t *ret)
{
    if (sequence == 0) {
        *ret = w->given_flops[phase];
        return true;
    }
    const struct smoe_assignment *a = &w->assignments[sequence % SMOE_ASSIGNMENTS_KEPT];
    if (a->sequence != sequence)
        return false;
    *ret = w->given_flops[phase] - a->flops[phase];
    return true;
}

uint64_t smoe_worker_executable(const struct smoe_worker *w, enum smoe_phase phase)
{
    uint64_t books = w->pending_flops[phase];
    uint64_t after;
    if (!w->has_report || !given_after(w, w->report.sequence, phase, &after))
        return books;
    uint64_t queued =
        phase == SMOE_FORWARD ? w->report.queue_forward_flops : w->report.queue_backward_flops;
    if (queued > books || after > books - queued)
        return books;
    return queued + after;
}

static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* Frequency of all lanes in force since the last report; the highest while there is none. [Hz] */
static double in_force_hz(const struct smoe_worker *w)
{
    bool known = w->has_report && w->report.freq_khz;
    return (known ? (double)w->report.freq_khz * 1000 : w->freq_max_hz) * w->lanes;
}

void smoe_worker_charge(struct smoe_worker *w, double new_joules, uint64_t now_ns)
{
    double wall_s = now_ns > w->debt_ns ? (double)(now_ns - w->debt_ns) * 1e-9 : 0;
    w->debt_j = smoe_freq_debt(w->debt_j, new_joules, w->budget_w, wall_s);
    w->debt_ns = now_ns;
}

/* How far the report is from the books at the sequence it names. */
static uint64_t drift_of(const struct smoe_worker *w, const struct smoe_msg_report *report,
                         enum smoe_phase phase, uint64_t queued)
{
    uint64_t after;
    if (!given_after(w, report->sequence, phase, &after))
        return 0;
    uint64_t books = grown(w->pending_flops[phase], after);
    return queued > books ? queued - books : 0; /* less than the books is progress, not drift */
}

/* What moved since the last report. Counters of one incarnation only grow; a fresh connection starts from
 * its first report. Returns the joules. */
static double learn(struct smoe_worker *w, const struct smoe_msg_report *now, uint64_t now_ns)
{
    const struct smoe_msg_report *last = &w->report;
    double hz = in_force_hz(w);
    struct smoe_observed o = {
        .flops = {(double)grown(now->forward_flops, last->forward_flops),
                  (double)grown(now->backward_flops, last->backward_flops)},
        .cycles = {(double)grown(now->forward_cycles, last->forward_cycles),
                   (double)grown(now->backward_cycles, last->backward_cycles)},
        .row_flops = {(double)grown(now->forward_row_flops, last->forward_row_flops),
                      (double)grown(now->backward_row_flops, last->backward_row_flops)},
        .all_cycles = (double)grown(now->cycles, last->cycles),
        .offered_cycles = (double)grown(now->active_ns, last->active_ns) * 1e-9 * hz,
        .wall_s = (double)grown(now_ns, w->debt_ns) * 1e-9,
        .joules = fmax(now->joules - last->joules, 0),
        .unread = strcmp(now->energy_source, SMOE_METER_LOST) == 0,
        .hz = hz,
    };
    return smoe_learned_observe(&w->learned, &o, w->freq_max_hz * w->lanes);
}

/* Where static power alone is about all it may draw no curve leads anywhere: work then gets its least share
 * of the limits (for_work). */
static void draw_curve(struct smoe_worker *w)
{
    double least_w = fmin(w->budget_w, w->cap_w);
    double hz = w->freq_max_hz * w->lanes * smoe_worker_efficiency(w);
    w->curved = !isinf(least_w) &&
                smoe_learned_static_w(&w->learned, NULL) < STATIC_SHARE_MAX * least_w &&
                smoe_learned_curve(&w->learned, hz, &w->curve);
}

void smoe_worker_reported(struct smoe_worker *w, const struct smoe_msg_report *report,
                          uint64_t now_ns)
{
    if (w->has_report) {
        double joules = learn(w, report, now_ns);
        w->joules += joules;
        smoe_worker_charge(w, joules, now_ns);
    }
    w->drift_flops += drift_of(w, report, SMOE_FORWARD, report->queue_forward_flops) +
                      drift_of(w, report, SMOE_BACKWARD, report->queue_backward_flops);
    w->freq_max_hz = report->freq_max_hz;
    w->report = *report;
    w->has_report = true;
    w->progress_ns = now_ns;
    draw_curve(w);
}

static double parcel_rows(const struct smoe_worker *w)
{
    return w->parcel_rows > 0 ? w->parcel_rows : (double)INFINITY;
}

double smoe_worker_cycles_per_flop(const struct smoe_worker *w, enum smoe_phase phase)
{
    return smoe_learned_cost_at(&w->learned, phase, parcel_rows(w), NULL);
}

double smoe_worker_efficiency(const struct smoe_worker *w)
{
    return w->learned.share.value[0];
}

double smoe_worker_cycles_per_visit(const struct smoe_worker *w, uint64_t forward_flops,
                                    bool training)
{
    double c = (double)forward_flops * smoe_worker_cycles_per_flop(w, SMOE_FORWARD);
    if (training) /* the backward pass does twice the forward's flops */
        c += 2.0 * (double)forward_flops * smoe_worker_cycles_per_flop(w, SMOE_BACKWARD);
    return c;
}

/* Cycles of its executable work that a worker must have done since they were last counted. */
static double worked_off(const struct smoe_worker *w, uint64_t now_ns, double executable_cycles)
{
    if (now_ns <= w->progress_ns)
        return 0;
    double hz = in_force_hz(w) * smoe_worker_efficiency(w); /* a throttled worker is slower */
    double cycles = hz * (double)(now_ns - w->progress_ns) * 1e-9;
    return cycles < executable_cycles ? cycles : executable_cycles;
}

double smoe_worker_backlog(const struct smoe_worker *w, uint64_t forward_flops, bool training,
                           uint64_t now_ns, double *ret_executable)
{
    double cost[SMOE_PHASES] = {smoe_worker_cycles_per_flop(w, SMOE_FORWARD),
                                smoe_worker_cycles_per_flop(w, SMOE_BACKWARD)};
    double visit = smoe_worker_cycles_per_visit(w, forward_flops, training);
    double forward = (double)smoe_worker_executable(w, SMOE_FORWARD) * cost[SMOE_FORWARD];
    uint64_t backward_now = smoe_worker_executable(w, SMOE_BACKWARD);
    uint64_t not_yet = w->owed_flops - w->pending_flops[SMOE_BACKWARD];
    double executable = forward + (double)backward_now * cost[SMOE_BACKWARD];
    executable -= worked_off(w, now_ns, executable);
    *ret_executable = executable / visit;
    return (executable + (double)not_yet * cost[SMOE_BACKWARD]) / visit;
}

/* Cycles of queued work that is done, or must be, since the last report. */
static double done_since_report(const struct smoe_worker *w, uint64_t now_ns)
{
    const uint64_t queued[SMOE_PHASES] = {w->report.queue_forward_flops,
                                          w->report.queue_backward_flops};
    double done = 0, executable = 0;
    for (enum smoe_phase p = SMOE_FORWARD; p < SMOE_PHASES; p++) {
        double cost = smoe_worker_cycles_per_flop(w, p);
        uint64_t after;
        if (!given_after(w, w->report.sequence, p, &after))
            return 0;
        done += (double)grown(queued[p] + after, w->pending_flops[p]) * cost;
        executable += (double)smoe_worker_executable(w, p) * cost;
    }
    return done + worked_off(w, now_ns, executable);
}

double smoe_worker_debt(const struct smoe_worker *w, uint64_t now_ns)
{
    if (isinf(w->budget_w))
        return 0;
    double hz = in_force_hz(w) * smoe_worker_efficiency(w);
    double joules = 0, wall_s = (double)grown(now_ns, w->debt_ns) * 1e-9;
    if (w->has_report)
        joules = smoe_worker_kappa(w) * hz * hz * done_since_report(w, now_ns) +
                 smoe_learned_static_w(&w->learned, NULL) * wall_s;
    return smoe_freq_debt(w->debt_j, joules, w->budget_w, wall_s);
}

double smoe_worker_kappa(const struct smoe_worker *w)
{
    if (w->learned.power.n)
        return smoe_learned_kappa(&w->learned, in_force_hz(w) * smoe_worker_efficiency(w), NULL);
    double hz = w->freq_max_hz * w->lanes * smoe_worker_efficiency(w);
    double of_work = fmax(w->learned.priors.busy_w - w->learned.priors.static_w, 0);
    return hz > 0 ? of_work / (hz * hz * hz) : 0;
}

struct smoe_worker_doubts smoe_worker_doubts(const struct smoe_worker *w, uint64_t forward_flops,
                                             bool training)
{
    struct smoe_worker_doubts d;
    double forward, backward;
    (void)smoe_learned_cost_at(&w->learned, SMOE_FORWARD, parcel_rows(w), &forward);
    (void)smoe_learned_cost_at(&w->learned, SMOE_BACKWARD, parcel_rows(w), &backward);
    backward *= training ? 2 : 0;
    d.cycles_per_visit = (double)forward_flops * sqrt(forward * forward + backward * backward);
    smoe_learned_kappa(&w->learned, in_force_hz(w) * smoe_worker_efficiency(w), &d.kappa);
    smoe_learned_static_w(&w->learned, &d.static_w);
    return d;
}

/* What static power leaves of a limit. */
static double for_work(const struct smoe_worker *w, double watts)
{
    return fmax(watts - smoe_learned_static_w(&w->learned, NULL), BUDGET_SHARE_MIN * watts);
}

struct smoe_freq_node smoe_worker_freq_node(const struct smoe_worker *w, uint64_t forward_flops,
                                            bool training)
{
    return (struct smoe_freq_node){
        .power = w->curved ? &w->curve : NULL,
        .cycles_per_visit = smoe_worker_cycles_per_visit(w, forward_flops, training),
        .freq_max_hz = w->freq_max_hz * w->lanes * smoe_worker_efficiency(w),
        .kappa = smoe_worker_kappa(w),
        .energy_max_w = w->curved ? w->cap_w : for_work(w, w->cap_w),
        .energy_mean_w = w->curved ? w->budget_w : for_work(w, w->budget_w),
    };
}

void smoe_worker_check(const struct smoe_worker *w)
{
    if (w->state == SMOE_WORKER_FREE)
        return;
    for (int p = 0; p < SMOE_PHASES; p++)
        smoe_assert(w->pending_flops[p] <= w->given_flops[p] || w->state == SMOE_WORKER_LOST);
    smoe_assert(w->owed_flops >= w->pending_flops[SMOE_BACKWARD]);
    smoe_assert(w->inbox_bytes <= w->inbox_bytes_max);
    smoe_assert(smoe_account_balanced(&w->account));
    smoe_assert(w->debt_j >= 0 && w->debt_j - w->debt_j == 0);
    if (w->session == SMOE_NO_SESSION && !w->leaving)
        smoe_assert(!w->owed_flops && !w->pending_flops[SMOE_FORWARD] && !w->inbox_bytes);
}
