/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole files, read with a limit and written so that a crash leaves the old one or the new one.
 * Names are relative to `dir`, a directory descriptor or AT_FDCWD.
 */
#ifndef SMOE_IO_FILE_H
#define SMOE_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

/* Reads a regular file of at most `max` bytes. `*ret_data` is the caller's to free and has a NUL
 * behind its `*ret_len` bytes. A negative errno, SMOE_ETOOBIG or SMOE_ENOMEMORY; -ENOENT is
 * returned as it is, for callers to whom a missing file is no error. */
int smoe_file_read(int dir, const char *name, size_t max, char **ret_data, size_t *ret_len,
                   struct smoe_why *why);

/* Replaces a file: temporary beside it, fsync, rename, fsync of the directory (without the two
 * fsyncs a renamed file can be empty after a crash). Mode 0640. The old file is unchanged on
 * failure, except if only the last fsync failed. */
int smoe_file_write(int dir, const char *name, const void *data, size_t len, struct smoe_why *why);
/* The same, and whether the name leads to the new file now: true with an error if only the last fsync failed. Then
 * whoever reads finds the new one, and a power cut may bring the old one back. */
int smoe_file_replace(int dir, const char *name, const void *data, size_t len, bool *ret_replaced,
                      struct smoe_why *why);

/* The same for secrets: mode 0600, and, where root writes it, owned by whoever owns the directory. */
int smoe_file_write_private(int dir, const char *name, const void *data, size_t len,
                            struct smoe_why *why);

#endif
