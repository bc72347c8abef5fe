/* SPDX-License-Identifier: Apache-2.0
 *
 * Power that fails while the journal is written: what SQLite tells the file system to do is recorded, call by call,
 * from the making of the database to its last commit. Then the disk is made as it is after each of these calls, and in
 * the middle of each write, torn at every 512 bytes; and as it is when of all that was written since a file was last
 * synced only the latest write has reached it. Each time a daemon must find what was announced, and no half of what was
 * not, and an epoch higher than any before.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/shell/store.h"

enum { DATABASE, ROLLBACK, WAL, FILES, OPS_MAX = 4096, EXPERTS = 3, ROUNDS = 3, SECTOR = 512 };
static const char *const suffixes[FILES] = {"", "-journal", "-wal"};

/* ---- what is done to the disk ---- */

enum op_kind { WRITE, TRUNCATE, SYNC, REMOVE, ANNOUNCE };

static struct op {
    enum op_kind kind;
    int file;
    size_t offset, n; /* of WRITE; TRUNCATE: to n */
    uint8_t *data;
    uint64_t step, epoch; /* ANNOUNCE: what nobody may find less of from now on */
} ops[OPS_MAX];
static size_t n_ops;
static bool recording;

static sqlite3_vfs *real_vfs, traced_vfs;
static const sqlite3_io_methods *real_methods[FILES];
static sqlite3_io_methods traced_methods[FILES];
static sqlite3_file *traced_files[FILES];

static struct op *record(enum op_kind kind, int file)
{
    static struct op nothing;
    if (!recording)
        return &nothing;
    cr_assert_lt(n_ops, OPS_MAX);
    ops[n_ops] = (struct op){.kind = kind, .file = file};
    return &ops[n_ops++];
}

static int file_of(const sqlite3_file *file)
{
    int i = 0;
    while (traced_files[i] != file)
        i++;
    return i;
}

static int traced_write(sqlite3_file *file, const void *data, int n, sqlite3_int64 offset)
{
    int i = file_of(file);
    struct op *op = record(WRITE, i);
    op->offset = (size_t)offset;
    op->n = (size_t)n;
    if (recording) {
        op->data = malloc(op->n);
        memcpy(op->data, data, op->n);
    }
    return real_methods[i]->xWrite(file, data, n, offset);
}

static int traced_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    int i = file_of(file);
    record(TRUNCATE, i)->n = (size_t)size;
    return real_methods[i]->xTruncate(file, size);
}

static int traced_sync(sqlite3_file *file, int flags)
{
    int i = file_of(file);
    (void)record(SYNC, i);
    return real_methods[i]->xSync(file, flags);
}

static int traced_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags,
                       int *ret_flags)
{
    int rc = real_vfs->xOpen(vfs, name, file, flags, ret_flags);
    int i = flags & SQLITE_OPEN_MAIN_DB        ? DATABASE
            : flags & SQLITE_OPEN_MAIN_JOURNAL ? ROLLBACK
            : flags & SQLITE_OPEN_WAL          ? WAL
                                               : FILES;
    if (rc || i == FILES)
        return rc;
    real_methods[i] = file->pMethods;
    traced_methods[i] = *file->pMethods;
    traced_methods[i].xWrite = traced_write;
    traced_methods[i].xTruncate = traced_truncate;
    traced_methods[i].xSync = traced_sync;
    file->pMethods = &traced_methods[i];
    traced_files[i] = file;
    return rc;
}

static int traced_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    for (int i = ROLLBACK; i < FILES; i++)
        if (strlen(name) > strlen(suffixes[i]) &&
            strcmp(name + strlen(name) - strlen(suffixes[i]), suffixes[i]) == 0)
            (void)record(REMOVE, i);
    return real_vfs->xDelete(vfs, name, sync);
}

static void watch(void)
{
    real_vfs = sqlite3_vfs_find(NULL);
    traced_vfs = *real_vfs;
    traced_vfs.zName = "traced";
    traced_vfs.pNext = NULL;
    traced_vfs.xOpen = traced_open;
    traced_vfs.xDelete = traced_delete;
    cr_assert_eq(sqlite3_vfs_register(&traced_vfs, 1), SQLITE_OK);
}

/* ---- a daemon's work ---- */

