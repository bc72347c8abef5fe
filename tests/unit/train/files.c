/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/train/files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "common/base/assert.h"

enum { PATH_BYTES = 400 };

struct directory directory_new(void)
{
    struct directory directory = {"/tmp/smoe-data.XXXXXX"};
    smoe_assert(mkdtemp(directory.path));
    return directory;
}

static void path_of(const struct directory *directory, const char *name, char ret[PATH_BYTES])
{
    snprintf(ret, PATH_BYTES, "%s/%s", directory->path, name);
}

void directory_remove(struct directory *directory)
{
    DIR *dir = opendir(directory->path);
    smoe_assert(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[PATH_BYTES];
        path_of(directory, entry->d_name, path);
        if (entry->d_name[0] != '.')
            smoe_assert(remove(path) == 0);
    }
    closedir(dir);
    smoe_assert(rmdir(directory->path) == 0);
}

void file_put(const struct directory *directory, const char *name, const void *bytes, size_t len)
{
    char path[PATH_BYTES];
    path_of(directory, name, path);
    size_t name_len = strlen(name);
    bool gzip = name_len > 3 && strcmp(name + name_len - 3, ".gz") == 0;
    gzFile file = gzopen(path, gzip ? "wb" : "wbT");
    smoe_assert(file && gzwrite(file, bytes, (unsigned)len) == (int)len);
    smoe_assert(gzclose(file) == Z_OK);
}

void file_cut(const struct directory *directory, const char *name, size_t len)
{
    char path[PATH_BYTES];
    path_of(directory, name, path);
    smoe_assert(truncate(path, (off_t)len) == 0);
}

void file_poke(const struct directory *directory, const char *name, size_t at, uint8_t value)
{
    char path[PATH_BYTES];
    path_of(directory, name, path);
    FILE *file = fopen(path, "r+b");
    smoe_assert(file && fseek(file, (long)at, SEEK_SET) == 0 && fputc(value, file) == value);
    smoe_assert(fclose(file) == 0);
}

size_t file_size(const struct directory *directory, const char *name)
{
    char path[PATH_BYTES];
    struct stat st;
    path_of(directory, name, path);
    smoe_assert(stat(path, &st) == 0);
    return (size_t)st.st_size;
}

static void put_big_endian(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

uint8_t *idx_bytes(unsigned n_dims, uint32_t n, uint32_t height, uint32_t width, unsigned modulus,
                   size_t *ret_len)
{
    size_t header = 4 + 4 * (size_t)n_dims, content = (size_t)n * height * width;
    uint32_t fields[] = {0x800 + n_dims, n, height, width};
    uint8_t *bytes = malloc(header + content);
    smoe_assert(bytes);
    for (unsigned i = 0; i <= n_dims; i++)
        put_big_endian(bytes + 4 * (size_t)i, fields[i]);
    for (size_t i = 0; i < content; i++)
        bytes[header + i] = (uint8_t)(i % modulus);
    *ret_len = header + content;
    return bytes;
}

static void put_idx(const struct directory *directory, const char *name, const char *suffix,
                    unsigned n_dims, uint32_t n)
{
    char full[64];
    size_t len;
    uint8_t *bytes =
        n_dims == 3 ? idx_bytes(3, n, 4, 5, 251, &len) : idx_bytes(1, n, 1, 1, 10, &len);
    snprintf(full, sizeof full, "%s%s", name, suffix);
    file_put(directory, full, bytes, len);
    free(bytes);
}

void put_small_mnist(const struct directory *directory, const char *suffix)
{
    put_idx(directory, "train-images-idx3-ubyte", suffix, 3, 7);
    put_idx(directory, "train-labels-idx1-ubyte", suffix, 1, 7);
    put_idx(directory, "t10k-images-idx3-ubyte", suffix, 3, 3);
    put_idx(directory, "t10k-labels-idx1-ubyte", suffix, 1, 3);
}

uint8_t *cifar_bytes(size_t n, size_t label_bytes, unsigned classes, size_t *ret_len)
{
    size_t record = label_bytes + 3072;
    uint8_t *bytes = malloc(n * record);
    smoe_assert(bytes);
    for (size_t i = 0; i < n; i++) {
        uint8_t *at = bytes + i * record;
        at[0] = 19; /* CIFAR-100: the coarse label, overwritten where there is none */
        at[label_bytes - 1] = (uint8_t)((i * 7 + 3) % classes);
        for (size_t j = 0; j < 3072; j++)
            at[label_bytes + j] = (uint8_t)(i + j);
    }
    *ret_len = n * record;
    return bytes;
}
