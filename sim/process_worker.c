/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker as a process: stands in for client/worker/shell's loop.c, lanes.c and the duty-cycle
 * driver. Everything that happens ends in `settle`: obey the frequency, feed idle lanes, send, set the
 * clock. A lane runs its task slice by slice, each at the end of the virtual time it takes:
 *
 *     CPU time  = flops * cycles_per_flop / nominal frequency
 *     wall time = CPU time * nominal frequency / frequency in force  * (1 + jitter * U)
 *
 * A duty cycle changes with the next slice, as in lanes.c; where the voltage follows, the slice under way
 * goes on at the new frequency.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/assert.h"
#include "sim/link.h"
#include "sim/peers.h"

#define LANES_MAX    16
#define LOWEST       0.01 /* frequency of the driver, of the nominal one (freqctl.c) */
#define PAUSE_MIN_MS 50
#define PAUSE_MAX_MS 2000

struct worker_process;

struct lane {
    struct worker_process *worker;
    struct smoe_task *task; /* NULL: idle */
    uint64_t cpu_ns;        /* of the present task, by its slices so far and the one under way */
    double cycles_left;     /* of the slice, at since_ns */
    uint64_t since_ns;
    struct smoe_sim_event due;
    smoe_real *scratch; /* owned; [scratch_elements] */
    size_t scratch_elements;
};

struct worker_process {
    struct smoe_sim_process process;
    struct smoe_sim_worker_options options;
    struct smoe_agent *agent;
    struct smoe_sim_link link;
    struct smoe_sim_peers peers;
    struct lane lanes[LANES_MAX];
    struct smoe_sim_event clock;
    double slowness; /* cycles_per_flop times this */
    bool lies;
    uint64_t freq_obeyed_khz;
    double freq_hz; /* in force */
    bool stopping;
};

static struct worker_process *self_of(const struct smoe_sim_process *p)
{
    uintptr_t address = (uintptr_t)p;
    return (struct worker_process *)address; /* the first member */
}

static uint64_t now_of(const struct worker_process *w)
{
    return w->process.world->clock.now_ns;
}

/* ---- lanes ---- */

/* What the task's next slice costs; its first one, if of visits, what every parcel does. [cycle] */
static double slice_cycles(const struct lane *lane)
{
    const struct smoe_sim_worker_options *o = &lane->worker->options;
    const struct smoe_task *t = lane->task;
    double flops = (double)smoe_sim_slice_flops(t);
    if (t->kind == SMOE_TASK_MAKE)
        flops *= o->making;
    if (t->kind <= SMOE_TASK_BACKWARD && t->rows_done == 0)
        flops += o->parcel_rows * (double)smoe_task_forward_flops(&t->shape) *
                 (t->kind == SMOE_TASK_FORWARD ? 1 : 2);
    return flops * o->cycles_per_flop * lane->worker->slowness;
}

static void begin_slice(struct lane *lane)
{
    struct worker_process *w = lane->worker;
    const struct smoe_sim_worker_options *o = &w->options;
    double cycles = slice_cycles(lane);
    double cpu_ns = cycles * 1e9 / o->nominal_hz;
    double wall_ns = cycles * 1e9 / w->freq_hz;
    if (o->jitter > 0)
        wall_ns *= 1 + o->jitter * smoe_rng_unit(&w->process.rng);
    lane->cpu_ns += (uint64_t)cpu_ns;
    lane->cycles_left = cycles;
    lane->since_ns = now_of(w);
    smoe_process_set(&w->process, &lane->due, now_of(w) + 1 + (uint64_t)wall_ns);
}

/* Slices under way go on at another frequency. */
static void change_pace(struct worker_process *w, double hz)
{
    for (uint32_t i = 0; i < w->options.lanes; i++) {
        struct lane *lane = &w->lanes[i];
        double done = (double)(now_of(w) - lane->since_ns) * 1e-9 * w->freq_hz;
        if (!lane->task)
            continue;
        lane->cycles_left = done < lane->cycles_left ? lane->cycles_left - done : 0;
        lane->since_ns = now_of(w);
        smoe_process_set(&w->process, &lane->due,
                         now_of(w) + 1 + (uint64_t)(lane->cycles_left * 1e9 / hz));
    }
}

/* Where making takes no time it is done by now. */
static void make_at_once(struct worker_process *w)
{
    struct smoe_task *task;
    while (w->options.making <= 0 && smoe_agent_experts(w->agent)->n_to_make &&
           (task = smoe_agent_next_task(w->agent, NULL)) != NULL) {
        smoe_assert(task->kind == SMOE_TASK_MAKE);
        while (!smoe_task_slice(task))
            ;
        smoe_agent_task_done(w->agent, task, 0, now_of(w));
    }
}

