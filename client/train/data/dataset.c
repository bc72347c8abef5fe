/* SPDX-License-Identifier: Apache-2.0
 *
 * From a name and a directory to a data set. A table says for each set which files make it and how they
 * are read; reading a file and understanding it are gzip.c's and idx.c's or cifar.c's work, here they
 * are joined: train and test must agree, images and labels must be as many.
 *
 * A data set under construction is zeroed first and released wholly on any failure.
 */
#include "client/train/data/dataset.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/data/gzip.h"
#include "client/train/data/images.h"

#define FILE_BYTES_MAX (256u << 20) /* unpacked; CIFAR-100's training file has 147 MiB */

enum { FILES_MAX = 5, PATH_BYTES = 512 };

struct source {
    const char *name;
    const char *dir;                  /* default, or NULL */
    const char *package;              /* what to install, or where it comes from */
    const char *train[FILES_MAX + 1]; /* NULL-terminated; IDX: images, labels */
    const char *test[FILES_MAX + 1];
    struct smoe_cifar_format cifar; /* label_bytes 0: IDX */
    uint32_t classes;
};

static const struct source sources[] = {
    {.name = "fashion-mnist",
     .dir = "/usr/share/datasets/fashion-mnist",
     .package = "Debian package dataset-fashion-mnist",
     .train = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"},
     .test = {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"},
     .classes = 10},
    {.name = "cifar10",
     .package = "cifar-10-binary.tar.gz of cs.toronto.edu/~kriz",
     .train = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
               "data_batch_5.bin"},
     .test = {"test_batch.bin"},
     .cifar = {.label_bytes = 1, .classes = 10},
     .classes = 10},
    {.name = "cifar100",
     .package = "cifar-100-binary.tar.gz of cs.toronto.edu/~kriz",
     .train = {"train.bin"},
     .test = {"test.bin"},
     .cifar = {.label_bytes = 2, .classes = 100},
     .classes = 100},
};

enum { N_SOURCES = sizeof sources / sizeof *sources };

const char *smoe_dataset_names(void)
{
    return "fashion-mnist, cifar10, cifar100";
}

/* One file's bytes and the path they came from, for sentences. */
struct file {
    char path[PATH_BYTES];
    uint8_t *bytes; /* owned */
    size_t len;
};

static void file_release(struct file *file)
{
    free(file->bytes);
    file->bytes = NULL;
}

/* dir/name.gz, or dir/name if that is not there. */
static int file_read(const struct source *source, const char *dir, const char *name,
                     struct file *ret, struct smoe_why *why)
{
    *ret = (struct file){.len = 0};
    static const char *const suffixes[] = {".gz", ""};
    int rc = -ENOENT;
    for (size_t i = 0; i < 2 && rc == -ENOENT; i++) {
        int n = snprintf(ret->path, sizeof ret->path, "%s/%s%s", dir, name, suffixes[i]);
        if (n < 0 || (size_t)n >= sizeof ret->path)
            return smoe_fail(why, SMOE_ECONFIG, "data directory of %zu bytes, the limit is %d",
                             strlen(dir), PATH_BYTES - 64);
        rc = smoe_gzip_read(ret->path, FILE_BYTES_MAX, &ret->bytes, &ret->len, why);
    }
    if (rc == -ENOENT)
        return smoe_fail(why, rc, "%s: no such file, nor with .gz (%s)", ret->path,
                         source->package);
    return rc;
}

/* Takes the size of the first set that was read, and holds the second to it. */
static int agree_on_size(struct smoe_dataset *dataset, uint32_t channels, uint32_t height,
                         uint32_t width, struct smoe_why *why)
{
    if (dataset->pixels == 0) {
        dataset->channels = channels;
        dataset->height = height;
        dataset->width = width;
        dataset->pixels = (size_t)channels * height * width;
    }
    if (dataset->height != height || dataset->width != width)
        return smoe_fail(why, SMOE_EDATA, "images of %u x %u, the training images are %u x %u",
                         (unsigned)height, (unsigned)width, (unsigned)dataset->height,
                         (unsigned)dataset->width);
    return 0;
}

/* Room for n images more. */
static int extend(struct smoe_image_set *set, size_t n, size_t pixels, struct smoe_why *why)
{
    uint8_t *more_pixels = realloc(set->pixels, (set->n + n) * pixels);
    if (more_pixels)
        set->pixels = more_pixels;
    uint8_t *more_labels = realloc(set->labels, set->n + n);
    if (more_labels)
        set->labels = more_labels;
    if (!more_pixels || !more_labels)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory for %zu images", set->n + n);
    return 0;
}

