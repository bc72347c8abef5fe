/* SPDX-License-Identifier: Apache-2.0
 *
 * A gateway, workers and what a trainer needs to join them: all on this machine's loopback, or each with a computer of
 * its own at a switch (star.h), gateway and trainer on the first.
 */
#ifndef SMOE_BENCH_SITE_H
#define SMOE_BENCH_SITE_H

#include "bench/child.h"
#include "bench/star.h"

struct smoe_site_options {
    const char *const *settings;  /* of the gateway, NULL-terminated "section.key=value" */
    const char *const *worker;    /* options of every worker, NULL-terminated words */
    unsigned n_workers;           /* at most SMOE_FLEET_WORKERS_MAX */
    const struct smoe_star *star; /* with n_workers + 1 leaves; NULL: loopback */
    bool secure;                  /* TLS with a key for each; a star is in any case */
};

struct smoe_site {
    struct smoe_bench_fleet fleet;
    struct smoe_keyring keys;
    char trainer_key[192]; /* path; "" without TLS */
};

/* Stop it in any case. Whether the workers have come is for the gateway to say (`fleet.workers_min`). */
int smoe_site_start(const struct smoe_bench *bench, const struct smoe_site_options *options,
                    struct smoe_site *ret, struct smoe_why *why);
void smoe_site_stop(struct smoe_site *site);

#endif
