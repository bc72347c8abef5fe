/* SPDX-License-Identifier: Apache-2.0
 *
 * A part of bench memory: what a connection through TLS costs the gateway.
 */
#ifndef SMOE_BENCH_BENCH_MEMORY_TLS_H
#define SMOE_BENCH_BENCH_MEMORY_TLS_H

#include "bench/bench.h"

int smoe_bench_memory_tls(struct smoe_bench *bench, struct smoe_why *why);

#endif
