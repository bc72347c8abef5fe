/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/gateway/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json/json.h"

/* Null where it is not known. */
static void add_known(cJSON *to, const char *key, bool known, double value)
{
    if (known)
        smoe_json_add_number(to, key, value);
    else
        cJSON_AddNullToObject(to, key);
}

static void add_hex(cJSON *to, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    cJSON_AddStringToObject(to, key, text);
}

static void add_account(cJSON *to, const struct smoe_account *a)
{
    smoe_json_add_u64(to, "submitted", a->submitted);
    smoe_json_add_u64(to, "settled", a->settled);
    smoe_json_add_u64(to, "committed", a->now[SMOE_VISIT_COMMITTED]);
    smoe_json_add_u64(to, "failed", a->failed);
    smoe_json_add_u64(to, "in_flight", a->in_flight);
}

static cJSON *experts_of(const struct smoe_core *core, uint32_t worker)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer_view layer = smoe_core_layer(core, l);
        for (uint32_t e = 0; layer.state != SMOE_LAYER_FREE && e < layer.shape.experts; e++) {
            char name[sizeof(smoe_name) + 16];
            if (layer.experts[e].worker != worker)
                continue;
            snprintf(name, sizeof name, "%s/%u", layer.name, e);
            cJSON_AddItemToArray(list, cJSON_CreateString(name));
        }
    }
    return list;
}

/* Visits a second while there was work: what the worker really does, throttle included. */
static double measured_rate(const struct smoe_worker *w)
{
    const struct smoe_msg_report *r = &w->report;
    double flops = (double)r->forward_flops + (double)r->backward_flops;
    if (!w->has_report || !r->active_ns || !w->reference_flops)
        return 0;
    return flops / (3.0 * (double)w->reference_flops) / ((double)r->active_ns * 1e-9);
}

/* What its reports taught, each with its standard error; power and its errors are null before joules came. */
static void add_learned(cJSON *o, const struct smoe_worker *w, uint64_t reference)
{
    const struct smoe_estimate *power = &w->learned.power;
    struct smoe_worker_doubts d = smoe_worker_doubts(w, reference, true);
    double parcel = smoe_learned_cost(&w->learned, SMOE_FORWARD)->value[1] +
                    2 * smoe_learned_cost(&w->learned, SMOE_BACKWARD)->value[1];
    smoe_json_add_number(o, "cycles_per_visit_error", w->reference_flops ? d.cycles_per_visit : 0);
    smoe_json_add_number(o, "cycles_per_parcel", parcel * (double)w->reference_flops);
    smoe_json_add_number(o, "efficiency_error", smoe_estimate_error(&w->learned.share, 0));
    smoe_json_add_number(o, "kappa", smoe_worker_kappa(w));
    add_known(o, "kappa_error", power->n, d.kappa);
    add_known(o, "static_w", power->n, smoe_learned_static_w(&w->learned, NULL));
    add_known(o, "static_w_error", power->n, d.static_w);
    smoe_json_add_u64(o, "observations_rejected",
                      w->learned.cost[SMOE_FORWARD].rejected +
                          w->learned.cost[SMOE_BACKWARD].rejected + w->learned.share.rejected +
                          power->rejected);
    smoe_json_add_u64(o, "changes_noticed",
                      w->learned.cost[SMOE_FORWARD].restarts +
                          w->learned.cost[SMOE_BACKWARD].restarts + w->learned.share.restarts +
                          power->restarts);
}

/* Direct links to other workers, and bytes of sharded layers sent over them and through the gateway. */
static void add_links(cJSON *o, const struct smoe_core *core, uint32_t index)
{
    struct smoe_links_view links = smoe_core_links(core, index);
    smoe_json_add_u64(o, "links_up", links.up);
    smoe_json_add_u64(o, "links_relayed", links.relayed);
    smoe_json_add_u64(o, "direct_bytes", links.direct_bytes);
    smoe_json_add_u64(o, "relayed_bytes", links.relayed_bytes);
}

