/* SPDX-License-Identifier: Apache-2.0
 *
 * Hand-over: lane->task is set by the loop under the mutex and taken back by it after the lane set
 * lane->done; uv_async wakes the loop. The agent's memory that a task points to is untouched by the
 * loop in between (agent.h).
 *
 * Little work is not worth the hand-over (two wake-ups of tens of microseconds each): if no lane is busy,
 * no rest is due and all that waits is below HERE_FLOPS, the loop computes it itself.
 *
 * Rest: after a slice that took `cpu` of CPU time, the lane owes cpu / duty of wall time in all. What
 * it has not yet spent it sleeps, before the result is given back: a machine of a quarter of the
 * speed would not have it sooner. Oversleeping is credited to the next slice, at most CREDIT_NS, and
 * idle time is not: a lane that waited for work has saved up nothing.
 */
#include "client/worker/shell/lanes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/io/clock.h"

#define HERE_FLOPS  UINT64_C(10000000) /* work that is done by the loop itself: some 200 us of it */
#define CREDIT_NS   2000000
#define WORTH_IT_NS 20000 /* a shorter sleep costs more than it rests */
#define NAP_NS      20000000

struct lane {
    struct smoe_lanes *lanes;
    pthread_t thread;
    pthread_cond_t wake;
    struct smoe_task *task; /* NULL: idle. Guarded by the mutex, as is `done` */
    bool done;
    uint64_t cpu_ns;
    smoe_real *scratch; /* owned; grown by the loop while the lane is idle */
    size_t scratch_elements;
    int64_t owed_ns; /* wall time to rest; the lane's own */
};

struct smoe_lanes {
    pthread_mutex_t mutex;
    struct lane *lanes; /* [n] */
    uint32_t n, n_started;
    _Atomic bool stopping; /* set under the mutex, for the sleepers; also read between slices */
    _Atomic double duty;
    uv_async_t finished;
    struct smoe_agent *agent; /* borrowed */
    void (*changed)(void *context);
    void *context;
    smoe_real *scratch; /* of the loop's own work */
    size_t scratch_elements;
    void (*closed)(void *context);
    void *closed_context;
};

/* ---- the lane's thread ---- */

static void sleep_ns(int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    while (nanosleep(&t, &t))
        ;
}

/* A rest may be long (a hundred times a slice), and nobody who stops shall wait for it. */
static void sleep_while_wanted(const struct smoe_lanes *l, int64_t ns)
{
    uint64_t now = smoe_clock_monotonic_ns(), end = now + (uint64_t)ns;
    for (; now < end && !l->stopping; now = smoe_clock_monotonic_ns())
        sleep_ns(end - now < NAP_NS ? (int64_t)(end - now) : NAP_NS);
}

static void rest(struct lane *lane, uint64_t cpu_ns, uint64_t wall_ns)
{
    double duty = atomic_load_explicit(&lane->lanes->duty, memory_order_relaxed);
    lane->owed_ns += (int64_t)((double)cpu_ns / duty) - (int64_t)wall_ns;
    if (duty < 1 && lane->owed_ns > WORTH_IT_NS) {
        uint64_t before = smoe_clock_monotonic_ns();
        sleep_while_wanted(lane->lanes, lane->owed_ns);
        lane->owed_ns -= (int64_t)(smoe_clock_monotonic_ns() - before);
    }
    if (lane->owed_ns < -CREDIT_NS)
        lane->owed_ns = -CREDIT_NS;
    if (duty >= 1)
        lane->owed_ns = 0;
}

static void run_task(struct lane *lane, struct smoe_task *task)
{
    uint64_t cpu = smoe_clock_thread_cpu_ns();
    uint64_t wall = smoe_clock_monotonic_ns();
    lane->cpu_ns = 0;
    if (lane->owed_ns < 0)
        lane->owed_ns = 0;
    for (bool over = false; !over && !lane->lanes->stopping;) {
        over = smoe_task_slice(task);
        uint64_t cpu_now = smoe_clock_thread_cpu_ns();
        uint64_t wall_now = smoe_clock_monotonic_ns();
        lane->cpu_ns += cpu_now - cpu;
        rest(lane, cpu_now - cpu, wall_now - wall);
        cpu = smoe_clock_thread_cpu_ns();
        wall = smoe_clock_monotonic_ns();
    }
}

static void *lane_main(void *argument)
{
    struct lane *lane = argument;
    struct smoe_lanes *l = lane->lanes;
    (void)prctl(PR_SET_TIMERSLACK, 1UL); /* rests are counted in microseconds */
    pthread_mutex_lock(&l->mutex);
    while (!l->stopping) {
        struct smoe_task *task = lane->done ? NULL : lane->task;
        if (!task) {
            pthread_cond_wait(&lane->wake, &l->mutex);
            continue;
        }
        pthread_mutex_unlock(&l->mutex);
        run_task(lane, task);
        pthread_mutex_lock(&l->mutex);
        lane->done = true;
        uv_async_send(&l->finished);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

/* ---- the loop's thread ---- */

static void on_finished(uv_async_t *async)
{
    struct smoe_lanes *l = async->data;
    for (uint32_t i = 0; i < l->n; i++) {
        struct lane *lane = &l->lanes[i];
        pthread_mutex_lock(&l->mutex);
        struct smoe_task *task = lane->done ? lane->task : NULL;
        uint64_t cpu_ns = 0;
        if (task) { /* else cpu_ns is the lane's, which computes */
            cpu_ns = lane->cpu_ns;
            lane->task = NULL;
            lane->done = false;
        }
        pthread_mutex_unlock(&l->mutex);
        if (task)
            smoe_agent_task_done(l->agent, task, cpu_ns, smoe_clock_monotonic_ns());
    }
    l->changed(l->context);
}

static bool grow_scratch(smoe_real **scratch, size_t *have, size_t elements)
{
    if (*scratch && elements <= *have)
        return true;
    smoe_real *grown = aligned_alloc(64, (elements * sizeof *grown + 63) / 64 * 64);
    if (!grown)
        return false;
    free(*scratch);
    *scratch = grown;
    *have = elements;
    return true;
}

static bool all_idle(const struct smoe_lanes *l)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->lanes[i].task)
            return false;
    return true;
}

