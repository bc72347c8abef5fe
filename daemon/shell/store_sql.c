/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shell/store_sql.h"

#include <stdio.h>

int smoe_sql_fail(sqlite3 *db, const char *what, struct smoe_why *why)
{
    int error = sqlite3_errcode(db) & 0xff; /* without what SQLite knows beyond its kind */
    if (error == SQLITE_NOTADB || error == SQLITE_CORRUPT)
        return smoe_fail(why, SMOE_EDATA,
                         "journal: damaged: %s: move journal.db away and resume from checkpoints",
                         sqlite3_errmsg(db));
    return smoe_fail(why, error == SQLITE_FULL ? -28 /* ENOSPC */ : SMOE_EDATA, "journal: %s: %s",
                     what, sqlite3_errmsg(db));
}

/* The next row, if there is one. */
int smoe_sql_next(sqlite3 *db, sqlite3_stmt *s, bool *ret_row, struct smoe_why *why)
{
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    *ret_row = rc == SQLITE_ROW;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : smoe_sql_fail(db, "read", why);
}

int smoe_sql_exec(sqlite3 *db, const char *sql, struct smoe_why *why)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0
                                                                : smoe_sql_fail(db, "write", why);
}

sqlite3_stmt *smoe_sql_prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s = NULL;
    return sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK ? s : NULL;
}

/* Numbers in neighbouring places, from `at` on. */
void smoe_sql_bind_numbers(sqlite3_stmt *s, int at, const uint64_t *values, int n)
{
    for (int i = 0; i < n; i++)
        sqlite3_bind_int64(s, at + i, (sqlite3_int64)values[i]);
}

uint64_t smoe_sql_u64(sqlite3_stmt *s, int at)
{
    return (uint64_t)sqlite3_column_int64(s, at);
}

void smoe_sql_bind_text(sqlite3_stmt *s, int at, const char *text)
{
    sqlite3_bind_text(s, at, text, -1, SQLITE_STATIC);
}

void smoe_sql_name(sqlite3_stmt *s, int at, smoe_name ret)
{
    const unsigned char *text = sqlite3_column_text(s, at);
    snprintf(ret, sizeof(smoe_name), "%s", text ? (const char *)text : "");
}

/* Runs a statement that returns nothing and ends it. */
int smoe_sql_finish(sqlite3 *db, sqlite3_stmt *s, struct smoe_why *why)
{
    int rc = s && sqlite3_step(s) == SQLITE_DONE ? 0 : smoe_sql_fail(db, "write", why);
    sqlite3_finalize(s);
    return rc;
}
