/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/gateway/report_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_account(cJSON *to, const struct smoe_account *a)
{
    smoe_json_add_u64(to, "submitted", a->submitted);
    smoe_json_add_u64(to, "settled", a->settled);
    smoe_json_add_u64(to, "committed", a->now[SMOE_VISIT_COMMITTED]);
    smoe_json_add_u64(to, "failed", a->failed);
    smoe_json_add_u64(to, "in_flight", a->in_flight);
}

static cJSON *trainers_json(const struct smoe_core *core)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < smoe_core_n_trainers(core); i++) {
        struct smoe_trainer_view t = smoe_core_trainer(core, i);
        if (!t.live)
            continue;
        cJSON *o = cJSON_CreateObject();
        smoe_json_add_text(o, "name", t.name);
        smoe_json_add_bool(o, "connected", t.connected);
        smoe_json_add_u64(o, "step", t.step);
        smoe_json_add_u64(o, "attempt", t.attempt);
        smoe_json_add_u64(o, "batches", t.batches);
        smoe_json_add_u64(o, "batches_ahead", t.ahead);
        smoe_json_add_text(o, "waits_for", t.waits_for);
        add_account(o, &t.account);
        smoe_json_append(list, o);
    }
    return list;
}

static void add_slots(cJSON *o, const struct smoe_core_totals *t)
{
    smoe_json_add_u64(o, "slot", t->slots);
    smoe_json_add_number(o, "slot_ms", (double)t->settings.slot_ns * 1e-6);
    smoe_json_add_u64(o, "slots_early", t->slots_early);
    smoe_json_add_u64(o, "slots_missed", t->slots_missed);
    smoe_json_add_number(o, "slot_lateness_p50_ms",
                         (double)smoe_hist_quantile_ns(&t->lateness, 0.5) * 1e-6);
    smoe_json_add_number(o, "slot_lateness_p99_ms",
                         (double)smoe_hist_quantile_ns(&t->lateness, 0.99) * 1e-6);
    smoe_json_add_number(o, "slot_lateness_p999_ms",
                         (double)smoe_hist_quantile_ns(&t->lateness, 0.999) * 1e-6);
}

static void add_routing(cJSON *o, const struct smoe_core_totals *t)
{
    smoe_json_add_text(o, "policy", smoe_policy_name(t->settings.policy));
    smoe_json_add_text(o, "consistency",
                       t->settings.consistency == SMOE_CONSISTENCY_STRICT ? "strict" : "soft");
    smoe_json_add_number(o, "v", t->settings.v);
    smoe_json_add_number(o, "mu", t->settings.mu);
    smoe_json_add_number(o, "gap", t->settings.gap);
    smoe_json_add_u64(o, "tokens_routed", t->tokens_routed);
    smoe_json_add_number(o, "gate_mass",
                         t->tokens_routed ? t->gate_mass / (double)t->tokens_routed : 0);
    smoe_json_add_number(o, "topk_agreement",
                         t->choices ? (double)t->choices_in_topk / (double)t->choices : 0);
    smoe_json_add_u64(o, "solves", t->solves);
    smoe_json_add_u64(o, "solves_cut_short", t->solves_cut_short);
    smoe_json_add_number(o, "optimality_gap_max", t->gap_max);
}

static void add_io(cJSON *o, const struct smoe_gateway *gateway, const struct smoe_core_totals *t,
                   const char *waiting)
{
    struct smoe_gateway_stats s;
    smoe_gateway_stats(gateway, &s);
    smoe_json_add_text(o, "waiting", waiting);
    smoe_json_add_u64(o, "sessions", s.sessions);
    smoe_json_add_u64(o, "tensor_bytes", s.tensor_bytes);
    smoe_json_add_u64(o, "router_bytes", s.router_bytes);
    smoe_json_add_u64(o, "tensor_bytes_peak", s.tensor_bytes_peak);
    smoe_json_add_u64(o, "frames_in", s.frames_in);
    smoe_json_add_u64(o, "frames_out", s.frames_out);
    smoe_json_add_u64(o, "bytes_in", s.bytes_in);
    smoe_json_add_u64(o, "bytes_out", s.bytes_out);
    smoe_json_add_u64(o, "refused_messages", t->refused);
    smoe_json_add_u64(o, "crowded_out", s.crowded_out);
    smoe_json_add_u64(o, "hello_timeouts", s.hello_timeouts);
    smoe_json_add_u64(o, "slow_peers", s.slow_peers);
    smoe_json_add_u64(o, "late_frames", t->late_frames);
    smoe_json_add_u64(o, "stale_frames", t->stale_frames);
    smoe_json_add_u64(o, "evictions", t->evictions);
}

