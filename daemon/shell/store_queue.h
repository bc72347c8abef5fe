/* SPDX-License-Identifier: Apache-2.0
 *
 * Records that wait for the journal. A record makes one of its kind that waits about the same layer
 * superfluous (a batch is written as one transaction), and the drop of a layer all of them, so the queue stays
 * about as short as there are layers and trainers however long the disk is full. Where there is no memory for a
 * record it takes one of a few places that were set aside at the beginning; they are not touched before, and cost
 * nothing. They would not hold a router's values: room for those is asked for before the router is accepted.
 */
#ifndef SMOE_DAEMON_STORE_QUEUE_H
#define SMOE_DAEMON_STORE_QUEUE_H

#include <stdbool.h>

#include "common/base/err.h"
#include "common/base/list.h"
#include "daemon/core/journal.h"

struct smoe_queued {
    struct smoe_list link;
    uint64_t epoch;
    bool reserved; /* goes back to the reserve */
    struct smoe_record record;
    _Alignas(8) uint8_t payload[]; /* the record's own copy of what it points to */
};

struct smoe_store_queue {
    struct smoe_list waiting; /* smoe_queued, in order: take from it as you like */
    struct smoe_list reserve; /* smoe_queued, each for the largest record */
    uint8_t *reserve_bytes;
    struct smoe_queued *room; /* for the next router's values, or NULL */
    size_t room_bytes;
};

int smoe_store_queue_init(struct smoe_store_queue *queue, struct smoe_why *why);
void smoe_store_queue_release(struct smoe_store_queue *queue);

/* Room for the next router, with so many bytes of values; 0: none, what there was is freed. SMOE_ENOMEMORY. */
int smoe_store_queue_room(struct smoe_store_queue *queue, size_t bytes);

/* Copies the record to the end. SMOE_ENOMEMORY when memory and reserve are used up. */
int smoe_store_queue_add(struct smoe_store_queue *queue, const struct smoe_record *record,
                         uint64_t epoch);

/* Frees what is in the list, the queue's own or one taken from it; the last record's number, or 0. */
uint64_t smoe_store_queue_free(struct smoe_store_queue *queue, struct smoe_list *list);

#endif
