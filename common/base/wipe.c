/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/wipe.h"

#include <string.h>

void smoe_wipe(void *memory, size_t bytes)
{
    explicit_bzero(memory, bytes);
}
