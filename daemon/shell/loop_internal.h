/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon, as loop.c (its life) and loop_admin.c (what administrators do to it) share it.
 */
#ifndef SMOE_DAEMON_LOOP_INTERNAL_H
#define SMOE_DAEMON_LOOP_INTERNAL_H

#include <uv.h>

#include "common/io/log.h"
#include "common/io/notify.h"
#include "common/io/statedir.h"
#include "daemon/shell/commands.h"
#include "daemon/shell/guard.h"
#include "daemon/shell/lines.h"
#include "daemon/shell/loop.h"
#include "daemon/shell/peers.h"
#include "daemon/shell/recorder.h"
#include "daemon/shell/store.h"

enum { SIG_TERM, SIG_INT, SIG_HUP, N_SIGNALS };

struct smoe_daemon {
    const struct smoe_daemon_start *start;
    struct smoe_daemon_settings settings; /* in force */
    struct smoe_config config;            /* of `settings` */
    uv_loop_t loop;
    struct smoe_log log;
    struct smoe_notify notify;
    struct smoe_statedir state;
    struct smoe_store *store;
    bool store_started, store_in_trouble;
    struct smoe_recorder *recorder; /* NULL: no trace */
    struct smoe_guard guard;
    struct smoe_gateway *gateway;
    struct smoe_peers *peers;
    struct smoe_lines *status, *admin;
    struct smoe_commands commands;
    char listen_text[SMOE_ADDR_TEXT_MAX];
    uv_signal_t signals[N_SIGNALS];
    uv_timer_t checks, drain, watchdog;
    uint64_t started_ns, drain_began_ns;
    bool signals_open, stopping;
};

/* Configuration and keys are read again, each whatever becomes of the other. */
int smoe_daemon_reload(struct smoe_daemon *d, struct smoe_why *why);

/* The part of the commands that loop_admin.c carries out. */
void smoe_daemon_administer(struct smoe_daemon *d, struct smoe_commands *ret);

#endif
