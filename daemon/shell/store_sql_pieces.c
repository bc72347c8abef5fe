/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shell/store_sql_pieces.h"

#include <stdlib.h>

static int write_piece(sqlite3 *db, const char *layer, const struct smoe_journal_piece *piece,
                       struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "INSERT INTO piece VALUES(?,?,?,?,?)");
    smoe_sql_bind_text(s, 1, layer);
    smoe_sql_bind_numbers(s, 2, (const uint64_t[]){piece->offset, piece->length}, 2);
    smoe_sql_bind_text(s, 4, piece->owner);
    smoe_sql_bind_text(s, 5, piece->follower);
    return smoe_sql_finish(db, s, why);
}

static int write_wire(sqlite3 *db, const struct smoe_journal_layer *l, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "INSERT INTO wire VALUES(?,?)");
    smoe_sql_bind_text(s, 1, l->name);
    smoe_sql_bind_numbers(s, 2, (const uint64_t[]){(uint64_t)l->shape.wire}, 1);
    return smoe_sql_finish(db, s, why);
}

int smoe_ahead_write(sqlite3 *db, const struct smoe_journal_layer *l, struct smoe_why *why)
{
    if (!l->shape.staleness)
        return 0;
    sqlite3_stmt *s = smoe_sql_prepare(db, "INSERT INTO ahead VALUES(?,?)");
    smoe_sql_bind_text(s, 1, l->name);
    smoe_sql_bind_numbers(s, 2, (const uint64_t[]){l->shape.staleness}, 1);
    return smoe_sql_finish(db, s, why);
}

int smoe_pieces_write(sqlite3 *db, const struct smoe_record *r, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "INSERT INTO cut VALUES(?,?,?)");
    smoe_sql_bind_text(s, 1, r->layer.name);
    smoe_sql_bind_numbers(s, 2, (const uint64_t[]){r->layer.grains, r->layer.n_pieces}, 2);
    int rc = smoe_sql_finish(db, s, why);
    for (uint32_t i = 0; i < r->layer.n_pieces && !rc; i++)
        rc = write_piece(db, r->layer.name, &r->pieces[i], why);
    return rc || r->layer.shape.wire == SMOE_WIRE_REAL ? rc : write_wire(db, &r->layer, why);
}

int smoe_pieces_drop(sqlite3 *db, const char *layer, struct smoe_why *why)
{
    static const char *const deletes[] = {
        "DELETE FROM cut WHERE layer = ?", "DELETE FROM piece WHERE layer = ?",
        "DELETE FROM wire WHERE layer = ?", "DELETE FROM ahead WHERE layer = ?"};
    int rc = 0;
    for (size_t i = 0; i < sizeof deletes / sizeof *deletes && !rc; i++) {
        sqlite3_stmt *s = smoe_sql_prepare(db, deletes[i]);
        smoe_sql_bind_text(s, 1, layer);
        rc = smoe_sql_finish(db, s, why);
    }
    return rc;
}

static int damaged(const struct smoe_restored_layer *layer, struct smoe_why *why)
{
    return smoe_fail(why, SMOE_EDATA, "journal: the pieces of layer %s are damaged",
                     layer->layer.name);
}

static int load_cut(sqlite3 *db, struct smoe_restored_layer *layer, struct smoe_why *why)
{
    struct smoe_journal_layer *l = &layer->layer;
    sqlite3_stmt *s = smoe_sql_prepare(db, "SELECT grains, pieces FROM cut WHERE layer = ?");
    smoe_sql_bind_text(s, 1, l->name);
    int rc = smoe_sql_next(db, s, &l->sharded, why);
    if (rc == 0 && l->sharded) {
        uint64_t grains = smoe_sql_u64(s, 0), n = smoe_sql_u64(s, 1);
        l->grains = (uint32_t)grains;
        l->n_pieces = (uint32_t)n;
        if (n > SMOE_WORKER_PIECES_MAX || grains > UINT32_MAX || (n && !grains))
            rc = damaged(layer, why);
    }
    sqlite3_finalize(s);
    return rc;
}

static int load_wire(sqlite3 *db, struct smoe_restored_layer *layer, struct smoe_why *why)
{
    bool row = false;
    sqlite3_stmt *s = smoe_sql_prepare(db, "SELECT format FROM wire WHERE layer = ?");
    smoe_sql_bind_text(s, 1, layer->layer.name);
    int rc = smoe_sql_next(db, s, &row, why);
    uint64_t format = rc == 0 && row ? smoe_sql_u64(s, 0) : SMOE_WIRE_REAL;
    sqlite3_finalize(s);
    if (format > SMOE_WIRE_BF16)
        return damaged(layer, why);
    layer->layer.shape.wire = (enum smoe_wire_format)format;
    return rc;
}

static int load_ahead(sqlite3 *db, struct smoe_restored_layer *layer, struct smoe_why *why)
{
    bool row = false;
    sqlite3_stmt *s = smoe_sql_prepare(db, "SELECT staleness FROM ahead WHERE layer = ?");
    smoe_sql_bind_text(s, 1, layer->layer.name);
    int rc = smoe_sql_next(db, s, &row, why);
    uint64_t staleness = rc == 0 && row ? smoe_sql_u64(s, 0) : 0;
    sqlite3_finalize(s);
    if (staleness > SMOE_STALENESS_MAX)
        return smoe_fail(why, SMOE_EDATA, "journal: the staleness of layer %s is damaged",
                         layer->layer.name);
    layer->layer.shape.staleness = (uint32_t)staleness;
    return rc;
}

int smoe_pieces_load(sqlite3 *db, struct smoe_restored_layer *layer, struct smoe_why *why)
{
    uint32_t n = 0;
    bool row = true;
    int rc = load_cut(db, layer, why);
    rc = rc ? rc : load_ahead(db, layer, why);
    if (rc == 0 && layer->layer.sharded)
        rc = load_wire(db, layer, why);
    if (rc || !layer->layer.n_pieces)
        return rc;
    layer->pieces = calloc(layer->layer.n_pieces, sizeof *layer->pieces);
    if (!layer->pieces)
        return smoe_fail(why, SMOE_ENOMEMORY, "journal: out of memory");
    sqlite3_stmt *s = smoe_sql_prepare(db, "SELECT start, length, owner, follower FROM piece"
                                           " WHERE layer = ? ORDER BY start");
    smoe_sql_bind_text(s, 1, layer->layer.name);
    for (; rc == 0 && (rc = smoe_sql_next(db, s, &row, why)) == 0 && row; n++) {
        struct smoe_journal_piece *p = &layer->pieces[n];
        if (n == layer->layer.n_pieces) {
            rc = damaged(layer, why);
            break;
        }
        p->offset = smoe_sql_u64(s, 0);
        p->length = smoe_sql_u64(s, 1);
        smoe_sql_name(s, 2, p->owner);
        smoe_sql_name(s, 3, p->follower);
    }
    sqlite3_finalize(s);
    return rc == 0 && n < layer->layer.n_pieces ? damaged(layer, why) : rc;
}
