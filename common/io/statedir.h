/* SPDX-License-Identifier: Apache-2.0
 *
 * The directory in which a daemon or worker keeps what must outlive it, held exclusively: the lock
 * is the kernel's (on the file `lock`), so it ends with the process however that ends; the pid inside
 * the file is only for the error message of whoever comes second.
 */
#ifndef SMOE_IO_STATEDIR_H
#define SMOE_IO_STATEDIR_H

#include <stdbool.h>

#include "common/base/err.h"

struct smoe_statedir {
    int fd;      /* of the directory, for openat; owned */
    int lock_fd; /* of the file `lock`; owned */
    bool open;
};

/* Opens `path`, making it (0750, its last component only) if it is not there, and locks it. -EBUSY
 * with `state directory PATH: in use by pid N` if another process has it. A directory that everyone
 * may write to is refused with -EPERM. */
int smoe_statedir_open(struct smoe_statedir *s, const char *path, struct smoe_why *why);

/* Whether a process has the directory `dir`, a descriptor, now. */
bool smoe_statedir_held(int dir);

/* Unlocks and closes. Accepts a zeroed object. */
void smoe_statedir_release(struct smoe_statedir *s);

#endif
