/* SPDX-License-Identifier: GPL-2.0-only
 *
 * Limits of cpufreq policies: what was found, what is asked, what is in force. Only scaling_max_freq and
 * scaling_min_freq are ever written, and only below what was found.
 */
#ifndef SMOE_FREQD_POLICIES_H
#define SMOE_FREQD_POLICIES_H

#include <stdbool.h>
#include <stdint.h>

#define SMOE_POLICIES_MAX 4096

struct smoe_policy {
    uint32_t cpu;                  /* first of its cores, running or not, which names it */
    uint32_t through;              /* a core by which its files were reached */
    bool changed;                  /* its found values are on file, and it must be restored */
    uint64_t found_min, found_max; /* [kHz] as they were before the first change */
    uint64_t lowest, highest;      /* [kHz] the hardware's; 0: not read yet */
};

struct smoe_policies {
    int dir;                      /* of the state file; owned, locked. -1: not open */
    const char *file;             /* its name in there; borrowed */
    struct smoe_policy *policies; /* [n], owned */
    uint32_t n;
};

/* Opens and locks the directory of `path` and restores what the file there says, which a process that
 * was killed has left. 0, or a negative errno if the directory is not there or belongs to another one.
 * What could not be restored stays on file, and is tried again by smoe_policies_restore. */
int smoe_policies_open(struct smoe_policies *p, const char *path);
void smoe_policies_release(struct smoe_policies *p);

/* The policy of a core, read when it is first asked for; a negative errno if there is none, or the core is switched
 * off. Its other cores lead to the same policy. */
int smoe_policies_find(struct smoe_policies *p, uint32_t cpu, struct smoe_policy **ret);

/* Limits it to khz, or as near as it may be (*ret_asked); the found values are on file before. */
int smoe_policy_limit(struct smoe_policies *p, struct smoe_policy *policy, uint64_t khz,
                      uint64_t *ret_asked);
/* Puts back what was found; a negative errno if that did not succeed: to be tried again. */
int smoe_policy_restore(struct smoe_policies *p, struct smoe_policy *policy);
/* scaling_max_freq as it reads now, 0 if it cannot be read. [kHz] */
uint64_t smoe_policy_in_force(struct smoe_policy *policy);

#endif
