/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole file in memory, unpacked if it is gzip, as it is otherwise (zlib tells by the magic).
 */
#ifndef SMOE_TRAIN_DATA_GZIP_H
#define SMOE_TRAIN_DATA_GZIP_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

/* Reads at most `max` unpacked bytes; `*ret_bytes` is the caller's to free. A negative errno (-ENOENT
 * for a missing file), SMOE_EDATA for damaged or truncated gzip, SMOE_ETOOBIG or SMOE_ENOMEMORY; the
 * sentence begins with the path. */
int smoe_gzip_read(const char *path, size_t max, uint8_t **ret_bytes, size_t *ret_len,
                   struct smoe_why *why);

#endif
