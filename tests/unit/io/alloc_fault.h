/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes the nth allocation of the statically linked code fail (libc's own and Criterion's are not
 * touched). Use: for (n = 1;; n++) { smoe_alloc_fail_at(n); call; if (!smoe_alloc_failed()) break; }
 */
#ifndef SMOE_TEST_ALLOC_FAULT_H
#define SMOE_TEST_ALLOC_FAULT_H

#include <stdbool.h>

/* The nth allocation from now on fails, once; 0: none does. */
void smoe_alloc_fail_at(unsigned n);
/* Whether it came to that; also ends the counting. */
bool smoe_alloc_failed(void);

#endif
