/* SPDX-License-Identifier: Apache-2.0
 *
 * A vocabulary for what has none: k-means over raw patches (Lloyd, 1982). A patch's code is the nearest
 * centroid, the lowest index of equals. Sums run in index order without contraction, so that the same
 * patches give the same codebook and the same codes on every machine.
 */
#ifndef SMOE_TRAIN_ROUTER_CODEBOOK_H
#define SMOE_TRAIN_ROUTER_CODEBOOK_H

#include <stddef.h>
#include <stdint.h>

#include "common/kernels/real.h"

struct smoe_codebook {
    uint32_t codes, values;
    float *centroids; /* owned; [values, codes]: one code a lane */
    float *offset;    /* owned; [codes] half the centroid's square length */
    float *near;      /* owned; [codes] scratch */
};

/* From n >= codes patches x [n, values], starting at `codes` of them drawn by the seed, `rounds` of Lloyd's
 * algorithm. A centroid that loses all its patches stays where it is. 0 or SMOE_ENOMEMORY. */
int smoe_codebook_init(struct smoe_codebook *book, uint32_t codes, uint32_t values, size_t n,
                       const smoe_real *x, unsigned rounds, uint64_t seed);
void smoe_codebook_release(struct smoe_codebook *book);

/* Codes of n patches [n, values]. */
void smoe_codebook_encode(struct smoe_codebook *book, size_t n, const smoe_real *x,
                          uint16_t *ret_codes);

/* The name of this codebook: of its shape and every bit of its centroids. */
uint64_t smoe_codebook_digest(const struct smoe_codebook *book);

#endif
