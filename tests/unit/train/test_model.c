/* SPDX-License-Identifier: Apache-2.0
 *
 * The dense model against its definition in model.h. Gradients are in test_model_gradient.c.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/model/model.h"
#include "common/base/rng.h"
#include "common/kernels/gemm.h"
#include "tests/unit/kernels/tensors.h"

enum { N = 9, P = 6, D = 5, E = 4, K = 2, C = 3 };

static const struct smoe_model_shape SHAPE = {
    .pixels = P, .d_model = D, .experts = E, .top_k = K, .classes = C, .balance_weight = 0.5};
static const uint16_t labels[N] = {0, 1, 2, 2, 1, 0, 0, 1, 2};
static const uint16_t routes[N * K] = {0, 1, 3, 2, 1, 0, 2, 1, 0, 3, 1, 2, 2, 3, 0, 2, 3, 1};

struct fixture {
    struct smoe_model model;
    struct smoe_pass pass;
    smoe_real *x, *y;
};

static struct fixture fixture_new(const struct smoe_model_shape *shape)
{
    struct fixture f;
    smoe_gemm_setup();
    cr_assert_eq(smoe_model_init(&f.model, shape, 1), 0);
    cr_assert_eq(smoe_pass_init(&f.pass, shape, N), 0);
    free(f.model.params); /* biases too should be seen at work */
    f.model.params = tensor_normal(f.model.n_params, 2, 0.5);
    f.x = tensor_normal(N * P, 3, 1);
    f.y = tensor_normal((size_t)N * shape->top_k * D, 4, 1);
    return f;
}

static void fixture_free(struct fixture *f)
{
    smoe_model_release(&f->model);
    smoe_pass_release(&f->pass);
    free(f->x);
    free(f->y);
}

static const smoe_real *tensor_of(const struct smoe_model *model, const char *name)
{
    struct smoe_model_tensor tensors[SMOE_MODEL_TENSORS];
    smoe_model_tensors(&model->shape, tensors);
    for (size_t i = 0; i < SMOE_MODEL_TENSORS; i++)
        if (strcmp(tensors[i].name, name) == 0)
            return model->params + tensors[i].offset;
    cr_assert(false, "no tensor %s", name);
    return NULL;
}

Test(model, the_forward_pass_is_its_definition)
{
    struct fixture f = fixture_new(&SHAPE);
    struct smoe_model_result result;
    smoe_model_forward_gate(&f.model, &f.pass, N, f.x);
    smoe_model_forward_head(&f.model, &f.pass, routes, f.y, labels, &result);
    const smoe_real *encoder = tensor_of(&f.model, "encoder.weight");
    const smoe_real *encoder_bias = tensor_of(&f.model, "encoder.bias");
    const smoe_real *gate = tensor_of(&f.model, "gate.weight");
    const smoe_real *head = tensor_of(&f.model, "head.weight");
    const smoe_real *head_bias = tensor_of(&f.model, "head.bias");
    double loss = 0;
    for (size_t i = 0; i < N; i++) {
        smoe_real h[D], z[D];
        double g[E], sum = 0, used = 0, exps = 0, logits[C];
        for (size_t j = 0; j < D; j++)
            h[j] = (smoe_real)fmax(0, tensor_dot(P, encoder + j * P, f.x + i * P) +
                                          (double)encoder_bias[j]);
        for (size_t e = 0; e < E; e++)
            sum += g[e] = exp(tensor_dot(D, gate + e * D, h));
        for (size_t k = 0; k < K; k++)
            used += g[routes[i * K + k]];
        for (size_t j = 0; j < D; j++) {
            z[j] = h[j];
            for (size_t k = 0; k < K; k++)
                z[j] += (smoe_real)(g[routes[i * K + k]] / used) * f.y[(i * K + k) * D + j];
        }
        for (size_t e = 0; e < E; e++)
            cr_assert_float_eq((double)f.pass.gate[i * E + e], g[e] / sum, 1e-5);
        for (size_t c = 0; c < C; c++)
            exps += exp(logits[c] = tensor_dot(D, head + c * D, z) + (double)head_bias[c]);
        loss += (log(exps) - logits[labels[i]]) / N;
        for (size_t c = 0; c < C; c++)
            cr_assert_float_eq((double)f.pass.logits[i * C + c], logits[c], 1e-4);
    }
    cr_assert_float_eq(result.cross_entropy, loss, 1e-4);
    fixture_free(&f);
}

