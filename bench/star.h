/* SPDX-License-Identifier: Apache-2.0
 *
 * A switch with computers at it: a network namespace for each, joined to one more by a veth, and each limited to a rate
 * in both directions. What two of them move takes nothing from two others, as at a real switch, and what passes through
 * one of them passes its link twice. Made with iproute2 by whoever may (root); gone with the last process in it.
 */
#ifndef SMOE_BENCH_STAR_H
#define SMOE_BENCH_STAR_H

#include <sys/types.h>

#include "common/base/err.h"

#define SMOE_STAR_MAX 8

struct smoe_star {
    int home, hub;             /* namespaces: this process's own, the switch's; -1: none */
    int leaves[SMOE_STAR_MAX]; /* of the computers, the first n */
    unsigned n;
    pid_t keeper; /* is in the hub, so that it has a name */
};

/* n computers with links of `rate`, in tc's words ("1gbit"). On failure `why` says what is missing. This process stays
 * where it is. */
int smoe_star_make(unsigned n, const char *rate, struct smoe_star *ret, struct smoe_why *why);

/* The address of a computer, with port 0. */
void smoe_star_address(unsigned leaf, char ret[32]);

/* Takes this process, and what it will start, to one of them; home again: smoe_star_leave. */
int smoe_star_enter(const struct smoe_star *star, unsigned leaf, struct smoe_why *why);
void smoe_star_leave(const struct smoe_star *star);

/* Brings this process home. May be zeroed. */
void smoe_star_release(struct smoe_star *star);

#endif
