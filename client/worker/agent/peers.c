/* SPDX-License-Identifier: Apache-2.0
 *
 * Peers, and what is on its way to them.
 *
 *     given --room--> sent --LinkTaken--> forgotten
 *        \___________/ the link breaks: waits for the new one to send it, or goes through the gateway (ShardPart.again)
 *
 * At most SMOE_LINK_BYTES_MAX are on a link unacknowledged; what is beyond waits here, and is bounded by the gateway,
 * which asks for no more than its window at a time. A part is one block of memory however many peers it is for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"
#include "common/base/wipe.h"

/* ---- who there is ---- */

static struct smoe_agent_peer *peer_of(struct smoe_list *node)
{
    return smoe_container_of(node, struct smoe_agent_peer, node);
}

struct smoe_agent_peer *smoe_agent_peer(const struct smoe_agent *a, uint32_t number)
{
    smoe_list_for_each (it, &a->peers)
        if (peer_of(it)->number == number)
            return peer_of(it);
    return NULL;
}

struct smoe_agent_peer *smoe_agent_peer_by_link(const struct smoe_agent *a, uint64_t link)
{
    smoe_list_for_each (it, &a->peers)
        if (peer_of(it)->link == link)
            return peer_of(it);
    return NULL;
}

const char *smoe_agent_id(const struct smoe_agent *a)
{
    return a->options.id;
}

void smoe_agent_set_peer_address(struct smoe_agent *a, const char *address)
{
    snprintf(a->peer_address, sizeof a->peer_address, "%s", address);
}

uint64_t smoe_agent_link_silence_ns(const struct smoe_agent *a)
{
    uint64_t slots_ns = 3 * a->slot_ns;
    uint64_t silence_ns = a->silence_ns > slots_ns ? a->silence_ns : slots_ns;
    if (silence_ns < SMOE_LINK_SILENCE_MIN_NS)
        return SMOE_LINK_SILENCE_MIN_NS;
    return silence_ns < SMOE_LINK_SILENCE_MAX_NS ? silence_ns : SMOE_LINK_SILENCE_MAX_NS;
}

uint64_t smoe_agent_peers_version(const struct smoe_agent *a)
{
    return a->peers_version;
}

bool smoe_agent_peer_from(const struct smoe_agent *a, uint32_t number, struct smoe_peer_view *ret)
{
    const struct smoe_agent_peer *first = NULL;
    smoe_list_for_each (it, &a->peers) {
        const struct smoe_agent_peer *p = peer_of(it);
        if (p->number >= number && (!first || p->number < first->number))
            first = p;
    }
    if (!first)
        return false;
    *ret = (struct smoe_peer_view){first->number, first->name, first->address,   first->link,
                                   &first->key,   first->dial, first->up != NULL};
    return true;
}

/* ---- what is on its way ---- */

static struct smoe_outgoing *outgoing_of(struct smoe_list *node)
{
    return smoe_container_of(node, struct smoe_outgoing, node);
}

static void forget_outgoing(struct smoe_outgoing *o)
{
    smoe_list_remove(&o->node);
    smoe_blob_unref(o->blob);
    free(o);
}

void smoe_agent_pump(struct smoe_agent_peer *p)
{
    smoe_list_for_each (it, &p->outgoing) {
        struct smoe_outgoing *o = outgoing_of(it);
        if (o->sent)
            continue;
        if (p->sent_bytes && p->sent_bytes + o->blob->bytes > SMOE_LINK_BYTES_MAX)
            return;
        struct smoe_message m = {.type = SMOE_MSG_LINK_PART};
        struct smoe_segment segment = {o->blob, o->blob->data, o->blob->bytes};
        m.link_part.number = o->part.number;
        smoe_agent_link_send(p->up, &m, &segment, 1);
        o->sent = true;
        p->sent_bytes += o->blob->bytes;
    }
}

