/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "common/io/alarm.h"
#include "common/io/clock.h"

#define MS UINT64_C(1000000)

static struct {
    uv_loop_t loop;
    struct smoe_alarm alarm;
    uint64_t due_ns[3];
    int fired, closed;
} t;

static void closed(void *context)
{
    t.closed++;
    cr_assert_eq(context, &t);
}

/* Never before its time; sets itself again until all have come. */
static void fired(void *context)
{
    cr_assert_eq(context, &t);
    cr_assert_geq(smoe_clock_monotonic_ns(), t.due_ns[t.fired]);
    if (++t.fired < 3)
        smoe_alarm_set(&t.alarm, t.due_ns[t.fired]);
    else
        smoe_alarm_close(&t.alarm, closed);
}

static void setup(void)
{
    memset(&t, 0, sizeof t);
    uv_loop_init(&t.loop);
    cr_assert_eq(smoe_alarm_init(&t.alarm, &t.loop, fired, &t), 0);
}

static void teardown(void)
{
    uv_run(&t.loop, UV_RUN_DEFAULT);
    cr_assert_eq(t.closed, 1);
    cr_assert_eq(uv_loop_close(&t.loop), 0);
}

TestSuite(alarm, .init = setup, .fini = teardown);

Test(alarm, fires_once_for_each_time_also_for_one_that_is_past)
{
    uint64_t now = smoe_clock_monotonic_ns();
    t.due_ns[0] = now + 3 * MS;
    t.due_ns[1] = 0;
    t.due_ns[2] = now + 4 * MS + 1;
    smoe_alarm_set(&t.alarm, t.due_ns[0]);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    cr_assert_eq(t.fired, 3);
}

Test(alarm, a_new_time_replaces_the_old_one)
{
    uint64_t now = smoe_clock_monotonic_ns();
    smoe_alarm_set(&t.alarm, now + MS);
    smoe_alarm_set(&t.alarm, now + 5 * MS);
    for (int i = 0; i < 3; i++)
        t.due_ns[i] = now + 5 * MS;
    uv_run(&t.loop, UV_RUN_DEFAULT);
    cr_assert_eq(t.fired, 3);
}

Test(alarm, a_closed_one_is_silent)
{
    smoe_alarm_set(&t.alarm, 1);
    smoe_alarm_close(&t.alarm, closed);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    cr_assert_eq(t.fired, 0);
}
