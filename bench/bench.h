/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-bench: what is fast, compared with what. Every claim is a ratio of two things measured
 * side by side in one run, because absolute figures say more about the machine and the hour. Each
 * bench is one file; main.c has the list.
 */
#ifndef SMOE_BENCH_BENCH_H
#define SMOE_BENCH_BENCH_H

#include <stdbool.h>

#include "bench/report.h"
#include "common/base/err.h"

#define SMOE_BENCH_PYTHON "/usr/bin/python3" /* Debian's own: its torch is there */

/* Exit status of a peer that lacks what it compares with. */
#define SMOE_BENCH_NOT_INSTALLED 77

struct smoe_bench {
    bool quick;          /* a second or two: does it run, not how fast */
    const char *bin_dir; /* where stablemoed and the others lie */
    const char *peers;   /* directory of the peers in Python */
    struct smoe_report *report;
};

int smoe_bench_budgets(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_kernels(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_frame(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_route(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_router(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_core(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_latency(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_links(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_net(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_memory(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_placement(struct smoe_bench *bench, struct smoe_why *why);
/* Part of `placement`. */
int smoe_bench_traffic(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_exchange(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_staleness(struct smoe_bench *bench, struct smoe_why *why);
int smoe_bench_train(struct smoe_bench *bench, struct smoe_why *why);

#endif
