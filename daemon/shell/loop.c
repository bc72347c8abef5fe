/* SPDX-License-Identifier: Apache-2.0
 *
 * Start: lock the state directory, read the journal, make the gateway, listen (peers, status, admin), tell systemd.
 * SIGHUP: load the configuration again, apply what may change. SIGTERM: take nothing new, wait until
 * what workers are computing has been relayed (at most DRAIN_MS), say Bye, close, exit 0. A second
 * SIGTERM does not wait.
 *
 * Closing is a chain of callbacks, peers -> admin -> status -> trace -> journal -> signals and timers -> the loop
 * runs empty; nothing is freed before its handles are closed.
 */
#include "daemon/shell/loop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "common/io/clock.h"
#include "common/io/evloop.h"
#include "daemon/shell/budgets.h"
#include "daemon/shell/loop_internal.h"

#define DRAIN_MS  4000
#define LINGER_MS 500
#define CHECK_MS  1000 /* the full walk over the invariants */
#define POLL_MS   20   /* while draining */

/* ---- the end ---- */

static void on_store_closed(void *context)
{
    struct smoe_daemon *d = context;
    for (int i = 0; i < N_SIGNALS; i++)
        uv_close((uv_handle_t *)&d->signals[i], NULL);
    uv_close((uv_handle_t *)&d->checks, NULL);
    uv_close((uv_handle_t *)&d->drain, NULL);
    uv_close((uv_handle_t *)&d->watchdog, NULL);
    smoe_guard_close(&d->guard);
    /* libuv gives them back the default action, and nobody should die of a signal said twice */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

static void on_trace_closed(void *context)
{
    struct smoe_daemon *d = context;
    if (d->store_started)
        smoe_store_stop(d->store, on_store_closed, d);
    else
        on_store_closed(d);
}

static void on_lines_closed(void *context)
{
    struct smoe_daemon *d = context;
    if (d->recorder)
        smoe_recorder_stop(d->recorder, smoe_clock_monotonic_ns(), on_trace_closed, d);
    else
        on_trace_closed(d);
}

static void on_admin_closed(void *context)
{
    struct smoe_daemon *d = context;
    struct smoe_lines *status = d->status;
    d->status = NULL;
    smoe_lines_close(status, on_lines_closed, d);
}

static void on_peers_closed(void *context)
{
    struct smoe_daemon *d = context;
    struct smoe_lines *admin = d->admin;
    d->peers = NULL;
    d->admin = NULL;
    smoe_lines_close(admin, on_admin_closed, d);
}

static void close_all(struct smoe_daemon *d)
{
    uv_timer_stop(&d->drain);
    smoe_gateway_goodbye(d->gateway, "the gateway is shutting down");
    smoe_peers_close(d->peers, LINGER_MS, on_peers_closed, d);
}

static void on_drain(uv_timer_t *timer)
{
    struct smoe_daemon *d = timer->data;
    uint64_t waited_ns = smoe_clock_monotonic_ns() - d->drain_began_ns;
    bool done = smoe_gateway_drained(d->gateway);
    if (!done && waited_ns < UINT64_C(1000000) * DRAIN_MS)
        return;
    smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg(done ? "drained" : "drained in part: out of time"),
             smoe_double_field("seconds", (double)waited_ns * 1e-9));
    close_all(d);
}

static void stop(struct smoe_daemon *d)
{
    if (d->stopping) {
        if (uv_is_active((uv_handle_t *)&d->drain))
            close_all(d);
        return;
    }
    d->stopping = true;
    d->drain_began_ns = smoe_clock_monotonic_ns();
    smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("stopping"));
    (void)smoe_notify_stopping(&d->notify);
    smoe_peers_stop_listening(d->peers);
    smoe_gateway_shutdown(d->gateway, d->drain_began_ns);
    smoe_peers_flush(d->peers);
    uv_timer_start(&d->drain, on_drain, 0, POLL_MS);
}

/* ---- signals and timers ---- */

