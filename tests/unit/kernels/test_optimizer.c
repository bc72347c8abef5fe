/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/kernels/optimizer.h"
#include "tests/unit/kernels/tensors.h"

#ifdef STABLEMOE_FLOAT64
static const double ROUNDING = 1e-15;
#else
static const double ROUNDING = 2e-7;
#endif

static const struct smoe_optimizer SGD = {.kind = SMOE_SGD,
                                          .learning_rate = 0.1,
                                          .momentum = 0.5,
                                          .weight_decay = 0.2,
                                          .gradient_scale = 0.25,
                                          .t = 1};
static const struct smoe_optimizer ADAMW = {.kind = SMOE_ADAMW,
                                            .learning_rate = 0.1,
                                            .beta1 = 0.9,
                                            .beta2 = 0.99,
                                            .epsilon = 1e-3,
                                            .weight_decay = 0.5,
                                            .gradient_scale = 0.5,
                                            .t = 1};

Test(optimizer, sgd_takes_the_steps_computed_by_hand)
{
    smoe_real w = 2, m = 0, g = 4;
    smoe_optimizer_step(&SGD, 1, &w, &m, NULL, &g, &w, &m, NULL);
    /* m = 0.25*4 + 0.2*2 = 1.4; w = 2 - 0.14 */
    cr_assert_float_eq((double)m, 1.4, 2 * ROUNDING);
    cr_assert_float_eq((double)w, 1.86, 2 * ROUNDING);
    smoe_optimizer_step(&SGD, 1, &w, &m, NULL, &g, &w, &m, NULL);
    /* m = 0.5*1.4 + 1 + 0.2*1.86 = 2.072; w = 1.86 - 0.2072 */
    cr_assert_float_eq((double)m, 2.072, 3 * ROUNDING);
    cr_assert_float_eq((double)w, 1.6528, 3 * ROUNDING);
}

Test(optimizer, adamw_takes_the_steps_computed_by_hand)
{
    smoe_real w = 1, m = 0, v = 0, g = 4;
    struct smoe_optimizer o = ADAMW;
    smoe_optimizer_step(&o, 1, &w, &m, &v, &g, &w, &m, &v);
    /* g = 2: m = 0.2, v = 0.04; m/(1-.9) = 2, sqrt(v/(1-.99)) = 2; w = .95 - .1*2/2.001 */
    cr_assert_float_eq((double)m, 0.2, ROUNDING);
    cr_assert_float_eq((double)v, 0.04, ROUNDING);
    cr_assert_float_eq((double)w, 0.95 - 0.2 / 2.001, 2 * ROUNDING);
    double w1 = 0.95 - 0.2 / 2.001;
    o.t = 2;
    g = -2;
    smoe_optimizer_step(&o, 1, &w, &m, &v, &g, &w, &m, &v);
    /* g = -1: m = .18 - .1, v = .0396 + .01; corrections 1-.81 and 1-.9801 */
    double want = 0.95 * w1 - 0.1 * (0.08 / 0.19) / (sqrt(0.0496 / 0.0199) + 1e-3);
    cr_assert_float_eq((double)m, 0.08, ROUNDING);
    cr_assert_float_eq((double)w, want, 3 * ROUNDING);
}

Test(optimizer, weight_decay_of_adamw_is_decoupled_from_the_gradient)
{
    smoe_real w = 1, m = 0, v = 0, g = 0;
    smoe_optimizer_step(&ADAMW, 1, &w, &m, &v, &g, &w, &m, &v);
    cr_assert_float_eq((double)w, 1 - 0.1 * 0.5, ROUNDING);
    cr_assert_eq(m, 0);
    cr_assert_eq(v, 0);
}

