/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal on disk. Each test has a directory of its own under TMPDIR, and a loop that runs until what
 * it waits for has happened.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/shell/store.h"
#include "daemon/shell/store_queue.h"
#include "tests/unit/io/alloc_fault.h"

static struct disk {
    char dir[64], file[96];
    struct smoe_store *store;
    struct smoe_why why;
    uv_loop_t loop;
    uint64_t epoch;
    uint64_t durable; /* reported so far */
    uint32_t failures;
    int status; /* of the last report */
    bool closed;
} d;

/* ---- a store and its loop ---- */

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    memset(&d, 0, sizeof d);
    snprintf(d.dir, sizeof d.dir, "%s/smoe-store-XXXXXX", tmp && strlen(tmp) < 32 ? tmp : "/tmp");
    cr_assert_not_null(mkdtemp(d.dir));
    snprintf(d.file, sizeof d.file, "%s/journal.db", d.dir);
}

static void end(void)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char path[128];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", d.file, suffixes[i]);
        (void)unlink(path);
    }
    (void)rmdir(d.dir);
}

static void on_written(void *context, uint64_t sequence, int status)
{
    (void)context;
    d.status = status;
    d.failures += status != 0;
    cr_assert(status == 0 || sequence == 0, "what failed is not durable");
    cr_assert(status != 0 || sequence > d.durable, "in order");
    if (status == 0)
        d.durable = sequence;
}

static void on_closed(void *context)
{
    (void)context;
    d.closed = true;
}

static int try_open(void)
{
    return smoe_store_open(d.dir, &d.store, &d.epoch, &d.why);
}

static void open_store(void)
{
    cr_assert_eq(try_open(), 0, "%s", d.why.text);
    cr_assert_eq(uv_loop_init(&d.loop), 0);
    cr_assert_eq(smoe_store_start(d.store, &d.loop, on_written, NULL), 0);
    d.closed = false;
    d.durable = 0;
}

static void close_store(void)
{
    smoe_store_stop(d.store, on_closed, NULL);
    while (!d.closed)
        uv_run(&d.loop, UV_RUN_ONCE);
    uv_run(&d.loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&d.loop), 0);
    smoe_store_close(d.store);
}

static void wait_for(uint64_t sequence)
{
    while (d.durable < sequence)
        uv_run(&d.loop, UV_RUN_ONCE);
}

static void wait_for_failure(void)
{
    for (uint32_t before = d.failures; d.failures == before;)
        uv_run(&d.loop, UV_RUN_ONCE);
}

/* What it holds now; released by the caller. */
static struct smoe_restored load(void)
{
    struct smoe_restored restored;
    cr_assert_eq(try_open(), 0, "%s", d.why.text);
    cr_assert_eq(smoe_store_load(d.store, &restored, &d.why), 0, "%s", d.why.text);
    smoe_store_close(d.store);
    return restored;
}

static void sql(const char *text)
{
    sqlite3 *db;
    char *trouble = NULL;
    cr_assert_eq(sqlite3_open(d.file, &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, text, NULL, NULL, &trouble), SQLITE_OK, "%s", trouble);
    sqlite3_close(db);
}

/* ---- records ---- */

enum { EXPERTS = 3 };

static struct smoe_record layer_record(uint64_t sequence, const char *name)
{
    struct smoe_record r = {.type = SMOE_RECORD_LAYER, .sequence = sequence};
    r.layer = (struct smoe_journal_layer){
        .run = UINT64_MAX - 1, /* unsigned: SQLite's numbers are not */
        .shape = {.experts = EXPERTS,
                  .d_model = 64,
                  .d_ff = 256,
                  .activation = 3,
                  .dtype = SMOE_DTYPE_F64,
                  .optimizer = 2,
                  .seed = UINT64_C(1) << 63,
                  .zero_output = true},
        .owner = "somebody",
        .learned = true,
        .copies = 2,
        .step = 41,
        .attempt = (UINT64_C(7) << 32) + 5,
        .done = {41, 48, 0.1, 1e-300},
    };
    snprintf(r.layer.name, sizeof r.layer.name, "%s", name);
    return r;
}

/* Appends it with hosts and followers that have this prefix. */
static void append_layer(const struct smoe_record *record, const char *prefix, uint64_t epoch)
{
    struct smoe_standing standings[EXPERTS];
    struct smoe_record r = *record;
    memset(standings, 0, sizeof standings);
    for (int e = 0; e < EXPERTS; e++) {
        snprintf(standings[e].host, sizeof standings[e].host, "%s%d", prefix, e);
        if (e != 1) /* one without a copy */
            snprintf(standings[e].follower, sizeof standings[e].follower, "%s%d", prefix, e + 10);
    }
    r.standings = standings;
    cr_assert_eq(smoe_store_append(d.store, &r, epoch), 0);
    memset(standings, 'x', sizeof standings); /* it has a copy */
}

enum { PIECES = 3 };
static const struct smoe_journal_piece pieces[PIECES] = {
    {0, 700, "pi-1", "pi-2"}, {700, 1, "pi-2", ""}, {701, UINT64_C(1) << 33, "", ""}};

static void append_sharded(uint64_t sequence, const char *name, uint32_t n)
{
    struct smoe_record r = layer_record(sequence, name);
    struct smoe_journal_piece lent[PIECES];
    memcpy(lent, pieces, sizeof lent);
    r.layer.sharded = true;
    r.layer.shape.wire = n == PIECES ? SMOE_WIRE_BF16 : SMOE_WIRE_REAL;
    r.layer.shape.staleness = n == PIECES;
    r.layer.grains = n ? 64 : 0;
    r.layer.n_pieces = n;
    r.pieces = lent;
    cr_assert_eq(smoe_store_append(d.store, &r, 1), 0);
    memset(lent, 'x', sizeof lent); /* it has a copy */
}

static void append_commit(uint64_t sequence, uint64_t step, size_t n_layers)
{
    struct smoe_record r = {.type = SMOE_RECORD_COMMIT, .sequence = sequence, .n_layers = n_layers};
    r.layer.step = step;
    r.layer.attempt = step + 1000;
    r.layer.done = (struct smoe_msg_step_done){step, step + 7, 0.25, (double)step / 3};
    for (size_t i = 0; i < n_layers; i++)
        snprintf(r.layers[i], sizeof r.layers[i], "layer%zu", i);
    cr_assert_eq(smoe_store_append(d.store, &r, step + 7), 0);
}

