/* SPDX-License-Identifier: Apache-2.0
 *
 * What gives way when memory is short. The gateway bounds what it sends before it has results (the
 * inbox) and the gradients it sends before it has theirs (as many bytes), and reads results at once; so
 * all that can fill the budget are kept parcels, and of those everything can be had again: what the
 * forward pass saved is computed again, and x is asked for again (Evicted, ParcelInputs). The newest go
 * first: gradients come in the order of the batches.
 */
#include "client/worker/agent/agent_state.h"

static bool fits(const struct smoe_agent *a, uint64_t bytes)
{
    return a->budget.used_bytes + bytes <= a->budget.max_bytes;
}

static struct smoe_agent_parcel *kept_before(struct smoe_agent *a, struct smoe_list *at)
{
    return at->prev == &a->kept ? NULL
                                : smoe_container_of(at->prev, struct smoe_agent_parcel, link);
}

static void drop_saved(struct smoe_agent *a, uint64_t bytes)
{
    struct smoe_agent_parcel *p = kept_before(a, &a->kept);
    for (; p && !fits(a, bytes); p = kept_before(a, &p->link)) {
        smoe_blob_unref(p->saved);
        p->saved = NULL;
    }
}

static void send_evicted(struct smoe_agent *a, const uint64_t *ids, size_t n)
{
    struct smoe_message m = {.type = SMOE_MSG_EVICTED};
    m.evicted = (struct smoe_msg_evicted){ids, n};
    if (n)
        smoe_agent_send(a, &m, NULL, 0);
}

/* A blob goes only with the last parcel that needs it, so this may take several. */
static void drop_inputs(struct smoe_agent *a, uint64_t bytes)
{
    uint64_t ids[SMOE_DECISION_PARCELS_MAX];
    size_t n = 0;
    struct smoe_agent_parcel *p = kept_before(a, &a->kept);
    for (; p && !fits(a, bytes); p = kept_before(a, &p->link)) {
        if (!p->x)
            continue;
        smoe_blob_unref(p->x_blob);
        p->x_blob = NULL;
        p->x = NULL;
        ids[n++] = p->id;
        if (n == SMOE_DECISION_PARCELS_MAX) {
            send_evicted(a, ids, n);
            n = 0;
        }
    }
    send_evicted(a, ids, n);
}

void smoe_agent_make_room(struct smoe_agent *a, uint64_t bytes)
{
    drop_saved(a, bytes);
    drop_inputs(a, bytes);
}

/* ---- x that comes again ---- */

int smoe_agent_parcel_inputs_bytes(struct smoe_agent *a, const struct smoe_msg_parcel_inputs *m,
                                   uint64_t *ret_bytes, struct smoe_why *why)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->n_parcels; i++) {
        const struct smoe_agent_parcel *p = smoe_agent_parcel(a, m->parcels[i]);
        if (!p || p->state != SMOE_PARCEL_STARVED)
            return smoe_fail(why, SMOE_EUNKNOWN, "PARCEL_INPUTS: parcel %llu does not wait for x",
                             (unsigned long long)m->parcels[i]);
        bytes += p->rows * smoe_agent_row_bytes(a, p->expert);
    }
    *ret_bytes = bytes;
    return 0;
}

int smoe_agent_parcel_inputs(struct smoe_agent *a, const struct smoe_msg_parcel_inputs *m,
                             struct smoe_blob *blob, struct smoe_why *why)
{
    size_t offset = 0;
    for (size_t i = 0; i < m->n_parcels; i++) {
        struct smoe_agent_parcel *p = smoe_agent_parcel(a, m->parcels[i]);
        if (!p || p->state != SMOE_PARCEL_STARVED)
            return smoe_fail(why, SMOE_EEXIST, "PARCEL_INPUTS: parcel %llu is named twice",
                             (unsigned long long)m->parcels[i]);
        p->x_blob = smoe_blob_ref(blob);
        p->x = (const smoe_real *)(const void *)(blob->data + offset);
        offset += p->rows * smoe_agent_row_bytes(a, p->expert);
        p->state = SMOE_PARCEL_BACKWARD_QUEUED;
        smoe_list_remove(&p->link);
        smoe_list_push_back(&a->backward_queue, &p->link);
    }
    return 0;
}
