/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shell/settings.h"

#include <math.h>
#include <string.h>

#include "common/io/log.h"
#include "daemon/shell/guard.h"
#include "daemon/shell/peers.h"

#define PINNED            "pinned"
#define OTHER_DESCRIPTORS 128 /* than peers': those who ask, files, libuv's own */

#define AT(member) SMOE_OPTION_AT(struct smoe_daemon_settings, member)

static const char *const policies[] = {
#define X(symbol, name, help) name,
    SMOE_POLICY_MAP(X)
#undef X
        NULL};

static const char *const consistencies[] = {
#define X(symbol, name) name,
    SMOE_CONSISTENCY_MAP(X)
#undef X
        NULL};

static const char *const plans[] = {
#define X(symbol, name) name,
    SMOE_PLAN_MAP(X)
#undef X
        NULL};

static const char *const backends[] = {
#define X(symbol, name) name,
    SMOE_BACKEND_MAP(X)
#undef X
        NULL};

static const char *const insecures[] = {
#define X(symbol, name) name,
    SMOE_INSECURE_MAP(X)
#undef X
        NULL};

const struct smoe_option smoe_daemon_options[] = {
    {"net", "listen", SMOE_ADDRESS, .standard = "127.0.0.1:7700", .min = 0, .max = 65535,
     AT(listen), .help = "where workers and trainers connect"},
    {"net", "status", SMOE_ADDRESS, .standard = "127.0.0.1:7701", .min = 0, .max = 65535,
     AT(status), .help = "where status is read: one command a connection, JSON back, read-only"},
    {"net", "backend", SMOE_ENUM, .standard = "auto", .choices = backends, AT(backend),
     .help =
         "what moves the bytes of workers and trainers; auto: io_uring where the kernel permits "
         "it, else epoll"},
    {"net", "hello_timeout", SMOE_DURATION, .standard = "2s", .min = 1e8, .max = 6e10,
     AT(hello_timeout_ns), .help = "a connection that has not said hello by then is closed"},

    {"security", "insecure", SMOE_ENUM, .standard = "no", .choices = insecures, AT(insecure),
     .help = "plaintext without keys, and then only with processes of this machine; otherwise TLS "
             "1.3 and a key for everybody (stablemoectl key)"},

    {"security", "certificate", SMOE_STRING, AT(certificate),
     .help = "file in PEM with the gateway's private key and certificate, and those of the "
             "authorities that nodes' certificates must be of: then they are asked for instead of "
             "keys (docs/security.md)"},

    {"state", "dir", SMOE_STRING, .standard = "/var/lib/stablemoe", AT(state_dir),
     .help = "directory of the journal, the lock and the admin socket; one daemon each"},

    {"routing", "policy", SMOE_ENUM, .standard = "lyapunov", .choices = policies, AT(policy),
     .reloadable = true,
     .help = "who serves a token; lyapunov is the product, the others are baselines"},
    {"routing", "consistency", SMOE_ENUM, .standard = "soft", .choices = consistencies,
     AT(consistency), .reloadable = true,
     .help =
         "experts that a frozen router chose: strict keeps them and lyapunov chooses among their "
         "replicas, soft trades them for shorter queues by mu"},
    {"routing", "v", SMOE_DOUBLE, .standard = "20", .min = 1e-6, .max = 1e9, .unit = "visits",
     AT(v), .reloadable = true,
     .help = "weight V of throughput and gate scores against backlog and energy"},
    {"routing", "mu", SMOE_DOUBLE, .standard = "1", .min = 0, .max = 1e6, AT(mu),
     .reloadable = true, .help = "weight of gate scores within V"},
    {"routing", "gap", SMOE_DOUBLE, .standard = "0", .min = 0, .max = SMOE_ROUTE_GAP_MAX, AT(gap),
     .reloadable = true,
     .help = "what a slot may be worth less than the best, proven, as a part of V mu for each "
             "visit; 0: exact to rounding, 1e-6: solved faster"},
    {"routing", "plan", SMOE_ENUM, .standard = "work", .choices = plans, AT(plan),
     .reloadable = true,
     .help = "time a decision plans for: what the work at hand takes, the slot, or the shorter of "
             "both"},
    {"routing", "slot", SMOE_DURATION, .standard = "20ms", .min = 1e6, .max = 6e10, AT(slot_ns),
     .reloadable = true,
     .help = "length of a slot; it ends early when tokens wait and a worker idles, unless "
             "it is planned as a whole"},

    {"fleet", "workers_min", SMOE_U64, .standard = "1", .min = 1, .max = SMOE_WORKERS_MAX,
     .unit = "workers", AT(workers_min), .reloadable = true,
     .help = "a new layer waits for that many ready workers before its experts are placed"},
    {"fleet", "workers_max", SMOE_U64, .standard = "256", .min = 1, .max = SMOE_WORKERS_MAX,
     .unit = "workers", AT(workers_max), .help = "workers that may be known at a time"},
    {"fleet", "copies", SMOE_U64, .standard = "2", .min = 1, .max = 2, .unit = "workers",
     AT(copies), .reloadable = true,
     .help =
         "workers that have an expert's state; with 2 the loss of one loses nothing. For layers "
         "declared from then on"},
    {"fleet", "silence", SMOE_DURATION, .standard = "1s", .min = 1e8, .max = 6e11, AT(silence_ns),
     .reloadable = true,
     .help = "a worker that is silent for longer (and for three slots) is declared lost; less is "
             "for those that join from then on"},
    {"fleet", "lease", SMOE_DURATION, .standard = "10s", .min = 1e8, .max = 3.6e12,
     AT(worker_lease_ns), .reloadable = true,
     .help = "how long a lost worker's experts wait for its return"},

    {"fleet", "strikes", SMOE_U64, .standard = "3", .min = 0, .max = 1000, .unit = "strikes",
     AT(strikes_max), .reloadable = true,
     .help = "a worker that broke the protocol or sent numbers that cannot be so many times is in "
             "quarantine; 0: never"},
    {"fleet", "quarantine", SMOE_DURATION, .standard = "10min", .min = 1e8, .max = 3.6e14,
     AT(quarantine_ns), .reloadable = true,
     .help = "for so long after its last strike it is not let in"},
    {"placement", "rule", SMOE_STRING, .standard = "pinned", AT(placement_rule),
     .help = "pinned: an expert stands on one worker, a second copy of all its state follows on "
             "another. Or how sharded layers are placed anew at every step: highest-averages, "
             "static, symi, eplb, interval=N. For layers declared from then on"},
    {"placement", "average", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 0.999,
     AT(placement_average),
     .help = "share of the past in the moving average of popularity that a rule plans by; 0: the "
             "last step alone"},
    {"placement", "links", SMOE_BOOL, .standard = "yes", AT(placement_links),
     .help = "workers of a sharded layer send each other gradients and weights over links of their "
             "own where they can; no: all of it goes through this gateway"},

    {"energy", "budget", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 1e6, .unit = "W",
     AT(budget_w), .reloadable = true,
     .help = "mean power each worker may draw over time, if it sets itself no smaller one; 0: no "
             "budget"},
    {"energy", "cap", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 1e6, .unit = "W", AT(cap_w),
     .reloadable = true,
     .help = "power a worker may draw at any time, if it sets itself no smaller one; 0: no cap"},

    {"priors", "cycles_per_flop", SMOE_DOUBLE, .standard = "0.125", .min = 1e-6, .max = 1e6,
     .unit = "cycles", AT(prior_cycles_per_flop), .reloadable = true,
     .help = "what a flop costs on a worker before it has worked; then that is measured"},
    {"priors", "watts", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 1e6, .unit = "W",
     AT(prior_busy_w), .reloadable = true,
     .help = "what a worker draws while it computes at its highest frequency, before its meter has "
             "told; 0: unknown, so that budget and cap wait for the meter"},
    {"priors", "static_watts", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 1e6, .unit = "W",
     AT(prior_static_w), .reloadable = true, .help = "of these, what it draws whatever it does"},

    {"trainers", "max", SMOE_U64, .standard = "16", .min = 1, .max = SMOE_TRAINERS_MAX,
     .unit = "trainers", AT(trainers_max), .help = "trainers that may be known at a time"},
    {"trainers", "lease", SMOE_DURATION, .standard = "30s", .min = 1e8, .max = 3.6e12,
     AT(trainer_lease_ns), .reloadable = true,
     .help = "how long the layers of a trainer that is gone stay its own"},
    {"trainers", "window", SMOE_BYTES, .standard = "64MiB", .min = 65536, .max = 0x1p40,
     AT(window_bytes), .reloadable = true,
     .help = "credit: raw bytes a trainer may have submitted and not yet got results for"},
    {"trainers", "window_visits", SMOE_U64, .standard = "1000000", .min = 1, .max = 1e12,
     .unit = "visits", AT(window_visits), .reloadable = true, .help = "the same in visits"},
    {"trainers", "iteration", SMOE_BYTES, .standard = "1GiB", .min = 65536, .max = 0x1p50,
     AT(iteration_bytes_max), .reloadable = true,
     .help = "raw bytes a trainer may submit between two steps; more fails at once"},

    {"limits", "batches", SMOE_U64, .standard = "4096", .min = 1, .max = 1e6, .unit = "batches",
     AT(batches_max), .help = "uncommitted batches of all trainers"},
    {"limits", "parcels", SMOE_U64, .standard = "65536", .min = 64, .max = 1e7, .unit = "parcels",
     AT(parcels_max), .help = "parcels (visits of a batch to one expert) that are uncommitted"},
    {"limits", "slot_tokens", SMOE_U64, .standard = "8192", .min = 1, .max = SMOE_BATCH_TOKENS_MAX,
     .unit = "tokens", AT(slot_tokens_max),
     .help = "tokens routed by one solve; more wait for the next"},
    {"limits", "tensor", SMOE_BYTES, .standard = "256MiB", .min = 65536,
     .max = SMOE_TENSOR_BYTES_MAX, AT(tensor_bytes_max), .help = "raw part of one message"},
    {"limits", "tensors", SMOE_BYTES, .standard = "2GiB", .min = 1048576, .max = 0x1p50,
     AT(tensors_bytes_max),
     .help = "raw parts held at a time, of all connections, and frozen routers"},
    {"limits", "outbox", SMOE_BYTES, .standard = "1GiB", .min = 1048576, .max = 0x1p50,
     AT(outbox_bytes_max),
     .help = "bytes waiting for one peer to read them, a message counting for at least 256; one "
             "that lets more pile up is disconnected"},

    {"trace", "file", SMOE_STRING, .standard = "", AT(trace_file),
     .help = "record decisions, and what they were made from, to this file (an older one becomes "
             "FILE.old); empty: none"},
    {"trace", "bytes_max", SMOE_BYTES, .standard = "1GiB", .min = 65536, .max = 0x1p50,
     AT(trace_bytes_max), .help = "what the file may grow to; then recording ends"},
    {"trace", "buffer", SMOE_BYTES, .standard = "16MiB", .min = 65536, .max = 0x1p28,
     AT(trace_buffer_bytes),
     .help = "memory for records that wait for the disk; what finds no room is lost and counted"},
    {"trace", "scores_top", SMOE_U64, .standard = "0", .max = SMOE_EXPERTS_MAX, .unit = "experts",
     AT(trace_scores_top),
     .help = "record only the largest scores of each token, so many; 0: all of them"},

    {"log", "level", SMOE_ENUM, .standard = "info", .choices = smoe_log_levels, AT(log_level),
     .reloadable = true, .help = "least severe messages to log"},
};