static void append_drop(uint64_t sequence, const char *name)
{
    struct smoe_record r = {.type = SMOE_RECORD_DROP, .sequence = sequence};
    snprintf(r.layer.name, sizeof r.layer.name, "%s", name);
    cr_assert_eq(smoe_store_append(d.store, &r, 1), 0);
}

enum { INPUTS = 5 };
static const float values[INPUTS * EXPERTS] = {0.25f, -0.0f, 1e-40f, 3, 4};

static void append_router(uint64_t sequence, const char *layer, uint64_t version)
{
    struct smoe_record r = layer_record(sequence, layer);
    float lent[INPUTS * EXPERTS];
    memcpy(lent, values, sizeof lent);
    r.type = SMOE_RECORD_ROUTER;
    r.router = (struct smoe_frozen_head){version, SMOE_FROZEN_TABLE, INPUTS, UINT64_MAX - 5};
    r.values = lent;
    cr_assert_eq(smoe_store_append(d.store, &r, 1), 0);
    memset(lent, 'x', sizeof lent); /* it has a copy */
}

static const struct smoe_restored_layer *find(const struct smoe_restored *in, const char *name)
{
    size_t i = 0;
    while (i < in->n_layers && strcmp(in->layers[i].layer.name, name) != 0)
        i++;
    cr_assert_lt(i, in->n_layers, "no layer %s", name);
    return &in->layers[i];
}

/* ---- what is written comes back ---- */

Test(store, gives_back_a_layer_as_it_was_to_the_last_bit, .init = begin, .fini = end)
{
    char longest[sizeof(smoe_name)];
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    struct smoe_record r = layer_record(1, longest);
    open_store();
    append_layer(&r, "pi-", 9);
    wait_for(1);
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(all.n_layers, 1);
    const struct smoe_journal_layer *l = &all.layers[0].layer;
    cr_assert_str_eq(l->name, longest);
    cr_assert_str_eq(l->owner, "somebody");
    cr_assert_eq(l->run, r.layer.run);
    cr_assert_eq(l->shape.experts, EXPERTS);
    cr_assert_eq(l->shape.d_model, 64);
    cr_assert_eq(l->shape.d_ff, 256);
    cr_assert_eq(l->shape.activation, 3);
    cr_assert_eq(l->shape.dtype, SMOE_DTYPE_F64);
    cr_assert_eq(l->shape.optimizer, 2);
    cr_assert_eq(l->shape.seed, r.layer.shape.seed);
    cr_assert(l->shape.zero_output && l->learned);
    cr_assert_eq(l->copies, 2);
    cr_assert_eq(l->step, 41);
    cr_assert_eq(l->attempt, r.layer.attempt);
    cr_assert_eq(l->done.step, 41);
    cr_assert_eq(l->done.epoch, 48);
    cr_assert_eq(l->done.clip_scale, 0.1);
    cr_assert_eq(l->done.square_norm, 1e-300);
    cr_assert_str_eq(all.layers[0].standings[2].host, "pi-2");
    cr_assert_str_eq(all.layers[0].standings[2].follower, "pi-12");
    cr_assert_str_eq(all.layers[0].standings[1].follower, "");
    smoe_restored_release(&all);
}

Test(store, gives_back_nothing_from_a_new_directory, .init = begin, .fini = end)
{
    struct smoe_restored all = load();
    cr_assert_eq(all.n_layers, 0);
    cr_assert_eq(d.epoch, 1);
    smoe_restored_release(&all);
}

Test(store, replaces_a_layer_with_all_its_experts, .init = begin, .fini = end)
{
    struct smoe_record r = layer_record(1, "moe");
    open_store();
    append_layer(&r, "old", 1);
    r.sequence = 2;
    r.layer.shape.experts = 2;
    r.layer.run = 5;
    append_layer(&r, "new", 1);
    wait_for(2);
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(all.n_layers, 1);
    cr_assert_eq(all.layers[0].layer.run, 5);
    cr_assert_str_eq(all.layers[0].standings[1].host, "new1");
    smoe_restored_release(&all);
    sql("UPDATE layer SET experts = 3"); /* an expert of the old one would show now */
    all = load();
    cr_assert_str_eq(all.layers[0].standings[2].host, "");
    smoe_restored_release(&all);
}

Test(store, puts_a_commit_into_all_its_layers_and_no_other, .init = begin, .fini = end)
{
    open_store();
    for (uint64_t i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "layer%d", (int)i);
        struct smoe_record r = layer_record(i + 1, name);
        r.layer.learned = false;
        append_layer(&r, "w", 1);
    }
    append_commit(4, 42, 2);
    wait_for(4);
    close_store();
    struct smoe_restored all = load();
    for (int i = 0; i < 3; i++) {
        const struct smoe_journal_layer *l = &all.layers[i].layer;
        cr_assert_eq(l->learned, i < 2);
        cr_assert_eq(l->step, i < 2 ? 42 : 41);
        cr_assert_eq(l->attempt, i < 2 ? 1042 : (UINT64_C(7) << 32) + 5);
        cr_assert_eq(l->done.step, i < 2 ? 42 : 41);
        cr_assert_eq(l->done.epoch, i < 2 ? 49 : 48);
        cr_assert_eq(l->done.square_norm, i < 2 ? 14 : 1e-300);
        cr_assert_eq(l->done.clip_scale, i < 2 ? 0.25 : 0.1);
        cr_assert_str_eq(all.layers[i].standings[0].host, "w0", "it stays where it is");
    }
    smoe_restored_release(&all);
}

Test(store, forgets_a_layer_that_is_dropped_and_nothing_else, .init = begin, .fini = end)
{
    open_store();
    struct smoe_record r = layer_record(1, "gone");
    append_layer(&r, "w", 1);
    r = layer_record(2, "stays");
    append_layer(&r, "w", 1);
    append_drop(3, "gone");
    append_drop(4, "never was");
    wait_for(4);
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(all.n_layers, 1);
    cr_assert_not_null(find(&all, "stays"));
    smoe_restored_release(&all);
    r = layer_record(1, "gone");
    r.layer.shape.experts = 1;
    open_store();
    append_layer(&r, "n", 1);
    wait_for(1);
    close_store();
    sql("UPDATE layer SET experts = 3 WHERE name = 'gone'");
    all = load();
    cr_assert_str_eq(find(&all, "gone")->standings[2].host, "", "none of its old experts");
    smoe_restored_release(&all);
}

