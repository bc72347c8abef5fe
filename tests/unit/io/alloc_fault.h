/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes the nth allocation of the statically linked code fail (libc's own and Criterion's are not
 * touched). Use: for (n = 1;; n++) { smoe_alloc_fail_at(n); call; if (!smoe_alloc_failed()) break; }
 * To be linked with --wrap of malloc, calloc, realloc and strdup.
 */
#ifndef SMOE_TEST_ALLOC_FAULT_H
#define SMOE_TEST_ALLOC_FAULT_H

#include <stdbool.h>
#include <stdint.h>

/* The nth allocation from now on fails, once; 0: none does. */
void smoe_alloc_fail_at(uint64_t n);
/* Whether it came to that; from now on none fails. */
bool smoe_alloc_failed(void);
/* Allocations since smoe_alloc_fail_at. */
uint64_t smoe_alloc_count(void);

/* In between allocations are not counted, and do not fail; they nest. */
void smoe_alloc_shelter(void);
void smoe_alloc_expose(void);

#endif