static void on_signal(uv_signal_t *handle, int signum)
{
    struct smoe_daemon *d = handle->data;
    struct smoe_why why = {""};
    if (signum != SIGHUP) {
        stop(d);
        return;
    }
    if (!d->peers)
        return; /* closed: what is read anew would change nobody any more */
    (void)smoe_notify_reloading(&d->notify, smoe_clock_monotonic_ns());
    if (smoe_daemon_reload(d, &why))
        smoe_log(&d->log, SMOE_LOG_ERROR, smoe_msg("configuration not reloaded"),
                 smoe_text_field("why", why.text));
    (void)smoe_notify_ready(&d->notify);
}

static void on_check(uv_timer_t *timer)
{
    smoe_gateway_check(((struct smoe_daemon *)timer->data)->gateway);
}

static void on_watchdog(uv_timer_t *timer)
{
    (void)smoe_notify_alive(&((struct smoe_daemon *)timer->data)->notify);
}

static int start_signals(struct smoe_daemon *d)
{
    static const int numbers[N_SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    int rc = 0;
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < N_SIGNALS; i++) {
        uv_signal_init(&d->loop, &d->signals[i]);
        d->signals[i].data = d;
        rc = rc ? rc : uv_signal_start(&d->signals[i], on_signal, numbers[i]);
    }
    return rc;
}