const size_t smoe_daemon_options_len = sizeof smoe_daemon_options / sizeof *smoe_daemon_options;

int smoe_daemon_settings_check(const struct smoe_daemon_settings *s, struct smoe_why *why)
{
    char text[SMOE_ADDR_TEXT_MAX];
    smoe_addr_format(&s->listen, text);
    if (s->insecure && !smoe_addr_is_loopback(&s->listen))
        return smoe_fail(why, SMOE_ECONFIG,
                         "net.listen: %s is not a loopback address, and security.insecure = "
                         "loopback-only allows no other",
                         text);
    if (s->insecure && *s->certificate)
        return smoe_fail(why, SMOE_ECONFIG,
                         "security.insecure: loopback-only needs no security.certificate");
    smoe_addr_format(&s->status, text);
    if (!smoe_addr_is_loopback(&s->status))
        return smoe_fail(why, SMOE_ECONFIG,
                         "net.status: %s is not a loopback address, and the status is for this "
                         "machine only: forward it (ssh -L), or ask the Unix socket",
                         text);
    struct smoe_place_rule rule;
    if (strcmp(s->placement_rule, PINNED) != 0 && !smoe_place_parse(s->placement_rule, &rule))
        return smoe_fail(why, SMOE_ECONFIG,
                         "placement.rule: \"%s\" is neither pinned, highest-averages, static, "
                         "symi, eplb nor interval=N",
                         s->placement_rule);
    if (s->window_bytes > s->tensors_bytes_max)
        return smoe_fail(why, SMOE_ECONFIG, "trainers.window: larger than limits.tensors");
    if (s->tensor_bytes_max > s->tensors_bytes_max)
        return smoe_fail(why, SMOE_ECONFIG, "limits.tensor: larger than limits.tensors");
    if (s->workers_min > s->workers_max)
        return smoe_fail(why, SMOE_ECONFIG, "fleet.workers_min: larger than fleet.workers_max");
    return 0;
}

