/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice of a driver, and the two small ones. Whatever is asked is brought within the bounds here,
 * so that no driver sees a request beyond them.
 */
#include "client/worker/shell/freqctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const smoe_freqctl_names[] = {"auto", "cpufreq", "duty", "null", NULL};
const char *const smoe_freq_verdicts[SMOE_FREQ_VERDICTS] = {
    [SMOE_FREQ_OBEYED] = "obeyed",   [SMOE_FREQ_ROUNDED] = "rounded",
    [SMOE_FREQ_REFUSED] = "refused", [SMOE_FREQ_OVERRULED] = "overruled",
    [SMOE_FREQ_IGNORED] = "ignored", [SMOE_FREQ_LOST] = "helper lost",
};

static uint64_t duty_set(struct smoe_freqctl *ctl, uint64_t khz)
{
    double nominal_hz = ctl->options.nominal_hz, hz = (double)khz * 1000;
    double floor_hz = nominal_hz / 100; /* a lane that never runs would never be heard of */
    if (hz > ctl->max_hz || khz == 0)
        hz = ctl->max_hz;
    if (hz < floor_hz)
        hz = floor_hz < ctl->max_hz ? floor_hz : ctl->max_hz;
    ctl->options.set_duty(ctl->options.context, hz / nominal_hz);
    return (uint64_t)(hz / 1000);
}

static uint64_t null_set(struct smoe_freqctl *ctl, uint64_t khz)
{
    (void)khz;
    return (uint64_t)(ctl->options.nominal_hz / 1000);
}

static const struct smoe_freqctl_driver duty = {.name = "duty", .set = duty_set};
static const struct smoe_freqctl_driver null = {.name = "null", .set = null_set};

/* In the order in which the automatic choice tries them. */
static const struct {
    enum smoe_freqctl_kind kind;
    const struct smoe_freqctl_driver *driver;
} drivers[] = {
    {SMOE_FREQCTL_CPUFREQ, &smoe_freqctl_cpufreq},
    {SMOE_FREQCTL_DUTY, &duty},
    {SMOE_FREQCTL_NULL, &null},
};

static void note_refusal(struct smoe_freqctl *ctl, const char *name, const struct smoe_why *why)
{
    size_t len = strlen(ctl->note);
    snprintf(ctl->note + len, sizeof ctl->note - len, "%s%s: %.120s", len ? "; " : "", name,
             why->text);
}

static int choose(struct smoe_freqctl *ctl, struct smoe_why *why)
{
    int rc = 0;
    for (size_t i = 0; i < sizeof drivers / sizeof *drivers; i++) {
        const struct smoe_freqctl_driver *it = drivers[i].driver;
        if (ctl->options.kind != SMOE_FREQCTL_AUTO && ctl->options.kind != drivers[i].kind)
            continue;
        rc = it->open ? it->open(ctl, why) : 0;
        if (rc == 0) {
            ctl->driver = it;
            return 0;
        }
        note_refusal(ctl, it->name, why);
    }
    return rc;
}

int smoe_freqctl_init(struct smoe_freqctl *ctl, const struct smoe_freqctl_options *options,
                      struct smoe_why *why)
{
    *ctl =
        (struct smoe_freqctl){.options = *options, .max_hz = options->nominal_hz * options->speed};
    options->set_duty(options->context, 1);
    int rc = choose(ctl, why);
    if (rc)
        return smoe_fail(why, rc, "--freq-driver %s", ctl->note);
    if (ctl->driver == &null)
        ctl->max_hz = options->nominal_hz;
    (void)smoe_freqctl_set(ctl, 0);
    return 0;
}

void smoe_freqctl_release(struct smoe_freqctl *ctl)
{
    if (ctl->driver && ctl->driver->close)
        ctl->driver->close(ctl);
    ctl->driver = NULL;
}

static double relative_gap(uint64_t is, uint64_t wanted)
{
    double gap = (double)is / (double)wanted - 1;
    return gap < 0 ? -gap : gap;
}

/* Drivers that can tell more than that it is another frequency do so before. */
static uint64_t settle(struct smoe_freqctl *ctl, uint64_t in_force_khz)
{
    uint64_t wanted = ctl->requested_khz ? ctl->requested_khz : (uint64_t)(ctl->max_hz / 1000);
    ctl->in_force_khz = in_force_khz;
    if (ctl->verdict == SMOE_FREQ_OBEYED && ctl->requested_khz &&
        relative_gap(in_force_khz, wanted) > SMOE_FREQ_TOLERANCE)
        ctl->verdict = ctl->driver == &null ? SMOE_FREQ_IGNORED : SMOE_FREQ_ROUNDED;
    return in_force_khz;
}

uint64_t smoe_freqctl_set(struct smoe_freqctl *ctl, uint64_t khz)
{
    uint64_t top = (uint64_t)(ctl->max_hz / 1000);
    ctl->requested_khz = khz > top ? top : khz;
    ctl->verdict = SMOE_FREQ_OBEYED;
    return settle(ctl, ctl->driver->set(ctl, ctl->requested_khz));
}

uint64_t smoe_freqctl_poll(struct smoe_freqctl *ctl, bool busy)
{
    if (!ctl->driver->poll)
        return ctl->in_force_khz;
    ctl->verdict = SMOE_FREQ_OBEYED;
    return settle(ctl, ctl->driver->poll(ctl, busy));
}

double smoe_freqctl_cycles_hz(const struct smoe_freqctl *ctl)
{
    return ctl->driver == &smoe_freqctl_cpufreq ? (double)ctl->in_force_khz * 1000
                                                : ctl->options.nominal_hz;
}

/* First number after `key` in a small file, 0 if there is none. */
static double number_in(const char *path, const char *key)
{
    char line[256];
    double value = 0;
    FILE *f = fopen(path, "r");
    while (f && value <= 0 && fgets(line, sizeof line, f)) {
        const char *at = *key ? strstr(line, key) : line;
        const char *colon = at && *key ? strchr(at, ':') : at;
        if (colon)
            value = strtod(colon + (*key ? 1 : 0), NULL);
    }
    if (f)
        (void)fclose(f);
    return value;
}

double smoe_freqctl_nominal_hz(void)
{
    double khz = number_in("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "");
    double mhz = khz > 0 ? khz / 1000 : number_in("/proc/cpuinfo", "cpu MHz");
    return mhz >= 1 && mhz < 1e6 ? mhz * 1e6 : 1e9;
}