/* Runs everything that waits, in this thread. */
static void compute_here(struct smoe_lanes *l)
{
    struct smoe_task *task;
    if (!grow_scratch(&l->scratch, &l->scratch_elements, smoe_agent_scratch_elements(l->agent) + 1))
        return;
    while ((task = smoe_agent_next_task(l->agent, l->scratch))) {
        uint64_t began = smoe_clock_thread_cpu_ns();
        while (!smoe_task_slice(task))
            ;
        uint64_t cpu_ns = smoe_clock_thread_cpu_ns() - began;
        smoe_agent_task_done(l->agent, task, cpu_ns, smoe_clock_monotonic_ns());
    }
}

void smoe_lanes_feed(struct smoe_lanes *l)
{
    uint64_t flops = smoe_agent_waiting_flops(l->agent);
    bool full_speed = atomic_load_explicit(&l->duty, memory_order_relaxed) >= 1;
    if (!flops)
        return;
    if (flops <= HERE_FLOPS && full_speed && all_idle(l))
        compute_here(l);
    for (uint32_t i = 0; i < l->n; i++) {
        struct lane *lane = &l->lanes[i];
        if (lane->task || !grow_scratch(&lane->scratch, &lane->scratch_elements,
                                        smoe_agent_scratch_elements(l->agent) + 1))
            continue;
        struct smoe_task *task = smoe_agent_next_task(l->agent, lane->scratch);
        if (!task)
            return;
        pthread_mutex_lock(&l->mutex);
        lane->task = task;
        pthread_cond_signal(&lane->wake);
        pthread_mutex_unlock(&l->mutex);
    }
}

void smoe_lanes_set_duty(struct smoe_lanes *l, double duty)
{
    atomic_store_explicit(&l->duty, duty, memory_order_relaxed);
}

bool smoe_lanes_busy(const struct smoe_lanes *l)
{
    return !all_idle(l);
}

/* ---- beginning and end ---- */

static int start_threads(struct smoe_lanes *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        struct lane *lane = &l->lanes[i];
        lane->lanes = l;
        pthread_cond_init(&lane->wake, NULL);
        int rc = pthread_create(&lane->thread, NULL, lane_main, lane);
        if (rc)
            return -rc;
        l->n_started++;
    }
    return 0;
}

static void stop_threads(struct smoe_lanes *l)
{
    pthread_mutex_lock(&l->mutex);
    l->stopping = true;
    for (uint32_t i = 0; i < l->n_started; i++)
        pthread_cond_signal(&l->lanes[i].wake);
    pthread_mutex_unlock(&l->mutex);
    for (uint32_t i = 0; i < l->n_started; i++)
        pthread_join(l->lanes[i].thread, NULL);
}

static void on_async_closed(uv_handle_t *handle)
{
    struct smoe_lanes *l = handle->data;
    void (*closed)(void *) = l->closed;
    void *context = l->closed_context;
    for (uint32_t i = 0; i < l->n; i++) {
        pthread_cond_destroy(&l->lanes[i].wake);
        free(l->lanes[i].scratch);
    }
    pthread_mutex_destroy(&l->mutex);
    free(l->scratch);
    free(l->lanes);
    free(l);
    if (closed)
        closed(context);
}

int smoe_lanes_start(uv_loop_t *loop, uint32_t n, struct smoe_agent *agent,
                     void (*changed)(void *context), void *context, struct smoe_lanes **ret)
{
    struct smoe_lanes *l = calloc(1, sizeof *l);
    struct lane *lanes = calloc(n, sizeof *lanes);
    if (!l || !lanes) {
        free(l);
        free(lanes);
        return UV_ENOMEM;
    }
    l->lanes = lanes;
    l->n = n;
    l->agent = agent;
    l->changed = changed;
    l->context = context;
    pthread_mutex_init(&l->mutex, NULL);
    smoe_lanes_set_duty(l, 1);
    uv_async_init(loop, &l->finished, on_finished);
    l->finished.data = l;
    int rc = start_threads(l);
    if (rc)
        smoe_lanes_close(l, NULL, NULL);
    else
        *ret = l;
    return rc;
}

void smoe_lanes_close(struct smoe_lanes *l, void (*closed)(void *context), void *context)
{
    stop_threads(l);
    l->closed = closed;
    l->closed_context = context;
    uv_close((uv_handle_t *)&l->finished, on_async_closed);
}