Test(store, gives_back_the_pieces_of_a_sharded_layer, .init = begin, .fini = end)
{
    open_store();
    append_sharded(1, "cut", PIECES);
    append_sharded(2, "uncut", 0);
    struct smoe_record r = layer_record(3, "whole");
    append_layer(&r, "w", 1);
    wait_for(3);
    close_store();
    struct smoe_restored all = load();
    const struct smoe_restored_layer *cut = find(&all, "cut");
    cr_assert(cut->layer.sharded && find(&all, "uncut")->layer.sharded);
    cr_assert_eq(cut->layer.shape.wire, SMOE_WIRE_BF16);
    cr_assert_eq(find(&all, "uncut")->layer.shape.wire, SMOE_WIRE_REAL);
    cr_assert_eq(cut->layer.shape.staleness, 1);
    cr_assert_eq(find(&all, "uncut")->layer.shape.staleness, 0);
    cr_assert_eq(cut->layer.grains, 64);
    cr_assert_eq(cut->layer.n_pieces, PIECES);
    cr_assert_eq(find(&all, "uncut")->layer.n_pieces, 0);
    cr_assert_null(cut->standings);
    for (int i = 0; i < PIECES; i++) {
        cr_assert_eq(cut->pieces[i].offset, pieces[i].offset);
        cr_assert_eq(cut->pieces[i].length, pieces[i].length);
        cr_assert_str_eq(cut->pieces[i].owner, pieces[i].owner);
        cr_assert_str_eq(cut->pieces[i].follower, pieces[i].follower);
    }
    cr_assert_not(find(&all, "whole")->layer.sharded);
    cr_assert_str_eq(find(&all, "whole")->standings[0].host, "w0");
    smoe_restored_release(&all);
}

Test(store, gives_back_the_staleness_of_a_layer_and_forgets_that_of_the_one_before, .init = begin,
     .fini = end)
{
    static const uint32_t staleness[] = {1, 0, 1};
    struct smoe_record r;
    struct smoe_restored all;
    for (uint64_t i = 0; i < sizeof staleness / sizeof *staleness; i++) {
        open_store();
        r = layer_record(2 * i + 1, "moe");
        r.layer.shape.staleness = staleness[i];
        append_layer(&r, "w", 1);
        r = layer_record(2 * i + 2, "other");
        append_layer(&r, "w", 1);
        wait_for(2 * i + 2);
        close_store();
        all = load();
        cr_assert_eq(find(&all, "moe")->layer.shape.staleness, staleness[i]);
        cr_assert_eq(find(&all, "other")->layer.shape.staleness, 0);
        smoe_restored_release(&all);
    }
    sql("UPDATE ahead SET staleness = 2");
    cr_assert_eq(try_open(), 0);
    cr_assert_eq(smoe_store_load(d.store, &all, &d.why), SMOE_EDATA);
    cr_assert_str_eq(d.why.text, "journal: the staleness of layer moe is damaged");
    smoe_store_close(d.store);
}

Test(store, replaces_pieces_and_forgets_those_of_what_is_dropped, .init = begin, .fini = end)
{
    open_store();
    append_sharded(1, "fewer", PIECES);
    append_sharded(2, "whole", PIECES);
    append_sharded(3, "gone", PIECES);
    wait_for(3);
    append_sharded(4, "fewer", 1);
    struct smoe_record r = layer_record(5, "whole");
    append_layer(&r, "w", 1);
    append_drop(6, "gone");
    wait_for(6);
    r = layer_record(7, "gone");
    append_layer(&r, "w", 1);
    wait_for(7);
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(find(&all, "fewer")->layer.n_pieces, 1);
    cr_assert_eq(find(&all, "fewer")->layer.shape.wire, SMOE_WIRE_REAL, "as it is now");
    cr_assert_not(find(&all, "whole")->layer.sharded);
    cr_assert_not(find(&all, "gone")->layer.sharded);
    smoe_restored_release(&all);
}

Test(store, with_pieces_that_cannot_be_says_whose, .init = begin, .fini = end)
{
    static const char *const damage[] = {
        "DELETE FROM piece WHERE start = 700", "UPDATE cut SET pieces = 2",
        "UPDATE cut SET pieces = 2049", "UPDATE cut SET grains = 0", "UPDATE wire SET format = 2"};
    struct smoe_restored all;
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        open_store();
        append_sharded(1, "moe", PIECES);
        wait_for(1);
        close_store();
        sql(damage[i]);
        cr_assert_eq(try_open(), 0);
        cr_assert_eq(smoe_store_load(d.store, &all, &d.why), SMOE_EDATA, "%s", damage[i]);
        cr_assert_str_eq(d.why.text, "journal: the pieces of layer moe are damaged");
        smoe_store_close(d.store);
    }
}

Test(store, gives_back_a_router_as_it_was_to_the_last_bit, .init = begin, .fini = end)
{
    struct smoe_record with = layer_record(1, "with"), without = layer_record(2, "without");
    open_store();
    append_layer(&with, "w", 1);
    append_layer(&without, "w", 1);
    append_router(3, "with", UINT64_MAX);
    wait_for(3);
    with.sequence = 4;
    append_layer(&with, "n", 1); /* moves: its router stays */
    wait_for(4);
    close_store();
    struct smoe_restored all = load();
    const struct smoe_restored_layer *l = find(&all, "with");
    cr_assert_str_eq(l->standings[0].host, "n0");
    cr_assert_eq(l->router.version, UINT64_MAX);
    cr_assert_eq(l->router.kind, SMOE_FROZEN_TABLE);
    cr_assert_eq(l->router.inputs, INPUTS);
    cr_assert_eq(l->router.digest, UINT64_MAX - 5);
    cr_assert_eq(memcmp(l->values, values, sizeof values), 0);
    cr_assert_eq(find(&all, "without")->router.version, 0);
    cr_assert_null(find(&all, "without")->values);
    smoe_restored_release(&all);
}

Test(store, a_new_layer_of_an_old_name_has_no_router, .init = begin, .fini = end)
{
    struct smoe_record r = layer_record(1, "moe");
    open_store();
    append_layer(&r, "w", 1);
    append_router(2, "moe", 1);
    wait_for(2);
    append_drop(3, "moe"); /* and in the same transaction */
    r.sequence = 4;
    append_layer(&r, "w", 1);
    wait_for(4);
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(find(&all, "moe")->router.version, 0);
    smoe_restored_release(&all);
}

static uint64_t router_after(void (*between)(void))
{
    struct smoe_record r = layer_record(1, "moe");
    open_store();
    append_layer(&r, "w", 1);
    append_router(2, "moe", 7);
    wait_for(2);
    between();
    close_store();
    struct smoe_restored all = load();
    uint64_t version = find(&all, "moe")->router.version;
    smoe_restored_release(&all);
    return version;
}

