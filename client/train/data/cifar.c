/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "client/train/data/images.h"

static size_t record_bytes(const struct smoe_cifar_format *format)
{
    return format->label_bytes + SMOE_CIFAR_IMAGE_BYTES;
}

int smoe_cifar_check(const uint8_t *bytes, size_t len, const struct smoe_cifar_format *format,
                     size_t *ret_n, struct smoe_why *why)
{
    size_t record = record_bytes(format), n = len / record;
    if (len % record)
        return smoe_fail(why, SMOE_EDATA,
                         "%zu bytes are %zu records of %zu bytes and %zu bytes more", len, n,
                         record, len % record);
    if (n < 1 || n > SMOE_IMAGES_MAX)
        return smoe_fail(why, SMOE_EDATA, "%zu records, expected 1..%u", n, SMOE_IMAGES_MAX);
    for (size_t i = 0; i < n; i++) {
        size_t at = i * record + format->label_bytes - 1;
        if (bytes[at] >= format->classes)
            return smoe_fail(why, SMOE_EDATA, "byte %zu, label of image %zu: %u, expected 0..%u",
                             at, i, bytes[at], (unsigned)format->classes - 1);
    }
    *ret_n = n;
    return 0;
}

void smoe_cifar_split(const uint8_t *bytes, size_t n, const struct smoe_cifar_format *format,
                      uint8_t *ret_pixels, uint8_t *ret_labels)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *record = bytes + i * record_bytes(format);
        ret_labels[i] = record[format->label_bytes - 1];
        memcpy(ret_pixels + i * SMOE_CIFAR_IMAGE_BYTES, record + format->label_bytes,
               SMOE_CIFAR_IMAGE_BYTES);
    }
}
