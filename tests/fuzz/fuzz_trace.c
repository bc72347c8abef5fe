/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte is the type of a record, the rest its payload. What decodes must encode and decode again to
 * the same, and be a problem that the solver takes, whatever comes out; what does not must say why.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "sim/replay.h"
#include "tests/fuzz/input.h"
#include "tests/unit/proto/traces.h"

enum { ROOM = 1 << 16, SOLVED_SCORES_MAX = 1 << 14, SOLVED_WORK = 1 << 20 };

static struct smoe_trace_codec *codecs[2];
static struct smoe_replay replay;

static void check_copy(const struct smoe_trace_entry *entry)
{
    static uint8_t bytes[2 * ROOM];
    struct smoe_trace_frame frame;
    struct smoe_trace_entry copy;
    struct smoe_why why;
    size_t n;
    int rc = smoe_trace_encode(codecs[1], entry, 0, bytes, sizeof bytes, &n);
    if (rc == SMOE_ETOOBIG)
        return; /* one column less was written than is read */
    smoe_assert(rc == 0);
    smoe_assert(smoe_trace_read_frame(bytes, &frame) == 0);
    smoe_assert(smoe_trace_frame_holds(&frame, bytes + SMOE_TRACE_FRAME_BYTES));
    smoe_assert(smoe_trace_decode(codecs[1], &frame, bytes + SMOE_TRACE_FRAME_BYTES, &copy, &why) ==
                0);
    smoe_assert(!traces_difference(entry, &copy));
}

/* The tau that comes out, so that the rest is looked at: no fuzzer guesses eight such bytes. */
static void mend_tau(struct smoe_trace_route *t)
{
    static struct smoe_plan_worker known[256];
    static struct smoe_power_curve curves[256];
    struct smoe_plan_law law = {.slot_ns = t->slot_ns};
    memset(known, 0, sizeof known);
    if (!smoe_plan_parse(t->plan, &law.plan))
        return;
    for (uint32_t i = 0; i < t->n_workers; i++)
        known[t->workers[i].worker] = smoe_replay_worker(&t->workers[i], &curves[i]);
    t->tau_s = smoe_plan_horizon(&law, known, t->nodes, (double)t->tokens * t->top_k);
}

/* Small ones: a fuzzer's time is for other things than large solves. */
static void solve(struct smoe_trace_entry *entry)
{
    struct smoe_trace_route *t = &entry->route;
    struct smoe_why why = {""};
    if (entry->type == SMOE_TRACE_ROUTE) {
        if ((size_t)t->tokens * t->experts > SOLVED_SCORES_MAX || t->nodes > 256)
            return;
        if (!t->work_max || t->work_max > SOLVED_WORK)
            t->work_max = SOLVED_WORK;
        mend_tau(t);
    }
    int rc = smoe_replay_entry(&replay, entry, &why);
    smoe_assert(rc == 0 || why.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct smoe_trace_entry entry;
    struct smoe_why why = {""};
    if (size < 1 || size > ROOM)
        return -1;
    for (int i = 0; i < 2; i++)
        if (!codecs[i] && smoe_trace_codec_new(ROOM, &codecs[i]))
            abort();
    struct smoe_trace_frame frame = {data[0], (uint32_t)size - 1, 0};
    int rc = smoe_trace_decode(codecs[0], &frame, data + 1, &entry, &why);
    if (rc) {
        smoe_assert(why.text[0] && memchr(why.text, 0, sizeof why.text));
        return 0;
    }
    check_copy(&entry);
    solve(&entry);
    return 0;
}
