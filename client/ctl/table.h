/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers of the daemon as tables for people.
 */
#ifndef SMOE_CTL_TABLE_H
#define SMOE_CTL_TABLE_H

#include <cjson/cJSON.h>
#include <stdio.h>

/* One row a worker, in the natural order of their ids ("w2" before "w10"): state, measured speed
 * [visits/s while it had work], share of all visits done, backlog Q [visits], energy metered and
 * owed [J], frequency in force, experts. `answer` is that of `workers` or `status`; a field that is
 * missing prints as "-". Nonzero when out of memory. */
int smoe_ctl_print_workers(const cJSON *answer, FILE *to);

/* What stands above the workers in `watch`: the gateway and its ledger, then a line per trainer.
 * `answer` is that of `status`. */
void smoe_ctl_print_gateway(const cJSON *answer, FILE *to);

#endif
