/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/gateway/report_parts.h"

#include <stdio.h>

/* Does the worker serve visits of the expert: as its host, or in one of its slots? */
static bool serves(const struct smoe_layer_view *layer, uint32_t expert, uint32_t worker)
{
    if (!layer->sharded)
        return layer->experts[expert].worker == worker;
    for (uint32_t r = layer->replica_first[expert]; r < layer->replica_first[expert + 1]; r++)
        if (layer->replica_worker[r] == worker)
            return true;
    return false;
}

static cJSON *experts_of(const struct smoe_core *core, uint32_t worker)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer_view layer = smoe_core_layer(core, l);
        for (uint32_t e = 0; layer.state != SMOE_LAYER_FREE && e < layer.shape.experts; e++) {
            char name[sizeof(smoe_name) + 16];
            if (!serves(&layer, e, worker))
                continue;
            snprintf(name, sizeof name, "%s/%u", layer.name, e);
            smoe_json_append(list, cJSON_CreateString(name));
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
    smoe_json_add_known(o, "kappa_error", power->n, d.kappa);
    smoe_json_add_known(o, "static_w", power->n, smoe_learned_static_w(&w->learned, NULL));
    smoe_json_add_known(o, "static_w_error", power->n, d.static_w);
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
    smoe_json_add_text(o, "id", w->id);
    smoe_json_add_text(o, "state", smoe_worker_state_name(w->state));
    smoe_json_add_bool(o, "drained", smoe_core_drained(core, index));
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
    smoe_json_add_text(o, "energy_source", w->has_report ? w->report.energy_source : "none");
    smoe_json_add_number(o, "freq_max_hz", w->freq_max_hz);
    smoe_json_add_u64(o, "freq_decided_khz", w->freq_khz_sent);
    smoe_json_add_u64(o, "freq_khz", w->has_report ? w->report.freq_khz : 0);
    smoe_json_add_u64(o, "freq_requested_khz", w->has_report ? w->report.freq_requested_khz : 0);
    smoe_json_add_u64(o, "freq_achieved_khz", w->has_report ? w->report.freq_achieved_khz : 0);
    smoe_json_add_text(o, "freq_driver", w->freq_driver);
    smoe_json_add_text(o, "driver_note", w->has_report ? w->report.driver_note : "");
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
    smoe_json_add(o, "experts", experts_of(core, index));
    return o;
}

cJSON *smoe_report_workers(const struct smoe_core *core, uint64_t now_ns)
{
    const struct smoe_fleet *fleet = smoe_core_fleet(core);
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < fleet->n_used; i++)
        if (fleet->workers[i].state != SMOE_WORKER_FREE)
            smoe_json_append(list, worker_json(core, i, now_ns));
    return list;
}
