/* SPDX-License-Identifier: Apache-2.0
 *
 * Image data sets for training: Fashion-MNIST (Debian's dataset-fashion-mnist), CIFAR-10 and
 * CIFAR-100 in their published files, wholly in memory as bytes.
 */
#ifndef SMOE_TRAIN_DATA_DATASET_H
#define SMOE_TRAIN_DATA_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define SMOE_CHANNELS_MAX 3

/* Images and what they show, of one size. */
struct smoe_image_set {
    size_t n;
    uint8_t *pixels; /* owned; [n, channels, height, width] */
    uint8_t *labels; /* owned; [n], each below the data set's `classes` */
};

struct smoe_dataset {
    const char *name; /* static */
    struct smoe_image_set train, test;
    uint32_t height, width, channels;
    uint32_t classes;
    size_t pixels; /* values of one image: channels * height * width */
};

/* The names of the data sets, as in "fashion-mnist, cifar10, cifar100". */
const char *smoe_dataset_names(void);

/* Reads a data set from its directory; NULL stands for where Debian puts it (only Fashion-MNIST is
 * packaged). Each file may be there with or without .gz. SMOE_EUNKNOWN for the name, SMOE_ECONFIG when
 * a directory is needed, a negative errno, SMOE_EDATA, SMOE_ETOOBIG or SMOE_ENOMEMORY: the sentence
 * names the file and what was expected where. `*ret` is written only on success. */
int smoe_dataset_load(const char *name, const char *dir, struct smoe_dataset *ret,
                      struct smoe_why *why);
void smoe_dataset_release(struct smoe_dataset *dataset);

#endif
