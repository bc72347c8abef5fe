/* SPDX-License-Identifier: Apache-2.0
 *
 * One question to a daemon, most often by its admin socket, one answer. Blocking, with time-outs: a person waits.
 */
#ifndef SMOE_CTL_ASK_H
#define SMOE_CTL_ASK_H

#include "common/base/err.h"

/* Sends `line` (without its newline) to DIR/admin.sock and reads the answer to its end: one line of
 * JSON, without its newline, the caller's to free. A negative errno, SMOE_ETIMEOUT when the daemon
 * takes longer than 5 s to take or give a byte, SMOE_EMALFORMED for an answer that is cut off,
 * SMOE_ETOOBIG for one over 64 MiB; the sentence names the socket and says what may help. */
int smoe_ctl_ask(const char *state_dir, const char *line, char **ret_answer, struct smoe_why *why);

/* Whom to ask: the daemon of this machine, or a gateway over the network. */
struct smoe_ctl_target {
    const char *state_dir;
    const char *gateway; /* NULL: by state_dir; else HOST:PORT, with */
    const char *key;     /* the file of an administrator's key */
};

/* smoe_ctl_ask or smoe_ctl_ask_remote (remote.h). */
int smoe_ctl_ask_target(const struct smoe_ctl_target *target, const char *line, char **ret_answer,
                        struct smoe_why *why);

#endif
