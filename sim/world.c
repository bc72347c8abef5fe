/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes and time. Each event touches one process, through a callback of the network or an event of
 * its own, and that process's machine is checked right after it.
 */
#include "sim/world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "sim/world_state.h"

#define LOST_IN 8 /* of the segments of a process that loses packets, one */

#define START_NS UINT64_C(1000000000) /* the machines take time 0 for "never" */

struct plan {
    struct smoe_list link;
    struct smoe_sim_event event;
    struct smoe_world *world;
    enum smoe_sim_act act;
    uint32_t process;
};

/* ---- beginning and end ---- */

struct smoe_world *smoe_world_new(const struct smoe_world_options *options)
{
    struct smoe_world *w = smoe_sim_alloc(1, sizeof *w);
    w->options = *options;
    w->start_ns = START_NS;
    smoe_sim_clock_init(&w->clock, START_NS);
    w->net = smoe_simnet_new(&w->clock, smoe_mix64(options->seed));
    smoe_sim_trace_init(&w->trace, &w->clock, options->keep_trace);
    smoe_list_init(&w->plans);
    return w;
}

static void forget_plan(struct plan *plan)
{
    smoe_sim_cancel(&plan->world->clock, &plan->event);
    smoe_list_remove(&plan->link);
    free(plan);
}

void smoe_world_free(struct smoe_world *w)
{
    if (!w)
        return;
    for (uint32_t i = 0; i < w->n_processes; i++) {
        struct smoe_sim_process *p = w->processes[i];
        if (p->up)
            p->ops->kill(p);
        p->ops->free(p);
        free(p);
    }
    smoe_list_for_each_safe (it, &w->plans)
        forget_plan(smoe_container_of(it, struct plan, link));
    smoe_simnet_free(w->net);
    smoe_sim_trace_release(&w->trace);
    smoe_sim_clock_release(&w->clock);
    free(w->processes);
    free(w);
}

struct smoe_sim_process *smoe_world_add(struct smoe_world *w, size_t bytes,
                                        const struct smoe_sim_kind_ops *ops,
                                        enum smoe_sim_kind kind, const char *name,
                                        const struct smoe_sim_profile *path)
{
    struct smoe_sim_process *p = smoe_sim_alloc(1, bytes);
    p->world = w;
    p->ops = ops;
    p->kind = kind;
    p->number = smoe_simnet_add(w->net, path);
    p->gateway = p->number;
    snprintf(p->name, sizeof p->name, "%s", name);
    smoe_rng_init(&p->rng, w->options.seed, 1 + p->number);
    smoe_assert(p->number == w->n_processes);
    w->processes = smoe_sim_grow(w->processes, w->n_processes, w->n_processes + 1,
                                 sizeof(struct smoe_sim_process *));
    w->processes[w->n_processes++] = p;
    return p;
}

void smoe_sim_default_path(struct smoe_sim_profile *path, uint64_t latency_ns)
{
    if (path->buffer_bytes)
        return; /* the path was given */
    *path = (struct smoe_sim_profile){.latency_ns = latency_ns, .buffer_bytes = 256 << 10};
}

/* ---- processes and their events ---- */

void smoe_world_touch(struct smoe_sim_process *p)
{
    smoe_assert(p->up);
    p->world->touched = p;
}

bool smoe_world_due(struct smoe_sim_process *p, struct smoe_sim_event *event)
{
    smoe_world_touch(p);
    if (!p->paused)
        return true;
    smoe_assert(p->n_missed < sizeof p->missed / sizeof *p->missed);
    p->missed[p->n_missed++] = event;
    return false;
}

static void unmiss(struct smoe_sim_process *p, const struct smoe_sim_event *event)
{
    for (uint32_t i = 0; i < p->n_missed; i++)
        if (p->missed[i] == event)
            p->missed[i--] = p->missed[--p->n_missed];
}

void smoe_process_set(struct smoe_sim_process *p, struct smoe_sim_event *event, uint64_t at_ns)
{
    unmiss(p, event);
    smoe_sim_set(&p->world->clock, event, at_ns);
}

void smoe_process_cancel(struct smoe_sim_process *p, struct smoe_sim_event *event)
{
    unmiss(p, event);
    smoe_sim_cancel(&p->world->clock, event);
}

uint64_t smoe_process_identity(struct smoe_sim_process *p)
{
    return smoe_rng_u64(&p->rng) | 1;
}

void smoe_world_ended(struct smoe_sim_process *p)
{
    smoe_sim_trace_say(&p->world->trace, "%s has ended", p->name);
    p->up = false;
    p->n_missed = 0;
    smoe_simnet_read(p->world->net, p->number, true); /* the next process of it is not deaf */
    if (p->world->touched == p)
        p->world->touched = NULL;
}

