/* SPDX-License-Identifier: Apache-2.0
 *
 * Good files, as their readers see them. Bad ones are in test_dataset_bad.c.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/train/data/batches.h"
#include "client/train/data/dataset.h"
#include "tests/unit/train/files.h"

static struct smoe_why why;

static void check_small_mnist(const struct directory *directory)
{
    struct smoe_dataset set;
    cr_assert_eq(smoe_dataset_load("fashion-mnist", directory->path, &set, &why), 0, "%s",
                 why.text);
    cr_assert_eq(set.train.n, 7);
    cr_assert_eq(set.test.n, 3);
    cr_assert(set.height == 4 && set.width == 5 && set.channels == 1 && set.pixels == 20);
    cr_assert_eq(set.classes, 10);
    for (size_t i = 0; i < 7 * 20; i++)
        cr_assert_eq(set.train.pixels[i], i % 251);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(set.test.labels[i], i);
    smoe_dataset_release(&set);
    smoe_dataset_release(&set);
}

Test(dataset, fashion_mnist_is_read_gzipped_and_plain)
{
    struct directory directory = directory_new();
    put_small_mnist(&directory, ".gz");
    check_small_mnist(&directory);
    directory_remove(&directory);
    directory = directory_new();
    put_small_mnist(&directory, "");
    check_small_mnist(&directory);
    directory_remove(&directory);
}

/* CIFAR's images come in planes; every value must land where the file has it. */
static void check_cifar(const char *name, const char *const *files, size_t n_train_files,
                        size_t label_bytes, unsigned classes)
{
    struct directory directory = directory_new();
    size_t len;
    uint8_t *bytes = cifar_bytes(4, label_bytes, classes, &len);
    for (size_t i = 0; files[i]; i++)
        file_put(&directory, files[i], bytes, len);
    free(bytes);
    struct smoe_dataset set;
    cr_assert_eq(smoe_dataset_load(name, directory.path, &set, &why), 0, "%s", why.text);
    cr_assert_eq(set.train.n, 4 * n_train_files);
    cr_assert_eq(set.test.n, 4);
    cr_assert(set.height == 32 && set.width == 32 && set.channels == 3 && set.pixels == 3072);
    cr_assert_eq(set.classes, classes);
    for (size_t i = 0; i < set.train.n; i++) {
        cr_assert_eq(set.train.labels[i], (i % 4 * 7 + 3) % classes);
        for (size_t j = 0; j < 3072; j++)
            cr_assert_eq(set.train.pixels[i * 3072 + j], (uint8_t)(i % 4 + j));
    }
    smoe_dataset_release(&set);
    directory_remove(&directory);
}

Test(dataset, cifar_10_is_five_training_files_and_a_test_file)
{
    const char *files[] = {"data_batch_1.bin",
                           "data_batch_2.bin",
                           "data_batch_3.bin",
                           "data_batch_4.bin",
                           "data_batch_5.bin",
                           "test_batch.bin",
                           NULL};
    check_cifar("cifar10", files, 5, 1, 10);
}

Test(dataset, cifar_100_takes_the_fine_label)
{
    const char *files[] = {"train.bin", "test.bin.gz", NULL};
    check_cifar("cifar100", files, 1, 2, 100);
}

Test(dataset, debians_fashion_mnist_is_what_it_is)
{
    if (access("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz", R_OK) != 0)
        cr_skip_test("dataset-fashion-mnist is not installed");
    struct smoe_dataset set;
    struct smoe_normalizer normalizer;
    cr_assert_eq(smoe_dataset_load("fashion-mnist", NULL, &set, &why), 0, "%s", why.text);
    cr_assert(set.train.n == 60000 && set.test.n == 10000 && set.pixels == 784);
    size_t count[10] = {0};
    for (size_t i = 0; i < set.train.n; i++)
        count[set.train.labels[i]]++;
    for (size_t i = 0; i < 10; i++)
        cr_assert_eq(count[i], 6000);
    smoe_normalizer_init(&normalizer, &set);
    cr_assert_float_eq(normalizer.mean[0], 0.2860, 1e-4); /* as published */
    cr_assert_float_eq(normalizer.deviation[0], 0.3530, 1e-4);
    smoe_dataset_release(&set);
}