/* A step staged beside the old state must equal the step made in it, and leave the old one alone. */
static void staged_equals_in_place(const struct smoe_optimizer *of, size_t n)
{
    smoe_real *w = tensor_normal(n, 1, 1), *m = tensor_normal(n, 2, 1), *v = tensor_normal(n, 3, 1);
    smoe_real *g = tensor_normal(n, 4, 1);
    for (size_t i = 0; i < n; i++)
        v[i] *= v[i];
    smoe_real *old_w = tensor_copy(n, w), *old_m = tensor_copy(n, m), *old_v = tensor_copy(n, v);
    smoe_real *new_w = tensor_nan(n), *new_m = tensor_nan(n), *new_v = tensor_nan(n);
    smoe_optimizer_step(of, n, w, m, v, g, new_w, new_m, new_v);
    size_t bytes = n * sizeof *w;
    cr_assert(!memcmp(w, old_w, bytes) && !memcmp(m, old_m, bytes) && !memcmp(v, old_v, bytes));
    smoe_optimizer_step(of, n, w, m, v, g, w, m, v);
    cr_assert_eq(memcmp(w, new_w, bytes), 0);
    cr_assert_eq(memcmp(m, new_m, bytes), 0);
    if (smoe_optimizer_moments(of->kind) == 2)
        cr_assert_eq(memcmp(v, new_v, bytes), 0);
    smoe_real *all[] = {w, m, v, g, old_w, old_m, old_v, new_w, new_m, new_v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

Test(optimizer, a_staged_step_has_the_bits_of_a_step_in_place)
{
    static const size_t sizes[] = {0, 1, 3, 15, 16, 17, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        staged_equals_in_place(&SGD, sizes[i]);
        staged_equals_in_place(&ADAMW, sizes[i]);
    }
}

/* A shard's owner and follower may cut the vector in different places. */
Test(optimizer, a_step_in_pieces_has_the_bits_of_a_step_at_once)
{
    enum { N = 333 };
    struct smoe_optimizer o = ADAMW;
    o.t = 1000;
    smoe_real *w = tensor_normal(N, 1, 1), *m = tensor_normal(N, 2, 1), *v = tensor_zero(N);
    smoe_real *g = tensor_normal(N, 4, 1), *pw = tensor_copy(N, w), *pm = tensor_copy(N, m);
    smoe_real *pv = tensor_copy(N, v);
    smoe_optimizer_step(&o, N, w, m, v, g, w, m, v);
    for (size_t i = 0, piece = 1; i < N; i += piece, piece += 6) {
        size_t n = piece < N - i ? piece : N - i;
        smoe_optimizer_step(&o, n, pw + i, pm + i, pv + i, g + i, pw + i, pm + i, pv + i);
    }
    cr_assert_eq(memcmp(w, pw, sizeof(smoe_real) * N), 0);
    cr_assert_eq(memcmp(v, pv, sizeof(smoe_real) * N), 0);
    smoe_real *all[] = {w, m, v, g, pw, pm, pv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* The contract between machines: these bits are the same for every compiler and vector width. */
Test(optimizer, the_bits_of_a_step_are_the_same_everywhere)
{
    enum { N = 100 };
    struct smoe_optimizer o = {SMOE_ADAMW, 3e-3, 0, 0.9, 0.999, 1e-8, 0.01, 0.7, 12345};
    smoe_real *w = tensor_normal(N, 1, 1), *m = tensor_normal(N, 2, 1), *v = tensor_zero(N);
    smoe_real *g = tensor_normal(N, 4, 1);
    smoe_optimizer_step(&o, N, w, m, v, g, w, m, v);
    uint64_t digest = 0, bits = 0;
    for (size_t i = 0; i < N; i++) {
        memcpy(&bits, &w[i], sizeof w[i]);
        digest = smoe_mix64(digest ^ bits);
    }
    uint64_t want =
        sizeof(smoe_real) == 8 ? UINT64_C(0x8cb92291581f030f) : UINT64_C(0xd73e88f69118fd93);
    cr_assert_eq(digest, want, "0x%016llx", (unsigned long long)digest);
    free(w);
    free(m);
    free(v);
    free(g);
}

Test(optimizer, a_nan_gradient_is_not_swallowed)
{
    smoe_real w = 1, m = 0, v = 0, g = (smoe_real)NAN;
    smoe_optimizer_step(&ADAMW, 1, &w, &m, &v, &g, &w, &m, &v);
    cr_assert(isnan(w));
    cr_assert(isnan(smoe_square_norm(1, &g)));
}

Test(optimizer, the_square_norm_is_exact_on_integers_at_every_length)
{
    smoe_real g[40];
    double want = 0;
    for (size_t n = 0; n < 40; n++) {
        cr_assert_eq(smoe_square_norm(n, g), want);
        g[n] = (smoe_real)n - 7;
        want += (double)(g[n] * g[n]);
    }
}

Test(optimizer, adamw_keeps_two_moments_and_sgd_one)
{
    cr_assert_eq(smoe_optimizer_moments(SMOE_ADAMW), 2);
    cr_assert_eq(smoe_optimizer_moments(SMOE_SGD), 1);
}
