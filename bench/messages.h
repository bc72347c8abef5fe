/* SPDX-License-Identifier: Apache-2.0
 *
 * The two messages that make up the control plane's load, with counters as large as they are after a
 * few hours of training: their encoded size is that of real ones.
 */
#ifndef SMOE_BENCH_MESSAGES_H
#define SMOE_BENCH_MESSAGES_H

#include <stdint.h>

#include "proto/wire.h"

/* A Report; `ceiling` 0 or 1 gives one of two frequency ceilings, to which the daemon answers with a
 * new frequency. */
struct smoe_message smoe_example_report(uint64_t ceiling);

/* A Decision of eight parcels. */
struct smoe_message smoe_example_decision(void);

#endif
