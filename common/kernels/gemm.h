/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on BLAS, row-major, C = A B + beta C with beta 0 or 1. The suffix says which
 * operand is transposed. One thread: parallelism belongs to whoever calls.
 */
#ifndef SMOE_KERNELS_GEMM_H
#define SMOE_KERNELS_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "common/kernels/real.h"

/* C[m,n] = A[m,k] B[k,n]   (+ C if add) */
void smoe_gemm_nn(size_t m, size_t n, size_t k, const smoe_real *a, const smoe_real *b, bool add,
                  smoe_real *c);
/* C[m,n] = A[m,k] B[n,k]^T (+ C if add) */
void smoe_gemm_nt(size_t m, size_t n, size_t k, const smoe_real *a, const smoe_real *b, bool add,
                  smoe_real *c);
/* C[m,n] = A[k,m]^T B[k,n] (+ C if add) */
void smoe_gemm_tn(size_t m, size_t n, size_t k, const smoe_real *a, const smoe_real *b, bool add,
                  smoe_real *c);

/* Keeps BLAS to one thread; call once before any thread starts. Returns the library's name and
 * version for the log. */
const char *smoe_gemm_setup(void);

#endif
