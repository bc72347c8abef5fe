/* SPDX-License-Identifier: Apache-2.0
 *
 * A block of raw bytes that several owners share: the raw part of a frame on its way through. It is
 * read from one socket and written to others without being copied, and freed with its last reference.
 * Counts are plain integers: a blob stays with one thread's machine.
 *
 * Every blob is charged to a budget, so that the sum of all tensors a process holds is bounded
 * whatever its peers do.
 */
#ifndef SMOE_PROTO_BLOB_H
#define SMOE_PROTO_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smoe_budget {
    size_t used_bytes;
    size_t max_bytes;
    size_t peak_bytes;
};

struct smoe_blob {
    void *block;                /* of malloc, which it lies in */
    struct smoe_budget *budget; /* borrowed, or NULL */
    size_t bytes;
    uint32_t refs;
    _Alignas(64) uint8_t data[];
};

/* Charges memory that is held otherwise than in blobs; false, and nothing is charged, when the budget does not
 * allow it. */
bool smoe_budget_take(struct smoe_budget *budget, size_t bytes);
void smoe_budget_give(struct smoe_budget *budget, size_t bytes);

/* One reference, uninitialised bytes aligned to 64. NULL when the budget or memory does not allow. */
struct smoe_blob *smoe_blob_new(struct smoe_budget *budget, size_t bytes);
struct smoe_blob *smoe_blob_ref(struct smoe_blob *blob);
void smoe_blob_unref(struct smoe_blob *blob); /* NULL is fine */

#endif
