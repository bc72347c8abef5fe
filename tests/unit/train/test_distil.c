/* SPDX-License-Identifier: Apache-2.0
 *
 * The distilled router against its definition and central differences; the frozen one against it.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/router/frozen.h"
#include "common/base/err.h"
#include "common/kernels/gemm.h"
#include "tests/unit/kernels/tensors.h"

#ifdef STABLEMOE_FLOAT64
enum { STEP_EXPONENT = -16 };
static const double BOUND = 1e-7;
#else
enum { STEP_EXPONENT = -6 };
static const double BOUND = 1e-2;
#endif

enum { N = 8, V = 6, P = 4, R = 3, E = 5, K_MAX = 2 };

static const uint16_t codes[N] = {0, 5, 2, 2, 1, 0, 4, 2}; /* 3 never occurs */
static const uint16_t top[N * K_MAX] = {0, 1, 4, 2, 3, 0, 1, 3, 2, 4, 1, 0, 0, 2, 4, 3};

struct fixture {
    struct smoe_distilled d;
    struct smoe_tokens tokens;
    smoe_real *x;
};

static struct fixture fixture_new(enum smoe_feature feature)
{
    struct fixture f;
    struct smoe_distilled_shape shape = {feature, feature == SMOE_FEATURE_TABLE ? V : P, R, E};
    smoe_gemm_setup();
    cr_assert_eq(smoe_distilled_init(&f.d, &shape, N, 1), 0);
    smoe_real *values = tensor_normal(f.d.n_params, 2, 0.7);
    memcpy(f.d.params, values, f.d.n_params * sizeof *values);
    free(values);
    f.x = tensor_normal(N * P, 3, 1);
    f.tokens = (struct smoe_tokens){N, codes, f.x};
    return f;
}

static void fixture_free(struct fixture *f)
{
    smoe_distilled_release(&f->d);
    free(f->x);
}

/* L_dis by its definition, from the parameters alone. */
static double loss(const struct fixture *f, uint32_t k, double weight)
{
    const struct smoe_distilled *d = &f->d;
    double sum = 0;
    for (size_t t = 0; t < N; t++) {
        double feature[R], logit[E], exps = 0;
        for (size_t j = 0; j < R; j++)
            feature[j] = d->shape.feature == SMOE_FEATURE_TABLE
                             ? (double)d->params[codes[t] * R + j]
                             : tensor_dot(P, d->params + j * P, f->x + t * P);
        for (size_t e = 0; e < E; e++) {
            logit[e] = 0;
            for (size_t j = 0; j < R; j++)
                logit[e] += feature[j] * (double)d->params[d->n_features + e * R + j];
            exps += exp(logit[e]);
        }
        for (size_t j = 0; j < k; j++)
            sum += log(exps) - logit[top[t * k + j]];
    }
    return weight * sum / (double)(N * k);
}

static void check_gradient(enum smoe_feature feature, uint32_t k)
{
    const double weight = 0.3;
    struct fixture f = fixture_new(feature);
    double off = 0, size = 0, got = smoe_distilled_learn(&f.d, &f.tokens, k, top, weight);
    cr_assert_float_eq(got, loss(&f, k, weight), 1e-5);
    for (size_t i = 0; i < f.d.n_params; i++) {
        smoe_real centre = f.d.params[i], step = (smoe_real)ldexp(1, STEP_EXPONENT);
        f.d.params[i] = centre + step;
        double up_at = (double)f.d.params[i], up = loss(&f, k, weight);
        f.d.params[i] = centre - step;
        double want = (up - loss(&f, k, weight)) / (up_at - (double)f.d.params[i]);
        f.d.params[i] = centre;
        off += ((double)f.d.grads[i] - want) * ((double)f.d.grads[i] - want);
        size += want * want;
    }
    cr_assert_gt(size, 0);
    cr_expect_lt(sqrt(off / size), BOUND, "K=%u: %g", k, sqrt(off / size));
    fixture_free(&f);
}

Test(distil, the_gradient_of_a_table_agrees_with_finite_differences)
{
    check_gradient(SMOE_FEATURE_TABLE, 1);
    check_gradient(SMOE_FEATURE_TABLE, 2);
}

Test(distil, the_gradient_of_a_linear_map_agrees_with_finite_differences)
{
    check_gradient(SMOE_FEATURE_LINEAR, 1);
    check_gradient(SMOE_FEATURE_LINEAR, 2);
}

Test(distil, a_code_that_does_not_occur_gets_no_gradient)
{
    struct fixture f = fixture_new(SMOE_FEATURE_TABLE);
    smoe_distilled_learn(&f.d, &f.tokens, 1, top, 1);
    for (size_t j = 0; j < R; j++)
        cr_assert_eq(f.d.grads[3 * R + j], 0);
    fixture_free(&f);
}

