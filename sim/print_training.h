/* SPDX-License-Identifier: Apache-2.0
 *
 * What `run --train` prints: the whole grid, one row a policy, mean and deviation over the seeds.
 */
#ifndef SMOE_SIM_PRINT_TRAINING_H
#define SMOE_SIM_PRINT_TRAINING_H

#include "sim/print.h"
#include "sim/training.h"

/* One policy, all seeds. */
struct smoe_print_training {
    enum smoe_policy policy;
    struct smoe_training_result *results; /* [seeds], owned by the caller */
};

/* `seeds` results each; job->seed is the first seed. */
void smoe_print_training(const struct smoe_print_job *job, const struct smoe_print_training *runs,
                         size_t n, size_t seeds, FILE *out);
void smoe_print_training_json(const struct smoe_print_job *job,
                              const struct smoe_print_training *runs, size_t n, size_t seeds,
                              FILE *out);

/* Mean and sample deviation (0 of one seed) of a budget's accuracy; -1: no run was that long. */
void smoe_training_budget(const struct smoe_print_training *run, size_t seeds, size_t budget,
                          double *ret_mean, double *ret_deviation);

#endif
