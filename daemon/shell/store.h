/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal on disk: a SQLite database (WAL, synchronous=FULL) in the state directory. Writing takes
 * a fraction of a millisecond and a disk may take longer, so it happens on libuv's thread pool, one
 * transaction at a time, in order; records that come meanwhile go into the next one together.
 */
#ifndef SMOE_DAEMON_STORE_H
#define SMOE_DAEMON_STORE_H

#include <stdbool.h>

#include "common/base/err.h"
#include "daemon/core/journal.h"

#include <uv.h>

struct smoe_store;

/* Opens or makes `dir`/journal.db and raises the epoch kept in it; *ret_epoch is this daemon's. The
 * sentence says what to do about a damaged or newer database. */
int smoe_store_open(const char *dir, struct smoe_store **ret, uint64_t *ret_epoch,
                    struct smoe_why *why);
/* All writes must be done (smoe_store_idle). */
void smoe_store_close(struct smoe_store *store);

/* Everything in it. Release with smoe_restored_release. */
int smoe_store_load(struct smoe_store *store, struct smoe_restored *ret, struct smoe_why *why);

/* Room for the values of the next router that is appended; 0: none. SMOE_ENOMEMORY. */
int smoe_store_room(struct smoe_store *store, size_t bytes);

/* Queues a record (copied). `written` is called on the loop, in order, with the highest sequence number
 * that is durable; or with a negative status: then the same records are tried again every second. */
int smoe_store_start(struct smoe_store *store, uv_loop_t *loop,
                     void (*written)(void *context, uint64_t sequence, int status), void *context);
int smoe_store_append(struct smoe_store *store, const struct smoe_record *record, uint64_t epoch);
bool smoe_store_idle(const struct smoe_store *store);

/* Writes what is queued, here and now, and ends the background part. `closed` follows. */
void smoe_store_stop(struct smoe_store *store, void (*closed)(void *context), void *context);

/* "" or why writing fails at present: for status and log. */
const char *smoe_store_trouble(const struct smoe_store *store);

#endif
