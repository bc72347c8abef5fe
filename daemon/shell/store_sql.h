/* SPDX-License-Identifier: Apache-2.0
 *
 * Small steps with SQLite, for the journal (store.c): each fails with a code and the journal's sentence.
 */
#ifndef SMOE_DAEMON_STORE_SQL_H
#define SMOE_DAEMON_STORE_SQL_H

#include <sqlite3.h>
#include <stdbool.h>

#include "daemon/core/journal.h"

/* The database's last error, in words. */
int smoe_sql_fail(sqlite3 *db, const char *what, struct smoe_why *why);
/* The next row, if there is one. */
int smoe_sql_next(sqlite3 *db, sqlite3_stmt *s, bool *ret_row, struct smoe_why *why);
int smoe_sql_exec(sqlite3 *db, const char *sql, struct smoe_why *why);
/* NULL if it cannot be prepared: the steps below then fail. */
sqlite3_stmt *smoe_sql_prepare(sqlite3 *db, const char *sql);
/* Numbers in neighbouring places, from `at` on. */
void smoe_sql_bind_numbers(sqlite3_stmt *s, int at, const uint64_t *values, int n);
uint64_t smoe_sql_u64(sqlite3_stmt *s, int at);
void smoe_sql_bind_text(sqlite3_stmt *s, int at, const char *text);
void smoe_sql_name(sqlite3_stmt *s, int at, smoe_name ret);
/* Runs a statement that returns nothing and ends it. */
int smoe_sql_finish(sqlite3 *db, sqlite3_stmt *s, struct smoe_why *why);

#endif
