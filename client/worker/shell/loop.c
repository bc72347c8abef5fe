/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything that happens (bytes came, a task is done, time passed) ends in `settle`: obey the
 * frequency the gateway wants, feed idle lanes, send what the agent has to say, set the clock.
 *
 * Twice a second it looks after the machine: the frequency limit is renewed and read back, energy and
 * temperature are read, and a worker that is too hot lowers its own ceiling. Without a gateway there is
 * no decision to obey, and the machine is as it was found.
 *
 * SIGTERM: say Bye, let it be written, stop the lanes after their slice, exit 0.
 */
#include "client/worker/shell/loop.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/shell/freqctl.h"
#include "client/worker/shell/lanes.h"
#include "client/worker/shell/link.h"
#include "client/worker/shell/meter.h"
#include "client/worker/shell/peers.h"
#include "client/worker/shell/routers.h"
#include "client/worker/shell/thermal.h"
#include "common/base/text.h"
#include "common/io/clock.h"
#include "common/io/evloop.h"
#include "common/io/file.h"
#include "common/io/log.h"
#include "common/io/notify.h"
#include "common/io/reticence.h"
#include "common/io/statedir.h"
#include "common/io/tls.h"
#include "common/kernels/gemm.h"
#include "stablemoe/version.h"

#define PROGRAM     "stablemoe-worker"
#define ID_FILE     "id"
#define DESCRIPTORS 1024 /* numbers that they will have at most */
#define MODEL_NOISE 0.03 /* of the model meter: a reading is no parameter */

struct worker {
    struct smoe_worker_settings settings;
    uv_loop_t loop;
    struct smoe_log log;
    struct smoe_notify notify;
    struct smoe_statedir state;
    struct smoe_agent *agent;
    struct smoe_tls_context *tls; /* NULL: without a key */
    struct smoe_link *link;
    struct smoe_worker_peers *peers;
    struct smoe_lanes *lanes;
    struct smoe_freqctl freqctl;
    struct smoe_meter meter;
    uint64_t freq_obeyed_khz; /* the last request to the driver; 0: none in particular */
    double thermal_share;     /* of the highest frequency, below 1 while it is too hot */
    enum smoe_freq_verdict verdict_said;
    double duty;
    struct smoe_router_watch routers;
    uv_timer_t clock, care;
    uv_signal_t terminate, interrupt;
    bool stopping;
};

/* ---- running ---- */

static void on_clock(uv_timer_t *timer);

/* Tells the agent how things stand, and the log when the machine begins to obey otherwise. */
static void tell_frequency(struct worker *w)
{
    const struct smoe_freqctl *c = &w->freqctl;
    char note[160];
    snprintf(note, sizeof note, "%.120s%srequests are %s", c->note, *c->note ? "; " : "",
             smoe_freq_verdicts[c->verdict]);
    smoe_agent_set_freq(w->agent, c->in_force_khz, c->max_hz * w->thermal_share);
    smoe_agent_set_cycles_hz(w->agent, smoe_freqctl_cycles_hz(c));
    smoe_agent_set_driver(w->agent, c->requested_khz, c->achieved_khz, note);
    if (c->verdict == w->verdict_said)
        return;
    w->verdict_said = c->verdict;
    smoe_log(&w->log, c->verdict == SMOE_FREQ_OBEYED ? SMOE_LOG_NOTICE : SMOE_LOG_WARNING,
             smoe_msg("frequency requests"), smoe_text_field("are", smoe_freq_verdicts[c->verdict]),
             smoe_text_field("freq_driver", c->driver->name),
             smoe_u64_field("requested_khz", c->requested_khz),
             smoe_u64_field("in_force_khz", c->in_force_khz),
             smoe_u64_field("achieved_khz", c->achieved_khz));
}

/* What the gateway decided, below the worker's own ceiling; nothing in particular without either. */
static void obey_frequency(struct worker *w)
{
    uint64_t wanted = smoe_agent_welcomed(w->agent) ? smoe_agent_freq_wanted_khz(w->agent) : 0;
    uint64_t ceiling = (uint64_t)(w->freqctl.max_hz * w->thermal_share / 1000);
    if (w->thermal_share < 1 && (!wanted || wanted > ceiling))
        wanted = ceiling;
    if (wanted == w->freq_obeyed_khz)
        return;
    w->freq_obeyed_khz = wanted;
    (void)smoe_freqctl_set(&w->freqctl, wanted);
    tell_frequency(w);
}