static void start_timers(struct smoe_daemon *d)
{
    uint64_t interval_ns;
    uv_timer_t *timers[] = {&d->checks, &d->drain, &d->watchdog};
    for (size_t i = 0; i < sizeof timers / sizeof *timers; i++) {
        uv_timer_init(&d->loop, timers[i]);
        timers[i]->data = d;
    }
    if (smoe_notify_watchdog(getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"), &interval_ns))
        uv_timer_start(&d->watchdog, on_watchdog, 0, interval_ns / 2000000);
}

/* ---- the journal ---- */

static int on_room(void *context, size_t bytes)
{
    struct smoe_daemon *d = context;
    return smoe_store_room(d->store, bytes);
}

static void on_record(void *context, const struct smoe_record *record, uint64_t epoch)
{
    struct smoe_daemon *d = context;
    if (smoe_store_append(d->store, record, epoch) == 0)
        return;
    /* Memory and reserve are used up. A commit that is in no journal must not be announced, and what was given
     * away cannot be taken back: systemd starts us again. */
    smoe_log(&d->log, SMOE_LOG_ERROR, smoe_msg("out of memory for the journal: stopped at once"));
    _exit(EXIT_FAILURE);
}

static void on_written(void *context, uint64_t sequence, int status)
{
    struct smoe_daemon *d = context;
    bool trouble = status != 0;
    if (trouble != d->store_in_trouble)
        smoe_log(&d->log, trouble ? SMOE_LOG_ERROR : SMOE_LOG_NOTICE,
                 smoe_msg(trouble ? "cannot write the journal: steps wait, trying every second"
                                  : "the journal can be written again"),
                 smoe_text_field("why", trouble ? smoe_store_trouble(d->store) : NULL));
    d->store_in_trouble = trouble;
    if (trouble)
        return;
    smoe_gateway_journalled(d->gateway, sequence, smoe_clock_monotonic_ns());
    if (d->peers)
        smoe_peers_flush(d->peers);
}

/* ---- the trace ---- */

static void on_decided(void *context, const struct smoe_trace_entry *entry)
{
    struct smoe_daemon *d = context;
    smoe_recorder_append(d->recorder, entry);
}

static void tell(void *context, struct smoe_report_context *to, struct smoe_report_trace *trace)
{
    const struct smoe_daemon *d = context;
    to->waiting = d->peers ? smoe_peers_waiting(d->peers) : "";
    to->security = d->guard.certificate ? "mtls" : d->guard.tls ? "tls" : "insecure";
    to->keys = d->guard.keys.len;
    to->refused = d->peers ? smoe_peers_refused(d->peers) : 0;
    to->journal_trouble = smoe_store_trouble(d->store);
    to->trace = smoe_recorder_tell(d->recorder, trace) ? trace : NULL;
}

static void on_trace_trouble(void *context, const struct smoe_report_trace *now)
{
    struct smoe_daemon *d = context;
    bool begins = *now->trouble != 0;
    smoe_log(&d->log, begins ? SMOE_LOG_WARNING : SMOE_LOG_NOTICE,
             smoe_msg(begins ? "the trace is not being written" : "the trace is written again"),
             smoe_text_field("file", now->file),
             smoe_text_field("why", begins ? now->trouble : NULL),
             smoe_u64_field("lost", now->lost));
}

static int start_recorder(struct smoe_daemon *d, const char *software, struct smoe_why *why)
{
    const struct smoe_daemon_settings *s = &d->settings;
    if (!*s->trace_file)
        return 0;
    struct smoe_recorder_options o = {.path = s->trace_file,
                                      .bytes_max = s->trace_bytes_max,
                                      .buffer_bytes = s->trace_buffer_bytes / 2,
                                      .scores_top = (uint32_t)s->trace_scores_top,
                                      .software = software,
                                      .now_ns = d->started_ns,
                                      .wall_ms = smoe_clock_wall_ms(),
                                      .trouble = on_trace_trouble,
                                      .context = d};
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its write */
    return smoe_recorder_start(&o, &d->loop, &d->recorder, why);
}

/* ---- the beginning ---- */

static int draw(void *context, void *bytes, size_t n)
{
    (void)context;
    return uv_random(NULL, NULL, bytes, n, 0, NULL);
}

static int make_gateway(struct smoe_daemon *d, struct smoe_why *why)
{
    const struct smoe_daemon_settings *s = &d->settings;
    uint64_t epoch;
    struct smoe_restored restored = {0};
    int rc = smoe_store_open(s->state_dir, &d->store, &epoch, why);
    rc = rc ? rc : smoe_store_load(d->store, &restored, why);
    if (rc)
        return rc;
    struct smoe_gateway_options o = {
        .core =
            {
                .limits = smoe_daemon_core_limits(s),
                .settings = smoe_daemon_core_settings(s),
                .epoch = epoch,
                .restored = &restored,
                .seed = smoe_clock_wall_ms() ^ (uint64_t)uv_os_getpid() << 44,
                .now_ns = d->started_ns,
                .tensor_bytes_max = s->tensor_bytes_max,
            },
        .tensors_bytes_max = s->tensors_bytes_max,
        .outbox_bytes_max = s->outbox_bytes_max,
        .hello_timeout_ns = s->hello_timeout_ns,
        .journal = on_record,
        .journal_room = on_room,
        .journal_context = d,
        .trace = *s->trace_file ? on_decided : NULL,
        .trace_context = d,
        .draw = draw,
    };
    o.core.trace_bytes_max = s->trace_buffer_bytes / 2;
    smoe_daemon_placement(s, &o.core);
    snprintf(o.core.software, sizeof o.core.software, "stablemoed %s", d->start->version);
    rc = smoe_store_start(d->store, &d->loop, on_written, d);
    d->store_started = rc == 0;
    rc = rc ? rc : start_recorder(d, o.core.software, why);
    rc = rc ? rc : smoe_gateway_new(&o, &d->gateway, why);
    if (rc == 0 && restored.n_layers)
        smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("journal read"),
                 smoe_u64_field("layers", restored.n_layers), smoe_u64_field("epoch", epoch));
    smoe_restored_release(&restored);
    return rc;
}

static int listen_all(struct smoe_daemon *d, struct smoe_why *why)
{
    struct smoe_addr address;
    char path[sizeof d->settings.state_dir + 16];
    d->commands = (struct smoe_commands){
        .gateway = d->gateway,
        .version = d->start->version,
        .listen = d->listen_text,
        .tell = tell,
        .started_ns = d->started_ns,
        .now_ns = smoe_clock_monotonic_ns,
    };
    smoe_daemon_administer(d, &d->commands);
    snprintf(path, sizeof path, "%s/admin.sock", d->settings.state_dir);
    enum smoe_backend backend = (enum smoe_backend)d->settings.backend;
    struct smoe_peers_options peers = {
        &d->loop, &d->settings.listen, backend,     d->guard.tls, d->gateway,
        &d->log,  smoe_commands_admin, &d->commands};
    int rc = smoe_peers_start(&peers, &d->peers, why);
    rc = rc ? rc
            : smoe_lines_listen_tcp(&d->loop, &d->settings.status, smoe_commands_status,
                                    &d->commands, &d->status, why);
    rc = rc ? rc
            : smoe_lines_listen_unix(&d->loop, path, smoe_commands_admin, &d->commands, &d->admin,
                                     why);
    if (rc)
        return rc;
    smoe_peers_address(d->peers, &address);
    smoe_addr_format(&address, d->listen_text);
    return 0;
}

static void say_ready(struct smoe_daemon *d)
{
    struct smoe_addr address;
    char status[SMOE_ADDR_TEXT_MAX], line[200];
    smoe_lines_address(d->status, &address);
    smoe_addr_format(&address, status);
    smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("listening"),
             smoe_text_field("peers", d->listen_text), smoe_text_field("status", status),
             smoe_text_field("state", d->settings.state_dir),
             smoe_text_field("policy", smoe_policy_name((enum smoe_policy)d->settings.policy)),
             smoe_text_field("io", smoe_peers_backend(d->peers)),
             smoe_text_field("security", d->guard.certificate ? "mtls"
                                         : d->guard.tls       ? "tls"
                                                              : "insecure, loopback only"),
             smoe_u64_field(d->guard.tls ? "keys" : NULL, d->guard.keys.len));
    snprintf(line, sizeof line, "listening on %s, status on %s", d->listen_text, status);
    (void)smoe_notify_status(&d->notify, line);
    (void)smoe_notify_ready(&d->notify);
}

