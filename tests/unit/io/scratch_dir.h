/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory of the test's own under $TMPDIR, removed with everything in it.
 */
#ifndef SMOE_TEST_SCRATCH_DIR_H
#define SMOE_TEST_SCRATCH_DIR_H

#include <stddef.h>

struct scratch_dir {
    char path[96];
};

void scratch_dir_init(struct scratch_dir *d);
void scratch_dir_release(struct scratch_dir *d);

/* `PATH/name`, valid until the next call. */
const char *scratch_path(const struct scratch_dir *d, const char *name);
/* Writes the file and returns its path, like scratch_path. */
const char *scratch_file(const struct scratch_dir *d, const char *name, const void *data, size_t n);
const char *scratch_text(const struct scratch_dir *d, const char *name, const char *text);

#endif