static cJSON *worker_json(const struct smoe_core *core, uint32_t index, uint64_t now_ns)
{
    const struct smoe_worker *w = &smoe_core_fleet(core)->workers[index];
    cJSON *o = cJSON_CreateObject();
    uint64_t reference = w->reference_flops ? w->reference_flops : 1;
    double executable;
    cJSON_AddStringToObject(o, "id", w->id);
    cJSON_AddStringToObject(o, "state", smoe_worker_state_name(w->state));
    smoe_json_add_number(o, "backlog_visits",
                         smoe_worker_backlog(w, reference, true, now_ns, &executable));
    smoe_json_add_number(o, "backlog_executable_visits", executable);
    smoe_json_add_number(o, "energy_debt_j", w->debt_j);
    smoe_json_add_number(o, "energy_budget_w", w->budget_w);
    smoe_json_add_number(o, "energy_budget_set_w", w->set_budget_w);
    smoe_json_add_number(o, "energy_budget_own_w", w->own_budget_w);
    smoe_json_add_number(o, "energy_cap_w", w->cap_w);
    smoe_json_add_number(o, "watts", w->learned.watts);
    smoe_json_add_number(o, "joules", w->joules);
    cJSON_AddStringToObject(o, "energy_source", w->has_report ? w->report.energy_source : "none");
    smoe_json_add_number(o, "freq_max_hz", w->freq_max_hz);
    smoe_json_add_u64(o, "freq_decided_khz", w->freq_khz_sent);
    smoe_json_add_u64(o, "freq_khz", w->has_report ? w->report.freq_khz : 0);
    smoe_json_add_u64(o, "freq_requested_khz", w->has_report ? w->report.freq_requested_khz : 0);
    smoe_json_add_u64(o, "freq_achieved_khz", w->has_report ? w->report.freq_achieved_khz : 0);
    cJSON_AddStringToObject(o, "freq_driver", w->freq_driver);
    cJSON_AddStringToObject(o, "driver_note", w->has_report ? w->report.driver_note : "");
    smoe_json_add_number(o, "temperature_c", w->has_report ? w->report.temperature_c : 0);
    smoe_json_add_number(o, "efficiency", smoe_worker_efficiency(w));
    smoe_json_add_number(o, "cycles_per_visit",
                         w->reference_flops ? smoe_worker_cycles_per_visit(w, reference, true) : 0);
    add_learned(o, w, reference);
    smoe_json_add_number(o, "visits_per_second", measured_rate(w));
    smoe_json_add_u64(o, "visits_done", w->account.settled);
    smoe_json_add_u64(o, "visits_routed", w->account.submitted);
    smoe_json_add_u64(o, "visits_failed", w->account.failed);
    smoe_json_add_u64(o, "in_flight", w->account.in_flight);
    smoe_json_add_u64(o, "busy_ns", w->has_report ? w->report.busy_ns : 0);
    smoe_json_add_u64(o, "active_ns", w->has_report ? w->report.active_ns : 0);
    smoe_json_add_u64(o, "late_results", w->late_frames);
    smoe_json_add_u64(o, "drift_flops", w->drift_flops);
    add_links(o, core, index);
    cJSON_AddItemToObject(o, "experts", experts_of(core, index));
    return o;
}

static cJSON *workers_json(const struct smoe_core *core, uint64_t now_ns)
{
    const struct smoe_fleet *fleet = smoe_core_fleet(core);
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < fleet->n_used; i++)
        if (fleet->workers[i].state != SMOE_WORKER_FREE)
            cJSON_AddItemToArray(list, worker_json(core, i, now_ns));
    return list;
}

static void add_hosts(cJSON *o, const struct smoe_fleet *fleet, const struct smoe_layer_view *layer,
                      uint32_t expert)
{
    cJSON *list = cJSON_AddArrayToObject(o, "hosts");
    for (uint32_t r = layer->replica_first[expert]; r < layer->replica_first[expert + 1]; r++)
        cJSON_AddItemToArray(list, cJSON_CreateString(fleet->workers[layer->replica_worker[r]].id));
}

