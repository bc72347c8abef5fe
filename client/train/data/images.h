/* SPDX-License-Identifier: Apache-2.0
 *
 * The file formats of image data sets, pure: bytes in, images out. Every function is total over its
 * bytes: it understands all of them or says which byte or field is wrong (SMOE_EDATA), without the
 * file's name, which the caller puts in front.
 */
#ifndef SMOE_TRAIN_DATA_IMAGES_H
#define SMOE_TRAIN_DATA_IMAGES_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define SMOE_IMAGE_SIDE_MAX 1024       /* pixels */
#define SMOE_IMAGES_MAX     (1u << 22) /* images of one set */

/* IDX (yann.lecun.com/exdb/mnist): big-endian u32 magic, one u32 per dimension, bytes. A view into the
 * bytes that were parsed. */
struct smoe_idx_images {
    uint32_t n, height, width;
    const uint8_t *pixels; /* [n, height, width] */
};

struct smoe_idx_labels {
    uint32_t n;
    const uint8_t *labels; /* [n], each below `classes` */
};

int smoe_idx_images(const uint8_t *bytes, size_t len, struct smoe_idx_images *ret,
                    struct smoe_why *why);
int smoe_idx_labels(const uint8_t *bytes, size_t len, uint32_t classes, struct smoe_idx_labels *ret,
                    struct smoe_why *why);

/* CIFAR binary (cs.toronto.edu/~kriz/cifar.html): records of `label_bytes` labels, of which the last
 * counts (CIFAR-100: coarse, then fine), and 3 planes of 32 x 32: red, green, blue. */
enum { SMOE_CIFAR_SIDE = 32, SMOE_CIFAR_CHANNELS = 3, SMOE_CIFAR_IMAGE_BYTES = 3072 };

struct smoe_cifar_format {
    size_t label_bytes; /* 1 or 2 */
    uint32_t classes;   /* of the last label */
};

/* How many records the bytes are; all labels are checked. */
int smoe_cifar_check(const uint8_t *bytes, size_t len, const struct smoe_cifar_format *format,
                     size_t *ret_n, struct smoe_why *why);

/* Takes apart n records that were checked: ret_pixels [n, SMOE_CIFAR_IMAGE_BYTES], ret_labels [n]. */
void smoe_cifar_split(const uint8_t *bytes, size_t n, const struct smoe_cifar_format *format,
                      uint8_t *ret_pixels, uint8_t *ret_labels);

#endif
