/* SPDX-License-Identifier: Apache-2.0
 *
 * Damaged data: one sentence that says which file, which byte or field, and what was expected.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/data/dataset.h"
#include "client/train/data/gzip.h"
#include "client/train/data/images.h"
#include "tests/unit/train/files.h"

static struct smoe_why why;

static void refused(const char *name, const struct directory *directory, int code, const char *file,
                    const char *sentence)
{
    struct smoe_dataset set = {.pixels = 99};
    int rc = smoe_dataset_load(name, directory->path, &set, &why);
    cr_assert_eq(rc, code, "%d: %s", rc, why.text);
    cr_assert_eq(set.pixels, 99, "written on failure");
    cr_assert_not_null(strstr(why.text, file), "%s", why.text);
    cr_assert_not_null(strstr(why.text, sentence), "%s", why.text);
}

static void mnist_refused(const struct directory *directory, const char *file, const char *sentence)
{
    refused("fashion-mnist", directory, SMOE_EDATA, file, sentence);
}

Test(dataset_bad, a_wrong_magic_is_named)
{
    struct directory d = directory_new();
    put_small_mnist(&d, "");
    file_poke(&d, "t10k-labels-idx1-ubyte", 3, 3);
    mnist_refused(&d, "/t10k-labels-idx1-ubyte: ", "magic: 0x00000803, expected 0x00000801");
    file_poke(&d, "train-images-idx3-ubyte", 2, 9);
    mnist_refused(&d, "/train-images-idx3-ubyte: ", "magic: 0x00000903, expected 0x00000803");
    directory_remove(&d);
}

Test(dataset_bad, a_wrong_label_is_named_with_its_byte)
{
    struct directory d = directory_new();
    put_small_mnist(&d, "");
    file_poke(&d, "train-labels-idx1-ubyte", 12, 10);
    mnist_refused(&d, "/train-labels-idx1-ubyte: ", "byte 12, label of image 4: 10, expected 0..9");
    directory_remove(&d);
}

Test(dataset_bad, sizes_that_disagree_are_named)
{
    struct directory d = directory_new();
    size_t len;
    put_small_mnist(&d, "");
    uint8_t *bytes = idx_bytes(1, 6, 1, 1, 10, &len);
    file_put(&d, "train-labels-idx1-ubyte", bytes, len);
    free(bytes);
    mnist_refused(&d, "/train-labels-idx1-ubyte: ", "number of labels: 6, but there are 7 images");
    put_small_mnist(&d, "");
    bytes = idx_bytes(3, 3, 5, 4, 251, &len);
    file_put(&d, "t10k-images-idx3-ubyte", bytes, len);
    free(bytes);
    mnist_refused(&d,
                  "/t10k-images-idx3-ubyte: ", "images of 5 x 4, the training images are 4 x 5");
    put_small_mnist(&d, "");
    file_poke(&d, "train-images-idx3-ubyte", 7, 8);
    mnist_refused(&d, "/train-images-idx3-ubyte: ", "cut off: 156 bytes, the header announces 176");
    file_poke(&d, "train-images-idx3-ubyte", 7, 6);
    mnist_refused(&d,
                  "/train-images-idx3-ubyte: ", "too long: 156 bytes, the header announces 136");
    directory_remove(&d);
}

/* A copy of exactly n bytes, so that a sanitizer sees one byte read too many. */
static void cut_idx_refused(const uint8_t *bytes, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    struct smoe_idx_images images;
    struct smoe_idx_labels labels;
    memcpy(copy, bytes, n);
    cr_assert_eq(smoe_idx_images(copy, n, &images, &why), SMOE_EDATA);
    cr_assert_eq(smoe_idx_labels(copy, n, 10, &labels, &why), SMOE_EDATA);
    free(copy);
}

Test(dataset_bad, idx_cut_anywhere_is_refused)
{
    size_t len;
    uint8_t *bytes = idx_bytes(3, 2, 3, 3, 7, &len);
    for (size_t n = 0; n < len; n++)
        cut_idx_refused(bytes, n);
    free(bytes);
    bytes = idx_bytes(1, 9, 1, 1, 7, &len);
    for (size_t n = 0; n < len; n++)
        cut_idx_refused(bytes, n);
    free(bytes);
}

