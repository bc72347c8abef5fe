/* SPDX-License-Identifier: Apache-2.0
 *
 * Data files in a temporary directory, for the tests of their readers.
 */
#ifndef SMOE_TESTS_TRAIN_FILES_H
#define SMOE_TESTS_TRAIN_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A fresh directory; _remove deletes it with its files. */
struct directory {
    char path[64];
};
struct directory directory_new(void);
void directory_remove(struct directory *directory);

/* Writes directory/name, gzipped if the name ends in .gz. */
void file_put(const struct directory *directory, const char *name, const void *bytes, size_t len);
/* Keeps only the first `len` bytes of a file, or writes one byte of it. */
void file_cut(const struct directory *directory, const char *name, size_t len);
void file_poke(const struct directory *directory, const char *name, size_t at, uint8_t value);
size_t file_size(const struct directory *directory, const char *name);

/* IDX bytes with a header of `n_dims` (1: labels, 3: images) and n * height * width bytes of content,
 * i % modulus each; the caller frees. */
uint8_t *idx_bytes(unsigned n_dims, uint32_t n, uint32_t height, uint32_t width, unsigned modulus,
                   size_t *ret_len);

/* The four files of a small Fashion-MNIST: 7 training and 3 test images of 4 x 5. */
void put_small_mnist(const struct directory *directory, const char *suffix);

/* n CIFAR records, pixel j of image i is (i + j) % 256, its label (7i + 3) % classes; the caller frees. */
uint8_t *cifar_bytes(size_t n, size_t label_bytes, unsigned classes, size_t *ret_len);

#endif
