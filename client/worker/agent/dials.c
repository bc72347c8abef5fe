/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/agent/dials.h"

static struct smoe_dial *dial_of(struct smoe_dials *d, uint64_t link)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (d->dials[i].link == link)
            return &d->dials[i];
    return NULL;
}

/* Links that are still told of go on as they are. */
static void look(struct smoe_dials *d, const struct smoe_agent *agent)
{
    uint64_t version = 1 + smoe_agent_peers_version(agent);
    if (d->version == version)
        return;
    struct smoe_dials now = {.version = version};
    struct smoe_peer_view peer;
    for (uint32_t from = 0; smoe_agent_peer_from(agent, from, &peer); from = peer.number + 1) {
        const struct smoe_dial *before = dial_of(d, peer.link);
        if (!peer.dial || now.n == SMOE_WORKER_LINKS_MAX)
            continue;
        now.dials[now.n++] =
            before ? *before : (struct smoe_dial){peer.link, 0, SMOE_DIAL_PAUSE_MIN_NS};
    }
    *d = now;
}

static bool find_peer(const struct smoe_agent *agent, uint64_t link, struct smoe_peer_view *ret)
{
    for (uint32_t from = 0; smoe_agent_peer_from(agent, from, ret); from = ret->number + 1)
        if (ret->link == link)
            return true;
    return false;
}

bool smoe_dials_next(struct smoe_dials *d, const struct smoe_agent *agent, uint64_t now_ns,
                     struct smoe_peer_view *ret)
{
    look(d, agent);
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->dials[i].next_ns > now_ns || !find_peer(agent, d->dials[i].link, ret))
            continue;
        d->dials[i].next_ns = UINT64_MAX;
        return true;
    }
    return false;
}

void smoe_dials_ended(struct smoe_dials *d, uint64_t link, bool was_up, uint64_t now_ns)
{
    struct smoe_dial *dial = dial_of(d, link);
    if (!dial)
        return; /* it was taken back */
    if (was_up)
        dial->pause_ns = SMOE_DIAL_PAUSE_MIN_NS;
    dial->next_ns = now_ns + dial->pause_ns;
    dial->pause_ns =
        dial->pause_ns * 2 < SMOE_DIAL_PAUSE_MAX_NS ? dial->pause_ns * 2 : SMOE_DIAL_PAUSE_MAX_NS;
}

uint64_t smoe_dials_wake_ns(const struct smoe_dials *d)
{
    uint64_t wake_ns = UINT64_MAX;
    for (uint32_t i = 0; i < d->n; i++)
        wake_ns = d->dials[i].next_ns < wake_ns ? d->dials[i].next_ns : wake_ns;
    return wake_ns;
}
