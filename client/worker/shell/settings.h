/* SPDX-License-Identifier: Apache-2.0
 *
 * What a worker is told on its command line.
 */
#ifndef SMOE_WORKER_SETTINGS_H
#define SMOE_WORKER_SETTINGS_H

#include "common/base/limits.h"
#include "common/io/cli.h"

struct smoe_worker_settings {
    char gateway[SMOE_HOST_MAX + 10];
    char id[SMOE_NAME_MAX + 1];           /* "" to be taken from the state directory */
    char state_dir[256];                  /* "": none */
    char peer_listen[SMOE_HOST_MAX + 10]; /* ADDR:PORT, "auto" or "none" */
    char key[256];                        /* file; "": plaintext, to this machine only */
    double speed;                         /* share of the nominal frequency it may use, (0, 1] */
    uint64_t lanes;
    uint64_t memory_bytes;  /* 0: half of this machine's */
    uint64_t expert_slots;  /* 0: as memory allows */
    double freq_nominal_hz; /* 0: ask the machine */
    double watts;           /* 0: unknown */
    double budget, cap;     /* [W] 0: any */
    unsigned freq_driver;   /* enum smoe_freqctl_kind */
    unsigned energy_meter;  /* enum smoe_meter_kind */
    char freqd[108];        /* path of the helper's socket */
    double temp_max_c;      /* 0: no limit */
    unsigned log_level;
};

extern const struct smoe_cli smoe_worker_cli;

/* Fills in what was left to the machine, and checks what rows cannot. */
int smoe_worker_settings_complete(struct smoe_worker_settings *s, struct smoe_why *why);

#endif
