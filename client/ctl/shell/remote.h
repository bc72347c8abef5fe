/* SPDX-License-Identifier: Apache-2.0
 *
 * One question to a gateway over the network, by TLS and a key of role admin, and one answer.
 */
#ifndef SMOE_CTL_SHELL_REMOTE_H
#define SMOE_CTL_SHELL_REMOTE_H

#include "common/base/err.h"

/* As smoe_ctl_ask, of the gateway at `gateway` (HOST:PORT) with the key in the file `key`. SMOE_ECONFIG: the key
 * is no administrator's. The time-out is for each of connecting, asking and being answered further. */
int smoe_ctl_ask_remote(const char *gateway, const char *key, const char *line, char **ret_answer,
                        struct smoe_why *why);

#endif