static void read_meter(struct worker *w)
{
    bool lost = w->meter.lost;
    if (!*smoe_meter_source(&w->meter))
        return;
    smoe_agent_set_joules(w->agent, smoe_meter_read(&w->meter, smoe_clock_monotonic_ns()));
    smoe_agent_set_meter_lost(w->agent, w->meter.lost);
    if (lost != w->meter.lost)
        smoe_log(&w->log, SMOE_LOG_WARNING,
                 smoe_msg(lost ? "the energy meter can be read again"
                               : "the energy meter cannot be read: the gateway estimates"),
                 smoe_text_field("energy_source", smoe_meter_source(&w->meter)));
}

static void on_care(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    double celsius = smoe_meter_celsius(), share = w->thermal_share;
    (void)smoe_freqctl_poll(&w->freqctl, smoe_lanes_busy(w->lanes));
    w->thermal_share = smoe_thermal_share(share, celsius, w->settings.temp_max_c);
    if ((share < 1) != (w->thermal_share < 1))
        smoe_log(&w->log, SMOE_LOG_WARNING,
                 smoe_msg(share < 1 ? "cool again" : "too hot: slowing down"),
                 smoe_double_field("temperature_c", celsius),
                 smoe_double_field("temp_max_c", w->settings.temp_max_c));
    smoe_agent_set_temperature(w->agent, celsius);
    read_meter(w);
    tell_frequency(w);
    obey_frequency(w);
    smoe_router_watch(&w->routers, w->agent, &w->log, smoe_clock_monotonic_ns());
    if (w->link)
        smoe_link_flush(w->link);
}

static void set_clock(struct worker *w)
{
    uint64_t wake = smoe_agent_wake_ns(w->agent), now = smoe_clock_monotonic_ns();
    if (wake == UINT64_MAX) {
        uv_timer_stop(&w->clock);
        return;
    }
    uv_timer_start(&w->clock, on_clock, wake > now ? (wake - now + 999999) / 1000000 : 0, 0);
}

static void settle(struct worker *w)
{
    if (w->stopping)
        return;
    obey_frequency(w);
    smoe_lanes_feed(w->lanes);
    if (w->peers)
        smoe_worker_peers_settle(w->peers); /* first: what a broken link had goes to the gateway */
    if (w->link)
        smoe_link_flush(w->link);
    set_clock(w);
}

static void on_changed(void *context)
{
    settle(context);
}

static void on_clock(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    smoe_agent_tick(w->agent, smoe_clock_monotonic_ns());
    settle(w);
}

static void set_duty(void *context, double duty)
{
    struct worker *w = context;
    w->duty = duty;
    if (w->lanes) /* they start with it otherwise */
        smoe_lanes_set_duty(w->lanes, duty);
}

/* ---- the end: link, then peers, then lanes, then the rest ---- */

static void on_lanes_closed(void *context)
{
    struct worker *w = context;
    uv_close((uv_handle_t *)&w->clock, NULL);
    uv_close((uv_handle_t *)&w->care, NULL);
    uv_close((uv_handle_t *)&w->terminate, NULL);
    uv_close((uv_handle_t *)&w->interrupt, NULL);
    /* libuv gives them back the default action, and nobody should die of a signal said twice */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
}

static void on_peers_closed(void *context)
{
    struct worker *w = context;
    w->peers = NULL;
    smoe_lanes_close(w->lanes, on_lanes_closed, w);
}

static void on_link_closed(void *context)
{
    struct worker *w = context;
    w->link = NULL;
    uv_timer_stop(&w->care);
    if (w->peers)
        smoe_worker_peers_close(w->peers, on_peers_closed, w);
    else
        on_peers_closed(w);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct worker *w = handle->data;
    (void)signum;
    if (w->stopping)
        return;
    smoe_log(&w->log, SMOE_LOG_NOTICE, smoe_msg("stopping"));
    (void)smoe_notify_stopping(&w->notify);
    w->stopping = true;
    smoe_link_close(w->link, on_link_closed, w);
}

/* ---- the beginning ---- */

/* The key says who this is, and the command line must not say otherwise. */
static int take_key(struct worker *w, struct smoe_why *why)
{
    char *id = w->settings.id;
    struct smoe_tls_node node = {"--key", w->settings.key, SMOE_ROLE_WORKER, id};
    smoe_name name;
    if (*w->settings.key)
        smoe_keep_to_itself();
    int rc = *w->settings.key ? smoe_tls_context_of(&node, &w->tls, name, why) : 0;
    if (rc)
        return rc == SMOE_ENOMEMORY ? rc : SMOE_ECONFIG;
    if (w->tls)
        snprintf(id, sizeof w->settings.id, "%s", name);
    return 0;
}