/* ---- acts ---- */

const char *smoe_sim_act_name(enum smoe_sim_act act)
{
    static const char *const names[SMOE_SIM_ACTS] = {
        [SMOE_SIM_START] = "starts",
        [SMOE_SIM_STOP] = "is asked to stop",
        [SMOE_SIM_CRASH] = "crashes",
        [SMOE_SIM_VANISH] = "loses power",
        [SMOE_SIM_PAUSE] = "is paused",
        [SMOE_SIM_RESUME] = "goes on",
        [SMOE_SIM_DEAF] = "stops reading",
        [SMOE_SIM_HEARING] = "reads again",
        [SMOE_SIM_RESET] = "has its connections reset",
        [SMOE_SIM_CUT] = "is cut off",
        [SMOE_SIM_CUT_TO] = "is not heard any more",
        [SMOE_SIM_CUT_FROM] = "hears nothing any more",
        [SMOE_SIM_HEAL] = "is reachable again",
        [SMOE_SIM_DRAIN] = "is drained",
        [SMOE_SIM_UNDRAIN] = "may work again",
        [SMOE_SIM_LOSSY] = "loses packets",
        [SMOE_SIM_LOSSLESS] = "loses no packets any more",
        [SMOE_SIM_DISK_FAILS] = "cannot write its disk",
        [SMOE_SIM_DISK_WORKS] = "can write its disk again",
        [SMOE_SIM_SLOW] = "is slowed down",
        [SMOE_SIM_QUICK] = "is as fast as before",
        [SMOE_SIM_LIE] = "lies",
        [SMOE_SIM_HONEST] = "lies no more",
    };
    return names[act];
}

const char *smoe_sim_act_word(enum smoe_sim_act act)
{
    static const char *const words[SMOE_SIM_ACTS] = {
        [SMOE_SIM_START] = "start",
        [SMOE_SIM_STOP] = "stop",
        [SMOE_SIM_CRASH] = "crash",
        [SMOE_SIM_VANISH] = "power_loss",
        [SMOE_SIM_PAUSE] = "pause",
        [SMOE_SIM_RESUME] = "resume",
        [SMOE_SIM_DEAF] = "deaf",
        [SMOE_SIM_HEARING] = "hearing",
        [SMOE_SIM_RESET] = "reset",
        [SMOE_SIM_CUT] = "cut",
        [SMOE_SIM_CUT_TO] = "cut_to_gateway",
        [SMOE_SIM_CUT_FROM] = "cut_from_gateway",
        [SMOE_SIM_HEAL] = "heal",
        [SMOE_SIM_DRAIN] = "drain",
        [SMOE_SIM_UNDRAIN] = "undrain",
        [SMOE_SIM_LOSSY] = "packet_lost",
        [SMOE_SIM_LOSSLESS] = "lossless",
        [SMOE_SIM_DISK_FAILS] = "write_failed",
        [SMOE_SIM_DISK_WORKS] = "disk_works",
        [SMOE_SIM_SLOW] = "slow",
        [SMOE_SIM_QUICK] = "quick",
        [SMOE_SIM_LIE] = "result_spoilt",
        [SMOE_SIM_HONEST] = "honest",
    };
    return words[act];
}

uint64_t smoe_world_acts(const struct smoe_world *w, enum smoe_sim_act act)
{
    return act == SMOE_SIM_LOSSY ? smoe_simnet_lost(w->net) : w->acts[act];
}

static void start(struct smoe_sim_process *p)
{
    p->up = true;
    p->paused = false;
    p->starts++;
    smoe_world_touch(p);
    p->ops->start(p);
}

static void crash(struct smoe_sim_process *p, bool silently)
{
    smoe_simnet_freeze(p->world->net, p->number, false);
    smoe_simnet_crash(p->world->net, p->number, silently);
    smoe_simnet_read(p->world->net, p->number, true);
    p->ops->kill(p);
    p->up = p->paused = false;
    p->n_missed = 0;
    p->world->touched = NULL;
}

static void pause(struct smoe_sim_process *p, bool paused)
{
    if (p->paused == paused)
        return;
    p->paused = paused;
    smoe_simnet_freeze(p->world->net, p->number, paused);
    while (!paused && p->n_missed)
        smoe_sim_set(&p->world->clock, p->missed[--p->n_missed], p->world->clock.now_ns);
}