/* What it exchanged in the last iteration, in bytes. */
static void add_traffic(cJSON *o, const struct smoe_shard_traffic *t)
{
    cJSON *x = cJSON_AddObjectToObject(o, "traffic");
    smoe_json_add_u64(x, "gradient_sent", t->exchanged.gradient_sent);
    smoe_json_add_u64(x, "gradient_received", t->exchanged.gradient_received);
    smoe_json_add_u64(x, "follow_sent", t->exchanged.follow_sent);
    smoe_json_add_u64(x, "follow_received", t->exchanged.follow_received);
    smoe_json_add_u64(x, "weight_sent", t->exchanged.weight_sent);
    smoe_json_add_u64(x, "weight_received", t->exchanged.weight_received);
    smoe_json_add_u64(x, "state_sent", t->state_sent);
    smoe_json_add_u64(x, "state_received", t->state_received);
    smoe_json_add_u64(x, "uploaded", t->uploaded);
    smoe_json_add_u64(x, "direct", t->direct);
}

/* How long the parts of its iterations took, in seconds, all together. */
static void add_parts(cJSON *o, const uint64_t *part_ns)
{
    static const char *const names[SMOE_PARTS] = {[SMOE_PART_COMPUTING] = "computing",
                                                  [SMOE_PART_STEPPING] = "stepping",
                                                  [SMOE_PART_PLACING] = "placing",
                                                  [SMOE_PART_WEIGHTS] = "weights"};
    cJSON *x = cJSON_AddObjectToObject(o, "parts_s");
    for (int p = 0; p < SMOE_PARTS; p++)
        smoe_json_add_number(x, names[p], 1e-9 * (double)part_ns[p]);
}

/* Elements of every expert's optimizer state: who owns and follows how many, and how many have one copy only. */
static void add_shards(cJSON *o, const struct smoe_fleet *fleet,
                       const struct smoe_layer_view *layer)
{
    cJSON *list = cJSON_AddArrayToObject(o, "shards");
    uint64_t single = 0;
    for (uint32_t i = 0; i < layer->map->n_pieces; i++)
        single +=
            layer->map->pieces[i].follower == SMOE_SHARD_NONE ? layer->map->pieces[i].length : 0;
    for (uint32_t w = 0; w < fleet->n_used; w++) {
        uint64_t owned = 0, followed = 0;
        for (uint32_t i = 0; i < layer->map->n_pieces; i++) {
            const struct smoe_shard_piece *p = &layer->map->pieces[i];
            owned += p->owner == w ? p->length : 0;
            followed += p->follower == w ? p->length : 0;
        }
        if (!owned && !followed)
            continue;
        cJSON *x = cJSON_CreateObject();
        cJSON_AddStringToObject(x, "worker", fleet->workers[w].id);
        smoe_json_add_u64(x, "owned", owned);
        smoe_json_add_u64(x, "followed", followed);
        add_traffic(x, &layer->traffic[w]);
        cJSON_AddItemToArray(list, x);
    }
    cJSON_AddStringToObject(o, "wire",
                            layer->shape.wire == SMOE_WIRE_BF16    ? "bf16"
                            : layer->shape.dtype == SMOE_DTYPE_F64 ? "fp64"
                                                                   : "fp32");
    smoe_json_add_u64(o, "elements", layer->map->n_pieces ? layer->map->elements : 0);
    smoe_json_add_u64(o, "iterations", layer->iterations);
    add_parts(o, layer->part_ns);
    smoe_json_add_u64(o, "elements_single", layer->map->n_pieces ? single : 0);
}

/* The frozen router in force, or null. */
static void add_router(cJSON *o, const struct smoe_frozen_head *router)
{
    if (!router->version) {
        cJSON_AddNullToObject(o, "router");
        return;
    }
    cJSON *r = cJSON_AddObjectToObject(o, "router");
    smoe_json_add_u64(r, "version", router->version);
    cJSON_AddStringToObject(r, "kind", router->kind == SMOE_FROZEN_TABLE ? "table" : "linear");
    smoe_json_add_u64(r, "inputs", router->inputs);
    add_hex(r, "digest", router->digest);
}

