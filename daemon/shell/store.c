/* SPDX-License-Identifier: Apache-2.0
 *
 * Records wait in a queue (store_queue.h). A batch is taken off it as a whole, written by a pool thread in
 * one transaction, and freed when that succeeded; on failure it stays and is tried again, since the
 * core has not announced what it holds. Only one pool job is under way at a time, and the database
 * handle belongs to it meanwhile.
 */
#include "daemon/shell/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/shell/store_queue.h"
#include "daemon/shell/store_sql.h"
#include "daemon/shell/store_sql_meta.h"
#include "daemon/shell/store_sql_pieces.h"

#define RETRY_MS 1000

struct smoe_store {
    sqlite3 *db;
    uv_loop_t *loop;
    uv_work_t work;
    uv_timer_t retry;
    struct smoe_store_queue queue; /* waiting */
    struct smoe_list writing;      /* of the job under way, or failed and to be tried again */
    bool busy, started, closing;
    int status; /* of the last job; the job's own until it is done, as is job_why */
    struct smoe_why job_why;
    struct smoe_why why; /* the loop's copy */
    void (*written)(void *context, uint64_t sequence, int status);
    void *context;
    void (*closed)(void *context);
    void *closed_context;
};

/* ---- records ---- */

static int write_standing(sqlite3 *db, const char *layer, uint64_t expert,
                          const struct smoe_standing *standing, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "INSERT OR REPLACE INTO expert VALUES(?,?,?,?)");
    smoe_sql_bind_text(s, 1, layer);
    smoe_sql_bind_numbers(s, 2, &expert, 1);
    smoe_sql_bind_text(s, 3, standing->host);
    smoe_sql_bind_text(s, 4, standing->follower);
    return smoe_sql_finish(db, s, why);
}

static int delete_of(sqlite3 *db, const char *sql, const char *layer, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, sql);
    smoe_sql_bind_text(s, 1, layer);
    return smoe_sql_finish(db, s, why);
}

/* All but its router, which a layer keeps until it is gone; write_layer takes an older layer's. */
static int drop_rows(sqlite3 *db, const char *name, struct smoe_why *why)
{
    int rc = delete_of(db, "DELETE FROM layer WHERE name = ?", name, why);
    rc = rc ? rc : delete_of(db, "DELETE FROM expert WHERE layer = ?", name, why);
    return rc ? rc : smoe_pieces_drop(db, name, why);
}

static int drop_layer(sqlite3 *db, const char *name, struct smoe_why *why)
{
    int rc = drop_rows(db, name, why);
    return rc ? rc : delete_of(db, "DELETE FROM frozen WHERE layer = ?", name, why);
}

static int write_router(sqlite3 *db, const struct smoe_record *r, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "INSERT OR REPLACE INTO frozen VALUES(?,?,?,?,?,?,?)");
    const uint64_t head[] = {r->layer.run, r->router.version, r->router.kind, r->router.inputs,
                             r->router.digest};
    smoe_sql_bind_text(s, 1, r->layer.name);
    smoe_sql_bind_numbers(s, 2, head, 5);
    sqlite3_bind_blob64(s, 7, r->values, smoe_record_values_bytes(r), SQLITE_STATIC);
    return smoe_sql_finish(db, s, why);
}

static int drop_older_router(sqlite3 *db, const struct smoe_journal_layer *l, struct smoe_why *why)
{
    sqlite3_stmt *s = smoe_sql_prepare(db, "DELETE FROM frozen WHERE layer = ? AND run <> ?");
    smoe_sql_bind_text(s, 1, l->name);
    smoe_sql_bind_numbers(s, 2, &l->run, 1);
    return smoe_sql_finish(db, s, why);
}

