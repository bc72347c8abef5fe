/* SPDX-License-Identifier: Apache-2.0
 *
 * One run of stablemoe-train on Fashion-MNIST.
 */
#ifndef SMOE_BENCH_TRAINER_H
#define SMOE_BENCH_TRAINER_H

#include "bench/child.h"

#define SMOE_TRAINER_DATA "/usr/share/datasets/fashion-mnist" /* it needs Debian's package */

struct smoe_trainer_job {
    const char *batch, *images, *d_model, *d_ff, *balance;
    const char *staleness; /* NULL: 0 */
    const char *key_file;  /* NULL: plaintext */
};

struct smoe_trainer_result {
    double samples_per_second, seconds, steps, test_accuracy;
};

/* One epoch over the images, of a layer named after `run`: eight experts, top-2, AdamW. If it fails, `why` has the
 * first line that it printed. */
int smoe_trainer_run(const struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                     const struct smoe_trainer_job *job, unsigned run,
                     struct smoe_trainer_result *ret, struct smoe_why *why);

/* The number `key` of the JSON object on the last line of a log that is one; false if there is none. */
bool smoe_read_json_number(const char *log, const char *key, double *ret);

#endif
