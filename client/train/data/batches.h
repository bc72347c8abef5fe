/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches of images as model inputs: in an order that depends on the seed and the epoch alone (a run
 * that resumes in epoch 5 sees what an undisturbed one sees), normalised with the training set's mean
 * and standard deviation per channel.
 */
#ifndef SMOE_TRAIN_DATA_BATCHES_H
#define SMOE_TRAIN_DATA_BATCHES_H

#include "client/train/data/dataset.h"
#include "common/kernels/real.h"

/* x = (pixel / 255 - mean) / deviation, tabulated. */
struct smoe_normalizer {
    double mean[SMOE_CHANNELS_MAX];      /* of pixel / 255 */
    double deviation[SMOE_CHANNELS_MAX]; /* > 0; 1 for a constant channel */
    smoe_real table[SMOE_CHANNELS_MAX][256];
};

/* From the training images; exact integer sums, hence the same on every machine. */
void smoe_normalizer_init(struct smoe_normalizer *normalizer, const struct smoe_dataset *dataset);

struct smoe_batches {
    const struct smoe_dataset *dataset;       /* borrowed */
    const struct smoe_image_set *set;         /* its train or its test; borrowed */
    const struct smoe_normalizer *normalizer; /* borrowed */
    size_t batch;                             /* rows of every batch but the last, > 0 */
    uint32_t *order;                          /* owned; a permutation of 0..set->n - 1 */
};

/* In the file's order until _shuffle. 0 or SMOE_ENOMEMORY. */
int smoe_batches_init(struct smoe_batches *batches, const struct smoe_dataset *dataset,
                      const struct smoe_image_set *set, const struct smoe_normalizer *normalizer,
                      size_t batch);
void smoe_batches_release(struct smoe_batches *batches);

/* order[n] becomes the permutation of 0..n-1 that belongs to (seed, epoch), whatever it was. */
void smoe_order_shuffle(uint32_t *order, size_t n, uint64_t seed, uint64_t epoch);

/* The order of an epoch: a function of (seed, epoch), whatever came before. */
void smoe_batches_shuffle(struct smoe_batches *batches, uint64_t seed, uint64_t epoch);

/* Number of batches, the last perhaps smaller. */
size_t smoe_batches_count(const struct smoe_batches *batches);

/* Batch i < count: ret_x [batch, pixels] (as [channels, height, width]), ret_labels [batch]. Returns
 * its rows. */
size_t smoe_batches_fill(const struct smoe_batches *batches, size_t i, smoe_real *ret_x,
                         uint16_t *ret_labels);

#endif
