/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shell/store_sql_meta.h"

#include <stdbool.h>

#define SCHEMA_VERSION 1

static const char meta_schema[] =
    "CREATE TABLE IF NOT EXISTS meta(id INTEGER PRIMARY KEY CHECK(id = 1), version INTEGER, epoch "
    "INTEGER)";

/* Of this version: executed on none that is another's. */
static const char schema[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
    "CREATE TABLE IF NOT EXISTS layer(name TEXT PRIMARY KEY, run INTEGER, experts INTEGER,"
    " d_model INTEGER, d_ff INTEGER, activation INTEGER, dtype INTEGER, optimizer INTEGER, seed "
    "INTEGER,"
    " zero_output INTEGER, owner TEXT, learned INTEGER, copies INTEGER, step INTEGER,"
    " attempt INTEGER, done_step INTEGER, done_epoch INTEGER, clip_scale REAL, square_norm REAL)"
    " WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS expert(layer TEXT, expert INTEGER, host TEXT, follower TEXT,"
    " PRIMARY KEY(layer, expert)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS frozen(layer TEXT PRIMARY KEY, run INTEGER, version INTEGER,"
    " kind INTEGER, inputs INTEGER, digest INTEGER, data BLOB);"
    "CREATE TABLE IF NOT EXISTS router(layer TEXT PRIMARY KEY, version INTEGER, kind INTEGER,"
    " inputs INTEGER, digest INTEGER, data BLOB);" /* as it was once, without the run */
    "INSERT OR REPLACE INTO frozen SELECT router.layer, layer.run, version, kind, inputs, digest,"
    " data FROM router JOIN layer ON layer.name = router.layer;"
    "DROP TABLE router;"
    "DELETE FROM frozen WHERE NOT EXISTS"
    " (SELECT 1 FROM layer WHERE layer.name = frozen.layer AND layer.run = "
    "frozen.run);";

/* The last epoch; 0 in a new database. */
static int read_meta(sqlite3 *db, uint64_t *ret_epoch, struct smoe_why *why)
{
    uint64_t version = SCHEMA_VERSION, epoch = 0;
    sqlite3_stmt *s = smoe_sql_prepare(db, "SELECT version, epoch FROM meta WHERE id = 1");
    bool row;
    int rc = smoe_sql_next(db, s, &row, why);
    if (rc == 0 && row) {
        version = smoe_sql_u64(s, 0);
        epoch = smoe_sql_u64(s, 1);
    }
    sqlite3_finalize(s);
    if (rc)
        return rc;
    if (version != SCHEMA_VERSION)
        return smoe_fail(why, SMOE_EVERSION,
                         "journal: written by another version (schema %llu, this is "
                         "%d): start with that version, or with an empty state directory",
                         (unsigned long long)version, SCHEMA_VERSION);
    *ret_epoch = epoch;
    return 0;
}

static int write_meta(sqlite3 *db, uint64_t epoch, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "INSERT OR REPLACE INTO meta VALUES(1, ?, ?)");
    smoe_sql_bind_numbers(s, 1, (const uint64_t[]){SCHEMA_VERSION, epoch}, 2);
    return smoe_sql_finish(db, s, why);
}

/* Whose it is comes first: a later version's is left as it is. */
int smoe_meta_begin(sqlite3 *db, const char *parts, uint64_t *ret_epoch, struct smoe_why *why)
{
    uint64_t last;
    int rc = smoe_sql_exec(db, meta_schema, why);
    rc = rc ? rc : read_meta(db, &last, why);
    rc = rc ? rc : smoe_sql_exec(db, schema, why);
    rc = rc ? rc : smoe_sql_exec(db, parts, why);
    rc = rc ? rc : write_meta(db, last + 1, why);
    if (rc == 0)
        *ret_epoch = last + 1;
    return rc;
}

int smoe_meta_raise(sqlite3 *db, uint64_t epoch, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "UPDATE meta SET epoch = max(epoch, ?)");
    smoe_sql_bind_numbers(s, 1, &epoch, 1);
    return smoe_sql_finish(db, s, why);
}
