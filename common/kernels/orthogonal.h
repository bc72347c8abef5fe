/* SPDX-License-Identifier: Apache-2.0
 *
 * Orthogonal initial matrices (Saxe et al., 2014), as StableMoE starts its centroids.
 */
#ifndef SMOE_KERNELS_ORTHOGONAL_H
#define SMOE_KERNELS_ORTHOGONAL_H

#include <stddef.h>
#include <stdint.h>

#include "common/kernels/real.h"

/* ret [rows, columns] = gain * Q, where the shorter side's vectors (rows, if rows <= columns) are
 * orthonormal: normal draws of (seed, stream), orthogonalised in double. The same bits on every machine.
 * rows, columns > 0. 0 or SMOE_ENOMEMORY. */
int smoe_orthogonal(size_t rows, size_t columns, double gain, uint64_t seed, uint64_t stream,
                    smoe_real *ret);

#endif
