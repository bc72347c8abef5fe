/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's drivers as far as they are mathematics; with a machine they are tested in
 * tests/integration/test_freq.py.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "client/worker/shell/freqctl.h"
#include "client/worker/shell/meter.h"
#include "client/worker/shell/thermal.h"

/* ---- meters ---- */

Test(meter, a_counter_advances_by_its_difference)
{
    cr_assert_eq(smoe_meter_advance(0, 0, 100), 0);
    cr_assert_eq(smoe_meter_advance(3, 10, 100), 7);
    cr_assert_eq(smoe_meter_advance(0, 100, 100), 100);
}

Test(meter, a_counter_that_wrapped_advances_around_its_range)
{
    cr_assert_eq(smoe_meter_advance(100, 0, 100), 0);
    cr_assert_eq(smoe_meter_advance(99, 1, 100), 2);
    cr_assert_eq(smoe_meter_advance(UINT64_MAX, 5, UINT64_MAX), 5);
}

Test(meter, a_counter_beyond_its_own_range_was_set_back_and_counts_nothing)
{
    cr_assert_eq(smoe_meter_advance(101, 5, 100), 0);
}

Test(meter, a_workers_share_is_its_part_of_the_busy_time_and_never_more_than_all)
{
    cr_assert_eq(smoe_meter_share(0, 100), 0);
    cr_assert_eq(smoe_meter_share(0, 0), 0);
    cr_assert_eq(smoe_meter_share(25, 100), 0.25);
    cr_assert_eq(smoe_meter_share(100, 100), 1);
    cr_assert_eq(smoe_meter_share(101, 100), 1);
    cr_assert_eq(smoe_meter_share(1, 0), 1);
}

/* A meter that reads what the test says. */
static int says_rc;
static double says_joules;

static int read_what_is_said(struct smoe_meter *m, uint64_t now_ns, double *ret)
{
    (void)m, (void)now_ns;
    if (says_rc == 0)
        *ret = says_joules;
    return says_rc;
}

static const struct smoe_meter_driver said = {.name = "said", .read = read_what_is_said};

static double read_as(struct smoe_meter *m, int rc, double joules)
{
    says_rc = rc;
    says_joules = joules;
    return smoe_meter_read(m, 0);
}

Test(meter, that_cannot_be_read_is_lost_until_it_moves_again)
{
    struct smoe_meter m = {.driver = &said};
    cr_assert_gt(read_as(&m, 0, 4), 0);
    cr_assert_not(m.lost);
    double before = m.joules;
    cr_assert_eq(read_as(&m, -EIO, 4), before);
    cr_assert(m.lost);
    read_as(&m, 0, 0);
    cr_assert(m.lost, "it can be read, and has nothing to say");
    read_as(&m, 0, 4);
    cr_assert_not(m.lost);
    cr_assert_geq(m.joules, before);
}

Test(meter, that_stands_still_while_the_worker_computes_for_seconds_is_lost)
{
    struct smoe_meter m = {.driver = &said};
    read_as(&m, 0, 1);
    m.own_busy_ns -= UINT64_C(1500000000); /* as if it had computed since then */
    read_as(&m, 0, 0);
    cr_assert_not(m.lost, "a coarse one");
    m.own_busy_ns -= UINT64_C(1500000000);
    double before = m.joules;
    read_as(&m, 0, 0);
    cr_assert(m.lost);
    cr_assert_eq(m.joules, before);
    read_as(&m, 0, 1);
    cr_assert_not(m.lost);
}

/* ---- heat ---- */

Test(thermal, without_a_limit_there_is_no_bound)
{
    cr_assert_eq(smoe_thermal_share(0.5, 500, 0), 1);
}

Test(thermal, above_the_limit_it_falls_at_the_limit_and_within_the_margin_it_stays)
{
    cr_assert_lt(smoe_thermal_share(1, 80.001, 80), 1);
    cr_assert_eq(smoe_thermal_share(0.5, 80, 80), 0.5);
    cr_assert_eq(smoe_thermal_share(0.5, 77, 80), 0.5);
    cr_assert_gt(smoe_thermal_share(0.5, 76.999, 80), 0.5);
}

