/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal's database as a whole: its tables, whose version they are, and the epoch.
 *
 * Tables:
 *
 *     meta    one row: schema version, epoch
 *     layer   one row a layer; unsigned 64-bit numbers are kept as their signed twins
 *     expert  one row an expert: host and follower by name
 *     cut, piece  of layers that are sharded (store_sql_pieces.h)
 *     frozen  one row a layer whose router is frozen, with its values and the layer's run: it is no router of
 *             another layer that has the name later. A daemon from before there were any leaves the table
 *             alone, and refuses tokens that come without scores
 */
#ifndef SMOE_DAEMON_STORE_SQL_META_H
#define SMOE_DAEMON_STORE_SQL_META_H

#include "daemon/shell/store_sql.h"

/* Makes what tables there are not, those of the SQL `parts` too, and raises the epoch by one. SMOE_EVERSION: the
 * database is another version's, and is left as it is. */
int smoe_meta_begin(sqlite3 *db, const char *parts, uint64_t *ret_epoch, struct smoe_why *why);

/* The epoch is at least this one. */
int smoe_meta_raise(sqlite3 *db, uint64_t epoch, struct smoe_why *why);

#endif