static void feed_lanes(struct worker_process *w)
{
    make_at_once(w);
    size_t need = smoe_agent_scratch_elements(w->agent);
    for (uint32_t i = 0; i < w->options.lanes; i++) {
        struct lane *lane = &w->lanes[i];
        if (lane->task)
            continue;
        if (lane->scratch_elements < need) {
            free(lane->scratch);
            lane->scratch = smoe_sim_alloc(need, sizeof *lane->scratch);
            lane->scratch_elements = need;
        }
        lane->task = smoe_agent_next_task(w->agent, lane->scratch);
        if (!lane->task)
            return;
        lane->cpu_ns = 0;
        begin_slice(lane);
    }
}

/* ---- the loop ---- */

static void obey_frequency(struct worker_process *w)
{
    uint64_t wanted = smoe_agent_freq_wanted_khz(w->agent);
    double max_hz = w->options.nominal_hz * w->options.speed;
    double min_hz =
        w->options.nominal_hz * LOWEST < max_hz ? w->options.nominal_hz * LOWEST : max_hz;
    double hz = (double)wanted * 1000;
    if (!wanted || wanted == w->freq_obeyed_khz)
        return;
    w->freq_obeyed_khz = wanted;
    hz = hz > max_hz ? max_hz : hz < min_hz ? min_hz : hz;
    if (w->options.voltage_follows)
        change_pace(w, hz);
    w->freq_hz = hz;
    smoe_agent_set_freq(w->agent, (uint64_t)(w->freq_hz / 1000), max_hz);
}

static void settle(struct worker_process *w)
{
    if (w->stopping)
        return;
    obey_frequency(w);
    feed_lanes(w);
    if (smoe_agent_speechless(w->agent))
        smoe_sim_link_break(&w->link);
    else
        smoe_sim_link_flush(&w->link);
    smoe_sim_peers_settle(&w->peers);
    smoe_process_set(&w->process, &w->clock, smoe_agent_wake_ns(w->agent));
}

static void on_slice_over(struct smoe_sim_event *event)
{
    struct lane *lane = smoe_container_of(event, struct lane, due);
    struct worker_process *w = lane->worker;
    if (!smoe_world_due(&w->process, event))
        return;
    if (!smoe_sim_slice(w->process.world->options.arithmetic, lane->task)) {
        begin_slice(lane);
        return;
    }
    struct smoe_task *task = lane->task;
    lane->task = NULL;
    if (w->lies && task->kind <= SMOE_TASK_BACKWARD) {
        task->out[0] = (smoe_real)NAN;
        w->process.world->acts[SMOE_SIM_LIE]++;
    }
    smoe_agent_task_done(w->agent, task, lane->cpu_ns, now_of(w));
    settle(w);
}

static void on_clock(struct smoe_sim_event *event)
{
    struct worker_process *w = smoe_container_of(event, struct worker_process, clock);
    if (!smoe_world_due(&w->process, event))
        return;
    smoe_agent_tick(w->agent, now_of(w));
    settle(w);
}

/* ---- the link's machine ---- */

static uint8_t *agent_direct(void *context, size_t *ret_room)
{
    return smoe_agent_direct(((struct worker_process *)context)->agent, ret_room);
}

static int agent_received(void *context, const uint8_t *data, size_t n, struct smoe_why *why)
{
    struct worker_process *w = context;
    return smoe_agent_received(w->agent, data, n, now_of(w), why);
}

static size_t agent_peek(void *context, struct iovec *iovecs, size_t max)
{
    return smoe_agent_peek(((struct worker_process *)context)->agent, iovecs, max);
}

static void agent_consume(void *context, size_t bytes)
{
    smoe_agent_consume(((struct worker_process *)context)->agent, bytes);
}

static void agent_connected(void *context)
{
    struct worker_process *w = context;
    smoe_agent_connected(w->agent, now_of(w));
}

static void agent_disconnected(void *context)
{
    smoe_agent_disconnected(((struct worker_process *)context)->agent);
}

static bool agent_welcomed(void *context)
{
    return smoe_agent_welcomed(((struct worker_process *)context)->agent);
}

static bool agent_gives_up(void *context)
{
    (void)context;
    return false; /* a worker never does */
}

static void agent_changed(void *context)
{
    settle(context);
}

static void agent_closed(void *context);

static const struct smoe_sim_link_machine link_machine = {
    agent_direct,       agent_received, agent_peek,     agent_consume, agent_connected,
    agent_disconnected, agent_welcomed, agent_gives_up, agent_changed, agent_closed};

/* ---- beginning and end ---- */