/* Brings everything up. On failure what is up is closed by the caller through close_partly. */
static int bring_up(struct smoe_daemon *d, struct smoe_why *why)
{
    int rc = smoe_guard_init(&d->guard, (enum smoe_insecure)d->settings.insecure, d->state.fd,
                             d->settings.certificate, smoe_peers_established, why);
    if (rc && *d->settings.certificate)
        return rc;
    if (rc)
        return smoe_fail_at(why, rc, "state directory %s", d->settings.state_dir);
    rc = make_gateway(d, why);
    rc = rc ? rc : smoe_budgets_load(d->gateway, d->state.fd, why);
    rc = rc ? rc : listen_all(d, why);
    rc = rc ? rc
            : smoe_guard_reload(&d->guard, d->state.fd, why); /* changed before we could be told */
    if (rc == 0 && (rc = start_signals(d)))
        smoe_fail(why, rc, "signals: %s", uv_strerror(rc));
    return rc;
}

/* Everything is there. */
static void begin(struct smoe_daemon *d)
{
    uv_timer_start(&d->checks, on_check, CHECK_MS, CHECK_MS);
    say_ready(d);
}

/* After a failed start: the same chain as at the end, over what there is. */
static void close_partly(struct smoe_daemon *d)
{
    for (int i = 0; i < N_SIGNALS; i++)
        if (!d->signals[i].data)
            uv_signal_init(&d->loop, &d->signals[i]);
    if (d->peers)
        smoe_peers_close(d->peers, 0, on_peers_closed, d);
    else
        on_peers_closed(d);
}

int smoe_daemon_run(const struct smoe_daemon_start *start, struct smoe_why *why)
{
    struct smoe_daemon *d = calloc(1, sizeof *d);
    if (!d)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    *d = (struct smoe_daemon){.start = start, .settings = start->settings, .config = start->config};
    d->config.values = &d->settings;
    d->started_ns = smoe_clock_monotonic_ns();
    smoe_log_init(&d->log, 2, (enum smoe_log_level)d->settings.log_level, getenv("JOURNAL_STREAM"),
                  smoe_clock_wall_ms);
    int rc = smoe_notify_init(&d->notify, getenv("NOTIFY_SOCKET"), why);
    rc = rc ? rc : smoe_statedir_open(&d->state, d->settings.state_dir, why);
    rc = rc ? rc
            : smoe_evloop_init(&d->loop, "stablemoed", smoe_daemon_descriptors(&d->settings), why);
    if (rc == 0) {
        start_timers(d);
        smoe_guard_start(&d->guard, &d->loop);
        rc = bring_up(d, why);
        if (rc)
            close_partly(d);
        else
            begin(d);
        uv_run(&d->loop, UV_RUN_DEFAULT);
        uv_loop_close(&d->loop);
        if (rc == 0)
            smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("stopped"));
    }
    smoe_gateway_free(d->gateway);
    smoe_recorder_free(d->recorder);
    smoe_store_close(d->store);
    smoe_guard_release(&d->guard);
    smoe_statedir_release(&d->state);
    smoe_notify_release(&d->notify);
    free(d);
    return rc;
}
