/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/shell/freqctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const smoe_freqctl_names[] = {"duty", "null", NULL};

static uint64_t duty_set(struct smoe_freqctl *ctl, uint64_t khz)
{
    double hz = (double)khz * 1000;
    double floor_hz = ctl->nominal_hz / 100; /* a lane that never runs would never be heard of */
    if (hz > ctl->max_hz || khz == 0)
        hz = ctl->max_hz;
    if (hz < floor_hz)
        hz = floor_hz < ctl->max_hz ? floor_hz : ctl->max_hz;
    ctl->set_duty(ctl->context, hz / ctl->nominal_hz);
    return (uint64_t)(hz / 1000);
}

static uint64_t null_set(struct smoe_freqctl *ctl, uint64_t khz)
{
    (void)khz;
    return (uint64_t)(ctl->nominal_hz / 1000);
}

static const struct smoe_freqctl_driver drivers[SMOE_FREQCTL_KINDS] = {
    [SMOE_FREQCTL_DUTY] = {"duty", duty_set},
    [SMOE_FREQCTL_NULL] = {"null", null_set},
};

uint64_t smoe_freqctl_init(struct smoe_freqctl *ctl, enum smoe_freqctl_kind kind, double nominal_hz,
                           double speed, void (*set_duty)(void *context, double duty),
                           void *context)
{
    *ctl = (struct smoe_freqctl){
        .driver = &drivers[kind],
        .nominal_hz = nominal_hz,
        .max_hz = kind == SMOE_FREQCTL_NULL ? nominal_hz : nominal_hz * speed,
        .set_duty = set_duty,
        .context = context,
    };
    return ctl->driver->set(ctl, 0);
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
