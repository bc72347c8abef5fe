/* SPDX-License-Identifier: Apache-2.0
 *
 * Setting the frequency a worker's computing runs at. All frequencies are in kHz of one lane on the
 * scale of the nominal frequency, 0 < khz <= max_hz / 1000. A driver is asked for one and returns what
 * is really in force, which need not be the one asked for; what was measured is told beside it.
 *
 *  cpufreq  stablemoe-freqd limits the policies whose cores the lanes may run on: saves energy
 *           superlinearly
 *  duty     the lanes compute a share of the time and rest for the remainder: works everywhere, saves
 *           energy linearly
 *  null     requests are ignored; lanes always run at full speed
 */
#ifndef SMOE_WORKER_FREQCTL_H
#define SMOE_WORKER_FREQCTL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"

enum smoe_freqctl_kind {
    SMOE_FREQCTL_AUTO, /* the first of the following that is permitted */
    SMOE_FREQCTL_CPUFREQ,
    SMOE_FREQCTL_DUTY,
    SMOE_FREQCTL_NULL,
    SMOE_FREQCTL_KINDS
};

/* How the machine obeys; each is told by reading back, the last by measuring. */
enum smoe_freq_verdict {
    SMOE_FREQ_OBEYED,
    SMOE_FREQ_ROUNDED,   /* in force is another frequency, by more than SMOE_FREQ_TOLERANCE */
    SMOE_FREQ_REFUSED,   /* the request was not taken */
    SMOE_FREQ_OVERRULED, /* taken, and something else stands there: another program sets it too */
    SMOE_FREQ_IGNORED,   /* taken and kept, but the cores run faster */
    SMOE_FREQ_LOST,      /* nobody to ask: the helper is gone */
    SMOE_FREQ_VERDICTS
};

#define SMOE_FREQ_TOLERANCE 0.02

struct smoe_freqctl;

struct smoe_freqctl_driver {
    const char *name;
    /* Is it permitted here? 0, or a negative errno and the reason. NULL: always. */
    int (*open)(struct smoe_freqctl *ctl, struct smoe_why *why);
    /* Runs at `khz` or as near as it can, 0: as fast as max_hz allows; returns what is in force. */
    uint64_t (*set)(struct smoe_freqctl *ctl, uint64_t khz);
    /* Time passed: renews, reads back, measures. `busy`: the lanes compute just now, so that what the
     * cores run at is what the lanes get. Returns what is in force. NULL: nothing to do. */
    uint64_t (*poll)(struct smoe_freqctl *ctl, bool busy);
    /* Puts back what was found. NULL: nothing to do. */
    void (*close)(struct smoe_freqctl *ctl);
};

struct smoe_freqctl_options {
    enum smoe_freqctl_kind kind;
    double nominal_hz;
    double speed;                                 /* share of it that is never exceeded, (0, 1] */
    const char *helper;                           /* path of stablemoe-freqd's socket; borrowed */
    void (*set_duty)(void *context, double duty); /* share of the time lanes may compute, (0, 1] */
    void *context;
};

struct smoe_freqctl {
    const struct smoe_freqctl_driver *driver;
    struct smoe_freqctl_options options;
    double max_hz;          /* nominal x speed: never exceeded */
    uint64_t requested_khz; /* the last request, within the bounds; 0: none */
    uint64_t in_force_khz;
    uint64_t achieved_khz; /* measured while busy; 0: unknown */
    enum smoe_freq_verdict verdict;
    uint64_t states_khz[SMOE_FREQ_STATES_MAX]; /* [n_states] P-states up to max_hz, rising */
    uint32_t n_states;                         /* 0: any frequency can be had */
    char note[160];                            /* why the drivers before this one were not taken */
    void *state;                               /* the driver's own; owned by it */
};

/* NULL-terminated, in the order of the enum: choices of an option. */
extern const char *const smoe_freqctl_names[];
extern const char *const smoe_freq_verdicts[SMOE_FREQ_VERDICTS];

/* Chooses a driver and goes to max_hz. A negative errno if the one that was forced is not permitted. */
int smoe_freqctl_init(struct smoe_freqctl *ctl, const struct smoe_freqctl_options *options,
                      struct smoe_why *why);
/* Puts back what was found. Idempotent. */
void smoe_freqctl_release(struct smoe_freqctl *ctl);

/* Asks for `khz`, 0: none in particular; returns what is in force. [kHz] */
uint64_t smoe_freqctl_set(struct smoe_freqctl *ctl, uint64_t khz);
/* To be called every SMOE_FREQCTL_POLL_MS. Returns what is in force. [kHz] */
uint64_t smoe_freqctl_poll(struct smoe_freqctl *ctl, bool busy);
#define SMOE_FREQCTL_POLL_MS 500

/* What a second of a lane's CPU time counts: the cores' frequency, which only cpufreq changes. [Hz] */
double smoe_freqctl_cycles_hz(const struct smoe_freqctl *ctl);

/* Nominal frequency of this machine's cores: cpufreq's maximum, else /proc/cpuinfo's, else 1 GHz. */
double smoe_freqctl_nominal_hz(void);

extern const struct smoe_freqctl_driver smoe_freqctl_cpufreq;

#endif
