/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/data/images.h"

enum {
    MAGIC_LABELS = 0x00000801, /* unsigned bytes, 1 dimension */
    MAGIC_IMAGES = 0x00000803, /* unsigned bytes, 3 dimensions */
    LABELS_HEADER = 8,
    IMAGES_HEADER = 16,
};

static uint32_t big_endian(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Magic and length of the header, and the number of items in its first field. */
static int check_header(const uint8_t *bytes, size_t len, uint32_t magic, size_t header_len,
                        uint32_t *ret_n, struct smoe_why *why)
{
    if (len < header_len)
        return smoe_fail(why, SMOE_EDATA, "%zu bytes, the IDX header alone takes %zu", len,
                         header_len);
    if (big_endian(bytes) != magic)
        return smoe_fail(why, SMOE_EDATA, "bytes 0..3, magic: 0x%08x, expected 0x%08x",
                         (unsigned)big_endian(bytes), (unsigned)magic);
    uint32_t n = big_endian(bytes + 4);
    if (n < 1 || n > SMOE_IMAGES_MAX)
        return smoe_fail(why, SMOE_EDATA, "bytes 4..7, number of items: %u, expected 1..%u",
                         (unsigned)n, SMOE_IMAGES_MAX);
    *ret_n = n;
    return 0;
}

static int check_length(size_t len, uint64_t want, struct smoe_why *why)
{
    if (len == want)
        return 0;
    return smoe_fail(why, SMOE_EDATA, "%s: %zu bytes, the header announces %llu",
                     len < want ? "cut off" : "too long", len, (unsigned long long)want);
}

int smoe_idx_images(const uint8_t *bytes, size_t len, struct smoe_idx_images *ret,
                    struct smoe_why *why)
{
    struct smoe_idx_images images;
    int rc = check_header(bytes, len, MAGIC_IMAGES, IMAGES_HEADER, &images.n, why);
    if (rc)
        return rc;
    images.height = big_endian(bytes + 8);
    images.width = big_endian(bytes + 12);
    if (images.height < 1 || images.height > SMOE_IMAGE_SIDE_MAX || images.width < 1 ||
        images.width > SMOE_IMAGE_SIDE_MAX)
        return smoe_fail(why, SMOE_EDATA, "bytes 8..15, image size: %u x %u, expected 1..%d",
                         (unsigned)images.height, (unsigned)images.width, SMOE_IMAGE_SIDE_MAX);
    uint64_t n_pixels = (uint64_t)images.n * images.height * images.width; /* at most 2^42 */
    rc = check_length(len, IMAGES_HEADER + n_pixels, why);
    if (rc)
        return rc;
    images.pixels = bytes + IMAGES_HEADER;
    *ret = images;
    return 0;
}

int smoe_idx_labels(const uint8_t *bytes, size_t len, uint32_t classes, struct smoe_idx_labels *ret,
                    struct smoe_why *why)
{
    struct smoe_idx_labels labels = {.n = 0};
    int rc = check_header(bytes, len, MAGIC_LABELS, LABELS_HEADER, &labels.n, why);
    if (rc == 0)
        rc = check_length(len, LABELS_HEADER + (uint64_t)labels.n, why);
    if (rc)
        return rc;
    labels.labels = bytes + LABELS_HEADER;
    for (size_t i = 0; i < labels.n; i++)
        if (labels.labels[i] >= classes)
            return smoe_fail(why, SMOE_EDATA, "byte %zu, label of image %zu: %u, expected 0..%u",
                             LABELS_HEADER + i, i, labels.labels[i], (unsigned)classes - 1);
    *ret = labels;
    return 0;
}
