/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal's loop and its job of the thread pool. Whoever is told that a record is durable appends the next one
 * from within that call, as the core does, so that a job begins while the end of the last one is still being booked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/shell/store.h"
#include "tests/unit/threads/must.h"

enum { RECORDS = 100 };

static struct smoe_store *store;
static uint64_t appended, durable;

static void append(void)
{
    struct smoe_record r = {.type = SMOE_RECORD_DROP, .sequence = ++appended};
    snprintf(r.layer.name, sizeof r.layer.name, "layer%llu", (unsigned long long)(appended % 7));
    must(smoe_store_append(store, &r, 1) == 0);
}

static void on_written(void *context, uint64_t sequence, int status)
{
    (void)context;
    must(status == 0 && sequence == durable + 1);
    durable = sequence;
    if (appended < RECORDS)
        append();
}

static void on_closed(void *context)
{
    *(bool *)context = true;
}

int main(void)
{
    static const char *const files[] = {"journal.db", "journal.db-wal", "journal.db-shm"};
    char dir[] = "/tmp/smoe-threads-XXXXXX", path[64];
    struct smoe_why why;
    uint64_t epoch;
    uv_loop_t loop;
    bool closed = false;
    alarm(120); /* whoever waits for ever is killed */
    must(mkdtemp(dir) && smoe_store_open(dir, &store, &epoch, &why) == 0);
    must(uv_loop_init(&loop) == 0 && smoe_store_start(store, &loop, on_written, NULL) == 0);
    append();
    while (durable < RECORDS)
        uv_run(&loop, UV_RUN_ONCE);
    smoe_store_stop(store, on_closed, &closed);
    must(uv_run(&loop, UV_RUN_DEFAULT) == 0 && closed && uv_loop_close(&loop) == 0);
    smoe_store_close(store);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        (void)unlink(path);
    }
    must(rmdir(dir) == 0);
    return 0;
}
