/* SPDX-License-Identifier: Apache-2.0
 *
 * A cable: two network namespaces of this program's own, a veth between them, and both of its ends limited
 * to 1 Gbit/s. Made with iproute2 by whoever may (root); gone with the last process that is in it.
 */
#ifndef SMOE_BENCH_VETH_H
#define SMOE_BENCH_VETH_H

#include <sys/types.h>

#include "common/base/err.h"

#define SMOE_VETH_NEAR "10.99.0.1:0" /* where one may listen, at this end */

struct smoe_veth {
    int home, near, far; /* namespaces: the program's, and those of the two ends; -1: none */
    pid_t keeper;        /* is in `near`, so that it has a name */
};

/* Afterwards this process is in `near`. On failure it is where it was, and `why` says what is missing. */
int smoe_veth_make(struct smoe_veth *ret, struct smoe_why *why);

/* Takes this process into a namespace of it. */
int smoe_veth_enter(int namespace);

/* Brings this process home. */
void smoe_veth_release(struct smoe_veth *veth);

#endif