/* What the layer's owner said last of how its routing changes, or null. Shares that it does not know are null. */
static void add_routing_report(cJSON *o, const struct smoe_msg_routing_report *r)
{
    if (!r->tokens) {
        cJSON_AddNullToObject(o, "routing");
        return;
    }
    cJSON *x = cJSON_AddObjectToObject(o, "routing");
    cJSON_AddStringToObject(x, "router", r->router);
    smoe_json_add_u64(x, "step", r->step);
    smoe_json_add_u64(x, "tokens_watched", r->tokens);
    add_known(x, "changed", r->changed >= 0, r->changed);
    add_known(x, "frozen_agreement", r->agreement >= 0, r->agreement);
    cJSON *f = cJSON_AddObjectToObject(x, "fluctuation");
    add_known(f, "20", r->fluctuation_20 >= 0, r->fluctuation_20);
    add_known(f, "50", r->fluctuation_50 >= 0, r->fluctuation_50);
    add_known(f, "80", r->fluctuation_80 >= 0, r->fluctuation_80);
}

static cJSON *layer_json(const struct smoe_core *core, const struct smoe_layer_view *layer)
{
    const struct smoe_fleet *fleet = smoe_core_fleet(core);
    cJSON *o = cJSON_CreateObject();
    uint64_t total = 0;
    cJSON_AddStringToObject(o, "layer", layer->name);
    add_hex(o, "run", layer->run);
    cJSON_AddStringToObject(o, "state", smoe_layer_state_name(layer->state));
    smoe_json_add_u64(o, "step", layer->step);
    smoe_json_add_u64(o, "d_model", layer->shape.d_model);
    smoe_json_add_u64(o, "d_ff", layer->shape.d_ff);
    smoe_json_add_u64(o, "staleness", layer->shape.staleness);
    add_router(o, &layer->router);
    add_routing_report(o, layer->routing);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        total += layer->experts[e].account.submitted;
    cJSON *list = cJSON_AddArrayToObject(o, "experts");
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        const struct smoe_expert_view *expert = &layer->experts[e];
        cJSON *x = cJSON_CreateObject();
        smoe_json_add_u64(x, "expert", e);
        if (expert->worker != SMOE_NO_SESSION)
            cJSON_AddStringToObject(x, "worker", fleet->workers[expert->worker].id);
        else
            cJSON_AddNullToObject(x, "worker");
        if (expert->follower != SMOE_NO_WORKER && /* not one that is only expected */
            smoe_worker_here(&fleet->workers[expert->follower]))
            cJSON_AddStringToObject(x, "copy", fleet->workers[expert->follower].id);
        else
            cJSON_AddNullToObject(x, "copy");
        cJSON_AddBoolToObject(x, "copying", expert->filling != SMOE_NO_SESSION);
        smoe_json_add_u64(x, "visits", expert->account.submitted);
        smoe_json_add_u64(x, "in_flight", expert->account.in_flight);
        smoe_json_add_number(x, "share",
                             total ? (double)expert->account.submitted / (double)total : 0);
        if (layer->sharded)
            add_hosts(x, fleet, layer, e);
        cJSON_AddItemToArray(list, x);
    }
    if (layer->sharded)
        add_shards(o, fleet, layer);
    return o;
}

static cJSON *layers_json(const struct smoe_core *core)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer_view layer = smoe_core_layer(core, l);
        if (layer.state != SMOE_LAYER_FREE)
            cJSON_AddItemToArray(list, layer_json(core, &layer));
    }
    return list;
}

