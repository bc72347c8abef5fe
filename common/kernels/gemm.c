/* SPDX-License-Identifier: Apache-2.0
 *
 * The only file that knows BLAS. A product with one row is a matrix-vector product, for which BLAS
 * has a routine that does not first repack the matrix: a single token in flight would otherwise pay
 * for the copy. Debian's serial OpenBLAS guards its buffer pool with a lock, so compute threads may
 * call in at once.
 */
#include "common/kernels/gemm.h"

#include <cblas.h>
#include <limits.h>
#include <string.h>

#include "common/base/assert.h"

static blasint dim(size_t n)
{
    smoe_assert(n <= INT_MAX);
    return (blasint)n;
}

static void gemm(CBLAS_TRANSPOSE trans_a, CBLAS_TRANSPOSE trans_b, size_t m, size_t n, size_t k,
                 const smoe_real *a, size_t lda, const smoe_real *b, size_t ldb, bool add,
                 smoe_real *c)
{
#ifdef STABLEMOE_FLOAT64
    cblas_dgemm(CblasRowMajor, trans_a, trans_b, dim(m), dim(n), dim(k), 1, a, dim(lda), b,
                dim(ldb), add ? 1 : 0, c, dim(n));
#else
    cblas_sgemm(CblasRowMajor, trans_a, trans_b, dim(m), dim(n), dim(k), 1, a, dim(lda), b,
                dim(ldb), add ? 1 : 0, c, dim(n));
#endif
}

/* y = M x or M^T x with M[rows, columns] */
static void gemv(CBLAS_TRANSPOSE trans, size_t rows, size_t columns, const smoe_real *matrix,
                 const smoe_real *x, bool add, smoe_real *y)
{
#ifdef STABLEMOE_FLOAT64
    cblas_dgemv(CblasRowMajor, trans, dim(rows), dim(columns), 1, matrix, dim(columns), x, 1,
                add ? 1 : 0, y, 1);
#else
    cblas_sgemv(CblasRowMajor, trans, dim(rows), dim(columns), 1, matrix, dim(columns), x, 1,
                add ? 1 : 0, y, 1);
#endif
}

/* True if there is nothing to multiply; an empty sum is zero. */
static bool empty(size_t m, size_t n, size_t k, bool add, smoe_real *c)
{
    if (k == 0 && !add && m && n)
        memset(c, 0, m * n * sizeof *c);
    return m == 0 || n == 0 || k == 0;
}

void smoe_gemm_nn(size_t m, size_t n, size_t k, const smoe_real *a, const smoe_real *b, bool add,
                  smoe_real *c)
{
    if (empty(m, n, k, add, c))
        return;
    if (m == 1)
        gemv(CblasTrans, k, n, b, a, add, c);
    else
        gemm(CblasNoTrans, CblasNoTrans, m, n, k, a, k, b, n, add, c);
}

void smoe_gemm_nt(size_t m, size_t n, size_t k, const smoe_real *a, const smoe_real *b, bool add,
                  smoe_real *c)
{
    if (empty(m, n, k, add, c))
        return;
    if (m == 1)
        gemv(CblasNoTrans, n, k, b, a, add, c);
    else
        gemm(CblasNoTrans, CblasTrans, m, n, k, a, k, b, k, add, c);
}

void smoe_gemm_tn(size_t m, size_t n, size_t k, const smoe_real *a, const smoe_real *b, bool add,
                  smoe_real *c)
{
    if (!empty(m, n, k, add, c))
        gemm(CblasTrans, CblasNoTrans, m, n, k, a, m, b, n, add, c);
}

const char *smoe_gemm_setup(void)
{
    openblas_set_num_threads(1);
    return openblas_get_config();
}