Test(distil, it_learns_what_a_token_alone_can_tell)
{
    struct fixture f = fixture_new(SMOE_FEATURE_TABLE);
    uint16_t wanted[N];
    for (size_t t = 0; t < N; t++)
        wanted[t] = (uint16_t)(codes[t] % E);
    for (uint64_t t = 1; t <= 200; t++) {
        struct smoe_optimizer adamw = {SMOE_ADAMW, 0.05, 0, 0.9, 0.999, 1e-8, 0, 1, t};
        smoe_distilled_learn(&f.d, &f.tokens, 1, wanted, 1);
        smoe_distilled_step(&f.d, &adamw);
    }
    cr_assert_lt(smoe_distilled_learn(&f.d, &f.tokens, 1, wanted, 1), 0.01);
    fixture_free(&f);
}

static void score_all(const struct smoe_frozen *frozen, const struct smoe_tokens *tokens,
                      float *ret)
{
    struct smoe_frozen_tokens read;
    cr_assert_eq(smoe_frozen_tokens_init(&read, frozen, tokens->n), 0);
    smoe_frozen_tokens_fill(&read, frozen, tokens);
    cr_assert_eq(read.codes != NULL, frozen->kind == SMOE_FROZEN_TABLE);
    if (read.codes)
        smoe_frozen_score_codes(frozen, tokens->n, read.codes, ret);
    else
        smoe_frozen_score_features(frozen, tokens->n, read.features, ret);
    smoe_frozen_tokens_release(&read);
}

Test(frozen, its_scores_are_the_softmax_of_what_it_was_distilled_to)
{
    for (int kind = 0; kind < 2; kind++) {
        struct fixture f = fixture_new(kind ? SMOE_FEATURE_LINEAR : SMOE_FEATURE_TABLE);
        struct smoe_frozen frozen;
        float scores[N * E];
        const smoe_real *logits = smoe_distilled_logits(&f.d, &f.tokens);
        cr_assert_eq(smoe_freeze_distilled(&f.d, &frozen), 0);
        score_all(&frozen, &f.tokens, scores);
        for (size_t t = 0; t < N; t++) {
            double sum = 0;
            for (size_t e = 0; e < E; e++)
                sum += exp((double)logits[t * E + e]);
            for (size_t e = 0; e < E; e++)
                cr_assert_float_eq((double)scores[t * E + e], exp((double)logits[t * E + e]) / sum,
                                   1e-5);
        }
        smoe_frozen_release(&frozen);
        fixture_free(&f);
    }
}

/* Adam's momentum must not move it, as it does where "frozen" only means "without a gradient". */
Test(frozen, no_step_of_the_optimizer_reaches_the_copy)
{
    for (int kind = 0; kind < 2; kind++) {
        struct fixture f = fixture_new(kind ? SMOE_FEATURE_LINEAR : SMOE_FEATURE_TABLE);
        struct smoe_optimizer adamw = {SMOE_ADAMW, 0.05, 0, 0.9, 0.999, 1e-8, 0, 1, 1};
        struct smoe_frozen frozen;
        float before[N * E], after[N * E];
        smoe_distilled_learn(&f.d, &f.tokens, 1, top, 1);
        smoe_distilled_step(&f.d, &adamw);
        cr_assert_eq(smoe_freeze_distilled(&f.d, &frozen), 0);
        uint64_t digest = frozen.digest;
        score_all(&frozen, &f.tokens, before);
        smoe_real *there = tensor_copy(f.d.n_params, f.d.params);
        adamw.t = 2;
        smoe_distilled_step(&f.d, &adamw);
        cr_assert_neq(memcmp(there, f.d.params, f.d.n_params * sizeof *there), 0);
        score_all(&frozen, &f.tokens, after);
        cr_assert_eq(memcmp(before, after, sizeof before), 0);
        cr_assert_eq(smoe_frozen_digest(frozen.kind, frozen.inputs, E, frozen.values), digest);
        free(there);
        smoe_frozen_release(&frozen);
        fixture_free(&f);
    }
}

Test(frozen, a_router_that_has_diverged_is_not_frozen)
{
    struct fixture f = fixture_new(SMOE_FEATURE_LINEAR);
    struct smoe_frozen frozen;
    f.d.params[0] = (smoe_real)INFINITY;
    cr_assert_eq(smoe_freeze_distilled(&f.d, &frozen), SMOE_ENOTFINITE);
    fixture_free(&f);
}