static void act_on_paths(struct smoe_sim_process *p, enum smoe_sim_act act)
{
    struct smoe_simnet *net = p->world->net;
    uint32_t me = p->number, gateway = p->gateway;
    for (uint32_t i = 0; i < p->world->n_processes; i++) {
        uint32_t other = p->kind == SMOE_SIM_GATEWAY ? i : gateway;
        if (other == me)
            continue;
        if (act == SMOE_SIM_RESET)
            smoe_simnet_reset(net, me, other);
        if (act != SMOE_SIM_RESET && act != SMOE_SIM_CUT_FROM)
            smoe_simnet_cut(net, me, other, act != SMOE_SIM_HEAL);
        if (act != SMOE_SIM_RESET && act != SMOE_SIM_CUT_TO)
            smoe_simnet_cut(net, other, me, act != SMOE_SIM_HEAL);
        if (p->kind != SMOE_SIM_GATEWAY)
            return;
    }
}

static void act_while_up(struct smoe_sim_process *p, enum smoe_sim_act act)
{
    struct smoe_sim_process *gateway = p->world->processes[p->gateway];
    switch (act) {
    case SMOE_SIM_STOP:
        if (!p->paused)
            p->ops->stop(p);
        break;
    case SMOE_SIM_CRASH:
    case SMOE_SIM_VANISH:
        crash(p, act == SMOE_SIM_VANISH);
        break;
    case SMOE_SIM_PAUSE:
    case SMOE_SIM_RESUME:
        pause(p, act == SMOE_SIM_PAUSE);
        break;
    case SMOE_SIM_DEAF:
    case SMOE_SIM_HEARING:
        smoe_simnet_read(p->world->net, p->number, act == SMOE_SIM_HEARING);
        break;
    case SMOE_SIM_DRAIN:
    case SMOE_SIM_UNDRAIN:
        if (gateway->up && !gateway->paused)
            smoe_sim_gateway_drain(gateway, p->name, act == SMOE_SIM_DRAIN);
        break;
    case SMOE_SIM_DISK_FAILS:
    case SMOE_SIM_DISK_WORKS:
        smoe_sim_gateway_break_disk(p, act == SMOE_SIM_DISK_FAILS);
        break;
    case SMOE_SIM_SLOW:
    case SMOE_SIM_QUICK:
        if (p->kind == SMOE_SIM_WORKER)
            smoe_world_slow_worker(p->world, p->number, act == SMOE_SIM_SLOW ? 4 : 1);
        break;
    case SMOE_SIM_LIE:
    case SMOE_SIM_HONEST:
        smoe_sim_worker_lie(p, act == SMOE_SIM_LIE);
        break;
    case SMOE_SIM_LOSSY:
    case SMOE_SIM_LOSSLESS:
        smoe_simnet_lose(p->world->net, p->number, act == SMOE_SIM_LOSSY ? LOST_IN : 0);
        break;
    case SMOE_SIM_START:
    case SMOE_SIM_RESET:
    case SMOE_SIM_CUT:
    case SMOE_SIM_CUT_TO:
    case SMOE_SIM_CUT_FROM:
    case SMOE_SIM_HEAL:
    case SMOE_SIM_ACTS:
        break;
    }
}

void smoe_world_act(struct smoe_world *w, enum smoe_sim_act act, uint32_t process)
{
    struct smoe_sim_process *p = w->processes[process];
    bool of_path = act >= SMOE_SIM_RESET && act <= SMOE_SIM_HEAL;
    if (!of_path && p->up == (act == SMOE_SIM_START))
        return;
    smoe_sim_trace_say(&w->trace, "%s %s", p->name, smoe_sim_act_name(act));
    w->acts[act] +=
        act != SMOE_SIM_DISK_FAILS && act != SMOE_SIM_LIE; /* they count what comes of them */
    if (of_path)
        act_on_paths(p, act);
    else if (act == SMOE_SIM_START)
        start(p);
    else
        act_while_up(p, act);
}

static void on_plan(struct smoe_sim_event *event)
{
    struct plan *plan = smoe_container_of(event, struct plan, event);
    struct smoe_world *w = plan->world;
    enum smoe_sim_act act = plan->act;
    uint32_t process = plan->process;
    forget_plan(plan);
    smoe_world_act(w, act, process);
}

void smoe_world_plan(struct smoe_world *w, uint64_t at_ns, enum smoe_sim_act act, uint32_t process)
{
    struct plan *plan = smoe_sim_alloc(1, sizeof *plan);
    *plan = (struct plan){.event = {.fire = on_plan}, .world = w, .act = act, .process = process};
    smoe_list_push_back(&w->plans, &plan->link);
    smoe_sim_set(&w->clock, &plan->event, w->start_ns + at_ns);
}

void smoe_world_redirect(struct smoe_world *w, uint32_t process, uint32_t gateway)
{
    smoe_world_act(w, SMOE_SIM_RESET, process);
    w->processes[process]->gateway = gateway;
}

