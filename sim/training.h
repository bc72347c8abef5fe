/* SPDX-License-Identifier: Apache-2.0
 *
 * Training in virtual time: the tokens that arrive are images, their scores come from the model's gate as it
 * is then, and the tokens that complete in a slot are the batch of that slot's one optimizer step, on the
 * experts that the policy gave them. What a policy costs is thus seen where it matters: tokens that wait do
 * not teach, and experts that the gate did not ask for teach something else. The kernels are the workers'.
 *
 * Same seed, same machine: same figures. On another machine BLAS may round otherwise.
 */
#ifndef SMOE_SIM_TRAINING_H
#define SMOE_SIM_TRAINING_H

#include "common/kernels/real.h"
#include "sim/slotted.h"

/* Images and what they show. Image i of either set: ret_x[pixels], its class by return. */
struct smoe_training_data {
    void *context;
    uint8_t (*image)(void *context, bool test, uint64_t i, smoe_real *ret_x);
    uint64_t train_n, test_n; /* > 0 */
    uint32_t pixels, classes;
};

/* After how many slots the test accuracy is taken; fixed beforehand, see docs/results.md. */
enum { SMOE_TRAINING_BUDGETS = 4 };
extern const uint64_t smoe_training_budgets[SMOE_TRAINING_BUDGETS];

/* Test accuracy is also taken every so many slots, on the first images of the test set. */
#define SMOE_TRAINING_EVERY  5
#define SMOE_TRAINING_GLANCE 2000 /* images */

struct smoe_training_result {
    struct smoe_slotted_result fleet;
    double budget[SMOE_TRAINING_BUDGETS]; /* test accuracy after each; -1: the run was shorter */
    double *glance;                       /* [glances] every SMOE_TRAINING_EVERY slots, owned */
    double *glance_joules;                /* [glances] spent by then, owned */
    uint64_t glances;
    uint64_t steps; /* of the optimizer: slots in which tokens were completed */
};

/* The run of `options`, whose trainer is replaced. The model's initial weights and the order of images are
 * functions of the seed. 0 or SMOE_ENOMEMORY. */
int smoe_training_run(const struct smoe_scenario *scenario,
                      const struct smoe_slotted_options *options,
                      const struct smoe_training_data *data, struct smoe_training_result *ret);
void smoe_training_release(struct smoe_training_result *result);

/* The first slot after which a glance saw this much; 0: none did. */
uint64_t smoe_training_slots_to(const struct smoe_training_result *result, double accuracy);
/* What was spent by then. [J] */
double smoe_training_joules_to(const struct smoe_training_result *result, double accuracy);

#endif