static cJSON *trainers_json(const struct smoe_core *core)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < smoe_core_n_trainers(core); i++) {
        struct smoe_trainer_view t = smoe_core_trainer(core, i);
        if (!t.live)
            continue;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", t.name);
        cJSON_AddBoolToObject(o, "connected", t.connected);
        smoe_json_add_u64(o, "step", t.step);
        smoe_json_add_u64(o, "attempt", t.attempt);
        smoe_json_add_u64(o, "batches", t.batches);
        smoe_json_add_u64(o, "batches_ahead", t.ahead);
        cJSON_AddStringToObject(o, "waits_for", t.waits_for);
        add_account(o, &t.account);
        cJSON_AddItemToArray(list, o);
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
    cJSON_AddStringToObject(o, "policy", smoe_policy_name(t->settings.policy));
    cJSON_AddStringToObject(o, "consistency",
                            t->settings.consistency == SMOE_CONSISTENCY_STRICT ? "strict" : "soft");
    smoe_json_add_number(o, "v", t->settings.v);
    smoe_json_add_number(o, "mu", t->settings.mu);
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
    cJSON_AddStringToObject(o, "waiting", waiting);
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
    list = cJSON_AddArrayToObject(o, "workers");
    for (uint32_t i = 0; i < q->n; i++) {
        const struct smoe_conduct *c = &q->conducts[i];
        if (!smoe_quarantine_find(q, &rules, c->worker, now_ns))
            continue;
        cJSON *w = cJSON_CreateObject();
        cJSON_AddStringToObject(w, "id", c->worker);
        smoe_json_add_u64(w, "strikes", c->strikes);
        smoe_json_add_number(w, "out_s", (double)smoe_quarantine_left_ns(c, &rules, now_ns) * 1e-9);
        cJSON_AddStringToObject(w, "why", c->why);
        cJSON_AddItemToArray(list, w);
    }
    return o;
}

static cJSON *trace_json(const struct smoe_report_trace *t)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "file", t->file);
    smoe_json_add_u64(o, "bytes", t->bytes);
    smoe_json_add_u64(o, "records", t->records);
    smoe_json_add_u64(o, "lost", t->lost);
    cJSON_AddStringToObject(o, "trouble", t->trouble);
    return o;
}

static cJSON *status_json(const struct smoe_gateway *gateway, const struct smoe_report_context *c)
{
    const struct smoe_core *core = smoe_gateway_core(gateway);
    struct smoe_core_totals t;
    cJSON *o = cJSON_CreateObject();
    smoe_core_totals(core, &t);
    cJSON_AddStringToObject(o, "version", c->version);
    cJSON_AddStringToObject(o, "listen", c->listen);
    cJSON_AddBoolToObject(o, "draining", t.draining);
    smoe_json_add_number(o, "uptime_s", (double)(c->now_ns - c->started_ns) * 1e-9);
    smoe_json_add_u64(o, "epoch", t.epoch);
    smoe_json_add_u64(o, "steps", t.steps);
    add_slots(o, &t);
    add_routing(o, &t);
    cJSON *ledger = cJSON_AddObjectToObject(o, "ledger");
    add_account(ledger, &t.account);
    for (int s = SMOE_VISIT_WAITING; s <= SMOE_VISIT_GRADIENT_QUEUED; s++)
        smoe_json_add_u64(ledger, smoe_visit_state_name((enum smoe_visit_state)s),
                          t.account.now[s]);
    add_io(cJSON_AddObjectToObject(o, "io"), gateway, &t, c->waiting);
    cJSON_AddItemToObject(o, "quarantine", quarantine_json(core, &t.settings, c->now_ns));
    cJSON *security = cJSON_AddObjectToObject(o, "security");
    cJSON_AddStringToObject(security, "transport", c->security ? c->security : "none");
    smoe_json_add_u64(security, "keys", c->keys);
    smoe_json_add_u64(security, "refused", c->refused);
    cJSON *journal = cJSON_AddObjectToObject(o, "journal");
    cJSON_AddStringToObject(journal, "trouble", c->journal_trouble);
    if (c->trace)
        cJSON_AddItemToObject(o, "trace", trace_json(c->trace));
    cJSON_AddItemToObject(o, "workers", workers_json(core, c->now_ns));
    cJSON_AddItemToObject(o, "layers", layers_json(core));
    cJSON_AddItemToObject(o, "trainers", trainers_json(core));
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
        cJSON_AddItemToObject(root, "workers", workers_json(core, context->now_ns));
        break;
    case SMOE_REPORT_EXPERTS:
        root = cJSON_CreateObject();
        cJSON_AddItemToObject(root, "layers", layers_json(core));
        break;
    }
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    return text;
}