void smoe_world_configure(struct smoe_world *w, uint32_t gateway,
                          const struct smoe_core_settings *settings)
{
    if (w->processes[gateway]->up)
        smoe_sim_gateway_configure(w->processes[gateway], settings);
}

/* ---- time ---- */

uint64_t smoe_world_now(const struct smoe_world *w)
{
    return w->clock.now_ns - w->start_ns;
}

bool smoe_world_step(struct smoe_world *w)
{
    w->touched = NULL;
    if (w->verdict || !smoe_sim_fire(&w->clock))
        return false;
    if (w->touched && w->touched->up &&
        (!w->options.check_every || w->clock.fired % w->options.check_every == 0))
        w->touched->ops->check(w->touched);
    return w->verdict == 0;
}

static void check_all(const struct smoe_world *w)
{
    for (uint32_t i = 0; i < w->n_processes; i++)
        if (w->processes[i]->up)
            w->processes[i]->ops->check(w->processes[i]);
}

bool smoe_world_run(struct smoe_world *w, uint64_t until_ns)
{
    uint64_t until = w->start_ns + until_ns;
    while (smoe_sim_next_ns(&w->clock) <= until)
        if (!smoe_world_step(w))
            break;
    if (!w->verdict && w->clock.now_ns < until)
        w->clock.now_ns = until;
    check_all(w);
    return w->verdict == 0;
}

static const struct smoe_sim_process *busy_trainer(const struct smoe_world *w)
{
    for (uint32_t i = 0; i < w->n_processes; i++)
        if (w->processes[i]->kind == SMOE_SIM_TRAINER && !smoe_sim_trainer_over(w->processes[i]))
            return w->processes[i];
    return NULL;
}

static const char *waits_for(const struct smoe_sim_process *trainer)
{
    const struct smoe_sim_process *g = trainer->world->processes[trainer->gateway];
    if (!g->up)
        return "the gateway";
    const struct smoe_core *core = smoe_gateway_core(smoe_sim_gateway_machine(g));
    for (uint32_t t = 0; t < smoe_core_n_trainers(core); t++) {
        struct smoe_trainer_view view = smoe_core_trainer(core, t);
        if (view.live && strcmp(view.name, trainer->name) == 0)
            return *view.waits_for ? view.waits_for : "nothing that the gateway knows of";
    }
    return "the gateway to know it";
}

bool smoe_world_run_trainers(struct smoe_world *w, uint64_t until_ns)
{
    const struct smoe_sim_process *busy;
    while ((busy = busy_trainer(w)) && smoe_sim_next_ns(&w->clock) <= w->start_ns + until_ns)
        if (!smoe_world_step(w))
            break;
    check_all(w);
    if (busy && !w->verdict)
        smoe_world_fail(w, SMOE_ETIMEOUT, "%s is not done after %llu ms: waits for %s", busy->name,
                        (unsigned long long)(until_ns / SMOE_SIM_MS), waits_for(busy));
    return w->verdict == 0;
}

/* ---- what came of it ---- */

void smoe_world_fail(struct smoe_world *w, int code, const char *format, ...)
{
    va_list args;
    if (w->verdict)
        return;
    w->verdict = code;
    va_start(args, format);
    vsnprintf(w->why.text, sizeof w->why.text, format, args);
    va_end(args);
    smoe_sim_trace_say(&w->trace, "FAILED: %s", w->why.text);
}

int smoe_world_verdict(const struct smoe_world *w, struct smoe_why *ret_why)
{
    *ret_why = w->why;
    return w->verdict;
}

const struct smoe_sim_trace *smoe_world_trace(const struct smoe_world *w)
{
    return &w->trace;
}

uint64_t smoe_world_events(const struct smoe_world *w)
{
    return w->clock.fired;
}

uint32_t smoe_world_processes(const struct smoe_world *w)
{
    return w->n_processes;
}

const char *smoe_world_name(const struct smoe_world *w, uint32_t process)
{
    return w->processes[process]->name;
}

struct smoe_gateway *smoe_world_gateway(const struct smoe_world *w, uint32_t process)
{
    return smoe_sim_gateway_machine(w->processes[process]);
}

struct smoe_agent *smoe_world_agent(const struct smoe_world *w, uint32_t process)
{
    return smoe_sim_worker_machine(w->processes[process]);
}

struct smoe_uplink *smoe_world_uplink(const struct smoe_world *w, uint32_t process)
{
    return smoe_sim_trainer_machine(w->processes[process]);
}

struct smoe_sim_trainer_view smoe_world_trainer(const struct smoe_world *w, uint32_t process)
{
    return smoe_sim_trainer_see(w->processes[process]);
}