static void another_run(void)
{
    struct smoe_record r = layer_record(3, "moe");
    r.layer.run = 12;
    append_layer(&r, "w", 1);
    wait_for(3);
}

/* By a daemon that knows nothing of routers. */
static void another_run_unseen(void)
{
    sql("UPDATE layer SET run = 12");
}

static void another_run_and_back(void)
{
    struct smoe_record r = layer_record(4, "moe");
    another_run();
    append_layer(&r, "w", 1);
    wait_for(4);
}

Test(store, a_router_is_of_the_run_that_froze_it, .init = begin, .fini = end)
{
    cr_assert_eq(router_after(another_run), 0);
    cr_assert_eq(router_after(another_run_unseen), 0);
    cr_assert_eq(router_after(another_run_and_back), 0);
}

/* A sharded layer has no row: what is left of it is of nobody. */
Test(store, a_router_without_its_layer_is_gone_when_it_is_opened, .init = begin, .fini = end)
{
    struct smoe_record r = layer_record(2, "moe");
    open_store();
    append_router(1, "moe", 7);
    wait_for(1);
    close_store();
    open_store();
    append_layer(&r, "w", 1);
    wait_for(2);
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(find(&all, "moe")->router.version, 0);
    smoe_restored_release(&all);
}

static void without_runs(void)
{
    sql("CREATE TABLE router(layer TEXT PRIMARY KEY, version INTEGER, kind INTEGER, inputs INTEGER,"
        " digest INTEGER, data BLOB);"
        "INSERT INTO router SELECT layer, 9, kind, inputs, digest, data FROM frozen;"
        "DELETE FROM frozen;");
}

Test(store, routers_of_a_journal_that_knew_no_runs_are_taken_over, .init = begin, .fini = end)
{
    cr_assert_eq(router_after(without_runs), 9);
}

Test(store, with_a_router_that_cannot_be_says_whose, .init = begin, .fini = end)
{
    struct smoe_record r = layer_record(1, "moe");
    struct smoe_restored all;
    open_store();
    append_layer(&r, "w", 1);
    append_router(2, "moe", 1);
    wait_for(2);
    close_store();
    sql("UPDATE frozen SET inputs = 4");
    cr_assert_eq(try_open(), 0);
    cr_assert_eq(smoe_store_load(d.store, &all, &d.why), SMOE_EDATA);
    cr_assert_str_eq(d.why.text, "journal: the router of layer moe is damaged");
    smoe_store_close(d.store);
}

Test(store, writes_what_is_queued_before_it_stops, .init = begin, .fini = end)
{
    open_store();
    struct smoe_record r = layer_record(1, "layer0");
    append_layer(&r, "w", 1);
    for (uint64_t i = 2; i < 200; i++)
        append_commit(i, i, 1);
    cr_assert_not(smoe_store_idle(d.store));
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(all.layers[0].layer.step, 199);
    smoe_restored_release(&all);
}

Test(store, reports_every_record_in_order_and_is_idle_afterwards, .init = begin, .fini = end)
{
    open_store();
    cr_assert(smoe_store_idle(d.store));
    struct smoe_record r = layer_record(1, "layer0");
    append_layer(&r, "w", 1);
    for (uint64_t i = 2; i < 50; i++) {
        append_commit(i, i, 1);
        if (i % 7 == 0)
            wait_for(i);
    }
    wait_for(49);
    cr_assert(smoe_store_idle(d.store));
    cr_assert_eq(d.durable, 49);
    cr_assert_eq(d.failures, 0);
    cr_assert_str_eq(smoe_store_trouble(d.store), "");
    close_store();
}

/* ---- the epoch ---- */

Test(store, has_a_higher_epoch_each_time_it_is_opened, .init = begin, .fini = end)
{
    for (uint64_t i = 1; i <= 4; i++) {
        cr_assert_eq(try_open(), 0);
        cr_assert_eq(d.epoch, i);
        smoe_store_close(d.store);
    }
}

Test(store, has_a_higher_epoch_than_any_step_that_was_written, .init = begin, .fini = end)
{
    open_store();
    struct smoe_record r = layer_record(1, "layer0");
    append_layer(&r, "w", 90);
    append_commit(2, 3, 1); /* epoch 10: an older one does not lower it */
    wait_for(2);
    close_store();
    cr_assert_eq(try_open(), 0);
    cr_assert_eq(d.epoch, 91);
    smoe_store_close(d.store);
}

/* ---- what cannot be opened ---- */

static void overwrite(long at, size_t n)
{
    FILE *f = fopen(d.file, "r+b");
    cr_assert_not_null(f);
    cr_assert_eq(fseek(f, at, SEEK_SET), 0);
    for (size_t i = 0; i < n; i++)
        fputc((int)(i * 37 + 11) & 0xff, f);
    fclose(f);
}

static void make_full(void)
{
    open_store();
    for (uint64_t i = 1; i <= 40; i++) {
        char name[32];
        snprintf(name, sizeof name, "layer%d", (int)i);
        struct smoe_record r = layer_record(i, name);
        append_layer(&r, "worker", 1);
    }
    wait_for(40);
    close_store();
}

/* One sentence that says which directory, that it is damaged, and what to do. */
static void expect_damaged(int rc)
{
    cr_assert_eq(rc, SMOE_EDATA, "%d: %s", rc, d.why.text);
    cr_assert(strstr(d.why.text, "damaged"), "%s", d.why.text);
    cr_assert(strstr(d.why.text, "resume from checkpoints"), "%s", d.why.text);
    cr_assert_null(strchr(d.why.text, '\n'));
}

Test(store, that_is_no_database_says_so, .init = begin, .fini = end)
{
    make_full();
    overwrite(0, 100);
    expect_damaged(try_open());
    cr_assert(strstr(d.why.text, d.dir), "%s", d.why.text);
}

/* Pages that are overwritten are found when they are read: none of it may pass for an empty journal. */
Test(store, that_is_damaged_anywhere_is_not_taken_for_less_than_it_was)
{
    for (long page = 1; page < 8; page++) {
        struct smoe_restored all = {0};
        begin();
        make_full();
        overwrite(page * 4096, 4096);
        int rc = try_open();
        if (rc == 0) {
            rc = smoe_store_load(d.store, &all, &d.why);
            smoe_store_close(d.store);
        }
        if (rc == 0)
            cr_assert_eq(all.n_layers, 40, "page %ld", page); /* not a page that is used */
        else
            expect_damaged(rc);
        smoe_restored_release(&all);
        end();
    }
}