bool smoe_agent_give(struct smoe_agent *a, uint32_t peer, const struct smoe_msg_shard_part *part,
                     struct smoe_blob *blob)
{
    struct smoe_agent_peer *p = smoe_agent_peer(a, peer);
    struct smoe_outgoing *o = p && p->up && !p->up->over ? calloc(1, sizeof *o) : NULL;
    if (!o)
        return false;
    o->part = *part;
    o->blob = smoe_blob_ref(blob);
    smoe_list_push_back(&p->outgoing, &o->node);
    smoe_agent_pump(p);
    return true;
}

void smoe_agent_given(struct smoe_agent_peer *p, uint64_t number)
{
    smoe_list_for_each_safe (it, &p->outgoing) {
        struct smoe_outgoing *o = outgoing_of(it);
        if (!o->sent || o->part.number != number)
            continue;
        p->sent_bytes -= o->blob->bytes;
        forget_outgoing(o);
    }
    smoe_agent_pump(p);
}

static void relay_all(struct smoe_agent *a, struct smoe_agent_peer *p)
{
    smoe_list_for_each_safe (it, &p->outgoing) {
        struct smoe_outgoing *o = outgoing_of(it);
        struct smoe_message m = {.type = SMOE_MSG_SHARD_PART};
        struct smoe_segment segment = {o->blob, o->blob->data, o->blob->bytes};
        m.shard_part = o->part;
        m.shard_part.again = p->number + 1;
        smoe_agent_send(a, &m, &segment, 1);
        forget_outgoing(o);
    }
}

void smoe_agent_peer_use(struct smoe_agent *a, struct smoe_agent_peer *p,
                         struct smoe_agent_link *link)
{
    struct smoe_message m = {.type = SMOE_MSG_LINK_STATE};
    m.link_state = (struct smoe_msg_link_state){p->number, p->link, link != NULL};
    if (p->up) {
        p->up->peer = NULL;
        p->up->over = true;
    }
    p->up = link;
    p->sent_bytes = 0;
    smoe_list_for_each (it, &p->outgoing)
        outgoing_of(it)->sent = false;
    smoe_agent_send(a, &m, NULL, 0);
    if (link)
        smoe_agent_pump(p);
    else
        relay_all(a, p);
}

/* ---- coming and going ---- */

static void drop_peer(struct smoe_agent *a, struct smoe_agent_peer *p)
{
    if (p->up)
        smoe_agent_peer_use(a, p, NULL);
    smoe_list_remove(&p->node);
    smoe_wipe(&p->key, sizeof p->key);
    free(p);
    a->peers_version++;
}

void smoe_agent_peer_told(struct smoe_agent *a, const struct smoe_msg_peer *m)
{
    struct smoe_agent_peer *p = smoe_agent_peer(a, m->peer);
    if (p)
        drop_peer(a, p);
    if (!m->link)
        return;
    p = calloc(1, sizeof *p);
    if (!p)
        return; /* it is reached through the gateway */
    p->number = m->peer;
    memcpy(p->name, m->name, sizeof p->name);
    memcpy(p->address, m->address, sizeof p->address);
    p->link = m->link;
    p->key = m->key;
    p->dial = m->dial;
    smoe_list_init(&p->outgoing);
    smoe_list_push_back(&a->peers, &p->node);
    a->peers_version++;
}

void smoe_agent_forget_peers(struct smoe_agent *a)
{
    while (!smoe_list_empty(&a->peers))
        drop_peer(a, peer_of(smoe_list_first(&a->peers)));
}

/* ---- invariants ---- */

void smoe_agent_check_peers(const struct smoe_agent *a)
{
    smoe_list_for_each (it, &a->peers) {
        const struct smoe_agent_peer *p = peer_of(it);
        size_t sent = 0;
        smoe_assert(p->link && a->link != SMOE_LINK_DOWN);
        smoe_assert(p->up ? p->up->peer == p && p->up->agent == a : smoe_list_empty(&p->outgoing));
        smoe_list_for_each (o, &p->outgoing)
            sent += outgoing_of(o)->sent ? outgoing_of(o)->blob->bytes : 0;
        smoe_assert(sent == p->sent_bytes);
    }
}
