/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/kernels/gemm.h"
#include "tests/unit/kernels/tensors.h"

typedef void gemm_fn(size_t, size_t, size_t, const smoe_real *, const smoe_real *, bool,
                     smoe_real *);

/* C[m,n] (+)= A B, where A's element (i,l) is at i*a_row + l*a_column and so on. */
static void plain(size_t m, size_t n, size_t k, const smoe_real *a, size_t a_row, size_t a_column,
                  const smoe_real *b, size_t b_row, size_t b_column, bool add, smoe_real *c)
{
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = add ? (double)c[i * n + j] : 0;
            for (size_t l = 0; l < k; l++)
                sum += (double)a[i * a_row + l * a_column] * (double)b[l * b_row + j * b_column];
            c[i * n + j] = (smoe_real)sum;
        }
    }
}

/* beta = 0 must not read C, which may hold anything: it starts as NaN here. */
static void check(gemm_fn *fn, const char *name, size_t m, size_t n, size_t k, bool add)
{
    smoe_real *a = tensor_normal(m * k, 1, 1), *b = tensor_normal(k * n, 2, 1);
    smoe_real *got = add ? tensor_normal(m * n, 3, 1) : tensor_nan(m * n);
    smoe_real *want = tensor_copy(m * n, got);
    if (fn == smoe_gemm_tn)
        plain(m, n, k, a, 1, m, b, n, 1, add, want);
    else if (fn == smoe_gemm_nt)
        plain(m, n, k, a, k, 1, b, 1, k, add, want);
    else
        plain(m, n, k, a, k, 1, b, n, 1, add, want);
    fn(m, n, k, a, b, add, got);
    double error = tensor_error(m * n, got, want);
    cr_assert_leq(error, SUM_BOUND, "%s %zux%zux%zu add %d: %g", name, m, n, k, add, error);
    free(a);
    free(b);
    free(got);
    free(want);
}

Test(gemm, all_three_agree_with_plain_loops_at_ragged_sizes)
{
    static const size_t sizes[] = {1, 2, 3, 17, 64, 129};
    enum { N = sizeof sizes / sizeof *sizes };
    smoe_gemm_setup();
    for (size_t i = 0; i < (size_t)N * N * N * 2; i++) {
        size_t m = sizes[i % N], n = sizes[i / N % N], k = sizes[i / N / N % N];
        bool add = i / N / N / N;
        check(smoe_gemm_nn, "nn", m, n, k, add);
        check(smoe_gemm_nt, "nt", m, n, k, add);
        check(smoe_gemm_tn, "tn", m, n, k, add);
    }
}

Test(gemm, an_empty_sum_is_zero_and_an_empty_product_touches_nothing)
{
    smoe_real c[4] = {1, 2, 3, 4}, a[1] = {0};
    smoe_gemm_nn(2, 2, 0, a, a, true, c);
    cr_assert_eq(c[3], 4);
    smoe_gemm_nt(0, 2, 2, a, a, false, c);
    cr_assert_eq(c[0], 1);
    smoe_gemm_tn(2, 2, 0, a, a, false, c);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(c[i], 0);
}

Test(gemm, the_log_line_names_a_single_threaded_library)
{
    const char *config = smoe_gemm_setup();
    cr_assert_not_null(strstr(config, "OpenBLAS"), "%s", config);
}

enum { THREADS = 4, M = 24, N = 48, K = 32, ROUNDS = 3000 };

struct caller {
    const smoe_real *a, *b, *want;
    int differing;
};

static void *call_in(void *arg)
{
    struct caller *caller = arg;
    smoe_real c[M * N];
    for (int i = 0; i < ROUNDS; i++) {
        smoe_gemm_nn(M, N, K, caller->a, caller->b, false, c);
        caller->differing += memcmp(c, caller->want, sizeof c) != 0;
    }
    return NULL;
}

Test(gemm, threads_that_call_in_at_once_get_the_same_bits)
{
    smoe_real *a = tensor_normal(M * K, 1, 1), *b = tensor_normal(K * N, 2, 1);
    smoe_real want[M * N];
    smoe_gemm_setup();
    smoe_gemm_nn(M, N, K, a, b, false, want);
    struct caller callers[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        callers[i] = (struct caller){a, b, want, 0};
        cr_assert_eq(pthread_create(&threads[i], NULL, call_in, &callers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        cr_assert_eq(callers[i].differing, 0);
    }
    free(a);
    free(b);
}