Test(store, with_a_layer_that_cannot_be_says_which, .init = begin, .fini = end)
{
    struct smoe_restored all;
    make_full();
    sql("UPDATE layer SET experts = 0 WHERE name = 'layer7'");
    cr_assert_eq(try_open(), 0);
    cr_assert_eq(smoe_store_load(d.store, &all, &d.why), SMOE_EDATA);
    cr_assert_str_eq(d.why.text, "journal: layer layer7 has 0 experts");
    cr_assert_null(all.layers);
    smoe_store_close(d.store);
}

Test(store, of_another_schema_says_which_version_to_use_and_is_left_alone, .init = begin,
     .fini = end)
{
    make_full();
    sql("UPDATE meta SET version = 2, epoch = 77;"
        "CREATE TABLE router(of TEXT, what ANY); INSERT INTO router VALUES('layer1', 'anything');"
        "INSERT INTO frozen(layer) VALUES('of no layer that this version knows')");
    cr_assert_eq(try_open(), SMOE_EVERSION);
    cr_assert(strstr(d.why.text, "schema 2, this is 1"), "%s", d.why.text);
    cr_assert(strstr(d.why.text, "start with that version, or with an empty state directory"));
    sql("CREATE TABLE left_alone(rows INTEGER CHECK(rows = 1));"
        "INSERT INTO left_alone SELECT count(*) FROM router;"
        "INSERT INTO left_alone SELECT count(*) FROM frozen; DROP TABLE router");
    sql("UPDATE meta SET version = 1");
    cr_assert_eq(try_open(), 0);
    cr_assert_eq(d.epoch, 78, "its epoch was not touched");
    smoe_store_close(d.store);
}

Test(store, in_a_directory_that_is_not_there_says_which, .init = begin, .fini = end)
{
    char right[sizeof d.dir];
    memcpy(right, d.dir, sizeof right);
    strcpy(d.dir, "/nonexistent/stablemoe");
    cr_assert_neq(try_open(), 0);
    cr_assert(strstr(d.why.text, "/nonexistent/stablemoe"), "%s", d.why.text);
    memcpy(d.dir, right, sizeof right);
}

Test(store, in_a_directory_that_it_may_not_write_says_so, .init = begin, .fini = end)
{
    cr_assert_eq(chmod(d.dir, 0555), 0);
    bool root = geteuid() == 0;
    if (root) /* may write everywhere: be nobody for a while */
        cr_assert_eq(seteuid(65534), 0);
    int rc = try_open();
    if (root)
        cr_assert_eq(seteuid(0), 0);
    cr_assert_neq(rc, 0);
    cr_assert(strstr(d.why.text, d.dir), "%s", d.why.text);
    cr_assert(strstr(d.why.text, "unable to open"), "%s", d.why.text);
}

Test(store, that_is_there_and_may_only_be_read_says_so, .init = begin, .fini = end)
{
    make_full();
    cr_assert_eq(chmod(d.file, 0444), 0);
    cr_assert_eq(chmod(d.dir, 0555), 0);
    bool root = geteuid() == 0;
    if (root)
        cr_assert_eq(seteuid(65534), 0);
    int rc = try_open();
    if (root)
        cr_assert_eq(seteuid(0), 0);
    cr_assert_neq(rc, 0, "a journal that cannot be written is of no use");
    cr_assert(strstr(d.why.text, d.dir), "%s", d.why.text);
}

/* ---- writes that fail ---- */

/* Another program holds the database for a while. */
Test(store, that_cannot_write_says_why_acknowledges_nothing_and_tries_again, .init = begin,
     .fini = end)
{
    sqlite3 *other;
    open_store();
    struct smoe_record r = layer_record(1, "layer0");
    append_layer(&r, "w", 1);
    wait_for(1);
    cr_assert_eq(sqlite3_open(d.file, &other), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    append_commit(2, 42, 1);
    wait_for_failure();
    cr_assert_lt(d.status, 0);
    cr_assert_eq(d.durable, 1);
    cr_assert(strstr(smoe_store_trouble(d.store), "locked"), "%s", smoe_store_trouble(d.store));
    append_commit(3, 43, 1); /* waits behind it */
    wait_for_failure();
    cr_assert_eq(d.durable, 1);
    cr_assert_eq(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    wait_for(3);
    cr_assert_str_eq(smoe_store_trouble(d.store), "");
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(all.layers[0].layer.step, 43);
    smoe_restored_release(&all);
}

/* No file may grow any more, as on a disk that is full. */
Test(store, on_a_full_disk_loses_nothing_and_goes_on_when_there_is_room, .init = begin, .fini = end)
{
    struct rlimit was, full;
    open_store();
    struct smoe_record r = layer_record(1, "layer0");
    append_layer(&r, "w", 1);
    wait_for(1);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &was), 0);
    full = was;
    full.rlim_cur = 4096;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &full), 0);
    for (uint64_t i = 2; i <= 5; i++)
        append_commit(i, i, 1);
    wait_for_failure();
    wait_for_failure();
    cr_assert_eq(d.durable, 1, "nothing is acknowledged");
    cr_assert_gt(strlen(smoe_store_trouble(d.store)), 10);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &was), 0);
    wait_for(5);
    close_store();
    struct smoe_restored all = load();
    cr_assert_eq(all.layers[0].layer.step, 5);
    smoe_restored_release(&all);
}

static struct smoe_record wide_record(uint64_t sequence, const char *name,
                                      struct smoe_standing standings[SMOE_EXPERTS_MAX])
{
    struct smoe_record r = layer_record(sequence, name);
    r.layer.shape.experts = SMOE_EXPERTS_MAX;
    snprintf(standings[SMOE_EXPERTS_MAX - 1].host, sizeof standings->host, "last of %s", name);
    r.standings = standings;
    return r;
}

