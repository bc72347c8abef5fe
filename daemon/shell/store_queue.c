/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shell/store_queue.h"

#include <stdlib.h>
#include <string.h>

#define RESERVE 16

int smoe_store_queue_init(struct smoe_store_queue *queue, struct smoe_why *why)
{
    size_t standings = SMOE_EXPERTS_MAX * sizeof(struct smoe_standing);
    size_t pieces = SMOE_WORKER_PIECES_MAX * sizeof(struct smoe_journal_piece);
    size_t place = sizeof(struct smoe_queued) + (standings > pieces ? standings : pieces);
    smoe_list_init(&queue->waiting);
    smoe_list_init(&queue->reserve);
    queue->room = NULL;
    queue->room_bytes = 0;
    queue->reserve_bytes = calloc(RESERVE, place);
    if (!queue->reserve_bytes)
        return smoe_fail(why, SMOE_ENOMEMORY, "journal: out of memory");
    for (size_t i = 0; i < RESERVE; i++) {
        struct smoe_queued *q = (void *)(queue->reserve_bytes + i * place);
        smoe_list_push_back(&queue->reserve, &q->link);
    }
    return 0;
}

void smoe_store_queue_release(struct smoe_store_queue *queue)
{
    (void)smoe_store_queue_room(queue, 0);
    free(queue->reserve_bytes);
    queue->reserve_bytes = NULL;
}

int smoe_store_queue_room(struct smoe_store_queue *queue, size_t bytes)
{
    free(queue->room);
    queue->room = bytes ? malloc(sizeof *queue->room + bytes) : NULL;
    queue->room_bytes = queue->room ? bytes : 0;
    return bytes && !queue->room ? SMOE_ENOMEMORY : 0;
}

/* Of a router, if it was asked for. */
static struct smoe_queued *asked_room(struct smoe_store_queue *queue, size_t bytes)
{
    struct smoe_queued *q = queue->room;
    if (queue->room_bytes != bytes)
        return NULL;
    queue->room = NULL;
    queue->room_bytes = 0;
    return q;
}

/* Room for a record with so many bytes of payload behind it. The reserve has none for values. */
static struct smoe_queued *take_room(struct smoe_store_queue *queue, size_t bytes, bool may_reserve)
{
    struct smoe_queued *q = may_reserve ? NULL : asked_room(queue, bytes);
    if (!q)
        q = malloc(sizeof *q + bytes);
    struct smoe_list *first = smoe_list_first(&queue->reserve);
    bool reserved = !q && first && may_reserve;
    if (reserved) {
        smoe_list_remove(first);
        q = smoe_container_of(first, struct smoe_queued, link);
    }
    if (q)
        *q = (struct smoe_queued){.reserved = reserved};
    return q;
}

static void free_one(struct smoe_store_queue *queue, struct smoe_queued *q)
{
    smoe_list_remove(&q->link);
    if (q->reserved)
        smoe_list_push_back(&queue->reserve, &q->link);
    else
        free(q);
}

/* Does a record make one that waits, of the same layer, void? What is dropped needs nothing of what was
 * written before; a layer written anew keeps its router, and needs the DROP that took an older one's. */
static bool supersedes(enum smoe_record_type by, enum smoe_record_type waiting)
{
    return by == SMOE_RECORD_DROP || by == waiting;
}

/* What waits about a layer and has no more to say. Commits stay: they may name others too. */
static void drop_superseded(struct smoe_store_queue *queue, const struct smoe_record *by)
{
    if (by->type == SMOE_RECORD_COMMIT)
        return;
    smoe_list_for_each_safe (it, &queue->waiting) {
        struct smoe_queued *q = smoe_container_of(it, struct smoe_queued, link);
        if (q->record.type != SMOE_RECORD_COMMIT && supersedes(by->type, q->record.type) &&
            strcmp(q->record.layer.name, by->layer.name) == 0)
            free_one(queue, q);
    }
}

int smoe_store_queue_add(struct smoe_store_queue *queue, const struct smoe_record *record,
                         uint64_t epoch)
{
    size_t bytes;
    const void *payload = smoe_record_payload(record, &bytes);
    drop_superseded(queue, record);
    struct smoe_queued *q = take_room(queue, bytes, record->type != SMOE_RECORD_ROUTER);
    if (!q)
        return SMOE_ENOMEMORY;
    q->epoch = epoch;
    q->record = *record;
    if (bytes)
        memcpy(q->payload, payload, bytes);
    smoe_record_repoint(&q->record, q->payload);
    smoe_list_push_back(&queue->waiting, &q->link);
    return 0;
}

uint64_t smoe_store_queue_free(struct smoe_store_queue *queue, struct smoe_list *list)
{
    uint64_t last = 0;
    smoe_list_for_each_safe (it, list) {
        struct smoe_queued *q = smoe_container_of(it, struct smoe_queued, link);
        last = q->record.sequence;
        free_one(queue, q);
    }
    return last;
}