Test(model, the_gates_own_choice_is_reported_whatever_was_used)
{
    struct fixture f = fixture_new(&SHAPE);
    uint64_t count[E] = {0};
    smoe_model_forward_gate(&f.model, &f.pass, N, f.x);
    for (size_t i = 0; i < N; i++) {
        const smoe_real *g = f.pass.gate + i * E;
        const uint16_t *top = f.pass.top + i * K;
        cr_assert_neq(top[0], top[1]);
        for (size_t e = 0; e < E; e++) {
            cr_assert_eq(f.pass.scores[i * E + e], (float)g[e]);
            cr_assert(e == top[0] || e == top[1] || g[e] <= g[top[1]]);
        }
        count[top[0]]++;
        count[top[1]]++;
    }
    cr_assert_eq(memcmp(count, f.pass.popularity, sizeof count), 0);
    fixture_free(&f);
}

Test(model, the_balance_loss_is_alpha_when_all_is_even_and_more_when_not)
{
    struct fixture f = fixture_new(&SHAPE);
    struct smoe_model_result result;
    memset(f.model.params, 0, f.model.n_params * sizeof(smoe_real));
    smoe_model_forward_gate(&f.model, &f.pass, N, f.x);
    smoe_model_forward_head(&f.model, &f.pass, routes, f.y, labels, &result);
    cr_assert_float_eq(result.balance, 0.5, 1e-6); /* P = 1/E everywhere, whatever f */
    fixture_free(&f);
    f = fixture_new(&SHAPE);
    smoe_model_forward_gate(&f.model, &f.pass, N, f.x);
    smoe_model_forward_head(&f.model, &f.pass, routes, f.y, labels, &result);
    double want = 0;
    for (size_t i = 0; i < N; i++)
        for (size_t e = 0; e < E; e++)
            want += 0.5 * E * (double)f.pass.popularity[e] / (N * K) *
                    (double)f.pass.gate[i * E + e] / N;
    cr_assert_float_eq(result.balance, want, 1e-6);
    cr_assert_gt(want, 0.5);
    fixture_free(&f);
}

/* With one expert per token the weight is the gate itself, or the gate would learn nothing. */
Test(model, a_single_expert_is_weighted_by_its_gate)
{
    struct smoe_model_shape shape = SHAPE;
    shape.top_k = 1;
    struct fixture f = fixture_new(&shape);
    struct smoe_model_result result;
    smoe_model_forward_gate(&f.model, &f.pass, N, f.x);
    smoe_model_forward_head(&f.model, &f.pass, routes, f.y, labels, &result);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(f.pass.weights[i], f.pass.gate[i * E + routes[i]]);
    fixture_free(&f);
}

static bool all_finite(size_t n, const smoe_real *v)
{
    return isfinite(tensor_dot(n, v, v));
}

/* The router may leave a token experts that its gate gives nothing at all. */
Test(model, experts_with_no_gate_share_the_token_and_nothing_overflows)
{
    struct fixture f = fixture_new(&SHAPE);
    struct smoe_model_result result;
    smoe_real dy[N * K * D], dx[N * D] = {0};
    for (size_t i = 0; i < f.model.n_params; i++)
        f.model.params[i] *= 1000;
    uint16_t worst[N * K];
    smoe_model_forward_gate(&f.model, &f.pass, N, f.x);
    for (size_t i = 0; i < N; i++) {
        for (uint16_t e = 0, k = 0; k < K; e++)
            if (e != f.pass.top[i * K] && e != f.pass.top[i * K + 1])
                worst[i * K + k++] = e;
    }
    smoe_model_forward_head(&f.model, &f.pass, worst, f.y, labels, &result);
    smoe_model_backward_head(&f.model, &f.pass, f.y, dy);
    smoe_model_backward_gate(&f.model, &f.pass, dx);
    for (size_t i = 0; i < N; i++)
        cr_assert_float_eq((double)(f.pass.weights[i * K] + f.pass.weights[i * K + 1]), 1, 1e-6);
    cr_assert(isfinite(result.cross_entropy) && isfinite(result.balance));
    cr_assert(all_finite(N * K * D, dy) && all_finite(f.model.n_params, f.model.grads));
    fixture_free(&f);
}