Test(store_queue, keeps_one_record_of_a_layer_however_long_nothing_can_be_written)
{
    static struct smoe_standing standings[SMOE_EXPERTS_MAX];
    struct smoe_store_queue queue;
    struct smoe_record commit = {.type = SMOE_RECORD_COMMIT, .sequence = 500, .n_layers = 1};
    struct smoe_record drop = {.type = SMOE_RECORD_DROP, .sequence = 1001};
    size_t n = 0;
    cr_assert_eq(smoe_store_queue_init(&queue, &d.why), 0);
    for (uint64_t i = 1; i <= 1000; i++) {
        struct smoe_record r = wide_record(i, i % 2 ? "odd" : "even", standings);
        cr_assert_eq(smoe_store_queue_add(&queue, i == 500 ? &commit : &r, 1), 0);
    }
    smoe_list_for_each (it, &queue.waiting) {
        static const uint64_t left[] = {500, 999, 1000};
        cr_assert_eq(smoe_container_of(it, struct smoe_queued, link)->record.sequence, left[n++]);
    }
    cr_assert_eq(n, 3, "the commit, and each layer as it was last");
    strcpy(drop.layer.name, "odd");
    cr_assert_eq(smoe_store_queue_add(&queue, &drop, 1), 0);
    cr_assert_eq(smoe_store_queue_free(&queue, &queue.waiting), 1001);
    smoe_store_queue_release(&queue);
}

Test(store_queue, keeps_a_router_beside_its_layer_and_drops_both_together)
{
    static struct smoe_standing standings[SMOE_EXPERTS_MAX];
    static float many[2 * SMOE_EXPERTS_MAX];
    struct smoe_store_queue queue;
    struct smoe_record layer = wide_record(1, "moe", standings), router = layer, drop = layer;
    cr_assert_eq(smoe_store_queue_init(&queue, &d.why), 0);
    router.type = SMOE_RECORD_ROUTER;
    router.router = (struct smoe_frozen_head){1, SMOE_FROZEN_TABLE, 2, 3};
    router.values = many;
    drop.type = SMOE_RECORD_DROP;
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(smoe_store_queue_add(&queue, &layer, 1), 0);
        cr_assert_eq(smoe_store_queue_add(&queue, &router, 1), 0);
    }
    cr_assert_eq(smoe_list_count(&queue.waiting, 10), 2);
    cr_assert_eq(smoe_store_queue_add(&queue, &drop, 1), 0);
    cr_assert_eq(smoe_list_count(&queue.waiting, 10), 1);
    cr_assert_eq(smoe_store_queue_add(&queue, &layer, 1), 0);
    cr_assert_eq(smoe_list_count(&queue.waiting, 10), 2, "the drop takes the old one's router");
    smoe_store_queue_free(&queue, &queue.waiting);
    smoe_store_queue_release(&queue);
}

Test(store_queue, has_the_room_for_a_router_that_was_asked_for_and_for_no_other)
{
    static struct smoe_standing standings[SMOE_EXPERTS_MAX];
    static float many[2 * SMOE_EXPERTS_MAX];
    struct smoe_store_queue queue;
    struct smoe_record router = wide_record(1, "moe", standings);
    router.type = SMOE_RECORD_ROUTER;
    router.router = (struct smoe_frozen_head){1, SMOE_FROZEN_TABLE, 2, 3};
    router.values = many;
    cr_assert_eq(smoe_store_queue_init(&queue, &d.why), 0);
    cr_assert_eq(smoe_store_queue_room(&queue, sizeof many), 0);
    smoe_alloc_fail_at(1);
    cr_assert_eq(smoe_store_queue_add(&queue, &router, 1), 0);
    cr_assert_not(smoe_alloc_failed(), "no memory was asked for");
    smoe_alloc_fail_at(1);
    cr_assert_eq(smoe_store_queue_add(&queue, &router, 1), SMOE_ENOMEMORY);
    smoe_alloc_fail_at(1);
    cr_assert_eq(smoe_store_queue_room(&queue, sizeof many), SMOE_ENOMEMORY);
    cr_assert_eq(smoe_store_queue_room(&queue, sizeof many), 0);
    smoe_store_queue_free(&queue, &queue.waiting);
    smoe_store_queue_release(&queue); /* with the room that nobody took */
}

Test(store_queue, has_room_for_the_largest_records_when_memory_is_out)
{
    static struct smoe_standing standings[SMOE_EXPERTS_MAX];
    struct smoe_store_queue queue;
    cr_assert_eq(smoe_store_queue_init(&queue, &d.why), 0);
    for (int round = 0; round < 2; round++) {
        char name[16];
        uint64_t n = 0;
        int rc;
        do {
            snprintf(name, sizeof name, "layer%d", (int)++n);
            struct smoe_record r = wide_record(n, name, standings);
            smoe_alloc_fail_at(1);
            rc = smoe_store_queue_add(&queue, &r, 1);
            cr_assert(smoe_alloc_failed());
        } while (rc == 0);
        cr_assert_eq(rc, SMOE_ENOMEMORY);
        cr_assert_geq(n - 1, 16);
        struct smoe_list *second = queue.waiting.next->next;
        const struct smoe_queued *q = smoe_container_of(second, struct smoe_queued, link);
        cr_assert_str_eq(q->record.standings[SMOE_EXPERTS_MAX - 1].host, "last of layer2");
        cr_assert_eq(smoe_store_queue_free(&queue, &queue.waiting), n - 1);
    }
    smoe_store_queue_release(&queue);
}