Test(dataset_bad, idx_dimensions_have_limits)
{
    static const struct {
        uint32_t n, height, width;
        int rc;
    } cases[] = {{1, 1, 1, 0},          {0, 1, 1, SMOE_EDATA},    {1, 0, 1, SMOE_EDATA},
                 {1, 1, 0, SMOE_EDATA}, {1, 1025, 1, SMOE_EDATA}, {1, 1, 1025, SMOE_EDATA},
                 {1, 1024, 1024, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len;
        struct smoe_idx_images images;
        uint8_t *bytes = idx_bytes(3, cases[i].n, cases[i].height, cases[i].width, 255, &len);
        cr_assert_eq(smoe_idx_images(bytes, len, &images, &why), cases[i].rc, "case %zu", i);
        memset(bytes + 4, 0xff, 12); /* 2^96 pixels announced */
        cr_assert_eq(smoe_idx_images(bytes, len, &images, &why), SMOE_EDATA);
        free(bytes);
    }
}

Test(dataset_bad, a_missing_file_says_what_to_install)
{
    struct directory d = directory_new();
    refused("fashion-mnist", &d, -ENOENT, "/train-images-idx3-ubyte: no such file",
            "dataset-fashion-mnist");
    refused("cifar10", &d, -ENOENT, "/data_batch_1.bin: no such file", "cifar-10-binary");
    directory_remove(&d);
}

Test(dataset_bad, an_unknown_set_and_a_missing_directory_are_said)
{
    struct smoe_dataset set;
    cr_assert_eq(smoe_dataset_load("mnist", NULL, &set, &why), SMOE_EUNKNOWN);
    cr_assert_str_eq(why.text, "data set mnist: not one of fashion-mnist, cifar10, cifar100");
    cr_assert_eq(smoe_dataset_load("cifar10", NULL, &set, &why), SMOE_ECONFIG);
    cr_assert_not_null(strstr(why.text, "give the directory"));
    char path[600];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = 0;
    cr_assert_eq(smoe_dataset_load("cifar10", path, &set, &why), SMOE_ECONFIG);
}

Test(dataset_bad, cifar_records_must_be_whole_and_labels_known)
{
    struct directory d = directory_new();
    size_t len;
    uint8_t *bytes = cifar_bytes(3, 2, 100, &len);
    file_put(&d, "train.bin", bytes, len);
    file_put(&d, "test.bin", bytes, len - 1);
    refused("cifar100", &d, SMOE_EDATA,
            "/test.bin: ", "2 records of 3074 bytes and 3073 bytes more");
    file_put(&d, "test.bin", bytes, 0);
    refused("cifar100", &d, SMOE_EDATA, "/test.bin: ", "0 records, expected 1..");
    bytes[3074 + 1] = 100;
    file_put(&d, "test.bin", bytes, len);
    refused("cifar100", &d, SMOE_EDATA,
            "/test.bin: ", "byte 3075, label of image 1: 100, expected 0..99");
    free(bytes);
    directory_remove(&d);
}

Test(dataset_bad, gzip_cut_anywhere_or_damaged_is_refused)
{
    struct directory d = directory_new();
    const char *name = "train-images-idx3-ubyte.gz";
    put_small_mnist(&d, ".gz");
    size_t len = file_size(&d, name);
    for (size_t n = len - 1; n > 2; n--) { /* up to 2 bytes it is not recognised as gzip */
        file_cut(&d, name, n);
        mnist_refused(&d, name, "damaged gzip");
    }
    for (size_t n = 0; n <= 2; n++) {
        file_cut(&d, name, n);
        mnist_refused(&d, name, "the IDX header alone takes 16");
    }
    put_small_mnist(&d, ".gz");
    file_poke(&d, name, len - 6, 0x5a); /* in the checksum */
    mnist_refused(&d, name, "damaged gzip");
    directory_remove(&d);
}

Test(dataset_bad, a_file_may_be_as_large_as_allowed_and_not_larger)
{
    struct directory d = directory_new();
    char path[128];
    uint8_t content[3000] = {1}, *bytes;
    size_t len;
    file_put(&d, "a.gz", content, sizeof content);
    snprintf(path, sizeof path, "%s/a.gz", d.path);
    cr_assert_eq(smoe_gzip_read(path, 2999, &bytes, &len, &why), SMOE_ETOOBIG);
    cr_assert_not_null(strstr(why.text, "/a.gz: more than 2999 bytes"), "%s", why.text);
    cr_assert_eq(smoe_gzip_read(path, 3000, &bytes, &len, &why), 0);
    cr_assert_eq(len, 3000);
    cr_assert_eq(memcmp(bytes, content, len), 0);
    free(bytes);
    cr_assert_eq(smoe_gzip_read(d.path, 3000, &bytes, &len, &why), -EISDIR, "%s", why.text);
    directory_remove(&d);
}
