/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a fuzz target over files, without a fuzzer: the corpora are ordinary tests in every build.
 *
 *   replay_NAME FILE_OR_DIRECTORY...
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/input.h"

static unsigned long files;

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        if (f)
            fclose(f);
        return 1;
    }
    size_t n = (size_t)ftell(f);
    uint8_t *bytes = malloc(n + (n == 0)); /* exactly that size: a read past it is seen */
    rewind(f);
    int bad = !bytes || fread(bytes, 1, n, f) != n;
    fclose(f);
    if (!bad) {
        fprintf(stderr, "%s\n", path); /* the last one named is the one that crashed */
        LLVMFuzzerTestOneInput(bytes, n);
        files++;
    }
    free(bytes);
    return bad;
}

static int is_file(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int replay(const char *path)
{
    struct stat st;
    struct dirent **names;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return replay_file(path);
    int n = scandir(path, &names, is_file, alphasort), bad = n < 0;
    for (int i = 0; i < n; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        bad |= replay_file(file);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return bad;
}

int main(int argc, char **argv)
{
    int bad = 0;
    for (int i = 1; i < argc; i++)
        bad |= replay(argv[i]);
    printf("%lu files\n", files);
    return bad || !files;
}
