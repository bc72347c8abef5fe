/* SPDX-License-Identifier: Apache-2.0
 *
 * A part of bench net: what TLS adds to asking and being answered.
 */
#ifndef SMOE_BENCH_BENCH_CALLS_H
#define SMOE_BENCH_BENCH_CALLS_H

#include "bench/bench.h"
#include "bench/cores.h"
#include "common/io/tls.h"

/* `contexts`: a gateway's and a node's, of the same key, which is the only one of `keys` and of a worker. */
int smoe_bench_calls(struct smoe_bench *bench, const struct smoe_cores *cores,
                     const struct smoe_keyring *keys, struct smoe_tls_context *const contexts[2],
                     struct smoe_why *why);

#endif
