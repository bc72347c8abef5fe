/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of direct links between workers.
 */
#include <string.h>

#include "proto/wire_fields.h"

#define TEXT_OF(p) smoe_unconst(p) /* protobuf-c wants char *, and only reads it */

/* ---- lists of peers, which messages of shards have too ---- */

void smoe_fill_peers(const struct smoe_peer_list *m, size_t *ret_n, uint32_t **ret)
{
    *ret_n = m->n;
    *ret = smoe_unconst(m->peers);
}

int smoe_read_peers(struct smoe_reader *r, const char *field, size_t n, const uint32_t *peers,
                    struct smoe_peer_list *m)
{
    int rc = smoe_check_range(r, field, n, 0, SMOE_TRANSFER_PEERS_MAX);
    if (rc == 0)
        rc = smoe_check_rising(r, field, n, peers, SMOE_WORKERS_MAX);
    if (rc)
        return rc;
    m->n = (uint32_t)n;
    if (n)
        memcpy(m->peers, peers, n * sizeof *peers);
    return 0;
}

/* ---- what the daemon says of links, and hears ---- */

int smoe_fill_peer(struct smoe_arena *arena, const struct smoe_msg_peer *m, Stablemoe__V1__Peer *p)
{
    (void)arena;
    p->peer = m->peer;
    p->name = TEXT_OF(m->name);
    p->address = TEXT_OF(m->address);
    p->link = m->link;
    p->key_0 = m->key.words[0];
    p->key_1 = m->key.words[1];
    p->key_2 = m->key.words[2];
    p->key_3 = m->key.words[3];
    p->dial = m->dial;
    return 0;
}

int smoe_read_peer(struct smoe_reader *r, const Stablemoe__V1__Peer *p, struct smoe_msg_peer *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "peer", p->peer, 0, SMOE_WORKERS_MAX - 1)) ||
        (rc = smoe_read_name(r, "name", p->name, m->name)))
        return rc;
    m->peer = p->peer;
    smoe_read_text(p->address, m->address, sizeof m->address);
    m->link = p->link;
    m->key = (struct smoe_link_key){{p->key_0, p->key_1, p->key_2, p->key_3}};
    m->dial = p->dial;
    return 0;
}

int smoe_fill_link_state(struct smoe_arena *arena, const struct smoe_msg_link_state *m,
                         Stablemoe__V1__LinkState *p)
{
    (void)arena;
    p->peer = m->peer;
    p->link = m->link;
    p->up = m->up;
    return 0;
}

int smoe_read_link_state(struct smoe_reader *r, const Stablemoe__V1__LinkState *p,
                         struct smoe_msg_link_state *m)
{
    *m = (struct smoe_msg_link_state){p->peer, p->link, p->up};
    return smoe_check_range(r, "peer", p->peer, 0, SMOE_WORKERS_MAX - 1);
}

int smoe_fill_shard_due(struct smoe_arena *arena, const struct smoe_msg_shard_due *m,
                        Stablemoe__V1__ShardDue *p)
{
    Stablemoe__V1__ShardPart *part = smoe_arena_alloc(arena, sizeof *part);
    if (!part)
        return SMOE_ETOOBIG;
    stablemoe__v1__shard_part__init(part);
    p->from = m->from;
    p->part = part;
    return smoe_fill_shard_part(arena, &m->part, part);
}

int smoe_read_shard_due(struct smoe_reader *r, const Stablemoe__V1__ShardDue *p,
                        struct smoe_msg_shard_due *m)
{
    if (!p->part)
        return smoe_fail(r->why, SMOE_EFIELD, "SHARD_DUE.part: missing");
    m->from = p->from;
    int rc = smoe_check_range(r, "from", p->from, 0, SMOE_WORKERS_MAX - 1);
    return rc ? rc : smoe_read_shard_part(r, p->part, &m->part);
}

int smoe_fill_shard_sent(struct smoe_arena *arena, const struct smoe_msg_shard_sent *m,
                         Stablemoe__V1__ShardSent *p)
{
    (void)arena;
    p->number = m->number;
    smoe_fill_peers(&m->direct, &p->n_direct, &p->direct);
    return 0;
}

int smoe_read_shard_sent(struct smoe_reader *r, const Stablemoe__V1__ShardSent *p,
                         struct smoe_msg_shard_sent *m)
{
    m->number = p->number;
    return smoe_read_peers(r, "direct", p->n_direct, p->direct, &m->direct);
}

/* ---- what workers say on them ---- */

int smoe_fill_link_hello(struct smoe_arena *arena, const struct smoe_msg_link_hello *m,
                         Stablemoe__V1__LinkHello *p)
{
    (void)arena;
    p->link = m->link;
    p->key_0 = m->key.words[0];
    p->key_1 = m->key.words[1];
    p->key_2 = m->key.words[2];
    p->key_3 = m->key.words[3];
    return 0;
}

int smoe_read_link_hello(struct smoe_reader *r, const Stablemoe__V1__LinkHello *p,
                         struct smoe_msg_link_hello *m)
{
    m->link = p->link;
    m->key = (struct smoe_link_key){{p->key_0, p->key_1, p->key_2, p->key_3}};
    return smoe_check_range(r, "link", p->link, 1, UINT64_MAX);
}

int smoe_fill_link_part(struct smoe_arena *arena, const struct smoe_msg_link_part *m,
                        Stablemoe__V1__LinkPart *p)
{
    (void)arena;
    p->number = m->number;
    return 0;
}

int smoe_read_link_part(struct smoe_reader *r, const Stablemoe__V1__LinkPart *p,
                        struct smoe_msg_link_part *m)
{
    (void)r;
    m->number = p->number;
    return 0;
}

int smoe_fill_link_taken(struct smoe_arena *arena, const struct smoe_msg_link_taken *m,
                         Stablemoe__V1__LinkTaken *p)
{
    (void)arena;
    p->number = m->number;
    return 0;
}

int smoe_read_link_taken(struct smoe_reader *r, const Stablemoe__V1__LinkTaken *p,
                         struct smoe_msg_link_taken *m)
{
    (void)r;
    m->number = p->number;
    return 0;
}