static int write_layer(sqlite3 *db, const struct smoe_record *r, struct smoe_why *why)
{
    const struct smoe_journal_layer *l = &r->layer;
    int rc = drop_rows(db, l->name, why);
    if (rc == 0)
        rc = drop_older_router(db, l, why);
    if (rc)
        return rc;
    sqlite3_stmt *s =
        smoe_sql_prepare(db, "INSERT INTO layer VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
    const uint64_t shape[] = {l->run,
                              l->shape.experts,
                              l->shape.d_model,
                              l->shape.d_ff,
                              l->shape.activation,
                              (uint64_t)l->shape.dtype,
                              l->shape.optimizer,
                              l->shape.seed,
                              l->shape.zero_output};
    const uint64_t state[] = {l->learned, l->copies,    l->step,
                              l->attempt, l->done.step, l->done.epoch};
    smoe_sql_bind_text(s, 1, l->name);
    smoe_sql_bind_numbers(s, 2, shape, 9);
    smoe_sql_bind_text(s, 11, l->owner);
    smoe_sql_bind_numbers(s, 12, state, 6);
    sqlite3_bind_double(s, 18, l->done.clip_scale);
    sqlite3_bind_double(s, 19, l->done.square_norm);
    rc = smoe_sql_finish(db, s, why);
    rc = rc ? rc : smoe_ahead_write(db, l, why);
    if (l->sharded && !rc)
        return smoe_pieces_write(db, r, why);
    for (uint32_t e = 0; e < l->shape.experts && !rc; e++)
        rc = write_standing(db, l->name, e, &r->standings[e], why);
    return rc;
}

static int write_commit(sqlite3 *db, const struct smoe_record *r, struct smoe_why *why)
{
    int rc = 0;
    for (size_t i = 0; i < r->n_layers && !rc; i++) {
        sqlite3_stmt *s = smoe_sql_prepare(
            db, "UPDATE layer SET learned = 1, step = ?, attempt = ?, done_step = ?,"
                " done_epoch = ?, clip_scale = ?, square_norm = ? WHERE name = ?");
        const uint64_t state[] = {r->layer.step, r->layer.attempt, r->layer.done.step,
                                  r->layer.done.epoch};
        smoe_sql_bind_numbers(s, 1, state, 4);
        sqlite3_bind_double(s, 5, r->layer.done.clip_scale);
        sqlite3_bind_double(s, 6, r->layer.done.square_norm);
        smoe_sql_bind_text(s, 7, r->layers[i]);
        rc = smoe_sql_finish(db, s, why);
    }
    return rc;
}

static int write_record(sqlite3 *db, const struct smoe_record *r, struct smoe_why *why)
{
    switch (r->type) {
    case SMOE_RECORD_LAYER:
        return write_layer(db, r, why);
    case SMOE_RECORD_DROP:
        return drop_layer(db, r->layer.name, why);
    case SMOE_RECORD_COMMIT:
        return write_commit(db, r, why);
    case SMOE_RECORD_ROUTER:
        return write_router(db, r, why);
    }
    return SMOE_EUNKNOWN;
}

/* The list as one transaction: all of it, or nothing. */
static int write_list(sqlite3 *db, const struct smoe_list *list, struct smoe_why *why)
{
    uint64_t epoch = 0;
    int rc = smoe_sql_exec(db, "BEGIN IMMEDIATE", why);
    if (rc)
        return rc;
    smoe_list_for_each (it, list) {
        const struct smoe_queued *q = smoe_container_of(it, struct smoe_queued, link);
        epoch = q->epoch > epoch ? q->epoch : epoch;
        rc = rc ? rc : write_record(db, &q->record, why);
    }
    if (rc == 0 && (rc = smoe_meta_raise(db, epoch, why)) == 0)
        rc = smoe_sql_exec(db, "COMMIT", why);
    if (rc)
        (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* ---- opening and loading ---- */

int smoe_store_open(const char *dir, struct smoe_store **ret, uint64_t *ret_epoch,
                    struct smoe_why *why)
{
    char path[512];
    struct smoe_store *store = calloc(1, sizeof *store);
    if (!store)
        return smoe_fail(why, SMOE_ENOMEMORY, "journal: out of memory");
    smoe_list_init(&store->writing);
    int rc = smoe_store_queue_init(&store->queue, why);
    snprintf(path, sizeof path, "%s/journal.db", dir);
    if (rc == 0 &&
        sqlite3_open_v2(path, &store->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
                        NULL) != SQLITE_OK)
        rc = smoe_fail(why, SMOE_EDATA, "journal %s: %s", path,
                       store->db ? sqlite3_errmsg(store->db) : "out of memory");
    if (rc == 0)
        rc = smoe_meta_begin(store->db, SMOE_PIECES_SCHEMA, ret_epoch, why);
    if (rc) {
        smoe_store_close(store);
        return smoe_fail_at(why, rc, "state directory %s", dir);
    }
    *ret = store;
    return 0;
}

void smoe_store_close(struct smoe_store *store)
{
    if (!store)
        return;
    smoe_assert(!store->busy && smoe_list_empty(&store->queue.waiting));
    (void)sqlite3_close(store->db);
    smoe_store_queue_release(&store->queue);
    free(store);
}

static int load_standings(struct smoe_store *store, struct smoe_restored_layer *layer,
                          struct smoe_why *why)
{
    layer->standings = calloc(layer->layer.shape.experts, sizeof *layer->standings);
    if (!layer->standings)
        return smoe_fail(why, SMOE_ENOMEMORY, "journal: out of memory");
    sqlite3_stmt *s =
        smoe_sql_prepare(store->db, "SELECT expert, host, follower FROM expert WHERE layer = ?");
    bool row = true;
    int rc = 0;
    smoe_sql_bind_text(s, 1, layer->layer.name);
    while (rc == 0 && (rc = smoe_sql_next(store->db, s, &row, why)) == 0 && row) {
        uint64_t e = smoe_sql_u64(s, 0);
        if (e >= layer->layer.shape.experts)
            continue;
        smoe_sql_name(s, 1, layer->standings[e].host);
        smoe_sql_name(s, 2, layer->standings[e].follower);
    }
    sqlite3_finalize(s);
    return rc;
}

static int read_router_row(sqlite3_stmt *s, struct smoe_restored_layer *layer, struct smoe_why *why)
{
    const struct smoe_frozen_head head = {smoe_sql_u64(s, 0), (uint32_t)smoe_sql_u64(s, 1),
                                          (uint32_t)smoe_sql_u64(s, 2), smoe_sql_u64(s, 3)};
    size_t bytes = (size_t)head.inputs * layer->layer.shape.experts * sizeof(float);
    if (!head.version || head.inputs > SMOE_FROZEN_INPUTS_MAX || !bytes ||
        (size_t)sqlite3_column_bytes(s, 4) != bytes)
        return smoe_fail(why, SMOE_EDATA, "journal: the router of layer %s is damaged",
                         layer->layer.name);
    layer->values = malloc(bytes);
    if (!layer->values)
        return smoe_fail(why, SMOE_ENOMEMORY, "journal: out of memory");
    memcpy(layer->values, sqlite3_column_blob(s, 4), bytes);
    layer->router = head;
    return 0;
}

static int load_router(struct smoe_store *store, struct smoe_restored_layer *layer,
                       struct smoe_why *why)
{
    bool row = false;
    sqlite3_stmt *s =
        smoe_sql_prepare(store->db, "SELECT version, kind, inputs, digest, data FROM frozen"
                                    " WHERE layer = ? AND run = ?");
    smoe_sql_bind_text(s, 1, layer->layer.name);
    smoe_sql_bind_numbers(s, 2, &layer->layer.run, 1);
    int rc = smoe_sql_next(store->db, s, &row, why);
    if (rc == 0 && row)
        rc = read_router_row(s, layer, why);
    sqlite3_finalize(s);
    return rc;
}

static void read_layer_row(sqlite3_stmt *s, struct smoe_journal_layer *l)
{
    smoe_sql_name(s, 0, l->name);
    l->run = smoe_sql_u64(s, 1);
    l->shape = (struct smoe_layer_shape){
        .experts = (uint32_t)smoe_sql_u64(s, 2),
        .d_model = (uint32_t)smoe_sql_u64(s, 3),
        .d_ff = (uint32_t)smoe_sql_u64(s, 4),
        .activation = (uint32_t)smoe_sql_u64(s, 5),
        .dtype = (enum smoe_dtype)smoe_sql_u64(s, 6),
        .optimizer = (uint32_t)smoe_sql_u64(s, 7),
        .seed = smoe_sql_u64(s, 8),
        .zero_output = smoe_sql_u64(s, 9) != 0,
    };
    smoe_sql_name(s, 10, l->owner);
    l->learned = smoe_sql_u64(s, 11) != 0;
    l->copies = (uint32_t)smoe_sql_u64(s, 12);
    l->step = smoe_sql_u64(s, 13);
    l->attempt = smoe_sql_u64(s, 14);
    l->done =
        (struct smoe_msg_step_done){smoe_sql_u64(s, 15), smoe_sql_u64(s, 16),
                                    sqlite3_column_double(s, 17), sqlite3_column_double(s, 18)};
}

static int load_layer(struct smoe_store *store, sqlite3_stmt *row, struct smoe_restored *to,
                      struct smoe_why *why)
{
    if (to->n_layers == SMOE_LAYERS_MAX)
        return smoe_fail(why, SMOE_EDATA, "journal: more than %d layers", SMOE_LAYERS_MAX);
    struct smoe_restored_layer *layer = &to->layers[to->n_layers++];
    read_layer_row(row, &layer->layer);
    if (layer->layer.shape.experts < 1 || layer->layer.shape.experts > SMOE_EXPERTS_MAX)
        return smoe_fail(why, SMOE_EDATA, "journal: layer %s has %u experts", layer->layer.name,
                         layer->layer.shape.experts);
    int rc = smoe_pieces_load(store->db, layer, why);
    if (rc == 0 && !layer->layer.sharded)
        rc = load_standings(store, layer, why);
    return rc ? rc : load_router(store, layer, why);
}

int smoe_store_load(struct smoe_store *store, struct smoe_restored *ret, struct smoe_why *why)
{
    *ret = (struct smoe_restored){.layers = calloc(SMOE_LAYERS_MAX, sizeof *ret->layers)};
    if (!ret->layers)
        return smoe_fail(why, SMOE_ENOMEMORY, "journal: out of memory");
    sqlite3_stmt *s = smoe_sql_prepare(store->db, "SELECT * FROM layer ORDER BY name");
    bool row = true;
    int rc = 0;
    while (rc == 0 && (rc = smoe_sql_next(store->db, s, &row, why)) == 0 && row)
        rc = load_layer(store, s, ret, why);
    sqlite3_finalize(s);
    if (rc)
        smoe_restored_release(ret);
    return rc;
}

/* ---- writing in the background ---- */

static void write_next(struct smoe_store *store);

static void on_work(uv_work_t *work)
{
    struct smoe_store *store = work->data;
    store->status = write_list(store->db, &store->writing, &store->job_why);
}

static void on_retry(uv_timer_t *timer)
{
    write_next(timer->data);
}

static void on_worked(uv_work_t *work, int status)
{
    struct smoe_store *store = work->data;
    (void)status;
    store->busy = false;
    store->why = store->status ? store->job_why : (struct smoe_why){""};
    bool give_up = store->status && store->closing;
    uint64_t last =
        store->status && !give_up ? 0 : smoe_store_queue_free(&store->queue, &store->writing);
    if (give_up)
        (void)smoe_store_queue_free(&store->queue, &store->queue.waiting); /* announced to nobody */
    if (!store->closing)
        store->written(store->context, last, store->status);
    if (store->status && !store->closing)
        uv_timer_start(&store->retry, on_retry, RETRY_MS, 0);
    else
        write_next(store);
}

static void on_retry_closed(uv_handle_t *handle)
{
    struct smoe_store *store = handle->data;
    store->closed(store->closed_context);
}

static void write_next(struct smoe_store *store)
{
    if (store->busy)
        return;
    if (smoe_list_empty(&store->writing))
        while (!smoe_list_empty(&store->queue.waiting)) {
            struct smoe_list *first = smoe_list_first(&store->queue.waiting);
            smoe_list_remove(first);
            smoe_list_push_back(&store->writing, first);
        }
    if (smoe_list_empty(&store->writing)) {
        if (store->closing && !uv_is_closing((uv_handle_t *)&store->retry))
            uv_close((uv_handle_t *)&store->retry, on_retry_closed);
        return;
    }
    store->busy = true;
    store->work.data = store;
    uv_queue_work(store->loop, &store->work, on_work, on_worked);
}

int smoe_store_start(struct smoe_store *store, uv_loop_t *loop,
                     void (*written)(void *context, uint64_t sequence, int status), void *context)
{
    store->loop = loop;
    store->written = written;
    store->context = context;
    store->started = true;
    store->retry.data = store;
    return uv_timer_init(loop, &store->retry);
}

int smoe_store_room(struct smoe_store *store, size_t bytes)
{
    return smoe_store_queue_room(&store->queue, bytes);
}

int smoe_store_append(struct smoe_store *store, const struct smoe_record *record, uint64_t epoch)
{
    int rc = smoe_store_queue_add(&store->queue, record, epoch);
    if (rc)
        return rc;
    if (!uv_is_active((uv_handle_t *)&store->retry))
        write_next(store);
    return 0;
}

bool smoe_store_idle(const struct smoe_store *store)
{
    return !store->busy && smoe_list_empty(&store->queue.waiting) &&
           smoe_list_empty(&store->writing);
}

void smoe_store_stop(struct smoe_store *store, void (*closed)(void *context), void *context)
{
    store->closing = true;
    store->closed = closed;
    store->closed_context = context;
    uv_timer_stop(&store->retry);
    write_next(store);
}

const char *smoe_store_trouble(const struct smoe_store *store)
{
    return store->why.text;
}