/* The id on the command line and the one kept must be the same node's. */
static int settle_id(struct worker *w, struct smoe_why *why)
{
    char *kept = NULL;
    size_t len = 0;
    char *id = w->settings.id;
    if (!*w->settings.state_dir)
        return 0;
    int rc = smoe_statedir_open(&w->state, w->settings.state_dir, why);
    if (rc)
        return rc;
    rc = smoe_file_read(w->state.fd, ID_FILE, SMOE_NAME_MAX + 1, &kept, &len, why);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == 0) {
        kept[strcspn(kept, "\n")] = 0;
        if (!smoe_name_valid(kept, strlen(kept)))
            rc =
                smoe_fail(why, SMOE_ECONFIG, "state directory %s: its file " ID_FILE " has no name",
                          w->settings.state_dir);
        else if (*id && strcmp(id, kept) != 0)
            rc = smoe_fail(why, SMOE_ECONFIG, "--id %s: state directory %s belongs to node %.63s",
                           id, w->settings.state_dir, kept);
        else
            snprintf(id, sizeof w->settings.id, "%s", kept);
        free(kept);
        return rc;
    }
    if (!*id)
        return smoe_fail(why, SMOE_ECONFIG, "--id: needed, %s keeps none yet",
                         w->settings.state_dir);
    return smoe_file_write(w->state.fd, ID_FILE, id, strlen(id), why);
}

static int make_agent(struct worker *w, uint64_t incarnation, struct smoe_why *why)
{
    const struct smoe_worker_settings *s = &w->settings;
    struct smoe_agent_options o = {
        .incarnation = incarnation,
        .lanes = (uint32_t)s->lanes,
        .freq_nominal_hz = s->freq_nominal_hz,
        .freq_max_hz = w->freqctl.max_hz,
        .busy_watts = s->watts,
        .model_noise = MODEL_NOISE,
        .budget_watts = s->budget,
        .cap_watts = s->cap,
        .experts_bytes_max = s->memory_bytes / 2,
        .expert_slots = (uint32_t)s->expert_slots,
        .tensors_bytes_max = s->memory_bytes / 2,
        .inbox_bytes_max = s->memory_bytes / 16 > (1u << 20) ? s->memory_bytes / 16 : 1u << 20,
    };
    snprintf(o.id, sizeof o.id, "%s", s->id);
    snprintf(o.software, sizeof o.software, "stablemoe-worker %s", STABLEMOE_VERSION);
    snprintf(o.energy_source, sizeof o.energy_source, "%s", smoe_meter_source(&w->meter));
    snprintf(o.freq_driver, sizeof o.freq_driver, "%s", w->freqctl.driver->name);
    o.n_freq_states = w->freqctl.n_states;
    memcpy(o.freq_states_khz, w->freqctl.states_khz, sizeof o.freq_states_khz);
    o.voltage_follows = w->freqctl.driver == &smoe_freqctl_cpufreq;
    return smoe_agent_new(&o, &w->agent, why);
}

static void start_handles(struct worker *w)
{
    uv_timer_init(&w->loop, &w->clock);
    uv_timer_init(&w->loop, &w->care);
    uv_signal_init(&w->loop, &w->terminate);
    uv_signal_init(&w->loop, &w->interrupt);
    w->clock.data = w->care.data = w->terminate.data = w->interrupt.data = w;
    uv_signal_start(&w->terminate, on_signal, SIGTERM);
    uv_signal_start(&w->interrupt, on_signal, SIGINT);
    signal(SIGPIPE, SIG_IGN);
}

static int choose_drivers(struct worker *w, struct smoe_why *why)
{
    const struct smoe_worker_settings *s = &w->settings;
    struct smoe_freqctl_options o = {
        .kind = (enum smoe_freqctl_kind)s->freq_driver,
        .nominal_hz = s->freq_nominal_hz,
        .speed = s->speed,
        .helper = s->freqd,
        .set_duty = set_duty,
        .context = w,
    };
    int rc = smoe_freqctl_init(&w->freqctl, &o, why);
    return rc ? rc
              : smoe_meter_init(&w->meter, (enum smoe_meter_kind)s->energy_meter, s->freqd, why);
}

