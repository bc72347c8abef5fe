/* SPDX-License-Identifier: Apache-2.0
 *
 * Images to train on that need no data set.
 */
#ifndef SMOE_TESTS_IMAGES_H
#define SMOE_TESTS_IMAGES_H

#include <stdint.h>

#include "client/train/model/model.h"

enum { IMAGE_PIXELS = 24, IMAGE_CLASSES = 5, IMAGE_ROWS = 320 };

/* Clusters: an image is its class's mean and noise. */
struct images {
    smoe_real x[IMAGE_ROWS * IMAGE_PIXELS];
    uint16_t labels[IMAGE_ROWS];
};

/* The same for the same seed and batch. */
void draw_images(struct images *images, uint64_t seed, uint64_t batch);

#endif
