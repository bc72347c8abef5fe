/* SPDX-License-Identifier: Apache-2.0
 *
 * Setting the frequency a worker's computing runs at. A driver returns the frequency really in force,
 * in kHz, which need not be the one asked for; frequencies count nominal cycles of one lane.
 *
 *  duty  the lanes compute a share of the time and rest for the remainder: works everywhere, saves
 *        energy linearly, not cubically
 *  null  requests are ignored; lanes always run at full speed
 */
#ifndef SMOE_WORKER_FREQCTL_H
#define SMOE_WORKER_FREQCTL_H

#include <stdint.h>

enum smoe_freqctl_kind { SMOE_FREQCTL_DUTY, SMOE_FREQCTL_NULL, SMOE_FREQCTL_KINDS };

struct smoe_freqctl;

struct smoe_freqctl_driver {
    const char *name;
    /* Runs at `khz` or as near as it can; returns what is in force. [kHz] */
    uint64_t (*set)(struct smoe_freqctl *ctl, uint64_t khz);
};

/* Where a driver puts what it decided for the lanes. Invariant: 0 < duty <= 1. */
struct smoe_freqctl {
    const struct smoe_freqctl_driver *driver;
    double nominal_hz;
    double max_hz;                                /* nominal x speed cap: never exceeded */
    void (*set_duty)(void *context, double duty); /* share of the time lanes may compute */
    void *context;
};

/* NULL-terminated, in the order of the enum: choices of an option. */
extern const char *const smoe_freqctl_names[];

/* Sets up the driver and goes to max_hz. Returns the frequency in force [kHz]. */
uint64_t smoe_freqctl_init(struct smoe_freqctl *ctl, enum smoe_freqctl_kind kind, double nominal_hz,
                           double speed, void (*set_duty)(void *context, double duty),
                           void *context);

static inline uint64_t smoe_freqctl_set(struct smoe_freqctl *ctl, uint64_t khz)
{
    return ctl->driver->set(ctl, khz);
}

/* Nominal frequency of this machine's cores: cpufreq's maximum, else /proc/cpuinfo's, else 1 GHz. */
double smoe_freqctl_nominal_hz(void);

#endif