static void on_standing(void *context, const struct smoe_addr *own)
{
    struct worker *w = context;
    smoe_worker_peers_at(w->peers, own);
}

static int start_peers(struct worker *w, struct smoe_why *why)
{
    struct smoe_worker_peers_options o = {
        .loop = &w->loop,
        .agent = w->agent,
        .log = &w->log,
        .listen = w->settings.peer_listen,
        .secure = w->tls != NULL,
        .changed = on_changed,
        .context = w,
    };
    return smoe_worker_peers_start(&o, &w->peers, why);
}

static int bring_up(struct worker *w, struct smoe_why *why)
{
    uint64_t random[2];
    const struct smoe_worker_settings *s = &w->settings;
    int rc = uv_random(NULL, NULL, random, sizeof random, 0, NULL);
    if (rc)
        return smoe_fail(why, rc, "random numbers: %s", uv_strerror(rc));
    w->thermal_share = 1;
    rc = choose_drivers(w, why);
    if (rc)
        return rc;
    rc = make_agent(w, random[0] | 1, why);
    if (rc)
        return rc;
    tell_frequency(w);
    rc = smoe_lanes_start(&w->loop, (uint32_t)s->lanes, w->agent, on_changed, w, &w->lanes);
    if (rc)
        return smoe_fail(why, rc, "compute threads: %s", uv_strerror(rc));
    smoe_lanes_set_duty(w->lanes, w->duty);
    uv_timer_start(&w->care, on_care, SMOE_FREQCTL_POLL_MS, SMOE_FREQCTL_POLL_MS);
    rc = start_peers(w, why);
    if (rc == 0)
        rc = smoe_link_start(&w->loop, s->gateway, random[1], w->agent, &w->log, on_changed, w,
                             &w->link, why);
    if (rc)
        return rc;
    smoe_link_secure(w->link, w->tls);
    smoe_link_when_standing(w->link, on_standing);
    return 0;
}

/* It did not come up. From here on a signal has nothing to end. */
static void tear_down(struct worker *w)
{
    w->stopping = true;
    if (w->lanes)
        on_link_closed(w);
    else
        on_lanes_closed(w);
}

static void say_started(struct worker *w, const char *blas)
{
    const struct smoe_worker_settings *s = &w->settings;
    const char *source = smoe_meter_source(&w->meter);
    smoe_log(&w->log, SMOE_LOG_NOTICE, smoe_msg("started"), smoe_text_field("id", s->id),
             smoe_text_field("gateway", s->gateway), smoe_double_field("speed", s->speed),
             smoe_u64_field("lanes", s->lanes), smoe_u64_field("memory", s->memory_bytes),
             smoe_double_field("freq_hz", s->freq_nominal_hz),
             smoe_text_field("freq_driver", w->freqctl.driver->name),
             smoe_text_field("freq_note", w->freqctl.note),
             smoe_text_field("energy_source", *source        ? source
                                              : s->watts > 0 ? "model"
                                                             : "none"),
             smoe_text_field("energy_note", w->meter.note), smoe_text_field("blas", blas));
    (void)smoe_notify_ready(&w->notify);
}

int smoe_worker_run(const struct smoe_worker_settings *settings, struct smoe_why *why)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    w->settings = *settings;
    const char *blas = smoe_gemm_setup();
    smoe_log_init(&w->log, 2, (enum smoe_log_level)settings->log_level, getenv("JOURNAL_STREAM"),
                  smoe_clock_wall_ms);
    int rc = smoe_notify_init(&w->notify, getenv("NOTIFY_SOCKET"), why);
    if (rc == 0)
        rc = take_key(w, why);
    if (rc == 0)
        rc = settle_id(w, why);
    if (rc == 0)
        rc = smoe_evloop_init(&w->loop, PROGRAM, DESCRIPTORS, why);
    if (rc == 0) {
        start_handles(w);
        rc = bring_up(w, why);
        if (rc == 0)
            say_started(w, blas);
        else
            tear_down(w);
        uv_run(&w->loop, UV_RUN_DEFAULT);
        uv_loop_close(&w->loop);
    }
    smoe_freqctl_release(&w->freqctl);
    smoe_meter_release(&w->meter);
    smoe_agent_free(w->agent);
    smoe_tls_context_free(w->tls);
    smoe_statedir_release(&w->state);
    smoe_notify_release(&w->notify);
    free(w);
    return rc;
}
