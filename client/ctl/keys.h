/* SPDX-License-Identifier: Apache-2.0
 *
 * `stablemoectl key ...`: the gateway's keys. The file in its state directory is changed here and not by the
 * daemon, which need not run yet; one that runs is told to read it again.
 */
#ifndef SMOE_CTL_KEYS_H
#define SMOE_CTL_KEYS_H

#include <stdio.h>

#include "common/base/err.h"

#define SMOE_CTL_KEY_USAGE                                                                       \
    "  key add ROLE NAME         make a key for a worker, trainer or admin, and print it\n"      \
    "  key list                  the keys: role, name, fingerprint\n"                            \
    "  key revoke NAME [PRINT]   its keys, or the one of that fingerprint, are valid no more;\n" \
    "                            sessions that use them end\n"

/* `operands` begin behind "key". SMOE_ECONFIG: wrong usage. */
int smoe_ctl_keys(const char *state_dir, char *const *operands, unsigned n, FILE *out,
                  struct smoe_why *why);

#endif
