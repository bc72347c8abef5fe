/* SPDX-License-Identifier: Apache-2.0
 *
 * What administrators do to a running daemon. Nothing is changed in part: whatever is wrong with a
 * file, what was in force stays so, and a mistake in the configuration does not keep a key from being revoked.
 */
#include <stdlib.h>
#include <string.h>

#include "common/io/clock.h"
#include "daemon/shell/budgets.h"
#include "daemon/shell/loop_internal.h"

static void apply_settings(struct smoe_daemon *d)
{
    struct smoe_core_settings settings = smoe_daemon_core_settings(&d->settings);
    d->log.level = (enum smoe_log_level)d->settings.log_level;
    smoe_gateway_configure(d->gateway, &settings, smoe_clock_monotonic_ns());
    smoe_peers_flush(d->peers);
}

/* What was read is judged twice: as a whole, for the next start, and with what stays as it is until then. */
static int take_over(struct smoe_daemon *d, const struct smoe_config *fresh,
                     const struct smoe_daemon_settings *fresh_settings,
                     struct smoe_config_changes *ret, struct smoe_why *why)
{
    struct smoe_daemon_settings settings = d->settings;
    struct smoe_config config = d->config;
    config.values = &settings;
    int rc = smoe_daemon_settings_check(fresh_settings, why);
    if (rc)
        return rc;
    smoe_config_apply(&config, fresh, ret);
    rc = smoe_daemon_settings_check(&settings, why);
    if (rc)
        return smoe_fail_at(why, rc, "with what needs a restart (%s) as it is", ret->names);
    d->settings = settings;
    return 0;
}

static int reload_configuration(struct smoe_daemon *d, struct smoe_why *why)
{
    struct smoe_daemon_settings fresh_settings;
    struct smoe_config fresh;
    struct smoe_config_changes changes;
    memset(&fresh_settings, 0, sizeof fresh_settings);
    int rc = smoe_config_load(&fresh, smoe_daemon_options, smoe_daemon_options_len, &fresh_settings,
                              &d->start->sources, why);
    if (rc)
        return rc;
    rc = take_over(d, &fresh, &fresh_settings, &changes, why);
    if (rc == 0) {
        apply_settings(d);
        smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("configuration reloaded"),
                 smoe_u64_field("changed", changes.applied),
                 smoe_text_field("needs_restart", changes.kept ? changes.names : NULL));
    }
    smoe_config_release(&fresh);
    return rc;
}

static int reload_keys(void *context, struct smoe_why *why)
{
    struct smoe_daemon *d = context;
    if (!d->guard.tls)
        return 0;
    int rc = smoe_guard_reload(&d->guard, d->state.fd, why);
    if (rc)
        return smoe_fail_at(why, rc, "the keys in force stay");
    unsigned ended = d->peers ? smoe_peers_revoke(d->peers) : 0;
    smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("keys reloaded"),
             smoe_u64_field("keys", d->guard.keys.len), smoe_u64_field("sessions_ended", ended));
    return 0;
}

int smoe_daemon_reload(struct smoe_daemon *d, struct smoe_why *why)
{
    int keys = reload_keys(d, why);
    if (keys)
        smoe_log(&d->log, SMOE_LOG_ERROR, smoe_msg("keys not reloaded"),
                 smoe_text_field("why", why->text));
    int rc = reload_configuration(d, why);
    return rc ? rc : keys;
}

static int reload(void *context, struct smoe_why *why)
{
    return smoe_daemon_reload(context, why);
}

static int set_policy(void *context, const char *name, struct smoe_why *why)
{
    struct smoe_daemon *d = context;
    enum smoe_policy policy;
    if (!smoe_policy_parse(name, &policy))
        return smoe_fail(why, SMOE_EUNKNOWN, "no policy \"%.40s\": %s", name, smoe_policy_list());
    d->settings.policy = (unsigned)policy;
    apply_settings(d);
    smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("policy changed"), smoe_text_field("policy", name));
    return 0;
}

static int drain_worker(void *context, const char *worker_id, bool drain, struct smoe_why *why)
{
    struct smoe_daemon *d = context;
    int rc = smoe_gateway_drain(d->gateway, worker_id, drain, smoe_clock_monotonic_ns());
    if (rc)
        return smoe_fail(why, rc, "no worker \"%.63s\"", worker_id);
    smoe_peers_flush(d->peers);
    smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg(drain ? "worker drains" : "worker works again"),
             smoe_text_field("id", worker_id));
    return 0;
}

static int set_budget(void *context, const char *worker_id, const char *watts, struct smoe_why *why)
{
    struct smoe_daemon *d = context;
    int rc = smoe_budgets_set(d->gateway, d->state.fd, worker_id, watts, why);
    if (rc == 0)
        smoe_log(&d->log, SMOE_LOG_NOTICE, smoe_msg("budget set"), smoe_text_field("id", worker_id),
                 smoe_text_field("watts", watts));
    smoe_peers_flush(d->peers);
    return rc;
}

void smoe_daemon_administer(struct smoe_daemon *d, struct smoe_commands *ret)
{
    ret->context = d;
    ret->reload = reload;
    ret->reload_keys = reload_keys;
    ret->set_policy = set_policy;
    ret->set_budget = set_budget;
    ret->drain = drain_worker;
}