Test(thermal, an_unknown_temperature_changes_nothing)
{
    cr_assert_eq(smoe_thermal_share(0.5, 0, 80), 0.5);
}

Test(thermal, it_stays_between_the_floor_and_all)
{
    double share = 1;
    for (int i = 0; i < 1000; i++)
        share = smoe_thermal_share(share, 99, 80);
    cr_assert_eq(share, SMOE_THERMAL_FLOOR);
    for (int i = 0; i < 1000; i++)
        share = smoe_thermal_share(share, 20, 80);
    cr_assert_eq(share, 1);
}

/* A node that warms in proportion to its share, towards 30..110 degrees, by a tenth each step. */
Test(thermal, a_node_that_would_overheat_settles_below_its_limit)
{
    double share = 1, celsius = 110, highest = 0;
    for (int i = 0; i < 2000; i++) {
        share = smoe_thermal_share(share, celsius, 80);
        celsius += 0.1 * (30 + 80 * share - celsius);
        if (i >= 1000 && celsius > highest)
            highest = celsius;
    }
    cr_assert_lt(highest, 80.5);
    cr_assert_gt(highest, 70);
}

/* ---- frequencies ---- */

static double duty_now;

static void set_duty(void *context, double duty)
{
    (void)context;
    duty_now = duty;
}

static struct smoe_freqctl make(enum smoe_freqctl_kind kind, double speed)
{
    struct smoe_freqctl ctl;
    struct smoe_why why = {""};
    struct smoe_freqctl_options o = {.kind = kind,
                                     .nominal_hz = 2e9,
                                     .speed = speed,
                                     .helper = "/nonexistent/socket",
                                     .set_duty = set_duty};
    cr_assert_eq(smoe_freqctl_init(&ctl, &o, &why), 0);
    return ctl;
}

Test(freqctl, the_duty_is_the_share_of_the_nominal_frequency)
{
    struct smoe_freqctl ctl = make(SMOE_FREQCTL_DUTY, 1);
    cr_assert_eq(smoe_freqctl_set(&ctl, 500000), 500000);
    cr_assert_eq(duty_now, 0.25);
    cr_assert_eq((int)ctl.verdict, SMOE_FREQ_OBEYED);
    cr_assert_eq(smoe_freqctl_cycles_hz(&ctl), 2e9);
    smoe_freqctl_release(&ctl);
}

Test(freqctl, nothing_is_asked_beyond_the_workers_own_bound)
{
    struct smoe_freqctl ctl = make(SMOE_FREQCTL_DUTY, 0.5);
    cr_assert_eq(smoe_freqctl_set(&ctl, 5000000), 1000000);
    cr_assert_eq(ctl.requested_khz, 1000000);
    cr_assert_eq(duty_now, 0.5);
    cr_assert_eq(smoe_freqctl_set(&ctl, 0), 1000000);
    smoe_freqctl_release(&ctl);
}

Test(freqctl, what_is_too_low_is_rounded_and_said_to_be)
{
    struct smoe_freqctl ctl = make(SMOE_FREQCTL_DUTY, 1);
    cr_assert_eq(smoe_freqctl_set(&ctl, 1), 20000);
    cr_assert_eq((int)ctl.verdict, SMOE_FREQ_ROUNDED);
    smoe_freqctl_release(&ctl);
}

Test(freqctl, without_a_driver_requests_are_ignored_and_said_to_be)
{
    struct smoe_freqctl ctl = make(SMOE_FREQCTL_NULL, 0.5);
    cr_assert_eq(smoe_freqctl_set(&ctl, 500000), 2000000);
    cr_assert_eq((int)ctl.verdict, SMOE_FREQ_IGNORED);
    cr_assert_eq(duty_now, 1);
    smoe_freqctl_release(&ctl);
}

Test(freqctl, the_automatic_choice_says_why_not_the_better_one)
{
    struct smoe_freqctl ctl = make(SMOE_FREQCTL_AUTO, 1);
    cr_assert_str_eq(ctl.driver->name, "duty");
    cr_assert_eq(strncmp(ctl.note, "cpufreq: ", 9), 0);
    smoe_freqctl_release(&ctl);
    smoe_freqctl_release(&ctl);
}
