/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal of a core under test: its records in order, and what a daemon that starts from the first of
 * them is given.
 */
#ifndef SMOE_TEST_JOURNAL_H
#define SMOE_TEST_JOURNAL_H

#include "daemon/core/journal.h"

struct journal {
    struct smoe_restored base;   /* what it began with */
    struct smoe_record *records; /* [n] since then, standings owned */
    size_t n, capacity;
};

/* Its number must follow the last one's. */
void journal_add(struct journal *journal, const struct smoe_record *record);
void journal_clear(struct journal *journal);

/* Number of the last record; of the last one of a type (0: none). */
uint64_t journal_last(const struct journal *journal);
uint64_t journal_last_of(const struct journal *journal, enum smoe_record_type type);

/* The daemon dies: what the records up to `durable` make is what the next one begins with. */
void journal_reopen(struct journal *journal, uint64_t durable);
/* The layer of that name in what it began with, or NULL. */
const struct smoe_restored_layer *journal_base(const struct journal *journal, const char *name);

#endif
