/* SPDX-License-Identifier: Apache-2.0
 *
 * What an operator asks of the gateway: each an event for the core.
 */
#include "daemon/gateway/gateway_state.h"

void smoe_gateway_configure(struct smoe_gateway *gw, const struct smoe_core_settings *settings,
                            uint64_t now_ns)
{
    struct smoe_event event = {
        .type = SMOE_EVENT_CONFIGURE, .now_ns = now_ns, .settings = settings};
    smoe_gate_step(gw, &event, NULL);
}

int smoe_gateway_drain(struct smoe_gateway *gw, const char *worker_id, bool drain, uint64_t now_ns)
{
    const struct smoe_fleet *fleet = smoe_core_fleet(gw->core);
    uint32_t i;
    bool known = smoe_fleet_find(fleet, worker_id, &i);
    if (!known && (drain || !smoe_quarantine_knows(smoe_core_quarantine(gw->core), worker_id)))
        return SMOE_EUNKNOWN;
    if (drain && !smoe_worker_here(&fleet->workers[i]))
        return SMOE_ESTATE;
    struct smoe_event event = {
        .type = SMOE_EVENT_DRAIN, .now_ns = now_ns, .worker_id = worker_id, .drain = drain};
    smoe_gate_step(gw, &event, NULL);
    return 0;
}

int smoe_gateway_set_budget(struct smoe_gateway *gw, const char *worker_id, double watts,
                            uint64_t now_ns)
{
    struct smoe_event event = {
        .type = SMOE_EVENT_BUDGET, .now_ns = now_ns, .worker_id = worker_id, .budget_w = watts};
    smoe_gate_step(gw, &event, NULL);
    return smoe_fleet_budget(smoe_core_fleet(gw->core), worker_id) == watts ? 0 : SMOE_ELIMIT;
}

void smoe_gateway_shutdown(struct smoe_gateway *gw, uint64_t now_ns)
{
    struct smoe_event event = {.type = SMOE_EVENT_SHUTDOWN, .now_ns = now_ns};
    smoe_gate_step(gw, &event, NULL);
}
