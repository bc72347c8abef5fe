/* SPDX-License-Identifier: Apache-2.0
 *
 * Every gradient of the whole, dense model and experts, against central differences of the whole loss,
 * per tensor in relative L2, for every kind of gate, with and without patches and words. The routes are
 * fixed and not the gate's favourites, as when a router trades experts; the balance loss's f and c are
 * frozen, and so are the sets A_e of StableMoE's, as their definitions say. ReLUs are kept off their kinks by
 * biases that outweigh what comes in.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/model/local_moe.h"
#include "client/train/model/model.h"
#include "common/base/rng.h"
#include "common/kernels/gemm.h"
#include "tests/unit/kernels/tensors.h"

#ifdef STABLEMOE_FLOAT64
enum { STEP_EXPONENT = -16 };
static const double BOUND = 1e-7;
#else
enum { STEP_EXPONENT = -6 };
static const double BOUND = 1e-2;
#endif

enum { N = 6, P = 6, D = 5, H = 8, E = 5, C = 3, K_MAX = 4, V = 7, CONTEXT = 3 };

enum { GATE_TENSOR = 2 }; /* in smoe_model_tensors */

struct whole {
    struct smoe_model model;
    struct smoe_pass pass;
    struct smoe_local_moe moe;
    smoe_real *x, y[N * K_MAX * D], dy[N * K_MAX * D];
    uint16_t labels[N];
    uint16_t experts[N * K_MAX];
    double share[E];         /* frozen f */
    uint16_t top[N * K_MAX]; /* frozen: which tokens are in A_e */
    uint16_t words[N * CONTEXT];
};

static void forward(struct whole *w, struct smoe_model_result *ret)
{
    bool words = w->model.shape.vocabulary > 0;
    const smoe_real *x = words ? smoe_model_embed(&w->model, &w->pass, N, w->words) : w->x;
    smoe_model_forward_gate(&w->model, &w->pass, N, x);
    smoe_local_moe_forward(&w->moe, N, w->pass.h, w->experts, w->y);
    smoe_model_forward_head(&w->model, &w->pass, w->experts, w->y, w->labels, ret);
}

static double balance(const struct whole *w)
{
    size_t k = w->model.shape.top_k;
    double sum = 0;
    if (w->model.shape.gate == SMOE_GATE_SOFTMAX)
        for (size_t i = 0; i < (size_t)N * E; i++)
            sum += E * w->share[i % E] * (double)w->pass.gate[i] / N;
    if (w->model.shape.gate == SMOE_GATE_SIGMOID)
        for (size_t i = 0; i < (size_t)N * k; i++)
            sum += (E * w->share[w->top[i]] - 1) * (double)w->pass.gate[i / k * E + w->top[i]] / N;
    return w->model.shape.balance_weight * sum;
}

static double loss(struct whole *w)
{
    struct smoe_model_result result;
    forward(w, &result);
    return result.cross_entropy + balance(w);
}

static void backward(struct whole *w)
{
    struct smoe_model_result result;
    smoe_real dx_visits[N * K_MAX * D], dx[N * D];
    size_t k = w->model.shape.top_k;
    forward(w, &result);
    for (size_t e = 0; e < E; e++)
        w->share[e] = (double)w->pass.popularity[e] / (double)(N * k);
    memcpy(w->top, w->pass.top, N * k * sizeof *w->top);
    smoe_model_backward_head(&w->model, &w->pass, w->y, w->dy);
    smoe_local_moe_backward(&w->moe, w->dy, dx_visits);
    smoe_visits_sum(N, k, D, dx_visits, dx);
    smoe_model_backward_gate(&w->model, &w->pass, dx);
    cr_assert_float_eq(loss(w), result.cross_entropy + result.balance, 1e-6);
}

static void choose_routes(struct whole *w, size_t k)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 9, 9);
    for (size_t i = 0; i < N; i++) {
        uint16_t all[E] = {0, 1, 2, 3, 4};
        for (size_t j = 0; j < k; j++) {
            size_t pick = j + smoe_rng_below(&rng, E - j);
            w->experts[i * k + j] = all[pick];
            all[pick] = all[j];
        }
    }
}

static void fill(size_t n, smoe_real *to, uint64_t seed, double scale)
{
    smoe_real *values = tensor_normal(n, seed, scale);
    memcpy(to, values, n * sizeof *to);
    free(values);
}

/* `variant` may set gate, tokens and vocabulary; the rest is filled in. */
static void whole_init(struct whole *w, const struct smoe_model_shape *variant,
                       enum smoe_activation activation, uint32_t k)
{
    struct smoe_model_shape shape = *variant;
    shape.pixels = shape.vocabulary ? CONTEXT * D : P;
    shape.d_model = D;
    shape.experts = E;
    shape.top_k = k;
    shape.classes = C;
    shape.balance_weight = 0.5;
    shape.context = CONTEXT;
    struct smoe_ffn_shape expert = {D, H, activation};
    struct smoe_model_tensor tensors[SMOE_MODEL_TENSORS];
    smoe_gemm_setup();
    cr_assert_eq(smoe_model_init(&w->model, &shape, 1), 0);
    cr_assert_eq(smoe_pass_init(&w->pass, &shape, N), 0);
    cr_assert_eq(smoe_local_moe_init(&w->moe, &expert, E, k, N, 1, false), 0);
    w->x = tensor_normal(N * P, 2, 0.5);
    fill(w->model.n_params, w->model.params, 3, 0.2);
    fill(E * w->moe.n_params, w->moe.params, 4, 0.2);
    smoe_model_tensors(&shape, tensors);
    for (size_t j = 0; j < D; j++)
        w->model.params[tensors[1].offset + j] = j % 2 ? -2 : 2;
    for (size_t j = 0; j < (size_t)E * H && activation == SMOE_RELU; j++)
        w->moe.params[j / H * w->moe.n_params + smoe_ffn_layout(&expert).b_in + j % H] =
            j % 2 ? -4 : 4;
    for (size_t i = 0; i < N; i++)
        w->labels[i] = (uint16_t)(i % C);
    for (size_t i = 0; i < N * CONTEXT; i++)
        w->words[i] = (uint16_t)(i * 4 % V);
    choose_routes(w, k);
}