struct smoe_core_settings smoe_daemon_core_settings(const struct smoe_daemon_settings *s)
{
    return (struct smoe_core_settings){
        .slot_ns = s->slot_ns,
        .policy = (enum smoe_policy)s->policy,
        .consistency = (enum smoe_consistency)s->consistency,
        .plan = (enum smoe_plan)s->plan,
        .v = s->v,
        .mu = s->mu,
        .gap = s->gap,
        .workers_min = (uint32_t)s->workers_min,
        .copies = (uint32_t)s->copies,
        .silence_ns = s->silence_ns,
        .worker_lease_ns = s->worker_lease_ns,
        .strikes_max = (uint32_t)s->strikes_max,
        .quarantine_ns = s->quarantine_ns,
        .trainer_lease_ns = s->trainer_lease_ns,
        .window_bytes = s->window_bytes,
        .window_visits = s->window_visits,
        .iteration_bytes_max = s->iteration_bytes_max,
        .gradient_bytes_max = s->tensors_bytes_max / 2,
        .worker_budget_w = s->budget_w > 0 ? s->budget_w : (double)INFINITY,
        .worker_cap_w = s->cap_w > 0 ? s->cap_w : (double)INFINITY,
        .priors = {s->prior_cycles_per_flop, s->prior_busy_w, s->prior_static_w},
    };
}

struct smoe_core_limits smoe_daemon_core_limits(const struct smoe_daemon_settings *s)
{
    return (struct smoe_core_limits){.workers_max = (uint32_t)s->workers_max,
                                     .trainers_max = (uint32_t)s->trainers_max,
                                     .batches_max = (uint32_t)s->batches_max,
                                     .parcels_max = (uint32_t)s->parcels_max,
                                     .slot_tokens_max = (uint32_t)s->slot_tokens_max};
}

void smoe_daemon_placement(const struct smoe_daemon_settings *s, struct smoe_core_options *ret)
{
    ret->sharded = strcmp(s->placement_rule, PINNED) != 0 &&
                   smoe_place_parse(s->placement_rule, &ret->placement);
    ret->placement.average = s->placement_average;
    ret->links = s->placement_links;
}

unsigned smoe_daemon_descriptors(const struct smoe_daemon_settings *s)
{
    const struct smoe_core_limits limits = smoe_daemon_core_limits(s);
    return smoe_core_sessions_max(&limits) + OTHER_DESCRIPTORS;
}