static void pass_through(struct fixture *f)
{
    struct smoe_model_result result;
    smoe_real dy[N * K * D], *dx = tensor_normal(N * D, 5, 0.1);
    smoe_model_forward_gate(&f->model, &f->pass, N, f->x);
    smoe_model_forward_head(&f->model, &f->pass, routes, f->y, labels, &result);
    smoe_model_backward_head(&f->model, &f->pass, f->y, dy);
    smoe_model_backward_gate(&f->model, &f->pass, dx);
    free(dx);
}

Test(model, gradients_add_up_over_passes_until_a_step_takes_them)
{
    struct fixture f = fixture_new(&SHAPE);
    size_t n = f.model.n_params;
    pass_through(&f);
    smoe_real *once = tensor_copy(n, f.model.grads), *before = tensor_copy(n, f.model.params);
    pass_through(&f);
    for (size_t i = 0; i < n; i++)
        cr_assert_float_eq((double)f.model.grads[i], 2 * (double)once[i], 1e-5);
    struct smoe_optimizer sgd = {
        .kind = SMOE_SGD, .learning_rate = 0.5, .gradient_scale = 0.5, .t = 1};
    smoe_model_step(&f.model, &sgd);
    for (size_t i = 0; i < n; i++) {
        cr_assert_float_eq((double)f.model.params[i], (double)(before[i] - once[i] / 2), 1e-5);
        cr_assert_eq(f.model.grads[i], 0);
    }
    free(once);
    free(before);
    fixture_free(&f);
}

Test(model, a_batch_may_be_smaller_than_the_pass_or_empty)
{
    struct fixture f = fixture_new(&SHAPE);
    struct smoe_model_result result;
    smoe_real dy[N * K * D], dx[N * D] = {0};
    for (size_t n = 0; n <= 1; n++) {
        smoe_model_forward_gate(&f.model, &f.pass, n, f.x);
        smoe_model_forward_head(&f.model, &f.pass, routes, f.y, labels, &result);
        smoe_model_backward_head(&f.model, &f.pass, f.y, dy);
        smoe_model_backward_gate(&f.model, &f.pass, dx);
        cr_assert_eq(result.cross_entropy > 0, n == 1);
        cr_assert_eq(tensor_dot(f.model.n_params, f.model.grads, f.model.grads) > 0, n == 1);
    }
    fixture_free(&f);
}

Test(model, the_tensors_tile_the_parameters)
{
    struct smoe_model_tensor tensors[SMOE_MODEL_TENSORS];
    struct smoe_model model;
    size_t at = 0;
    smoe_model_tensors(&SHAPE, tensors);
    cr_assert_eq(smoe_model_init(&model, &SHAPE, 1), 0);
    for (size_t i = 0; i < SMOE_MODEL_TENSORS; i++) {
        cr_assert_eq(tensors[i].offset, at, "%s", tensors[i].name);
        at += tensors[i].rows * (tensors[i].columns ? tensors[i].columns : 1);
    }
    cr_assert_eq(at, model.n_params);
    smoe_model_release(&model);
    smoe_model_release(&model);
}

/* The contract: every machine and compiler starts from these bits. */
Test(model, initial_parameters_are_the_same_bits_everywhere)
{
    struct smoe_model model;
    uint64_t digest = 0;
    cr_assert_eq(smoe_model_init(&model, &SHAPE, 42), 0);
    for (size_t i = 0; i < model.n_params; i++) {
        float value = (float)model.params[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        digest = smoe_mix64(digest ^ bits);
    }
    cr_assert_eq(digest, UINT64_C(0x8f46195ffe2d9f34), "0x%016llx", (unsigned long long)digest);
    smoe_model_release(&model);
}

Test(model, visits_are_summed_per_token)
{
    const smoe_real visits[2 * 3 * 2] = {1, 2, 10, 20, 100, 200, 3, 4, 30, 40, 300, 400};
    smoe_real sum[4];
    smoe_visits_sum(2, 3, 2, visits, sum);
    cr_assert(sum[0] == 111 && sum[1] == 222 && sum[2] == 333 && sum[3] == 444);
    smoe_visits_sum(2, 1, 2, visits, sum);
    cr_assert(sum[0] == 1 && sum[3] == 20);
}
