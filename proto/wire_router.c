/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages about frozen routers, and the head that names one in others.
 */
#include "proto/wire_fields.h"

int smoe_fill_head(struct smoe_arena *arena, const struct smoe_frozen_head *m,
                   Stablemoe__V1__RouterHead **ret)
{
    *ret = NULL;
    if (!m->version)
        return 0;
    Stablemoe__V1__RouterHead *p = smoe_arena_alloc(arena, sizeof *p);
    if (!p)
        return SMOE_ETOOBIG;
    stablemoe__v1__router_head__init(p);
    p->version = m->version;
    p->kind = (Stablemoe__V1__RouterKind)m->kind;
    p->inputs = m->inputs;
    p->digest = m->digest;
    *ret = p;
    return 0;
}

int smoe_read_head(struct smoe_reader *r, const Stablemoe__V1__RouterHead *p,
                   struct smoe_frozen_head *m)
{
    int rc;
    *m = (struct smoe_frozen_head){.version = 0};
    if (!p)
        return 0;
    if ((rc = smoe_check_range(r, "router.version", p->version, 1, UINT64_MAX)) ||
        (rc = smoe_check_range(r, "router.kind", (uint64_t)p->kind, SMOE_FROZEN_TABLE,
                               SMOE_FROZEN_LINEAR)) ||
        (rc = smoe_check_range(r, "router.inputs", p->inputs, 1, SMOE_FROZEN_INPUTS_MAX)))
        return rc;
    *m = (struct smoe_frozen_head){p->version, (uint32_t)p->kind, p->inputs, p->digest};
    return 0;
}

int smoe_fill_freeze(struct smoe_arena *arena, const struct smoe_msg_freeze *m,
                     Stablemoe__V1__Freeze *p)
{
    p->request = m->request;
    p->layer = m->layer;
    return smoe_fill_head(arena, &m->router, &p->router);
}

int smoe_read_freeze(struct smoe_reader *r, const Stablemoe__V1__Freeze *p,
                     struct smoe_msg_freeze *m)
{
    m->request = p->request;
    m->layer = p->layer;
    int rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1);
    if (rc == 0 && !p->router)
        rc = smoe_check_range(r, "router.version", 0, 1, UINT64_MAX);
    return rc ? rc : smoe_read_head(r, p->router, &m->router);
}

int smoe_fill_router_query(struct smoe_arena *arena, const struct smoe_msg_router_query *m,
                           Stablemoe__V1__RouterQuery *p)
{
    (void)arena;
    p->request = m->request;
    p->layer = m->layer;
    return 0;
}

int smoe_read_router_query(struct smoe_reader *r, const Stablemoe__V1__RouterQuery *p,
                           struct smoe_msg_router_query *m)
{
    *m = (struct smoe_msg_router_query){p->request, p->layer};
    return smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1);
}

int smoe_fill_router_state(struct smoe_arena *arena, const struct smoe_msg_router_state *m,
                           Stablemoe__V1__RouterState *p)
{
    p->request = m->request;
    p->layer = m->layer;
    return smoe_fill_head(arena, &m->router, &p->router);
}

int smoe_read_router_state(struct smoe_reader *r, const Stablemoe__V1__RouterState *p,
                           struct smoe_msg_router_state *m)
{
    m->request = p->request;
    m->layer = p->layer;
    int rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1);
    return rc ? rc : smoe_read_head(r, p->router, &m->router);
}

int smoe_fill_routing_report(struct smoe_arena *arena, const struct smoe_msg_routing_report *m,
                             Stablemoe__V1__RoutingReport *p)
{
    (void)arena;
    p->layer = m->layer;
    p->router = smoe_unconst(m->router);
    p->step = m->step;
    p->tokens = m->tokens;
    p->changed = m->changed;
    p->agreement = m->agreement;
    p->fluctuation_20 = m->fluctuation_20;
    p->fluctuation_50 = m->fluctuation_50;
    p->fluctuation_80 = m->fluctuation_80;
    return 0;
}

int smoe_read_routing_report(struct smoe_reader *r, const Stablemoe__V1__RoutingReport *p,
                             struct smoe_msg_routing_report *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_read_name(r, "router", p->router, m->router)) ||
        (rc = smoe_check_range(r, "tokens", p->tokens, 1, UINT64_MAX)) ||
        (rc = smoe_check_double(r, "changed", p->changed, -1, 1)) ||
        (rc = smoe_check_double(r, "agreement", p->agreement, -1, 1)) ||
        (rc = smoe_check_double(r, "fluctuation_20", p->fluctuation_20, -1, 1)) ||
        (rc = smoe_check_double(r, "fluctuation_50", p->fluctuation_50, -1, 1)) ||
        (rc = smoe_check_double(r, "fluctuation_80", p->fluctuation_80, -1, 1)))
        return rc;
    m->layer = p->layer;
    m->step = p->step;
    m->tokens = p->tokens;
    m->changed = p->changed;
    m->agreement = p->agreement;
    m->fluctuation_20 = p->fluctuation_20;
    m->fluctuation_50 = p->fluctuation_50;
    m->fluctuation_80 = p->fluctuation_80;
    return 0;
}
