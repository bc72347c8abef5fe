/* SPDX-License-Identifier: Apache-2.0
 *
 * A part of bench net: what TLS takes from a connection.
 */
#ifndef SMOE_BENCH_BENCH_TLS_H
#define SMOE_BENCH_BENCH_TLS_H

#include "bench/bench.h"
#include "bench/cores.h"

int smoe_bench_tls(struct smoe_bench *bench, const struct smoe_cores *cores, struct smoe_why *why);

#endif
