/* SPDX-License-Identifier: Apache-2.0
 *
 * Assertions of tests that have threads: Criterion runs each test in a fork and does not survive
 * ThreadSanitizer, so these are plain programs that exit 1 at the first thing that is wrong.
 */
#ifndef SMOE_TEST_MUST_H
#define SMOE_TEST_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define must(condition)                                                               \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, (#condition)); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

#endif
