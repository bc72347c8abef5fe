/* SPDX-License-Identifier: Apache-2.0
 *
 * Frozen routers in the gateway: the core says which one is in force (core/freezing.c), here is what it is
 * made of. A Freeze's raw part becomes a router before the core hears of it (`hand`); the core may take
 * it as a layer's next one, and says when it takes the old one's place. Tokens that come with codes or features
 * are scored when they arrive, by the router in force then, which is the one that their Submit names: from
 * there on they are like those that came with scores.
 *
 * What routers hold is charged to the gateway's budget of raw parts, which is what they came as.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/gateway/gateway_state.h"

/* ---- memory ---- */

static void release(struct smoe_gateway *gw, struct smoe_frozen *f)
{
    if (f->experts)
        smoe_budget_give(&gw->budget, smoe_frozen_memory(f->kind, f->inputs, f->experts));
    smoe_frozen_release(f);
}

/* SMOE_ENOMEMORY also where the budget does not allow it; else as smoe_frozen_init. */
static int make(struct smoe_gateway *gw, const struct smoe_frozen_head *head, uint32_t experts,
                const float *values, struct smoe_frozen *ret)
{
    int rc = smoe_frozen_shape(head->kind, head->inputs, experts);
    if (rc)
        return rc;
    size_t bytes = smoe_frozen_memory(head->kind, head->inputs, experts);
    if (!smoe_budget_take(&gw->budget, bytes))
        return SMOE_ENOMEMORY;
    rc = smoe_frozen_init(ret, head->kind, head->inputs, experts, values);
    if (rc)
        smoe_budget_give(&gw->budget, bytes);
    return rc;
}

/* Room in the journal for a router's values: a record that was given away cannot be taken back. */
static int journal_room(struct smoe_gateway *gw, size_t bytes)
{
    return gw->options.journal_room ? gw->options.journal_room(gw->options.journal_context, bytes)
                                    : 0;
}

/* ---- from Freeze to force ---- */

static int make_hand(struct smoe_gateway *gw, const struct smoe_msg_freeze *m, uint32_t experts,
                     const struct smoe_blob *blob, struct smoe_why *why)
{
    const float *values = (const float *)(const void *)blob->data;
    int rc = make(gw, &m->router, experts, values, &gw->routers.hand);
    if (rc == 0 && (rc = journal_room(gw, blob->bytes)))
        release(gw, &gw->routers.hand);
    if (rc == SMOE_ENOMEMORY)
        return smoe_fail(why, rc, "its %zu bytes find no room beside the raw parts held now",
                         smoe_frozen_memory(m->router.kind, m->router.inputs, experts));
    if (rc)
        return smoe_fail(why, rc, "%s",
                         rc == SMOE_ENOTFINITE ? "a value is not a finite number"
                                               : smoe_strerror(rc));
    uint64_t digest = gw->routers.hand.digest;
    if (digest == m->router.digest)
        return 0;
    smoe_gate_routers_drop_hand(gw);
    return smoe_fail(why, SMOE_EFIELD, "router.digest %016llx: the values have digest %016llx",
                     (unsigned long long)m->router.digest, (unsigned long long)digest);
}

void smoe_gate_routers_prepare(struct smoe_gateway *gw, const struct smoe_msg_freeze *m,
                               const struct smoe_blob *blob, struct smoe_event *event,
                               struct smoe_why *why)
{
    uint32_t experts = smoe_core_layer(gw->core, m->layer).shape.experts;
    uint64_t bytes = (uint64_t)m->router.inputs * experts * sizeof(float);
    event->refused = !blob || blob->bytes != bytes
                         ? smoe_fail(why, SMOE_ESHAPE, "the layer was replaced meanwhile")
                         : make_hand(gw, m, experts, blob, why);
    event->refused_why = why->text;
    event->router = &gw->routers.hand;
}

void smoe_gate_routers_drop_hand(struct smoe_gateway *gw)
{
    if (gw->routers.hand.experts) /* nobody took it, nor the room for it */
        (void)journal_room(gw, 0);
    release(gw, &gw->routers.hand);
}

void smoe_gate_routers_take(struct smoe_gateway *gw, uint32_t layer)
{
    struct smoe_frozen *next = &gw->routers.next[layer];
    smoe_assert(gw->routers.hand.experts);
    release(gw, next);
    *next = gw->routers.hand;
    gw->routers.hand = (struct smoe_frozen){.experts = 0};
}

