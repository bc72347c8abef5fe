/* SPDX-License-Identifier: Apache-2.0
 *
 * Metering the energy a worker uses, and the temperature. [J], [degrees Celsius]
 *
 *  rapl   the processor's own counters, through libpowercap: package domains, which contain the others
 *  hwmon  a power sensor of the board (INA2xx and the like), through libsensors, integrated over time
 *  model  nothing here: the agent counts busy time at the power it was told (--watts)
 *
 * What a meter sees is the whole machine. A worker counts as its own the share of the machine's busy time
 * that it caused, so that several on one machine count every joule once, and idle power goes to those
 * for whom the machine is on.
 */
#ifndef SMOE_WORKER_METER_H
#define SMOE_WORKER_METER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum smoe_meter_kind {
    SMOE_METER_AUTO, /* the first of the following that is permitted */
    SMOE_METER_RAPL,
    SMOE_METER_HWMON,
    SMOE_METER_MODEL,
    SMOE_METER_KINDS
};

struct smoe_meter;

struct smoe_meter_driver {
    const char *name; /* Report.energy_source, at most 15 bytes */
    /* Is it permitted here? 0, or a negative errno and the reason. */
    int (*open)(struct smoe_meter *meter, struct smoe_why *why);
    /* Energy of the whole machine since the last read, 0 at the first; a negative errno: unreadable. */
    int (*read)(struct smoe_meter *meter, uint64_t now_ns, double *ret_joules);
    void (*close)(struct smoe_meter *meter);
};

struct smoe_meter {
    const struct smoe_meter_driver *driver; /* NULL: model */
    const char *helper;                     /* path of stablemoe-freqd's socket; borrowed */
    void *state;                            /* the driver's own; owned by it */
    bool opened;                            /* init was called, and release was not */
    double joules;                          /* the worker's, since the beginning; never falls */
    uint64_t own_busy_ns, host_busy_ns;     /* as of the last movement */
    bool lost;                              /* it cannot be read, or stands still: see read */
    char note[160];                         /* why the meters before this one were not taken */
};

/* NULL-terminated, in the order of the enum: choices of an option. */
extern const char *const smoe_meter_names[];

/* Chooses a meter. A negative errno if the one that was forced is not permitted; release it all the
 * same. */
int smoe_meter_init(struct smoe_meter *meter, enum smoe_meter_kind kind, const char *helper,
                    struct smoe_why *why);
void smoe_meter_release(struct smoe_meter *meter);
/* Name of the source, "" for the model. */
const char *smoe_meter_source(const struct smoe_meter *meter);
/* To be called now and then (once a second at least: counters wrap); the worker's joules so far. Afterwards `lost` says
 * whether the meter could not be read, or has stood still while the worker computed for seconds, which nothing that
 * draws power does. It is over when the meter moves; what it counted meanwhile is in the joules then. */
double smoe_meter_read(struct smoe_meter *meter, uint64_t now_ns);

/* The hottest of the processor's sensors, and without such of all; 0: there are none, or no meter is
 * open. */
double smoe_meter_celsius(void);

/* ---- mathematics of meters ---- */

/* How far a counter went that goes on from 0 after `range`. [its unit] */
uint64_t smoe_meter_advance(uint64_t before, uint64_t now, uint64_t range);
/* Part of the machine's busy time that was the worker's, 0..1. The machine's is counted in ticks, so a
 * short one of the worker's may exceed it. */
double smoe_meter_share(uint64_t own_ns, uint64_t host_ns);

/* libsensors' state, for as long as a meter is open; each init has its release. */
void smoe_meter_sensors_init(void);
void smoe_meter_sensors_release(void);

extern const struct smoe_meter_driver smoe_meter_rapl, smoe_meter_hwmon;

#endif
