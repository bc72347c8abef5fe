/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensor part of the bench net.
 */
#ifndef SMOE_BENCH_BENCH_RELAY_H
#define SMOE_BENCH_BENCH_RELAY_H

#include "bench/bench.h"
#include "proto/wire.h"

int smoe_bench_relay(struct smoe_bench *bench, struct smoe_wire *wire, struct smoe_why *why);

#endif
