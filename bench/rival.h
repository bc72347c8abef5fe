/* SPDX-License-Identifier: Apache-2.0
 *
 * A program that competes in a race from outside: it solves the same problem on the same memory
 * (bench/shared.h) when it is asked to, on the same core, and says how much CPU time it took. What it
 * speaks, over a socket that is its standard input and output, is lines:
 *
 *     it says      ready VERSION          once; or it exits with SMOE_BENCH_NOT_INSTALLED
 *     we ask       JOB CALLS              JOB is words that only the two understand
 *     it answers   NS VALUE               CPU time of all calls, and what the last one found
 *
 * A rival sleeps while it is not asked. One that breaks the protocol has failed for good: it answers no
 * further question, and `why` keeps the reason.
 */
#ifndef SMOE_BENCH_RIVAL_H
#define SMOE_BENCH_RIVAL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "common/base/err.h"

struct smoe_rival {
    pid_t pid;    /* 0: none runs */
    FILE *stream; /* our end of the socket; read through it, written to below it */
    char version[64];
    bool failed;
    struct smoe_why why;
};

/* Starts argv[0], a path. *ret_installed: false if it is not there or says that it lacks something, which is
 * no error. 0, or a code; stop it in any case. */
int smoe_rival_start(const char *const *argv, struct smoe_rival *ret, bool *ret_installed,
                     struct smoe_why *why);
void smoe_rival_stop(struct smoe_rival *rival);

/* Has the job done `calls` times. CPU time of all calls in ns; a second a call once it has failed, so that a
 * race comes to its end. ret_value may be NULL. */
double smoe_rival_ask(struct smoe_rival *rival, const char *job, uint64_t calls, double *ret_value);

/* This process and all that it starts from now on run on one core: competitors meet the same clock,
 * the same caches, and no second core for threads that nobody asked for. 0 or -errno. */
int smoe_rival_share_core(void);

#endif