static void worker_start(struct smoe_sim_process *p)
{
    struct worker_process *w = self_of(p);
    const struct smoe_sim_worker_options *o = &w->options;
    struct smoe_why why = {""};
    struct smoe_agent_options a = {
        .incarnation = smoe_process_identity(p),
        .software = "stablemoe-sim",
        .lanes = o->lanes,
        .freq_nominal_hz = o->nominal_hz,
        .freq_max_hz = o->nominal_hz * o->speed,
        .busy_watts = o->busy_watts,
        .model_noise = o->meter_noise,
        .budget_watts = o->budget_watts,
        .cap_watts = o->cap_watts,
        .voltage_follows = o->voltage_follows,
        .freq_driver = "duty",
        .experts_bytes_max = o->memory_bytes / 2,
        .tensors_bytes_max = o->memory_bytes / 2,
        .inbox_bytes_max = o->inbox_bytes_max,
        .parcels_max = o->parcels_max,
        .expert_slots = o->expert_slots,
    };
    snprintf(a.id, sizeof a.id, "%s", p->name);
    if (o->voltage_follows)
        snprintf(a.freq_driver, sizeof a.freq_driver, "cpufreq");
    smoe_assert(smoe_agent_new(&a, &w->agent, &why) == 0);
    w->freq_hz = a.freq_max_hz;
    w->freq_obeyed_khz = 0;
    w->stopping = false;
    smoe_sim_peers_open(&w->peers, p, w->agent, agent_changed, w);
    smoe_sim_link_open(&w->link, p, &link_machine, w, PAUSE_MIN_MS, PAUSE_MAX_MS);
}

/* Running tasks end here, so that the agent may be freed; nobody will see their results. */
static void worker_kill(struct smoe_sim_process *p)
{
    struct worker_process *w = self_of(p);
    smoe_sim_link_forget(&w->link);
    smoe_process_cancel(p, &w->clock);
    smoe_agent_disconnected(w->agent);
    smoe_sim_peers_forget(&w->peers);
    for (uint32_t i = 0; i < w->options.lanes; i++) {
        struct lane *lane = &w->lanes[i];
        smoe_process_cancel(p, &lane->due);
        if (lane->task)
            smoe_agent_task_done(w->agent, lane->task, 0, now_of(w));
        lane->task = NULL;
        free(lane->scratch);
        lane->scratch = NULL;
        lane->scratch_elements = 0;
    }
    smoe_agent_free(w->agent);
    w->agent = NULL;
}

static void agent_closed(void *context)
{
    struct worker_process *w = context;
    smoe_simnet_crash(w->process.world->net, w->process.number, false); /* its links to others */
    worker_kill(&w->process);
    smoe_world_ended(&w->process);
}

static void worker_stop(struct smoe_sim_process *p)
{
    struct worker_process *w = self_of(p);
    if (w->stopping)
        return;
    w->stopping = true;
    smoe_agent_leave(w->agent, "the worker is shutting down");
    smoe_sim_link_close(&w->link);
}

static void worker_check(const struct smoe_sim_process *p)
{
    smoe_agent_check(self_of(p)->agent);
}

static void worker_free(struct smoe_sim_process *p)
{
    (void)p;
}

/* ---- adding one ---- */

static void fill_options(struct smoe_sim_worker_options *o)
{
    smoe_sim_default_path(&o->path, SMOE_SIM_MS);
    if (!(o->speed > 0))
        o->speed = 1;
    if (!(o->nominal_hz > 0))
        o->nominal_hz = 1e9;
    if (!(o->cycles_per_flop > 0))
        o->cycles_per_flop = 1;
    if (!o->lanes)
        o->lanes = 1;
    if (!o->memory_bytes)
        o->memory_bytes = 64 << 20;
    if (!o->inbox_bytes_max)
        o->inbox_bytes_max = o->memory_bytes / 16 > (1u << 20) ? o->memory_bytes / 16 : 1u << 20;
    if (!o->parcels_max)
        o->parcels_max = 4096;
}

uint32_t smoe_world_add_worker(struct smoe_world *world, const struct smoe_sim_worker_options *o)
{
    static const struct smoe_sim_kind_ops ops = {worker_start, worker_stop, worker_kill,
                                                 worker_check, worker_free};
    struct smoe_sim_worker_options options = *o;
    fill_options(&options);
    smoe_assert(options.lanes <= LANES_MAX);
    struct smoe_sim_process *p =
        smoe_world_add(world, sizeof(struct worker_process), &ops, SMOE_SIM_WORKER,
                       *o->name ? o->name : "worker", &options.path);
    struct worker_process *w = self_of(p);
    p->gateway = o->gateway;
    w->options = options;
    w->slowness = 1;
    w->clock.fire = on_clock;
    for (uint32_t i = 0; i < LANES_MAX; i++) {
        w->lanes[i].worker = w;
        w->lanes[i].due.fire = on_slice_over;
    }
    return p->number;
}

void smoe_world_slow_worker(struct smoe_world *world, uint32_t number, double times)
{
    struct worker_process *w = self_of(world->processes[number]);
    smoe_assert(w->process.kind == SMOE_SIM_WORKER && times > 0);
    w->slowness = times;
}

void smoe_sim_worker_lie(struct smoe_sim_process *p, bool lies)
{
    if (p->kind == SMOE_SIM_WORKER)
        self_of(p)->lies = lies;
}

struct smoe_agent *smoe_sim_worker_machine(const struct smoe_sim_process *p)
{
    return p->kind == SMOE_SIM_WORKER && p->up ? self_of(p)->agent : NULL;
}