/* Who is out or has strikes, and why; in words for people. */
static cJSON *quarantine_json(const struct smoe_core *core, const struct smoe_core_settings *s,
                              uint64_t now_ns)
{
    const struct smoe_quarantine *q = smoe_core_quarantine(core);
    struct smoe_quarantine_rules rules = {s->strikes_max, s->quarantine_ns};
    cJSON *o = cJSON_CreateObject(), *list;
    smoe_json_add_u64(o, "strikes", q->strikes);
    list = smoe_json_add_array(o, "workers");
    for (uint32_t i = 0; i < q->n; i++) {
        const struct smoe_conduct *c = &q->conducts[i];
        if (!smoe_quarantine_find(q, &rules, c->worker, now_ns))
            continue;
        cJSON *w = cJSON_CreateObject();
        smoe_json_add_text(w, "id", c->worker);
        smoe_json_add_u64(w, "strikes", c->strikes);
        smoe_json_add_number(w, "out_s", (double)smoe_quarantine_left_ns(c, &rules, now_ns) * 1e-9);
        smoe_json_add_text(w, "why", c->why);
        smoe_json_append(list, w);
    }
    return o;
}

static cJSON *trace_json(const struct smoe_report_trace *t)
{
    cJSON *o = cJSON_CreateObject();
    smoe_json_add_text(o, "file", t->file);
    smoe_json_add_u64(o, "bytes", t->bytes);
    smoe_json_add_u64(o, "records", t->records);
    smoe_json_add_u64(o, "lost", t->lost);
    smoe_json_add_text(o, "trouble", t->trouble);
    return o;
}

static cJSON *status_json(const struct smoe_gateway *gateway, const struct smoe_report_context *c)
{
    const struct smoe_core *core = smoe_gateway_core(gateway);
    struct smoe_core_totals t;
    cJSON *o = cJSON_CreateObject();
    smoe_core_totals(core, &t);
    smoe_json_add_text(o, "version", c->version);
    smoe_json_add_text(o, "listen", c->listen);
    smoe_json_add_bool(o, "draining", t.draining);
    smoe_json_add_number(o, "uptime_s", (double)(c->now_ns - c->started_ns) * 1e-9);
    smoe_json_add_u64(o, "epoch", t.epoch);
    smoe_json_add_u64(o, "steps", t.steps);
    add_slots(o, &t);
    add_routing(o, &t);
    cJSON *ledger = smoe_json_add_object(o, "ledger");
    add_account(ledger, &t.account);
    for (int s = SMOE_VISIT_WAITING; s <= SMOE_VISIT_GRADIENT_QUEUED; s++)
        smoe_json_add_u64(ledger, smoe_visit_state_name((enum smoe_visit_state)s),
                          t.account.now[s]);
    add_io(smoe_json_add_object(o, "io"), gateway, &t, c->waiting);
    smoe_json_add(o, "quarantine", quarantine_json(core, &t.settings, c->now_ns));
    cJSON *security = smoe_json_add_object(o, "security");
    smoe_json_add_text(security, "transport", c->security ? c->security : "none");
    smoe_json_add_u64(security, "keys", c->keys);
    smoe_json_add_u64(security, "refused", c->refused);
    cJSON *journal = smoe_json_add_object(o, "journal");
    smoe_json_add_text(journal, "trouble", c->journal_trouble);
    if (c->trace)
        smoe_json_add(o, "trace", trace_json(c->trace));
    smoe_json_add(o, "workers", smoe_report_workers(core, c->now_ns));
    smoe_json_add(o, "layers", smoe_report_layers(core));
    smoe_json_add(o, "trainers", trainers_json(core));
    return o;
}

char *smoe_report_json(const struct smoe_gateway *gateway, enum smoe_report what,
                       const struct smoe_report_context *context)
{
    const struct smoe_core *core = smoe_gateway_core(gateway);
    cJSON *root = NULL;
    switch (what) {
    case SMOE_REPORT_STATUS:
        root = status_json(gateway, context);
        break;
    case SMOE_REPORT_WORKERS:
        root = cJSON_CreateObject();
        smoe_json_add(root, "workers", smoe_report_workers(core, context->now_ns));
        break;
    case SMOE_REPORT_EXPERTS:
        root = cJSON_CreateObject();
        smoe_json_add(root, "layers", smoe_report_layers(core));
        break;
    }
    char *text = smoe_json_print(root);
    return text;
}