static char dir[64];
static struct smoe_why why;
static uint64_t durable;

static void make_directory(void)
{
    /* In memory if there is such a place: hundreds of databases are opened. */
    snprintf(dir, sizeof dir, "%s/smoe-torn-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    cr_assert_not_null(mkdtemp(dir));
}

static void path_of(const char *suffix, char ret[128])
{
    snprintf(ret, 128, "%s/journal.db%s", dir, suffix);
}

static void empty_directory(void)
{
    char path[128];
    for (int i = 0; i < FILES; i++) {
        path_of(suffixes[i], path);
        (void)unlink(path);
    }
    path_of("-shm", path);
    (void)unlink(path);
}

static void announce(uint64_t step, uint64_t epoch)
{
    struct op *op = record(ANNOUNCE, 0);
    op->step = step;
    op->epoch = epoch;
}

static void on_written(void *context, uint64_t sequence, int status)
{
    (void)context;
    cr_assert_eq(status, 0);
    durable = sequence;
}

static void on_closed(void *context)
{
    *(bool *)context = true;
}

/* Both layers say the round in every place; the commit then says it once more, for both. */
static void append_round(struct smoe_store *store, uint64_t round)
{
    struct smoe_standing standings[EXPERTS];
    memset(standings, 0, sizeof standings);
    for (int e = 0; e < EXPERTS; e++)
        snprintf(standings[e].host, sizeof standings[e].host, "round-%" PRIu64, round);
    for (uint64_t l = 0; l < 2; l++) {
        struct smoe_record r = {.type = SMOE_RECORD_LAYER, .sequence = 3 * round + l - 2};
        r.layer =
            (struct smoe_journal_layer){.run = 5,
                                        .shape = {.experts = EXPERTS, .d_model = 64, .d_ff = 256},
                                        .copies = 2,
                                        .learned = true,
                                        .step = round - 1,
                                        .attempt = 1};
        snprintf(r.layer.name, sizeof r.layer.name, "layer%" PRIu64, l);
        r.standings = standings;
        cr_assert_eq(smoe_store_append(store, &r, round), 0);
    }
    struct smoe_record commit = {.type = SMOE_RECORD_COMMIT, .sequence = 3 * round, .n_layers = 2};
    commit.layer.step = round;
    commit.layer.attempt = 1;
    snprintf(commit.layers[0], sizeof commit.layers[0], "layer0");
    snprintf(commit.layers[1], sizeof commit.layers[1], "layer1");
    cr_assert_eq(smoe_store_append(store, &commit, round), 0);
}

/* Two daemons, one after the other: what the first wrote last is taken over by the second. */
static void work(uint64_t first, uint64_t last)
{
    struct smoe_store *store;
    uv_loop_t loop;
    uint64_t epoch;
    bool closed = false;
    cr_assert_eq(smoe_store_open(dir, &store, &epoch, &why), 0, "%s", why.text);
    announce(first - 1, epoch);
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(smoe_store_start(store, &loop, on_written, NULL), 0);
    for (uint64_t round = first; round <= last; round++) {
        append_round(store, round);
        while (durable < 3 * round)
            uv_run(&loop, UV_RUN_ONCE);
        announce(round, epoch);
    }
    smoe_store_stop(store, on_closed, &closed);
    while (!closed)
        uv_run(&loop, UV_RUN_ONCE);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
    smoe_store_close(store);
}

/* ---- what the disk has after some of it ---- */

static struct image {
    struct {
        bool there;
        uint8_t bytes[1 << 18];
        size_t n;
    } files[FILES];
} whole, synced, torn; /* all of it; what was synced; one that a test looks at */

/* The first `n` bytes of a write, or all of another operation. */
static void apply(struct image *image, const struct op *op, size_t n)
{
    if (op->kind == REMOVE)
        image->files[op->file].there = false;
    if (op->kind == REMOVE || (op->kind == TRUNCATE && op->n < image->files[op->file].n))
        image->files[op->file].n = op->kind == REMOVE ? 0 : op->n;
    if (op->kind != WRITE)
        return;
    size_t end = op->offset + n;
    cr_assert_leq(end, sizeof image->files[op->file].bytes);
    image->files[op->file].there = true;
    if (end > image->files[op->file].n) {
        memset(image->files[op->file].bytes + image->files[op->file].n, 0,
               end - image->files[op->file].n);
        image->files[op->file].n = end;
    }
    memcpy(image->files[op->file].bytes + op->offset, op->data, n);
}

static void write_out(const struct image *image)
{
    char path[128];
    empty_directory();
    for (int i = 0; i < FILES; i++) {
        if (!image->files[i].there)
            continue;
        path_of(suffixes[i], path);
        FILE *f = fopen(path, "wb");
        cr_assert_not_null(f);
        cr_assert_eq(fwrite(image->files[i].bytes, 1, image->files[i].n, f), image->files[i].n);
        fclose(f);
    }
}

static void check_layer(const struct smoe_restored_layer *layer, uint64_t step, const char *when)
{
    uint64_t round;
    cr_assert_geq(layer->layer.step, step, "%s: an announced step is lost", when);
    cr_assert_eq(sscanf(layer->standings[0].host, "round-%" SCNu64, &round), 1);
    cr_assert(layer->layer.step == round || layer->layer.step == round - 1, "%s", when);
    for (int e = 1; e < EXPERTS; e++)
        cr_assert_str_eq(layer->standings[e].host, layer->standings[0].host, "%s: mixed", when);
}

/* A daemon starts on it. */
static void check(const struct image *image, const struct op *announced, const char *when)
{
    struct smoe_restored all;
    struct smoe_store *store;
    uint64_t epoch;
    write_out(image);
    cr_assert_eq(smoe_store_open(dir, &store, &epoch, &why), 0, "%s: %s", when, why.text);
    cr_assert_eq(smoe_store_load(store, &all, &why), 0, "%s: %s", when, why.text);
    cr_assert_gt(epoch, announced->epoch, "%s: the epoch went back", when);
    cr_assert(all.n_layers == 2 || (!announced->step && all.n_layers < 2), "%s", when);
    for (size_t l = 0; l < all.n_layers; l++)
        check_layer(&all.layers[l], announced->step, when);
    if (all.n_layers == 2)
        cr_assert_eq(all.layers[0].layer.step, all.layers[1].layer.step,
                     "%s: a commit is in one layer and not in the other", when);
    smoe_restored_release(&all);
    smoe_store_close(store);
}

/* Every state of the disk on the way to the end of this operation. */
static size_t check_operation(const struct op *op, size_t number, const struct op *announced)
{
    char when[80];
    size_t states = 1;
    snprintf(when, sizeof when, "after call %zu", number);
    for (size_t n = SECTOR - op->offset % SECTOR; op->kind == WRITE && n < op->n; n += SECTOR) {
        torn = whole;
        apply(&torn, op, n);
        snprintf(when, sizeof when, "call %zu, torn after %zu bytes", number, n);
        check(&torn, announced, when);
        states++;
    }
    if (op->kind == WRITE) {
        torn = synced;
        apply(&torn, op, op->n);
        snprintf(when, sizeof when, "call %zu alone, nothing else since the last sync", number);
        check(&torn, announced, when);
        states++;
    }
    apply(&whole, op, op->n);
    if (op->kind == SYNC)
        synced.files[op->file] = whole.files[op->file];
    if (op->kind == REMOVE || op->kind == TRUNCATE) /* the directory's order is kept */
        apply(&synced, op, op->n);
    check(&whole, announced, when);
    return states;
}

Test(torn, a_journal_has_what_was_announced_wherever_its_writing_broke_off, .timeout = 300)
{
    struct op announced = {0};
    size_t states = 0;
    make_directory();
    watch();
    recording = true;
    work(1, ROUNDS);
    work(ROUNDS + 1, ROUNDS + 1);
    recording = false;
    cr_assert_gt(n_ops, 50);
    for (size_t i = 0; i < n_ops; i++) {
        if (ops[i].kind == ANNOUNCE)
            announced = ops[i];
        else
            states += check_operation(&ops[i], i, &announced);
        free(ops[i].data);
    }
    cr_assert_gt(states, 300, "%zu", states);
    cr_assert_eq(announced.step, ROUNDS + 1);
    fprintf(stderr, "%zu calls, %zu states of the disk\n", n_ops, states);
    empty_directory();
    (void)rmdir(dir);
}
