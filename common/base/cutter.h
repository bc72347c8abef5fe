/* SPDX-License-Identifier: Apache-2.0
 *
 * A struct and all the arrays that it points to in one block of memory, each piece on a cache line of its own:
 * one allocation when limits are known, none later, and one free().
 */
#ifndef SMOE_BASE_CUTTER_H
#define SMOE_BASE_CUTTER_H

#include <stddef.h>

struct smoe_cutter {
    unsigned char *base; /* NULL: only measure */
    size_t used;
};

/* The next piece, of `count` elements of `size` bytes, for a pointer of the head; NULL while measuring. */
void *smoe_cut(struct smoe_cutter *cutter, size_t count, size_t size);

/* A block that begins with a copy of the head. `lay_out` cuts all pieces, in the same order each time; it is
 * called twice and must not depend on the pointers. NULL if memory is out. Free with free(). */
void *smoe_cut_block(void *head, size_t head_bytes,
                     void (*lay_out)(void *head, struct smoe_cutter *cutter));

#endif
