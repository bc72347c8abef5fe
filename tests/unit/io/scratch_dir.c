/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/io/scratch_dir.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void scratch_dir_init(struct scratch_dir *d)
{
    const char *base = getenv("TMPDIR");
    int n = snprintf(d->path, sizeof d->path, "%s/smoe-io-XXXXXX", base ? base : "/tmp");
    cr_assert(n > 0 && (size_t)n < sizeof d->path);
    cr_assert(mkdtemp(d->path) != NULL);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void scratch_dir_release(struct scratch_dir *d)
{
    cr_assert_eq(nftw(d->path, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

const char *scratch_path(const struct scratch_dir *d, const char *name)
{
    static char path[512];
    int n = snprintf(path, sizeof path, "%s/%s", d->path, name);
    cr_assert(n > 0 && (size_t)n < sizeof path);
    return path;
}

const char *scratch_file(const struct scratch_dir *d, const char *name, const void *data, size_t n)
{
    const char *path = scratch_path(d, name);
    FILE *f = fopen(path, "we");
    cr_assert(f != NULL);
    cr_assert_eq(fwrite(data, 1, n, f), n);
    cr_assert_eq(fclose(f), 0);
    return path;
}

const char *scratch_text(const struct scratch_dir *d, const char *name, const char *text)
{
    return scratch_file(d, name, text, strlen(text));
}