static void whole_release(struct whole *w)
{
    smoe_model_release(&w->model);
    smoe_pass_release(&w->pass);
    smoe_local_moe_release(&w->moe);
    free(w->x);
}

/* |g - difference| / |difference| over one tensor. */
static double error_of(struct whole *w, smoe_real *params, const smoe_real *grads, size_t n)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        smoe_real centre = params[i], step = (smoe_real)ldexp(1, STEP_EXPONENT);
        params[i] = centre + step;
        double up_at = (double)params[i], up = loss(w);
        params[i] = centre - step;
        double want = (up - loss(w)) / (up_at - (double)params[i]);
        params[i] = centre;
        off += ((double)grads[i] - want) * ((double)grads[i] - want);
        size += want * want;
    }
    cr_assert_gt(size, 0, "no gradient to compare with");
    return sqrt(off / size);
}

static void check_variant(const struct smoe_model_shape *variant, enum smoe_activation activation,
                          uint32_t k)
{
    static struct whole w;
    struct smoe_model_tensor tensors[SMOE_MODEL_TENSORS];
    whole_init(&w, variant, activation, k);
    smoe_model_tensors(&w.model.shape, tensors);
    backward(&w);
    for (size_t i = 0; i < SMOE_MODEL_TENSORS; i++) {
        size_t at = tensors[i].offset;
        size_t n = tensors[i].rows * (tensors[i].columns ? tensors[i].columns : 1);
        bool moves = n > 0 && !(w.model.shape.gate == SMOE_GATE_NONE && i == GATE_TENSOR);
        double error = moves ? error_of(&w, w.model.params + at, w.model.grads + at, n) : 0;
        cr_expect_leq(error, BOUND, "%s K=%u %s: %g", smoe_activation_name(activation), k,
                      tensors[i].name, error);
    }
    for (size_t e = 0; e < E; e++) {
        size_t at = e * w.moe.n_params;
        if (w.moe.first[e + 1] == w.moe.first[e])
            continue;
        double error = error_of(&w, w.moe.params + at, w.moe.grads + at, w.moe.n_params);
        cr_expect_leq(error, BOUND, "%s K=%u expert %zu: %g", smoe_activation_name(activation), k,
                      e, error);
    }
    whole_release(&w);
}

static void check(enum smoe_activation activation, uint32_t k)
{
    check_variant(&(struct smoe_model_shape){.gate = SMOE_GATE_SOFTMAX}, activation, k);
}

Test(model_gradient, sigmoid_gates_and_stablemoes_balance_loss)
{
    const struct smoe_model_shape variant = {.gate = SMOE_GATE_SIGMOID};
    check_variant(&variant, SMOE_GELU, 1);
    check_variant(&variant, SMOE_GELU, 2);
}

Test(model_gradient, no_gate_at_all_leaves_the_gates_matrix_alone)
{
    const struct smoe_model_shape variant = {.gate = SMOE_GATE_NONE};
    static struct whole w;
    check_variant(&variant, SMOE_GELU, 1);
    check_variant(&variant, SMOE_GELU, 3);
    whole_init(&w, &variant, SMOE_GELU, 2);
    backward(&w);
    struct smoe_model_tensor tensors[SMOE_MODEL_TENSORS];
    smoe_model_tensors(&w.model.shape, tensors);
    for (size_t i = 0; i < (size_t)E * D; i++)
        cr_assert_eq(w.model.grads[tensors[GATE_TENSOR].offset + i], 0);
    whole_release(&w);
}

Test(model_gradient, several_tokens_of_one_sample)
{
    check_variant(&(struct smoe_model_shape){.tokens = 3}, SMOE_GELU, 2);
    check_variant(&(struct smoe_model_shape){.tokens = 2, .gate = SMOE_GATE_SIGMOID}, SMOE_GELU, 1);
}

Test(model_gradient, words_and_their_embeddings)
{
    check_variant(&(struct smoe_model_shape){.vocabulary = V}, SMOE_GELU, 2);
    check_variant(&(struct smoe_model_shape){.vocabulary = V, .gate = SMOE_GATE_SIGMOID}, SMOE_GELU,
                  1);
}

Test(model_gradient, relu_experts)
{
    check(SMOE_RELU, 1);
    check(SMOE_RELU, 2);
    check(SMOE_RELU, 4);
}

Test(model_gradient, gelu_experts)
{
    check(SMOE_GELU, 1);
    check(SMOE_GELU, 2);
    check(SMOE_GELU, 4);
}

Test(model_gradient, swiglu_experts)
{
    check(SMOE_SWIGLU, 1);
    check(SMOE_SWIGLU, 2);
    check(SMOE_SWIGLU, 4);
}