Test(store, that_must_stop_while_it_cannot_write_stops, .init = begin, .fini = end)
{
    sqlite3 *other;
    open_store();
    struct smoe_record r = layer_record(1, "layer0");
    append_layer(&r, "w", 1);
    wait_for(1);
    cr_assert_eq(sqlite3_open(d.file, &other), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    append_commit(2, 42, 1);
    wait_for_failure();
    append_commit(3, 43, 1);
    close_store();
    sqlite3_close(other);
    cr_assert_eq(d.durable, 1);
    struct smoe_restored all = load();
    cr_assert_eq(all.layers[0].layer.step, 41);
    smoe_restored_release(&all);
}

/* What another reader finds of layer0: its step, and its router's version (0: it has none). */
static void expect_on_disk(uint64_t step, uint64_t version)
{
    sqlite3 *db;
    sqlite3_stmt *s;
    cr_assert_eq(sqlite3_open(d.file, &db), SQLITE_OK);
    cr_assert_eq(sqlite3_prepare_v2(db,
                                    "SELECT step, (SELECT version FROM frozen WHERE layer = name)"
                                    " FROM layer WHERE name = 'layer0'",
                                    -1, &s, NULL),
                 SQLITE_OK);
    cr_assert_eq(sqlite3_step(s), SQLITE_ROW);
    cr_assert_eq(sqlite3_column_int64(s, 0), (int64_t)step);
    cr_assert_eq(sqlite3_column_int64(s, 1), (int64_t)version);
    sqlite3_finalize(s);
    sqlite3_close(db);
}

/* Every statement of a transaction can fail: a trigger refuses it. Nothing of the transaction is there then,
 * and all of it when the trigger is gone. */
Test(store, a_statement_that_fails_takes_its_whole_transaction_along, .init = begin, .fini = end)
{
    static const char *const when[] = {
        "BEFORE DELETE ON layer", "BEFORE DELETE ON expert", "BEFORE DELETE ON frozen",
        "BEFORE INSERT ON layer", "BEFORE INSERT ON expert", "BEFORE INSERT ON frozen",
        "BEFORE UPDATE ON layer", "BEFORE UPDATE ON meta",
    };
    struct smoe_record r = layer_record(1, "layer0"), gone = layer_record(2, "gone");
    open_store();
    append_layer(&r, "old", 1);
    append_layer(&gone, "old", 1);
    append_router(3, "gone", 1);
    wait_for(3);
    for (size_t i = 0; i < sizeof when / sizeof *when; i++) {
        uint64_t at = d.durable;
        char text[128];
        snprintf(text, sizeof text, "CREATE TRIGGER t %s BEGIN SELECT RAISE(FAIL, 'no %zu'); END",
                 when[i], i);
        sql(text);
        append_drop(at + 1, "never was"); /* goes alone; what comes meanwhile goes together */
        append_router(at + 2, "layer0", 2 + i);
        append_commit(at + 3, 100 + i, 1);
        append_drop(at + 4, "gone");
        r.sequence = at + 5;
        r.layer.step = 100 + i;
        append_layer(&r, "new", 1);
        snprintf(text, sizeof text, "no %zu", i);
        wait_for_failure();
        cr_assert(strstr(smoe_store_trouble(d.store), text), "%s: %s", when[i],
                  smoe_store_trouble(d.store));
        cr_assert_leq(d.durable, at + 1);
        expect_on_disk(i ? 99 + i : 41, i ? 1 + i : 0);
        sql("DROP TRIGGER t");
        wait_for(at + 5);
        expect_on_disk(100 + i, 2 + i);
        struct smoe_record again = layer_record(at + 6, "gone");
        append_layer(&again, "old", 1);
        append_router(at + 7, "gone", 1);
        wait_for(at + 7);
    }
    close_store();
}

/* A table that somebody took away: a sentence, and nothing is acknowledged. */
Test(store, without_one_of_its_tables_says_so, .init = begin, .fini = end)
{
    static const char *const tables[] = {"layer", "expert", "frozen", "meta"};
    struct smoe_record r = layer_record(1, "layer0");
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        char text[64];
        end();
        begin();
        open_store();
        append_layer(&r, "w", 1);
        wait_for(1);
        snprintf(text, sizeof text, "DROP TABLE %s", tables[i]);
        sql(text);
        r.sequence = 2;
        if (strcmp(tables[i], "frozen") == 0)
            append_router(2, "layer0", 1);
        else
            append_layer(&r, "w", 1);
        wait_for_failure();
        cr_assert(strstr(smoe_store_trouble(d.store), tables[i]), "%s",
                  smoe_store_trouble(d.store));
        cr_assert_eq(d.durable, 1);
        struct smoe_restored all;
        int rc = smoe_store_load(d.store, &all, &d.why);
        cr_assert_eq(rc != 0, strcmp(tables[i], "meta") != 0, "%s", tables[i]);
        if (rc == 0)
            smoe_restored_release(&all);
        close_store();
        r.sequence = 1;
    }
}

/* ---- rows that cannot be, and memory that is not there ---- */

Test(store, with_more_layers_than_there_can_be_is_refused, .init = begin, .fini = end)
{
    struct smoe_restored all;
    make_full();
    sql("WITH RECURSIVE n(i) AS (SELECT 40 UNION ALL SELECT i + 1 FROM n WHERE i < 63)"
        " INSERT INTO layer SELECT 'more' || i, run, experts, d_model, d_ff, activation, dtype,"
        " optimizer, seed, zero_output, owner, learned, copies, step, attempt, done_step,"
        " done_epoch, clip_scale, square_norm FROM layer, n WHERE name = 'layer1'");
    all = load();
    cr_assert_eq(all.n_layers, SMOE_LAYERS_MAX, "as many as there can be");
    smoe_restored_release(&all);
    sql("UPDATE layer SET name = 'z' || name WHERE name = 'layer1';"
        "INSERT INTO layer SELECT 'last', run, experts, d_model, d_ff, activation, dtype,"
        " optimizer, seed, zero_output, owner, learned, copies, step, attempt, done_step,"
        " done_epoch, clip_scale, square_norm FROM layer WHERE name = 'layer2'");
    cr_assert_eq(try_open(), 0);
    cr_assert_eq(smoe_store_load(d.store, &all, &d.why), SMOE_EDATA);
    cr_assert_str_eq(d.why.text, "journal: more than 64 layers");
    smoe_store_close(d.store);
}

Test(store, passes_over_experts_that_a_layer_has_not_and_names_that_are_none, .init = begin,
     .fini = end)
{
    make_full();
    sql("INSERT INTO expert VALUES('layer1', 3, 'beyond', 'beyond');"
        "INSERT INTO expert VALUES('layer1', -1, 'before', 'before');"
        "UPDATE expert SET host = NULL, follower = x'00' WHERE layer = 'layer2' AND expert = 0");
    struct smoe_restored all = load();
    cr_assert_str_eq(find(&all, "layer1")->standings[2].host, "worker2");
    cr_assert_str_eq(find(&all, "layer2")->standings[0].host, "");
    cr_assert_str_eq(find(&all, "layer2")->standings[0].follower, "");
    smoe_restored_release(&all);
}

Test(store, with_a_router_of_no_size_it_can_have_says_whose, .init = begin, .fini = end)
{
    static const char *const changes[] = {"version = 0", "inputs = 0", "inputs = 1 << 31",
                                          "data = NULL", "data = zeroblob(4)"};
    open_store();
    struct smoe_record r = layer_record(1, "moe");
    append_layer(&r, "w", 1);
    append_router(2, "moe", 1);
    wait_for(2);
    close_store();
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct smoe_restored all;
        char text[160];
        sql("CREATE TABLE kept AS SELECT * FROM frozen");
        snprintf(text, sizeof text, "UPDATE frozen SET %s", changes[i]);
        sql(text);
        cr_assert_eq(try_open(), 0);
        cr_assert_eq(smoe_store_load(d.store, &all, &d.why), SMOE_EDATA, "%s", changes[i]);
        cr_assert_str_eq(d.why.text, "journal: the router of layer moe is damaged");
        smoe_store_close(d.store);
        sql("DELETE FROM frozen; INSERT INTO frozen SELECT * FROM kept; DROP TABLE kept");
    }
}

