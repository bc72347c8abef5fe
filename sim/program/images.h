/* SPDX-License-Identifier: Apache-2.0
 *
 * A data set as the simulator's training takes it.
 */
#ifndef SMOE_SIM_PROGRAM_IMAGES_H
#define SMOE_SIM_PROGRAM_IMAGES_H

#include "client/train/data/batches.h"
#include "sim/training.h"

struct smoe_sim_images {
    struct smoe_dataset dataset;
    struct smoe_normalizer normalizer;
    struct smoe_batches train, test; /* of one image each */
    struct smoe_training_data data;  /* borrows all above: the struct must not move */
};

/* As smoe_dataset_load; release what began. `dir` "" is where Debian's package puts it. */
int smoe_sim_images_load(struct smoe_sim_images *images, const char *name, const char *dir,
                         struct smoe_why *why);
void smoe_sim_images_release(struct smoe_sim_images *images);

#endif
