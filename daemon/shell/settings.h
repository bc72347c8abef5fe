/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's configuration: one struct, one table.
 */
#ifndef SMOE_DAEMON_SETTINGS_H
#define SMOE_DAEMON_SETTINGS_H

#include "common/io/option.h"
#include "daemon/core/core.h"

struct smoe_daemon_settings {
    /* net */
    struct smoe_addr listen, status;
    unsigned backend; /* enum smoe_backend */
    uint64_t hello_timeout_ns;
    /* security */
    unsigned insecure;     /* enum smoe_insecure */
    char certificate[128]; /* "": keys */
    /* state */
    char state_dir[256];
    /* routing */
    unsigned policy;      /* enum smoe_policy */
    unsigned consistency; /* enum smoe_consistency */
    unsigned plan;        /* enum smoe_plan */
    double v, mu, gap;
    uint64_t slot_ns;
    /* fleet */
    uint64_t workers_min, workers_max, copies;
    uint64_t silence_ns, worker_lease_ns, quarantine_ns, strikes_max;
    /* placement */
    char placement_rule[24]; /* "pinned", or as smoe_place_parse takes it */
    double placement_average;
    bool placement_links;
    /* energy */
    double budget_w, cap_w;
    double prior_cycles_per_flop, prior_busy_w, prior_static_w;
    /* trainers */
    uint64_t trainers_max;
    uint64_t trainer_lease_ns;
    uint64_t window_bytes, window_visits, iteration_bytes_max;
    /* limits */
    uint64_t batches_max, parcels_max, slot_tokens_max;
    uint64_t tensor_bytes_max, tensors_bytes_max, outbox_bytes_max;
    /* trace */
    char trace_file[256];
    uint64_t trace_bytes_max, trace_buffer_bytes, trace_scores_top;
    /* log */
    unsigned log_level; /* enum smoe_log_level */
};

extern const struct smoe_option smoe_daemon_options[];
extern const size_t smoe_daemon_options_len;

/* What the rows cannot check one by one: an address against `insecure`, limits against each other. */
int smoe_daemon_settings_check(const struct smoe_daemon_settings *s, struct smoe_why *why);

/* The reloadable part, as the core takes it. */
struct smoe_core_settings smoe_daemon_core_settings(const struct smoe_daemon_settings *s);

/* The rest of it, fixed while the daemon runs. */
struct smoe_core_limits smoe_daemon_core_limits(const struct smoe_daemon_settings *s);
void smoe_daemon_placement(const struct smoe_daemon_settings *s, struct smoe_core_options *ret);

/* How many descriptors a daemon with these settings has at most. */
unsigned smoe_daemon_descriptors(const struct smoe_daemon_settings *settings);

#endif
