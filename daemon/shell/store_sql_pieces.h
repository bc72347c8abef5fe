/* SPDX-License-Identifier: Apache-2.0
 *
 * Sharded layers in the journal's database:
 *
 *     cut    one row a layer that is sharded: grains and number of its pieces
 *     piece  one row a piece: who owns it and who follows, by name
 *     wire   one row a layer whose gradients and weights do not travel as reals: how they do
 *
 * And of those that are not, `ahead`: one row a layer whose batches may be a step ahead.
 *
 * A daemon from before there were any leaves both alone: it has such a layer without experts, and says that it is lost.
 */
#ifndef SMOE_DAEMON_STORE_SQL_PIECES_H
#define SMOE_DAEMON_STORE_SQL_PIECES_H

#include "daemon/core/journal.h"
#include "daemon/shell/store_sql.h"

#define SMOE_PIECES_SCHEMA                                                                    \
    "CREATE TABLE IF NOT EXISTS cut(layer TEXT PRIMARY KEY, grains INTEGER, pieces INTEGER)"  \
    " WITHOUT ROWID;"                                                                         \
    "CREATE TABLE IF NOT EXISTS piece(layer TEXT, start INTEGER, length INTEGER, owner TEXT," \
    " follower TEXT, PRIMARY KEY(layer, start)) WITHOUT ROWID;"                               \
    "CREATE TABLE IF NOT EXISTS wire(layer TEXT PRIMARY KEY, format INTEGER) WITHOUT ROWID;"  \
    "CREATE TABLE IF NOT EXISTS ahead(layer TEXT PRIMARY KEY, staleness INTEGER) WITHOUT ROWID;"

/* Inserts what a LAYER record of a sharded layer says beyond its row; there are no older rows of it. */
int smoe_pieces_write(sqlite3 *db, const struct smoe_record *record, struct smoe_why *why);

/* Inserts its staleness if it has any; there is no older row of it. */
int smoe_ahead_write(sqlite3 *db, const struct smoe_journal_layer *layer, struct smoe_why *why);

/* No layer of that name has any of it. */
int smoe_pieces_drop(sqlite3 *db, const char *layer, struct smoe_why *why);

/* Whether the layer of that name is sharded, its pieces, how it travels, and its staleness. SMOE_EDATA if
 * there are not as many as there should be. */
int smoe_pieces_load(sqlite3 *db, struct smoe_restored_layer *layer, struct smoe_why *why);

#endif