Test(store, that_finds_no_memory_at_the_nth_allocation_says_so_and_opens_the_next_time,
     .init = begin, .fini = end)
{
    struct smoe_record r = layer_record(1, "moe");
    open_store();
    append_layer(&r, "w", 1);
    append_router(2, "moe", 1);
    wait_for(2);
    close_store();
    unsigned n = 0;
    for (bool failed = true; failed;) {
        struct smoe_restored all = {0};
        smoe_alloc_fail_at(++n);
        int rc = try_open(), opened = rc == 0;
        rc = rc ? rc : smoe_store_load(d.store, &all, &d.why);
        failed = smoe_alloc_failed();
        cr_assert_eq(rc, failed ? SMOE_ENOMEMORY : 0, "allocation %u: %d %s", n, rc, d.why.text);
        cr_assert(!failed || strstr(d.why.text, "out of memory"), "%s", d.why.text);
        smoe_restored_release(&all);
        if (opened)
            smoe_store_close(d.store);
    }
    cr_assert_gt(n, 4, "it allocated %u times", n);
}

/* The image that the simulator keeps of a journal, and the daemon of its own records. */
Test(journal, finds_no_memory_and_is_what_it_was_before)
{
    static struct smoe_standing standings[EXPERTS];
    struct smoe_record layer = layer_record(1, "moe"), router = layer;
    struct smoe_record unknown = {.type = SMOE_RECORD_COMMIT, .n_layers = 1};
    struct smoe_restored image = {0};
    layer.standings = standings;
    router.type = SMOE_RECORD_ROUTER;
    router.router = (struct smoe_frozen_head){1, SMOE_FROZEN_TABLE, INPUTS, 1};
    router.values = values;
    strcpy(unknown.layers[0], "another");
    cr_assert_eq(smoe_restored_apply(&image, &router), 0);
    cr_assert_eq(smoe_restored_apply(&image, &unknown), SMOE_EUNKNOWN);
    const struct smoe_record *records[] = {&layer, &router};
    for (size_t i = 0; i < 2; i++) {
        int rc = SMOE_ENOMEMORY;
        for (unsigned n = 1; rc; n++) {
            smoe_alloc_fail_at(n);
            rc = smoe_restored_apply(&image, records[i]);
            cr_assert_eq(smoe_alloc_failed(), rc != 0);
            cr_assert(rc == 0 || rc == SMOE_ENOMEMORY);
            cr_assert_eq(image.n_layers, i || rc == 0);
        }
        smoe_alloc_fail_at(1);
        struct smoe_record copy;
        cr_assert_eq(smoe_record_copy(records[i], &copy), SMOE_ENOMEMORY);
        cr_assert(smoe_alloc_failed());
        smoe_record_release(&copy);
    }
    for (uint32_t l = 1; l < SMOE_LAYERS_MAX; l++) {
        snprintf(layer.layer.name, sizeof layer.layer.name, "layer%u", l);
        cr_assert_eq(smoe_restored_apply(&image, &layer), 0);
    }
    cr_assert_eq(smoe_restored_apply(&image, &layer), 0, "it has that one");
    strcpy(layer.layer.name, "one more");
    cr_assert_eq(smoe_restored_apply(&image, &layer), SMOE_ELIMIT);
    smoe_restored_release(&image);
}

/* ---- kill -9 ---- */

/* Writes commits of two layers, and layers whose experts all stand at one place, until it is killed; says
 * what is durable as the daemon would announce it. */
static void write_for_ever(int said)
{
    uint64_t told = 0;
    open_store();
    for (uint64_t sequence = 1;;) {
        uint64_t round = sequence / 3 + 1;
        char prefix[24];
        snprintf(prefix, sizeof prefix, "r%llu-", (unsigned long long)round);
        for (int l = 0; l < 2; l++) {
            struct smoe_record r = layer_record(sequence++, l ? "layer1" : "layer0");
            r.layer.step = round - 1;
            append_layer(&r, prefix, round);
        }
        append_commit(sequence++, round, 2);
        while (d.durable + 30 < sequence)
            uv_run(&d.loop, UV_RUN_ONCE);
        if (d.durable / 3 > told) {
            told = d.durable / 3;
            if (write(said, &told, sizeof told) != (ssize_t)sizeof told)
                _exit(1);
        }
    }
}

/* Commits `round` names that step in both layers; a layer of round r says r everywhere. */
static void check_prefix(uint64_t announced)
{
    struct smoe_restored all = load();
    cr_assert(all.n_layers == 2 || (!announced && all.n_layers < 2));
    for (size_t l = 0; l < all.n_layers; l++) {
        const struct smoe_restored_layer *layer = &all.layers[l];
        cr_assert_geq(layer->layer.step, announced, "an announced step is lost");
        for (int e = 1; e < EXPERTS; e++) {
            size_t n = strcspn(layer->standings[0].host, "-");
            cr_assert_eq(strncmp(layer->standings[e].host, layer->standings[0].host, n + 1), 0);
        }
    }
    if (all.n_layers == 2)
        cr_assert_eq(all.layers[0].layer.step, all.layers[1].layer.step,
                     "a commit is in one layer and not in the other");
    smoe_restored_release(&all);
}

Test(store, killed_in_the_middle_of_many_commits_holds_all_that_was_announced_and_no_half,
     .timeout = 120)
{
    uint64_t most = 0;
    for (int round = 0; round < 12; round++) {
        int pipes[2];
        uint64_t announced = 0, last = 0;
        begin();
        cr_assert_eq(pipe(pipes), 0);
        pid_t child = fork();
        if (child == 0) {
            close(pipes[0]);
            write_for_ever(pipes[1]);
        }
        close(pipes[1]);
        for (int i = 0; i <= round && read(pipes[0], &last, sizeof last) == (ssize_t)sizeof last;
             i++)
            announced = last;
        usleep((useconds_t)(round * 1700));
        cr_assert_eq(kill(child, SIGKILL), 0);
        while (read(pipes[0], &last, sizeof last) == (ssize_t)sizeof last)
            announced = last; /* said before it died */
        cr_assert_eq(waitpid(child, NULL, 0), child);
        close(pipes[0]);
        check_prefix(announced);
        most = announced > most ? announced : most;
        end();
    }
    cr_assert_gt(most, 10, "it was killed too early to show anything");
}
