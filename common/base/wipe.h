/* SPDX-License-Identifier: Apache-2.0
 *
 * Secrets that are no longer needed.
 */
#ifndef SMOE_BASE_WIPE_H
#define SMOE_BASE_WIPE_H

#include <stddef.h>

/* Overwrites, whatever the compiler thinks of it. */
void smoe_wipe(void *memory, size_t bytes);

#endif