static int join_idx(const struct source *source, const struct file *images_file,
                    const struct file *labels_file, struct smoe_dataset *dataset,
                    struct smoe_image_set *set, struct smoe_why *why)
{
    struct smoe_idx_images images = {0};
    struct smoe_idx_labels labels = {0};
    int rc = smoe_idx_images(images_file->bytes, images_file->len, &images, why);
    if (rc == 0)
        rc = agree_on_size(dataset, 1, images.height, images.width, why);
    if (rc)
        return smoe_fail_at(why, rc, "%s", images_file->path);
    rc = smoe_idx_labels(labels_file->bytes, labels_file->len, source->classes, &labels, why);
    if (rc == 0 && labels.n != images.n)
        rc = smoe_fail(why, SMOE_EDATA, "bytes 4..7, number of labels: %u, but there are %u images",
                       (unsigned)labels.n, (unsigned)images.n);
    if (rc)
        return smoe_fail_at(why, rc, "%s", labels_file->path);
    rc = extend(set, images.n, dataset->pixels, why);
    if (rc)
        return rc;
    memcpy(set->pixels, images.pixels, images.n * dataset->pixels);
    memcpy(set->labels, labels.labels, labels.n);
    set->n = images.n;
    return 0;
}

static int load_idx(const struct source *source, const char *dir, const char *const *names,
                    struct smoe_dataset *dataset, struct smoe_image_set *set, struct smoe_why *why)
{
    struct file images = {.len = 0}, labels = {.len = 0};
    int rc = file_read(source, dir, names[0], &images, why);
    if (rc == 0)
        rc = file_read(source, dir, names[1], &labels, why);
    if (rc == 0)
        rc = join_idx(source, &images, &labels, dataset, set, why);
    file_release(&images);
    file_release(&labels);
    return rc;
}

static int append_cifar(const struct source *source, const struct file *file,
                        struct smoe_dataset *dataset, struct smoe_image_set *set,
                        struct smoe_why *why)
{
    size_t n = 0;
    int rc = smoe_cifar_check(file->bytes, file->len, &source->cifar, &n, why);
    if (rc)
        return smoe_fail_at(why, rc, "%s", file->path);
    agree_on_size(dataset, SMOE_CIFAR_CHANNELS, SMOE_CIFAR_SIDE, SMOE_CIFAR_SIDE, why);
    rc = extend(set, n, dataset->pixels, why);
    if (rc)
        return rc;
    smoe_cifar_split(file->bytes, n, &source->cifar, set->pixels + set->n * dataset->pixels,
                     set->labels + set->n);
    set->n += n;
    return 0;
}

static int load_cifar(const struct source *source, const char *dir, const char *const *names,
                      struct smoe_dataset *dataset, struct smoe_image_set *set,
                      struct smoe_why *why)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && names[i]; i++) {
        struct file file;
        rc = file_read(source, dir, names[i], &file, why);
        if (rc == 0)
            rc = append_cifar(source, &file, dataset, set, why);
        file_release(&file);
    }
    return rc;
}

static int load(const struct source *source, const char *dir, struct smoe_dataset *dataset,
                struct smoe_why *why)
{
    dataset->name = source->name;
    dataset->classes = source->classes;
    if (source->cifar.label_bytes) {
        int rc = load_cifar(source, dir, source->train, dataset, &dataset->train, why);
        return rc ? rc : load_cifar(source, dir, source->test, dataset, &dataset->test, why);
    }
    int rc = load_idx(source, dir, source->train, dataset, &dataset->train, why);
    return rc ? rc : load_idx(source, dir, source->test, dataset, &dataset->test, why);
}

static const struct source *find_source(const char *name)
{
    for (size_t i = 0; i < N_SOURCES; i++)
        if (strcmp(sources[i].name, name) == 0)
            return &sources[i];
    return NULL;
}

int smoe_dataset_load(const char *name, const char *dir, struct smoe_dataset *ret,
                      struct smoe_why *why)
{
    const struct source *source = find_source(name);
    if (!source)
        return smoe_fail(why, SMOE_EUNKNOWN, "data set %.64s: not one of %s", name,
                         smoe_dataset_names());
    dir = dir ? dir : source->dir;
    if (!dir)
        return smoe_fail(why, SMOE_ECONFIG, "data set %s: give the directory of its files (%s)",
                         name, source->package);
    struct smoe_dataset dataset = {0};
    int rc = load(source, dir, &dataset, why);
    if (rc)
        smoe_dataset_release(&dataset);
    else
        *ret = dataset;
    return rc;
}

void smoe_dataset_release(struct smoe_dataset *dataset)
{
    struct smoe_image_set *sets[] = {&dataset->train, &dataset->test};
    for (size_t i = 0; i < 2; i++) {
        free(sets[i]->pixels);
        free(sets[i]->labels);
    }
    *dataset = (struct smoe_dataset){0};
}