void smoe_gate_routers_put_in_force(struct smoe_gateway *gw, uint32_t layer)
{
    smoe_assert(gw->routers.next[layer].experts);
    release(gw, &gw->routers.in_force[layer]);
    gw->routers.in_force[layer] = gw->routers.next[layer];
    gw->routers.next[layer] = (struct smoe_frozen){.experts = 0};
}

void smoe_gate_routers_free(struct smoe_gateway *gw, uint32_t layer)
{
    release(gw, &gw->routers.in_force[layer]);
    release(gw, &gw->routers.next[layer]);
}

void smoe_gate_routers_release(struct smoe_gateway *gw)
{
    smoe_gate_routers_drop_hand(gw);
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        smoe_gate_routers_free(gw, l);
}

/* ---- after a restart ---- */

static int restore(struct smoe_gateway *gw, uint32_t l, const struct smoe_restored_layer *from,
                   struct smoe_why *why)
{
    struct smoe_frozen *f = &gw->routers.in_force[l];
    int rc = make(gw, &from->router, from->layer.shape.experts, from->values, f);
    if (rc == SMOE_ENOMEMORY)
        return smoe_fail(why, rc,
                         "journal: the router of layer %s does not fit limits.tensors, or memory",
                         from->layer.name);
    if (rc == 0 && f->digest == from->router.digest)
        return 0;
    return smoe_fail(
        why, SMOE_EDATA,
        "journal: damaged: the router of layer %s is not the one that was frozen: move "
        "journal.db away and resume from checkpoints",
        from->layer.name);
}

int smoe_gate_routers_restore(struct smoe_gateway *gw, const struct smoe_restored *restored,
                              struct smoe_why *why)
{
    int rc = 0;
    for (uint32_t l = 0; restored && l < SMOE_LAYERS_MAX && !rc; l++) {
        struct smoe_layer_view layer = smoe_core_layer(gw->core, l);
        if (layer.state == SMOE_LAYER_FREE || !layer.router.version)
            continue;
        const struct smoe_restored_layer *from = smoe_restored_find(restored, layer.name);
        smoe_assert(from && from->values);
        rc = restore(gw, l, from, why);
    }
    return rc;
}

/* ---- scoring ---- */

/* The token that the router cannot read, in words; 0 if there is none. */
static int check_tokens(const struct smoe_frozen *f, uint32_t n, const struct smoe_blob *blob,
                        struct smoe_why *why)
{
    const uint32_t *codes = (const uint32_t *)(const void *)blob->data;
    const float *features = (const float *)(const void *)blob->data;
    bool table = f->kind == SMOE_FROZEN_TABLE;
    size_t bad =
        table ? smoe_frozen_bad_code(f, n, codes) : smoe_frozen_bad_features(f, n, features);
    if (bad == n)
        return 0;
    if (table)
        return smoe_fail(why, SMOE_EFIELD, "token %zu has code %u: the router has %u", bad,
                         codes[bad], f->inputs);
    return smoe_fail(why, SMOE_ENOTFINITE, "a feature of token %zu is not a finite number", bad);
}

bool smoe_gate_routers_stand(const struct smoe_gateway *gw, const struct smoe_msg_submit *m)
{
    const struct smoe_frozen *f = &gw->routers.in_force[m->layer];
    return !m->router_version || (f->experts && f->digest == m->router_digest);
}

int smoe_gate_routers_score(struct smoe_gateway *gw, const struct smoe_msg_submit *m,
                            const struct smoe_blob *blob, struct smoe_blob **ret_scores,
                            struct smoe_why *why)
{
    const struct smoe_frozen *f = &gw->routers.in_force[m->layer];
    int rc = check_tokens(f, m->tokens, blob, why);
    if (rc)
        return rc;
    struct smoe_blob *scores =
        smoe_blob_new(&gw->budget, (size_t)m->tokens * f->experts * sizeof(float));
    if (!scores)
        return smoe_fail(why, SMOE_ENOMEMORY, "no memory for the scores of %u tokens", m->tokens);
    float *to = (float *)(void *)scores->data;
    if (f->kind == SMOE_FROZEN_TABLE)
        smoe_frozen_score_codes(f, m->tokens, (const uint32_t *)(const void *)blob->data, to);
    else
        smoe_frozen_score_features(f, m->tokens, (const float *)(const void *)blob->data, to);
    *ret_scores = scores;
    return 0;
}
