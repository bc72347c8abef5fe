/* SPDX-License-Identifier: Apache-2.0
 *
 * What is said on a direct link.
 *
 *     dialled:   LinkHello with the key -->  <-- LinkHello: up
 *     accepted:  --> LinkHello with a link that the gateway has told of, and its key; LinkHello -->: up
 *     up:        LinkPart <-> LinkTaken
 *
 * Whoever says anything else is not answered: the connection is closed. A peer gives only what is due from it
 * (dues.c); what is wrong with that ends the link, not the session with the gateway, through which the peer then sends
 * the same once more, and is judged there.
 */
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"

#define OUTBOX_BYTES_MAX \
    (UINT64_C(1) << 40) /* SMOE_LINK_BYTES_MAX bounds it, but for a single part */

/* ---- beginning and end ---- */

struct smoe_agent_link *smoe_agent_link_new(struct smoe_agent *a, uint64_t id, const char *key_name)
{
    struct smoe_agent_link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->agent = a;
    link->id = id;
    link->dialled = id != 0;
    strncpy(link->key_name, key_name, sizeof link->key_name - 1);
    smoe_channel_init(&link->channel, a->wire, &a->budget, SMOE_BY_LINK, OUTBOX_BYTES_MAX);
    link->channel.tensor_bytes_max = a->channel.tensor_bytes_max;
    smoe_list_push_back(&a->links, &link->node);
    const struct smoe_agent_peer *p = id ? smoe_agent_peer_by_link(a, id) : NULL;
    link->over = id && !p;
    if (!p)
        return link;
    struct smoe_message m = {.type = SMOE_MSG_LINK_HELLO};
    m.link_hello = (struct smoe_msg_link_hello){p->link, p->key};
    smoe_agent_link_send(link, &m, NULL, 0);
    return link;
}

void smoe_agent_link_free(struct smoe_agent_link *link)
{
    if (!link)
        return;
    smoe_list_remove(&link->node);
    if (link->peer)
        smoe_agent_peer_use(link->agent, link->peer, NULL);
    smoe_channel_release(&link->channel);
    free(link);
}

void smoe_agent_link_send(struct smoe_agent_link *link, const struct smoe_message *m,
                          const struct smoe_segment *segments, size_t n_segments)
{
    if (!link->over && smoe_channel_send(&link->channel, m, segments, n_segments))
        link->over = true;
}

/* ---- hello ---- */

/* In a time that does not depend on where they differ. */
static bool same_key(const struct smoe_link_key *a, const struct smoe_link_key *b)
{
    uint64_t difference = 0;
    for (size_t i = 0; i < sizeof a->words / sizeof *a->words; i++)
        difference |= a->words[i] ^ b->words[i];
    return difference == 0;
}

static int on_hello(struct smoe_agent_link *link, const struct smoe_msg_link_hello *m,
                    struct smoe_why *why)
{
    struct smoe_agent *a = link->agent;
    struct smoe_agent_peer *p = smoe_agent_peer_by_link(a, m->link);
    bool known = p && p->dial == link->dialled && (!link->dialled || link->id == m->link);
    if (link->peer)
        return smoe_fail(why, SMOE_ESTATE, "LINK_HELLO: came already");
    if (!known || (!link->dialled && (!same_key(&m->key, &p->key) ||
                                      (*link->key_name && strcmp(link->key_name, p->name) != 0))))
        return smoe_fail(why, SMOE_EROLE, "LINK_HELLO: no such link was told of here");
    link->id = m->link;
    if (!link->dialled) {
        struct smoe_message answer = {.type = SMOE_MSG_LINK_HELLO};
        answer.link_hello.link = m->link;
        smoe_agent_link_send(link, &answer, NULL, 0);
    }
    link->peer = p;
    smoe_agent_peer_use(a, p, link);
    return 0;
}

/* ---- parts ---- */

static void say_taken(struct smoe_agent_link *link, uint64_t number)
{
    struct smoe_message m = {.type = SMOE_MSG_LINK_TAKEN};
    m.link_taken.number = number;
    smoe_agent_link_send(link, &m, NULL, 0);
}

static int expect(void *context, const struct smoe_message *m, size_t tensor_bytes,
                  struct smoe_why *why)
{
    struct smoe_agent_link *link = context;
    if (!link->peer)
        return smoe_fail(why, SMOE_ESTATE, "%s: before LINK_HELLO",
                         smoe_message_name((uint16_t)m->type));
    int rc = smoe_agent_due_expect(link->agent, link->peer, m->link_part.number, tensor_bytes, why);
    if (rc == SMOE_CHANNEL_SKIP)
        say_taken(link, m->link_part.number); /* nobody waits for it, nor shall its sender */
    return rc;
}

static int on_part(struct smoe_agent_link *link, uint64_t number, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    bool kept = false;
    int rc = smoe_agent_due_came(link->agent, link->peer, number, blob, &kept, why);
    if (rc == 0 && !kept)
        say_taken(link, number);
    return rc;
}

static int deliver(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    struct smoe_agent_link *link = context;
    if (link->over)
        return smoe_fail(why, SMOE_ECLOSED, "the link was taken back");
    if (m->type == SMOE_MSG_LINK_HELLO)
        return on_hello(link, &m->link_hello, why);
    if (!link->peer)
        return smoe_fail(why, SMOE_ESTATE, "%s: before LINK_HELLO",
                         smoe_message_name((uint16_t)m->type));
    if (m->type == SMOE_MSG_LINK_PART)
        return on_part(link, m->link_part.number, blob, why);
    smoe_agent_given(link->peer, m->link_taken.number);
    return 0;
}

/* ---- bytes ---- */

uint8_t *smoe_agent_link_direct(const struct smoe_agent_link *link, size_t *ret_room)
{
    return smoe_channel_direct(&link->channel, ret_room);
}

int smoe_agent_link_received(struct smoe_agent_link *link, const uint8_t *data, size_t n,
                             struct smoe_why *why)
{
    struct smoe_channel_owner owner = {link, expect, deliver};
    if (link->over)
        return smoe_fail(why, SMOE_ECLOSED, "the link was taken back");
    int rc = smoe_channel_receive(&link->channel, data, n, &owner, why);
    link->over |= rc != 0;
    return rc;
}

size_t smoe_agent_link_peek(const struct smoe_agent_link *link, struct iovec *iovecs, size_t max)
{
    return link->over ? 0 : smoe_outbox_peek(&link->channel.out, iovecs, max);
}

void smoe_agent_link_consume(struct smoe_agent_link *link, size_t bytes)
{
    smoe_outbox_consume(&link->channel.out, bytes);
}

bool smoe_agent_link_up(const struct smoe_agent_link *link)
{
    return link->peer != NULL;
}

const char *smoe_agent_link_peer(const struct smoe_agent_link *link)
{
    return link->peer ? link->peer->name : NULL;
}

bool smoe_agent_link_over(const struct smoe_agent_link *link)
{
    return link->over;
}
