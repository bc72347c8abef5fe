/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of sharded layers: elements of gradients, weights and optimizer state on their way between workers.
 */
#include "proto/wire_fields.h"

int smoe_fill_shard_ask(struct smoe_arena *arena, const struct smoe_msg_shard_ask *m,
                        Stablemoe__V1__ShardAsk *p)
{
    (void)arena;
    p->number = m->number;
    p->kind = (Stablemoe__V1__ShardKind)m->kind;
    p->layer = m->layer;
    p->expert = m->expert;
    p->offset = m->offset;
    p->length = m->length;
    p->rank = m->rank;
    p->step = m->step;
    p->attempt = m->attempt;
    p->fill = m->fill;
    p->send = m->send;
    smoe_fill_peers(&m->peers, &p->n_peers, &p->peers);
    p->others = m->others;
    p->keep = m->keep;
    p->older = m->older;
    return 0;
}

static int check_range(struct smoe_reader *r, int kind, uint32_t layer, uint32_t expert,
                       uint64_t offset, uint64_t length, uint32_t rank)
{
    int rc;
    if ((rc = smoe_check_range(r, "kind", (uint64_t)kind, SMOE_SHARD_GRADIENT, SMOE_SHARD_STATE)) ||
        (rc = smoe_check_range(r, "layer", layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "expert", expert, 0, SMOE_EXPERTS_MAX - 1)) ||
        (rc = smoe_check_range(r, "offset", offset, 0, SMOE_PARAMETERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "length", length, 1, SMOE_PARAMETERS_MAX)))
        return rc;
    return smoe_check_range(r, "rank", rank, 0, SMOE_EXPERTS_MAX - 1);
}

int smoe_read_shard_ask(struct smoe_reader *r, const Stablemoe__V1__ShardAsk *p,
                        struct smoe_msg_shard_ask *m)
{
    *m = (struct smoe_msg_shard_ask){.number = p->number,
                                     .kind = (enum smoe_shard_kind)p->kind,
                                     .layer = p->layer,
                                     .expert = p->expert,
                                     .offset = p->offset,
                                     .length = p->length,
                                     .rank = p->rank,
                                     .step = p->step,
                                     .attempt = p->attempt,
                                     .fill = p->fill,
                                     .send = p->send,
                                     .others = p->others,
                                     .keep = p->keep,
                                     .older = p->older};
    int rc = smoe_read_peers(r, "peers", p->n_peers, p->peers, &m->peers);
    return rc ? rc
              : check_range(r, (int)p->kind, p->layer, p->expert, p->offset, p->length, p->rank);
}

int smoe_fill_shard_part(struct smoe_arena *arena, const struct smoe_msg_shard_part *m,
                         Stablemoe__V1__ShardPart *p)
{
    (void)arena;
    p->number = m->number;
    p->kind = (Stablemoe__V1__ShardKind)m->kind;
    p->layer = m->layer;
    p->expert = m->expert;
    p->offset = m->offset;
    p->length = m->length;
    p->rank = m->rank;
    p->step = m->step;
    p->attempt = m->attempt;
    p->fill = m->fill;
    smoe_fill_peers(&m->direct, &p->n_direct, &p->direct);
    p->again = m->again;
    p->older = m->older;
    return 0;
}

int smoe_read_shard_part(struct smoe_reader *r, const Stablemoe__V1__ShardPart *p,
                         struct smoe_msg_shard_part *m)
{
    int rc;
    *m = (struct smoe_msg_shard_part){.number = p->number,
                                      .kind = (enum smoe_shard_kind)p->kind,
                                      .layer = p->layer,
                                      .expert = p->expert,
                                      .offset = p->offset,
                                      .length = p->length,
                                      .rank = p->rank,
                                      .step = p->step,
                                      .attempt = p->attempt,
                                      .fill = p->fill,
                                      .again = p->again,
                                      .older = p->older};
    if ((rc = smoe_read_peers(r, "direct", p->n_direct, p->direct, &m->direct)) ||
        (rc = smoe_check_range(r, "again", p->again, 0, SMOE_WORKERS_MAX)))
        return rc;
    return check_range(r, (int)p->kind, p->layer, p->expert, p->offset, p->length, p->rank);
}

int smoe_fill_shard_taken(struct smoe_arena *arena, const struct smoe_msg_shard_taken *m,
                          Stablemoe__V1__ShardTaken *p)
{
    (void)arena;
    p->number = m->number;
    return 0;
}

int smoe_read_shard_taken(struct smoe_reader *r, const Stablemoe__V1__ShardTaken *p,
                          struct smoe_msg_shard_taken *m)
{
    (void)r;
    m->number = p->number;
    return 0;
}
