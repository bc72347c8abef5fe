/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void smoe_assert_fail(const char *file, int line, const char *cond)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, cond);
    abort();
}
